"""A clip: picture and/or sound over [start, stop) of a file or of arrays, with times in seconds from the clip's start.

Axes: frame (in presentation order), height, width, 3 (red, green, blue), sample (mono, 16 kHz), channel.
The picture is lazy (a film of an hour is never held in memory), the sound is eager (an hour of it is 230 MB).
The zero of a file's time is the first thing in it that can be seen or heard.
"""

import os
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream
from jaxtyping import Float32, Float64, Int64, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from hooked_av.errors import HookedAVWarning, MediaError

SAMPLING_RATE_HZ = 16_000
MAX_CHANNELS = 8
SILENCE_PEAK = 1e-4  # below -80 dB of full scale
MAX_PEAK = 2.0  # decoders overshoot 1.0 a little; what is louder than this was not scaled to [-1, 1]
EDGE_SECONDS = 1e-6  # float rounding of times such as 3 * 0.04
SOUND_EDGE_SECONDS = 0.04  # how far past the end of pure sound a `stop` may lie: one frame at 25 fps
MISSING_SECONDS = 0.25  # a file whose packets end this long before its declared end was cut off
SOUND_GAP_SECONDS = 0.02  # containers round times (Matroska: to 1 ms); a larger jump is a true gap
ROWS_AT_ONCE = 128  # frames held in memory while saving
VIDEO_TICKS_HZ = 90_000
AAC_BITS_PER_SECOND = 64_000
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

