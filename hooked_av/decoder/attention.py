"""Causal attention as pure functions: fused for all rows, explicit scores only for the rows that are asked for.

Nothing here has the size heads x pos x pos unless a hook asks for a pattern at every row. There is no padding mask:
prompts padded on the left are attended to one by one, without their padding; padding on the right is never read,
because attention is causal.

A pass need not compute every row. `Attend` says which positions its rows are (`rows`), which rows are gone before a
layer (`leaving`), and which were computed by earlier passes (`past`); rows stand in the order of their positions, so
causality is that order.

Axes: batch head kv_head pos d_head; query (rows asked for), key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hooked_av.decoder import costs
from hooked_av.decoder.cut_masks import (
    Keys,
    Queries,
    Touched,
    apply_cuts,
    for_every_head,
    masked_attention,
    read_everything,
)
from hooked_av.decoder.cuts import AnyCut, KeyRows, QueryRows, members
from hooked_av.errors import InputsError
from hooked_av.hooks.rows import at_rows
from hooked_av.hooks.run import Run, row_index

Backend = Literal["sdpa", "eager"]


class Known(NamedTuple):
    """Rotated keys and values of some rows in one layer, and which positions these are."""

    k: Float[Tensor, "batch kv_head pos d_head"]
    v: Float[Tensor, "batch kv_head pos d_head"]
    positions: Int64[Tensor, "batch pos"]


class KeyValues:
    """Rotated keys and values of the rows of earlier passes, layer by layer; each pass adds its own.

    Layers may know different rows: tokens that left before a layer (`drop_tokens`) have none there.
    """

    def __init__(self) -> None:
        self.layers: dict[int, Known] = {}
        self._joined: tuple[KeyRows, KeyRows, KeyRows] | None = None

    def extend(self, layer: int, new: Known) -> Known:
        """Add the rows of this pass to a layer, and give all that it knows now."""
        old = self.layers.get(layer)
        if old is not None:
            k, v = (torch.cat(pair, dim=2) for pair in ((old.k, new.k), (old.v, new.v)))
            new = Known(k, v, self._positions(old.positions, new.positions))
        self.layers[layer] = new
        return new

    def _positions(
        self, old: Int64[Tensor, "batch old"], new: Int64[Tensor, "batch new"]
    ) -> Int64[Tensor, "batch old+new"]:
        """Both, one after the other; layers that know the same rows share one tensor."""
        if self._joined is None or self._joined[0] is not old or self._joined[1] is not new:
            self._joined = (old, new, torch.cat([old, new], dim=1))
        return self._joined[2]

    def drop(self, positions: Int64[Tensor, "batch span"]) -> None:
        """Forget rows in every layer; each prompt loses as many."""
        for layer, known in self.layers.items():
            stays = ~members(known.positions, positions)
            kept = known.positions[stays].view(len(positions), -1)
            index = row_index(known.positions, kept, f"the keys of layer {layer}", "the rows that stay")[
                :, None, :, None
            ]
            index = index.expand(-1, known.k.shape[1], -1, known.k.shape[3])
            self.layers[layer] = Known(known.k.gather(2, index), known.v.gather(2, index), kept)

    @property
    def n_bytes(self) -> int:
        """What the keys and values take."""
        return sum(x.numel() * x.element_size() for known in self.layers.values() for x in (known.k, known.v))


class PassMemo:
    """What layers of one pass share, once the first of them has worked it out: the one part of `Attend` that changes.

    `touched`: the rows that cuts touch, kept while a layer has the cuts and rows of the one before. A pass that goes on
    without some rows (`Attend.without`) begins with an empty memo.
    """

    def __init__(self) -> None:
        self.touched = Touched()
        self._every_row: QueryRows | None = None

    def every_row(self, n_batch: int, n_rows: int, device: torch.device) -> QueryRows:
        """The positions of a pass that holds all rows: the same tensor for every layer."""
        if self._every_row is None or self._every_row.shape != (n_batch, n_rows):
            self._every_row = torch.arange(n_rows, device=device).expand(n_batch, -1)
        return self._every_row


@dataclass(frozen=True)
class Attend:
    """How attention runs in one forward pass: backend, where each prompt starts, and what is cut in which layer.

    A pass over a part of the rows:

    * `rows` are the positions, in order, that the tensors hold (None: all of them, from 0).
    * `past` holds what earlier passes computed. This pass's queries read it, and its own rows are added to it.
      Generation: run the prompt with an empty `KeyValues`, then each new token as a pass of one row with the same
      `past` and `rows=[[its position]]`; cuts go on working, because they are positions.
    * `leaving`: rows that are gone before a layer (hard token dropping). The decoder takes them out.
    * `reading`: which of the held rows go on after this layer's keys and values (None: all); others are read, but
      nothing reads what they become.
    """

    backend: Backend = "sdpa"
    starts: tuple[int, ...] = (0,)
    cuts: Mapping[int, Sequence[AnyCut]] = field(default_factory=dict)
    run: Run | None = None
    rows: QueryRows | None = None
    past: KeyValues | None = None
    leaving: Mapping[int, Int64[Tensor, "batch span"]] = field(default_factory=dict)
    reading: Int64[Tensor, " query"] | None = None
    memo: PassMemo = field(default_factory=PassMemo, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise InputsError(
                "unknown attention backend",
                expected=" or ".join(get_args(Backend)),
                got=repr(self.backend),
                next_step="set model.attn_implementation",
            )

    def positions(self, n_batch: int, n_rows: int, device: torch.device) -> QueryRows:
        """The positions that a tensor of this pass holds; one tensor for every layer."""
        if self.rows is not None:
            return self.rows
        return self.memo.every_row(n_batch, n_rows, device)

    def going_on(self, rows: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch query width"]:
        """Of the rows held, those that go on after this layer's keys and values: all, unless `reading` says which."""
        return rows if self.reading is None else rows[:, self.reading]

    def without(self, layer: int, n_rows: int) -> "tuple[Attend, Int64[Tensor, 'batch query']]":
        """The pass after rows have left before this layer, and where those that stay stood."""
        leaving = self.leaving[layer]
        held = self.positions(len(leaving), n_rows, leaving.device)
        stays = ~members(held, leaving)
        index = torch.arange(held.shape[1], device=held.device).expand(len(held), -1)[stays].view(len(held), -1)
        kept = at_rows(held, index)
        if self.run is not None:
            self.run.held[layer] = kept
        return replace(self, rows=kept), index

    def read(self, layer: int, q: Queries, k: Keys, v: Keys) -> Queries:
        """What each query reads, with this layer's cuts."""
        cuts = self.cuts.get(layer, ())
        if cuts:
            self.memo.touched.prepare(*self.places(layer, q, k), cuts, self.starts, q)
            if self.memo.touched.is_everything:
                return read_everything(q, k, v, self.memo.touched)
        z = self._per_prompt(q, k, v) if any(self.starts) else self._causal(q, k, v)
        return apply_cuts(z, q, k, v, self.memo.touched) if cuts else z

    def known(
        self, layer: int, k: Float[Tensor, "batch kv_head pos d_head"], v: Float[Tensor, "batch kv_head pos d_head"]
    ) -> tuple[Keys, Keys]:
        """Keys and values of earlier passes and of this one; this pass's are added to the past."""
        if self.past is None:
            return k, v
        own = Known(k, v, self.positions(len(k), k.shape[2], k.device))
        k, v, positions = self.past.extend(layer, own)
        if self.run is not None:
            self.run.held_keys[layer] = positions
        return k, v

    def places(self, layer: int, q: Queries, k: Keys) -> tuple[QueryRows, KeyRows]:
        """The positions of the queries and of the keys in this layer."""
        rows = self.positions(len(q), q.shape[2], q.device)
        if self.past is not None:
            return rows, self.past.layers[layer].positions
        return rows, self.positions(len(k), k.shape[2], k.device)

    def _per_prompt(self, q: Queries, k: Keys, v: Keys) -> Queries:
        z = []
        for row, start in enumerate(self.starts):
            padding = max(0, start - (k.shape[2] - q.shape[2]))  # of the queries; past rows are read, and do not read
            own = (q[row : row + 1, :, padding:], k[row : row + 1, :, start:], v[row : row + 1, :, start:])
            z.append(torch.nn.functional.pad(self._causal(*own), (0, 0, padding, 0)))
        return torch.cat(z)

    def _causal(self, q: Queries, k: Keys, v: Keys) -> Queries:
        """The queries are the last rows of the keys."""
        if self.backend == "eager":
            starts = range(0, q.shape[2], costs.EAGER_BLOCK)
            return torch.cat([_eager_block(q, k, v, start) for start in starts], dim=2)
        n_rows, n_past = q.shape[2], k.shape[2] - q.shape[2]
        if n_rows == 1 or not n_past:
            # one query needs no causal mask; torch's fast kernels want the flag off there, as transformers does
            return _fused(q, k, v, is_causal=n_rows > 1)
        if n_past <= n_rows // costs.ROWS_PER_PAST_ROW:
            return _after_empty_queries(q, k, v, n_past)
        return _in_masked_blocks(q, k, v, n_past)


