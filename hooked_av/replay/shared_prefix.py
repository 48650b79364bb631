"""Attention of many runs over one prompt: they share the keys and values of the rows that none of them changes.

Each run has own keys and values for its own rows only. Queries that may read the same shared keys read them together,
whatever run they belong to; each joins that with what it reads of its run's own keys. Where rows are many, the fused
kernel is worth a copy of the shared keys for each run.

Axes: run (one variant of the prompt), head kv_head shared (query heads of one key/value head), query, key, own (rows
that every run has for itself), prefix (rows that all share), used (those that are left to some), place (a query of a
run), d_head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hooked_av.decoder import costs
from hooked_av.decoder.attention import Attend
from hooked_av.decoder.cut_masks import apply_cuts, read_everything
from hooked_av.replay.blocked_keys import BlockedKeys, Cuts, PrefixMask
from hooked_av.replay.key_parts import KeyPart, joined, read_part, scores_of_part, weigh_part

RunQueries = Float[Tensor, "run head query d_head"]
GroupedQueries = Float[Tensor, "run query kv_head shared d_head"]
OwnKeys = Float[Tensor, "run kv_head own d_head"]  # or values


@dataclass(frozen=True, kw_only=True)
class SharedPrefix(Attend):
    """How several runs of one prompt attend in one layer: over [shared prefix | own rows].

    `own` are the positions of the rows that each run holds, in order; `prefix_k` and `prefix_v` belong to positions
    0, 1, ... before the first of them. A position after the first that is not among `own` is read by nobody.
    """

    prefix_k: Float[Tensor, "one kv_head prefix d_head"]
    prefix_v: Float[Tensor, "one kv_head prefix d_head"]
    own: Int64[Tensor, " own"]
    run_cuts: Sequence[Cuts]  # of each run, in this layer
    max_scores: int  # numbers that a block of scores may hold
    blocked: BlockedKeys | None = None  # of the rows that go on, if several layers share it

    def read(self, layer: int, q: RunQueries, k: OwnKeys, v: OwnKeys) -> RunQueries:
        """What each query reads, with each run's cuts."""
        rows, masks = self.own if self.reading is None else self.own[self.reading], self.blocked
        if masks is None:
            masks = BlockedKeys(rows, self.own, self.prefix_k.shape[2], q.shape[1], k.shape[1])
        many = self._run_by_run(q, k, v, masks) if len(rows) >= costs.MANY_ROWS else None
        return self._together(q, k, v, masks) if many is None else many

    def _together(self, q: RunQueries, k: OwnKeys, v: OwnKeys, masks: BlockedKeys) -> RunQueries:
        """Few rows of many runs, in blocks."""
        n_prefix, n_heads, n_kv, n_rows = self.prefix_k.shape[2], q.shape[1], k.shape[1], q.shape[2]
        grouped, z = q.transpose(1, 2).unflatten(2, (n_kv, n_heads // n_kv)), []
        most = self.max_scores // (n_heads * (n_prefix + len(self.own)))
        with _precise_enough(q):
            for some in _slices(n_rows, min(max(most, costs.LEAST_BLOCK), costs.MANY_ROWS)):
                whole = some == slice(0, n_rows)
                part = masks if whole else BlockedKeys(masks.rows[some], self.own, n_prefix, n_heads, n_kv)
                own = self._read_own(grouped[:, some], k, v, part)
                z.append(self._with_prefix(own, grouped[:, some], part).to(q.dtype))
        return torch.cat(z, dim=1).flatten(2, 3).transpose(1, 2)

    def _run_by_run(self, q: RunQueries, k: OwnKeys, v: OwnKeys, masks: BlockedKeys) -> RunQueries | None:
        """Many rows: a run with a copy of the shared keys, which are few beside what the rows cost.

        None where only some rows are asked for, and not all of them are cut: they need masks.
        """
        some_touched = [masks.touched(cuts, q[:1]) if cuts else None for cuts in self.run_cuts]
        if self.reading is not None and not all(touched and touched.is_everything for touched in some_touched):
            return None
        z = []
        for run, touched in enumerate(some_touched):
            one = slice(run, run + 1)
            k_all, v_all = (torch.cat(pair, dim=2) for pair in ((self.prefix_k, k[one]), (self.prefix_v, v[one])))
            if touched is not None and touched.is_everything:
                z.append(read_everything(q[one], k_all, v_all, touched))
            else:
                plain = self._causal(q[one], k_all, v_all)
                z.append(plain if touched is None else apply_cuts(plain, q[one], k_all, v_all, touched))
        return torch.cat(z)

    def _read_own(self, q: GroupedQueries, k: OwnKeys, v: OwnKeys, masks: BlockedKeys) -> KeyPart:
        """What each query reads of its run's own rows: z is [run query kv_head shared d_head]."""
        n_own, parts = masks.n_own, []
        for runs in _slices(len(q), self.max_scores // (q[0, ..., 0].numel() * n_own)):
            by_group = q[runs].permute(0, 2, 1, 3, 4)  # run kv_head query shared d_head
            scores = scores_of_part(by_group.flatten(2, 3).flatten(0, 1), k[runs, :, :n_own].flatten(0, 1))
            # a view: the mask goes into `scores`
            by_query = scores.view(*by_group.shape[:-1], n_own).transpose(1, 2)
            by_query.masked_fill_(masks.own(self.run_cuts[runs]), -torch.inf)
            part = weigh_part(scores, v[runs, :, :n_own].flatten(0, 1))
            parts.append(part.unfolded(by_group.shape, 0, 2, 1, 3))
        return KeyPart.cat(parts, dim=0)

    def _with_prefix(self, own: KeyPart, q: GroupedQueries, masks: BlockedKeys) -> GroupedQueries:
        """The same joined with what is read of the shared keys: those left to a place, or masked for its run."""
        k, v = self.prefix_k[0], self.prefix_v[0]
        if not k.shape[1]:
            return own.z
        alike, masked = masks.sort(self.run_cuts)
        z, log_total, by_place = own.z.flatten(0, 1), own.log_total.flatten(0, 1), q.flatten(0, 1)
        out = z.new_empty(z.shape)
        for places, used in alike:
            some = slice(None) if places is None else places
            keys = (k, v) if used is None else (k[:, used], v[:, used])
            out[some] = joined(KeyPart(z[some], log_total[some]), self._read_prefix(by_place[some], *keys))
        out = out.view(own.z.shape)
        for block in _slices(len(masked), self.max_scores // (q[0, ..., 0].numel() * k.shape[1])):
            runs = masked[block]
            part = self._read_masked(q[runs], masks.shared([self.run_cuts[run] for run in runs]))
            out[runs] = joined(KeyPart(own.z[runs], own.log_total[runs]), part)
        return out

    def _read_prefix(
        self,
        q: Float[Tensor, "place kv_head shared d_head"],
        k: Float[Tensor, "kv_head used d_head"],
        v: Float[Tensor, "kv_head used d_head"],
    ) -> KeyPart:
        """What places read of shared keys that are all left to them."""
        by_head = q.transpose(0, 1)
        return read_part(by_head.flatten(1, 2), k, v, self.max_scores).unfolded(by_head.shape, 1, 0, 2)

    def _read_masked(self, q: GroupedQueries, blocked: PrefixMask | None) -> KeyPart:
        """What some runs read of the shared keys under their masks."""
        by_head = q.permute(2, 0, 1, 3, 4)
        scores = scores_of_part(by_head.flatten(1, 3), self.prefix_k[0])
        if blocked is not None:
            scores.view(*by_head.shape[:-1], -1).masked_fill_(blocked.permute(2, 0, 1, 3, 4), -torch.inf)
        return weigh_part(scores, self.prefix_v[0]).unfolded(by_head.shape, 1, 2, 0, 3)


def _slices(n: int, size: int) -> Iterator[slice]:
    """Blocks of at most this size, or single ones."""
    for start in range(0, n, max(1, size)):
        yield slice(start, min(start + max(1, size), n))


@contextmanager
def _precise_enough(q: Tensor) -> Iterator[None]:
    """On a GPU, scores of half precision lose nothing in TF32 products, which are many times as fast as float32's.

    What they weigh is rounded to TF32: to 11 bits, where bfloat16 has 8.
    """
    if q.dtype not in (torch.float16, torch.bfloat16) or not q.is_cuda:
        yield
        return
    products = torch.backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "tf32"
    try:
        yield
    finally:
        products.fp32_precision = before
