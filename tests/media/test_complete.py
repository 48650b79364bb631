"""Files cut off in formats whose container declares no size: what can be known is said, and whole ones are read."""

import av as pyav
import numpy as np
import pytest
from support.media import moving_frames, write_file

from hooked_av.errors import MediaError
from hooked_av.media.clip import Clip
from hooked_av.media.complete import _last_frame_is_whole, _real_media_bytes

pytestmark = pytest.mark.filterwarnings("ignore:the sound of .* is digital silence")
ROWS_OF_FRAMES = {
    "x.ac3": "ac3", "x.eac3": "eac3", "x.mp2": "mp2", "x.mp3": "libmp3lame", "x.aac": "aac", "x.flac": "flac"
}  # fmt: skip
FILMS = {
    "x.mpg": ("mpeg2video", "mp2"), "x.rm": ("rv10", "ac3"), "x.ivf": ("libvpx", None), "x.wmv": ("wmv2", "ac3")
}  # fmt: skip


def sound(folder, name):
    flags = {"write_xing": "0"} if name == "x.mp3" else None
    return write_file(folder / name, video=None, audio=ROWS_OF_FRAMES[name], rate_hz=48_000, seconds=1.5, flags=flags)


def film(folder, name):
    video, audio = FILMS[name]
    return write_file(folder / name, n_frames=12, seconds=0.5, video=video, audio=audio, rate_hz=48_000)


def y4m(folder):
    path = folder / "x.y4m"
    frames = [b"FRAME\n" + frame.tobytes()[: 64 * 48 * 3 // 2] for frame in moving_frames(5)]
    path.write_bytes(b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg\n" + b"".join(frames))
    return path


def dv(folder):
    path = folder / "x.dv"
    with pyav.open(str(path), "w") as container:
        stream = container.add_stream("dvvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        for pixels in moving_frames(3, 576, 720):
            container.mux(stream.encode(pyav.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return path


def cut_to(path, n_bytes):
    path.write_bytes(path.read_bytes()[:n_bytes])
    return path


def refused(path):
    try:
        Clip.from_file(path)
    except MediaError:
        return True
    return False


@pytest.mark.parametrize("name", ROWS_OF_FRAMES)
@pytest.mark.parametrize("missing", [1, 5, 9])
def test_a_last_frame_that_is_not_whole(tmp_path, name, missing):
    path = sound(tmp_path, name)
    assert Clip.from_file(path).duration_seconds == pytest.approx(1.5, abs=0.05)
    assert refused(cut_to(path, path.stat().st_size - missing))


@pytest.mark.parametrize("tag", [b"TAG" + bytes(125), b"APETAGEX" + bytes([208, 7, 0, 0, 32]) + bytes(19)])
@pytest.mark.parametrize("name", ["x.mp3", "x.mp2", "x.aac"])
def test_a_tag_behind_the_last_frame_is_no_frame(tmp_path, name, tag):
    path = sound(tmp_path, name)
    path.write_bytes(path.read_bytes() + tag)
    assert Clip.from_file(path).duration_seconds == pytest.approx(1.5, abs=0.05)


def test_between_two_frames_nobody_can_tell(tmp_path):
    """A known limit (docs/not_silent.md); a frame of this file has 768 bytes."""
    path = sound(tmp_path, "x.ac3")
    n_frames = path.stat().st_size // 768
    found = [refused(cut_to(path, n_bytes)) for n_bytes in (768 * n_frames - 384, 768 * (n_frames - 1))]
    assert found == [True, False]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("name", FILMS)
def test_films(tmp_path, name, share):
    path = film(tmp_path, name)
    assert Clip.from_file(path).frames.shape[0] == 12
    assert refused(cut_to(path, int(path.stat().st_size * share) | 1))


@pytest.mark.parametrize("make", [y4m, dv])
@pytest.mark.parametrize("missing", [1, 700, 4_613])
def test_pictures_of_one_size(tmp_path, make, missing):
    path = make(tmp_path)
    assert Clip.from_file(path).frames.shape[0] == (5 if make is y4m else 3)
    assert refused(cut_to(path, path.stat().st_size - missing))


@pytest.mark.parametrize("name", ["x.flac", "x.ac3", "x.mp3"])
def test_what_was_written_into_a_pipe_declares_nothing_and_is_read(tmp_path, name):
    class Pipe:
        def __init__(self):
            self.parts = []

        def write(self, part):
            self.parts.append(bytes(part))
            return len(part)

    pipe, form = Pipe(), name.removeprefix("x.")
    with pyav.open(pipe, "w", format=form, options={"write_xing": "0"} if form == "mp3" else {}) as container:
        stream = container.add_stream(ROWS_OF_FRAMES[name], rate=48_000, layout="mono")
        samples = np.sin(np.arange(48_000) / 10).astype(np.float32)[None] / 2
        frame = pyav.AudioFrame.from_ndarray(samples, "fltp", "mono")
        frame.sample_rate = 48_000
        resampler = pyav.AudioResampler(stream.format, "mono", 48_000, stream.codec_context.frame_size or 1152)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    path = tmp_path / name
    path.write_bytes(b"".join(pipe.parts))
    assert Clip.from_file(path).duration_seconds == pytest.approx(1.0, abs=0.06)


def test_a_track_of_time_codes_has_no_codec(tmp_path):
    """Most cameras write one."""
    path = tmp_path / "x.mov"
    with pyav.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.metadata["timecode"] = "01:00:00:00"
        for pixels in moving_frames(5):
            container.mux(stream.encode(pyav.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    with pyav.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "data"]
    assert Clip.from_file(path).frames.shape[0] == 5


def test_a_sox_file_says_how_many_samples_it_has(tmp_path):
    path = write_file(tmp_path / "x.sox", video=None, audio="pcm_s32le", rate_hz=16_000, seconds=1.0)
    assert Clip.from_file(path).duration_seconds == pytest.approx(1.0, abs=0.05)
    assert refused(cut_to(path, path.stat().st_size - 400))


def test_a_real_media_head_without_packets_declares_nothing():
    head = b".RMF" + (18).to_bytes(4, "big") + bytes(10)
    assert _real_media_bytes(head + b"CONT" + (20).to_bytes(4, "big") + bytes(12)) == 0
    assert _real_media_bytes(head + b"DATA" + (900).to_bytes(4, "big")) == 18 + 900 - 18


def test_what_does_not_begin_as_frames_do_is_no_frame(tmp_path):
    """FFmpeg hands on tags as packets of their own in some formats."""
    packets = []
    for name in ("x.mp3", "x.ac3"):
        with pyav.open(str(sound(tmp_path, name))) as container:
            packets += list(container.demux())[:2]
    first, second, other, _ = packets
    assert _last_frame_is_whole(first, second)
    assert _last_frame_is_whole(first, other)
