"""The run of a generation, where a prompt and tokens to come are computed in several passes.

The tokens to come are the span "generated". Hooks and cuts see positions of the whole sequence; a pass computes some.

Axes: batch, query (rows of a pass).
"""

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from hooked_av.hooks.rows import packed
from hooked_av.hooks.run import Run

AnyPositions = Int64[Tensor, "batch _"]


class Reach(NamedTuple):
    """Where a span has tokens: in the prompt, among those to come, or both."""

    prompt: bool
    to_come: bool


EVERYWHERE = Reach(prompt=True, to_come=True)


class GenerationRun(Run):
    """A run whose spans go on behind the prompt; `begin` says which positions the next pass computes."""

    def __init__(self, run: Run, n_new: int) -> None:
        spans = [spans.continued(n_new) for spans in run.row_spans]
        super().__init__(spans, run.device, run.media_rows, run.row_sizes, run.layers)
        self.n_pos, self.opened = run.n_pos, run.opened
        self.window = range(0)

    def begin(self, start: int, stop: int) -> Int64[Tensor, "batch query"]:
        """The next pass computes the positions [start, stop): its rows, for `Attend`."""
        rows = torch.arange(start, stop, device=self.device).expand(len(self.row_spans), -1)
        self.window, self.held = range(start, stop), {-1: rows}
        return rows

    def reach(self, selector: str | None) -> Reach:
        """Where a span has tokens; None stands for every token."""
        if selector is None:
            return Reach(True, True)
        positions = self.places(selector)
        return Reach(bool(((positions >= 0) & (positions < self.n_pos)).any()), bool((positions >= self.n_pos).any()))

    def in_pass(self, positions: AnyPositions) -> AnyPositions:
        return _between(positions, self.window)

    def so_far(self, positions: AnyPositions) -> AnyPositions:
        return _between(positions, range(self.window.stop))


def _between(positions: AnyPositions, window: range) -> AnyPositions:
    """The positions in an interval, with -1 behind those of prompts that have fewer there."""
    return packed(positions, (positions >= window.start) & (positions < window.stop))