Number: TypeAlias = float | int  # run-time type checkers do not take 8 for 8.0
PathLike: TypeAlias = str | os.PathLike[str]
Frames: TypeAlias = UInt8[np.ndarray, "frame height width 3"]
Kind: TypeAlias = Literal["audiovisual", "video", "audio", "image"]


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

    path: Path
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
        with _opened(self.path) as container:
            for run in self._runs(wanted):
                container.seek(int(run[0]), stream=container.streams[self.stream_index])
                self._decode_until(int(run[-1]), container, missing, pixels)
        if missing:
            # Some containers (MPEG-TS) seek to no keyframe; from the very start it always works.
            with _opened(self.path) as container:
                self._decode_until(max(missing), container, missing, pixels)
        if missing:
            raise _cut_off(self.path, f"{len(wanted)} decoded frames", f"{len(wanted) - len(missing)} that decode")
        return pixels if np.array_equal(inverse, np.arange(len(wanted))) else pixels[inverse]

    def _runs(self, wanted: Int64[np.ndarray, " tick"]) -> Sequence[Int64[np.ndarray, " run"]]:
        """Wanted frames whose keyframes are the same or neighbours are cheaper to decode in one go."""
        slots = np.searchsorted(self.keyframe_ticks, wanted, side="right")
        return np.split(wanted, np.flatnonzero(np.diff(slots) > 1) + 1) if len(wanted) else []

    def _decode_until(self, last_tick: int, container: InputContainer, missing: dict[int, int], pixels: Frames) -> None:
        """Fills rows of `pixels` and takes their ticks out of `missing`."""
        for frame in _decoded(container, self.stream_index):
            if frame.pts in missing and not frame.is_corrupt:
                rgb = _rgb(frame)
                if rgb.shape != pixels.shape[1:]:
                    raise _cut_off(self.path, f"frames of {list(pixels.shape[1:])} throughout", f"{list(rgb.shape)}")
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

    def cut(self, start: float, stop: float) -> "Picture":
        inside = (self.seconds >= start - EDGE_SECONDS) & (self.seconds < stop - EDGE_SECONDS)
        if not inside.any():
            got = f"{len(self.seconds)} frames from {self.seconds[0]:.3f} s to {self.seconds[-1]:.3f} s"
            next_step = "widen the cut, or drop the picture first: clip.without_video()"
            raise _error(
                f"no frame appears between {start:g} s and {stop:g} s", "a frame in [start, stop)", got, next_step
            )
        seconds = np.maximum(self.seconds[inside] - start, 0.0)
        return Picture(self.source, self.indices[inside], seconds, min(self.end_seconds, stop) - start)


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """A piece of picture and/or sound, the one thing that `model.prepare` takes as media.

    Made by `from_file`, `from_arrays` and `from_image`; never changed in place: every edit returns a new clip.
    `frames` is uint8 [frame, height, width, 3], `waveform` float32 [sample], mono, 16 kHz, in [-1, 1]; both are
    copies. Everything that cannot be done raises `MediaError`; a silent sound track warns with `HookedAVWarning`.

    >>> clip = Clip.from_arrays(np.zeros((8, 28, 56, 3), np.uint8), fps=4, waveform=np.full(32_000, 0.1),
    ...                         sampling_rate_hz=16_000)
    >>> clip
    Clip(audiovisual, 2.00 s, 8 frames of 56x28 at 4 fps, sound of 2.00 s)
    >>> clip.cut(0.5, 1.5).frame_seconds
    array([0.  , 0.25, 0.5 , 0.75])
    """

    picture: Picture | None
    sound: Float32[np.ndarray, " sample"] | None

    @classmethod
    def from_file(cls, path: PathLike, start: Number = 0.0, stop: Number | None = None) -> "Clip":
        """[start, stop) in seconds of a film, a sound file or an image (which has no time); `stop=None`: to the end.

        Frames belong to the clip when they appear in [start, stop); sound is cut to the sample. The first picture
        and the first sound track are taken. Raises `MediaError` when the file is missing, broken, cut off or neither
        seen nor heard, or the times lie outside it.

        >>> Clip.from_file("nothing.mp4")
        Traceback (most recent call last):
        hooked_av.errors.MediaError: no such file: nothing.mp4
        ...
        """
        path = _checked_path(path)
        image = _read_image(path)
        if image is not None:
            return cls.from_image(image) if (start, stop) == (0.0, None) else cls.from_image(image).cut(start, stop)
        index = _index_of(path)
        start, stop = _checked_span(start, stop, index.duration_seconds, index.picture)
        picture = index.picture and index.picture.cut(start, stop)
        return _warned_if_silent(cls(picture, _read_sound(index, start, stop)), str(path))

    @classmethod
    def from_arrays(
        cls,
        frames: np.ndarray | None = None,
        fps: Number | None = None,
        waveform: np.ndarray | None = None,
        sampling_rate_hz: int | None = None,
    ) -> "Clip":
        """Frames uint8 [frame, height, width, 3] shown `fps` a second, and/or a waveform [sample] or [channel, sample].

        One frame without `fps` is an image. The waveform is int16, or float in [-1, 1]; channels (at most 8) are
        averaged and any sampling rate is brought to 16 kHz. Raises `MediaError` for any other type, shape or rate.

        >>> Clip.from_arrays(waveform=np.full((2, 44_100), 0.1), sampling_rate_hz=44_100)
        Clip(audio, 1.00 s, sound of 1.00 s)
        """
        picture = None if frames is None else _picture_of(frames, fps)
        sound = None if waveform is None else _sound_of(waveform, sampling_rate_hz)
        if picture is None and sound is None:
            raise _nothing_in("the arguments of Clip.from_arrays", "neither frames nor waveform")
        return _warned_if_silent(cls(picture, sound), "the given waveform")

    @classmethod
    def from_image(cls, image: PathLike | np.ndarray) -> "Clip":
        """A still, from a file or from uint8 [height, width, 3]; transparent pixels become white.

        >>> Clip.from_image(np.zeros((28, 28, 3), np.uint8))
        Clip(image, 1 frame of 28x28)
        """
        if isinstance(image, np.ndarray):
            return cls.from_arrays(image[None])
        pixels = _read_image(_checked_path(image))
        if pixels is None:
            raise _unreadable(Path(image), "an image in one of " + ", ".join(IMAGE_FORMATS), "something else")
        return cls.from_arrays(pixels[None])

    @property
    def has_video(self) -> bool:
        return self.picture is not None

    @property
    def has_audio(self) -> bool:
        return self.sound is not None

    @property
    def kind(self) -> Kind:
        if self.picture is None:
            return "audio"
        if self.sound is not None:
            return "audiovisual"
        return "image" if self.picture.source.fps is None else "video"

    @property
    def duration_seconds(self) -> float:
        """From the clip's start to the end of what lasts longer, picture or sound; 0.0 for an image."""
        sound_seconds = 0.0 if self.sound is None else len(self.sound) / SAMPLING_RATE_HZ
        return max(sound_seconds, 0.0 if self.picture is None else self.picture.end_seconds)

    @property
    def n_frames(self) -> int:
        return 0 if self.picture is None else len(self.picture.indices)

    @property
    def fps(self) -> float | None:
        """Average frames per second of this clip; None for an image and for sound alone."""
        if self.picture is None or self.picture.source.fps is None:
            return None
        seconds = self.picture.seconds
        return float((len(seconds) - 1) / (seconds[-1] - seconds[0])) if len(seconds) > 1 else self.picture.source.fps

    @property
    def height(self) -> int:
        return self._need_picture().source.height

    @property
    def width(self) -> int:
        return self._need_picture().source.width

    @property
    def frame_seconds(self) -> Float64[np.ndarray, " frame"]:
        """When each frame appears, in seconds from the clip's start."""
        return self._need_picture().seconds.copy()

    @property
    def frames(self) -> Frames:
        """All frames, decoded now: n_frames x height x width x 3 bytes."""
        return self.read_frames(range(self.n_frames))

    @property
    def waveform(self) -> Float32[np.ndarray, " sample"]:
        return self._need_sound().copy()

    def read_frames(self, indices: Iterable[int]) -> UInt8[np.ndarray, "index height width 3"]:
        """The frames with these numbers, in this order; numbers may repeat.

        >>> Clip.from_image(np.zeros((28, 28, 3), np.uint8)).read_frames([0, 0]).shape
        (2, 28, 28, 3)
        """
        picture = self._need_picture()
        rows = np.fromiter(indices, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.n_frames):
            got = f"{rows.min()} to {rows.max()}"
            raise _error("frame number out of range", f"0 to {self.n_frames - 1}", got, "see clip.n_frames")
        return picture.source.read(picture.indices[rows])

    def cut(self, start: Number, stop: Number | None = None) -> "Clip":
        """[start, stop) in seconds of this clip.

        >>> Clip.from_arrays(waveform=np.full(16_000, 0.1), sampling_rate_hz=16_000).cut(0.25, 0.5)
        Clip(audio, 0.25 s, sound of 0.25 s)
        """
        start, stop = _checked_span(start, stop, self.duration_seconds, self.picture)
        first, last = round(start * SAMPLING_RATE_HZ), round(stop * SAMPLING_RATE_HZ)
        sound = None if self.sound is None else _some_sound(self.sound[first:last], start)
        return Clip(self.picture and self.picture.cut(start, stop), sound)

    def with_audio(self, other: "Clip | PathLike | np.ndarray", sampling_rate_hz: int | None = None) -> "Clip":
        """The same picture with the whole sound of `other` (a clip, a file, or a waveform with its sampling rate).

        >>> Clip.from_image(np.zeros((28, 28, 3), np.uint8)).with_audio(np.full(8_000, 0.1), sampling_rate_hz=8_000)
        Clip(audiovisual, 1.00 s, 1 frame of 28x28, sound of 1.00 s)
        """
        if isinstance(other, np.ndarray):
            other = Clip.from_arrays(waveform=other, sampling_rate_hz=sampling_rate_hz)
        elif not isinstance(other, Clip):
            other = Clip.from_file(other)
        return replace(self, sound=other._need_sound())

    def with_frames(self, frames: np.ndarray, fps: Number | None = None) -> "Clip":
        """The same sound with other frames, uint8 [frame, height, width, 3]."""
        return replace(self, picture=_picture_of(frames, fps))

    def without_audio(self) -> "Clip":
        self._need_picture()
        return replace(self, sound=None)

    def without_video(self) -> "Clip":
        self._need_sound()
        return replace(self, picture=None)

    def silenced(self) -> "Clip":
        """The same picture with as many samples of digital silence."""
        return replace(self, sound=np.zeros_like(self._need_sound()))

    def blanked(self) -> "Clip":
        """The same sound with as many black frames of the same size at the same times."""
        picture = self._need_picture()
        black = np.broadcast_to(np.uint8(0), (self.n_frames, self.height, self.width, 3))  # takes one byte
        source = ArrayFrames(black, picture.source.fps)
        return replace(self, picture=replace(picture, source=source, indices=np.arange(self.n_frames)))

    def save(self, path: PathLike) -> None:
        """Writes an .mp4 (H.264 and AAC, both lossy); the file appears only when it is complete."""
        path = _checked_target(path, self)
        part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.mp4")
        try:
            with av.open(str(part), "w") as container:
                _write(container, self)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def __repr__(self) -> str:
        parts = [self.kind] if self.kind == "image" else [self.kind, f"{self.duration_seconds:.2f} s"]
        if self.picture is not None:
            rate = "" if self.fps is None else f" at {self.fps:.4g} fps"
            parts.append(f"{self.n_frames} frame{'s' * (self.n_frames != 1)} of {self.width}x{self.height}{rate}")
        if self.sound is not None:
            parts.append(f"sound of {len(self.sound) / SAMPLING_RATE_HZ:.2f} s")
        return f"Clip({', '.join(parts)})"

    def _need_picture(self) -> Picture:
        if self.picture is None:
            raise _error("the clip has no picture", "a clip with frames", self, "see clip.with_frames(frames, fps)")
        return self.picture

    def _need_sound(self) -> Float32[np.ndarray, " sample"]:
        if self.sound is None:
            raise _error("the clip has no sound track", "a clip with sound", self, "see clip.with_audio('sound.wav')")
        return self.sound


