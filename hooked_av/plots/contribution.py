"""Modality contribution: what the answer loses without sound, picture or both, and the index of each task.

Axes: task, condition.
"""

from typing import Any, Protocol, runtime_checkable

import pandas as pd
from matplotlib.axes import Axes

from hooked_av.plots.style import GREY, Drawing, figure_style, look_of

_KINDS = {"cut": "attention cut", "blank": "silence, black frames", "other": "another clip's"}
_FILLED = {"cut": True, "blank": False, "other": False}
_MODALITIES = ("audio", "video", "both")
_HATCHES = {"cut": "", "blank": "////", "other": "...."}
_STEP, _ROW_INCHES = 0.24, 0.95


@runtime_checkable
class Contribution(Protocol):
    """What is drawn of an `analyses.contribution.ModalityContribution`."""

    def summary(self) -> pd.DataFrame: ...
    def index(self) -> pd.DataFrame: ...
    @property
    def metric(self) -> str: ...


def plot_modality_contribution(contribution: Contribution) -> Drawing:
    """Left: bars, drops of the answer's probability with 95 % intervals. Right: points, the index of each task."""
    summary, index = contribution.summary(), contribution.index()
    tasks = list(dict.fromkeys(summary["task"]))
    with figure_style():
        figure = Drawing(figsize=(9.2, 1.7 + _ROW_INCHES * len(tasks)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.7, 1))
        _bars(left, summary, tasks)
        _points(right, index, tasks)
        left.set_yticks(range(len(tasks)), [task or "all samples" for task in tasks])
        left.set_ylim(len(tasks) - 0.45, -0.55)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False, handlelength=2.2)
        whose = "right" if contribution.metric == "gold" else "clean"
        figure.suptitle(f"What the {whose} answer loses without a modality", x=0.01, ha="left", fontsize=10.5)
    return figure


def _bars(axes: Axes, summary: pd.DataFrame, tasks: list[str]) -> None:
    pairs = [(m, k) for k in _KINDS for m in _MODALITIES if ((summary.modality == m) & (summary.kind == k)).any()]
    height = 0.8 / max(1, len(pairs))
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for number, (modality, kind) in enumerate(pairs):
        rows = summary[(summary.modality == modality) & (summary.kind == kind)].set_index("task").loc[tasks]
        places = [task + (number - (len(pairs) - 1) / 2) * height for task in range(len(tasks))]
        look = look_of({"both": "av"}.get(modality, modality))
        drop, low, high = (100 * rows[f"probability_drop{edge}"] for edge in ("", "_low", "_high"))
        style: Any = {"edgecolor": look.colour, "hatch": _HATCHES[kind], "linewidth": 1}
        face = look.colour if _FILLED[kind] else "white"
        axes.barh(places, drop, height * 0.86, color=face, label=f"{modality}: {_KINDS[kind]}", zorder=2, **style)
        error = [(drop - low).clip(lower=0).fillna(0), (high - drop).clip(lower=0).fillna(0)]
        axes.errorbar(drop, places, xerr=error, fmt="none", ecolor="black", elinewidth=1, capsize=2, zorder=3)
    axes.set_xlabel("drop of answer probability, percentage points")
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)


def _points(axes: Axes, index: pd.DataFrame, tasks: list[str]) -> None:
    kinds = [kind for kind in _KINDS if (index.kind == kind).any()]
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for number, kind in enumerate(kinds):
        rows = index[index.kind == kind].set_index("task").loc[tasks]
        places = [task + (number - (len(kinds) - 1) / 2) * _STEP for task in range(len(tasks))]
        error = [
            (rows["index"] - rows.low).clip(lower=0).fillna(0),
            (rows.high - rows["index"]).clip(lower=0).fillna(0),
        ]
        style: Any = {"color": "black", "markersize": 6, "capsize": 2, "elinewidth": 1, "zorder": 2}
        face = "black" if _FILLED[kind] else "white"
        marker = "oDs"[list(_KINDS).index(kind)]
        axes.errorbar(rows["index"], places, xerr=error, fmt=marker, markerfacecolor=face, label=_KINDS[kind], **style)
    axes.set_xlim(-1.08, 1.08)
    axes.set_xlabel("(video − audio) / (video + audio)\n← rests on the sound      on the picture →")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8.5)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
