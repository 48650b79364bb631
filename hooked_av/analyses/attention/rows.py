"""Attention rows, a block at a time: every weight of every head is seen once, and none is kept.

Weights come from the rotated queries and keys of one forward pass, so nothing of the size head x pos x pos exists.

Axes: head; row (query rows of a block), key (keys up to the last of them).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hooked_av.decoder.attention import pattern_of, scores_of
from hooked_av.decoder.cut_masks import allowed_keys
from hooked_av.errors import InterventionError
from hooked_av.hooks.point import HookPoint
from hooked_av.interventions.plan import Plan
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

MAX_WEIGHTS = 2**24  # heads x rows x keys of a block: 64 MiB in float32; a few tensors of this size live at one time

Rows = Int64[Tensor, " row"]
Read = Callable[[int, Rows, Float[Tensor, "head row key"]], None]


def check_plain_attention(model: "HookedAVTransformer", inputs: AVInputs) -> Plan:
    """Nothing may be open that changes attention in a way that rotated queries and keys do not show.

    Errors: `InterventionError` for edits of scores or pattern, and for dropped tokens.
    """
    one = model.begin(inputs)
    plan = one.plan
    edited = {edit.point for edit in plan.edits}
    edited |= {name for name, point in model.hook_dict.items() if point.listeners_in(one.run)}
    matrices = sorted(name for name in edited if "key" in model.hook_dict[name].axes)
    if matrices or plan.leaving:
        raise InterventionError(
            "attention cannot be read while its matrices are edited or tokens leave",
            expected="open hooks and interventions on rows only (attention cuts are fine)",
            got=matrices or "drop_tokens",
            next_step="close them first",
        )
    return plan


def read_rows(
    model: "HookedAVTransformer",
    inputs: AVInputs,
    rows: Rows,
    read: Read,
    fwd_hooks: Sequence[tuple[str, Callable[..., None]]] = (),
) -> None:
    """Hand the pattern of some query rows (sorted), in every layer, block by block to `read(layer, rows, pattern)`.

    `fwd_hooks` look at the same pass.
    """
    plan = check_plain_attention(model, inputs)
    size = max(1, MAX_WEIGHTS // (model.cfg.n_heads * inputs.n_pos))
    keys = torch.arange(inputs.n_pos, device=model.device)
    held: dict[str, Tensor] = {}

    def keep_queries(q: Tensor, hook: HookPoint) -> None:
        held["q"] = q[0].transpose(0, 1)

    def read_layer(k: Tensor, hook: HookPoint) -> None:
        layer, q, own = int(str(hook.name).split(".")[1]), held.pop("q")[None], k.transpose(1, 2)
        for block in rows.split(size):
            n_keys = int(block[-1]) + 1
            cuts = plan.cuts.get(layer, ())
            allowed = allowed_keys(block[None], keys[None, :n_keys], inputs.starts, cuts, q.shape[1])
            read(layer, block, pattern_of(scores_of(q[:, :, block], own[:, :, :n_keys], allowed))[0])

    hooks = [
        *fwd_hooks,
        ("blocks.*.attn.hook_rot_q", keep_queries),
        ("blocks.*.attn.hook_rot_k", read_layer),
    ]
    with torch.no_grad():
        model.run_with_hooks(inputs, fwd_hooks=hooks, logits_at="last")
