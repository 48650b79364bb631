"""Attribution patching: estimates against real patches, or the estimates alone.

Axes: row, layer.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hooked_av.plots.effects import colour_scale, draw_effects, few_ticks, peak_of
from hooked_av.plots.patching import contrast_words
from hooked_av.plots.style import BLUE, GREY, Drawing, figure_style

_MAX_NAMED = 40  # rows that are named


def plot_attribution_patching(estimate: Any) -> Drawing:
    """An `AttributionPatching`.

    The estimated table, and beside it each cell against the exact effect, where there is one.
    """
    is_compared = not np.isnan(estimate.exact).all()
    n_rows, n_layers = estimate.effects.shape
    with figure_style():
        height = 1.5 + min(7.0, max(2.4, 0.26 * n_rows))
        figure = Drawing(figsize=(4.6 + 0.3 * min(n_layers, 20) + 3.8 * is_compared, height), layout="constrained")
        axes = figure.subplots(1, 1 + is_compared, squeeze=False)[0]
        peak = peak_of(estimate.effects)
        draw_effects(axes[0], estimate.effects[::-1], peak=peak)
        names = [estimate.rows[n_rows - 1 - i] for i in few_ticks(n_rows, _MAX_NAMED)]
        axes[0].set_yticks(few_ticks(n_rows, _MAX_NAMED), names)
        axes[0].set_xticks(few_ticks(n_layers))
        axes[0].set_xlabel("layer")
        axes[0].set_title("gradient × difference")
        colour_scale(figure, [axes[0]], peak, "estimated effect")
        if is_compared:
            _draw_comparison(axes[1], estimate)
        title = f"Attribution patching. {contrast_words(estimate)}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    return figure


def _draw_comparison(axes: Axes, estimate: Any) -> None:
    exact, estimated = estimate.exact.ravel(), estimate.effects.ravel()
    low, high = min(exact.min(), estimated.min()), max(exact.max(), estimated.max())
    axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1, label="estimate = exact")
    axes.scatter(exact, estimated, s=16, facecolor="none", edgecolor=BLUE, linewidth=0.9, label="one cell")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("exact effect of the patch")
    axes.set_ylabel("estimated effect")
    axes.set_title(f"correlation r = {estimate.correlation:.2f}")
    axes.legend(frameon=False, fontsize=8)
