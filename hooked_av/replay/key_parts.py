"""Attention over the keys in parts: what is read of each part, with its weight, and all parts as one softmax.

A softmax over some keys is exact for all of them once the parts are weighted by their own sums of exponents (the rule
behind FlashAttention, 2205.14135). So rows that share keys can go through a fused kernel together, however different
the rest of their keys are.

Axes: group (a key/value head, of one run or of all), query, key, d_head; `any` stands for what lies in front.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_KERNEL_WIDTHS = range(8, 257, 8)  # of a head, that the fused kernels of GPUs take


class KeyPart(NamedTuple):
    """What queries read of some keys, and the logarithm of the sum of their exponents (-inf: there are none)."""

    z: Float[Tensor, "*any query d_head"]
    log_total: Float[Tensor, "*any query"]

    def unfolded(self, shape: Sequence[int], *axes: int) -> "KeyPart":
        """The queries on axes of their own again (`shape` of z), in another order (d_head stays the last)."""
        z, log_total = self.z.view(shape), self.log_total.view(shape[:-1])
        return KeyPart(z.permute(*axes, len(axes)), log_total.permute(*axes))

    @classmethod
    def cat(cls, parts: "Sequence[KeyPart]", dim: int) -> "KeyPart":
        """Parts of different queries as one."""
        return cls(*(torch.cat(some, dim=dim) for some in zip(*parts, strict=True)))


def read_part(
    q: Float[Tensor, "group query d_head"],
    k: Float[Tensor, "group key d_head"],
    v: Float[Tensor, "group key d_head"],
    max_scores: int,
) -> KeyPart:
    """Every query reads every key: by a fused kernel, or with at most so many scores at one time."""
    if not k.shape[1]:
        return KeyPart(torch.zeros_like(q), q.new_full(q.shape[:2], -torch.inf, dtype=torch.float32))
    kernel = kernel_for(q.device, q.dtype, q.shape[-1])
    if kernel is None:
        n_rows = max(1, max_scores // (len(k) * k.shape[1]))
        parts = [weigh_part(scores_of_part(some, k), v) for some in q.split(n_rows, dim=1)]
        return KeyPart.cat(parts, dim=1)
    z, log_total, *_ = kernel(q[None], k[None], v[None], 0.0, False, scale=q.shape[-1] ** -0.5)
    return KeyPart(z[0], log_total[0].float())


def kernel_for(device: torch.device, dtype: torch.dtype, d_head: int) -> Callable[..., tuple[Tensor, ...]] | None:
    """torch's fused attention that gives the sums, too, as its ring attention calls it; None where there is none."""
    if device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    half = dtype in (torch.float16, torch.bfloat16) and d_head in _KERNEL_WIDTHS
    if device.type == "cuda" and half and _has_flash_attention(device):
        return torch.ops.aten._scaled_dot_product_flash_attention
    return None


@lru_cache
def _has_flash_attention(device: torch.device) -> bool:
    """Whether torch was built with it, and the card can run it: NVIDIA's from Ampere on."""
    if not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def scores_of_part(
    q: Float[Tensor, "group query d_head"], k: Float[Tensor, "group key d_head"]
) -> Float[Tensor, "group query key"]:
    """Scaled scores in float32, to be masked with -inf in place."""
    # scaled afterwards: numbers of half precision are exact in TF32, their multiples are not
    return (q.float() @ k.float().transpose(1, 2)).mul_(q.shape[-1] ** -0.5)


def weigh_part(scores: Float[Tensor, "group query key"], v: Float[Tensor, "group key d_head"]) -> KeyPart:
    """The values under a softmax of these scores, which are used up; a query with no key left reads zero."""
    top = scores.amax(dim=-1, keepdim=True)
    top = top.masked_fill(top == -torch.inf, 0)
    total = scores.sub_(top).exp_().sum(dim=-1, keepdim=True)
    z = (scores @ v.float()) / total.masked_fill(total == 0, 1)
    return KeyPart(z, (top + total.log())[..., 0])


def joined(first: KeyPart, second: KeyPart) -> Float[Tensor, "*any query d_head"]:
    """What is read of both, as one softmax over all their keys would read it, in float32."""
    # the second's part of all exponents; of none (-inf less -inf) it is whatever, because both read zero
    share = (second.log_total - first.log_total).sigmoid_().nan_to_num_(0)
    return torch.lerp(first.z.float(), second.z.float(), share[..., None])
