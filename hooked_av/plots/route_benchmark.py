"""The benchmark of methods: what each sees of each way, beside its random control, and whether that is right.

Axes: subject (columns), method (rows), way (two bars of a cell).
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from hooked_av.plots.style import BLACK, BLUE, GREY, Drawing, figure_style

_BAR = 0.22  # height of a bar, in rows
_WIDTH = 0.7  # of a cell: a share of 1
_LEFT = 0.06
_WAYS = (("through the question", -0.16, "white", "/////"), ("past the question", 0.16, BLUE, ""))
_SCORES = {"right": ("✓", "white"), "wrong": ("✗", "#C9C9C9"), "cannot say": ("?", "#EFEFEF"), "": ("", "white")}
_LEAST_INCHES, _COLUMN_INCHES, _ROW_INCHES = 7.6, 1.25, 0.42


def plot_route_benchmark(benchmark: Any) -> Drawing:
    """A `RouteBenchmark`.

    Rows are methods, columns models and forms. A cell's bars are the shares of the answer that a method sees through
    the question and past it, with the 95 % interval beyond the control, which is a black tick; its mark says whether
    what the method says is right.
    """
    n_methods, n_subjects = len(benchmark.methods), len(benchmark.models)
    with figure_style():
        size = (max(_LEAST_INCHES, 2.6 + _COLUMN_INCHES * n_subjects), 1.9 + _ROW_INCHES * n_methods)
        figure = Drawing(figsize=size, layout="constrained")
        axes = figure.subplots()
        for row in range(n_methods):
            for column in range(n_subjects):
                _cell(axes, benchmark, row, column)
        axes.set_yticks(range(n_methods), benchmark.methods)
        axes.set_xticks([column + 0.5 for column in range(n_subjects)], _names(benchmark), fontsize=8)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_xlim(0, n_subjects)
        axes.set_ylim(n_methods - 0.5, -0.5)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.legend(handles=_legend(), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False)
        figure.suptitle(_title(benchmark), x=0.01, ha="left", fontsize=10.5)
    return figure


def _cell(axes: Axes, benchmark: Any, row: int, column: int) -> None:
    mark, paper = _SCORES[str(benchmark.score[column, row])]
    axes.add_patch(Rectangle((column, row - 0.5), 1, 1, facecolor=paper, edgecolor=GREY, linewidth=0.6, zorder=1))
    low, high = benchmark.interval[:, column, row]
    for way, (_, offset, colour, hatch) in enumerate(_WAYS):
        seen, control = (float(part[column, row, way]) for part in (benchmark.seen, benchmark.control))
        place = row + offset
        axes.barh(place, _WIDTH * np.clip(seen, 0, 1), _BAR, left=column + _LEFT, color=colour, hatch=hatch,
                  edgecolor=BLACK, linewidth=0.6, zorder=2)  # fmt: skip
        ends = [column + _LEFT + _WIDTH * float(np.clip(control + end[way], 0, 1)) for end in (low, high)]
        axes.plot(ends, [place, place], color=BLACK, linewidth=0.8, zorder=3)
        at = column + _LEFT + _WIDTH * float(np.clip(control, 0, 1))
        axes.plot([at, at], [place - _BAR / 2, place + _BAR / 2], color=BLACK, linewidth=2.2, zorder=4)
    axes.text(column + 0.97, row, mark, ha="right", va="center", fontsize=12, zorder=5)


def _names(benchmark: Any) -> list[str]:
    known = {"question": "by the question", "behind": "past it", "both": "either way", "cannot say": "not known"}
    rows = zip(benchmark.models, benchmark.forms, benchmark.truth, benchmark.n, strict=True)
    return [f"{model}\n{form}\n{known[truth]}\nn = {n}".replace("tiny-av-", "") for model, form, truth, n in rows]


def _legend() -> list[Any]:
    bars = [Patch(facecolor=colour, hatch=hatch, edgecolor=BLACK, label=name) for name, _, colour, hatch in _WAYS]
    tick = Line2D([], [], color=BLACK, marker="|", markersize=9, markeredgewidth=2.2, linestyle="",
                  label="random control")  # fmt: skip
    marks = [
        Patch(facecolor=paper, edgecolor=GREY, label=f"{mark} {score}")
        for score, (mark, paper) in _SCORES.items()
        if score
    ]
    return [*bars, tick, *marks]


def _title(benchmark: Any) -> str:
    return (
        "What methods say of known routes: the share of the answer that each sees\n"
        "on each way (a full bar: all of it). "
        f"A way counts as seen from {100 * benchmark.settings['seen']:.0f} % beyond the control on."
    )
