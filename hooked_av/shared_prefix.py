"""Attention of many runs over one prompt: they share the keys and values of the rows that none of them changes.

Each run has own keys and values for its own rows only; the shared ones are never copied. Scores exist for a block of
rows at one time.

Axes: run (one variant of the prompt), head kv_head shared (query heads of one key/value head), query, key, own (rows
that every run has for itself), prefix (rows that all share), d_head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hooked_av.attention import Attend
from hooked_av.cut_rows import Touched, allowed_keys, apply_cuts, report_empty_rows
from hooked_av.cuts import AnyCut

_LEAST_BLOCK = 16  # rows
_MANY_ROWS = 128  # from here on the runs of a batch are attended to one by one
_MASKS_KEPT = 16  # of blocks of fewer rows than that

Mask = Bool[Tensor, "some_kv some_shared query key"]


class BlockedKeys:
    """Which keys of [prefix | own rows] some rows may not read under some cuts, kept from layer to layer.

    The runs of a sweep have few different cuts between them, in one window of layers after the other.
    """

    def __init__(
        self, rows: Int64[Tensor, " query"], own: Int64[Tensor, " own"], n_prefix: int, n_heads: int, n_kv: int
    ) -> None:
        self._rows, self._own, self._n_prefix, self._heads = rows, own, n_prefix, (n_heads, n_kv)
        self._of = lru_cache(_MASKS_KEPT)(self._made)

    def of_runs(
        self, queries: slice, n_own: int, cuts: Sequence[Sequence[AnyCut]]
    ) -> Bool[Tensor, "run some_kv some_shared query key"] | None:
        """The masks of several runs for some of the rows; None where nothing is cut."""
        if not any(cuts):
            return None
        masks = [self._of(queries.start, queries.stop, n_own, tuple(some)) for some in cuts]
        shape = max((mask.shape for mask in masks), key=lambda shape: shape.numel())  # some may name heads
        return torch.stack([mask.expand(shape) for mask in masks])

    def _made(self, first: int, stop: int, n_own: int, cuts: tuple[AnyCut, ...]) -> Mask:
        rows, (n_heads, n_kv) = self._rows[first:stop], self._heads
        keys = torch.cat([torch.arange(self._n_prefix, device=rows.device), self._own[:n_own]])
        if not cuts:
            return torch.zeros(1, 1, len(rows), len(keys), dtype=torch.bool, device=rows.device)
        allowed = allowed_keys(rows[None], keys[None], (0,), cuts, n_heads)[0]
        nothing = ~allowed.any(dim=-1).any(dim=0)
        if nothing.any():
            report_empty_rows(rows[nothing])
        return ~(allowed.view(n_kv, n_heads // n_kv, *allowed.shape[1:]) if len(allowed) > 1 else allowed[None])


@dataclass(frozen=True)
class SharedPrefix(Attend):
    """How several runs of one prompt attend in one layer: over [shared prefix | own rows].

    `own` are the positions of the rows that each run holds, in order; `prefix_k` and `prefix_v` belong to positions
    0, 1, ... before the first of them. A position after the first that is not among `own` is read by nobody.
    """

    prefix_k: Float[Tensor, "one kv_head prefix d_head"] = field(default_factory=lambda: torch.zeros(1, 1, 0, 1))
    prefix_v: Float[Tensor, "one kv_head prefix d_head"] = field(default_factory=lambda: torch.zeros(1, 1, 0, 1))
    own: Int64[Tensor, " own"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    run_cuts: Sequence[Sequence[AnyCut]] = ()  # of each run, in this layer
    max_scores: int = 1 << 22  # numbers that a block of scores may hold
    blocked: BlockedKeys | None = None  # of all own rows, if several layers share it

    def read(
        self,
        layer: int,
        q: Float[Tensor, "run head query d_head"],
        k: Float[Tensor, "run kv_head own d_head"],
        v: Float[Tensor, "run kv_head own d_head"],
    ) -> Float[Tensor, "run head query d_head"]:
        """What each query reads, with each run's cuts."""
        if self.reading is None and len(self.own) >= _MANY_ROWS:
            return self._run_by_run(q, k, v)
        rows = self.own if self.reading is None else self.own[self.reading]
        masks = self.blocked
        if masks is None or self.reading is not None:
            masks = BlockedKeys(rows, self.own, self.prefix_k.shape[2], q.shape[1], k.shape[1])
        z = torch.empty_like(q)
        with _precise_enough(q):
            for runs, queries in self._blocks(q, len(rows)):
                n_own = int(torch.searchsorted(self.own, rows[queries][-1])) + 1  # later ones are not read
                blocked = masks.of_runs(queries, n_own, self.run_cuts[runs])
                z[runs, :, queries] = self._block(
                    q[runs, :, queries], k[runs, :, :n_own], v[runs, :, :n_own], rows[queries], blocked
                )
        return z

    def _run_by_run(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Many own rows: the fused kernel is worth a copy of the shared keys, which are few beside what a row costs."""
        prefix = torch.arange(self.prefix_k.shape[2], device=q.device)
        keys = torch.cat([prefix, self.own])[None]
        z = []
        for run, cuts in enumerate(self.run_cuts):
            one = slice(run, run + 1)
            k_all, v_all = (torch.cat(pair, dim=2) for pair in ((self.prefix_k, k[one]), (self.prefix_v, v[one])))
            plain = self._causal(q[one], k_all, v_all)
            if cuts:
                touched = Touched()
                touched.prepare(self.own[None], keys, cuts, (0,), q[one])
                plain = apply_cuts(plain, q[one], k_all, v_all, touched)
            z.append(plain)
        return torch.cat(z)

    def _blocks(self, q: Tensor, n_rows: int) -> Iterator[tuple[slice, slice]]:
        """Runs and rows whose scores exist at one time."""
        n_keys = self.prefix_k.shape[2] + len(self.own)
        at_once = max(_LEAST_BLOCK, self.max_scores // (q.shape[1] * n_keys))
        n_queries = min(n_rows, at_once)
        n_runs = max(1, at_once // n_queries)
        for run in range(0, len(q), n_runs):
            for row in range(0, n_rows, n_queries):
                yield slice(run, run + n_runs), slice(row, min(row + n_queries, n_rows))

    def _block(
        self,
        q: Float[Tensor, "run head query d_head"],
        k: Float[Tensor, "run kv_head some_own d_head"],
        v: Float[Tensor, "run kv_head some_own d_head"],
        rows: Int64[Tensor, " query"],
        blocked: Bool[Tensor, "run some_kv some_shared query key"] | None,
    ) -> Float[Tensor, "run head query d_head"]:
        """Softmax over both parts at once, in float32, with the larger part of the keys multiplied as one matrix."""
        n_runs, n_heads, n_rows, d_head = q.shape
        n_kv, n_prefix = k.shape[1], self.prefix_k.shape[2]
        shared = n_heads // n_kv
        # heads of one key/value head side by side
        grouped = (q.float() * d_head**-0.5).reshape(n_runs, n_kv, shared * n_rows, d_head)
        prefix_q = grouped.transpose(0, 1).reshape(n_kv, -1, d_head)
        old = prefix_q @ self.prefix_k[0].float().transpose(1, 2)
        new = grouped @ k.float().transpose(2, 3)
        old_by_run = old.view(n_kv, n_runs, shared, n_rows, n_prefix)  # a view: masks go into `old`
        new_by_run = new.view(n_runs, n_kv, shared, n_rows, new.shape[-1])
        new_by_run.masked_fill_(self.own[: new.shape[-1]] > rows[:, None], -torch.inf)
        if blocked is not None:
            old_by_run.masked_fill_(blocked[..., :n_prefix].transpose(0, 1), -torch.inf)
            new_by_run.masked_fill_(blocked[..., n_prefix:], -torch.inf)
        z = self._weighted(old, new, v)
        return z.view(n_runs, n_heads, n_rows, d_head).to(q.dtype)

    def _weighted(
        self,
        old: Float[Tensor, "kv_head rows_of_all_runs prefix"],
        new: Float[Tensor, "run kv_head rows_of_run some_own"],
        v: Float[Tensor, "run kv_head some_own d_head"],
    ) -> Float[Tensor, "run kv_head rows_of_run d_head"]:
        """The values of both parts, weighted by one softmax; a row with no key left reads zero."""
        n_runs, n_kv, n_rows, _ = new.shape
        top = new.amax(dim=-1)
        if old.shape[-1]:
            top = torch.maximum(top, old.amax(dim=-1).view(n_kv, n_runs, n_rows).transpose(0, 1))
        top = top.masked_fill(top == -torch.inf, 0)
        old.sub_(top.transpose(0, 1).reshape(n_kv, -1, 1)).exp_()
        new.sub_(top[..., None]).exp_()
        by_run = (n_kv, n_runs, n_rows, v.shape[-1])
        total = new.sum(dim=-1) + old.sum(dim=-1).view(*by_run[:3]).transpose(0, 1)
        z = new @ v.float() + (old @ self.prefix_v[0].float()).view(by_run).transpose(0, 1)
        return z / total.masked_fill(total == 0, 1)[..., None]


@contextmanager
def _precise_enough(q: Tensor) -> Iterator[None]:
    """On a GPU, numbers of half precision lose nothing in TF32 products, which are many times as fast as float32's."""
    if q.dtype == torch.float32 or not q.is_cuda:
        yield
        return
    products = torch.backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "tf32"
    try:
        yield
    finally:
        products.fp32_precision = before
