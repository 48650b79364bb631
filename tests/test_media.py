"""Clips: the pixels are those of a plain decode, the sound is where it was, and whatever is wrong is said in words."""

import pathlib
import shutil
import subprocess
import sys
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import hooked_av
from hooked_av.errors import HookedAVWarning, MediaError
from hooked_av.media import SAMPLING_RATE_HZ, Clip

BUNNY = pathlib.Path(hooked_av.__file__).parent / "data" / "bigbuckbunny.mp4"
CLICK_SECONDS = 1.3
SIZE = (48, 64)
FPS = 25
FASTSTART = {"movflags": "faststart"}
needs_bunny = pytest.mark.skipif(not BUNNY.is_file(), reason="bigbuckbunny.mp4 is not in hooked_av/data")


# ---- Makers ----


def moving_frames(n_frames: int, height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    """Every frame differs clearly from every other one."""
    rows, columns = np.mgrid[:height, :width]
    frames = [np.stack([columns * 3 + 5 * i, rows * 4 + 9 * i, np.full_like(rows, 4 * i)], -1) for i in range(n_frames)]
    return (np.array(frames) % 256).astype(np.uint8)


def click_waveform(seconds: float, rate_hz: int, at: float = CLICK_SECONDS) -> np.ndarray:
    waveform = np.zeros(round(seconds * rate_hz), np.float32)
    waveform[round(at * rate_hz) : round((at + 0.002) * rate_hz)] = 0.8
    return waveform


def add_sound(container, stream, waveform: np.ndarray, delay_seconds: float = 0.0) -> None:
    name, channels = stream.format.name, stream.layout.nb_channels
    scale, dtype = {"s16": (2**15 - 1, np.int16), "s32": (2**30, np.int32), "flt": (1, np.float32)}[name.rstrip("p")]
    samples = np.stack([waveform * scale] * channels).astype(dtype)
    n_samples = stream.codec_context.frame_size or 1024
    for first in range(0, len(waveform), n_samples):
        block = samples[:, first : first + n_samples]
        block = np.ascontiguousarray(block if name.endswith("p") else block.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(block, name, stream.layout.name)
        frame.sample_rate, frame.time_base = stream.rate, Fraction(1, stream.rate)
        frame.pts = first + round(delay_seconds * stream.rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_file(
    path,
    n_frames=60,
    video="libx264",
    audio="aac",
    rate_hz=44_100,
    layout="stereo",
    seconds=2.4,
    first=0,
    flags=None,
    delay=0.0,
):
    """A film through plain PyAV (not through our own writer), with B-frames and a keyframe every 12 frames."""
    with av.open(str(path), "w", options=flags or {}) as container:
        if video:
            options = {"bf": "2", "g": "12"} if video == "libx264" else {}
            picture = container.add_stream(video, rate=FPS, options=options)
            picture.height, picture.width, picture.pix_fmt = *SIZE, "yuv420p"
        if audio:
            sound = container.add_stream(audio, rate=rate_hz, layout=layout)
        for i, pixels in enumerate(moving_frames(n_frames if video else 0)):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = first + i, Fraction(1, FPS)
            container.mux(picture.encode(frame))
        if video:
            container.mux(picture.encode())
        if audio:
            add_sound(container, sound, click_waveform(seconds, rate_hz), delay)
    return path


def plain_decode(path) -> tuple[np.ndarray, np.ndarray]:
    """The reference: every frame, in order, without any seeking."""
    with av.open(str(path), metadata_errors="replace") as container:
        frames = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]
    return np.array([pixels for pixels, _ in frames]), np.array([seconds for _, seconds in frames])


def click_found_at(clip: Clip) -> float:
    """The middle of a click of 2 ms, as the centre of its energy; 0.001 less is where it begins."""
    energy = clip.waveform.astype(np.float64) ** 2
    return float((energy * np.arange(len(energy))).sum() / energy.sum() / SAMPLING_RATE_HZ - 0.001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def film(folder):
    return write_file(folder / "film.mp4")


@pytest.fixture(scope="module")
def film_frames(film):
    return plain_decode(film)


@pytest.fixture(scope="module")
def bunny_frames():
    return plain_decode(BUNNY)[0]


def arrays(n_frames=10, fps=5.0, seconds=2.0) -> Clip:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * 16_000)) / 16_000)
    return Clip.from_arrays(moving_frames(n_frames), fps, tone, 16_000)


