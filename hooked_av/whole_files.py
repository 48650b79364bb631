"""Files that are there complete or not at all; what cannot be written is said with its name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from uuid import uuid4

from hooked_av.errors import HookedAVError, excerpt

_STEM = 60  # letters of a name that are kept: a file system allows 255 in all
AGAIN = "make room, or take a path where you may write, and do the same again"


@contextmanager
def appearing(path: Path, error: type[HookedAVError], next_step: str = AGAIN) -> Iterator[Path]:
    """A name to write to; when the block ends well, the file stands under `path`, complete and on the disk.

    Errors: `error`, if it cannot be written.
    """
    part = part_of(path)
    try:
        with writing(path, error, next_step):
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A hidden name beside `path` that nobody else has, with its suffix; `parts_left` finds it again."""
    return path.with_name(f".{path.stem[:_STEM]}.{uuid4().hex}.part{path.suffix}")


def parts_left(path: Path) -> list[Path]:
    """What writers of `path` that were killed have left behind."""
    return list(path.parent.glob(f".{escape(path.stem[:_STEM])}.*.part{path.suffix}"))


@contextmanager
def writing(path: Path, error: type[HookedAVError], next_step: str = AGAIN) -> Iterator[None]:
    """Errors of the system, and of libraries that write for us, as one of ours that names what could not be written."""
    try:
        yield
    except HookedAVError:
        raise
    except Exception as why:  # libraries raise their own (safetensors, Arrow, FFmpeg), and plain ones out of Rust
        raise error(
            f"cannot write {excerpt(ascii(str(path)))[1:-1]}",
            expected="a disk with room, a folder that there is, and permission to write there",
            got=f"{type(why).__name__}: {excerpt(str(why).encode('utf-8', 'backslashreplace').decode(), 600)}",
            next_step=next_step,
        ) from why
