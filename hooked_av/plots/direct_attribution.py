"""Direct logit attribution: what layers, heads and source spans add to a logit difference.

Axes: layer, head, source.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import FigureBase

from hooked_av.plots.curves import distinct_looks, draw_curve, label_axes
from hooked_av.plots.style import BLACK, BLUE, GREY, ORANGE, Canvas, Drawing, figure_style, font_glyphs
from hooked_av.plots.text import drawable, shortened

_MARKED = 0.1  # of the largest: below it a negative cell carries no sign


def plot_direct_attribution(found: Any, on: Canvas = Drawing) -> FigureBase:
    """A `DirectAttribution`.

    Left: attention and MLP of each layer. Middle: heads. Right: what attention brings from each span.
    """
    with figure_style():
        figure = on(figsize=(12.0, 3.7), layout="constrained")
        bars, grid, curves = figure.subplots(1, 3, width_ratios=[1.25, 0.8, 1.25])
        _components(bars, found)
        _heads(figure, grid, found.heads)
        _sources(curves, found)
        names = [shortened(drawable(text, font_glyphs()), 20) for text in (found.answer, found.alternative)]
        title = f"What is added to logit(“{names[0]}”) - logit(“{names[1]}”) = {found.logit_difference:.2f}"
        figure.suptitle(f"{title} (embedding: {round(found.embed, 2) + 0.0:+.2f})", x=0.01, ha="left", fontsize=10.5)
    return figure


def _components(axes: Axes, found: Any) -> None:
    layers = np.arange(len(found.attn))
    axes.bar(layers - 0.2, found.attn, 0.4, color=ORANGE, edgecolor=BLACK, linewidth=0.6, label="attention")
    axes.bar(layers + 0.2, found.mlp, 0.4, color=BLUE, edgecolor=BLACK, linewidth=0.6, hatch="////", label="MLP")
    axes.axhline(0, color=GREY, linewidth=0.8)
    label_axes(axes, "layer", "logits added", "by component")
    axes.legend(frameon=False)


def _heads(figure: FigureBase, axes: Axes, heads: Float64[np.ndarray, "layer head"]) -> None:
    """Orange adds, blue takes away; cells that take away carry a minus, so that the grid can be read in grey."""
    peak = float(np.abs(heads).max()) or 1.0
    image = axes.imshow(
        heads, cmap="PuOr_r", norm=TwoSlopeNorm(0, -peak, peak), aspect="auto", origin="lower", interpolation="nearest"
    )
    for layer, head in np.argwhere(heads < -_MARKED * peak):
        colour = "white" if heads[layer, head] < -0.6 * peak else "black"
        axes.text(head, layer, "–", ha="center", va="center", color=colour, fontsize=11, weight="bold")
    label_axes(axes, "head", "layer", "logits added, by head (–: takes away)")
    axes.grid(visible=False)
    axes.margins(0)
    figure.colorbar(image, ax=axes, pad=0.02)


def _sources(axes: Axes, found: Any) -> None:
    by_span = found.sources.sum(axis=1)
    layers = np.arange(len(by_span))
    for number, (name, look) in enumerate(zip(found.source_spans, distinct_looks(found.source_spans), strict=True)):
        draw_curve(axes, layers, by_span[:, number], look, f"{name} {by_span[:, number].sum():+.2f}", None, number)
    axes.axhline(0, color=GREY, linewidth=0.8)
    label_axes(axes, "layer", "logits added by attention", "by span that is read, heads summed")
    axes.legend(
        frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=4, title="tokens that are read, sum"
    )
