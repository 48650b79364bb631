"""Digits for the tests of tiny-av: real handwritten ones, and spoken ones of synthetic voices."""

from functools import lru_cache
from pathlib import Path

from hooked_av.tiny.digits import Digits, read_images, read_speech

VOICES = Path(__file__).parents[1] / "data" / "tiny" / "voices.npz"


@lru_cache
def some_digits(*, held_out: bool = True) -> Digits:
    return Digits(read_images(held_out=held_out), read_speech(VOICES, held_out=held_out))
