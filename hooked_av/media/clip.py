"""A clip: picture and/or sound over [start, stop) of a file or of arrays, with times in seconds from the clip's start.

Axes: frame (in presentation order), height, width, 3 (red, green, blue), sample (mono, 16 kHz), channel.
The picture is lazy (a film of an hour is never held in memory), the sound is eager (an hour of it is 230 MB).
The zero of a file's time is the first thing in it that can be seen or heard.
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from hooked_av.doors import door
from hooked_av.errors import HookedAVWarning
from hooked_av.media.decode_pictures import EDGE_SECONDS, ArrayFrames, FileFrames, Frames, FrameSource, Picture
from hooked_av.media.decode_sound import MAX_CHANNELS, SAMPLING_RATE_HZ, check_peak, check_rate, read_sound, resampled
from hooked_av.media.files import IMAGE_FORMATS, index_of, nothing_in, read_image, write_film
from hooked_av.media.source_file import SourceFile, media_error, printable, unreadable

__all__ = [
    "SAMPLING_RATE_HZ",
    "ArrayFrames",
    "Clip",
    "FileFrames",
    "FrameSource",
    "Frames",
    "Kind",
    "Number",
    "PathLike",
    "Picture",
]

SILENCE_PEAK = 1e-4  # below -80 dB of full scale
LOWEST_FPS, HIGHEST_FPS = 1e-4, 1e4  # beyond, times overflow, or cannot be told apart
SOUND_EDGE_SECONDS = 0.04  # how far past the end of pure sound a `stop` may lie: one frame at 25 fps

Number: TypeAlias = float | int  # run-time type checkers do not take 8 for 8.0
PathLike: TypeAlias = str | os.PathLike[str]
Kind: TypeAlias = Literal["audiovisual", "video", "audio", "image"]


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
    @door
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
        file = SourceFile.at(Path(path))
        image = read_image(file)
        if image is not None:
            return cls.from_image(image) if (start, stop) == (0.0, None) else cls.from_image(image).cut(start, stop)
        index = index_of(file)
        start, stop = _checked_span(start, stop, index.duration_seconds, index.picture)
        picture = index.picture and index.picture.cut(start, stop)
        sound = index.track and _some_sound(read_sound(file, index.track, start, stop), start)
        return _warned_if_silent(cls(picture, sound), str(path))

    @classmethod
    @door
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
        _check_used("fps", fps, "frames", frames)
        _check_used("sampling_rate_hz", sampling_rate_hz, "waveform", waveform)
        picture = None if frames is None else _picture_of(frames, fps)
        sound = None if waveform is None else _sound_of(waveform, sampling_rate_hz)
        if picture is None and sound is None:
            raise nothing_in("the arguments of Clip.from_arrays", "neither frames nor waveform")
        return _warned_if_silent(cls(picture, sound), "the given waveform")

    @classmethod
    @door
    def from_image(cls, image: PathLike | np.ndarray) -> "Clip":
        """A still, from a file or from uint8 [height, width, 3]; transparent pixels become white.

        >>> Clip.from_image(np.zeros((28, 28, 3), np.uint8))
        Clip(image, 1 frame of 28x28)
        """
        if isinstance(image, np.ndarray):
            return cls.from_arrays(image[None])
        pixels = read_image(SourceFile.at(Path(image)))
        if pixels is None:
            raise unreadable(Path(image), "an image in one of " + ", ".join(IMAGE_FORMATS), "something else")
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
        return None if self.picture is None else self.picture.fps

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

    @door
    def read_frames(self, indices: Iterable[int] | np.ndarray) -> UInt8[np.ndarray, "index height width 3"]:
        """The frames with these numbers, in this order; numbers may repeat.

        >>> Clip.from_image(np.zeros((28, 28, 3), np.uint8)).read_frames([0, 0]).shape
        (2, 28, 28, 3)
        """
        picture = self._need_picture()
        rows = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if rows.size and (rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer)):
            got, next_step = f"{rows.dtype} {list(rows.shape)}", "round times, and masks through np.flatnonzero(mask)"
            raise media_error("these are no frame numbers", "whole numbers in one row", got, next_step)
        rows = rows.astype(np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.n_frames):
            got = f"{rows.min()} to {rows.max()}"
            raise media_error("frame number out of range", f"0 to {self.n_frames - 1}", got, "see clip.n_frames")
        return picture.source.read(picture.indices[rows])

    @door
    def cut(self, start: Number, stop: Number | None = None) -> "Clip":
        """[start, stop) in seconds of this clip.

        >>> Clip.from_arrays(waveform=np.full(16_000, 0.1), sampling_rate_hz=16_000).cut(0.25, 0.5)
        Clip(audio, 0.25 s, sound of 0.25 s)
        """
        start, stop = _checked_span(start, stop, self.duration_seconds, self.picture)
        first, last = round(start * SAMPLING_RATE_HZ), round(stop * SAMPLING_RATE_HZ)
        sound = None if self.sound is None else _some_sound(self.sound[first:last], start)
        return Clip(self.picture and self.picture.cut(start, stop), sound)

    @door
    def with_audio(self, other: "Clip | PathLike | np.ndarray", sampling_rate_hz: int | None = None) -> "Clip":
        """The same picture with the whole sound of `other` (a clip, a file, or a waveform with its sampling rate).

        >>> Clip.from_image(np.zeros((28, 28, 3), np.uint8)).with_audio(np.full(8_000, 0.1), sampling_rate_hz=8_000)
        Clip(audiovisual, 1.00 s, 1 frame of 28x28, sound of 1.00 s)
        """
        if isinstance(other, np.ndarray):
            other = Clip.from_arrays(waveform=other, sampling_rate_hz=sampling_rate_hz)
        else:
            _check_used("sampling_rate_hz", sampling_rate_hz, "other (a waveform)", None)
            other = other if isinstance(other, Clip) else Clip.from_file(other)
        return replace(self, sound=other._need_sound())

    @door
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

    @door
    def save(self, path: PathLike) -> None:
        """Writes an .mp4 (H.264 and AAC, both lossy); the file appears only when it is complete."""
        write_film(_checked_target(path, self), self.picture, self.sound, self.duration_seconds)

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
            raise media_error(
                "the clip has no picture", "a clip with frames", self, "see clip.with_frames(frames, fps)"
            )
        return self.picture

    def _need_sound(self) -> Float32[np.ndarray, " sample"]:
        if self.sound is None:
            raise media_error(
                "the clip has no sound track", "a clip with sound", self, "see clip.with_audio('sound.wav')"
            )
        return self.sound


# ---- Checks ----------------------------------------------------------------------------------------------------------


def _checked_target(path: PathLike, clip: Clip) -> Path:
    path, expected = Path(path), "a name.mp4 in a folder that exists"
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # too long, a NUL, half a surrogate pair, a folder that is closed
        raise media_error(f"cannot save to {printable(path)}", expected, error, "choose another path") from error
    if path.suffix.lower() != ".mp4" or not path.parent.is_dir() or path.is_dir():
        raise media_error(f"cannot save to {path}", expected, path, "choose another path")
    source = clip.picture and clip.picture.source
    if isinstance(source, FileFrames) and path.exists() and path.samefile(source.file.path):
        expected = "another file than the one that the clip reads its frames from"
        raise media_error(f"cannot save a clip over its own film {path}", expected, path, "choose another name")
    if clip.kind == "image":
        raise media_error(
            "an image is no film", "a clip that lasts", clip, "use Pillow: Image.fromarray(clip.frames[0])"
        )
    if clip.has_video and (clip.height % 2 or clip.width % 2):
        got, next_step = f"{clip.width}x{clip.height}", "crop: clip.with_frames(clip.frames[:, :h, :w], clip.fps)"
        raise media_error("H.264 needs even sizes", "even width and height", got, next_step)
    return path


def _checked_span(start: Number, stop: Number | None, duration: float, picture: Picture | None) -> tuple[float, float]:
    """Start and stop inside [0, duration]; a stop up to one frame past the end means the end."""
    got = f"start={start} s, stop={stop} s of {duration:.3f} s"
    if duration == 0.0:
        raise media_error("an image has no time to cut", "start=0.0 and stop=None", got, "leave start and stop out")
    if not 0.0 <= start < duration:
        raise media_error("start is outside the clip", f"0 <= start < {duration:.3f} s", got, "give start in seconds")
    stop = duration if stop is None else stop
    slack = SOUND_EDGE_SECONDS if picture is None or picture.source.fps is None else 1.0 / picture.source.fps
    if not stop > start:
        raise media_error(
            "stop must be later than start", f"stop > {start} s", got, "give both in seconds, stop exclusive"
        )
    if stop > duration + slack + EDGE_SECONDS:
        raise media_error("stop is past the end", f"stop <= {duration:.3f} s", got, "use stop=None for the end")
    return float(start), float(min(stop, duration))


# ---- Arrays ----------------------------------------------------------------------------------------------------------


def _check_used(name: str, value: float | None, of_what: str, thing: np.ndarray | None) -> None:
    if value is not None and thing is None:
        what, next_step = f"{name} without {of_what} does nothing", f"leave {name} out, or give {of_what}"
        raise media_error(what, f"{name} with {of_what}", f"{name}={value}", next_step)


def _unmasked(array: np.ndarray) -> np.ndarray:
    if isinstance(array, np.ma.MaskedArray):
        expected = "an array of which everything is shown or heard"
        raise media_error("a masked array", expected, f"{array.mask.sum()} masked values", "array.filled(0)")
    return np.asarray(array)  # np.matrix has other rules of its own


def _picture_of(frames: np.ndarray, fps: Number | None) -> Picture:
    frames = _unmasked(frames)
    shape, dtype = frames.shape, frames.dtype
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        expected, got = "uint8 [frame, height, width, 3], none of them 0", f"{dtype} {list(shape)}"
        raise media_error("these are no frames", expected, got, "see np.moveaxis; (x * 255).astype(np.uint8)")
    if (len(frames) > 1) if fps is None else not LOWEST_FPS <= fps <= HIGHEST_FPS:
        expected = f"frames per second, {LOWEST_FPS:g} to {HIGHEST_FPS:g}"
        raise media_error("fps must be given for a film", expected, f"fps={fps}", "give fps=25")
    source = ArrayFrames(np.array(frames), None if fps is None else float(fps))
    numbers = np.arange(len(frames))
    return Picture(
        source=source,
        indices=numbers,
        seconds=numbers / (fps or 1.0),
        end_seconds=0.0 if fps is None else len(frames) / fps,
    )


def _sound_of(waveform: np.ndarray, sampling_rate_hz: int | None) -> Float32[np.ndarray, " sample"]:
    rate_hz = sampling_rate_hz or 0
    check_rate(rate_hz, f"sampling_rate_hz={sampling_rate_hz}")
    waveform = _unmasked(waveform)
    shape, dtype = waveform.shape, waveform.dtype
    if len(shape) not in (1, 2) or 0 in shape or (len(shape) == 2 and shape[0] > MAX_CHANNELS):
        expected = f"[sample] or [channel, sample] with at most {MAX_CHANNELS} channels"
        raise media_error("not the shape of a waveform", expected, list(shape), "if channels come last: waveform.T")
    if dtype != np.int16 and not np.issubdtype(dtype, np.floating):
        raise media_error(
            "not the type of a waveform", "int16, or float in [-1, 1]", dtype, "divide by the largest integer"
        )
    samples = np.atleast_2d(waveform) / (32_768 if dtype == np.int16 else 1)
    check_peak(samples, "the waveform")
    return resampled(samples.mean(axis=0).astype(np.float32), int(rate_hz))


# ---- Warnings --------------------------------------------------------------------------------------------------------


def _warned_if_silent(clip: Clip, name: str) -> Clip:
    if clip.sound is not None and np.abs(clip.sound).max() < SILENCE_PEAK:
        message = f"the sound of {name} is digital silence (peak below {SILENCE_PEAK:g}): the model will hear nothing"
        warnings.warn(message, HookedAVWarning, stacklevel=3)
    return clip


def _some_sound(sound: np.ndarray, start: float) -> Float32[np.ndarray, " sample"] | None:
    if len(sound):
        return sound.copy()
    warnings.warn(f"no sound from {start:g} s on: this clip has none", HookedAVWarning, stacklevel=3)
    return None