def check_error(error: pytest.ExceptionInfo[MediaError], *words: str) -> None:
    """All four parts are there and the words occur in the message."""
    for part in (error.value.what, error.value.expected, error.value.got, error.value.next_step):
        assert str(part).strip()
    for word in words:
        assert word in str(error.value), f"{word!r} not in:\n{error.value}"


# ---- Pixels ----


@needs_bunny
def test_bunny_facts():
    clip = Clip.from_file(BUNNY)
    assert (clip.kind, clip.n_frames, clip.height, clip.width) == ("audiovisual", 132, 720, 1280)
    assert clip.fps == pytest.approx(25)
    assert clip.duration_seconds == pytest.approx(5.312, abs=1e-3)  # the sound; the picture ends at 5.28 s
    np.testing.assert_allclose(clip.frame_seconds, np.arange(132) / 25, atol=1e-9)
    assert repr(clip) == "Clip(audiovisual, 5.31 s, 132 frames of 1280x720 at 25 fps, sound of 5.31 s)"


@needs_bunny
@pytest.mark.parametrize("indices", [[131], [0], [77, 3, 77, 130, 4], [50, 49, 48], []])
def test_bunny_pixels(bunny_frames, indices):
    read = Clip.from_file(BUNNY).read_frames(indices)
    assert read.shape == (len(indices), 720, 1280, 3)
    np.testing.assert_array_equal(read, bunny_frames[np.array(indices, int)])


@needs_bunny
def test_bunny_sound_is_its_downmix():
    """5.1 becomes one channel by weights that sum to 1; an independent mix of the channels correlates."""
    with av.open(str(BUNNY), metadata_errors="replace") as container:
        channels = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    left, right, centre, _, back_left, back_right = channels
    mix = centre + np.sqrt(0.5) * (left + right) + 0.5 * (back_left + back_right)
    for weight in (np.sqrt(0.5), 0.5):  # of the back channels; FFmpeg's is one of the two
        mix = centre + np.sqrt(0.5) * (left + right) + weight * (back_left + back_right)
        wave = Clip.from_file(BUNNY).waveform
        reference = np.interp(np.arange(len(wave)) / 16_000, np.arange(len(mix)) / 48_000, mix)
        best = np.corrcoef(wave, reference)[0, 1]
        if best > 0.99:
            break
    assert best > 0.99
    assert np.abs(wave).max() <= np.abs(channels).max()


@settings(max_examples=40, deadline=None)
@given(indices=st.lists(st.integers(0, 59), max_size=12))
def test_any_frames_in_any_order(film, film_frames, indices):
    np.testing.assert_array_equal(Clip.from_file(film).read_frames(indices), film_frames[0][np.array(indices, int)])


def test_the_film_has_b_frames(film, film_frames):
    """Else the test above would not test them."""
    with av.open(str(film)) as container:
        ticks = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert ticks != sorted(ticks)
    np.testing.assert_allclose(Clip.from_file(film).frame_seconds, film_frames[1], atol=1e-9)


@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [
        ("a.mkv", "libx264", "aac"),
        ("a.ts", "libx264", "aac"),
        ("a.webm", "libvpx-vp9", "libopus"),
        ("a.avi", "mpeg4", "libmp3lame"),
    ],
)
def test_containers(tmp_path, name, video, audio):
    path = write_file(tmp_path / name, video=video, audio=audio, rate_hz=48_000)
    clip, (frames, seconds) = Clip.from_file(path), plain_decode(path)
    assert clip.n_frames == len(frames) == 60
    np.testing.assert_allclose(np.diff(clip.frame_seconds), np.diff(seconds), atol=1e-6)
    np.testing.assert_array_equal(clip.read_frames([59, 30, 0, 31]), frames[[59, 30, 0, 31]])


