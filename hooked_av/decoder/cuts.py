"""Cuts: which (query, key) pairs of one layer are taken away, said without ever holding them all.

Positions are those of the whole prompt, so a cut means the same in a full pass, a replay and a decode step. Cuts are
told apart as objects, so that what one of them takes away can be kept.

Axes: batch, query (rows asked for), key; span (positions of a span), pos (every row of the prompt).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from hooked_av.decoder import costs
from hooked_av.hooks.rows import members, packed

QueryRows = Int64[Tensor, "batch query"]
KeyRows = Int64[Tensor, "batch key"]


class AnyCut(ABC):
    """What is taken away in one layer, by the positions of queries and keys; passes and replays know only this much.

    A cut is itself (no two are equal), and says the same whenever it is asked.
    """

    heads: tuple[int, ...] | None = None  # those that are cut; None: all

    @abstractmethod
    def blocked(self, rows: QueryRows, keys: KeyRows) -> Bool[Tensor, "batch query key"]:
        """Which (query, key) pairs are taken away."""

    @abstractmethod
    def of(self, row: slice) -> "AnyCut":
        """The cut in some rows of the batch."""


@dataclass(frozen=True, eq=False)
class Cut(AnyCut):
    """In one layer, `queries` may not read `keys`: positions for each row of the batch; all heads, or those named.

    Rows of the batch that have fewer positions are filled up with -1.
    """

    queries: Int64[Tensor, "batch span"]
    keys: Int64[Tensor, "batch span_of_keys"]
    heads: tuple[int, ...] | None = None

    def blocked(self, rows: QueryRows, keys: KeyRows) -> Bool[Tensor, "batch query key"]:
        """Which (query, key) pairs this cut takes away."""
        return members(rows, self.queries)[..., None] & members(keys, self.keys)[:, None]

    def of(self, row: slice) -> "Cut":
        """The cut in some rows of the batch."""
        queries, keys = (packed(some[row], some[row] >= 0) for some in (self.queries, self.keys))
        return Cut(queries, keys, self.heads)


@dataclass(frozen=True, eq=False)
class Keep(AnyCut):
    """In one layer, queries may read only what one of `edges` says (here a `Cut` names what stays)."""

    edges: tuple[Cut, ...]

    def blocked(self, rows: QueryRows, keys: KeyRows) -> Bool[Tensor, "batch query key"]:
        """Which (query, key) pairs are taken away: all but the edges."""
        kept = torch.zeros(*rows.shape, keys.shape[1], dtype=torch.bool, device=rows.device)
        for edge in self.edges:
            kept |= edge.blocked(rows, keys)
        return ~kept

    def of(self, row: slice) -> "Keep":
        """The same in some rows of the batch."""
        return Keep(tuple(edge.of(row) for edge in self.edges))


@dataclass(frozen=True, eq=False)
class RandomCut(AnyCut):
    """In one layer, each row loses keys that are drawn at random from those that it could read.

    Every (query, key) pair has a pseudo-random number of its own, made from the two positions and the seed, and a row
    loses the keys whose numbers are at most its limit. So any block of rows can be asked for, in any order, and only a
    number a row is kept. Positions count from the first token of each prompt: padding changes no draw.
    """

    limits: Int64[Tensor, "batch pos"]
    starts: tuple[int, ...]
    seed: int
    heads: tuple[int, ...] | None = None

    @classmethod
    def drawn(
        cls, counts: Int64[Tensor, "batch pos"], starts: Sequence[int], seed: int, heads: tuple[int, ...] | None
    ) -> "RandomCut":
        """A cut that takes `counts[row]` keys from each row."""
        limits = torch.full_like(counts, _NONE)
        for row, start in enumerate(starts):
            limits[row, start:] = _limits(tuple(counts[row, start:].tolist()), seed).to(counts.device)
        return cls(limits, tuple(starts), seed, heads)

    def blocked(self, rows: QueryRows, keys: KeyRows) -> Bool[Tensor, "batch query key"]:
        """Which (query, key) pairs this cut takes away; rows that come after the prompt lose none."""
        starts = torch.tensor(self.starts, device=rows.device)[:, None]
        n_pos = self.limits.shape[1]
        limits = self.limits.gather(1, rows.clamp(max=n_pos - 1)).masked_fill(rows >= n_pos, _NONE)
        taken = pair_numbers(rows - starts, keys - starts, self.seed) <= limits[..., None]
        return taken & (keys[:, None] <= rows[..., None]) & (keys >= starts)[:, None]

    def of(self, row: slice) -> "RandomCut":
        """The cut in some rows of the batch."""
        return RandomCut(self.limits[row], self.starts[row], self.seed, self.heads)


_NONE = -(2**63)  # a limit that takes no key
_MIXERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_GOLDEN = 0x9E3779B97F4A7C15


def pair_numbers(rows: QueryRows, keys: KeyRows, seed: int) -> Int64[Tensor, "batch query key"]:
    """A pseudo-random number for every pair, the same wherever it is asked for, no two alike.

    It is SplitMix64 (Steele, Lea and Flood, 2014) of row, key and seed; integers wrap, as they do in C.
    """
    offset = (seed + 1) * _GOLDEN % 2**64
    x = (rows[..., None] << 32) + keys[:, None] + (offset - 2**64 if offset >= 2**63 else offset)
    for shift, mixer in zip((30, 27), _MIXERS, strict=True):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * mixer
    return x ^ ((x >> 31) & (2**33 - 1))


@lru_cache(maxsize=64)  # a sweep asks for the same draw in one window after the other
def _limits(counts: tuple[int, ...], seed: int) -> Int64[Tensor, " pos"]:
    """For each row of a prompt the number up to which its keys are taken."""
    wanted, limits = torch.tensor(counts), torch.full((len(counts),), _NONE)
    keys = torch.arange(len(counts))
    for rows in wanted.nonzero().flatten().split(costs.CUT_BLOCK):
        ahead = keys > rows[:, None]
        found = pair_numbers(rows[None], keys[None], seed)[0].masked_fill(ahead, 2**63 - 1).sort(dim=1).values
        limits[rows] = found.gather(1, wanted[rows, None] - 1)[:, 0]
    return limits


def count_cut(
    cuts: Sequence[AnyCut], n_pos: int, starts: Sequence[int], device: torch.device
) -> Int64[Tensor, "batch pos"]:
    """How many of the keys that it could read each row loses to any of these cuts."""
    rows = torch.arange(n_pos, device=device).expand(len(starts), -1)
    real = rows >= torch.tensor(starts, device=device)[:, None]
    counts = torch.zeros_like(rows)
    touched = torch.zeros_like(real)
    for cut in cuts:
        touched |= members(rows, cut.queries) if isinstance(cut, Cut) else real
    for index in touched.any(dim=0).nonzero().flatten().split(costs.CUT_BLOCK):
        lost = torch.zeros(len(starts), len(index), n_pos, dtype=torch.bool, device=device)
        for cut in cuts:
            lost |= cut.blocked(rows[:, index], rows)
        readable = (rows[:, None] <= rows[:, index, None]) & real[:, None] & real[:, index, None]
        counts[:, index] = (lost & readable).sum(dim=2)
    return counts


def spread_evenly(counts: Int64[Tensor, "batch pos"], starts: Sequence[int], seed: int) -> Int64[Tensor, "batch pos"]:
    """As many keys in all, over rows as they fall when pairs are drawn uniformly from the whole causal triangle."""
    out = torch.zeros_like(counts)
    for row, start in enumerate(starts):
        n_rows, total = counts.shape[1] - start, int(counts[row].sum())
        drawn = np.random.default_rng(seed % 2**63).multivariate_hypergeometric(
            np.arange(1, n_rows + 1), total, method="marginals"
        )
        out[row, start:] = torch.from_numpy(drawn).to(out.device)
    return out
