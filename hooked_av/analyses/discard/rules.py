"""Which tokens of a span are dropped: all of it, or a part that a rule chooses.

Axes: span (positions of the span, in order); layer.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float64, Int64

from hooked_av.errors import InterventionError
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

Rule = Literal["all", "random", "uniform", "attention"]
Positions = Int64[np.ndarray, " span"]
Scores = Mapping[int, Float64[np.ndarray, " pos"]]


def last_row_attention(
    model: "HookedAVTransformer", inputs: AVInputs, layers: Sequence[int]
) -> dict[int, Float64[np.ndarray, " pos"]]:
    """What the last token reads of each token just before each of these layers: mean over heads (FastV, 2403.06764).

    The layer before layer l is l - 1, so there is none for layer 0.
    """
    names = {layer: f"blocks.{layer - 1}.attn.hook_pattern@last" for layer in layers}
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs, names_filter=list(names.values()), logits_at="last")
    return {layer: cache[name][0, :, 0].float().mean(dim=0).cpu().double().numpy() for layer, name in names.items()}


def dropped(
    rule: Rule, span: Positions, kept_share: float, rng: np.random.Generator, scores: Float64[np.ndarray, " pos"] | None
) -> Int64[np.ndarray, " gone"]:
    """The positions of a span that leave; the rest of it, round(kept_share x its length) tokens, stays.

    "random": drawn by `rng`. "uniform": those that stay are evenly spaced over the span. "attention": those that the
    last token reads most, by `scores`, stay; of equals the earlier ones.

    >>> span, rng = np.arange(10, 18), np.random.default_rng(0)
    >>> dropped("uniform", span, 0.25, rng, None).tolist()
    [10, 11, 13, 14, 15, 17]
    >>> dropped("attention", span, 0.25, rng, np.arange(20.0)).tolist()
    [10, 11, 12, 13, 14, 15]
    """
    n_kept = round(kept_share * len(span))
    if rule == "all":
        return span
    if rule == "random":
        kept = rng.choice(len(span), n_kept, replace=False)
    elif rule == "uniform":
        kept = ((np.arange(n_kept) + 0.5) * len(span) / max(n_kept, 1)).astype(np.int64)
    elif scores is not None:
        kept = np.argsort(-scores[span], kind="stable")[:n_kept]
    else:
        raise _wrong("attention of an earlier layer", "layer 0")
    return np.delete(span, kept)


def check_rules(rules: Sequence[str], kept_share: float, layers: Sequence[int]) -> None:
    """Refuse rules that are not there, and shares and layers that do not go with them.

    Errors: `InterventionError`.
    """
    if not rules:
        raise _wrong(" or ".join(get_args(Rule)), "no rule")
    if not 0 < kept_share < 1:
        raise _wrong("a kept_share between 0 and 1 (what stays of the span)", f"{kept_share:g}")
    if "attention" in rules and 0 in layers:
        raise _wrong("layers from 1 on: the rule reads the attention of the layer before", "layer 0")


def _wrong(expected: str, got: str) -> InterventionError:
    return InterventionError(
        "no such way to drop tokens",
        expected=expected,
        got=got,
        next_step='see rules=("all", "random", "uniform", "attention"), kept_share and layers of av.discard_curve',
    )
