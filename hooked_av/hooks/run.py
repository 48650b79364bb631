"""Run: what the hooks and cuts of one forward pass need to know of it: where each span is, and which hooks act.

A hook asks `current_run()` for the pass that it is called in. Passes may be nested (a hook may run the model), and may
run in several threads at once: each has its own.

Axes: batch, pos or query (rows), key, row (encoder output rows), span (rows selected by a span).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from hooked_av.errors import SpanError
from hooked_av.frozen import Frozen
from hooked_av.hooks.open_blocks import Opened, Wall, innermost_run, what_is_open
from hooked_av.prompt.spans import Spans

AFTER_BLOCKS = 10**6  # the "layer" of what comes after every block
ALL_LAYERS = range(-1, AFTER_BLOCKS + 1)  # -1: the embeddings


def layer_of(name: str) -> int:
    """The layer of a hook point: -1 before the blocks, and the number past the last that can be, after them.

    >>> layer_of("blocks.3.attn.hook_z"), layer_of("hook_embed"), layer_of("hook_logits") > 1000
    (3, -1, True)
    """
    if name.startswith("blocks."):
        return int(name.split(".")[1])
    return AFTER_BLOCKS if name.startswith(("ln_final.", "hook_logits")) else -1


class Run:
    """What the hooks of one forward pass need to know of its inputs: where each span is."""

    def __init__(
        self,
        row_spans: Sequence[Spans],
        device: torch.device,
        media_rows: Mapping[str, Int64[Tensor, " row"]],
        row_sizes: Mapping[str, int] = Frozen(),
        layers: range = ALL_LAYERS,
    ) -> None:
        self.row_spans = tuple(row_spans)
        self.device = device
        self.media_rows = media_rows  # hook name -> flat (batch * pos) place of each encoder output row
        self.row_sizes = row_sizes  # hook name -> numbers in such a row, where it is not d_model
        self.layers = layers  # those that this pass runs
        self.opened = what_is_open()  # the blocks of hooks that act in this pass
        self.n_pos = self.row_spans[0].n_pos  # of the inputs (the spans of a generation reach further)
        # Where a pass does not compute every row: positions of the rows and of the keys, from a layer on.
        self.held: dict[int, Int64[Tensor, "batch pos"]] = {}
        self.held_keys: dict[int, Int64[Tensor, "batch key"]] = {}
        # A lazy hook point holds only what its hooks ask for: which positions, by name (None: all).
        self.asked: dict[str, Int64[Tensor, "batch span"] | None] = {}
        self._found: dict[str, Tensor] = {}
        self._made: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for this key: cells of a sweep share spans, and so cuts and what these touch."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @contextmanager
    def as_current(self) -> Iterator["Run"]:
        """What is computed in this `with` block belongs to this pass."""
        with Wall(self).opened():
            yield self

    @contextmanager
    def feeling(self, block: Opened) -> Iterator[None]:
        """For the length of the block, this pass, and no other, feels it."""
        self.opened = (*self.opened, block)
        try:
            yield
        finally:
            self.opened = tuple(other for other in self.opened if other is not block)

    def positions(self, selector: str) -> Int64[Tensor, "batch span"]:
        """A span's positions in each row of the batch; rows must agree on how many there are."""
        if selector not in self._found:
            rows = [spans.resolve(selector).positions for spans in self.row_spans]
            if len({len(row) for row in rows}) > 1:
                raise SpanError(
                    f"span {selector!r} has a different length in each prompt of the batch",
                    expected="equal lengths",
                    got=[len(row) for row in rows],
                    next_step="run such prompts one by one, or hook the whole activation",
                )
            self._found[selector] = torch.tensor([row.tolist() for row in rows], device=self.device)
        return self._found[selector]

    def in_pass(self, positions: Int64[Tensor, "batch _"]) -> Int64[Tensor, "batch _"]:
        """Those of some positions that this pass computes (a pass of a generation computes one token)."""
        return positions

    def so_far(self, positions: Int64[Tensor, "batch _"]) -> Int64[Tensor, "batch _"]:
        """Those of some positions that this pass can read."""
        return positions

    def fires(self, name: str) -> bool:
        """Whether this run reaches a hook point: its layer must run, and encoder outputs need inputs of their kind."""
        return layer_of(name) in self.layers and (name not in self.media_rows or len(self.media_rows[name]) > 0)

    def rows_at(self, name: str) -> "Int64[Tensor, 'batch pos'] | None":
        """The positions that a hook point's tensor holds; None for all of them."""
        return self._latest(self.held, name)

    def keys_at(self, name: str) -> "Int64[Tensor, 'batch key'] | None":
        """The positions of the keys that a hook point's tensor holds; None for all of them."""
        return self._latest(self.held_keys or self.held, name)

    def _latest(self, held: "dict[int, Tensor]", name: str) -> Tensor | None:
        if not held:
            return None
        layer = layer_of(name)
        return held.get(max((since for since in held if since <= layer), default=-2))

    def media_index(self, name: str, selector: str) -> Int64[Tensor, " span"]:
        """Which encoder rows of a hook point belong to a span's positions."""
        positions = self.in_pass(self.positions(selector))
        starts = torch.arange(len(self.row_spans), device=self.device)[:, None] * self.n_pos
        return torch.isin(self.media_rows[name], (positions + starts).flatten()).nonzero().flatten()

    def union(self, selectors: Sequence[str]) -> Int64[Tensor, "batch span"]:
        """The positions that any of the selectors names (every position, where rows would differ in their number)."""
        if len(selectors) == 1:
            return self.positions(selectors[0])
        rows = torch.cat([self.positions(selector) for selector in selectors], dim=1)
        merged = [row.unique() for row in rows]
        if len({len(row) for row in merged}) > 1:
            return torch.arange(self.row_spans[0].n_pos, device=self.device).expand(len(merged), -1)
        return torch.stack(merged)


def current_run() -> Run | None:
    """The pass that runs now, in this thread; None outside of any."""
    return innermost_run()


def row_index(
    held: Int64[Tensor, "batch pos"], wanted: Int64[Tensor, "batch span"], where: str, selector: str
) -> Int64[Tensor, "batch span"]:
    """Where the wanted positions stand among those that are held (sorted).

    Errors: `SpanError` if one of them is not there.
    """
    index = torch.stack([torch.searchsorted(have, row) for have, row in zip(held, wanted, strict=True)])
    index = index.clamp(max=held.shape[1] - 1)
    if not torch.equal(held.gather(1, index), wanted):
        raise SpanError(
            f"span {selector!r} is not among the rows of {where}",
            expected=f"positions that were computed ({held.shape[1]} of them)",
            got=selector,
            next_step="name a span inside them: logits_at, drop_tokens and cached decoding leave rows out",
        )
    return index