def _error(what: str, expected: object, got: object, next_step: str) -> MediaError:
    return MediaError(what, expected=expected, got=got, next_step=next_step)


def _unreadable(path: Path, expected: str, got: object) -> MediaError:
    next_step = "play the file elsewhere; if that works, convert it: ffmpeg -i FILE out.mp4"
    return _error(f"cannot read {path}: corrupt, cut off, or of an unsupported format", expected, got, next_step)


def _cut_off(path: Path, expected: str, got: str) -> MediaError:
    next_step = "fetch the file again, or repair it: ffmpeg -i FILE out.mp4"
    return _error(f"{path} is damaged or ends in the middle", expected, got, next_step)


def _nothing_in(what: str, got: str) -> MediaError:
    return _error(
        f"neither picture nor sound in {what}", "at least one of the two", got, "give frames, a waveform or both"
    )


# ---- Checks ---------------------------------------------------------------------------------------------------------


def _checked_path(path: PathLike) -> Path:
    path = Path(path)
    if path.is_dir():
        raise _error(f"a folder, not a file: {path}", "one media file", "a folder", "open each file in it by itself")
    if not path.exists():
        got = "a URL" if "://" in str(path) or ":/" in str(path) else "nothing there"
        raise _error(f"no such file: {path}", "the path of a local file", got, f"check the path (now in {Path.cwd()})")
    if path.stat().st_size == 0:
        raise _error(f"an empty file: {path}", "a media file", "0 bytes", "fetch the file again")
    return path


