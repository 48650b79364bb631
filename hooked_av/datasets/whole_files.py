"""Files that are there complete or not at all; what cannot be written is said with its name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from hooked_av.errors import DatasetError


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A name to write to; when the block ends well, the file stands under `path`, complete and on the disk."""
    part = part_of(path)
    try:
        with writing(path):
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A hidden name beside `path` that nobody else has."""
    return path.with_name(f".{path.stem}.{uuid4().hex}.part")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the system, as one of ours that names what could not be written."""
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        raise DatasetError(
            f"cannot write {path}",
            expected="a disk with room, and permission to write there",
            got=f"{type(error).__name__}: {error}",
            next_step="make room (or take another folder) and run the same again: it goes on from what is finished",
        ) from error
