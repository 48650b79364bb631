"""Which span each token of a prompt is drawn as, and where in time: the data behind the layout figure.

Axes: pos (token of one prompt).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from hooked_av.inputs import AVInputs

MEDIA = ("audio", "video", "image")
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
            lanes[modality] = [_cell(inputs, int(position), positions) for position in positions]
    return lanes


def _cell(inputs: AVInputs, position: int, lane: np.ndarray) -> Cell:
    places = inputs.spans.places
    start, stop = places.seconds[position]
    group, row, column = places.cells[position].tolist()
    if group < 0:
        return Cell(position, float(start), 0.0, float(stop - start), 1.0)
    _, n_rows, n_columns = (places.cells[lane].max(axis=0) + 1).tolist()
    if np.isnan(start):  # a still: its own columns are the scale
        start, stop = 0.0, float(n_columns)
    width, height = (stop - start) / n_columns, 1 / n_rows
    return Cell(position, float(start + column * width), 1 - (row + 1) * height, float(width), height)
