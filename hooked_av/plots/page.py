"""Pages from the templates in `hooked_av/data`: text from outside is escaped, and a page is written whole or not."""

import base64
import os
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from hooked_av.errors import HookedAVError
from hooked_av.plots.style import svg_text
from hooked_av.whole_files import appearing, writing

REPORT = "report.html"
_TEMPLATES = Path(__file__).parent.parent / "data"


def render(template: str, **values: Any) -> str:
    """The template with its values; one that is missing raises."""
    return _environment().get_template(template).render(**values)


def image_address(figure: Figure) -> str:
    """A figure as the address of an image; inside an image no script can run, and ids of two figures never meet."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg_text(figure).encode()).decode("ascii")


def write_page(page: str, folder: str | Path) -> Path:
    """Write a page as `report.html` into `folder`; complete, or not there.

    Errors: `HookedAVError` when the folder cannot be written.
    """
    folder = check_folder(folder)
    path = folder / REPORT
    with writing(path, HookedAVError):
        folder.mkdir(parents=True, exist_ok=True)
    with appearing(path, HookedAVError) as part:
        part.write_text(page, encoding="utf-8")
    return path


def check_folder(folder: str | Path) -> Path:
    """The folder, if a report can be written there; nothing is made yet.

    Errors: `HookedAVError` for a file in its place, or a folder without permission to write.

    >>> check_folder("demo").name
    'demo'
    """
    folder = Path(folder)
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise _cannot_write(folder, f"{nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _cannot_write(folder, f"no permission to write in {nearest}")
    if (folder / REPORT).is_dir():
        raise _cannot_write(folder, f"{folder / REPORT} is a folder")
    return folder


def _cannot_write(folder: Path, got: str) -> HookedAVError:
    return HookedAVError(
        f"cannot write a report into {folder}",
        expected="a folder that can be written, or that can be made",
        got=got,
        next_step="choose another folder",
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
