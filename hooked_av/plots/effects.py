"""Cells of signed numbers: effects of patches by layer and span, head, or second.

More is darker, in print too; positive cells are orange, negative ones blue and striped: the sign needs no colour.

Axes: row, column.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

COLOURS = LinearSegmentedColormap.from_list(
    "effects", ["#00263D", "#0072B2", "#D9EAF7", "#FFFFFF", "#FBE3CF", "#D55E00", "#451D00"]
)
NO_CELL = "#E9E9E9"  # where there is nothing to measure
_MAX_WRITTEN, _MAX_VECTOR = 260, 4000  # cells: with their number, and as vectors
# stripes of negative cells, by their share of the peak: seen on dark blue, and on pale
_STRIPES = (("#FFFFFF", -np.inf, -0.35), ("#6F8FA6", -0.35, -0.04))


def peak_of(effects: Float64[np.ndarray, "..."]) -> float:
    """The size at which the colours end.

    >>> peak_of(np.array([0.5, -2.0, np.nan]))
    2.0
    """
    sizes = np.abs(effects[np.isfinite(effects)])
    return float(sizes.max(initial=0.0)) or 1.0


def draw_effects(
    axes: Axes,
    effects: Float64[np.ndarray, "row column"],
    x_edges: Float[np.ndarray, " edge"] | None = None,
    *,
    peak: float,
) -> None:
    """One cell a number; row 0 is the lowest. Without `x_edges` column i is centred on i."""
    n_rows, n_columns = effects.shape
    x = np.arange(n_columns + 1) - 0.5 if x_edges is None else x_edges
    y = np.arange(n_rows + 1) - 0.5
    axes.set_facecolor(NO_CELL)
    mesh = axes.pcolormesh(x, y, np.ma.masked_invalid(effects), cmap=COLOURS, norm=Normalize(-peak, peak))
    mesh.set_rasterized(effects.size > _MAX_VECTOR)
    shares = np.nan_to_num(effects) / peak
    for colour, low, high in _STRIPES:
        cells = np.argwhere((shares >= low) & (shares < high))
        _stripe(axes, [Rectangle((x[c], y[r]), x[c + 1] - x[c], 1) for r, c in cells.tolist()], colour)
    if x_edges is None and effects.size <= _MAX_WRITTEN:
        _write(axes, effects, peak)
    axes.tick_params(length=0)


def _write(axes: Axes, effects: Float64[np.ndarray, "row column"], peak: float) -> None:
    for (row, column), effect in np.ndenumerate(effects):
        text = number(effect)
        if text:
            # the better contrast on this cell
            colour = "white" if abs(effect) > 0.55 * peak else "black"
            # stripes do not go through the numbers
            box: Any = {"boxstyle": "square,pad=0.12", "facecolor": COLOURS((1 + effect / peak) / 2), "linewidth": 0}
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour, bbox=box)


def number(effect: float) -> str:
    """An effect as its cell shows it; nothing for nan and for what rounds to zero.

    >>> [number(effect) for effect in (0.456, -0.02, 0.001, float("nan"))]
    ['.46', '−.02', '', '']
    """
    if not np.isfinite(effect) or abs(effect) < 0.005:
        return ""
    text = f"{abs(effect):.2f}" if abs(effect) < 9.995 else f"{abs(effect):.0f}"
    return ("−" if effect < 0 else "") + text.removeprefix("0")


def colour_scale(figure: Any, axes: Sequence[Axes], peak: float, label: str) -> None:
    """The scale beside the cells, negative side striped as the cells are."""
    shades = ScalarMappable(Normalize(-peak, peak), COLOURS)
    bar = figure.colorbar(shades, ax=list(axes), label=label, pad=0.02, shrink=0.9)
    for colour, low, high in _STRIPES:
        _stripe(bar.ax, [Rectangle((0, peak * max(low, -1)), 1, peak * (high - max(low, -1)))], colour)


def _stripe(axes: Axes, boxes: list[Rectangle], colour: str) -> None:
    stripes = PatchCollection(boxes, facecolor="none", edgecolor=colour, linewidth=0, hatch="////")
    stripes.set_rasterized(len(boxes) > _MAX_VECTOR)
    axes.add_collection(stripes, autolim=False)


def few_ticks(n: int, at_most: int = 13) -> list[int]:
    """Numbers 0 ... n - 1, or every second, third ... of them.

    >>> few_ticks(28, at_most=10)
    [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    """
    return list(range(0, n, -(-n // at_most)))
