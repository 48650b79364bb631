"""The digits that come with the package: what evaluations, studies and samples of tiny-av are made of.

    hooked_av/tiny/held_out.npz    300 recordings of six speakers (8 kHz) and 360 pictures of 8 x 8; see the model card
    hooked_av/tiny/train.npz       as many of those that tiny-av was trained on

Made by `write_packaged` from the two data sets.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hooked_av.doors import door
from hooked_av.tiny.digits import INK_LEVELS, Digits, Images, packaged_images, packaged_rows, read_speech

Split = Literal["held_out", "train"]
FILES: Mapping[Split, Path] = {split: Path(__file__).parent / f"{split}.npz" for split in ("held_out", "train")}


@door
def read_held_out(path: Path = FILES["held_out"]) -> Digits:
    """Pictures and recordings that no training has met; they need no other package and no download.

    >>> digits = read_held_out()
    >>> len(digits.images.digits), len(digits.recordings.digits), sorted(set(digits.recordings.speakers))
    (360, 299, ['george', 'jackson', 'lucas', 'nicolas', 'theo', 'yweweler'])
    """
    return _read(path, held_out=True)


@lru_cache
def packaged_digits(split: Split) -> Digits:
    """The pictures and recordings of a split, read once.

    >>> len(packaged_digits("train").images.digits)
    360
    """
    return _read(FILES[split], held_out=split == "held_out")


def _read(path: Path, *, held_out: bool) -> Digits:
    with np.load(path) as data:
        images = Images((data["ink"] / INK_LEVELS).astype(np.float32), data["ink_digit"].astype(np.int64))
    return Digits(images, read_speech(path, held_out=held_out))


def write_packaged(speech: Path, path: Path, *, held_out: bool) -> Path:
    """Write one of the files anew, from scikit-learn's digits and an .npz of the Free Spoken Digit Dataset."""
    ink, ink_digit = packaged_images(held_out=held_out)
    arrays: dict[str, Any] = packaged_rows(speech, held_out=held_out)
    np.savez_compressed(path, **arrays, ink=ink.astype(np.uint8), ink_digit=ink_digit.astype(np.uint8))
    return path
