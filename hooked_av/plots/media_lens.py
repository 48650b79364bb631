"""Media lens: what audio and video tokens stand for, on the frames and on the waveform.

Axes: layer, position (media tokens), rank; edge (start, stop), axis (frame group, row, column); group; bin.
"""

from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import FigureBase

from hooked_av.plots.effects import few_ticks
from hooked_av.plots.lens import convention_words
from hooked_av.plots.patching import over_time
from hooked_av.plots.style import Canvas, Drawing, figure_style, font_glyphs
from hooked_av.plots.text import drawable, shortened

MAX_GROUPS, MAX_LAYERS = 6, 4
_WIDTH, _CELL_INCHES = 11.0, 0.72
_LETTER_EMS = 0.62  # width of a letter in font sizes


def plot_media_lens(lens: Any, on: Canvas = Drawing) -> FigureBase:
    """A `MediaLens`.

    Above, the frames with the best token of each cell, for some layers; below, layers over the time of the sound.

    At most 6 frame groups and 4 layers are drawn on the frames; `to_frame` has all.
    """
    seen = np.flatnonzero(lens.cells[:, 0] >= 0)
    heard = np.flatnonzero(lens.cells[:, 0] < 0)
    layers = _some(len(lens.top_texts), MAX_LAYERS)[::-1]  # the last one on top
    with figure_style():
        heights = ([_frames_inches(lens, seen, len(layers))] if len(seen) else []) + ([3.4] if len(heard) else [])
        figure = on(figsize=(_WIDTH, sum(heights) + 0.5), layout="constrained")
        parts = list(np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)).ravel())
        if len(seen):
            _draw_frames(parts.pop(0), lens, seen, layers)
        if len(heard):
            _draw_sound(parts.pop(0), lens, heard)
        figure.suptitle(f"Media lens ({convention_words(lens.settings)})", x=0.01, ha="left", fontsize=10.5)
    return figure


# --- on the frames ---------------------------------------------------------------------------------------------------


def _frames_inches(lens: Any, seen: np.ndarray, n_layers: int) -> float:
    _, n_rows, n_columns = lens.cells[seen].max(axis=0) + 1
    panel = _WIDTH / _n_shown(lens, seen) * 0.85
    return 0.6 + n_layers * (0.15 + min(panel * n_rows / n_columns, _CELL_INCHES * n_rows))


def _n_shown(lens: Any, seen: np.ndarray) -> int:
    """Frame groups side by side: as many as leave room for the texts."""
    n_groups, _, n_columns = (lens.cells[seen].max(axis=0) + 1).tolist()
    return max(1, min(n_groups, MAX_GROUPS, int(_WIDTH / (0.4 * n_columns))))


def _draw_frames(part: Any, lens: Any, seen: np.ndarray, layers: list[int]) -> None:
    n_groups = int(lens.cells[seen, 0].max()) + 1
    groups = _some(n_groups, _n_shown(lens, seen))
    axes = part.subplots(len(layers), len(groups), squeeze=False)
    for row, layer in enumerate(layers):
        for column, group in enumerate(groups):
            own = seen[lens.cells[seen, 0] == group]
            _draw_frame(axes[row, column], lens, own, layer, _WIDTH / len(groups))
        axes[row, 0].set_ylabel(f"layer {layer}")
    for column, group in enumerate(groups):
        start, stop = lens.seconds[seen[lens.cells[seen, 0] == group][0]]
        axes[0, column].set_title("still" if np.isnan(start) else f"{start:.1f}–{stop:.1f} s", loc="center", fontsize=9)


