"""Clips: whatever is wrong with a file, a span of time or an array is said in words; and so is silence."""

import shutil
import warnings

import av
import numpy as np
import pytest
from PIL import Image
from support.media import arrays, check_error, moving_frames, write_file

from hooked_av.errors import HookedAVWarning, MediaError
from hooked_av.media.clip import Clip

FASTSTART = {"movflags": "faststart"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def film(folder):
    return write_file(folder / "film.mp4")


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
    (lambda d: cover_only(d / "words.srt"), ["cannot read", "words.srt"]),
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
    check_error(error, "no such file", "gone.mp4")


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