def _after_empty_queries(q: Queries, k: Keys, v: Keys, n_past: int) -> Queries:
    """Every row of the past as an empty query: then the mask is the causal kernel's own."""
    return _fused(torch.nn.functional.pad(q, (0, 0, n_past, 0)), k, v, is_causal=True)[:, :, n_past:]


def _in_masked_blocks(q: Queries, k: Keys, v: Keys, n_past: int) -> Queries:
    """Some rows at a time, each block with the mask of its own keys."""
    blocks = []
    for rows in torch.arange(q.shape[2], device=q.device).split(costs.CUT_BLOCK):
        n_keys = n_past + int(rows[-1]) + 1
        mask = torch.arange(n_keys, device=q.device) <= n_past + rows[:, None]
        blocks.append(masked_attention(q[:, :, rows], k[:, :, :n_keys], v[:, :, :n_keys], mask))
    return torch.cat(blocks, dim=2)


def _fused(q: Queries, k: Keys, v: Keys, *, is_causal: bool) -> Queries:
    scale, shared = q.shape[-1] ** -0.5, q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale, enable_gqa=shared)


def _eager_block(q: Queries, k: Keys, v: Keys, start: int) -> Float[Tensor, "batch head rows d_head"]:
    rows = q[:, :, start : start + costs.EAGER_BLOCK]
    past = k.shape[2] - q.shape[2]
    index = torch.arange(past + start + rows.shape[2], device=q.device)
    allowed = index[past + start :, None] >= index
    return weigh(pattern_of(scores_of(rows, k[:, :, : len(index)], allowed)), v[:, :, : len(index)])


def scores_of(
    rows: Float[Tensor, "batch head query d_head"], k: Keys, allowed: Bool[Tensor, "*any query key"]
) -> Float[Tensor, "batch head query key"]:
    """Scaled scores of some query rows; forbidden keys are minus infinity."""
    scores = torch.matmul(rows, for_every_head(k, rows.shape[1]).transpose(2, 3)) * rows.shape[-1] ** -0.5
    return scores.masked_fill(~allowed, -torch.inf)


def pattern_of(scores: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
    """Softmax over keys in float32. A row with no key left is zero: neither uniform nor NaN."""
    nothing = (scores == -torch.inf).all(dim=-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(nothing, 0), dim=-1, dtype=torch.float32)
    return weights.masked_fill(nothing, 0).to(scores.dtype)


def weigh(pattern: Float[Tensor, "batch head query key"], v: Keys) -> Float[Tensor, "batch head query d_head"]:
    """The values, weighted by a pattern."""
    return torch.matmul(pattern, for_every_head(v, pattern.shape[1]))
