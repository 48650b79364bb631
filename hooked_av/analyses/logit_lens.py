"""The logit lens: what each layer's residual stream would answer if it were the last (nostalgebraist, 2020).

Axes: layer, position, rank (best first), token (named by the caller).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from hooked_av.errors import InputsError
from hooked_av.inputs import AVInputs
from hooked_av.results import Result, run_settings

Convention = Literal["final_norm", "no_norm"]

_READ = ("top_ids", "top_logits", "top_probabilities", "token_probabilities", "token_ranks")
_CHUNK_LOGITS = 2**25  # vocabulary rows x positions unembedded at one time: 128 MiB in float32


@dataclass(frozen=True, eq=False, kw_only=True)
class LogitLens(Result):
    """The best tokens of every layer at some positions, and the probability and rank of named tokens."""

    axes: ClassVar = {
        "top_ids": ("layer", "position", "rank"),
        "top_logits": ("layer", "position", "rank"),
        "top_probabilities": ("layer", "position", "rank"),
        "token_probabilities": ("layer", "position", "token"),
        "token_ranks": ("layer", "position", "token"),
        "positions": ("position",),
    }
    top_ids: Int64[np.ndarray, "layer position rank"]
    top_logits: Float32[np.ndarray, "layer position rank"]
    top_probabilities: Float32[np.ndarray, "layer position rank"]
    token_probabilities: Float32[np.ndarray, "layer position token"]
    token_ranks: Int64[np.ndarray, "layer position token"]  # 0 is the best token of all
    positions: Int64[np.ndarray, " position"]
    top_texts: tuple[tuple[tuple[str, ...], ...], ...]  # [layer][position][rank]
    tokens: tuple[str, ...]

    def tokens_frame(self) -> pd.DataFrame:
        """The tokens that were followed (an answer trace): one row a layer, position and token."""
        layers, positions, tokens = (index.ravel() for index in np.indices(self.token_ranks.shape))
        return pd.DataFrame(
            {
                "layer": layers,
                "position": self.positions[positions],
                "token": np.array(self.tokens, dtype=object)[tokens],
                "rank": self.token_ranks.ravel(),
                "probability": self.token_probabilities.ravel(),
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """The best tokens: one row a layer, position and rank. Tokens that were named are in `tokens_frame`."""
        layers, positions, ranks = np.indices(self.top_ids.shape)
        return pd.DataFrame(
            {
                "layer": layers.ravel(),
                "position": self.positions[positions.ravel()],
                "rank": ranks.ravel(),
                "token": [text for layer in self.top_texts for position in layer for text in position],
                "token_id": self.top_ids.ravel(),
                "logit": self.top_logits.ravel(),
                "probability": self.top_probabilities.ravel(),
            }
        )


def logit_lens(
    model: Any,
    inputs: Any,
    at: str = "last",
    *,
    top_k: int = 5,
    tokens: str | Sequence[str] = (),
    convention: Convention = "final_norm",
) -> LogitLens:
    """What would the model answer after each layer?

    Args:
        at: span whose positions are read ("last", "question", ...).
        top_k: tokens kept a layer and position.
        tokens: single tokens whose probability and rank are followed (an answer trace).
        convention: "final_norm" unembeds the final norm of each block's output (so the last layer gives the model's own
            logits); "no_norm" leaves the norm out. Published codes differ; the choice is stored and drawn.

    Only one layer's logits exist at a time, in chunks of positions: memory does not grow with layers x vocabulary.

    Errors: `SpanError` for an unknown span, `InputsError` for a batch, a `top_k` or a convention out of range.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> lens = av.logit_lens(model, model.prepare(question="Which digit do you hear?"), tokens=[" three"])
    >>> lens.top_ids.shape, lens.tokens_frame()["token"].tolist()
    ((2, 1, 5), [' three', ' three'])
    """
    inputs = inputs if isinstance(inputs, AVInputs) else AVInputs.from_tokens(model.to_tokens(inputs))
    _check(inputs, top_k, convention, model.cfg.d_vocab)
    tokens = (tokens,) if isinstance(tokens, str) else tuple(tokens)
    named = [model.to_single_token(token) for token in tokens]
    arrays = _arrays(model, inputs, at, named, top_k, convention)
    texts = tuple(tuple(tuple(model.to_string(int(i)) for i in row) for row in layer) for layer in arrays["top_ids"])
    return LogitLens(
        **arrays,
        positions=np.array(inputs.spans.resolve(at).positions),
        top_texts=texts,
        tokens=tokens,
        settings=run_settings(model, inputs, at=at, convention=convention),
    )


@torch.no_grad()
def _arrays(
    model: Any, inputs: AVInputs, at: str, named: Sequence[int], top_k: int, convention: str
) -> dict[str, np.ndarray]:
    """All layers, one after the other."""
    names = [f"blocks.{layer}.hook_resid_post@{at}" for layer in range(model.cfg.n_layers)]
    # the lens needs the residual stream only; one row of logits is the least that a forward pass gives
    _, cache = model.run_with_cache(inputs, names_filter=names, logits_at="last")
    ids = torch.tensor(named, dtype=torch.int64, device=model.device)
    layers = [_read(model, cache[name][0], ids, top_k, convention) for name in names]
    return {name: np.stack([layer[part] for layer in layers]) for part, name in enumerate(_READ)}


def _read(
    model: Any, resid: Float[Tensor, "position d_model"], ids: Int64[Tensor, " token"], top_k: int, convention: str
) -> list[np.ndarray]:
    """Top tokens and named tokens of one layer, a chunk of positions at a time."""
    rows = max(1, _CHUNK_LOGITS // model.cfg.d_vocab)
    parts = []
    for chunk in resid.split(rows):
        normed = model.ln_final.normalise(chunk[None])[0] if convention == "final_norm" else chunk
        logits = model.unembed(normed).float()
        probabilities = logits.softmax(dim=-1)
        best = logits.topk(top_k, dim=-1)
        named = logits[:, ids]
        ranks = torch.stack([(logits > logits[:, [i]]).sum(dim=-1) for i in ids.tolist()] or [ids], dim=-1)
        parts.append((best.indices, best.values, probabilities.gather(1, best.indices), probabilities[:, ids],
                      ranks.reshape(named.shape)))  # fmt: skip
    return [torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)]


def _check(inputs: AVInputs, top_k: int, convention: str, d_vocab: int) -> None:
    if inputs.batch != 1 or not 1 <= top_k <= d_vocab or convention not in ("final_norm", "no_norm"):
        raise InputsError(
            "these arguments do not fit the logit lens",
            expected=f"one prompt, top_k from 1 to {d_vocab}, convention 'final_norm' or 'no_norm'",
            got=f"{inputs.batch} prompts, top_k {top_k}, convention {convention!r}",
            next_step="read prompts one by one",
        )