def _checked_target(path: PathLike, clip: Clip) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".mp4" or not path.parent.is_dir():
        raise _error(f"cannot save to {path}", "a name.mp4 in a folder that exists", path, "choose another path")
    if clip.kind == "image":
        raise _error("an image is no film", "a clip that lasts", clip, "use Pillow: Image.fromarray(clip.frames[0])")
    if clip.has_video and (clip.height % 2 or clip.width % 2):
        got, next_step = f"{clip.width}x{clip.height}", "crop: clip.with_frames(clip.frames[:, :h, :w], clip.fps)"
        raise _error("H.264 needs even sizes", "even width and height", got, next_step)
    return path


def _checked_span(start: Number, stop: Number | None, duration: float, picture: Picture | None) -> tuple[float, float]:
    """Start and stop inside [0, duration]; a stop up to one frame past the end means the end."""
    got = f"start={start} s, stop={stop} s of {duration:.3f} s"
    if duration == 0.0:
        raise _error("an image has no time to cut", "start=0.0 and stop=None", got, "leave start and stop out")
    if not 0.0 <= start < duration:
        raise _error("start is outside the clip", f"0 <= start < {duration:.3f} s", got, "give start in seconds")
    stop = duration if stop is None else stop
    slack = SOUND_EDGE_SECONDS if picture is None or picture.source.fps is None else 1.0 / picture.source.fps
    if not stop > start:
        raise _error("stop must be later than start", f"stop > {start} s", got, "give both in seconds, stop exclusive")
    if stop > duration + slack + EDGE_SECONDS:
        raise _error("stop is past the end", f"stop <= {duration:.3f} s", got, "use stop=None for the end")
    return float(start), float(min(stop, duration))


