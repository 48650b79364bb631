"""Knockout curves: change of the answer's probability over the layer that is cut.

Axes: pathway, layer.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hooked_av.plots.curves import LINES, MARKERS
from hooked_av.plots.style import GREY, Drawing, Look, figure_style, font_glyphs, look_of
from hooked_av.plots.text import drawable, shortened

Y_LABEL = "change of answer probability, %"


@runtime_checkable
class Curves(Protocol):
    """What is drawn of an `analyses.knockout.KnockoutCurves`."""

    @property
    def pathways(self) -> tuple[str, ...]: ...
    @property
    def change_percent(self) -> Float64[np.ndarray, "pathway layer"]: ...
    @property
    def answer(self) -> str: ...
    @property
    def p_base(self) -> float: ...
    @property
    def width(self) -> int: ...


def plot_knockout_curves(curves: Curves) -> Drawing:
    """One curve a pathway; curves differ in line and marker, and the grey line is the clean run."""
    with figure_style():
        figure = Drawing(figsize=(8.4, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color=GREY, linewidth=1, zorder=1)
        looks = _looks(curves.pathways)
        for number, (pathway, look) in enumerate(zip(curves.pathways, looks, strict=True)):
            _draw(axes, pathway, curves.change_percent[number], look, number)
        axes.set_xlabel("layer")
        axes.set_ylabel(Y_LABEL)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=18, integer=True, min_n_ticks=1))
        axes.margins(x=0.02, y=0.12)
        axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(_title(curves))
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=4, title="attention cut")
    return figure


def _looks(pathways: Sequence[str]) -> list[Look]:
    """Colours of the keys; of several curves of the same keys only the first has their line and marker.

    >>> [(look.line, look.marker) for look in _looks(["audio → question", "video → question", "audio → last"])]
    [('-', 'o'), ('--', 's'), (':', 'P')]
    """
    own = [look_of(pathway.partition(" → ")[0]) for pathway in pathways]
    markers = cycle([marker for marker in MARKERS if marker not in {look.marker for look in own}])
    lines = [line for line in LINES if line not in {look.line for look in own}]
    spare = cycle(lines or LINES)
    again = [look in own[:number] for number, look in enumerate(own)]
    return [
        replace(look, line=next(spare), marker=next(markers)) if seen else look
        for look, seen in zip(own, again, strict=True)
    ]


def _draw(axes: Axes, pathway: str, change: Float64[np.ndarray, " layer"], look: Look, number: int) -> None:
    axes.plot(
        np.arange(len(change)),
        change,
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markersize=6.5,
        markerfacecolor="white" if number % 2 else look.colour,
        markeredgewidth=1.6,
        linewidth=2,
        label=pathway,
        zorder=2 + number,
    )


def _title(curves: Curves) -> str:
    answer = shortened(drawable(curves.answer, font_glyphs()), 24)
    cut = "each layer alone" if curves.width == 1 else f"a window of {curves.width} layers around each layer"
    return f"Attention cut in {cut}. Clean answer: “{answer}”, p = {curves.p_base:.3g}"
