"""Direct logit attribution: what layers, heads and source spans add to a logit difference.

Axes: layer, head, source.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from hooked_av.plots.curves import distinct_looks, draw_curve, label_axes
from hooked_av.plots.effects import colour_scale, draw_effects, few_ticks, peak_of
from hooked_av.plots.style import BLACK, BLUE, GREY, ORANGE, Canvas, Drawing, figure_style, font_glyphs
from hooked_av.plots.text import drawable, minus, shortened


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
        numbers = f"{minus(f'{found.logit_difference:.2f}')} (embedding: {_signed(found.embed)})"
        title = f"What is added to logit(“{names[0]}”) − logit(“{names[1]}”) = {numbers}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def _components(axes: Axes, found: Any) -> None:
    layers = np.arange(len(found.attn))
    axes.bar(layers - 0.2, found.attn, 0.4, color=ORANGE, edgecolor=BLACK, linewidth=0.6, label="attention")
    axes.bar(layers + 0.2, found.mlp, 0.4, color=BLUE, edgecolor=BLACK, linewidth=0.6, hatch="////", label="MLP")
    axes.axhline(0, color=GREY, linewidth=0.8)
    label_axes(axes, "layer", "logits added", "by component")
    axes.legend(frameon=False)


def _heads(figure: FigureBase, axes: Axes, heads: Float64[np.ndarray, "layer head"]) -> None:
    """The cells of patching, without their numbers: there is no room for them."""
    n_layers, n_heads = heads.shape
    peak = peak_of(heads)
    draw_effects(axes, heads, np.arange(n_heads + 1) - 0.5, peak=peak)
    axes.set_xticks(few_ticks(n_heads, 8))
    axes.set_yticks(few_ticks(n_layers))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title("by head (striped: takes away)")
    colour_scale(figure, [axes], peak, "logits added")


def _sources(axes: Axes, found: Any) -> None:
    by_span = found.sources.sum(axis=1)
    layers = np.arange(len(by_span))
    for number, (name, look) in enumerate(zip(found.source_spans, distinct_looks(found.source_spans), strict=True)):
        draw_curve(axes, layers, by_span[:, number], look, f"{name} {_signed(by_span[:, number].sum())}", None, number)
    axes.axhline(0, color=GREY, linewidth=0.8)
    label_axes(axes, "layer", "logits added by attention", "by span that is read, heads summed")
    axes.legend(
        frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=4, title="tokens that are read, sum"
    )


def _signed(value: float) -> str:
    """Two decimals; what rounds to zero is no negative number."""
    return minus(f"{round(value, 2) + 0.0:+.2f}")
