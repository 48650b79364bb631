"""The token layout of a prompt: what the model sees when, and in which order it reads it.

Above, lanes over the time of one clip: frames, waveform, audio tokens, video tokens. Below, the whole prompt in order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from hooked_av.media.clip import Clip
from hooked_av.plots.strip.segments import Box, Cell, Segment, flow, lane_cells, segments
from hooked_av.plots.strip.time import arrangement, envelope, group_starts, lane_end, shown_frames
from hooked_av.plots.style import Drawing, bare, figure_style, lane_label, look_of
from hooked_av.prompt.inputs import AVInputs

_WIDTH, _LEFT, _RIGHT = 11.0, 1.5, 0.2  # inches
_LANE_INCHES = _WIDTH - _LEFT - _RIGHT
_THUMB_INCHES, _THUMB_PIXELS = 0.82, 118  # height of a thumbnail on the page, and in the file
_BOX_INCHES = 0.58
_ENVELOPE_BINS = 1200
MAX_VECTOR_CELLS = 1500  # more tokens in a lane are drawn as pixels, or the file grows to megabytes


@dataclass(frozen=True)
class _Lane:
    """An axes of this height, with `gap` inches below it."""

    name: str
    inches: float
    gap: float


def plot_layout(inputs: AVInputs, item: int = 0) -> Drawing:
    """Media tokens of one item in time, and below it the order of the whole prompt.

    Every token of the item is one cell of its lane; every token of the prompt is in one segment of the order. Frames
    and waveform are drawn when the inputs still have their clips.

    Errors: `InputsError` for a batch.

    >>> import hooked_av as av
    >>> clip = av.Clip.from_arrays(waveform=np.sin(np.arange(8000) / 9.0), sampling_rate_hz=16_000)
    >>> figure = plot_layout(av.random_omni(n_layers=2).prepare(clip, question="What do you hear?"))
    >>> [axes.get_label() for axes in figure.axes]
    ['waveform', 'audio', 'scale', 'order']
    """
    cells, order = lane_cells(inputs, item), segments(inputs)
    boxes = flow(order, _LANE_INCHES)
    clip = inputs.clips[0][item] if inputs.clips and item < len(inputs.clips[0]) else None
    end_seconds = lane_end(clip, cells)
    with figure_style():
        figure, axes = _stack(list(_lanes(clip, cells, boxes)))
        _draw_media(axes, clip, cells)
        for modality in (name for name in ("audio", "video") if name in cells):
            _draw_tokens(axes[modality], modality, cells[modality], end_seconds)
            _number_runs(axes[modality], order, cells[modality], end_seconds)
        _share_time([axes[name] for name in ("frames", "waveform", "audio", "video") if name in axes], end_seconds)
        _draw_scale(axes["scale"], order)
        _draw_order(axes["order"], boxes)
    return figure


def _lanes(clip: Clip | None, cells: dict[str, list[Cell]], boxes: list[Box]) -> Iterator[_Lane]:
    last = next((name for name in ("video", "audio") if name in cells), "")
    if "image" in cells:
        yield _Lane("image", 1.7, 0.3)
    if clip is not None and "video" in cells:
        yield _Lane("frames", _THUMB_INCHES, 0.1)
    if clip is not None and "audio" in cells:
        yield _Lane("waveform", 0.6, 0.1)
    for name, inches in (("audio", 0.36), ("video", 0.66)):
        if name in cells:
            yield _Lane(name, inches, 0.92 if name == last else 0.3)
    yield _Lane("scale", 0.2, 0.62)
    yield _Lane("order", _BOX_INCHES * (1 + max(box.line for box in boxes)), 0.0)


def _stack(lanes: list[_Lane]) -> tuple[Drawing, dict[str, Axes]]:
    height = sum(lane.inches + lane.gap for lane in lanes) + 0.1
    figure = Drawing(figsize=(_WIDTH, height))
    axes, top = {}, height - 0.1
    for lane in lanes:
        box = (_LEFT / _WIDTH, (top - lane.inches) / height, _LANE_INCHES / _WIDTH, lane.inches / height)
        axes[lane.name] = figure.add_axes(box, label=lane.name)
        bare(axes[lane.name])
        top -= lane.inches + lane.gap
    return figure, axes


# --- in time -----------------------------------------------------------------------------------------------------


def _share_time(lanes: Sequence[Axes], end_seconds: float) -> None:
    for axes in lanes:
        axes.set_xlim(0, end_seconds)
    if lanes:
        lanes[-1].spines["bottom"].set_visible(True)
        lanes[-1].spines["bottom"].set_position(("outward", 19))
        lanes[-1].xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
        lanes[-1].set_xlabel("time in the clip, seconds", labelpad=2)


def _draw_media(axes: dict[str, Axes], clip: Clip | None, cells: dict[str, list[Cell]]) -> None:
    """What the tokens were made from."""
    if "image" in axes:
        _draw_still(axes["image"], clip, cells["image"])
    if clip is not None and "frames" in axes:
        _draw_frames(axes["frames"], clip, cells["video"], lane_end(clip, cells))
    if clip is not None and "waveform" in axes:
        _draw_waveform(axes["waveform"], clip.waveform)


def _draw_frames(axes: Axes, clip: Clip, cells: list[Cell], end_seconds: float) -> None:
    """The first frame of each group, its left edge where the group begins; only those that fit side by side."""
    full = _THUMB_INCHES * clip.width / clip.height * end_seconds / _LANE_INCHES  # width of a thumbnail in seconds
    for start, scale, pixels in shown_frames(clip, cells, end_seconds, full, _THUMB_PIXELS):
        extent = (start, start + scale * full, 0.5 - scale / 2, 0.5 + scale / 2)
        axes.imshow(pixels, extent=extent, aspect="auto")
    axes.set_ylim(0, 1)
    lane_label(axes, "frames", f"{len(axes.images)} shown")


def _draw_waveform(axes: Axes, waveform: Float32[np.ndarray, " sample"]) -> None:
    seconds, low, high = envelope(waveform, _ENVELOPE_BINS)
    axes.fill_between(seconds, low, high, color="#444444", linewidth=0.3)
    peak = max(1e-4, float(np.abs(waveform).max()))
    axes.set_ylim(-peak, peak)
    lane_label(axes, "sound", f"peak {peak:.2g}")


def _draw_tokens(axes: Axes, modality: str, cells: list[Cell], end_seconds: float) -> None:
    points = 72 * _LANE_INCHES / end_seconds  # in a second
    axes.add_collection(_rectangles(cells, modality, min(0.5, 0.15 * points * cells[0].width)))
    if modality == "video":
        starts = sorted(group_starts(cells).values())
        gap = min(3.0, 0.08 * points * end_seconds / len(starts))
        axes.vlines(starts[1:], 0, 1, color="white", linewidth=gap)
    axes.set_ylim(0, 1)
    lane_label(axes, f"{modality} tokens", arrangement(cells))


def _rectangles(cells: list[Cell], modality: str, edge_points: float = 0.5) -> PatchCollection:
    patches = [Rectangle((cell.left, cell.bottom), cell.width, cell.height) for cell in cells]
    look = look_of(modality)
    collection = PatchCollection(
        patches, facecolor=look.colour, edgecolor="white", linewidth=edge_points, label=modality
    )
    collection.set_rasterized(len(cells) > MAX_VECTOR_CELLS)
    return collection


def _number_runs(axes: Axes, order: list[Segment], cells: list[Cell], end_seconds: float) -> None:
    """Below a lane, the positions of each unbroken run of its tokens, where there is room for them."""
    places = {cell.position: cell for cell in cells}
    for segment in order:
        run = [places[position] for position in range(segment.start, segment.stop) if position in places]
        if not run:
            continue
        left, right = min(cell.left for cell in run), max(cell.left + cell.width for cell in run)
        if (right - left) / end_seconds * _LANE_INCHES > 0.075 * len(segment.positions):
            axes.text((left + right) / 2, -0.045 / axes.bbox.height * axes.figure.dpi, segment.positions,
                      transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=8)  # fmt: skip
            axes.plot([left, right], [0, 0], color="black", linewidth=1.2, marker="|", markersize=5, clip_on=False,
                      solid_capstyle="butt")  # fmt: skip


def _draw_still(axes: Axes, clip: Clip | None, cells: list[Cell]) -> None:
    """The picture under the grid of its tokens."""
    n_rows = round(1 / cells[0].height)
    n_columns = len(cells) // n_rows
    if clip is not None:
        pixels = clip.read_frames([0])[0]
        size = (max(1, round(3 * _THUMB_PIXELS * pixels.shape[1] / pixels.shape[0])), 3 * _THUMB_PIXELS)
        axes.imshow(Image.fromarray(pixels).resize(size), extent=(0, n_columns, 0, 1))
    grid = _rectangles(cells, "image")
    grid.set_facecolor("none" if clip is not None else look_of("image").colour)
    axes.add_collection(grid)
    axes.set(xlim=(0, n_columns), ylim=(0, 1), anchor="W")
    axes.set_aspect(n_rows)
    lane_label(axes, "image tokens", arrangement(cells))


# --- in order ----------------------------------------------------------------------------------------------------


def _draw_scale(axes: Axes, order: list[Segment]) -> None:
    """All positions of the prompt on one scale."""
    for segment in order:
        axes.add_patch(_bar(segment, (segment.start, 0), segment.stop - segment.start, 1))
    axes.set(xlim=(0, order[-1].stop), ylim=(0, 1), xlabel="position in the prompt")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    axes.xaxis.labelpad = 1
    lane_label(axes, "prompt to scale")


def _bar(segment: Segment, corner: tuple[float, float], width: float, height: float) -> Rectangle:
    look = look_of(segment.span)
    return Rectangle(
        corner, width, height, facecolor=look.colour, edgecolor="white", hatch=look.hatch, linewidth=0,
        label=segment.span,
    )  # fmt: skip


def _draw_order(axes: Axes, boxes: list[Box]) -> None:
    """One box a segment, in order; its bar shows the span as in the lanes above, its text the name and positions."""
    n_lines = 1 + max(box.line for box in boxes)
    axes.set(xlim=(0, _LANE_INCHES), ylim=(n_lines * _BOX_INCHES, 0))
    for box in boxes:
        top = box.line * _BOX_INCHES + 0.05
        axes.add_patch(_bar(box.segment, (box.left, top), box.width, 0.13))
        axes.text(box.left, top + 0.16, box.segment.span, ha="left", va="top", fontsize=8.5, weight="bold")
        axes.text(box.left, top + 0.32, box.segment.positions, ha="left", va="top", fontsize=8, color="#333333")
    axes.text(-0.012, 1 - 0.12 / (n_lines * _BOX_INCHES), "prompt in order", transform=axes.transAxes, ha="right",
              va="center", weight="bold", fontsize=9)  # fmt: skip
    axes.text(-0.012, 1 - 0.3 / (n_lines * _BOX_INCHES), "not to scale", transform=axes.transAxes, ha="right",
              va="center", fontsize=8, color="#444444")  # fmt: skip