def _picture_of(frames: np.ndarray, fps: Number | None) -> Picture:
    shape, dtype = np.shape(frames), np.asarray(frames).dtype
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        expected, got = "uint8 [frame, height, width, 3], none of them 0", f"{dtype} {list(shape)}"
        raise _error("these are no frames", expected, got, "see np.moveaxis; (x * 255).astype(np.uint8)")
    if (len(frames) > 1) if fps is None else not 0.0 < fps < float("inf"):
        raise _error("fps must be given for a film", "frames per second > 0", f"fps={fps}", "give fps=25")
    source = ArrayFrames(np.array(frames), None if fps is None else float(fps))
    numbers = np.arange(len(frames))
    return Picture(source, numbers, numbers / (fps or 1.0), 0.0 if fps is None else len(frames) / fps)


def _sound_of(waveform: np.ndarray, sampling_rate_hz: int | None) -> Float32[np.ndarray, " sample"]:
    rate_hz, got = sampling_rate_hz or 0, f"sampling_rate_hz={sampling_rate_hz}"
    if not (1_000 <= rate_hz <= 768_000 and rate_hz == int(rate_hz)):
        raise _error("a waveform needs its sampling rate", "1,000 to 768,000 Hz", got, "give sampling_rate_hz=16_000")
    shape, dtype = np.shape(waveform), np.asarray(waveform).dtype
    if len(shape) not in (1, 2) or 0 in shape or (len(shape) == 2 and shape[0] > MAX_CHANNELS):
        expected = f"[sample] or [channel, sample] with at most {MAX_CHANNELS} channels"
        raise _error("not the shape of a waveform", expected, list(shape), "if channels come last: waveform.T")
    if dtype != np.int16 and not np.issubdtype(dtype, np.floating):
        raise _error("not the type of a waveform", "int16, or float in [-1, 1]", dtype, "divide by the largest integer")
    samples = np.atleast_2d(waveform) / (32_768 if dtype == np.int16 else 1)
    peak = float(np.abs(samples).max())
    if not peak <= MAX_PEAK:  # so that NaN is caught too
        got = f"a peak of {peak:g}"
        raise _error("samples out of range", "finite values in [-1, 1]", got, "scale it, or repair NaN and infinity")
    return _resampled(samples.mean(axis=0).astype(np.float32), int(rate_hz))


def _warned_if_silent(clip: Clip, name: str) -> Clip:
    if clip.sound is not None and np.abs(clip.sound).max() < SILENCE_PEAK:
        message = f"the sound of {name} is digital silence (peak below {SILENCE_PEAK:g}): the model will hear nothing"
        warnings.warn(message, HookedAVWarning, stacklevel=3)
    return clip


def _some_sound(sound: np.ndarray, start: float) -> Float32[np.ndarray, " sample"] | None:
    if len(sound):
        return sound.copy()
    warnings.warn(f"no sound from {start:g} s on: this clip has none", HookedAVWarning, stacklevel=4)
    return None


