"""Draw the pictures of the how-to pages: python docs/make_figures.py [page ...] (two minutes for all).

A picture is what the code above it draws: the blocks of a page are run from top to bottom, and a picture that stands
right behind a block is the `figure` of that block. So no picture can be of other code than the reader sees.
"""

import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
from PIL import Image

DOCS = Path(__file__).parent
PAGES = (DOCS / "start" / "ten_minutes.md", *sorted((DOCS / "howto").glob("*.md")))
DPI = 100
LARGEST = 60_000  # bytes of a picture
COLOURS = 64
PALETTES = (Image.Quantize.MEDIANCUT, Image.Quantize.FASTOCTREE)  # the second where frames of a film are too much
MARGIN = 0.1  # inch around a picture
_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n!\[[^\]]*\]\((?P<picture>[^)]+)\))?", re.DOTALL | re.MULTILINE
)


def blocks(page: Path) -> Iterator[tuple[str, Path | None]]:
    """The code blocks of a page, each with the picture that stands right behind it."""
    for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        picture = found["picture"]
        yield found["code"], None if picture is None else (page.parent / picture).resolve()


def draw_page(page: Path) -> list[Path]:
    """Run a page's code, and write its pictures."""
    names: dict[str, Any] = {"__name__": f"docs_{page.stem}"}
    written = []
    for code, picture in blocks(page):
        exec(compile(code, str(page), "exec"), names)
        if picture is not None:
            write(names["figure"], picture)
            written.append(picture)
    return written


def write(figure: Any, path: Path) -> None:
    """A figure as a PNG of few colours, which is small and looks the same to the eye.

    Errors: `ValueError` for a picture that is too large for a page.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, bbox_inches="tight", pad_inches=MARGIN, facecolor="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    for palette in PALETTES:
        Image.open(drawn).convert("RGB").quantize(COLOURS, palette).save(path, optimize=True)
        if path.stat().st_size <= LARGEST:
            return
    raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes: draw less, or fewer samples")


def main(names: list[str]) -> None:
    """Draw the pages of these names, or all."""
    mpl.use("Agg")
    here = Path.cwd()
    for page in PAGES:
        if names and page.stem not in names:
            continue
        with TemporaryDirectory() as folder:
            os.chdir(folder)  # what a page saves stays out of the repository
            try:
                draw_page(page)
            finally:
                os.chdir(here)


if __name__ == "__main__":
    main(sys.argv[1:])