def test_hidden_vp8_frames(tmp_path):
    """VP8 has packets that only later frames refer to; here one is made by clearing its show_frame bit."""
    path = write_file(tmp_path / "a.webm", video="libvpx", audio=None)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    hidden = bytes([packets[20][0] & ~0x10]) + packets[20][1:]
    path.write_bytes(path.read_bytes().replace(packets[20], hidden))
    expected, seconds = plain_decode(path)
    assert len(expected) == 59
    clip = Clip.from_file(path)
    np.testing.assert_array_equal(clip.frames, expected)
    np.testing.assert_allclose(clip.frame_seconds, seconds, atol=1e-6)


@pytest.mark.parametrize("n_hidden", [5, 7, 14])
def test_edit_list_hides_frames(film, film_frames, tmp_path, n_hidden):
    """An edit list that begins some frames in: the packets before it are in the file, but are not shown."""
    data = bytearray(film.read_bytes())
    at = data.index(b"elst") + 4 + 8 + 4  # version, count; then segment duration
    media_time = int.from_bytes(data[at : at + 4], "big")
    data[at : at + 4] = (media_time + n_hidden * 512).to_bytes(4, "big")
    path = tmp_path / "edited.mp4"
    path.write_bytes(data)
    expected = plain_decode(path)[0]
    np.testing.assert_array_equal(expected[0], film_frames[0][n_hidden])
    clip = Clip.from_file(path)
    assert clip.n_frames == len(expected)
    np.testing.assert_array_equal(clip.frames, expected)


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_rotation(film, film_frames, tmp_path, quarter_turns):
    """The matrix of the track header turns the picture clockwise, as phones write it."""
    one, minus = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    zero, last = bytes(4), (1 << 30).to_bytes(4, "big")
    rows = {1: (zero, one, minus, zero), 2: (minus, zero, zero, minus), 3: (zero, minus, one, zero)}[quarter_turns]
    turned = rows[0] + rows[1] + zero + rows[2] + rows[3] + zero + zero + zero + last
    upright = one + zero * 3 + one + zero * 3 + last
    path = tmp_path / "turned.mp4"
    data = film.read_bytes()
    at = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    clip = Clip.from_file(path)
    assert (clip.height, clip.width) == (SIZE if quarter_turns == 2 else SIZE[::-1])
    np.testing.assert_array_equal(clip.read_frames([7])[0], np.rot90(film_frames[0][7], -quarter_turns))


# ---- Times ----


def test_picture_that_starts_late(tmp_path):
    clip = Clip.from_file(write_file(tmp_path / "late.mp4", first=10))
    np.testing.assert_allclose(clip.frame_seconds[:2], [0.4, 0.44], atol=1e-6)
    assert click_found_at(clip) == pytest.approx(CLICK_SECONDS, abs=1e-3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("start", [0.0, 0.2, 1.0])
def test_sound_that_starts_late(tmp_path, name, start):
    """The time before the sound is filled with zeros, so that sample / 16,000 is always the second of the clip."""
    path = write_file(tmp_path / name, delay=0.5, seconds=1.5)
    clip = Clip.from_file(path, start=start, stop=2.0)
    assert click_found_at(clip) == pytest.approx(CLICK_SECONDS + 0.5 - start, abs=1e-3)
    np.testing.assert_allclose(clip.waveform, Clip.from_file(path).cut(start, 2.0).waveform, atol=1e-4)


def test_downmix_keeps_the_loudness(tmp_path):
    """The same sound in all six channels is that sound; FFmpeg's own default would be 1.7 times louder."""
    path = write_file(tmp_path / "a.wav", video=None, audio="pcm_s16le", rate_hz=16_000, layout="5.1")
    assert np.abs(Clip.from_file(path).waveform).max() == pytest.approx(0.8, abs=1e-3)


def test_cover_picture_is_no_film(tmp_path):
    """A song with the picture of its album in the file is sound, not a film of one frame."""
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=44_100, layout="stereo")
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = *SIZE, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(moving_frames(1)[0], "rgb24")))
        container.mux(cover.encode())
        add_sound(container, sound, click_waveform(2.4, 44_100))
    assert Clip.from_file(path).kind == "audio"


