"""One look for all figures: vector, colour-blind safe (Okabe and Ito, 2008), and readable when printed grey.

Nothing is told apart by colour alone: curves differ in line and marker, kinds of token in hatch and label.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.font_manager import FontProperties, findfont, get_font

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY, PALE = "#8A8A8A", "#DCDCDC"

_PICTURE_DPI = 120  # of thumbnails; everything else is vector

_SETTINGS: dict[Any, Any] = {
    "figure.dpi": 96,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that figures look alike everywhere
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "path",  # no font of the reader's machine can move a label
    "svg.hashsalt": "hooked_av",  # the same result gives the same bytes
}


@dataclass(frozen=True)
class Look:
    """How one kind of token or curve is drawn."""

    colour: str
    hatch: str = ""
    line: str = "-"
    marker: str = "o"


LOOKS: Mapping[str, Look] = {
    "audio": Look(ORANGE, "", "-", "o"),
    "video": Look(BLUE, "////", "--", "s"),
    "image": Look(SKY, "\\\\\\\\", "-.", "^"),
    "av": Look(PURPLE, "xxxx", ":", "D"),
    "question": Look(GREEN, "||||", ":", "v"),
    "options": Look(PURPLE, "xx", "-.", "P"),
    "last": Look(VERMILLION, "++++", "--", "X"),
    "boundary": Look(BLACK),
}
OTHER_LOOK = Look(PALE, "", "-", ".")


def look_of(span: str) -> Look:
    """How a span is drawn, whichever item or option it belongs to.

    >>> look_of("item0.audio") == look_of("audio"), look_of("option_b") == look_of("options")
    (True, True)
    """
    name = span.rpartition(".")[2]
    return LOOKS.get("options" if name.startswith("option") else name, OTHER_LOOK)


class Drawing(Figure):
    """A figure that notebooks show as SVG, once, with no global state of pyplot."""

    def _repr_svg_(self) -> str:
        return svg_text(self)


Canvas = Callable[..., FigureBase]  # of figsize and layout: a new figure, or a part of one that is there


@contextmanager
def figure_style() -> Iterator[None]:
    """Our settings while a figure is made or written; the caller's come back afterwards."""
    with mpl.rc_context(_SETTINGS):
        yield


def svg_text(figure: Figure) -> str:
    """The figure as SVG text; equal figures give equal text."""
    buffer = io.StringIO()
    with figure_style():
        figure.savefig(
            buffer, format="svg", dpi=_PICTURE_DPI, bbox_inches="tight", pad_inches=0.08, metadata={"Date": None}
        )
    return buffer.getvalue()


@cache
def font_glyphs() -> frozenset[int]:
    """Code points that the font of our figures can draw."""
    return frozenset(get_font(findfont(FontProperties(family=["DejaVu Sans"]))).get_charmap())


def bare(axes: Axes) -> None:
    """No ticks and no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def lane_label(axes: Axes, name: str, detail: str = "") -> None:
    """The name of a lane, and a smaller line beneath it, on the left."""
    place: dict[str, Any] = {"xy": (0, 0.5), "xycoords": "axes fraction", "textcoords": "offset points", "ha": "right"}
    upper = "bottom" if detail else "center"
    axes.annotate(name, xytext=(-8, 1 if detail else 0), va=upper, weight="bold", fontsize=9, **place)
    axes.annotate(detail, xytext=(-8, -1), va="top", fontsize=8, color="#444444", linespacing=1.15, **place)
