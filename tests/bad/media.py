"""Files, spans of time, arrays, pictures and sampling values that are no clip."""

import os
import struct
import zlib
from contextlib import contextmanager
from fractions import Fraction
from functools import partial

import av as pyav
import numpy as np
import pytest
from PIL import Image
from support.media import arrays, moving_frames, write_file

import hooked_av as av
from bad import Bad

NOBODY = 65_534
TONE = np.sin(np.arange(4_000) / 10).astype(np.float32) / 2
FRAMES = moving_frames(4)


def load(at, path):
    return av.Clip.from_file(path)


def _written(name: str, content: bytes):
    def make(at):
        (at.folder / name).write_bytes(content)
        return at.folder / name

    return make


# ---- Makers: what lies in the folder before ----


def wav(at, samples=TONE, rate_hz=16_000, n_channels=1):
    """Through no library, so that any number can be in it: float32 or float64 samples, or int16."""
    kind, width = (1 if samples.dtype == np.int16 else 3), samples.dtype.itemsize
    row = n_channels * width
    head = struct.pack("<HHIIHH", kind, n_channels, rate_hz, rate_hz * row % 2**32, row, 8 * width)
    data = np.repeat(samples, n_channels).tobytes()
    chunks = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(data)) + data
    path = at.folder / "x.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    return path


def tone_with(value, at_sample=2_000, dtype=np.float32):
    samples = TONE.astype(dtype)
    samples[at_sample] = value
    return samples


def film(at, name="x.mp4", **how):
    return write_file(at.folder / name, **{"n_frames": 24, "seconds": 1.0, **how})


def clip_and_film(at):
    path = film(at)
    return av.Clip.from_file(path), path


def cut_short(make, share=0.6):
    def made(at):
        path = make(at)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share) | 1])
        return path

    return made


def pictures(at, name, n=1, size=(32, 24), **how):
    images = [Image.fromarray(frame) for frame in moving_frames(n, *size[::-1])]
    images[0].save(at.folder / name, save_all=n > 1, append_images=images[1:], **how)
    return at.folder / name


def huge_png(at):
    """The head of one says 60,000 x 60,000."""
    path = pictures(at, "x.png")
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


def jpeg_stream(at):
    path = pictures(at, "x.jpg")
    path.write_bytes(path.read_bytes() * 3)
    return path


def two_rates(at):
    first = film(at, "a.mp3", video=None, audio="libmp3lame", rate_hz=44_100, flags={"write_xing": "0"})
    second = film(at, "b.mp3", video=None, audio="libmp3lame", rate_hz=22_050, flags={"write_xing": "0"})
    (at.folder / "x.mp3").write_bytes(first.read_bytes() + second.read_bytes())
    return at.folder / "x.mp3"


def loop(at):
    (at.folder / "x.mp4").symlink_to(at.folder / "x.mp4")
    return at.folder / "x.mp4"


def nowhere(at):
    (at.folder / "x.mp4").symlink_to(at.folder / "gone.mp4")
    return at.folder / "x.mp4"


def pipe(at):
    os.mkfifo(at.folder / "x.mp4")
    return at.folder / "x.mp4"


# ---- What changes after the clip was made ----


def reading_after(change):
    """The clip is made of a film, `change(path)` happens, and then its pictures are read."""

    def make(at):
        clip, path = clip_and_film(at)
        change(path)
        return clip

    return make


def replaced(path):
    """By another film of the same length, which only its inode gives away."""
    state, data = path.stat(), path.read_bytes()
    path.with_name("other").write_bytes(bytes(len(data)))
    path.with_name("other").replace(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def grown(path):
    with path.open("ab") as file:
        file.write(b"more")


def written_over(path):
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 0))


def to_folder(path):
    path.unlink()
    path.mkdir()


def moved_below(path):
    path.rename(path.with_name("moved.mp4"))