# ---- Reading --------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """PyAV's own errors leave here as ours, whether they come from opening, demuxing or decoding."""
    try:
        # An absolute path cannot be taken for a protocol, as "a:b.mp4" would be.
        with av.open(str(path.resolve()), metadata_errors="replace") as container:
            yield container
    except (FFmpegError, UnknownCodecError) as error:
        raise _unreadable(path, "a film, sound or image file", f"{type(error).__name__}: {error}") from error


def _decoded(container: InputContainer, stream_index: int) -> Iterator[Any]:
    """Frames of one stream, in presentation order; Any, since PyAV's types name every kind of frame here."""
    yield from container.decode(container.streams[stream_index])


def _tick_seconds(stream: Stream) -> float:
    return float(stream.time_base or 0)


def _read_image(path: Path) -> UInt8[np.ndarray, "height width 3"] | None:
    """None when it is no image, or a moving one."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1:
                return None
            if image.mode.startswith(("I", "F")):
                raise _unreadable(path, "8 bits a channel", f"mode {image.mode}")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            return np.asarray(Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB"))
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, "a whole image", f"{type(error).__name__}: {error}") from error


def _rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
    """Upright: phones store the turn (counter-clockwise degrees) beside the pixels."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


@dataclass(frozen=True, eq=False)
class _SoundTrack:
    """Sound of a file; its first sample is `first_seconds` on the stream's own clock, `start_seconds` on the file's."""

    stream_index: int
    rate_hz: int
    first_seconds: float
    start_seconds: float
    end_seconds: float
    seeks_exactly: bool


@dataclass(frozen=True, eq=False)
class _FileIndex:
    """Where everything is in a file; times count from the first thing seen or heard."""

    path: Path
    picture: Picture | None
    track: _SoundTrack | None

    @property
    def duration_seconds(self) -> float:
        return max(part.end_seconds for part in (self.picture, self.track) if part)


@dataclass
class _Packets:
    """What demuxing tells of one stream, without decoding it; ticks are in its time base."""

    ticks: list[int]
    keyframe_ticks: list[int]
    end_tick: int = 0


def _index_of(path: Path) -> _FileIndex:
    with _opened(path) as container:
        # A cover picture in a sound file is no film.
        films = (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic)
        video, audio = next(films, None), next(iter(container.streams.audio), None)
        if video is None and audio is None:
            raise _nothing_in(str(path), f"a {container.format.name} file with other streams only")
        packets = _demuxed(container)
        ends_seconds = [packets[stream.index].end_tick * _tick_seconds(stream) for stream in container.streams]
        _check_complete(path, container, max(ends_seconds))
        frame, sound = _first_decoded(path, video), _first_decoded(path, audio)
        zero_seconds = min((first.time or 0.0 for first in (frame, sound) if first), default=0.0)
        picture = track = None
        if video and isinstance(frame, av.VideoFrame):
            picture = _picture_in(path, video, frame, packets[video.index], zero_seconds)
        if audio and isinstance(sound, av.AudioFrame):
            track = _track_in(container, audio, sound, packets[audio.index], zero_seconds)
    if picture is None and track is None:
        raise _cut_off(path, "frames or samples that decode", "none")
    return _FileIndex(path, picture, track)


def _demuxed(container: InputContainer) -> dict[int, _Packets]:
    packets = {stream.index: _Packets([], []) for stream in container.streams}
    for packet in container.demux():
        tick = packet.dts if packet.pts is None else packet.pts
        if tick is None:
            continue
        seen = packets[packet.stream_index]
        seen.end_tick = max(seen.end_tick, tick + (packet.duration or 0))
        # Edit lists hide packets (`is_discard`), VP8 says so in a bit of the frame header.
        hidden = packet.is_discard or (packet.stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10)
        if not hidden:
            seen.ticks.append(tick)
            seen.keyframe_ticks += [tick] * packet.is_keyframe
    return packets


