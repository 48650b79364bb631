"""The token layout of a prompt: what the model sees when, and in which order it reads it.

Above, lanes over the time of one clip: frames, waveform, audio tokens, video tokens. Below, the whole prompt in order.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from PIL import Image

from hooked_av.inputs import AVInputs
from hooked_av.media import SAMPLING_RATE_HZ, Clip
from hooked_av.plots.segments import Cell, Segment, lane_cells, segments
from hooked_av.plots.style import BLACK, Drawing, bare, figure_style, lane_label, look_of

_WIDTH, _LEFT, _RIGHT = 11.0, 1.5, 0.2  # inches
_LANE_INCHES = _WIDTH - _LEFT - _RIGHT
_THUMB_INCHES, _THUMB_PIXELS = 0.82, 118  # height of a thumbnail on paper and in the file
_BOX_INCHES, _BOX_GAP = 0.56, 0.05
MAX_VECTOR_CELLS = 1500  # more tokens in a lane are drawn as pixels, or the file grows to megabytes
MAX_BOXES = 60  # of the prompt in order; what lies in the middle of a longer one is drawn as a single box
_ENVELOPE_BINS = 1200


@dataclass(frozen=True)
class _Lane:
    """An axes of this height, with `gap` inches below it."""

    name: str
    inches: float
    gap: float


@dataclass(frozen=True)
class Box:
    """A segment of the prompt in order, on its line; inches from the left."""

    segment: Segment
    line: int
    left: float
    width: float


def plot_layout(inputs: AVInputs, item: int = 0) -> Drawing:
    """Media tokens of one item in time, and below it the order of the whole prompt.

    Every token of the item is one cell of its lane; every token of the prompt is in one segment of the order.

    >>> import hooked_av as av, numpy as np
    >>> clip = av.Clip.from_arrays(waveform=np.sin(np.arange(8000) / 9.0), sampling_rate_hz=16_000)
    >>> figure = plot_layout(av.random_omni(n_layers=2).prepare(clip, question="What do you hear?"))
    >>> [axes.get_label() for axes in figure.axes]
    ['waveform', 'audio', 'scale', 'order']
    """
    cells = lane_cells(inputs, item)
    clip = inputs.clips[0][item] if inputs.clips and item < len(inputs.clips[0]) else None
    boxes = list(flow(segments(inputs), _LANE_INCHES))
    with figure_style():
        figure, axes = _stack(list(_lanes(clip, cells, boxes)))
        if "image" in cells:
            _draw_still(axes["image"], clip, cells["image"])
        timed = [name for name in ("frames", "waveform", "audio", "video") if name in axes]
        if clip is not None and "frames" in axes:
            _draw_frames(axes["frames"], clip, cells["video"])
        if clip is not None and "waveform" in axes:
            _draw_waveform(axes["waveform"], clip)
        for modality in [name for name in ("audio", "video") if name in axes]:
            _draw_tokens(axes[modality], modality, cells[modality], inputs)
        _share_time([axes[name] for name in timed], _end_seconds(clip, cells))
        _draw_scale(axes["scale"], segments(inputs))
        _draw_order(axes["order"], boxes)
    return figure


def flow(order: list[Segment], inches: float) -> Iterator[Box]:
    """Boxes for the segments in order, from left to right and line by line, each wide enough for its own text."""
    line, left = 0, 0.0
    for segment in _elided(order):
        n_letters = max(len(segment.span), len(segment.positions))
        width = max(0.16 + 0.078 * n_letters, 0.3 * np.log2(1 + segment.stop - segment.start))
        if left and left + width > inches:
            line, left = line + 1, 0.0
        yield Box(segment, line, left, float(width))
        left += width + _BOX_GAP


def _elided(order: list[Segment]) -> list[Segment]:
    """A long order with its middle as one segment."""
    if len(order) <= MAX_BOXES:
        return order
    head, tail = order[: MAX_BOXES // 2], order[-MAX_BOXES // 2 :]
    n_left_out = len(order) - MAX_BOXES
    return [*head, Segment(f"… {n_left_out} more …", head[-1].stop, tail[0].start), *tail]


def _lanes(clip: Clip | None, cells: dict[str, list[Cell]], boxes: list[Box]) -> Iterator[_Lane]:
    last = next((name for name in ("video", "audio") if name in cells), "")
    if "image" in cells:
        yield _Lane("image", 1.7, 0.3)
    if clip is not None and "video" in cells:
        yield _Lane("frames", _THUMB_INCHES, 0.1)
    if clip is not None and "audio" in cells:
        yield _Lane("waveform", 0.6, 0.1)
    for name, inches in (("audio", 0.34), ("video", 0.62)):
        if name in cells:
            yield _Lane(name, inches, 0.78 if name == last else 0.26)
    yield _Lane("scale", 0.2, 0.62)
    yield _Lane("order", _BOX_INCHES * (1 + max(box.line for box in boxes)), 0.02)


def _stack(lanes: list[_Lane]) -> tuple[Drawing, dict[str, Axes]]:
    height = sum(lane.inches + lane.gap for lane in lanes) + 0.1
    figure = Drawing(figsize=(_WIDTH, height))
    axes, top = {}, height - 0.1
    for lane in lanes:
        box = (_LEFT / _WIDTH, (top - lane.inches) / height, _LANE_INCHES / _WIDTH, lane.inches / height)
        axes[lane.name] = figure.add_axes(box, label=lane.name)
        top -= lane.inches + lane.gap
    return figure, axes


def _end_seconds(clip: Clip | None, cells: dict[str, list[Cell]]) -> float:
    ends = [cell.left + cell.width for name in ("audio", "video") for cell in cells.get(name, [])]
    return max([*ends, 0.0 if clip is None else clip.duration_seconds, 1e-3])


def _share_time(lanes: list[Axes], end_seconds: float) -> None:
    for axes in lanes:
        bare(axes)
        axes.set_xlim(0, end_seconds)
    if lanes:
        lanes[-1].spines["bottom"].set_visible(True)
        lanes[-1].spines["bottom"].set_position(("outward", 19))
        lanes[-1].xaxis.set_major_locator(_seconds_ticks())
        lanes[-1].set_xlabel("time in the clip, seconds", labelpad=2)


def _seconds_ticks():  # noqa: ANN202
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=10, steps=[1, 2, 5, 10])