@pytest.mark.parametrize("start", [0.0, 0.1234, 0.5, 1.25])
@pytest.mark.parametrize(("name", "rate_hz", "video", "audio"), [
    ("a.mp4", 44_100, "libx264", "aac"), ("a.mkv", 48_000, "libx264", "aac"),
    ("a.webm", 48_000, "libvpx-vp9", "libopus"),
    ("a.wav", 22_050, None, "pcm_s16le"), ("a.flac", 96_000, None, "flac"), ("a.mp3", 44_100, None, "libmp3lame"),
    ("a.ogg", 48_000, None, "libopus"), ("a.m4a", 44_100, None, "aac"),
])  # fmt: skip
def test_click_is_where_it_was(folder, start, name, rate_hz, video, audio):
    path = folder / f"click_{name}"
    if not path.exists():
        write_file(path, video=video, audio=audio, rate_hz=rate_hz)
    clip = Clip.from_file(path, start=start, stop=2.2)
    assert clip.kind == ("audiovisual" if video else "audio")
    assert len(clip.waveform) == pytest.approx((2.2 - start) * SAMPLING_RATE_HZ, abs=1)
    assert click_found_at(clip) == pytest.approx(CLICK_SECONDS - start, abs=1e-3)


def test_seeking_in_long_sound(tmp_path):
    """A start far enough in that the reader seeks, at a rate whose samples do not divide 16 kHz."""
    path = tmp_path / "long.m4a"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44_100, layout="mono")
        noise = np.random.default_rng(0).normal(0, 0.02, 44_100 * 20).astype(np.float32)
        add_sound(container, sound, noise + click_waveform(20, 44_100, at=15.7))
    whole = Clip.from_file(path).waveform
    for start in (15.0, 15.3):
        part = Clip.from_file(path, start=start, stop=16.1).waveform
        assert np.abs(part - whole[round(start * 16_000) : round(16.1 * 16_000)]).max() < 1e-3


def test_sound_shorter_than_picture(tmp_path):
    path = write_file(tmp_path / "short.mp4", seconds=1.5)
    clip = Clip.from_file(path)
    assert len(clip.waveform) == round(1.5 * 16_000)
    assert clip.duration_seconds == pytest.approx(2.4)
    with pytest.warns(HookedAVWarning, match="no sound from 1.8 s on"):
        assert Clip.from_file(path, start=1.8).kind == "video"
    with pytest.warns(HookedAVWarning, match="no sound from 1.8 s on"):
        assert not clip.cut(1.8).has_audio


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 59), n_frames=st.integers(1, 60))
def test_cuts_agree(film, film_frames, first, n_frames):
    """Cutting at reading and cutting afterwards give the same frames, times and samples: those in [start, stop)."""
    last = min(first + n_frames, 60)
    start, stop = first / FPS, last / FPS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HookedAVWarning)  # most of the film is silent
        from_file, cut = Clip.from_file(film, start, stop), Clip.from_file(film).cut(start, stop)
    assert from_file.n_frames == cut.n_frames == last - first
    np.testing.assert_allclose(from_file.frame_seconds, np.arange(last - first) / FPS, atol=1e-6)
    np.testing.assert_array_equal(cut.frame_seconds, from_file.frame_seconds)
    np.testing.assert_array_equal(from_file.read_frames([0]), film_frames[0][[first]])
    np.testing.assert_allclose(from_file.waveform, cut.waveform, atol=1e-4)
    assert from_file.duration_seconds == pytest.approx(stop - start, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 32_000), min_size=4, max_size=4, unique=True).map(sorted))
def test_a_cut_of_a_cut_is_a_cut(cuts):
    """On sample times: (a, d) then (b, c) equals (b, c)."""
    clip = Clip.from_arrays(waveform=np.linspace(-1, 1, 32_000), sampling_rate_hz=16_000)
    outer_start, start, stop, outer_stop = (cut / 16_000 for cut in cuts)
    nested = clip.cut(outer_start, outer_stop).cut(start - outer_start, stop - outer_start)
    np.testing.assert_array_equal(nested.waveform, clip.cut(start, stop).waveform)