def _check_complete(path: Path, container: InputContainer, end_seconds: float) -> None:
    """FFmpeg quietly reads what there is of a file that was cut off; each format says elsewhere how much there was."""
    n_bytes, declared_seconds = path.stat().st_size, (container.duration or 0) / av.time_base
    if "mov" in container.format.name:
        declared_bytes = max(
            (entry.pos + entry.size for s in container.streams for entry in s.index_entries), default=0
        )
    else:
        with path.open("rb") as file:
            head = file.read(8)
        declared_bytes = int.from_bytes(head[4:8], "little") + 8 if head[:4] == b"RIFF" else 0  # WAV, AVI
        # Writers that cannot seek back leave a huge placeholder.
        declared_bytes = declared_bytes if declared_bytes < 2**31 - 1 else 0
    if n_bytes < declared_bytes:
        raise _cut_off(path, f"at least {declared_bytes:,} bytes, as it declares", f"{n_bytes:,} bytes")
    # Only Matroska's duration is declared; elsewhere it is estimated from what there is, or includes hidden parts.
    if "matroska" in container.format.name and end_seconds < declared_seconds - MISSING_SECONDS:
        raise _cut_off(path, f"{declared_seconds:.2f} s, as it declares", f"{end_seconds:.2f} s")


def _first_decoded(path: Path, stream: Stream | None) -> "av.VideoFrame | av.AudioFrame | None":
    if stream is None:
        return None
    with _opened(path) as container:
        return next(_decoded(container, stream.index), None)


def _picture_in(
    path: Path, stream: av.VideoStream, first: av.VideoFrame, packets: _Packets, zero_seconds: float
) -> Picture:
    ticks = np.unique(np.array(packets.ticks, np.int64))
    seconds = ticks * _tick_seconds(stream) - zero_seconds
    n_gaps = len(ticks) - 1
    fps = float(n_gaps / (seconds[-1] - seconds[0])) if n_gaps else float(stream.average_rate or 1)
    end_seconds = max(packets.end_tick * _tick_seconds(stream) - zero_seconds, seconds[-1] + EDGE_SECONDS)
    height, width, _ = _rgb(first).shape
    source = FileFrames(
        path, stream.index, ticks, np.unique(np.array(packets.keyframe_ticks, np.int64)), fps, height, width
    )
    return Picture(source, np.arange(len(ticks)), seconds, end_seconds)


def _track_in(
    container: InputContainer, stream: av.AudioStream, first: av.AudioFrame, packets: _Packets, zero_seconds: float
) -> _SoundTrack:
    first_seconds, end_seconds = first.time or 0.0, packets.end_tick * _tick_seconds(stream)
    exact = "mov" in container.format.name
    start_seconds = first_seconds - zero_seconds
    return _SoundTrack(stream.index, first.sample_rate, first_seconds, start_seconds, end_seconds - zero_seconds, exact)


