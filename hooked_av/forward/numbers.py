"""Logits that are numbers: where a model gives nan, argmax is token 0 and says nothing.

Axes: batch d_vocab.
"""

from jaxtyping import Float
from torch import Tensor

from hooked_av.decoder.attention import KeyValues
from hooked_av.errors import InputsError


def check_logits(logits: Float[Tensor, "batch d_vocab"], where: str, known: KeyValues) -> None:
    """Refuse to read an answer from logits that hold nan, or whose largest is infinite (-inf alone bans a token).

    `known` are the pass's keys and values, which tell the first layer that got no numbers.

    Errors: `InputsError`.
    """
    odd = (~logits.amax(dim=-1).isfinite()).nonzero().flatten().tolist()
    if odd:
        layer = next((n for n, some in sorted(known.layers.items()) if not bool(some.v.isfinite().all())), None)
        first = "in the last layer or after it" if layer is None else f"from layer {layer} on, in its keys and values"
        raise InputsError(
            f"no answer can be read {where} (prompts {odd} of the batch)",
            expected="finite logits",
            got=f"nan or infinite ones, {first}",
            next_step="look at model.run_with_cache(inputs, names_filter='blocks.*.hook_resid_post@last'): float16 "
            "overflows where bfloat16 does not, and hooks or encoders may give nan",
        )
