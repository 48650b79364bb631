"""The frames of a clip: where their pixels come from, and the second at which each of them appears.

Axes: frame (in presentation order), index (of the frames asked for), height, width, 3 (red, green, blue).
Frames of a file are known by their presentation times and decoded when asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import Float64, Int64, UInt8

from hooked_av.media.source_file import SourceFile, cut_off, media_error, opened

EDGE_SECONDS = 1e-6  # float rounding of times such as 3 * 0.04

Frames: TypeAlias = UInt8[np.ndarray, "frame height width 3"]


@runtime_checkable
class FrameSource(Protocol):
    """Where pixels come from; `fps` is None for a still."""

    @property
    def fps(self) -> float | None: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    def read(self, indices: Int64[np.ndarray, " index"]) -> UInt8[np.ndarray, "index height width 3"]: ...


@dataclass(frozen=True, eq=False)
class ArrayFrames:
    """Frames in memory."""

    array: Frames
    fps: float | None

    @property
    def height(self) -> int:
        return self.array.shape[1]

    @property
    def width(self) -> int:
        return self.array.shape[2]

    def read(self, indices: Int64[np.ndarray, " index"]) -> UInt8[np.ndarray, "index height width 3"]:
        return self.array[indices]


@dataclass(frozen=True, eq=False)
class FileFrames:
    """Frames of a file, named by their presentation times (in ticks of the stream) and decoded when asked for."""

    file: SourceFile
    stream_index: int
    presentation_ticks: Int64[np.ndarray, " frame"]
    keyframe_ticks: Int64[np.ndarray, " keyframe"]
    fps: float
    height: int
    width: int

    def read(self, indices: Int64[np.ndarray, " index"]) -> UInt8[np.ndarray, "index height width 3"]:
        """Decodes the wanted frames only, each run of them from the last keyframe before it."""
        wanted, inverse = np.unique(self.presentation_ticks[indices], return_inverse=True)
        pixels = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        missing = {int(tick): row for row, tick in enumerate(wanted)}
        with opened(self.file) as container:
            for run in self._runs(wanted):
                container.seek(int(run[0]), stream=container.streams[self.stream_index])
                self._decode_until(int(run[-1]), container, missing, pixels)
        if missing:
            # Some containers (MPEG-TS) seek to no keyframe; from the very start it always works.
            with opened(self.file) as container:
                self._decode_until(max(missing), container, missing, pixels)
        if missing:
            raise cut_off(self.file.path, f"{len(wanted)} decoded frames", f"{len(wanted) - len(missing)} that decode")
        return pixels if np.array_equal(inverse, np.arange(len(wanted))) else pixels[inverse]

    def _runs(self, wanted: Int64[np.ndarray, " tick"]) -> Sequence[Int64[np.ndarray, " run"]]:
        """Wanted frames whose keyframes are the same or neighbours are cheaper to decode in one go."""
        slots = np.searchsorted(self.keyframe_ticks, wanted, side="right")
        return np.split(wanted, np.flatnonzero(np.diff(slots) > 1) + 1) if len(wanted) else []

    def _decode_until(self, last_tick: int, container: InputContainer, missing: dict[int, int], pixels: Frames) -> None:
        """Fills rows of `pixels` and takes their ticks out of `missing`."""
        for frame in decoded(container, self.stream_index):
            if frame.pts in missing and not frame.is_corrupt:
                rgb = upright_rgb(frame)
                if rgb.shape != pixels.shape[1:]:
                    raise cut_off(
                        self.file.path, f"frames of {list(pixels.shape[1:])} throughout", f"{list(rgb.shape)}"
                    )
                pixels[missing.pop(frame.pts)] = rgb
            if frame.pts is not None and frame.pts >= last_tick:
                break


@dataclass(frozen=True, eq=False)
class Picture:
    """Frames of a source, each with the second at which it appears; the last one stays until `end_seconds`."""

    source: FrameSource
    indices: Int64[np.ndarray, " frame"]
    seconds: Float64[np.ndarray, " frame"]
    end_seconds: float

    @property
    def fps(self) -> float | None:
        """Average frames per second; None for a still."""
        if self.source.fps is None:
            return None
        seconds = self.seconds
        return float((len(seconds) - 1) / (seconds[-1] - seconds[0])) if len(seconds) > 1 else self.source.fps

    def cut(self, start: float, stop: float) -> "Picture":
        inside = (self.seconds >= start - EDGE_SECONDS) & (self.seconds < stop - EDGE_SECONDS)
        if not inside.any():
            got = f"{len(self.seconds)} frames from {self.seconds[0]:.3f} s to {self.seconds[-1]:.3f} s"
            next_step = "widen the cut, or drop the picture first: clip.without_video()"
            raise media_error(
                f"no frame appears between {start:g} s and {stop:g} s", "a frame in [start, stop)", got, next_step
            )
        seconds = np.maximum(self.seconds[inside] - start, 0.0)
        return Picture(
            source=self.source,
            indices=self.indices[inside],
            seconds=seconds,
            end_seconds=min(self.end_seconds, stop) - start,
        )


# ---- Decoding --------------------------------------------------------------------------------------------------------


def decoded(container: InputContainer, stream_index: int) -> Iterator[Any]:
    """Frames of one stream, in presentation order; Any, since PyAV's types name every kind of frame here."""
    yield from container.decode(container.streams[stream_index])


def upright_rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
    """Upright: phones store the turn (counter-clockwise degrees) beside the pixels."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