def _read_sound(index: _FileIndex, start: float, stop: float) -> Float32[np.ndarray, " sample"] | None:
    """Samples of [start, stop), with zeros where the sound begins later; shorter where it ends earlier."""
    track = index.track
    if track is None:
        return None
    offset = round(track.start_seconds * SAMPLING_RATE_HZ)
    n_samples = round((track.end_seconds - track.start_seconds) * SAMPLING_RATE_HZ)
    first, last = round(start * SAMPLING_RATE_HZ) - offset, round(stop * SAMPLING_RATE_HZ) - offset
    # Whole seconds are whole samples at every rate, and one more on each side feeds the filters (and AAC's overlap).
    from_second, to_second = max(0, first // SAMPLING_RATE_HZ - 1), max(0, -(-last // SAMPLING_RATE_HZ)) + 1
    native = _decoded_mono(index.path, track, from_second * track.rate_hz, to_second * track.rate_hz)
    sound = _resampled(native, track.rate_hz)[: n_samples - from_second * SAMPLING_RATE_HZ]
    sound = sound[max(0, first) - from_second * SAMPLING_RATE_HZ : max(0, last) - from_second * SAMPLING_RATE_HZ]
    lead = np.zeros(max(0, -first) if len(sound) else 0, np.float32)
    return _some_sound(np.concatenate([lead, sound]), start)


def _decoded_mono(path: Path, track: _SoundTrack, first: int, last: int) -> Float32[np.ndarray, " sample"]:
    """Samples [first, last) of the track at its own rate, fewer where it ends earlier; gaps in its times are zeros."""
    sound, end, position = np.zeros(last - first, np.float32), 0, None
    # Weights that sum to 1: by default FFmpeg adds the channels of 5.1 up to 1.7.
    mixer = av.AudioResampler("flt", "mono", track.rate_hz, options={"rematrix_maxval": "1.0"})
    with _opened(path) as container:
        stream = container.streams[track.stream_index]
        if track.seeks_exactly and first:
            seconds = track.first_seconds + first / track.rate_hz
            container.seek(int(seconds / _tick_seconds(stream)), stream=stream)
        for frame in _decoded(container, track.stream_index):
            stated = position if frame.time is None else round((frame.time - track.first_seconds) * track.rate_hz)
            if position is None or abs(stated - position) > SOUND_GAP_SECONDS * track.rate_hz:
                position = stated or 0
            if position >= last:
                break
            block = np.concatenate([part.to_ndarray()[0] for part in mixer.resample(frame)])
            skip = max(0, first - position)
            begin = position + skip - first
            block = block[skip : skip + last - first - begin]
            sound[begin : begin + len(block)] = block
            end, position = max(end, begin + len(block)), position + frame.samples
    return sound[:end]


def _resampled(mono: Float32[np.ndarray, " native_sample"], from_hz: int) -> Float32[np.ndarray, " sample"]:
    """To 16 kHz; sample i stays at i / rate seconds."""
    if from_hz != SAMPLING_RATE_HZ:
        resampler = av.AudioResampler("flt", "mono", SAMPLING_RATE_HZ)
        # FFmpeg holds the last samples back when a sound is shorter than its filter: a tail of zeros pushes them out.
        padded = np.concatenate([mono, np.zeros(from_hz // 10, np.float32)])
        parts = [part for block in _sound_frames(padded, from_hz) for part in resampler.resample(block)]
        n_samples = max(1, round(len(mono) * SAMPLING_RATE_HZ / from_hz)) if len(mono) else 0
        mono = np.concatenate([part.to_ndarray()[0] for part in parts])[:n_samples]
    return np.clip(mono, -1.0, 1.0)


# ---- Writing --------------------------------------------------------------------------------------------------------


def _sound_frames(sound: Float32[np.ndarray, " sample"], rate_hz: int) -> Iterator[av.AudioFrame]:
    for first in range(0, len(sound), rate_hz):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None, first : first + rate_hz]), "flt", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, first, Fraction(1, rate_hz)
        yield frame


def _picture_frames(clip: Clip) -> Iterator[av.VideoFrame]:
    seconds = clip.frame_seconds
    for first in range(0, clip.n_frames, ROWS_AT_ONCE):
        rows = range(first, min(first + ROWS_AT_ONCE, clip.n_frames))
        for row, pixels in zip(rows, clip.read_frames(rows), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame.pts, frame.time_base = round(seconds[row] * VIDEO_TICKS_HZ), Fraction(1, VIDEO_TICKS_HZ)
            yield frame


def _write(container: OutputContainer, clip: Clip) -> None:
    encoders = []
    if clip.has_video:
        rate = Fraction(clip.fps or 1.0 / clip.duration_seconds).limit_denominator(1001)
        video = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "fast"})
        video.width, video.height, video.pix_fmt = clip.width, clip.height, "yuv420p"
        video.codec_context.time_base = Fraction(1, VIDEO_TICKS_HZ)
        encoders.append((video, _picture_frames(clip)))
    if clip.has_audio:
        audio = container.add_stream("aac", rate=SAMPLING_RATE_HZ)
        audio.layout, audio.bit_rate = "mono", AAC_BITS_PER_SECOND
        encoders.append((audio, _sound_frames(clip.waveform, SAMPLING_RATE_HZ)))
    # Streams must all be known before the first packet is written.
    for stream, frames in encoders:
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
