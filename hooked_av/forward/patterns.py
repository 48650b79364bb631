"""Attention patterns that a cache did not keep, made from its queries and keys when it is asked for one.

Axes: batch head query key d_head.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_av.decoder.attention import Attend, pattern_of, scores_of
from hooked_av.decoder.cut_masks import allowed_keys
from hooked_av.hooks.cache import check_budget
from hooked_av.hooks.point import HookPoint
from hooked_av.hooks.run import Run, layer_of
from hooked_av.interventions.plan import Plan

_MADE = (".hook_attn_scores", ".hook_pattern")


@dataclass(frozen=True)
class Patterns:
    """Makes attention matrices of a pass; it is `None` where hooks had a hand in them, or rows have left."""

    attend: Attend
    is_as_computed: bool

    @classmethod
    def of(cls, attend: Attend, run: Run, plan: Plan, points: Mapping[str, HookPoint]) -> "Patterns":
        edited = any(points[name].listeners_in(run) for name in points if name.endswith(_MADE))
        edited = edited or any(edit.point.endswith(_MADE) for edit in plan.edits)
        return cls(attend, not (edited or attend.leaving))

    def __call__(self, name: str, kept: Mapping[str, Tensor]) -> Float[Tensor, "batch head query key"] | None:
        layer = layer_of(name)
        q, k = (kept.get(f"blocks.{layer}.attn.hook_rot_{which}") for which in "qk")
        if not name.endswith(_MADE) or q is None or k is None or not self.is_as_computed:
            return None
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        needed = 2 * q[..., 0].numel() * k.shape[2] * q.element_size()
        check_budget(
            "this pattern", needed, q.device, None, lambda free: f"cache a span of it: names_filter='{name}@last'"
        )
        rows = torch.arange(q.shape[2], device=q.device).expand(len(q), -1)
        cuts = self.attend.cuts.get(layer, ())
        scores = scores_of(q, k, allowed_keys(rows, rows, self.attend.starts, cuts, q.shape[1]))
        return scores if name.endswith(_MADE[0]) else pattern_of(scores)