def test_times_forgive_float_rounding():
    """0.1 * 3 is later than 0.3 in floating point; the frame at 0.3 s belongs to the cut all the same."""
    clip = arrays(40, 20.0).cut(0.1 * 3, 0.7)
    assert clip.n_frames == 8
    np.testing.assert_allclose(clip.frame_seconds, np.arange(8) / 20, atol=1e-9)


def test_stop_within_one_frame_past_the_end(film):
    assert Clip.from_file(film, stop=2.43).duration_seconds == pytest.approx(2.4)
    assert arrays().cut(1.0, 2.1).duration_seconds == pytest.approx(1.0)


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
    monkeypatch.setattr("hooked_av.media.os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
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


# ---- Errors ----


def cut_short(path, target, share=0.6):
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def cover_only(path):
    """A subtitle file: a format that opens, with nothing to see or hear."""
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    return path


def make_text(folder):
    path = folder / "text.mp4"
    path.write_text("This is no film.\n" * 100)
    return path


def make_empty(folder):
    path = folder / "empty.mp4"
    path.touch()
    return path


def make_png(folder):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "whole.png")
    return cut_short(folder / "whole.png", folder / "half.png")


def make_gray16(folder):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "gray16.png")
    return folder / "gray16.png"


@pytest.mark.parametrize(("make", "words"), [
    (lambda d: d / "none.mp4", ["no such file", "none.mp4"]),
    (lambda d: "https://example.org/a.mp4", ["no such file", "URL"]),
    (lambda d: d, ["folder"]),
    (make_empty, ["empty", "0 bytes"]),
    (make_text, ["cannot read", "text.mp4", "InvalidDataError"]),
    (lambda d: cover_only(d / "words.srt"), ["neither picture nor sound", "srt"]),
    (make_png, ["cannot read", "half.png"]),
    (make_gray16, ["8 bits", "gray16.png"]),
    (lambda d: cut_short(write_file(d / "w.mp4"), d / "t.mp4"), ["cannot read", "cut off"]),
    (lambda d: cut_short(write_file(d / "w.mp4", flags=FASTSTART), d / "t.mp4"), ["ends in the middle", "bytes"]),
    (lambda d: cut_short(write_file(d / "w.mkv"), d / "t.mkv"), ["ends in the middle", "2.4"]),
    (lambda d: cut_short(write_file(d / "w.wav", video=None, audio="pcm_s16le"), d / "t.wav"), ["ends in", "bytes"]),
    (lambda d: cut_short(write_file(d / "w.flac", video=None, audio="flac"), d / "t.flac"), ["cannot read", "cut off"]),
])  # fmt: skip
def test_file_errors(tmp_path, make, words):
    with pytest.raises(MediaError) as error:
        Clip.from_file(make(tmp_path))
    check_error(error, *words)


def test_damage_inside_a_film(folder, tmp_path):
    """The packets are all there and one of them is noise: found when its frame is read."""
    path = write_file(folder / "damaged.mp4", audio=None)
    with av.open(str(path)) as container:
        places = [
            (packet.pos, packet.size) for packet in container.demux(video=0) if packet.pos is not None and packet.size
        ]
    data = bytearray(path.read_bytes())
    position, size = places[30]
    data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    with pytest.raises(MediaError) as error:
        _ = Clip.from_file(path).frames
    check_error(error, "damaged.mp4", "ffmpeg -i")


def test_file_vanishes_before_reading(film, tmp_path):
    shutil.copy(film, tmp_path / "gone.mp4")
    clip = Clip.from_file(tmp_path / "gone.mp4")
    (tmp_path / "gone.mp4").unlink()
    with pytest.raises(MediaError) as error:
        _ = clip.frames
    check_error(error, "cannot read", "gone.mp4")


SPANS = [
    ((-1.0, None), ["start is outside", "start=-1.0"]),
    ((float("nan"), None), ["start is outside"]),
    ((2.5, None), ["start is outside", "2.400 s"]),
    ((1.0, 1.0), ["stop must be later", "stop=1.0"]),
    ((1.0, 0.5), ["stop must be later"]),
    ((1.0, float("nan")), ["stop must be later"]),
    ((0.0, 2.45), ["past the end", "2.400 s", "stop=2.45"]),
    ((0.01, 0.03), ["no frame appears between 0.01 s and 0.03 s", "60 frames"]),
]


