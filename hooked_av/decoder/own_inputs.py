"""Inputs of attention heads that hooks have edited, each head's its own (`hook_q_input`, ..., `hook_attn_in`).

Axes: batch, query (rows that were asked for), head d_model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hooked_av.errors import HookError
from hooked_av.hooks.point import HookPoint


@dataclass(frozen=True)
class OwnInputs:
    """What heads read behind the norm, in some rows."""

    index: Int64[Tensor, "batch query"]
    normalized: Float[Tensor, "batch query head d_model"]

    def for_heads(self, n_heads: int) -> "OwnInputs":
        """For so many key/value heads: query heads that share one must have been left the same input.

        Errors: `HookError` if they have not.
        """
        groups = self.normalized.unflatten(2, (n_heads, -1))
        if not torch.equal(groups, groups[:, :, :, :1].expand_as(groups)):
            raise HookError(
                "heads that share a key/value head were given inputs that differ",
                expected=f"the same edit in each of the {groups.shape[3]} heads of a group",
                got="an edit of hook_attn_in by heads",
                next_step="edit hook_q_input, and hook_k_input or hook_v_input (one entry per key/value head)",
            )
        return OwnInputs(self.index, groups[:, :, :, 0])


def refuse_both(points: Sequence[HookPoint]) -> None:
    """`hook_attn_in` is the input of all three; which of two edits would count?"""
    if points:
        raise HookError(
            "hook_attn_in and inputs of queries, keys or values are hooked in one layer",
            expected="one of the two ways",
            got=", ".join(str(point.name) for point in points),
            next_step="hook hook_q_input, hook_k_input and hook_v_input",
        )
