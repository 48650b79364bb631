"""The logit lens: what each layer's residual stream would answer if it were the last (nostalgebraist, 2020).

Axes: layer, position, rank (best first), token (named by the caller).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from hooked_av.analyses.lenses.convention import LensConvention
from hooked_av.analyses.results import Result, run_settings
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.hooks.point import HookPoint
from hooked_av.prompt.inputs import AVInputs, check_alone
from hooked_av.prompt.spans import PositionSet, Span

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

_READ = ("top_ids", "top_logits", "top_probabilities", "token_probabilities", "token_ranks")
_CHUNK_LOGITS = 2**24  # vocabulary rows x positions unembedded at one time: 64 MiB in float32


@dataclass(frozen=True, eq=False, kw_only=True)
class LogitLens(Result):
    """The best tokens of every layer at some positions, and the probability and rank of named tokens.

    Table: one row a layer, position and rank; the tokens that were named are in `tokens_frame`.
    """

    figure: ClassVar = "hooked_av.plots.lens:plot_logit_lens"
    axes: ClassVar = {
        "top_ids": ("layer", "position", "rank"),
        "top_logits": ("layer", "position", "rank"),
        "top_probabilities": ("layer", "position", "rank"),
        "token_probabilities": ("layer", "position", "token"),
        "token_ranks": ("layer", "position", "token"),
        "positions": ("position",),
        "top_texts": ("layer", "position", "rank"),
    }
    labels: ClassVar = {"position": "positions", "token": "tokens"}
    columns: ClassVar = (
        "layer", "position", "rank", "token=top_texts", "token_id=top_ids", "logit=top_logits",
        "probability=top_probabilities",
    )  # fmt: skip
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
        return self.tabulate("layer", "position", "token", "rank=token_ranks", "probability=token_probabilities")


@door
def logit_lens(
    model: "HookedAVTransformer",
    inputs: Any,
    at: str | Span | PositionSet = "last",
    *,
    top_k: int = 5,
    tokens: str | Sequence[str] = (),
    convention: str = "final_norm",
) -> LogitLens:
    """What would the model answer after each layer?

    Args:
        at: span whose positions are read ("last", "question", "av", ...), or positions.
        top_k: tokens kept a layer and position.
        tokens: single tokens whose probability and rank are followed.
        convention: "final_norm" unembeds the final norm of each block's output (so the last layer gives the model's own
            logits). Published codes differ; "no_norm", "layer_input", "input_embedding", or several of them joined by
            "+", name the others (`analyses/lenses/convention.py`). The choice is stored and drawn.

    Layers are read while the forward pass runs, in chunks of positions: besides that pass it takes about 300 MB,
    whatever the number of layers, positions and tokens.

    Errors: `SpanError` for an unknown span, `InputsError` for a batch, a `top_k` or a convention out of range.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> lens = av.logit_lens(model, model.prepare(question="Which digit do you hear?"), tokens=[" three"])
    >>> lens.top_ids.shape, lens.tokens_frame()["token"].tolist()
    ((2, 1, 5), [' three', ' three'])
    """
    inputs = inputs if isinstance(inputs, AVInputs) else AVInputs.from_tokens(model.to_tokens(inputs))
    return LogitLens(**lens_fields(model, inputs, at, top_k=top_k, tokens=tokens, convention=convention))


def lens_fields(
    model: "HookedAVTransformer",
    inputs: AVInputs,
    at: str | Span | PositionSet,
    *,
    top_k: int,
    tokens: str | Sequence[str],
    convention: str,
) -> dict[str, Any]:
    """Everything that a `LogitLens` holds."""
    rule = LensConvention.parse(convention)
    check_alone(inputs, "av.logit_lens")
    _check(top_k, model.cfg.d_vocab)
    if not isinstance(at, str):
        inputs, at = inputs.with_span("positions", at), "positions"
    tokens = (tokens,) if isinstance(tokens, str) else tuple(tokens)
    arrays = read_layers(model, inputs, at, [model.to_single_token(token) for token in tokens], top_k, rule)
    texts = {int(token): model.to_string(int(token)) for token in np.unique(arrays["top_ids"])}
    return {
        **arrays,
        "positions": np.array(inputs.spans.resolve(at).positions),
        "top_texts": tuple(tuple(tuple(texts[int(i)] for i in row) for row in layer) for layer in arrays["top_ids"]),
        "tokens": tokens,
        "settings": run_settings(model, inputs, at=at, convention=rule.name),
    }


@torch.no_grad()
def read_layers(
    model: "HookedAVTransformer",
    inputs: AVInputs,
    at: str,
    named: Sequence[int],
    top_k: int,
    convention: LensConvention,
) -> dict[str, np.ndarray]:
    """All layers, each while its rows pass by: no layer's residual stream is kept, and no layer's logits."""
    ids = torch.tensor(named, dtype=torch.int64, device=model.device)
    layers = []

    def read(rows: Tensor, *, hook: HookPoint) -> None:
        layers.append([part.cpu().numpy() for part in read_rows(model, rows[0], ids, top_k, convention)])

    read.reads_only = True  # type: ignore[attr-defined] - as a caching hook says it
    names = [f"blocks.{layer}.{convention.point}@{at}" for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=[(name, read) for name in names]):
        model(inputs, logits_at="last")  # one row of logits is the least that a forward pass gives
    return {name: np.stack([layer[part] for layer in layers]) for part, name in enumerate(_READ)}


def read_rows(
    model: "HookedAVTransformer",
    resid: Float[Tensor, "position d_model"],
    ids: Int64[Tensor, " token"],
    top_k: int,
    convention: LensConvention,
) -> list[Tensor]:
    """Top tokens and named tokens of one layer, a chunk of positions at a time."""
    n_rows = max(1, _CHUNK_LOGITS // model.cfg.d_vocab)
    parts = [_read_chunk(convention.logits(model, chunk).float(), ids, top_k) for chunk in resid.split(n_rows)]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _read_chunk(
    logits: Float32[Tensor, "position d_vocab"], ids: Int64[Tensor, " token"], top_k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """In the order of `_READ`; ranks are counted token by token, never as positions x tokens x vocabulary."""
    total = logits.logsumexp(dim=-1, keepdim=True)
    best, named = logits.topk(top_k, dim=-1), logits[:, ids]
    ranks = torch.empty_like(named, dtype=torch.int64)
    for number in range(len(ids)):
        ranks[:, number] = (logits > named[:, [number]]).sum(dim=-1)
    return best.indices, best.values, (best.values - total).exp(), (named - total).exp(), ranks


def _check(top_k: int, d_vocab: int) -> None:
    if not 1 <= top_k <= d_vocab:
        raise InputsError(
            "these arguments do not fit the logit lens",
            expected=f"top_k from 1 to {d_vocab}",
            got=top_k,
            next_step="keep fewer tokens a layer and position",
        )
