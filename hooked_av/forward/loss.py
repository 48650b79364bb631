"""Next-token loss, under TransformerLens's names, and what a pass gives back.

Axes: batch pos d_vocab; target (pos without the first).
"""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hooked_av.errors import InputsError

ReturnType = Literal["logits", "loss", "both"] | None
Loss = Float[Tensor, "..."]  # one number, or one for each target


def next_token_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int64[Tensor, "batch pos"],
    counts: Bool[Tensor, "batch pos"],
    per_token: bool,
) -> Loss:
    """Cross entropy of each token that counts, given all before it; the mean, or one number each (nan: not counted).

    >>> logits = torch.zeros(1, 3, 4)
    >>> tokens, counts = torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, False]])
    >>> next_token_loss(logits, tokens, counts, per_token=True)
    tensor([[1.3863,    nan]])
    """
    if logits.shape[:2] != tokens.shape or not bool(counts[:, 1:].any()):
        raise InputsError(
            "no loss can be taken of these logits",
            expected="logits at every position, and a text token behind the first position",
            got=f"logits at {list(logits.shape[:2])}, tokens {list(tokens.shape)}",
            next_step="leave logits_at out; give tokens of the same prompt",
        )
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].mT.float(), tokens[:, 1:], reduction="none")
    counted = counts[:, 1:]
    return losses.masked_fill(~counted, torch.nan) if per_token else losses[counted].mean()


def check_return_type(return_type: ReturnType, logits_at: str | None, stop_at_layer: int | None) -> None:
    """Errors: `InputsError` for a loss where there are no logits, or not all."""
    if return_type in ("loss", "both") and (logits_at is not None or stop_at_layer is not None):
        raise InputsError(
            "a loss needs the logits at every position",
            expected="neither logits_at nor stop_at_layer",
            got=f"logits_at={logits_at!r}, stop_at_layer={stop_at_layer}",
            next_step='leave them out, or return_type="logits"',
        )


def refuse_bos(prepend_bos: bool | None) -> None:
    """TransformerLens's `prepend_bos`: False, or None, which is the same.

    Errors: `InputsError` for True.
    """
    if prepend_bos:
        raise InputsError(
            "these models have no token that begins a text",
            expected="prepend_bos=False: Qwen2.5 was trained without one, and a prompt's first token is its own sink",
            got="prepend_bos=True",
            next_step="leave it out; a chat prompt (model.prepare) begins with its system turn",
        )


def check_scalar(result: Any) -> Tensor:
    """What `backward` is called on. Errors: `InputsError` if it is not one number with a gradient."""
    if not isinstance(result, Tensor) or result.numel() != 1 or not result.requires_grad:
        raise InputsError(
            "gradients of what?",
            expected='return_type="loss", outside of torch.no_grad()',
            got=f"{list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__,
            next_step="for a metric of your own: get_caching_hooks(names, incl_bwd=True), model.hooks, .backward()",
        )
    return result
