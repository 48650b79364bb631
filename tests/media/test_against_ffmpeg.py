"""Clips of files against an independent decoder: ffmpeg's own programs, and tones whose every sample is known.

The values are stored (`tests/data/reference/make_media.py` made them); where ffmpeg is installed, it decodes anew too.
"""

import importlib.util
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
SPEC = importlib.util.spec_from_file_location("make_media", REFERENCE / "make_media.py")
assert SPEC
assert SPEC.loader
make_media = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_media)

LEVELS, MEAN_LEVELS = 6, 1.0  # by which pixels may differ: colours are converted by another version of swscale
MORE_LEVELS = {"ten_bits.mp4": (32, 3.0)}  # versions put colours of 10 bits at other places between the pixels
SECONDS = 1.1e-3  # by which times may differ: Matroska rounds to 1 ms, and its sound starts 1 ms late or early
SOUND_ERROR = 0.02  # of the root mean square: another resampling filter, another version of a lossy decoder
INSTALLED = pytest.param("ffmpeg", marks=pytest.mark.skipif(not shutil.which("ffprobe"), reason="no ffmpeg here"))


@pytest.fixture(scope="module")
def stored():
    with np.load(REFERENCE / "media.npz") as file:
        return dict(file)


def reference(origin: str, name: str, stored) -> dict[str, np.ndarray]:
    if origin == "ffmpeg":
        return make_media.thin(make_media.decoded(make_media.FOLDER / name))
    return {key.partition("/")[2]: value for key, value in stored.items() if key.partition("/")[0] == name}


def loaded(name: str, *span: float) -> Clip:
    return Clip.from_file(make_media.FOLDER / name, *span)


@pytest.mark.parametrize("name", make_media.FILMS)
@pytest.mark.parametrize("origin", ["stored", INSTALLED])
class TestFilms:
    def test_frames(self, origin, name, stored):
        known, frames = reference(origin, name, stored), loaded(name).frames
        assert frames.shape == tuple(known["shape"])
        check_pixels(frames, known["frames"], name)

    def test_times(self, origin, name, stored):
        known = reference(origin, name, stored)
        np.testing.assert_allclose(loaded(name).frame_seconds, known["seconds"], atol=SECONDS)

    def test_a_part_off_the_keyframes(self, origin, name, stored):
        """[start, stop) in the middle, some frames after one keyframe and before another."""
        known = reference(origin, name, stored)
        seconds = known["seconds"]
        first, last = len(seconds) // 3, len(seconds) - 2
        part = loaded(name, float(seconds[first]) - 2 * SECONDS, float(seconds[last]) - 2 * SECONDS)
        check_pixels(part.frames, known["frames"][first:last], name)
        np.testing.assert_allclose(np.diff(part.frame_seconds), np.diff(seconds[first:last]), atol=2 * SECONDS)

    def test_sound(self, origin, name, stored):
        known = reference(origin, name, stored)
        if "sound" not in known:
            assert not loaded(name).has_audio
            return
        clip = loaded(name)
        lead = round(float(known["sound_start"]) * SAMPLING_RATE_HZ)
        check_sound(clip.waveform, known, lead)
        first = SAMPLING_RATE_HZ // 2 + lead
        part = loaded(name, first / SAMPLING_RATE_HZ, 1.0).waveform
        np.testing.assert_allclose(part, clip.waveform[first : first + len(part)], atol=1e-3)


def check_pixels(frames: np.ndarray, known: np.ndarray, name: str) -> None:
    levels, mean_levels = MORE_LEVELS.get(name, (LEVELS, MEAN_LEVELS))
    difference = np.abs(frames[:, :: make_media.STEP, :: make_media.STEP].astype(int) - known)
    assert difference.max() <= levels
    assert difference.mean() <= mean_levels


def check_sound(waveform: np.ndarray, known: dict[str, np.ndarray], lead: int) -> None:
    assert len(waveform) == pytest.approx(int(known["n_samples"]) + lead, abs=SAMPLING_RATE_HZ // 50)
    wanted = known["sound"].astype(np.float64)
    found = waveform[lead :: make_media.SOUND_STEP][: len(wanted)]
    wanted = wanted[: len(found)]
    error = np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean())
    assert error < SOUND_ERROR


# ---- Resampling, against the tone itself ----


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("tone_hz", [50.0, 440.0, 3_000.0])
def test_a_tone_keeps_its_amplitude_and_its_place(tmp_path, rate_hz, tone_hz):
    """0.5 sin(2 pi f t): fitted by least squares, the sine has 0.5 and the cosine (a delay) nothing."""
    seconds = np.arange(rate_hz) / rate_hz
    path = written(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * tone_hz * seconds), rate_hz)
    waveform = Clip.from_file(path).waveform
    assert len(waveform) == SAMPLING_RATE_HZ
    middle = np.arange(1_000, 15_000)
    angle = 2 * np.pi * tone_hz * middle / SAMPLING_RATE_HZ
    (sine, cosine), *_ = np.linalg.lstsq(np.stack([np.sin(angle), np.cos(angle)], 1), waveform[middle], rcond=None)
    assert sine == pytest.approx(0.5, abs=2e-3)
    assert cosine == pytest.approx(0.0, abs=2e-3)
    rest = waveform[middle] - sine * np.sin(angle) - cosine * np.cos(angle)
    assert np.abs(rest).max() < 2e-3


@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 48_000, 96_000])
def test_what_16_khz_cannot_hold_is_gone(tmp_path, rate_hz):
    """A tone of 9.5 kHz does not come back as one of 6.5 kHz."""
    tone = 0.5 * np.sin(2 * np.pi * 9_500 * np.arange(rate_hz) / rate_hz)
    waveform = Clip.from_file(written(tmp_path / "x.wav", tone, rate_hz)).waveform
    assert np.abs(waveform[1_000:-1_000]).max() < 2e-3


def test_two_channels_are_averaged(tmp_path):
    left = np.full(16_000, 0.6)
    path = written(tmp_path / "x.wav", np.stack([left, left / 3], 1).ravel(), 16_000, n_channels=2)
    np.testing.assert_allclose(Clip.from_file(path).waveform, 0.4, atol=1e-4)


def written(path: Path, samples: np.ndarray, rate_hz: int, n_channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(n_channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples * 32_767).round().astype("<i2").tobytes())
    return path
