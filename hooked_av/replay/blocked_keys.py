"""Blocked keys: which of its keys each row of several runs may not read, and which rows lose the same ones.

Axes: run (one variant of the prompt), query (rows asked for), place (a query of a run: run x query, row-major), prefix
(keys that all runs share), own (keys that every run has for itself), some_kv some_shared (1, or all heads: key/value
heads and the query heads of each).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from hooked_av.decoder import costs
from hooked_av.decoder.cut_masks import Queries, Touched, allowed_keys, report_empty_rows
from hooked_av.decoder.cuts import AnyCut

Cuts = tuple[AnyCut, ...]
PrefixMask = Bool[Tensor, "*run query some_kv some_shared prefix"]
OwnMask = Bool[Tensor, "*run query some_kv some_shared own"]
UsedKeys = Int64[Tensor, " used"]
# rows that lose the same shared keys, and which of these are left (None: all)
RowClasses = tuple[tuple[Int64[Tensor, " some_rows"], UsedKeys | None], ...]


class Alike(NamedTuple):
    """Places that may read the same of the shared keys: `used`, or all of them (None); `places` None: every place."""

    places: Int64[Tensor, " place"] | None
    used: UsedKeys | None


class BlockedKeys:
    """Which keys of [prefix | own] some rows may not read under some cuts, kept from layer to layer.

    The runs of a sweep have few different cuts between them, in one window of layers after the other. `n_own` is how
    many of their own keys the rows can read: later ones come after all of them.
    """

    def __init__(
        self, rows: Int64[Tensor, " query"], own: Int64[Tensor, " own"], n_prefix: int, n_heads: int, n_kv: int
    ) -> None:
        self.rows, self._n_prefix, self._heads = rows, n_prefix, (n_heads, n_kv)
        self.n_own = int(torch.searchsorted(own, rows[-1])) + 1
        self.later = (own[: self.n_own] > rows[:, None])[:, None, None]
        self._keys = torch.cat([torch.arange(n_prefix, device=rows.device), own])[None]
        self._row_index = rows[None]
        self._masks: dict[Cuts, tuple[PrefixMask | None, OwnMask | None]] = {}
        self._classes: dict[Cuts, RowClasses | None] = {}
        self._touched: dict[Cuts, Touched] = {}
        self._n_bytes = 0

    def sort(self, cuts: Sequence[Cuts]) -> tuple[list[Alike], list[int]]:
        """Places that may read the same shared keys, and the runs whose shared keys must be masked."""
        if not any(cuts):
            return [Alike(None, None)], []
        runs_of: dict[Cuts, list[int]] = {}
        for run, some in enumerate(cuts):
            runs_of.setdefault(some, []).append(run)
        uncut, alike, masked = [], [], []
        for some, runs in runs_of.items():
            classes = self._classes_of(some) if len(runs) * len(self.rows) >= costs.FEW_PLACES or not some else None
            masked += runs if classes is None else []
            for rows, used in classes or ():
                places = (torch.tensor(runs, device=rows.device)[:, None] * len(self.rows) + rows).flatten()
                if used is None:
                    uncut.append(places)
                else:
                    alike.append(Alike(places, used))
        return [*alike, *([Alike(torch.cat(uncut), None)] if uncut else [])], masked

    def shared(self, cuts: Sequence[Cuts]) -> PrefixMask | None:
        """The masks of several runs over the keys that all share."""
        return _stacked([self._masks_of(some)[0] for some in cuts])

    def own(self, cuts: Sequence[Cuts]) -> OwnMask:
        """The masks of several runs over their own keys, later ones included."""
        blocked = _stacked([self._masks_of(some)[1] for some in cuts])
        return self.later if blocked is None else self.later | blocked

    def touched(self, cuts: Cuts, q: Queries) -> Touched:
        """The rows that cuts touch, where there are many."""
        if cuts not in self._touched:
            if len(self._touched) == costs.TOUCHED_KEPT:
                self._touched.clear()
            self._touched[cuts] = Touched()
        touched = self._touched[cuts]
        touched.prepare(self._row_index, self._keys, cuts, (0,), q)
        return touched

    def _classes_of(self, cuts: Cuts) -> RowClasses | None:
        if cuts not in self._classes:
            self._classes[cuts] = self._sorted(cuts)
        return self._classes[cuts]

    def _masks_of(self, cuts: Cuts) -> tuple[PrefixMask | None, OwnMask | None]:
        if not cuts:
            return None, None
        if cuts not in self._masks:
            made = self._made(cuts)
            n_bytes = sum(mask.numel() for mask in made if mask is not None)
            if self._n_bytes + n_bytes > costs.MASK_BYTES:
                self._masks.clear()
                self._n_bytes = 0
            self._masks[cuts] = made
            self._n_bytes += n_bytes
        return self._masks[cuts]

    def _sorted(self, cuts: Cuts) -> RowClasses | None:
        """All rows by the shared keys that they lose; None where heads differ, or too many rows do."""
        blocked, rows = self._masks_of(cuts)[0], torch.arange(len(self.rows), device=self.rows.device)
        if blocked is None:
            return ((rows, None),)
        if blocked.shape[1:3].numel() > 1:
            return None
        patterns, which = torch.unique(blocked[:, 0, 0], dim=0, return_inverse=True)
        if len(patterns) > costs.FEW_CLASSES:
            return None
        used = [None if not bool(lost.any()) else (~lost).nonzero().flatten() for lost in patterns]
        return tuple((rows[which == number], keys) for number, keys in enumerate(used))

    def _made(self, cuts: Cuts) -> tuple[PrefixMask | None, OwnMask | None]:
        rows, (n_heads, n_kv) = self.rows, self._heads
        keys = self._keys[:, : self._n_prefix + self.n_own]
        allowed = allowed_keys(self._row_index, keys, (0,), cuts, n_heads)[0]
        nothing = (~allowed.any(dim=-1)).any(dim=0)
        if nothing.any():
            report_empty_rows(rows[nothing])
        shape = (len(rows), n_kv, n_heads // n_kv, -1) if len(allowed) > 1 else (len(rows), 1, 1, -1)
        blocked = ~allowed.transpose(0, 1).reshape(shape)
        shared, own = blocked[..., : self._n_prefix], blocked[..., self._n_prefix :]
        return (shared, own) if bool(shared.any()) else (None, own.clone())  # a view would keep all of it


def _stacked(masks: Sequence[Tensor | None]) -> Tensor | None:
    some = [mask for mask in masks if mask is not None]
    if not some:
        return None
    shape = max((mask.shape for mask in some), key=lambda shape: shape.numel())  # some may name heads
    nothing = some[0].new_zeros(()).expand(shape)
    return torch.stack([nothing if mask is None else mask.expand(shape) for mask in masks])
