"""Information flow: a small panel for each pathway, the change of the metric over the layer that is cut.

Axes: pathway, layer, edge (low, high).
"""

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hooked_av.plots.metric import CHANGES, metric_of_answer, metric_value, saturation_of
from hooked_av.plots.style import BLACK, GREY, Drawing, figure_style, font_glyphs, look_of
from hooked_av.plots.text import drawable, shortened

_COLUMNS = 4
_PANEL_INCHES = (2.35, 1.75)
_LEGEND_INCHES = 1.8
_BAND = "#AAAAAA"


def plot_information_flow(flow: Any) -> Drawing:
    """An `InformationFlow`: curves with 95 % intervals; grey and dashed, with a hatched band: random cuts as large.

    Of one sample the title says the answer, and what the metric was before anything was cut; it says where p is near 1.
    """
    n_pathways = len(flow.pathways)
    n_columns = min(_COLUMNS, n_pathways)
    n_rows = -(-n_pathways // n_columns)
    with figure_style():
        is_compared = not np.isnan(flow.control_change).all()
        width = max(5.2, _PANEL_INCHES[0] * n_columns + 0.5) + _LEGEND_INCHES * is_compared
        size = (width, _PANEL_INCHES[1] * n_rows + 1.3)
        figure = Drawing(figsize=size, layout="constrained")
        panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
        for number, axes in enumerate(panels):
            if number >= n_pathways:
                axes.remove()
                continue
            _draw(axes, flow, number)
            axes.tick_params(labelbottom=number + n_columns >= n_pathways, labelleft=number % n_columns == 0)
        figure.supxlabel("layer (centre of the window that is cut)" if flow.window > 1 else "layer", fontsize=9.5)
        # A label in one line is longer than one row of panels is high.
        label = fill(CHANGES[flow.metric], 24) if n_rows == 1 else CHANGES[flow.metric]
        figure.supylabel(label, fontsize=9.5, ha="center")
        figure.suptitle(_title(flow), x=0.01, ha="left", fontsize=10.5)
        if is_compared:
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside right center", frameon=False, handlelength=3)
    return figure


def _draw(axes: Axes, flow: Any, number: int) -> None:
    pathway, change = flow.pathways[number], flow.change[number]
    layers, look = np.arange(len(change)), look_of(pathway.partition(" → ")[0])
    colour = BLACK if look.marker == "." else look.colour
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    control, (low, high) = flow.control_change[number], flow.control_interval[:, number]
    if not np.isnan(control).all():
        style: Any = {"facecolor": "none", "edgecolor": _BAND, "hatch": "////", "linewidth": 0}
        axes.fill_between(layers, low, high, zorder=1.5, **style)
        axes.plot(layers, control, color=GREY, linestyle=(0, (2, 1.5)), linewidth=1.2, zorder=2, label="random cuts")
    low, high = flow.interval[:, number]
    axes.fill_between(layers, low, high, color=colour, alpha=0.25, linewidth=0, zorder=2.5)
    marker: Any = {"marker": look.marker, "markersize": 4, "markerfacecolor": "white", "markeredgewidth": 1.2}
    axes.plot(layers, change, color=colour, linewidth=1.6, zorder=3, label="this pathway cut", **marker)
    axes.set_title(pathway.replace("_", " "), fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.margins(x=0.03, y=0.1)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)


def _title(flow: Any) -> str:
    cut = "each layer alone" if flow.window == 1 else f"a window of {flow.window} layers"
    note = saturation_of(flow)
    return f"Attention cut in {cut}; {_measured(flow)}" + (f"\n{note}" if note else "")


def _measured(flow: Any) -> str:
    whose = "the right answer" if flow.follow == "gold" else "the clean answer"
    if len(flow.ids) > 1:
        measured = metric_of_answer(flow.metric, whose, "its alternative")
        return f"{measured} ({len(flow.ids)} samples, mean and 95 % interval)"
    answer = (flow.golds if flow.follow == "gold" else flow.answers)[0]
    measured = metric_of_answer(flow.metric, f"{whose} {_quoted(answer)}", _quoted(flow.alternatives[0]))
    return f"{measured}, {metric_value(flow.metric, flow.metric_base[0])} uncut (1 sample)"


def _quoted(text: str) -> str:
    return f"“{shortened(drawable(text, font_glyphs()), 24)}”" if text else ""
