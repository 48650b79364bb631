"""Answer trace: probability and rank of each option over the layers.

Axes: layer, option.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hooked_av.plots.lens import convention_words
from hooked_av.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Canvas,
    Drawing,
    Look,
    figure_style,
    font_glyphs,
)
from hooked_av.plots.text import drawable, shortened

_LOOKS = (
    Look(BLUE, line="-", marker="o"),
    Look(VERMILLION, line="--", marker="s"),
    Look(GREEN, line="-.", marker="^"),
    Look(ORANGE, line=":", marker="D"),
    Look(PURPLE, line="-", marker="v"),
    Look(SKY, line="--", marker="P"),
    Look(BLACK, line="-.", marker="X"),
)


def plot_answer_trace(trace: Any, on: Canvas = Drawing) -> FigureBase:
    """An `AnswerTrace`.

    Left: probability; right: rank among all tokens, 1 on top. Options differ in line and marker.
    """
    with figure_style():
        figure = on(figsize=(9.6, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, option in enumerate(trace.options):
            name = shortened(drawable(option, font_glyphs()), 20)
            _draw(left, trace.probabilities[:, number], number, name)
            _draw(right, trace.ranks[:, number] + 1, number, name)
        left.set(ylabel="probability", ylim=(-0.03, 1.03))
        right.set(ylabel="rank among all tokens", yscale="log")
        right.invert_yaxis()
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.yaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:g}"))
        right.yaxis.set_minor_locator(NullLocator())
        for axes in (left, right):
            axes.set_xlabel("layer")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
            axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
            axes.set_axisbelow(True)
        at = trace.settings.get("at", "last")
        left.set_title(f"Answer trace at “{at}” ({convention_words(trace.settings)})")
        right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=4, title="option")
    return figure


def _draw(axes: Axes, values: np.ndarray, number: int, name: str) -> None:
    look = _LOOKS[number % len(_LOOKS)]
    axes.plot(
        np.arange(len(values)),
        values,
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markersize=6,
        markerfacecolor="white" if number >= len(_LOOKS) else look.colour,
        linewidth=1.8,
        label=name,
    )
