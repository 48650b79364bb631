"""Attention of the rows that cuts touch: computed again, without the keys that they may not read.

What is blocked depends on positions alone, so layers of a pass that have the same cuts share it (`Touched`).

Axes: batch head kv_head pos d_head; query (rows asked for), key; shared (query heads of one key/value head).
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hooked_av.decoder import costs
from hooked_av.decoder.cuts import AnyCut, Cut, KeyRows, QueryRows, members
from hooked_av.errors import HookedAVWarning

Queries = Float[Tensor, "batch head query d_head"]
Keys = Float[Tensor, "batch kv_head key d_head"]


def allowed_keys(
    rows: QueryRows, keys: KeyRows, starts: Sequence[int], cuts: Sequence[AnyCut], n_heads: int
) -> Bool[Tensor, "batch heads query key"]:
    """Which keys each row may read: not later, not padding, not cut. One head stands for all unless some are named."""
    begins = torch.tensor(starts, device=rows.device)
    allowed = ((keys[:, None] <= rows[..., None]) & (keys >= begins[:, None])[:, None])[:, None]
    for cut in cuts:
        blocked = cut.blocked(rows, keys)[:, None]
        if cut.heads is not None:
            heads = torch.isin(torch.arange(n_heads, device=rows.device), torch.tensor(cut.heads, device=rows.device))
            blocked = blocked & heads[None, :, None, None]
        allowed = allowed & ~blocked
    return allowed


class OnePrompt(NamedTuple):
    """What one prompt of a pass asks: its query rows, the keys that are there, what is cut, and where it starts."""

    rows: Int64[Tensor, "batch=1 query"]
    keys: Int64[Tensor, "batch=1 key"]
    cuts: Sequence[AnyCut]
    start: int = 0


class CutBlock(NamedTuple):
    """Some touched rows of one prompt, and what they may read.

    `rows` are their places among the queries, `heads` those that any cut names (None: all), `used` the keys that any
    row may read (None: not looked for), `empty` the rows that may read none (None: there are none).
    """

    rows: Int64[Tensor, " touched"]
    heads: list[int] | None
    used: Int64[Tensor, " used"] | None
    mask: Bool[Tensor, "batch=1 some_heads touched used"]
    empty: Bool[Tensor, "batch=1 some_heads touched one"] | None

    @classmethod
    def of(cls, prompt: OnePrompt, index: Int64[Tensor, " touched"], n_heads: int) -> "CutBlock":
        """What the rows at `index` may read; rows with no key left are reported."""
        rows, keys, cuts, start = prompt
        heads, allowed = _named_heads(cuts), allowed_keys(rows[:, index], keys, (start,), cuts, n_heads)
        allowed = allowed if heads is None else allowed[:, heads]
        nothing = ~allowed.any(dim=-1, keepdim=True)
        some_empty = bool(nothing.any())
        if some_empty:
            report_empty_rows(rows[0, index][nothing.any(dim=(0, 1, 3))])
        used = None if len(index) < costs.FEW_TOUCHED else allowed.any(dim=(0, 1, 2)).nonzero().flatten()
        mask = (allowed if used is None else allowed[..., used]) | nothing
        return cls(index, heads, used, mask, nothing if some_empty else None)

    def read(self, q: Queries, k: Keys, v: Keys) -> Float[Tensor, "batch some_heads touched d_head"]:
        """What these rows read (in the heads that are named); keys that none may read are left out beforehand."""
        q = q[:, :, self.rows]
        if self.heads is not None:
            shared = q.shape[1] // k.shape[1]
            kv_heads = [head // shared for head in self.heads]
            q, k, v = q[:, self.heads], k[:, kv_heads], v[:, kv_heads]
        if self.used is not None:
            k, v = k[:, :, self.used], v[:, :, self.used]
        if not k.shape[2]:
            return torch.zeros_like(q)
        z = masked_attention(q, k, v, self.mask)
        return z if self.empty is None else z.masked_fill(self.empty, 0)


class CausalBlock(NamedTuple):
    """Many touched rows of one prompt that lose the same keys, none of them their own.

    They read as in a prompt without these keys, which is plain causal attention: `used` are the keys that stay, and
    `among_used` where the rows stand among them.
    """

    rows: Int64[Tensor, " touched"]
    used: Int64[Tensor, " used"]
    among_used: Int64[Tensor, " touched"]
    heads: None = None

    @classmethod
    def of(cls, prompt: OnePrompt, index: Int64[Tensor, " touched"]) -> "CausalBlock | None":
        """The rows at `index`, if there are many and their cut is of this kind."""
        rows, keys, cuts, start = prompt
        cut = cuts[0] if len(cuts) == 1 else None
        if len(index) <= costs.CUT_BLOCK or not isinstance(cut, Cut) or cut.heads is not None:
            return None
        used = (~members(keys, cut.keys) & (keys >= start))[0].nonzero().flatten()
        if not len(used):
            return None
        among_used = torch.searchsorted(keys[0, used], rows[0, index])
        stay = bool((keys[0, used[among_used.clamp(max=len(used) - 1)]] == rows[0, index]).all())
        # queries that nobody asked for are computed, too: worth it while they are few
        return cls(index, used, among_used) if stay and len(used) <= costs.COMPUTED_PER_ASKED * len(index) else None

    def read(self, q: Queries, k: Keys, v: Keys) -> Float[Tensor, "batch head touched d_head"]:
        """What these rows read."""
        all_q = q.new_zeros(*q.shape[:2], len(self.used), q.shape[3]).index_copy_(
            2, self.among_used, q[:, :, self.rows]
        )
        # not every kernel shares keys between heads, and the way around one would make all scores
        k, v = (for_every_head(x[:, :, self.used], q.shape[1]) for x in (k, v))
        z = scaled_dot_product_attention(all_q, k, v, is_causal=True, scale=q.shape[3] ** -0.5)
        return z[:, :, self.among_used]


class Touched:
    """The rows that cuts touch in one pass, kept from layer to layer while cuts and rows stay the same."""

    def __init__(self) -> None:
        self._made_for: tuple[QueryRows, KeyRows, tuple[AnyCut, ...]] | None = None
        self._index: list[Int64[Tensor, " touched"]] = []
        self._blocks: list[list[CutBlock | CausalBlock] | None] = []

    def prepare(
        self, rows: QueryRows, keys: KeyRows, cuts: Sequence[AnyCut], starts: Sequence[int], q: Queries
    ) -> None:
        """Find the touched rows of each prompt; and what they may read, where that takes little beside the queries."""
        made = self._made_for
        if made is not None and made[0] is rows and made[1] is keys and made[2] == tuple(cuts):
            return
        self._made_for = (rows, keys, tuple(cuts))
        self._prompts = [
            OnePrompt(rows[one], keys[one], [cut.of(one) for cut in cuts], starts[one.start])
            for one in (slice(row, row + 1) for row in range(len(rows)))
        ]
        self._n_heads = q.shape[1]
        self._index = [touched_rows(*prompt) for prompt in self._prompts]
        n_masks = q.shape[1] if any(cut.heads is not None for cut in cuts) else 1
        small = n_masks * keys.shape[1] <= costs.KEPT_MASKS * q[0, :, 0].numel() * q.element_size()  # of one row
        self._blocks = [self._kept(row, small) for row in range(len(rows))]

    def _kept(self, row: int, small: bool) -> list[CutBlock | CausalBlock] | None:
        causal = CausalBlock.of(self._prompts[row], self._index[row])
        if causal is not None:
            return [causal]
        return list(self._made(row)) if small or len(self._index[row]) <= costs.CUT_BLOCK else None

    def blocks(self, row: int) -> Iterator[CutBlock | CausalBlock]:
        """The touched rows of one prompt; the masks of many rows are made anew each time, one block after the other."""
        kept = self._blocks[row]
        yield from self._made(row) if kept is None else kept

    def _made(self, row: int) -> Iterator[CutBlock]:
        for index in self._index[row].split(costs.CUT_BLOCK) if len(self._index[row]) else ():
            yield CutBlock.of(self._prompts[row], index, self._n_heads)

    @property
    def is_everything(self) -> bool:
        """Whether every row is touched, in every head: then nobody reads what is computed without cuts."""
        rows, _, cuts = self._made_for or (torch.zeros(1, 1), None, ())
        return _named_heads(cuts) is None and all(len(index) == rows.shape[1] for index in self._index)


def read_everything(q: Queries, k: Keys, v: Keys, touched: Touched) -> Queries:
    """What the rows read where all of them are touched."""
    prompts = [(slice(row, row + 1), touched.blocks(row)) for row in range(len(q))]
    return torch.cat(
        [torch.cat([block.read(q[one], k[one], v[one]) for block in blocks], dim=2) for one, blocks in prompts]
    )


def apply_cuts(z: Queries, q: Queries, k: Keys, v: Keys, touched: Touched) -> Queries:
    """Compute the touched rows again, without the keys that they may not read; other rows keep the fused result."""
    out = z.clone()
    for row in range(len(q)):
        one = slice(row, row + 1)
        for block in touched.blocks(row):
            part = block.read(q[one], k[one], v[one])[0]
            if block.heads is None:
                out[row, :, block.rows] = part
            else:
                out[row, torch.tensor(block.heads, device=out.device)[:, None], block.rows] = part
    return out


def _named_heads(cuts: Sequence[AnyCut]) -> list[int] | None:
    """The heads that any cut names; None for all."""
    if any(cut.heads is None for cut in cuts):
        return None
    return sorted({head for cut in cuts for head in cut.heads or ()})


def touched_rows(
    rows: Int64[Tensor, "batch=1 query"], keys: Int64[Tensor, "batch=1 key"], cuts: Sequence[AnyCut], start: int
) -> Int64[Tensor, " touched"]:
    """Which query rows lose a key that they could have read; the others keep their bits."""
    touched = torch.zeros_like(rows, dtype=torch.bool)
    for cut in cuts:
        if isinstance(cut, Cut) and not (cut.queries.shape[1] and cut.keys.shape[1]):
            continue
        if isinstance(cut, Cut):  # a query before every blocked key loses nothing
            touched |= members(rows, cut.queries) & (rows >= cut.keys.min())
            continue
        for index in torch.arange(rows.shape[1], device=rows.device).split(costs.CUT_BLOCK):
            readable = (keys[:, None] <= rows[:, index, None]) & (keys >= start)[:, None]
            touched[:, index] |= (cut.blocked(rows[:, index], keys) & readable).any(dim=-1)
    return touched[0].nonzero().flatten()


def takes_pairs(
    cut: AnyCut,
    queries: Int64[Tensor, "batch=1 query"],
    keys: Int64[Tensor, "batch=1 key"],
    others: Sequence[AnyCut],
    n_heads: int,
) -> bool:
    """Whether a cut takes away some pair of these positions of one prompt, in a head in which no other takes it.

    It looks at blocks of query rows, the last ones first: they could read most, so the first block mostly tells.
    """
    if isinstance(cut, Cut) and not others:
        cut_rows, cut_keys = queries[members(queries, cut.queries)], keys[members(keys, cut.keys)]
        return bool(len(cut_rows) and len(cut_keys) and cut_keys.min() <= cut_rows.max())
    heads = range(n_heads) if cut.heads is None else cut.heads
    # heads are alike where the same others act in them
    beside = {tuple(other for other in others if other.heads is None or head in other.heads) for head in heads}
    for block in reversed(queries.split(costs.CUT_BLOCK, dim=1) if queries.shape[1] else ()):
        taken = cut.blocked(block, keys) & (keys[:, None] <= block[..., None])
        for some in beside:
            left = taken.clone()
            for other in some:
                left &= ~other.blocked(block, keys)
            if bool(left.any()):
                return True
    return False


def for_every_head(x: Keys, n_heads: int) -> Float[Tensor, "batch head key d_head"]:
    """Keys or values, copied for the query heads that share them."""
    return x if x.shape[1] == n_heads else x.repeat_interleave(n_heads // x.shape[1], dim=1)


def masked_attention(
    q: Queries, k: Keys, v: Keys, mask: Bool[Tensor, "*any query key"]
) -> Float[Tensor, "batch head query d_head"]:
    """Fused attention under a mask.

    Query heads that share keys lie side by side as more rows: the kernels of GPUs that take a mask want as many heads
    of keys as of queries, and this way the keys are not copied.
    """
    batch, n_heads, n_rows, d_head = q.shape
    n_kv = k.shape[1]
    shared = n_heads // n_kv
    folded = q.reshape(batch, n_kv, shared * n_rows, d_head)
    mask = mask if mask.ndim == 4 else mask[None, None]
    if mask.shape[1] > 1:
        mask = mask.reshape(len(mask), n_kv, shared * n_rows, -1)
    elif n_rows > 1:  # one row stands for all as it is
        mask = mask.repeat(1, 1, shared, 1)
    z = scaled_dot_product_attention(folded, k, v, attn_mask=mask, scale=d_head**-0.5)
    return z.view(batch, n_heads, n_rows, d_head)


def report_empty_rows(rows: Int64[Tensor, " query"]) -> None:
    """Say that rows have no key left: their attention output is zero."""
    warnings.warn(
        f"{len(rows)} query rows have no key left to read (first at position {int(rows[0])}); "
        "their attention output is zero",
        HookedAVWarning,
        stacklevel=2,
    )
