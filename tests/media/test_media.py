"""Clips of files: the pixels are those of a plain decode, the sound is where it was, and times and cuts agree."""

import subprocess
import sys
import warnings

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.media import (
    BUNNY,
    CLICK_SECONDS,
    FPS,
    SIZE,
    add_sound,
    arrays,
    click_waveform,
    moving_frames,
    needs_bunny,
    write_file,
)

from hooked_av.errors import HookedAVWarning
from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip


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


# ---- Import ----


def test_import_needs_only_what_it_says():
    """media/clip.py stands below torch: importing it must stay cheap."""
    code = "import sys, hooked_av.media.clip; print('torch' in sys.modules, 'transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.split() == ["False", "False"]


def test_a_relative_path_outlives_the_working_folder(tmp_path, monkeypatch):
    write_file(tmp_path / "film.mp4")
    monkeypatch.chdir(tmp_path)
    clip = Clip.from_file("film.mp4")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert clip.frames.shape == (60, *SIZE, 3)


def test_a_link_is_read_as_its_file(film, film_frames, tmp_path):
    (tmp_path / "link.mp4").symlink_to(film)
    np.testing.assert_array_equal(Clip.from_file(tmp_path / "link.mp4").frames, film_frames[0])


def test_any_layout_of_an_array_is_the_array(tmp_path):
    """Strided, read-only, of another byte order, or a subclass: what counts are the numbers."""
    frames, tone = moving_frames(6), np.sin(np.arange(8_000) / 9) / 2
    wanted = Clip.from_arrays(frames[::2, ::-1], 4, tone[::2], 8_000)
    fixed = np.ascontiguousarray(frames[::2, ::-1])
    fixed.flags.writeable = False
    for kind in (">f8", "<f4", ">f4", "<f8"):
        clip = Clip.from_arrays(fixed, np.float64(4), tone[::2].astype(kind), 8_000)
        np.testing.assert_array_equal(clip.frames, wanted.frames)
        np.testing.assert_allclose(clip.waveform, wanted.waveform, atol=1e-6)
    matrix = Clip.from_arrays(waveform=tone[None, ::2].view(np.matrix), sampling_rate_hz=8_000)
    np.testing.assert_array_equal(matrix.waveform, wanted.waveform)


def test_an_array_given_is_not_the_array_kept():
    frames, tone = moving_frames(2), np.full(8_000, 0.1, np.float32)
    clip = Clip.from_arrays(frames, 4, tone, 16_000)
    frames[:], tone[:] = 0, 0
    assert clip.frames.any()
    assert clip.waveform.all()


@pytest.mark.parametrize("peak", [1.0, 1.5, 2.0])
def test_float_files_obey_the_rule_of_arrays(tmp_path, peak):
    """What arrays may hold, files may; what is over 1 is cut to 1, as decoders' overshoot is."""
    path = tmp_path / "x.wav"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_f32le", rate=16_000, layout="mono")
        add_sound(container, sound, click_waveform(1.5, 16_000) * np.float32(peak / 0.8))
    assert np.abs(Clip.from_file(path).waveform).max() == pytest.approx(1.0, abs=1e-6)


def test_a_jpeg_with_more_pictures_in_it_is_its_first(tmp_path):
    """Phones store previews and depth behind the photograph (MPO)."""
    first, second = (Image.fromarray(frame) for frame in moving_frames(2))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    clip = Clip.from_file(tmp_path / "a.jpg")
    assert clip.kind == "image"
    np.testing.assert_allclose(clip.frames[0], np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB")))
