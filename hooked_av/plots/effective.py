"""Effective pathway: what is left of the answer with a few edges, beside random edge sets of the same share.

Axes: run (clean, these edges, random edges).
"""

from textwrap import wrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from hooked_av.plots.metric import NAMES, metric_of_answer, saturation_of
from hooked_av.plots.style import BLUE, GREY, PALE, Drawing, figure_style

_LOOKS = {"clean": (PALE, ""), "these edges": (BLUE, "////"), "random edges": ("white", "....")}
_MEASURES = {
    "probability": "answer probability",
    "agreement": "same answer\nas the clean run",
    "accuracy": "right answer",
}


def plot_effective_pathway(effective: Any) -> Drawing:
    """An `EffectivePathway`: bars with 95 % intervals for each measure that is known.

    A metric that is no share has a panel of its own, on the left.
    """
    summary = effective.summary()
    shares = [name for name in _MEASURES if name in summary and not summary[name].isna().all()]
    panels = [shares] if effective.metric in shares else [[effective.metric], shares]
    with figure_style():
        figure = Drawing(figsize=(8.6, 3.8), layout="constrained")
        widths = [max(1, len(names)) for names in panels]
        axes = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
        for each, names in zip(axes, panels, strict=True):
            _bars(each, summary, names)
        axes[-1].set_ylim(0, 1.05)
        axes[-1].set_ylabel("probability, or share of samples" if len(panels) == 1 else "share of samples")
        if len(panels) > 1:
            axes[0].set_ylabel(metric_of_answer(effective.metric, "the answer", "its alternative"))
        axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        note = saturation_of(effective)
        figure.suptitle(_title(effective.edges) + (f"\n{note}" if note else ""), x=0.01, ha="left", fontsize=10.5)
    return figure


def _bars(axes: Axes, summary: pd.DataFrame, measures: list[str]) -> None:
    width = 0.8 / len(summary)
    for number, row in enumerate(summary.to_dict("records")):
        places = [place + (number - (len(summary) - 1) / 2) * width for place in range(len(measures))]
        heights = [row[name] for name in measures]
        colour, hatch = _LOOKS[row["run"]]
        label = f"{row['run']} ({100 * row['share_of_edges']:.3g} % of all)" if row["run"] != "clean" else "clean"
        axes.bar(places, heights, width * 0.9, color=colour, hatch=hatch, edgecolor="black", label=label, zorder=2)
        low, high = ([row[f"{name}_{edge}"] for name in measures] for edge in ("low", "high"))
        below = [max(0.0, h - x) if x == x else 0.0 for h, x in zip(heights, low, strict=True)]
        above = [max(0.0, x - h) if x == x else 0.0 for h, x in zip(heights, high, strict=True)]
        axes.errorbar(places, heights, yerr=[below, above], fmt="none", ecolor="black", capsize=2, zorder=3)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(range(len(measures)), [_MEASURES.get(name) or NAMES[name] for name in measures])
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)


def _title(edges: tuple[str, ...]) -> str:
    """The edges that stay, in at most three lines."""
    text = "Attention along these edges only: " + "; ".join(edge.removesuffix(" in every layer") for edge in edges)
    return "\n".join(wrap(text, 82, max_lines=3, placeholder=" ..."))
