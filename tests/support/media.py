"""Small films and sounds through plain PyAV, with a click at a known time; and what a refusal must say."""

import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest

import hooked_av
from hooked_av.errors import MediaError
from hooked_av.media.clip import Clip

BUNNY = pathlib.Path(hooked_av.__file__).parent / "data" / "bigbuckbunny.mp4"
CLICK_SECONDS = 1.3
SIZE = (48, 64)
FPS = 25
needs_bunny = pytest.mark.skipif(not BUNNY.is_file(), reason="bigbuckbunny.mp4 is not in hooked_av/data")


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


def arrays(n_frames=10, fps=5.0, seconds=2.0) -> Clip:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * 16_000)) / 16_000)
    return Clip.from_arrays(moving_frames(n_frames), fps, tone, 16_000)


def check_error(error: pytest.ExceptionInfo[MediaError], *words: str) -> None:
    """All four parts are there and the words occur in the message."""
    for part in (error.value.what, error.value.expected, error.value.got, error.value.next_step):
        assert str(part).strip()
    for word in words:
        assert word in str(error.value), f"{word!r} not in:\n{error.value}"
