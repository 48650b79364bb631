"""Knockout curves: change of the answer's probability over the layer that is cut.

Axes: pathway, layer.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hooked_av.plots.style import GREY, Drawing, figure_style, font_glyphs, look_of
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
        for number, (pathway, change) in enumerate(zip(curves.pathways, curves.change_percent, strict=True)):
            _draw(axes, pathway, change, number)
        axes.set_xlabel("layer")
        axes.set_ylabel(Y_LABEL)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=18, integer=True, min_n_ticks=1))
        axes.margins(x=0.02, y=0.12)
        axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(_title(curves))
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=4, title="attention cut")
    return figure


def _draw(axes: Axes, pathway: str, change: Float64[np.ndarray, " layer"], number: int) -> None:
    look = look_of(pathway.partition(" → ")[0])
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
