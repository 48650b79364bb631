"""Run: what the hooks and cuts of one forward pass need to know of it: where each span is, and which hooks act.

A hook asks `current_run()` for the pass that it is called in. Passes may be nested (a hook may run the model), and may
run in several threads at once: each has its own.

Axes: batch, pos or query (rows), key, row (encoder output rows), span (rows selected by a span).
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from hooked_av.errors import HookedAVWarning, SpanError
from hooked_av.frozen import Frozen
from hooked_av.hooks.open_blocks import Opened, Wall, innermost_run, what_is_open
from hooked_av.hooks.rows import members, packed
from hooked_av.prompt.spans import ALL, Spans

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
        self.prompt: int | None = None  # whose rows a hook sees that is called for each prompt of the batch
        self._found: dict[str, Tensor] = {}
        self._uneven: dict[str, list[int]] = {}  # spans that prompts have more or less of: how many tokens each
        self._made: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "opened": (), "_made": {}}  # where spans are, not what was open

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
        found = self.places(selector)
        if selector in self._uneven:
            raise SpanError(
                f"span {selector!r} has a different length in each prompt of the batch",
                expected="equal lengths",
                got=self._uneven[selector],
                next_step="run such prompts one by one: [model(one, ...) for one in inputs]; a cache takes all: "
                f"names_filter='hook_logits@{selector}', then cache.rows('hook_logits', '{selector}')",
            )
        return found

    def places(self, selector: str) -> Int64[Tensor, "batch span"]:
        """The same where prompts may have more or fewer of them, or none: -1 fills up those that have fewer.

        Errors: `SpanError` if no prompt has the span. That some have not is a warning.
        """
        if selector not in self._found:
            rows = [_resolved(spans, selector) for spans in self.row_spans]
            if not any(rows):
                self.row_spans[0].resolve(selector)  # says what is wrong
            lengths = [len(row) for row in rows]
            if len(set(lengths)) > 1:
                self._uneven[selector] = lengths
            without = [number for number, row in enumerate(rows) if not row]
            if without:
                warnings.warn(
                    f"prompts {without} of the batch have no {selector!r}: nothing is done or read there, only in the "
                    "other prompts",
                    HookedAVWarning,
                    stacklevel=2,
                )
            full = [row + [-1] * (max(lengths) - len(row)) for row in rows]
            self._found[selector] = torch.tensor(full, device=self.device)
        return self._found[selector]

    def is_uneven(self, selector: str) -> bool:
        """Whether prompts of the batch have more or fewer tokens of a span, or none."""
        self.places(selector)
        return selector in self._uneven

    def of(self, rows: Sequence[int]) -> "Run":
        """The run of some prompts of the batch."""
        media = {name: self.of_prompts(places, rows)[0] for name, places in self.media_rows.items()}
        return Run([self.row_spans[row] for row in rows], self.device, media, self.row_sizes, self.layers)

    def of_prompts(
        self, places: Int64[Tensor, " row"], rows: Sequence[int]
    ) -> tuple[Int64[Tensor, " some"], Int64[Tensor, " some"]]:
        """Of flat places those in some prompts, as they are when these are the batch; and where they stood."""
        found = [(places // self.n_pos == row).nonzero().flatten() for row in rows]
        moved = [places[index] % self.n_pos + new * self.n_pos for new, index in enumerate(found)]
        return torch.cat(moved), torch.cat(found)

    def flat_places(self, name: str, selector: str | None) -> Int64[Tensor, " row"]:
        """Where each row of a span stands, prompt after prompt, counted through the whole batch (batch * pos).

        Of encoder outputs, those that a hook point has.
        """
        if name in self.media_rows:
            places = self.media_rows[name]
            return places if selector is None else places[self.media_index(name, selector)]
        starts = torch.arange(len(self.row_spans), device=self.device)[:, None] * self.n_pos
        found = self.places(selector if selector is not None else ALL)
        return (found + starts)[found >= 0]

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
        positions = self.in_pass(self.places(selector))
        starts = torch.arange(len(self.row_spans), device=self.device)[:, None] * self.n_pos
        return torch.isin(self.media_rows[name], (positions + starts)[positions >= 0]).nonzero().flatten()

    def union(self, selectors: Sequence[str]) -> Int64[Tensor, "batch span"]:
        """The positions that any of the selectors names; -1 fills up prompts that have fewer."""
        if len(selectors) == 1:
            return self.places(selectors[0])
        every = torch.arange(self.row_spans[0].n_pos, device=self.device).expand(len(self.row_spans), -1)
        named = torch.stack([members(every, self.places(selector)) for selector in selectors])
        return packed(every, named.any(dim=0))


def _resolved(spans: Spans, selector: str) -> list[int]:
    """The positions of a span in one prompt of a batch; none if it has no such span."""
    try:
        return spans.resolve(selector).positions.tolist()
    except SpanError:
        return []


def current_run() -> Run | None:
    """The pass that runs now, in this thread; None outside of any."""
    return innermost_run()


def row_index(
    held: Int64[Tensor, "batch pos"], wanted: Int64[Tensor, "batch span"], where: str, selector: str
) -> Int64[Tensor, "batch span"]:
    """Where the wanted positions stand among those that are held (sorted); -1 stays -1.

    Errors: `SpanError` if one of them is not there.
    """
    index = torch.stack([torch.searchsorted(have, row) for have, row in zip(held, wanted, strict=True)])
    index = index.clamp(max=held.shape[1] - 1)
    index, found = index.where(wanted >= 0, -1), held.gather(1, index)
    if bool(((found != wanted) & (wanted >= 0)).any()):
        raise SpanError(
            f"span {selector!r} is not among the rows of {where}",
            expected=f"positions that were computed ({held.shape[1]} of them)",
            got=selector,
            next_step="name a span inside them: logits_at, drop_tokens and cached decoding leave rows out",
        )
    return index
