"""Modality contribution: what the answer loses without sound, picture or both, the index of each task, and attention.

Axes: task, condition; layer, rows (that read), modality (that is read).
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from hooked_av.plots.curves import draw_curve, label_axes
from hooked_av.plots.metric import saturation_of
from hooked_av.plots.style import GREY, Drawing, figure_style, look_of

_KINDS = {"cut": "attention cut", "blank": "silence, black frames", "other": "another clip"}
_FILLED = {"cut": True, "blank": False, "other": False}
_MODALITIES = ("audio", "video", "both")
_HATCHES = {"cut": "", "blank": "////", "other": "...."}
_DROPS = {
    "probability": "drop of answer probability, percentage points",
    "log_prob": "drop of the answer's log probability, nats",
    "logit_difference": "drop of the logit difference of the answer to its alternative",
}
_CONTROL = "random cut of the same size"
_STEP, _EDGE = 0.24, 1.05
_BAR_INCHES, _ATTENTION_INCHES, _PANEL_INCHES = 0.16, 4.6, 2.6


def plot_modality_contribution(contribution: Any) -> Drawing:
    """A `ModalityContribution`.

    Above: drops of the metric with 95 % intervals, and the index of each task. Below: attention.
    """
    summary = contribution.summary()
    tasks = list(dict.fromkeys(summary["task"]))
    height = 1.7 + (_BAR_INCHES * summary["condition"].nunique() + 0.2) * len(tasks)
    with figure_style():
        size = (max(9.2, 1.4 + _PANEL_INCHES * len(tasks)), height + _ATTENTION_INCHES)
        figure = Drawing(figsize=size, layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=(height, _ATTENTION_INCHES), hspace=0.04)
        upper, lower = halves
        _losses(upper, contribution, summary, tasks)
        _attention(lower, contribution.attention_mass(), tasks)
    return figure


def _losses(figure: SubFigure, contribution: Any, summary: pd.DataFrame, tasks: list[str]) -> None:
    """Left: bars, a group for each task. Right: points."""
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.7, 1))
    names = _bars(left, summary, tasks, contribution.metric)
    left.set_yticks(list(names), list(names.values()), minor=True)  # what grey print does not tell apart
    left.yaxis.remove_overlapping_locs = False  # the bar in the middle of a task has its name, too
    left.tick_params(axis="y", which="both", length=0)
    left.tick_params(axis="y", which="minor", labelsize=7)
    left.tick_params(axis="y", which="major", pad=34)
    _points(right, contribution.index(), tasks)
    left.set_yticks(range(len(tasks)), [_title(task) for task in tasks])
    left.set_ylim(len(tasks) - 0.45, -0.55)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False, handlelength=2.2)
    whose, note = "right" if contribution.follow == "gold" else "clean", saturation_of(contribution)
    title = f"What the {whose} answer loses without a modality" + (f"\n{note}" if note else "")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)


def _title(task: str) -> str:
    return task or "all samples"


def _attention(figure: SubFigure, mass: pd.DataFrame, tasks: list[str]) -> None:
    """A column for each task, a row for question and last position; curves over layers."""
    readers = list(dict.fromkeys(mass["rows"]))
    panels = figure.subplots(len(readers), len(tasks), sharex=True, sharey="row", squeeze=False)
    for (row, column), axes in np.ndenumerate(panels):
        rows, task = readers[row], tasks[column]
        _mass(axes, mass.loc[(mass.task == task) & (mass["rows"] == rows)])
        y_label = f"{'last position' if rows == 'last' else rows}, %"
        title = "" if row else _title(task)
        label_axes(axes, "layer" if row == len(readers) - 1 else "", "" if column else y_label, title)
    found = dict(pair for axes in panels.flat for pair in zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(found.values(), found, loc="outside lower left", ncols=2, frameon=False, handlelength=3.4)
    figure.suptitle(
        "Attention of the question and of the last position to each modality; the rest goes to text",
        x=0.01,
        ha="left",
        fontsize=10.5,
    )


def _mass(axes: Axes, mass: pd.DataFrame) -> None:
    """Curves of sound and picture; thin lines across: the shares of tokens."""
    for number, modality in enumerate(name for name in _MODALITIES if (mass.modality == name).any()):
        rows, look = mass.loc[mass.modality == modality], look_of(modality)
        band = 100 * rows[["low", "high"]].to_numpy().T
        draw_curve(axes, rows.layer.to_numpy(), 100 * rows.attention.to_numpy(), look, modality, band, number)
        style: Any = {"color": look.colour, "linestyle": look.line, "linewidth": 0.9, "zorder": 1}
        axes.axhline(100 * rows.token_share.iloc[0], label=f"{modality}: its share of tokens", **style)


def _bars(axes: Axes, summary: pd.DataFrame, tasks: list[str], metric: str) -> dict[float, str]:
    """A bar for each condition; which modality stands at which place of the y axis."""
    names: dict[float, str] = {}
    pairs = [(m, k) for k in _KINDS for m in _MODALITIES if ((summary.modality == m) & (summary.kind == k)).any()]
    height, scale = 0.8 / max(1, len(pairs)), 100 if metric == "probability" else 1
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for number, (modality, kind) in enumerate(pairs):
        rows = summary[(summary.modality == modality) & (summary.kind == kind)].set_index("task").loc[tasks]
        places = [task + (number - (len(pairs) - 1) / 2) * height for task in range(len(tasks))]
        names |= dict.fromkeys(places, modality)
        look = look_of({"both": "av"}.get(modality, modality))
        drop, low, high = (scale * rows[f"drop{edge}"] for edge in ("", "_low", "_high"))
        style: Any = {"edgecolor": look.colour, "hatch": _HATCHES[kind], "linewidth": 1}
        face = look.colour if _FILLED[kind] else "white"
        axes.barh(places, drop, height * 0.86, color=face, label=f"{modality}: {_KINDS[kind]}", zorder=2, **style)
        error = [(drop - low).clip(lower=0).fillna(0), (high - drop).clip(lower=0).fillna(0)]
        axes.errorbar(drop, places, xerr=error, fmt="none", ecolor="black", elinewidth=1, capsize=2, zorder=3)
        if rows["control_drop"].notna().any():
            label = _CONTROL if not number else f"_{_CONTROL}"  # named once
            axes.plot(scale * rows["control_drop"], places, "D", color="black", markerfacecolor="white", markersize=4.5,
                      zorder=4, label=label)  # fmt: skip
    axes.set_xlabel(_DROPS[metric])
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    return names


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
        for value, place in zip(rows["index"], places, strict=True):
            if abs(value) > _EDGE:  # an arrow that points at what the panel has no room for
                axes.plot(np.copysign(_EDGE, value), place, ">" if value > 0 else "<", color="black", zorder=3)
                axes.annotate(f"{value:.2g}", (np.copysign(_EDGE, value), place), (0, 5), textcoords="offset points",
                              ha="right" if value > 0 else "left", fontsize=7)  # fmt: skip
    axes.set_xlim(-_EDGE - 0.03, _EDGE + 0.03)
    axes.set_xlabel("(video − audio) / (video + audio)\n← rests on the sound      on the picture →")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8.5)
    axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", which="both", length=0)
