"""Logit lens: the best tokens of every layer, shaded by their probability.

Axes: layer, position, rank.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import FigureBase

from hooked_av.plots.style import Canvas, Drawing, figure_style, font_glyphs
from hooked_av.plots.text import drawable, shortened

MAX_COLUMNS = 12
_COLUMN_INCHES, _ROW_INCHES = 1.32, 0.27
_CONVENTIONS = {
    "final_norm": "final norm",
    "no_norm": "no final norm",
    "layer_input": "of each layer's input",
    "input_embedding": "input embedding",
}


def plot_logit_lens(lens: Any, on: Canvas = Drawing) -> FigureBase:
    """A `LogitLens`.

    Rows are layers, the last one on top. Columns: the best tokens of one position, or the best token of each.

    At most 12 positions are drawn, the last ones; `to_frame` has all.
    """
    single = len(lens.positions) == 1
    probabilities = lens.top_probabilities[:, 0] if single else lens.top_probabilities[:, :, 0]
    texts = [layer[0] if single else [ranks[0] for ranks in layer] for layer in lens.top_texts]
    names = [_ordinal(rank) for rank in range(probabilities.shape[1])] if single else [str(p) for p in lens.positions]
    shown = slice(-MAX_COLUMNS, None) if not single else slice(0, MAX_COLUMNS)
    probabilities, names = probabilities[:, shown], names[shown]
    n_layers, n_columns = probabilities.shape
    with figure_style():
        figure = on(
            figsize=(1.4 + _COLUMN_INCHES * max(3, n_columns), 1.0 + _ROW_INCHES * n_layers), layout="constrained"
        )
        axes = figure.subplots()
        image = axes.imshow(
            probabilities, cmap="Greys", norm=Normalize(0, 1), aspect="auto", origin="lower", interpolation="nearest"
        )
        for layer, row in enumerate(texts):
            _write_row(axes, layer, [drawable(text, font_glyphs()) for text in row[shown]], probabilities[layer])
        _label(axes, names, n_layers, f"best tokens of position {lens.positions[0]}" if single else "token position")
        axes.set_title(f"Logit lens ({convention_words(lens.settings)})")
        figure.colorbar(image, ax=axes, label="probability", pad=0.02, shrink=min(1.0, 6 / n_layers + 0.3))
    return figure


def convention_words(settings: Any) -> str:
    """What a lens read, and how, as its figure says it.

    >>> convention_words({"convention": "no_norm+input_embedding"})
    'no final norm, input embedding'
    """
    parts = str(settings.get("convention", "")).split("+")
    if not all(part in _CONVENTIONS for part in parts):
        return "convention unknown"
    words = [_CONVENTIONS[part] for part in parts]
    return ", ".join(words if "input_embedding" in parts else [words[0], "unembedding", *words[1:]])


def _write_row(axes: Axes, layer: int, texts: list[str], probabilities: Float32[np.ndarray, " column"]) -> None:
    for column, (text, p) in enumerate(zip(texts, probabilities, strict=True)):
        colour = "white" if p > 0.62 else "black"  # the better contrast on this grey
        axes.text(column - 0.46, layer, shortened(text, 11), ha="left", va="center", fontsize=8, color=colour)
        axes.text(column + 0.46, layer, _percent(float(p)), ha="right", va="center", fontsize=6.5, color=colour)


def _label(axes: Axes, names: list[str], n_layers: int, x_label: str) -> None:
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(n_layers))
    axes.set_xlabel(x_label)
    axes.set_ylabel("layer")
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", axis="x", color="#BBBBBB", linewidth=0.6)
    axes.tick_params(which="minor", length=0)


def _ordinal(rank: int) -> str:
    return "best" if not rank else f"{rank + 1}{ {1: 'nd', 2: 'rd'}.get(rank, 'th') }"


def _percent(p: float) -> str:
    return f"{100 * p:.0f}%" if p >= 0.1 else f"{100 * p:.2g}%" if p >= 1e-5 else "<0.001%"
