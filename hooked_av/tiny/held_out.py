"""The held-out digits that come with the package: what evaluations and studies of tiny-av are made of.

    hooked_av/tiny/held_out.npz    300 recordings of six speakers (8 kHz) and 360 pictures of 8 x 8; see the model card

Made by `write_held_out` from the two data sets; nothing in it has been trained on.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hooked_av.doors import door
from hooked_av.tiny.digits import INK_LEVELS, Digits, Images, held_out_images, held_out_rows, read_speech

FILE = Path(__file__).parent / "held_out.npz"


@door
def read_held_out(path: Path = FILE) -> Digits:
    """Pictures and recordings that no training has met; they need no other package and no download.

    >>> digits = read_held_out()
    >>> len(digits.images.digits), len(digits.recordings.digits), sorted(set(digits.recordings.speakers))
    (360, 299, ['george', 'jackson', 'lucas', 'nicolas', 'theo', 'yweweler'])
    """
    with np.load(path) as data:
        images = Images((data["ink"] / INK_LEVELS).astype(np.float32), data["ink_digit"].astype(np.int64))
    return Digits(images, read_speech(path, held_out=True))


def write_held_out(speech: Path, path: Path = FILE) -> Path:
    """Write the file anew, from scikit-learn's digits and an .npz of the Free Spoken Digit Dataset."""
    ink, ink_digit = held_out_images()
    arrays: dict[str, Any] = held_out_rows(speech)
    np.savez_compressed(path, **arrays, ink=ink.astype(np.uint8), ink_digit=ink_digit.astype(np.uint8))
    return path
