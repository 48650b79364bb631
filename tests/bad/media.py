"""Files, spans of time and arrays that are no clip."""

import numpy as np

import hooked_av as av
from bad import Bad


def _written(name: str, content: bytes):
    def make(at):
        (at.folder / name).write_bytes(content)
        return at.folder / name

    return make


ROWS = [
    Bad("a file that is not there", lambda at, _: av.Clip.from_file("nowhere.mp4"), "no such file"),
    Bad("an empty film", lambda at, path: av.Clip.from_file(path), "empty", _written("x.mp4", b"")),
    Bad("an empty sound", lambda at, path: av.Clip.from_file(path), "empty", _written("x.wav", b"")),
    Bad("a text called film", lambda at, path: av.Clip.from_file(path), "cannot read", _written("x.mp4", b"word" * 99)),
    Bad("frames of floats", lambda at, _: av.Clip.from_arrays(np.zeros((2, 8, 8, 3)), fps=1), "uint8"),
]  # fmt: skip
