"""Causal attention as pure functions: fused for all rows, explicit scores only for the rows that are asked for.

Nothing here has the size heads x pos x pos unless a hook asks for a pattern at every row. There is no padding mask:
prompts padded on the left are attended to one by one, without their padding; padding on the right is never read,
because attention is causal.

Axes: batch head kv_head pos d_head; query (rows asked for), key.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hooked_av.errors import HookedAVWarning, InputsError
from hooked_av.hooks import Run

Queries = Float[Tensor, "batch head pos d_head"]
Keys = Float[Tensor, "batch kv_head pos d_head"]
Backend = Literal["sdpa", "eager"]

_EAGER_BLOCK = 1024  # query rows whose scores exist at one time in the eager backend


@dataclass(frozen=True)
class Cut:
    """In one layer, `queries` may not read `keys`: positions for each row of the batch; all heads, or those named."""

    queries: Int64[Tensor, "batch query"]
    keys: Int64[Tensor, "batch key"]
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Attend:
    """How attention runs in one forward pass: backend, where each prompt starts, and what is cut in which layer."""

    backend: Backend = "sdpa"
    starts: tuple[int, ...] = (0,)
    cuts: Mapping[int, Sequence[Cut]] = field(default_factory=dict)
    run: Run | None = None

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise InputsError(
                "unknown attention backend",
                expected=" or ".join(get_args(Backend)),
                got=repr(self.backend),
                next_step="set model.attn_implementation",
            )

    def read(self, layer: int, q: Queries, k: Keys, v: Keys) -> Queries:
        """What each query reads, with this layer's cuts."""
        z = self._per_prompt(q, k, v) if any(self.starts) else self._causal(q, k, v)
        cuts = self.cuts.get(layer, ())
        return apply_cuts(z, q, k, v, cuts, self.starts) if cuts else z

    def _per_prompt(self, q: Queries, k: Keys, v: Keys) -> Queries:
        rows = []
        for row, start in enumerate(self.starts):
            z = self._causal(*(x[row : row + 1, :, start:] for x in (q, k, v)))
            rows.append(torch.nn.functional.pad(z, (0, 0, start, 0)))
        return torch.cat(rows)

    def _causal(self, q: Queries, k: Keys, v: Keys) -> Queries:
        if self.backend == "eager":
            return torch.cat([_eager_block(q, k, v, start) for start in range(0, q.shape[2], _EAGER_BLOCK)], dim=2)
        # one query needs no causal mask; torch's fast kernels want the flag off there, as transformers does
        return scaled_dot_product_attention(
            q, k, v, is_causal=q.shape[2] > 1, scale=q.shape[-1] ** -0.5, enable_gqa=q.shape[1] != k.shape[1]
        )


def _eager_block(q: Queries, k: Keys, v: Keys, start: int) -> Float[Tensor, "batch head query d_head"]:
    rows = q[:, :, start : start + _EAGER_BLOCK]
    stop = start + rows.shape[2]
    index = torch.arange(stop, device=q.device)
    allowed = index[start:, None] >= index
    return weigh(pattern_of(scores_of(rows, k[:, :, :stop], allowed)), v[:, :, :stop])


def scores_of(
    rows: Float[Tensor, "batch head query d_head"], k: Keys, allowed: Bool[Tensor, "*any query key"]
) -> Float[Tensor, "batch head query key"]:
    """Scaled scores of some query rows; forbidden keys are minus infinity."""
    scores = torch.matmul(rows, _repeated(k, rows.shape[1]).transpose(2, 3)) * rows.shape[-1] ** -0.5
    return scores.masked_fill(~allowed, -torch.inf)


