"""Discard curves: what answers survive once tokens have left before a layer, and what that saves.

Axes: drop, layer, sample.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes

from hooked_av.plots.curves import clean_line, distinct_looks, draw_curve, label_axes
from hooked_av.plots.style import BLACK, Drawing, Look, figure_style

_DODGE = 0.16  # of a layer: curves and their intervals stand side by side
X_LABEL = "tokens leave before layer"
SAVINGS = {"time": "prefill time saved, %", "macs": "FLOPs saved, %", "kv_bytes": "key/value bytes saved, %"}

Shares = Float64[np.ndarray, "drop layer sample"]


def plot_discard_curve(curve: Any) -> Drawing:
    """A `DiscardCurve`.

    Above: agreement with the clean answers, and accuracy. Below: time, FLOPs and key/value bytes saved.
    """
    looks = distinct_looks(curve.spans)
    with figure_style():
        figure = Drawing(figsize=(10.6, 5.8), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True)
        _share(panels[0, 0], curve, curve.agrees, 100.0, "answers as in the clean run, %", looks)
        if curve.has_answers:
            clean = 100 * float(np.nanmean(curve.clean_correct))
            _share(panels[0, 1], curve, curve.correct, clean, "right answers, %", looks)
        else:
            panels[0, 1].set_visible(False)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        saved = curve.saved_percent
        for axes, (kind, label) in zip(panels[1], SAVINGS.items(), strict=True):
            _savings(axes, curve, saved[kind], saved["formula"] if kind == "macs" else None, label, looks)
        more = panels[1, 1].get_legend_handles_labels()
        handles, labels = handles + more[0][-1:], labels + more[1][-1:]
        panels[0, 2].axis("off")
        panels[0, 2].legend(handles, labels, frameon=False, loc="upper left", handlelength=4, title="tokens dropped")
        figure.suptitle(_title(curve), x=0.01, ha="left", fontsize=10.5)
    return figure


def _share(
    axes: Axes,
    curve: Any,
    values: Shares,
    clean: float,
    label: str,
    looks: list[Look],
) -> None:
    means, bands = 100 * np.nanmean(values, axis=-1), 100 * curve.interval(values)
    dodge = np.linspace(-_DODGE, _DODGE, len(looks)) if len(looks) > 1 else [0.0]
    for number, (name, look) in enumerate(zip(curve.names, looks, strict=True)):
        # bands of several drops would hide each other
        axes.vlines(curve.layers + dodge[number], *bands[:, number], color=look.colour, linewidth=1.1, zorder=1)
        draw_curve(axes, curve.layers + dodge[number], means[number], look, name, None, number)
    clean_line(axes, clean, "clean run")
    label_axes(axes, "", label)
    axes.set_ylim(-4, 104)


def _savings(
    axes: Axes,
    curve: Any,
    values: Float64[np.ndarray, "drop layer"],
    formula: Float64[np.ndarray, "drop layer"] | None,
    label: str,
    looks: list[Look],
) -> None:
    for number, (name, look) in enumerate(zip(curve.names, looks, strict=True)):
        draw_curve(axes, curve.layers, values[number], look, name, None, number)
    for row in () if formula is None else formula:
        axes.plot(curve.layers, row, color=BLACK, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=9, label="by formula")
    axes.axhline(0, color=BLACK, linewidth=0.6)
    label_axes(axes, X_LABEL, label)


def _title(curve: Any) -> str:
    n = len(curve.ids)
    samples = f"{n} samples, 95 % intervals" if n > 1 else "one sample"
    gone = "stay" if curve.kv == "keep" else "go, too"
    return f"Tokens discarded before a layer ({samples}; keys and values of earlier layers {gone})"
