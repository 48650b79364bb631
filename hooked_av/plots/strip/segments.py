"""Which span each token of a prompt is drawn as, and where in time: the data behind the layout figure.

Axes: pos (token of one prompt).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from hooked_av.prompt.inputs import AVInputs
from hooked_av.prompt.spans import TokenPlaces

MEDIA = ("audio", "video", "image")
MAX_BOXES = 31
BOX_GAP = 0.06  # inches between two boxes
# The first of these spans that holds a token names it; options stand before `options`, which holds them all.
_RANKED = ("last", "boundary", *MEDIA, "option_", "options", "instruction", "question", "answer_prefix", "system",
           "assistant", "user", "text")  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens that belong to the same span: positions [start, stop)."""

    span: str
    start: int
    stop: int

    @property
    def positions(self) -> str:
        """As a reader writes it: "16-51", "250"."""
        return str(self.start) if self.stop - self.start == 1 else f"{self.start}–{self.stop - 1}"


@dataclass(frozen=True)
class Cell:
    """The rectangle of one token in a lane: seconds (or columns, for a still) by the share of the lane's height."""

    position: int
    group: int  # frame group; -1 for audio
    left: float
    bottom: float
    width: float
    height: float


def segments(inputs: AVInputs) -> list[Segment]:
    """The prompt in order; every token is in exactly one segment.

    >>> import torch
    >>> segments(AVInputs.from_tokens(torch.tensor([[5, 6, 7]])))
    [Segment(span='text', start=0, stop=2), Segment(span='last', start=2, stop=3)]
    """
    names = np.full(inputs.n_pos, "text", dtype=object)
    names[~inputs.attention_mask[0].cpu().numpy()] = "padding"
    for wanted in reversed(_RANKED):
        for span in (name for name in inputs.spans if name == wanted or (wanted[-1] == "_" and wanted in name)):
            names[inputs.spans[span].positions] = span
    items = inputs.spans.places.items
    if items.max(initial=-1) > 0:  # several media items: say which
        for position in np.flatnonzero(np.isin(names, MEDIA)):
            names[position] = f"item{items[position]}.{names[position]}"
    return list(_runs(list(names)))


def _runs(names: list[str]) -> Iterator[Segment]:
    start = 0
    for name, run in groupby(names):
        stop = start + len(list(run))
        yield Segment(name, start, stop)
        start = stop


def lane_cells(inputs: AVInputs, item: int = 0) -> dict[str, list[Cell]]:
    """One cell for each token of a media item, by modality.

    Audio tokens lie side by side; all tokens of a frame group share its time, so the group is split into its grid:
    rows from top to bottom, columns from left to right.
    """
    places = inputs.spans.places
    lanes = {}
    for modality in (name for name in MEDIA if name in inputs.spans):
        positions = inputs.spans[modality].positions
        positions = positions[places.items[positions] == item]
        if len(positions):
            grid = (places.cells[positions].max(axis=0) + 1).tolist()
            lanes[modality] = [_cell(places, int(position), grid) for position in positions]
    return lanes


def _cell(places: TokenPlaces, position: int, grid: list[int]) -> Cell:
    start, stop = places.seconds[position]
    group, row, column = places.cells[position].tolist()
    if group < 0:
        return Cell(position, -1, float(start), 0.0, float(stop - start), 1.0)
    _, n_rows, n_columns = grid
    if np.isnan(start):  # a still: its own columns are the scale
        start, stop = 0.0, float(n_columns)
    width, height = (stop - start) / n_columns, 1 / n_rows
    return Cell(position, group, float(start + column * width), 1 - (row + 1) * height, float(width), height)


@dataclass(frozen=True)
class Box:
    """A segment of the prompt in order, on its line; inches from the left."""

    segment: Segment
    line: int
    left: float
    width: float


def flow(order: list[Segment], inches: float) -> list[Box]:
    """Boxes for segments in order, left to right and line by line, each wide enough for its own text.

    The middle of an order of more than 31 segments becomes a single box.

    >>> [(box.line, round(box.left, 2)) for box in flow([Segment("audio", 0, 50), Segment("last", 50, 51)], 2.0)]
    [(0, 0.0), (1, 0.0)]
    """
    boxes: list[Box] = []
    line, left = 0, 0.0
    for segment in _elided(order):
        n_letters = max(len(segment.span), len(segment.positions))
        width = max(0.16 + 0.08 * n_letters, 0.3 * math.log2(1 + segment.stop - segment.start))
        if left and left + width > inches:
            line, left = line + 1, 0.0
        boxes.append(Box(segment, line, left, width))
        left += width + BOX_GAP
    return boxes


def _elided(order: list[Segment]) -> list[Segment]:
    if len(order) <= MAX_BOXES:
        return order
    half = MAX_BOXES // 2
    head, tail = order[:half], order[-half:]
    middle = f"… {len(order) - 2 * half} more …"
    return [*head, Segment(middle, head[-1].stop, tail[0].start), *tail]