def pattern_of(scores: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
    """Softmax over keys in float32. A row with no key left is zero: neither uniform nor NaN."""
    nothing = (scores == -torch.inf).all(dim=-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(nothing, 0), dim=-1, dtype=torch.float32)
    return weights.masked_fill(nothing, 0).to(scores.dtype)


def weigh(pattern: Float[Tensor, "batch head query key"], v: Keys) -> Float[Tensor, "batch head query d_head"]:
    """The values, weighted by a pattern."""
    return torch.matmul(pattern, _repeated(v, pattern.shape[1]))


def _repeated(x: Keys, n_heads: int) -> Float[Tensor, "batch head pos d_head"]:
    return x if x.shape[1] == n_heads else x.repeat_interleave(n_heads // x.shape[1], dim=1)


def allowed_keys(
    rows: Int64[Tensor, "batch query"], n_keys: int, starts: Sequence[int], cuts: Sequence[Cut], n_heads: int
) -> Bool[Tensor, "batch heads query key"]:
    """Which keys each row may read: not later, not padding, not cut. One head stands for all unless some are named."""
    keys = torch.arange(n_keys, device=rows.device)
    begins = torch.tensor(starts, device=rows.device)
    allowed = ((keys <= rows[..., None]) & (keys >= begins[:, None, None]))[:, None]
    for cut in cuts:
        blocked = _members(rows, cut.queries)[..., None] & _members(keys.expand(len(rows), -1), cut.keys)[:, None]
        heads = torch.ones(1, dtype=torch.bool, device=rows.device)
        if cut.heads is not None:
            heads = torch.isin(torch.arange(n_heads, device=rows.device), torch.tensor(cut.heads, device=rows.device))
        allowed = allowed & ~(heads[None, :, None, None] & blocked[:, None])
    return allowed


def _members(positions: Int64[Tensor, "batch pos"], chosen: Int64[Tensor, "batch span"]) -> Bool[Tensor, "batch pos"]:
    return torch.stack([torch.isin(row, span) for row, span in zip(positions, chosen, strict=True)])


def apply_cuts(z: Queries, q: Queries, k: Keys, v: Keys, cuts: Sequence[Cut], starts: Sequence[int]) -> Queries:
    """Compute the touched rows again, without the keys that they may not read; other rows keep the fused result."""
    out = z.clone()
    for row in range(len(q)):
        one = slice(row, row + 1)
        own = [Cut(cut.queries[one], cut.keys[one], cut.heads) for cut in cuts]
        # a query before every blocked key loses nothing, and keeps its bits
        touched = torch.cat([cut.queries[cut.queries >= cut.keys.min()] for cut in own]).unique()[None]
        if not touched.numel():
            continue
        heads = None if any(cut.heads is None for cut in own) else sorted({h for cut in own for h in cut.heads or ()})
        allowed = allowed_keys(touched, k.shape[2], starts[one], own, q.shape[1])
        part = _masked_rows(q[one], k[one], v[one], touched[0], allowed)
        for head in range(q.shape[1]) if heads is None else heads:
            out[row, head, touched[0]] = part[0, head]
    return out


def _masked_rows(
    q: Queries, k: Keys, v: Keys, rows: Int64[Tensor, " query"], allowed: Bool[Tensor, "batch heads query key"]
) -> Float[Tensor, "batch head query d_head"]:
    """Attention of a few rows; keys that no row may read are left out before the arithmetic."""
    used = allowed.any(dim=(0, 1, 2)).nonzero().flatten()
    nothing = ~allowed.any(dim=-1, keepdim=True)
    if nothing.any():
        report_empty_rows(rows[nothing.any(dim=(0, 1, 3))])
    if not len(used):
        return torch.zeros_like(q[:, :, rows])
    z = scaled_dot_product_attention(
        q[:, :, rows],
        k[:, :, used],
        v[:, :, used],
        attn_mask=allowed[..., used] | nothing,
        scale=q.shape[-1] ** -0.5,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return z.masked_fill(nothing, 0)


def report_empty_rows(rows: Int64[Tensor, " query"]) -> None:
    """Say that rows have no key left: their attention output is zero."""
    warnings.warn(
        f"{len(rows)} query rows have no key left to read (first at position {int(rows[0])}); "
        "their attention output is zero",
        HookedAVWarning,
        stacklevel=2,
    )
