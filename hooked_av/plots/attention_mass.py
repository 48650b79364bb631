"""Attention mass over layers, one panel a reading span; and sinks over the prompt.

Axes: layer, queries, keys; pos, reader.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32
from matplotlib.figure import FigureBase

from hooked_av.plots.curves import distinct_looks, draw_curve, label_axes
from hooked_av.plots.style import BLACK, Canvas, Drawing, figure_style


def plot_attention_mass(mass: Any) -> Drawing:
    """An `AttentionMass`.

    One panel a reading span, one curve a span that is read: the mean over heads, with the interval over samples.
    """
    n_panels = len(mass.queries)
    means, bands = mass.by_layer, mass.by_layer_interval
    looks, layers = distinct_looks(mass.keys), np.arange(len(means))
    with figure_style():
        figure = Drawing(figsize=(2.0 + 2.7 * n_panels, 3.4), layout="constrained")
        panels = figure.subplots(1, n_panels, sharey=True, squeeze=False)[0]
        for column, (axes, queries) in enumerate(zip(panels, mass.queries, strict=True)):
            for number, (keys, look) in enumerate(zip(mass.keys, looks, strict=True)):
                mean, band = 100 * means[:, column, number], 100 * bands[:, :, column, number]
                draw_curve(axes, layers, mean, look, keys, band, number)
            label_axes(axes, "layer", "attention mass, %" if not column else "", f"{queries} reads")
        panels[-1].legend(
            frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=4, title="tokens that are read"
        )
        figure.suptitle(f"Attention mass, mean over heads{_samples(len(mass.ids))}", x=0.01, ha="left", fontsize=10.5)
    return figure


def _samples(n: int) -> str:
    return f" and {n} samples (95 % intervals)" if n > 1 else ""


def plot_sinks(sinks: Any, on: Canvas = Drawing) -> FigureBase:
    """A `Sinks`.

    Every token at its position: its largest activation and the most attention that it receives, over layers.
    """
    rows = [
        ("|normalised activation|", sinks.peak.max(axis=0), sinks.threshold),
        ("attention received, %", 100 * np.nan_to_num(sinks.received[0]).max(axis=0), 100 * sinks.received_threshold),
    ]
    n_sinks = [int(sinks.is_sink(by).any(axis=0).sum()) for by in ("massive", "received")]
    with figure_style():
        figure = on(figsize=(8.6, 4.8), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        for axes, (label, values, threshold), n in zip(panels, rows, n_sinks, strict=True):
            _points(axes, values, sinks)
            axes.axhline(threshold, color=BLACK, linewidth=1, linestyle=(0, (4, 2)), label="threshold")
            label_axes(axes, "", label, f"{n} of {len(values)} tokens above the threshold in some layer")
            axes.set_ylim(0, None)
        panels[-1].set_xlabel("position in the prompt")
        panels[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="token of")
        figure.suptitle("Sinks: the largest value over layers", x=0.01, ha="left", fontsize=10.5)
    return figure


def _points(axes: Any, values: Float32[np.ndarray, " pos"], sinks: Any) -> None:
    for number, (name, look) in enumerate(zip(sinks.parts, distinct_looks(sinks.parts), strict=True)):
        at = np.flatnonzero(sinks.part == number)
        style = {"markersize": 4.5, "markeredgewidth": 1.0, "linestyle": "none"}
        face = "white" if number % 2 else look.colour
        axes.plot(at, values[at], look.marker, color=look.colour, markerfacecolor=face, label=name, **style)
