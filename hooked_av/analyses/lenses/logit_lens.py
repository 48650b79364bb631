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
from hooked_av.analyses.per_prompt import (
    Names,
    PerPrompt,
    names_of_each,
    naming_the_prompt,
    per_prompt,
    prompts_of,
)
from hooked_av.analyses.results import Result, run_settings
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.hooks.point import HookPoint
from hooked_av.prompt.inputs import AVInputs
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
    tokens: Names = (),
    convention: str = "final_norm",
) -> LogitLens | PerPrompt[LogitLens]:
    """What would the model answer after each layer?

    Args:
        inputs: a prompt, text, token ids, or a batch, whose prompts share one pass; it gives a `PerPrompt`.
        at: span whose positions are read ("last", "question", "av", ...), of any length in each prompt; or positions.
        top_k: tokens kept a layer and position.
        tokens: single tokens whose probability and rank are followed; of a batch, a list of lists has those of each.
        convention: "final_norm" unembeds the final norm of each block's output (so the last layer gives the model's own
            logits). Published codes differ; "no_norm", "layer_input", "input_embedding", or several of them joined by
            "+", name the others (`analyses/lenses/convention.py`). The choice is stored and drawn.

    Layers are read while the forward pass runs, in chunks of positions: besides that pass it takes about 300 MB,
    whatever the number of layers, positions and tokens.

    Errors: `SpanError` for an unknown span, `InputsError` for positions in a padded batch, and for a `top_k` or a
    convention out of range.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> lens = av.logit_lens(model, model.prepare(question="Which digit do you hear?"), tokens=[" three"])
    >>> lens.top_ids.shape, lens.tokens_frame()["token"].tolist()
    ((2, 1, 5), [' three', ' three'])
    """
    inputs = inputs if isinstance(inputs, AVInputs) else AVInputs.from_tokens(model.to_tokens(inputs))
    found = lens_fields(model, inputs, at, top_k=top_k, tokens=tokens, convention=convention)
    return per_prompt([LogitLens(**fields) for fields in found])


def lens_fields(
    model: "HookedAVTransformer",
    inputs: AVInputs,
    at: str | Span | PositionSet,
    *,
    top_k: int,
    tokens: Names,
    convention: str,
) -> list[dict[str, Any]]:
    """Everything that a `LogitLens` holds, for each prompt."""
    rule = LensConvention.parse(convention)
    _check(top_k, model.cfg.d_vocab)
    inputs, at = with_place(inputs, at)
    named = names_of_each(tokens, inputs)
    ids = [[model.to_single_token(token) for token in own] for own in named]
    found = read_layers(model, inputs, at, ids, top_k, rule)
    return [
        {
            **arrays,
            "positions": np.array(one.spans.resolve(at).positions),
            "top_texts": _texts(model, arrays["top_ids"]),
            "tokens": own,
            "settings": run_settings(model, one, at=at, convention=rule.name),
        }
        for one, arrays, own in zip(prompts_of(inputs), found, named, strict=True)
    ]


def _texts(
    model: "HookedAVTransformer", ids: Int64[np.ndarray, "layer position rank"]
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    texts = {int(token): model.to_string(int(token)) for token in np.unique(ids)}
    return tuple(tuple(tuple(texts[int(token)] for token in row) for row in layer) for layer in ids)


def with_place(inputs: AVInputs, at: str | Span | PositionSet) -> tuple[AVInputs, str]:
    """The inputs, and the span that is read, which every prompt has; of positions, a span that is added.

    Errors: `SpanError` for a prompt that has it not; `InputsError` for positions where prompts begin at other places.
    """
    if not isinstance(at, str):
        if len(set(inputs.starts)) > 1:
            raise InputsError(
                "these positions are others in each prompt of a padded batch",
                expected="a span by name, such as 'last'",
                got=f"positions, and prompts that begin at {list(inputs.starts)}",
                next_step="name them before model.batch: inputs.with_span('mine', positions), and read at='mine'",
            )
        inputs, at = inputs.with_span("positions", at), "positions"
    for row, spans in enumerate(inputs.row_spans):
        with naming_the_prompt(row, inputs):
            spans.resolve(at)
    return inputs, at


@torch.no_grad()
def read_layers(
    model: "HookedAVTransformer",
    inputs: AVInputs,
    at: str,
    named: Sequence[Sequence[int]],
    top_k: int,
    convention: LensConvention,
) -> list[dict[str, np.ndarray]]:
    """All layers of each prompt, each while its rows pass by: no layer's residual stream is kept, and no logits."""
    lengths = [len(spans.resolve(at)) for spans in inputs.row_spans]
    ids = _ids_of_rows(named, lengths, model.device)
    layers = []

    def read(rows: Tensor, *, hook: HookPoint) -> None:
        flat = rows.flatten(0, 1) if rows.ndim == 3 else rows  # prompt after prompt
        layers.append([part.cpu().numpy() for part in read_rows(model, flat, ids, top_k, convention)])

    # as a caching hook says it
    read.reads_only = read.takes_flat_rows = True  # type: ignore[attr-defined]
    names = [f"blocks.{layer}.{convention.point}@{at}" for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=[(name, read) for name in names]):
        model(inputs, logits_at="last")  # one row of logits is the least that a forward pass gives
    whole = {name: np.stack([layer[part] for layer in layers]) for part, name in enumerate(_READ)}
    rows = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    return [_of_prompt(whole, own, len(tokens)) for own, tokens in zip(rows, named, strict=True)]


def _ids_of_rows(
    named: Sequence[Sequence[int]], lengths: Sequence[int], device: torch.device
) -> Int64[Tensor, "position token"]:
    """The tokens that each row is asked about; where prompts have fewer, token 0 fills up."""
    width = max(map(len, named))
    full = torch.tensor([[*own, *[0] * (width - len(own))] for own in named], dtype=torch.int64, device=device)
    return full.view(len(named), width).repeat_interleave(torch.tensor(lengths, device=device), dim=0)


def _of_prompt(whole: dict[str, np.ndarray], rows: np.ndarray, n_tokens: int) -> dict[str, np.ndarray]:
    own = {name: array[:, rows] for name, array in whole.items()}
    return own | {name: own[name][..., :n_tokens] for name in ("token_probabilities", "token_ranks")}


def read_rows(
    model: "HookedAVTransformer",
    resid: Float[Tensor, "position d_model"],
    ids: Int64[Tensor, "position token"],
    top_k: int,
    convention: LensConvention,
) -> list[Tensor]:
    """Top tokens and named tokens of one layer, a chunk of positions at a time."""
    n_rows = max(1, _CHUNK_LOGITS // model.cfg.d_vocab)
    chunks = zip(resid.split(n_rows), ids.split(n_rows), strict=True)
    parts = [_read_chunk(convention.logits(model, chunk).float(), own, top_k) for chunk, own in chunks]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _read_chunk(
    logits: Float32[Tensor, "position d_vocab"], ids: Int64[Tensor, "position token"], top_k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """In the order of `_READ`; ranks are counted token by token, never as positions x tokens x vocabulary."""
    total = logits.logsumexp(dim=-1, keepdim=True)
    best, named = logits.topk(top_k, dim=-1), logits.gather(1, ids)
    ranks = torch.empty_like(named, dtype=torch.int64)
    for number in range(ids.shape[1]):
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