@contextmanager
def nobody():
    """Root may read and write everything, so these rows happen under another user."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(NOBODY)
    except OSError:
        pytest.skip("this process may not become another user")
    try:
        yield
    finally:
        os.seteuid(0)


def as_nobody(call):
    def called(at, made):
        with nobody():
            return call(at, made)

    return called


def closed_file(at):
    """In a folder that everybody may enter."""
    path = film(at)
    path.chmod(0)
    return path


def closed_folder(at):
    folder = at.folder / "closed"
    folder.mkdir()
    (folder / "x.mp4").write_bytes(film(at).read_bytes())
    folder.chmod(0)
    return folder / "x.mp4"


# ---- Rows ----

PLAYLISTS = {
    "x.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfilm.mp4\n#EXT-X-ENDLIST\n",
    "x.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
    "x.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "x.ffconcat": "ffconcat version 1.0\nfile film.mp4\n",
    "x.srt": "1\n00:00:01,000 --> 00:00:02,000\nHello\n",
    "x.txt": "FFmpeg would draw this text as a film.\n" * 50,
    "x%03d.png": "no picture, but a pattern of names",
    "x*.png": "no picture, but a pattern of names",
}
ADDRESSES = (
    *(
        "http://127.0.0.1:9/x.mp4",
        "rtsp://127.0.0.1/x",
        "concat:film.mp4|film.mp4",
        "subfile,,start,0,end,0,,:film.mp4",
    ),
    *("data:video/mp4;base64,AAAA", "file:film.mp4", "cache:film.mp4", "async:film.mp4", "pipe:0", "film%03d.mp4", ""),
)
PATHS = [
    Bad("a file that is not there", lambda at, _: av.Clip.from_file("nowhere.mp4"), "no such file"),
    Bad("an empty film", load, "empty", _written("x.mp4", b"")),
    Bad("an empty sound", load, "empty", _written("x.wav", b"")),
    Bad("a text called film", load, "cannot read", _written("x.mp4", b"word" * 99)),
    Bad("a folder", load, "not a file", lambda at: at.folder),
    Bad("a folder as image", lambda at, _: av.Clip.from_image(at.folder), "not a file"),
    Bad("a name with NUL", lambda at, _: av.Clip.from_file("x\0.mp4"), "no such file"),
    Bad("a name with half a surrogate pair", lambda at, _: av.Clip.from_file("x\ud800.mp4"), "no such file"),
    Bad("a name of 300 characters", lambda at, _: av.Clip.from_file("x" * 300), "File name too long"),
    Bad("a path of 9,000 characters", lambda at, _: av.Clip.from_file("x/" * 4_500), "File name too long"),
    Bad("a path below a file", lambda at, path: av.Clip.from_file(path / "y.mp4"), "Not a directory", film),
    Bad("a link to itself", load, "no such file", loop),
    Bad("a link to nothing", load, "no such file", nowhere),
    Bad("a pipe", load, "not a file", pipe),
    Bad("a device", lambda at, _: av.Clip.from_file("/dev/zero"), "not a file"),
    Bad("a film that may not be read", as_nobody(load), "no permission", closed_file),
    Bad("an image that may not be read", as_nobody(lambda at, p: av.Clip.from_image(p)), "no permission", closed_file),
    Bad("a film in a closed folder", as_nobody(load), "no permission", closed_folder),
    *(
        Bad(f"list as film: {name}", load, "cannot read", _written(name, text.encode()))
        for name, text in PLAYLISTS.items()
    ),
    *(
        Bad(f"list named x.mp4: {name}", load, "cannot read", _written("x.mp4", text.encode()))
        for name, text in PLAYLISTS.items()
    ),
    *(
        Bad(
            f"address {text!r}",
            lambda at, _, text=text: av.Clip.from_file(text),
            "file",
            partial(film, name="film.mp4"),
        )
        for text in ADDRESSES
    ),
]

CHANGES = {
    "replaced": (replaced, "not the file any more"),
    "grown": (grown, "not the file any more"),
    "written over": (written_over, "not the file any more"),
    "gone": (os.unlink, "no such file"),
    "a folder now": (to_folder, "not a file"),
    "moved": (moved_below, "no such file"),
    "empty now": (lambda path: path.write_bytes(b""), "empty file"),
}
READS = {
    "frames": lambda at, clip: clip.frames,
    "a saved cut": lambda at, clip: clip.cut(0, 0.5).save("new.mp4"),
    "prepare": lambda at, clip: at.model.prepare(clip, question="What?"),
}
CHANGED = [
    Bad(f"{read} of a film that is {name}", READS[read], says, reading_after(change))
    for name, (change, says) in CHANGES.items()
    for read in READS
]

VALUES = {"NaN": np.nan, "infinity": np.inf, "minus infinity": -np.inf, "1e6": 1e6, "-3": -3.0}
HALVES = {"x.wav": "pcm_s16le", "x.aiff": "pcm_s16be", "x.au": "pcm_s16be", "x.caf": "pcm_s16le", "x.w64": "pcm_s16le",
          "x.flac": "flac", "x.m4a": "aac", "x.mp3": "libmp3lame", "x.oga": "flac", "x.opus": "libopus",
          "x.ac3": "ac3", "x.eac3": "eac3", "x.mp2": "mp2"}  # fmt: skip
HALF_FILMS = {"x.mpg": ("mpeg2video", "mp2"), "x.rm": ("rv10", "ac3"), "x.wmv": ("wmv2", "ac3")}
SOUNDS = [
    *(
        Bad(f"float32 wav with {name}", load, "out of range", lambda at, v=v: wav(at, tone_with(v)))
        for name, v in VALUES.items()
    ),
    *(
        Bad(f"float64 wav with {name}", load, "out of range", lambda at, v=v: wav(at, tone_with(v, dtype=np.float64)))
        for name, v in VALUES.items()
    ),
    *(
        Bad(f"float mkv of 3 channels with {name}", load, "out of range", lambda at, v=v: float_mkv(at, v))
        for name, v in VALUES.items()
    ),
    Bad("NaN in the last sample", load, "out of range", lambda at: wav(at, tone_with(np.nan, -1))),
    Bad(
        "with_audio of a wav with NaN",
        lambda at, p: at.clip.with_audio(p),
        "out of range",
        lambda at: wav(at, tone_with(np.nan)),
    ),
    *(
        Bad(f"a wav of {rate} Hz", load, "sampling rate", lambda at, rate=rate: wav(at, rate_hz=rate))
        for rate in (1, 999, 800_000, 2**31 - 1)
    ),
    Bad("a wav of 0 Hz", load, "cannot read", lambda at: wav(at, rate_hz=0)),
    Bad("a wav without channels", load, "cannot read", lambda at: wav(at, n_channels=0)),
    Bad("a sound whose rate changes", load, "throughout", two_rates),
    *(
        Bad(f"half of {name}", load, name, cut_short(partial(film, name=name, video=None, audio=audio, rate_hz=48_000)))
        for name, audio in HALVES.items()
    ),
]


def float_mkv(at, value):
    """A mkv of float sound, which PyAV writes through no mixing of its own."""
    path = at.folder / "x.mkv"
    with pyav.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16_000, layout="2.1")
        samples = np.repeat(tone_with(value), 3)[None]
        frame = pyav.AudioFrame.from_ndarray(samples, "flt", "2.1")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def two_sizes(at):
    """MPEG-TS may be joined end to end; here the second film has other frames."""
    path = at.folder / "x.ts"
    parts = [moving_frames(12), moving_frames(12, 32, 32)]
    for number, frames in enumerate(parts):
        with pyav.open(str(at.folder / f"{number}.ts"), "w") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            for i, pixels in enumerate(frames):
                frame = pyav.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts, frame.time_base = 12 * number + i, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    path.write_bytes(b"".join((at.folder / f"{number}.ts").read_bytes() for number in range(2)))
    return path


def no_picture_decodes(at):
    """The sound is whole, and every packet of the picture is zeros."""
    path = film(at, "x.mkv", video="mpeg2video", audio="mp2", rate_hz=48_000)
    with pyav.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    for packet in packets:
        data = data.replace(packet, bytes(len(packet)))
    path.write_bytes(data)
    return path


def no_codec(at):
    """A track whose codec is not said any more."""
    path = film(at, "x.mov", audio=None)
    path.write_bytes(path.read_bytes().replace(b"stsd", b"free"))
    return path


PICTURES = [
    Bad("a film whose size changes", lambda at, path: av.Clip.from_file(path).frames, "throughout", two_sizes),
    Bad("a film of which only the sound decodes", load, "a track of video", no_picture_decodes),
    Bad("a picture of 60,000 x 60,000", load, "too large", huge_png),
    Bad("an image of 60,000 x 60,000", lambda at, path: av.Clip.from_image(path), "too large", huge_png),
    Bad("a film of 30,000 x 30,000", load, "x.y4m", lambda at: huge_film(at)),
    *(
        Bad(f"half a picture: {name}", load, "cannot read", cut_short(partial(pictures, name=name, size=(256, 256))))
        for name in ("x.png", "x.jpg", "x.webp", "x.bmp", "x.tiff", "x.ppm")
    ),
    *(
        Bad(f"half a moving picture: {name}", load, name, cut_short(partial(pictures, name=name, n=9, size=(64, 64))))
        for name in ("x.gif", "x.png", "x.webp")
    ),
    Bad("a moving webp", load, "cannot read", lambda at: pictures(at, "x.webp", n=4)),
    Bad("a tiff of three pages", load, "3 pages", lambda at: pictures(at, "x.tiff", n=3)),
    Bad("JPEG pictures one after another", load, "stream of JPEG", jpeg_stream),
    Bad("a film as image", lambda at, path: av.Clip.from_image(path), "cannot read", film),
    Bad("a sound as image", lambda at, path: av.Clip.from_image(path), "cannot read", wav),
    Bad("a raw stream without times", load, "no times", lambda at: film(at, "x.h264", audio=None)),
    *(
        Bad(f"half of a film in {name}", load, name, cut_short(partial(film, name=name)))
        for name in ("x.mp4", "x.mov", "x.mkv", "x.ts", "x.flv")
    ),
    *(
        Bad(
            f"half of a film in {name}",
            load,
            name,
            cut_short(partial(film, name=name, video=video, audio=audio, rate_hz=48_000)),
        )
        for name, (video, audio) in HALF_FILMS.items()
    ),
    Bad("half of a film whose codec is lost", load, "media of no codec", no_codec),
]


def huge_film(at):
    """A y4m whose head says 30,000 x 30,000."""
    path = at.folder / "x.y4m"
    path.write_bytes(b"YUV4MPEG2 W30000 H30000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(1_000))
    return path


def saving(path, clip=lambda at: arrays(4, 2.0)):
    return lambda at, _: clip(at).save(path)


SAVES = [
    Bad("saving over its own film", lambda at, made: made[0].save(made[1]), "over its own film", clip_and_film),
    Bad(
        "saving a cut over its film", lambda at, made: made[0].cut(0, 0.5).save(made[1]), "over its own", clip_and_film
    ),
    Bad(
        "saving over its film by a link", lambda at, clip: clip.save("link.mp4"), "over its own", lambda at: linked(at)
    ),
    Bad("saving into a closed folder", as_nobody(lambda at, p: arrays(4, 2.0).save(p)), "cannot save", closed_folder),
    Bad("saving where one may not write", as_nobody(lambda at, _: arrays(4, 2.0).save("/x.mp4")), "cannot write"),
    Bad("saving under 256 characters", saving("x" * 252 + ".mp4"), "File name too long"),
    Bad("saving under a NUL", saving("x\0.mp4"), "cannot save"),
    Bad("saving under half a pair", saving("x\ud800.mp4"), "cannot save"),
    Bad("saving as avi", saving("x.avi"), "name.mp4"),
    Bad("saving into no folder", saving("no/x.mp4"), "a folder that exists"),
    Bad(
        "saving over a folder",
        lambda at, _: arrays().save("x.mp4"),
        "a folder that exists",
        lambda at: (at.folder / "x.mp4").mkdir(),
    ),
    Bad("saving below a file", lambda at, path: arrays().save(path / "y.mp4"), "a folder that exists", film),
    Bad("saving an image", saving("x.mp4", lambda at: at.clip), "no film"),
    Bad("saving odd sizes", saving("x.mp4", lambda at: av.Clip.from_arrays(FRAMES[:, :47], 4)), "even"),
]


def linked(at):
    clip, path = clip_and_film(at)
    (at.folder / "link.mp4").symlink_to(path)
    return clip


NAN, INF = float("nan"), float("inf")
SPANS = {
    "start NaN": (NAN, None),
    "start infinite": (INF, None),
    "start negative": (-0.1, None),
    "start at the end": (2.0, None),
    "stop NaN": (0.0, NAN),
    "stop infinite": (0.0, INF),
    "stop before start": (1.0, 0.5),
    "stop at start": (1.0, 1.0),
    "stop negative": (0.0, -1.0),
    "stop past the end": (0.0, 9.0),
    "between two frames": (0.01, 0.15),
}
TIMES = [
    *(
        Bad(
            f"cut: {name}",
            lambda at, _, span=span: arrays().cut(*span),
            "start=" if name != "between two frames" else "no frame",
        )
        for name, span in SPANS.items()
    ),
    *(
        Bad(f"from_file: {name}", lambda at, path, span=span: av.Clip.from_file(path, *span), "start=", wav)
        for name, span in SPANS.items()
        if name not in ("between two frames", "stop before start", "stop at start")
    ),
    Bad("cutting an image", lambda at, _: at.clip.cut(0.0, 1.0), "no time"),
    Bad(
        "an image file with a start",
        lambda at, p: av.Clip.from_file(p, 0.5),
        "no time",
        lambda at: pictures(at, "x.png"),
    ),
    Bad(
        "an image file with start NaN",
        lambda at, p: av.Clip.from_file(p, NAN),
        "no time",
        lambda at: pictures(at, "x.png"),
    ),
    *(
        Bad(f"frame numbers {name}", lambda at, _, rows=rows: arrays().read_frames(rows), says)
        for name, rows, says in (
            ("past the end", [10], "out of range"),
            ("negative", [-1], "out of range"),
            ("of floats", np.array([0.7]), "no frame numbers"),
            ("NaN", np.array([NAN]), "no frame numbers"),
            ("of a mask", np.array([True, False]), "no frame numbers"),
            ("in a table", np.array([[0, 1]]), "no frame numbers"),
            ("beyond int64", np.array([2**64 - 1], np.uint64), "out of range"),
        )
    ),
]


def of_frames(name, frames, says="no frames", fps=4.0):
    return Bad(f"frames {name}", lambda at, _: av.Clip.from_arrays(frames, fps), says)


def of_sound(name, waveform, says, rate_hz=16_000):
    return Bad(f"waveform {name}", lambda at, _: av.Clip.from_arrays(waveform=waveform, sampling_rate_hz=rate_hz), says)


ARRAYS = [
    of_frames("of floats", FRAMES / 255, "uint8"),
    of_frames("of bools", FRAMES > 9),
    of_frames("of int8", FRAMES.astype(np.int8)),
    of_frames("of uint16", FRAMES.astype(np.uint16)),
    of_frames("of objects", FRAMES.astype(object)),
    of_frames("of text", np.full((1, 2, 2, 3), "x")),
    of_frames("without colour", FRAMES[..., 0]),
    of_frames("with alpha", np.repeat(FRAMES, 2, -1)[..., :4]),
    of_frames("with channels first", np.moveaxis(FRAMES, -1, 1)),
    of_frames("without frames", FRAMES[:0]),
    of_frames("without height", FRAMES[:, :0]),
    of_frames("without width", FRAMES[:, :, :0]),
    of_frames("in a masked array", np.ma.masked_array(FRAMES, FRAMES > 9), "masked"),
    *(
        of_frames(f"at {fps} a second", FRAMES, "fps must be given", fps)
        for fps in (None, NAN, INF, -INF, 0, -1.0, 1e-320, 1e-9, 1e9, 99_999)
    ),
    Bad(
        "fps without frames",
        lambda at, _: av.Clip.from_arrays(fps=4, waveform=TONE, sampling_rate_hz=16_000),
        "fps without frames",
    ),
    Bad(
        "a rate without waveform",
        lambda at, _: av.Clip.from_arrays(FRAMES, 4, sampling_rate_hz=16_000),
        "without waveform",
    ),
    Bad(
        "with_audio of a clip and a rate",
        lambda at, _: arrays().with_audio(arrays(), sampling_rate_hz=8_000),
        "does nothing",
    ),
    Bad("neither frames nor waveform", lambda at, _: av.Clip.from_arrays(), "neither"),
    *(of_sound(f"with {name}", tone_with(v), "out of range") for name, v in VALUES.items()),
    *(of_sound(f"of {rate} Hz", TONE, "sampling", rate) for rate in (None, 0, -16_000, 16, 16_000.5, NAN, INF, 10**9)),
    of_sound("of bools", TONE > 0, "int16, or float"),
    of_sound("of int32", TONE.astype(np.int32), "int16, or float"),
    of_sound("of uint8", TONE.astype(np.uint8), "int16, or float"),
    of_sound("complex", TONE * 1j, "int16, or float"),
    of_sound("of objects", TONE.astype(object), "int16, or float"),
    of_sound("of text", np.full(9, "x"), "int16, or float"),
    of_sound("empty", TONE[:0], "[0]"),
    of_sound("of no channels", TONE[None][:0], "[0, 4000]"),
    of_sound("a number", np.array(0.5), "[]"),
    of_sound("with channels last", np.stack([TONE, TONE], -1), "waveform.T"),
    of_sound("of three axes", TONE[None, None], "[1, 1, 4000]"),
    of_sound("of nine channels", np.stack([TONE] * 9), "at most 8"),
    of_sound("in a masked array", np.ma.masked_invalid(tone_with(np.nan)), "masked"),
    of_sound("of float16 infinity", tone_with(np.inf).astype(np.float16), "out of range"),
]

TRACKS = [
    Bad("the frames of a sound", lambda at, _: arrays().without_video().frames, "no picture"),
    Bad("the sound of a picture", lambda at, _: at.clip.waveform, "no sound"),
    Bad("a picture without its picture", lambda at, _: at.clip.without_video(), "no sound"),
    Bad("a sound without its sound", lambda at, _: arrays().without_video().without_audio(), "no picture"),
    Bad("silencing a picture", lambda at, _: at.clip.silenced(), "no sound"),
    Bad("blanking a sound", lambda at, _: arrays().without_video().blanked(), "no picture"),
    Bad("the sound of a clip that has none", lambda at, _: arrays().with_audio(at.clip), "no sound"),
]

SAMPLINGS = [
    Bad(f"Sampling({name}={value})", lambda at, _, given={name: value}: av.Sampling(**given), name)
    for name in ("fps", "min_frames", "max_frames", "max_pixels")
    for value in (NAN, INF, 0, -1)
] + [
    Bad("Sampling of 9 to 4 frames", lambda at, _: av.Sampling(min_frames=9, max_frames=4), "min_frames <= max_frames"),
    Bad("more frames than the release takes", lambda at, _: seen(at, av.Sampling(min_frames=10_000)), "even number"),
    Bad(
        "an odd number of frames alone", lambda at, _: seen(at, av.Sampling(min_frames=3, max_frames=3)), "even number"
    ),
]


def seen(at, sampling):
    return at.model.prepare(arrays(), question="What?", sampling=sampling)


ROWS = PATHS + CHANGED + SOUNDS + PICTURES + SAVES + TIMES + ARRAYS + TRACKS + SAMPLINGS
