"""Curves over layers: looks that differ without colour, bands for intervals, and the axes that all of them share.

Axes: layer; edge (of an interval).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hooked_av.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    OTHER_LOOK,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    Look,
    look_of,
)

MARKERS = "oPsD^vX*phd<>"
LINES = ("-", "--", ":", "-.")
_COLOURS = (BLACK, SKY, GREEN, PURPLE, VERMILLION, BLUE, YELLOW)


def distinct_looks(names: Sequence[str]) -> list[Look]:
    """A look for each curve: its span's own where it has one that is free; no two share a marker.

    >>> looks = distinct_looks(["audio", "system", "other", "item0.audio"])
    >>> looks[0] == look_of("audio"), len({look.marker for look in looks})
    (True, 4)
    """
    looks: list[Look | None] = []
    for name in names:
        look = look_of(name)
        taken = {one.marker for one in looks if one is not None}
        looks.append(None if look == OTHER_LOOK or look.marker in taken else look)
    own = [look for look in looks if look is not None]
    pairs = [(_COLOURS[i % 7], LINES[i % 4]) for i in range(28)]
    pairs = [pair for pair in pairs if pair not in {(look.colour, look.line) for look in own}]
    free = [marker for marker in MARKERS if marker not in {look.marker for look in own}]
    spare = iter(
        Look(pairs[i % len(pairs)][0], "", pairs[i % len(pairs)][1], free[i % len(free)]) for i in range(len(names))
    )
    return [look if look is not None else next(spare) for look in looks]


def draw_curve(
    axes: Axes,
    x: Int64[np.ndarray, " layer"] | Float[np.ndarray, " layer"],
    y: Float[np.ndarray, " layer"],
    look: Look,
    label: str,
    band: Float[np.ndarray, "edge=2 layer"] | None = None,
    number: int = 0,
) -> None:
    """One curve with its interval; odd ones have hollow markers."""
    if band is not None and not np.isnan(band).all():
        axes.fill_between(x, band[0], band[1], color=look.colour, alpha=0.18, linewidth=0, zorder=1)
    axes.plot(
        x,
        y,
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markersize=5.5,
        markerfacecolor="white" if number % 2 else look.colour,
        markeredgewidth=1.3,
        linewidth=1.7,
        label=label,
        zorder=2 + number,
    )


def label_axes(axes: Axes, x_label: str, y_label: str, title: str = "") -> None:
    """Labels, whole layers on the x axis, and a quiet grid."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=9.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.margins(x=0.03, y=0.1)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)


def clean_line(axes: Axes, value: float, label: str) -> None:
    """The clean run, as a grey line across."""
    axes.axhline(value, color=GREY, linewidth=1.2, zorder=1, label=label)
