"""One place where what goes wrong inside a library, or in the file system, becomes an error of ours.

Readers of files raise whatever they like (a validator's own class, a plain `Exception` from Rust); whoever reads a
checkpoint gets one `CheckpointError` that names the file.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hooked_av.errors import CheckpointError, HookedAVError, excerpt

DOWNLOAD = "use a complete checkpoint folder, or download the file again"


@contextmanager
def reading(what: str, expected: str, next_step: str = DOWNLOAD) -> Iterator[None]:
    """Around a call of a library that reads a checkpoint: its errors become ours, and say what was read.

    Errors: `CheckpointError` for whatever was raised inside.

    >>> with reading("tokenizer.json", expected="a tokenizer that transformers reads"):
    ...     raise KeyError("added_tokens")
    Traceback (most recent call last):
    hooked_av.errors.CheckpointError: cannot read tokenizer.json
      expected: a tokenizer that transformers reads
      got:      KeyError: 'added_tokens'
      next:     use a complete checkpoint folder, or download the file again
    """
    try:
        yield
    except HookedAVError:
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {excerpt(' '.join(str(error).split()), 600)}"
        raise CheckpointError(f"cannot read {what}", expected=expected, got=got, next_step=next_step) from error


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One JSON file of a checkpoint folder: an object, in UTF-8, in which no name stands twice.

    Errors: `CheckpointError` for anything else.
    """
    with reading(name, expected=f"a JSON object in UTF-8 at {folder / name}, no name in it twice"):
        found = json.loads((folder / name).read_text(encoding="utf-8"), object_pairs_hook=_once)
        if not isinstance(found, dict):
            raise TypeError(f"{excerpt(found, 60)} is no object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{excerpt(next(name for name in names if names.count(name) > 1))!r} stands there twice")
    return found
