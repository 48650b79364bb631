"""Scenes of the tiny-av task: which digit is shown and which is spoken in each second, and the clip that shows them.

A scene is one clip, or several items (clips, pictures, sounds) in one prompt. Every second shows one handwritten digit,
moved a little from frame to frame on a noisy background, and speaks one recorded digit somewhere in that second.

Axes: second; frame; height, width, 3; sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip
from hooked_av.tiny.digits import Digits, Images, Recordings

FRAME_PIXELS = 56
FPS = 2  # what the model samples; the clips in the package have more
DIGIT_PIXELS = (30, 46)  # smallest and largest side of a digit
_DRIFT_PIXELS = 2


@dataclass(frozen=True)
class Item:
    """One piece of media: the digits of its seconds. A picture speaks nothing, a sound shows nothing."""

    shown: tuple[int, ...] = ()
    spoken: tuple[int, ...] = ()
    is_still: bool = False

    @property
    def seconds(self) -> int:
        return max(len(self.shown), len(self.spoken))


@dataclass(frozen=True)
class Scene:
    """The items of one prompt, in order; `counted` are the digits that counting asks about (shown, spoken)."""

    items: tuple[Item, ...]
    counted: tuple[int, int] | None = None

    @property
    def clip(self) -> Item:
        """The one clip of a scene that has no more."""
        (item,) = self.items
        return item


@dataclass(frozen=True)
class Appearance:
    """How clips are rendered: frames a second, how loud the noise is, how far digits are from their originals.

    `warp` is how far the four numbers of a digit's random linear map (turn, slant, width, height) may be from those of
    no change; `tempo` how much faster or slower (and higher or lower) a word may be spoken.
    """

    fps: int = FPS
    picture_noise: float = 22.0  # grey levels
    sound_noise: float = 0.012  # of full scale, at most
    warp: float = 0.0
    tempo: float = 0.0


AS_IT_IS = Appearance()
LEARNING = Appearance(warp=0.15, tempo=0.1)  # encoders see no digit twice


def render(scene: Scene, digits: Digits, rng: np.random.Generator, look: Appearance = AS_IT_IS) -> list[Clip]:
    """The clips of a scene, with images and recordings drawn at random."""
    return [_clip(item, digits, rng, look) for item in scene.items]


def _clip(item: Item, digits: Digits, rng: np.random.Generator, look: Appearance) -> Clip:
    if item.is_still:
        return Clip.from_arrays(_second(item.shown[0], digits.images, rng, 1, look))
    film = [_second(digit, digits.images, rng, look.fps, look) for digit in item.shown]
    sound = sound_track(item.spoken, digits.recordings, rng, look) if item.spoken else None
    return Clip.from_arrays(
        np.concatenate(film) if film else None,
        look.fps if film else None,
        sound,
        SAMPLING_RATE_HZ if sound is not None else None,
    )


def _second(
    digit: int, images: Images, rng: np.random.Generator, n_frames: int, look: Appearance
) -> UInt8[np.ndarray, "frame height width 3"]:
    """One second of film: the digit in some size, place and colour, drifting a little."""
    drawings = images.of(digit)
    side = int(rng.integers(*DIGIT_PIXELS, endpoint=True))
    ink = _enlarged(drawings[rng.integers(len(drawings))], side)
    if look.warp:
        ink = _warped(ink, rng.uniform(-look.warp, look.warp, (2, 2)))
    room = FRAME_PIXELS - side - _DRIFT_PIXELS
    corner = rng.integers(0, room, size=2, endpoint=True)
    paper, pen = _colours(rng)
    frames = np.broadcast_to(paper, (n_frames, FRAME_PIXELS, FRAME_PIXELS, 3)).copy()
    for frame, (top, left) in zip(frames, corner + rng.integers(0, _DRIFT_PIXELS, (n_frames, 2)), strict=True):
        frame[top : top + side, left : left + side] += ink[..., None] * (pen - paper)
    noise = rng.standard_normal((n_frames, FRAME_PIXELS, FRAME_PIXELS, 1), dtype=np.float32)
    return (frames + noise * rng.uniform(0, look.picture_noise)).clip(0, 255).astype(np.uint8)


def _enlarged(ink: Float32[np.ndarray, "row column"], side: int) -> Float32[np.ndarray, "height width"]:
    picture = Image.fromarray((ink * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32) / 255


def _warped(
    ink: Float32[np.ndarray, "height width"], change: Float64[np.ndarray, "2 2"]
) -> Float32[np.ndarray, "height width"]:
    """The picture under a linear map about its middle, given as its difference from no change."""
    middle = (len(ink) - 1) / 2
    (a, b), (c, d) = np.eye(2) + change
    offset = middle * (1 - a - b), middle * (1 - c - d)
    picture = Image.fromarray(ink)
    warped = picture.transform(
        picture.size, Image.Transform.AFFINE, (a, b, offset[0], c, d, offset[1]), Image.Resampling.BILINEAR
    )
    return np.asarray(warped, dtype=np.float32)


def _colours(rng: np.random.Generator) -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
    """Paper and pen, one dark and one light."""
    dark, light = rng.uniform(0, 90, 3), rng.uniform(150, 255, 3)
    pair = (dark, light) if rng.random() < 0.5 else (light, dark)
    return pair[0].astype(np.float32), pair[1].astype(np.float32)


def sound_track(
    spoken: Sequence[int], recordings: Recordings, rng: np.random.Generator, look: Appearance
) -> Float32[np.ndarray, " sample"]:
    """One word a second, each somewhere in its second, over faint noise."""
    track = rng.standard_normal(len(spoken) * SAMPLING_RATE_HZ, dtype=np.float32)
    track *= np.float32(rng.uniform(1e-3, look.sound_noise))
    for second, digit in enumerate(spoken):
        choices = np.flatnonzero(recordings.digits == digit)
        word = recordings.waves[int(choices[rng.integers(len(choices))])]
        if look.tempo:
            word = _faster(word, rng.uniform(1 - look.tempo, 1 + look.tempo))
        start = second * SAMPLING_RATE_HZ + int(rng.integers(0, SAMPLING_RATE_HZ - len(word), endpoint=True))
        track[start : start + len(word)] += word * np.float32(rng.uniform(0.25, 0.9))
    return track


def _faster(word: Float32[np.ndarray, " sample"], factor: float) -> Float32[np.ndarray, " changed"]:
    """The word at another tempo and pitch; one that would be too long for its second is left as it is."""
    n_samples = round(len(word) / factor)
    if n_samples >= SAMPLING_RATE_HZ:
        return word
    return np.interp(np.linspace(0, len(word) - 1, n_samples), np.arange(len(word)), word).astype(np.float32)
