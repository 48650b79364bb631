"""Clips that are saved, made of images and arrays, and edited: what comes back is what went in."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.media import BUNNY, SIZE, arrays, check_error, moving_frames, needs_bunny, write_file

from hooked_av.errors import MediaError
from hooked_av.media.clip import Clip


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("media") / "film.mp4")


# ---- Saving ----


@needs_bunny
def test_save_and_load(tmp_path):
    """What holds for H.264 + AAC: the same frames at the same times (to 0.1 ms), sound at lag 0 to the sample."""
    clip = Clip.from_file(BUNNY, start=1.0, stop=2.0)
    clip.save(tmp_path / "saved.mp4")
    loaded = Clip.from_file(tmp_path / "saved.mp4")
    assert (loaded.n_frames, loaded.height, loaded.width) == (25, 720, 1280)
    np.testing.assert_allclose(loaded.frame_seconds, clip.frame_seconds, atol=1e-4)
    difference = loaded.read_frames([0, 24]).astype(int) - clip.read_frames([0, 24])
    assert np.abs(difference).mean() < 3
    assert len(loaded.waveform) == len(clip.waveform) == 16_000
    lags = range(-16, 17)
    correlations = [np.corrcoef(np.roll(loaded.waveform, lag), clip.waveform)[0, 1] for lag in lags]
    assert lags[int(np.argmax(correlations))] == 0
    assert max(correlations) > 0.99
    assert list(tmp_path.iterdir()) == [tmp_path / "saved.mp4"]


def test_save_uneven_times_and_single_parts(tmp_path):
    clip = arrays(10, 5.0).cut(0.3, 2.0)
    clip.save(tmp_path / "late.mp4")
    np.testing.assert_allclose(Clip.from_file(tmp_path / "late.mp4").frame_seconds, clip.frame_seconds, atol=1e-4)
    clip.without_audio().save(tmp_path / "mute.mp4")
    assert Clip.from_file(tmp_path / "mute.mp4").kind == "video"
    clip.without_video().save(tmp_path / "sound.mp4")
    assert Clip.from_file(tmp_path / "sound.mp4").kind == "audio"


def test_save_replaces_only_when_complete(tmp_path, monkeypatch):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"before")
    monkeypatch.setattr("hooked_av.whole_files.os.replace", lambda *_: 1 / 0)
    with pytest.raises(MediaError, match=r"cannot write(.|\n)*ZeroDivisionError"):
        arrays().save(path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize(("make", "name", "words"), [
    (arrays, "x.avi", [".mp4"]),
    (arrays, "none/x.mp4", ["folder"]),
    (lambda: Clip.from_arrays(moving_frames(4, 47, 64), 2), "x.mp4", ["even", "64x47"]),
    (lambda: Clip.from_image(moving_frames(1)[0]), "x.mp4", ["image", "Pillow"]),
])  # fmt: skip
def test_save_errors(tmp_path, make, name, words):
    with pytest.raises(MediaError) as error:
        make().save(tmp_path / name)
    check_error(error, *words)
    assert not list(tmp_path.iterdir())


# ---- Images ----


def test_images(tmp_path):
    pixels = moving_frames(2)[1]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    clip = Clip.from_file(tmp_path / "a.png")
    assert (clip.kind, clip.n_frames, clip.fps, clip.duration_seconds) == ("image", 1, None, 0.0)
    np.testing.assert_array_equal(clip.frames[0], pixels)
    assert Clip.from_file(tmp_path / "a.jpg").kind == "image"
    np.testing.assert_array_equal(Clip.from_image(tmp_path / "a.png").frames, Clip.from_image(pixels).frames)


def test_image_turned_and_transparent(tmp_path):
    pixels = moving_frames(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(Clip.from_image(tmp_path / "turned.png").frames[0], np.rot90(pixels, -1))
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (Clip.from_image(tmp_path / "clear.png").frames == 255).all()


# ---- Arrays and edits ----


@settings(max_examples=25, deadline=None)
@given(rate_hz=st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000]), seconds=st.integers(1, 3),
       channels=st.integers(0, 8), integers=st.booleans())  # fmt: skip
def test_resampling_keeps_time_and_loudness(rate_hz, seconds, channels, integers):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(seconds * rate_hz) / rate_hz)
    tone = (tone * 32_768).astype(np.int16) if integers else tone
    waveform = np.stack([tone] * channels) if channels else tone
    clip = Clip.from_arrays(waveform=waveform, sampling_rate_hz=rate_hz)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(seconds * 16_000) / 16_000)
    assert clip.waveform.dtype == np.float32
    assert len(clip.waveform) == len(expected)
    assert np.abs(clip.waveform - expected)[200:-200].max() < 1e-3


@given(n_samples=st.integers(1, 50), rate_hz=st.integers(1_000, 200_000))
@settings(max_examples=30, deadline=None)
def test_tiny_sounds(n_samples, rate_hz):
    clip = Clip.from_arrays(waveform=np.full(n_samples, 0.5), sampling_rate_hz=rate_hz)
    assert len(clip.waveform) == pytest.approx(n_samples * 16_000 / rate_hz, abs=1)


def test_different_channels_are_averaged():
    clip = Clip.from_arrays(waveform=np.stack([np.full(100, 0.5), np.full(100, -0.1)]), sampling_rate_hz=16_000)
    np.testing.assert_allclose(clip.waveform, 0.2, atol=1e-6)


def test_clip_owns_its_values():
    frames, tone = moving_frames(4), np.full(1_600, 0.5, np.float32)
    clip = Clip.from_arrays(frames, 2, tone, 16_000)
    before = clip.frames, np.array(clip.waveform)
    frames[:], tone[:] = 0, 0
    clip.frames[:], clip.waveform[:], clip.frame_seconds[:] = 0, 0, 9
    np.testing.assert_array_equal(clip.frames, before[0])
    np.testing.assert_array_equal(clip.waveform, before[1])
    np.testing.assert_array_equal(clip.frame_seconds, [0, 0.5, 1, 1.5])


def test_edits(film, tmp_path):
    clip, other = Clip.from_file(film), arrays()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent, black = clip.silenced(), clip.blanked()
    assert not silent.waveform.any()
    assert len(silent.waveform) == len(clip.waveform)
    np.testing.assert_array_equal(silent.frames, clip.frames)
    assert not black.frames.any()
    assert black.frames.shape == clip.frames.shape
    np.testing.assert_array_equal(black.frame_seconds, clip.frame_seconds)
    assert black.fps == clip.fps
    np.testing.assert_array_equal(black.waveform, clip.waveform)
    assert black.cut(1.0, 2.0).frames.shape == clip.cut(1.0, 2.0).blanked().frames.shape == (25, *SIZE, 3)
    assert (clip.without_audio().kind, clip.without_video().kind) == ("video", "audio")
    np.testing.assert_array_equal(clip.with_audio(other).waveform, other.waveform)
    np.testing.assert_array_equal(other.with_audio(film).waveform, clip.waveform)
    np.testing.assert_allclose(clip.with_audio(other.waveform, 16_000).waveform, other.waveform)
    swapped = clip.with_frames(other.frames, 5)
    np.testing.assert_array_equal(swapped.frames, other.frames)
    np.testing.assert_array_equal(swapped.waveform, clip.waveform)
    assert clip.n_frames == 60
    assert clip.has_audio


def test_edits_need_what_they_edit():
    mute, sound = arrays().without_audio(), arrays().without_video()
    for ask in (lambda: mute.waveform, mute.silenced, mute.without_video, lambda: arrays().with_audio(mute)):
        with pytest.raises(MediaError) as error:
            ask()
        check_error(error, "no sound track", "clip.with_audio")
    for ask in (
        lambda: sound.frames,
        lambda: sound.height,
        lambda: sound.frame_seconds,
        sound.blanked,
        sound.without_audio,
    ):
        with pytest.raises(MediaError) as error:
            ask()
        check_error(error, "no picture", "clip.with_frames")


def test_reprs():
    assert repr(arrays()) == "Clip(audiovisual, 2.00 s, 10 frames of 64x48 at 5 fps, sound of 2.00 s)"
    assert repr(Clip.from_image(moving_frames(1)[0])) == "Clip(image, 1 frame of 64x48)"
    assert repr(arrays().without_video()) == "Clip(audio, 2.00 s, sound of 2.00 s)"
