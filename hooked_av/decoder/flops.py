"""Arithmetic of a run: counted operation by operation, and by formula.

A multiplication with its addition is one operation here (1 MAC = 1 FLOP), as in the literature on dropping tokens
(FastV, 2403.06764); torch's counter says two.
"""

from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from hooked_av.config import DecoderConfig


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """Every query with every key (causal halves are not subtracted): torch's rule for its other fused kernels."""
    batch, n_heads, n_queries, d_head = query
    return 2 * batch * n_heads * n_queries * key[2] * (d_head + value[3])


# torch's own table lacks the fused kernel for processors, and so counts attention as nothing there
FUSED_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
# and its rules for those of GPUs stop, up to torch 2.12, at query heads that share keys
FUSED_ON_GPU = dict.fromkeys(
    (
        torch.ops.aten._scaled_dot_product_flash_attention,
        torch.ops.aten._scaled_dot_product_efficient_attention,
        torch.ops.aten._scaled_dot_product_cudnn_attention,
    ),
    _attention_flops,
)


def count_flops(run: Callable[[], object]) -> int:
    """Floating point operations of the matrix products and of attention, in torch's measure: two for each MAC.

    >>> count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 4)) == 2 * 2 * 3 * 4
    True
    """
    with FlopCounterMode(display=False, custom_mapping={**FUSED_ON_CPU, **FUSED_ON_GPU}) as counter:
        run()
    return counter.get_total_flops()


def count_macs(run: Callable[[], object]) -> int:
    """The same in multiplications with their additions."""
    return count_flops(run) // 2


def layer_macs(cfg: DecoderConfig, n_rows: int) -> int:
    """One layer of S rows by formula: 2 S D D + 2 S D D_kv + 2 S S D + 3 S D I.

    Queries and output projection; keys and values; scores and weighted sum, every query with every key; gated MLP.

    >>> import hooked_av as av
    >>> cfg = av.random_omni(n_layers=2).cfg
    >>> layer_macs(cfg, 200) > 2 * layer_macs(cfg, 100)
    True
    """
    d, d_kv = cfg.d_model, cfg.n_key_value_heads * cfg.d_head
    return n_rows * d * (2 * d + 2 * d_kv + 2 * n_rows + 3 * cfg.d_mlp)