@pytest.mark.parametrize(("span", "words"), SPANS)
def test_span_errors(film, span, words):
    for ask in (lambda: Clip.from_file(film, *span), lambda: Clip.from_file(film).cut(*span)):
        with pytest.raises(MediaError) as error:
            ask()
        check_error(error, *words)


def test_an_image_has_no_time(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for ask in (
        lambda: Clip.from_file(tmp_path / "a.png", stop=1.0),
        lambda: Clip.from_image(tmp_path / "a.png").cut(0, 1),
    ):
        with pytest.raises(MediaError) as error:
            ask()
        check_error(error, "image has no time")


def test_a_film_is_no_image(film):
    with pytest.raises(MediaError) as error:
        Clip.from_image(film)
    check_error(error, "an image in one of PNG")


TONE = np.full(100, 0.5)
HOLED = np.array([0.1, np.nan, 0.1])
FRAMES = moving_frames(2)


@pytest.mark.parametrize(("arguments", "words"), [
    ({}, ["neither frames nor waveform"]),
    ({"frames": FRAMES}, ["fps must be given", "fps=None"]),
    ({"frames": FRAMES, "fps": 0}, ["fps=0"]),
    ({"frames": FRAMES, "fps": float("nan")}, ["fps=nan"]),
    ({"frames": FRAMES / 255, "fps": 2}, ["no frames", "uint8", "float64"]),
    ({"frames": FRAMES[0], "fps": 2}, ["no frames", "[48, 64, 3]"]),
    ({"frames": np.moveaxis(FRAMES, -1, 1), "fps": 2}, ["[2, 3, 48, 64]", "moveaxis"]),
    ({"frames": FRAMES[:0], "fps": 2}, ["none of them 0"]),
    ({"waveform": TONE}, ["sampling rate", "sampling_rate_hz=None"]),
    ({"waveform": TONE, "sampling_rate_hz": 0}, ["sampling_rate_hz=0"]),
    ({"waveform": TONE, "sampling_rate_hz": 16}, ["sampling_rate_hz=16"]),
    ({"waveform": np.zeros((100, 2)), "sampling_rate_hz": 16_000}, ["at most 8 channels", "[100, 2]", "waveform.T"]),
    ({"waveform": np.zeros(0), "sampling_rate_hz": 16_000}, ["[0]"]),
    ({"waveform": np.zeros((1, 2, 3)), "sampling_rate_hz": 16_000}, ["[1, 2, 3]"]),
    ({"waveform": np.ones(9, np.int32), "sampling_rate_hz": 16_000}, ["int16, or float", "int32"]),
    ({"waveform": HOLED, "sampling_rate_hz": 16_000}, ["finite", "nan"]),
    ({"waveform": TONE * np.inf, "sampling_rate_hz": 16_000}, ["finite", "inf"]),
    ({"waveform": TONE * 20_000, "sampling_rate_hz": 16_000}, ["[-1, 1]", "10000"]),
])  # fmt: skip
def test_array_errors(arguments, words):
    with pytest.raises(MediaError) as error:
        Clip.from_arrays(**arguments)
    check_error(error, *words)


@pytest.mark.parametrize("indices", [[10], [-1], [0, 99]])
def test_frame_numbers_out_of_range(indices):
    with pytest.raises(MediaError) as error:
        arrays().read_frames(indices)
    check_error(error, "out of range", "0 to 9")


# ---- Warnings ----


def test_silence_is_said_once(tmp_path):
    with pytest.warns(HookedAVWarning, match="digital silence") as caught:
        clip = Clip.from_arrays(waveform=np.full(16_000, 5e-5), sampling_rate_hz=16_000)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays()
        assert clip.cut(0, 0.5).waveform.any()
    arrays().silenced().save(tmp_path / "silent.mp4")
    with pytest.warns(HookedAVWarning, match="silent.mp4 is digital silence"):
        assert Clip.from_file(tmp_path / "silent.mp4").has_audio


def test_import_needs_only_what_it_says():
    """media.py stands below torch: importing it must stay cheap."""
    code = "import sys, hooked_av.media; print('torch' in sys.modules, 'transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.split() == ["False", "False"]
