"""Blocked keys: which of its keys each row of several runs may not read, and which rows lose the same ones.

Axes: run (one variant of the prompt), query (rows asked for), place (a query of a run: run x query, row-major), prefix
(keys that all runs share), own (keys that every run has for itself), some_kv some_shared (1, or all heads: key/value
heads and the query heads of each).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from hooked_av.cut_rows import allowed_keys, report_empty_rows
from hooked_av.cuts import AnyCut

_MASKS_KEPT = 16
_FEW_ROWS = 8  # for fewer it costs more to leave keys out than to mask them
_FEW_CLASSES = 4  # of rows that lose different keys, under one cut

Cuts = tuple[AnyCut, ...]
PrefixMask = Bool[Tensor, "*run query some_kv some_shared prefix"]
OwnMask = Bool[Tensor, "*run query some_kv some_shared own"]


class Alike(NamedTuple):
    """Queries that may read the same of the shared keys: `used`, or all of them (None).

    `places` None: every query of every run.
    """

    places: Int64[Tensor, " place"] | None
    used: Int64[Tensor, " used"] | None


class RowClass(NamedTuple):
    """Rows that lose the same shared keys under a cut; `used` stay (None: all)."""

    rows: Int64[Tensor, " alike"]
    used: Int64[Tensor, " used"] | None


class BlockedKeys:
    """Which keys of [prefix | own] some rows may not read under some cuts, kept from layer to layer.

    The runs of a sweep have few different cuts between them, in one window of layers after the other.
    """

    def __init__(
        self, rows: Int64[Tensor, " query"], own: Int64[Tensor, " own"], n_prefix: int, n_heads: int, n_kv: int
    ) -> None:
        self._rows, self._own, self._n_prefix, self._heads = rows, own, n_prefix, (n_heads, n_kv)
        self._masks = lru_cache(_MASKS_KEPT)(self._made)
        self._classes = lru_cache(_MASKS_KEPT)(self._sorted)

    def sort(self, cuts: Sequence[Cuts]) -> tuple[list[Alike], list[int]]:
        """Queries that may read the same shared keys, and the runs whose shared keys must be masked."""
        if not any(cuts):
            return [Alike(None, None)], []
        runs_of: dict[Cuts, list[int]] = {}
        for run, some in enumerate(cuts):
            runs_of.setdefault(some, []).append(run)
        free, alike, masked = [], [], []
        for some, runs in runs_of.items():
            classes = self._classes(some) if len(runs) * len(self._rows) >= _FEW_ROWS or not some else None
            masked += runs if classes is None else []
            for rows, used in classes or ():
                places = (torch.tensor(runs, device=rows.device)[:, None] * len(self._rows) + rows).flatten()
                if used is None:
                    free.append(places)
                else:
                    alike.append(Alike(places, used))
        return [*alike, *([Alike(torch.cat(free), None)] if free else [])], masked

    def shared(self, cuts: Sequence[Cuts]) -> PrefixMask | None:
        """The masks of several runs over the keys that all share."""
        return _stacked([self._masks(some)[0] for some in cuts])

    def own(self, cuts: Sequence[Cuts]) -> OwnMask | None:
        """The masks of several runs over their own keys, causality not included."""
        return _stacked([self._masks(some)[1] for some in cuts])

    def _sorted(self, cuts: Cuts) -> tuple[RowClass, ...] | None:
        """All rows by the shared keys that they lose; None where heads differ, or too many rows do."""
        blocked, rows = self._masks(cuts)[0], torch.arange(len(self._rows), device=self._rows.device)
        if blocked is None:
            return (RowClass(rows, None),)
        if blocked.shape[1:3].numel() > 1:
            return None
        patterns, which = torch.unique(blocked[:, 0, 0], dim=0, return_inverse=True)
        if len(patterns) > _FEW_CLASSES:
            return None
        used = [None if not bool(lost.any()) else (~lost).nonzero().flatten() for lost in patterns]
        return tuple(RowClass(rows[which == number], keys) for number, keys in enumerate(used))

    def _made(self, cuts: Cuts) -> tuple[PrefixMask | None, OwnMask | None]:
        if not cuts:
            return None, None
        rows, (n_heads, n_kv) = self._rows, self._heads
        keys = torch.cat([torch.arange(self._n_prefix, device=rows.device), self._own])
        allowed = allowed_keys(rows[None], keys[None], (0,), cuts, n_heads)[0]
        nothing = ~allowed.any(dim=-1).any(dim=0)
        if nothing.any():
            report_empty_rows(rows[nothing])
        shape = (len(rows), n_kv, n_heads // n_kv, -1) if len(allowed) > 1 else (len(rows), 1, 1, -1)
        blocked = ~allowed.transpose(0, 1).reshape(shape)
        shared, own = blocked[..., : self._n_prefix], blocked[..., self._n_prefix :]
        return (shared if bool(shared.any()) else None), own


def _stacked(masks: Sequence[Tensor | None]) -> Tensor | None:
    some = [mask for mask in masks if mask is not None]
    if not some:
        return None
    shape = max((mask.shape for mask in some), key=lambda shape: shape.numel())  # some may name heads
    free = some[0].new_zeros(()).expand(shape)
    return torch.stack([free if mask is None else mask.expand(shape) for mask in masks])
