"""Tables of patches: spans by layer, heads by layer, seconds by layer, paths, and late into early layers.

Axes: component, span, layer, head, place (media token or stretch of time), edge (start, stop), source, target.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from matplotlib.axes import Axes

from hooked_av.plots.effects import colour_scale, draw_effects, few_ticks, peak_of
from hooked_av.plots.metric import CHANGES, NAMES, saturation
from hooked_av.plots.style import Drawing, figure_style, font_glyphs
from hooked_av.plots.text import drawable, shortened

EFFECT = "effect of the patch\n(0: corrupt run, 1: clean run)"
_COMPONENTS = {
    "resid_pre": "residual stream",
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    "z": "heads (z)",
}
_CHANGES = {**CHANGES, "probability": "change of answer probability"}  # not in percent of what it was
_CELL_INCHES = 0.3


def plot_span_patching(table: Any) -> Drawing:
    """A `SpanPatching`.

    One map a component: spans in the order of the table from top to bottom, layers from left to right.
    """
    n_components, n_spans, n_layers = table.effects.shape
    size = (1.9 + n_components * max(2.2, _width(n_layers)), 1.5 + _CELL_INCHES * n_spans)
    with figure_style():
        figure = Drawing(figsize=size, layout="constrained")
        axes = figure.subplots(1, n_components, squeeze=False, sharey=True)[0].tolist()
        peak = peak_of(table.effects)
        for number, component in enumerate(table.components):
            draw_effects(axes[number], table.effects[number, ::-1], peak=peak)
            axes[number].set_title(_COMPONENTS.get(component, component))
            _layers_below(axes[number], n_layers)
        axes[0].set_yticks(range(n_spans), list(table.spans[::-1]))
        axes[0].set_ylabel("span whose rows are patched")
        colour_scale(figure, axes, peak, EFFECT)
        figure.suptitle(f"Activation patching of spans. {contrast_words(table)}", x=0.01, ha="left", fontsize=10.5)
    return figure


def plot_head_patching(table: Any) -> Drawing:
    """A `HeadPatching`: layers from bottom to top, heads from left to right."""
    return _grid(table, f"Patching of head outputs (z) at “{table.span}”", "head", "layer")


def plot_path_patching(table: Any) -> Drawing:
    """A `PathPatching`: sender heads by layer; grey where the sender comes after the receiver."""
    heads = "" if table.receiver_heads is None else f", heads {', '.join(map(str, table.receiver_heads))}"
    title = f"Path patching: head at “{table.span}” → {table.receiver}{heads}"
    return _grid(table, title, "sender head", "layer of the sender")


def plot_back_patching(table: Any) -> Drawing:
    """A `BackPatching`: which layer's output is written over which earlier one's."""
    n_layers = len(table.changes)
    values = table.changes if table.is_one_prompt else table.effects
    label = _CHANGES[table.metric] if table.is_one_prompt else EFFECT
    figure = _grid(table, f"Back-patching at “{table.span}”", "layer that is overwritten", "layer that is read",
                   values=values, label=label)  # fmt: skip
    figure.axes[0].set_yticks(few_ticks(n_layers))
    return figure


def plot_position_patching(table: Any) -> Drawing:
    """A `PositionPatching`.

    One map for the sound and one for the picture (of each item): seconds from left to right, layers upwards.
    """
    lanes = list(dict.fromkeys(zip(table.items, table.modalities, strict=True)))
    n_layers = len(table.effects)
    with figure_style():
        inches = 0.75 + max(1.2, 0.14 * n_layers)
        figure = Drawing(figsize=(9.5, 0.5 + inches * len(lanes)), layout="constrained")
        axes = figure.subplots(len(lanes), 1, squeeze=False)[:, 0].tolist()
        peak, several = peak_of(table.effects), len(set(table.items)) > 1
        for lane, (item, modality) in zip(axes, lanes, strict=True):
            own = [
                i for i, key in enumerate(zip(table.items, table.modalities, strict=True)) if key == (item, modality)
            ]
            name = f"item{item}.{modality}" if several else modality
            is_single = all(len(table.positions[place]) == 1 for place in own)
            cells, edges = over_time(table.effects[:, own], table.seconds[own])
            draw_effects(lane, cells, edges, peak=peak)
            gaps = "; grey: none begins here" if len(cells.T) > len(own) else ""
            what = "tokens, one by one" if is_single else "stretches of time"
            lane.set_title(f"{name}: {len(own)} {what}{gaps}")
            lane.set_yticks(few_ticks(n_layers, 8))
            lane.set_ylabel("layer")
            is_still = np.isnan(table.seconds[own]).any()
            lane.set_xlabel("token" if is_still else "time in the clip, seconds")
            if not is_still:
                lane.set_xlim(0, np.nanmax(table.seconds))
        colour_scale(figure, axes, peak, EFFECT)
        title = f"Patching in time ({_COMPONENTS.get(table.component, table.component)}). {contrast_words(table)}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def over_time(
    values: Float[np.ndarray, "layer place"], seconds: Float64[np.ndarray, "place edge=2"]
) -> tuple[Float[np.ndarray, "layer cell"], Float[np.ndarray, " edge"]]:
    """Cells in time and their edges; a gap between two places is a cell of nan.

    Tokens of one frame group share its time, and lie side by side in it.

    >>> cells, edges = over_time(np.array([[1, 2, 3.0]]), np.array([[0, 1], [0, 1], [2.0, 3.0]]))
    >>> cells.tolist(), edges.tolist()
    ([[1.0, 2.0, nan, 3.0]], [0.0, 0.5, 1.0, 2.0, 3.0])
    """
    if np.isnan(seconds).any():
        return values, np.arange(len(seconds) + 1, dtype=float)
    starts, place, count = np.unique(seconds[:, 0], return_inverse=True, return_counts=True)
    within = np.arange(len(seconds)) - np.searchsorted(seconds[:, 0], starts)[place]
    widths = (seconds[:, 1] - seconds[:, 0]) / count[place]
    lefts = seconds[:, 0] + within * widths
    rights = lefts + widths
    gaps = np.flatnonzero(lefts[1:] - rights[:-1] > 0.01 * widths[:-1]) + 1
    edges = np.append(np.insert(lefts, gaps, rights[gaps - 1]), rights[-1])
    return np.insert(values, gaps, np.nan, axis=1), edges


def contrast_words(table: Any) -> str:
    """What 0 and 1 are, and by which metric; a line where its clean value can hardly move."""
    note = saturation(table.metric, int(table.is_saturated), 1)
    return _contrast(table) + (f"\n{note}" if note else "")


def _contrast(table: Any) -> str:
    name = NAMES[table.metric].capitalize()
    clean, corrupt = (f"“{shortened(drawable(answer, font_glyphs()), 16)}”" for answer in table.answers)
    if clean == corrupt or table.metric != "logit_difference":
        return f"{name} of {clean}"
    names = ("", "") if getattr(table, "is_one_prompt", False) else (" (clean)", " (corrupt)")
    return f"{name}: {clean}{names[0]} against {corrupt}{names[1]}"


def _grid(
    table: Any,
    title: str,
    x_label: str,
    y_label: str,
    *,
    values: Float64[np.ndarray, "row column"] | None = None,
    label: str = EFFECT,
) -> Drawing:
    effects = table.effects if values is None else values
    n_rows, n_columns = effects.shape
    with figure_style():
        size = (max(5.4, 2.4 + _width(n_columns)), 1.5 + max(1.6, 0.8 * _width(n_rows)))
        figure = Drawing(figsize=size, layout="constrained")
        axes = figure.subplots()
        peak = peak_of(effects)
        draw_effects(axes, effects, peak=peak)
        axes.set_xticks(few_ticks(n_columns))
        axes.set_yticks(few_ticks(n_rows))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        colour_scale(figure, [axes], peak, label)
        axes.set_title(f"{title}\n{contrast_words(table)}")
    return figure


def _width(n_cells: int) -> float:
    """Inches for so many cells side by side: room for a number in each, while there are few."""
    return min(_CELL_INCHES * n_cells, 6.0)


def _layers_below(axes: Axes, n_layers: int) -> None:
    axes.set_xticks(few_ticks(n_layers))
    axes.set_xlabel("layer")