def _draw_frame(axes: Axes, lens: Any, own: np.ndarray, layer: int, inches: float) -> None:
    """One frame with its grid; in each cell its best token, and the probability of that."""
    _, n_rows, n_columns = (lens.cells[own].max(axis=0) + 1).tolist()
    group = int(lens.cells[own[0], 0])
    if len(lens.frames):
        axes.imshow(lens.frames[group], extent=(0, n_columns, n_rows, 0), alpha=0.4, cmap="gray")
    size = min(8.0, 0.7 * 72 * min(inches, _CELL_INCHES * 2 * n_columns) / n_columns / (8 * _LETTER_EMS))
    for position in own:
        _, row, column = lens.cells[position].tolist()
        text = shortened(drawable(lens.top_texts[layer][position][0], font_glyphs()), 9)
        p = float(lens.top_probabilities[layer, position, 0])
        axes.text(column + 0.5, row + 0.48, text, ha="center", va="bottom", fontsize=size, weight="bold")
        axes.text(column + 0.5, row + 0.54, f"{100 * p:.0f}%", ha="center", va="top", fontsize=0.85 * size)
    axes.set(xlim=(0, n_columns), ylim=(n_rows, 0), xticks=range(n_columns + 1), yticks=range(n_rows + 1))
    axes.set_aspect("equal" if not len(lens.frames) else _aspect(lens.frames, n_rows, n_columns))
    axes.grid(color="#333333", linewidth=0.6)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)


def _aspect(frames: np.ndarray, n_rows: int, n_columns: int) -> float:
    """Of one cell, so that the frame keeps its own."""
    return frames.shape[1] / n_rows / (frames.shape[2] / n_columns)


# --- on the waveform -------------------------------------------------------------------------------------------------


def _draw_sound(part: Any, lens: Any, heard: np.ndarray) -> None:
    waveform, cells = part.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1, 3.2]})
    best = lens.top_probabilities[:, heard, 0]
    shown, edges = over_time(best, lens.seconds[heard])
    end = max(float(edges[-1]), lens.sound_seconds)
    if len(lens.sound_low):
        seconds = np.linspace(0, lens.sound_seconds, len(lens.sound_low), endpoint=False)
        waveform.fill_between(seconds, lens.sound_low, lens.sound_high, color="#444444", linewidth=0.3)
    waveform.set_ylabel("sound")
    waveform.set_yticks([])
    n_layers = len(best)
    mesh = cells.pcolormesh(
        edges, np.arange(n_layers + 1) - 0.5, np.ma.masked_invalid(shown), cmap="Greys", norm=Normalize(0, 1)
    )
    mesh.set_rasterized(best.size > 4000)
    for layer in range(n_layers):
        texts = [lens.top_texts[layer][position][0] for position in heard]
        _write_runs(cells, layer, texts, best[layer], lens.seconds[heard], end)
    cells.set_yticks(few_ticks(n_layers, 12))
    cells.set(xlim=(0, end), ylabel="layer", xlabel="time in the clip, seconds")
    cells.tick_params(axis="y", length=0)
    part.colorbar(mesh, ax=[waveform, cells], label="probability of the best token", pad=0.01, shrink=0.8)


def _write_runs(
    axes: Axes, layer: int, texts: list[str], best: Float32[np.ndarray, " position"], seconds: np.ndarray, end: float
) -> None:
    """The best token of neighbours that agree, once, where there is room for it; lines where they stop to agree."""
    points = 0.8 * _WIDTH * 72 / end  # in a second
    for text, run in groupby(range(len(texts)), key=lambda number: texts[number]):
        numbers = list(run)
        left, right = seconds[numbers[0], 0], seconds[numbers[-1], 1]
        axes.plot([right, right], [layer - 0.5, layer + 0.5], color="#9A9A9A", linewidth=0.5)
        shown = shortened(drawable(text, font_glyphs()), 10)
        size = min(7.5, (right - left) * points / (len(shown) * _LETTER_EMS))
        if size >= 4.5:
            colour = "white" if best[numbers].mean() > 0.62 else "black"
            axes.text((left + right) / 2, layer, shown, ha="center", va="center", fontsize=size, color=colour)


def _some(n: int, at_most: int) -> list[int]:
    """At most so many of the numbers below n, evenly, the last one among them.

    >>> _some(8, 4), _some(3, 4), _some(2, 1)
    ([1, 3, 5, 7], [0, 1, 2], [1])
    """
    step = n / min(n, at_most)
    return [round((number + 1) * step) - 1 for number in range(min(n, at_most))]
