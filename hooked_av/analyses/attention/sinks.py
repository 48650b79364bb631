"""Sinks: tokens with massive activations, and tokens that collect attention; which modality they serve.

Massive: the largest |h / rms(h)| of the residual stream that enters a layer, over some dimensions, is above a
threshold (Kang et al. 2503.03321; in audio-visual models 2605.10815, with a threshold of 25 in 3,584 dimensions).
Received attention: mean weight that later rows give to a token, over heads (Gu et al. 2410.10781).

Axes: layer, pos; reader (whose rows give the attention; the first is every row).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from hooked_av.analyses.attention.parts import indicator, parts_of
from hooked_av.analyses.attention.rows import PromptRows, Rows, read_rows
from hooked_av.analyses.per_prompt import PerPrompt, per_prompt, prompts_of
from hooked_av.analyses.results import Result, run_settings
from hooked_av.analyses.several import several
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.hooks.point import HookPoint
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

MASSIVE = 25.0  # 2605.10815
RECEIVED = 0.1  # of a later row's attention, mean over heads and rows
EVERY_ROW = "every later row"

By = Literal["massive", "received", "either"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sinks(Result):
    """Massive activations and received attention of every token in every layer, and which of them are sinks."""

    figure: ClassVar = "hooked_av.plots.attention_mass:plot_sinks"
    axes: ClassVar = {
        "peak": ("layer", "pos"),
        "received": ("reader", "layer", "pos"),
        "part": ("pos",),
        **dict.fromkeys(("part_names", "tokens"), ("pos",)),
        **dict.fromkeys(("massive", "collects_attention", "dominance"), ("layer", "pos")),
    }
    labels: ClassVar = {"reader": "readers"}
    columns: ClassVar = (
        "layer", "position=pos", "part=part_names", "token=tokens", "peak", "massive", "received[reader=0]",
        "collects_attention", "dominance",
    )  # fmt: skip
    peak: Float32[np.ndarray, "layer pos"]  # max |normalised h| over the dimensions
    received: Float32[np.ndarray, "reader layer pos"]  # NaN where no row of the reader is later
    part: Int64[np.ndarray, " pos"]  # which of `parts` each token belongs to
    parts: tuple[str, ...]
    readers: tuple[str, ...]
    tokens: tuple[str, ...]
    threshold: float
    received_threshold: float

    def is_sink(self, by: By = "either") -> Bool[np.ndarray, "layer pos"]:
        """Which tokens are sinks in which layer: by massive activations, by received attention, or either."""
        massive = self.peak > self.threshold
        received = np.nan_to_num(self.received[0]) > self.received_threshold
        return {"massive": massive, "received": received, "either": massive | received}[by]

    @property
    def dominance(self) -> Float64[np.ndarray, "layer pos"]:
        """(video - audio) / (video + audio) of the attention that later video and audio rows give to a token.

        1: only video reads it, -1: only audio. NaN where no later row of either is left, or a modality is missing.
        """
        if not {"video", "audio"} <= set(self.readers):
            return np.full(self.peak.shape, np.nan)
        video, audio = (self.received[self.readers.index(name)].astype(np.float64) for name in ("video", "audio"))
        nobody = np.isnan(video) & np.isnan(audio)
        video, audio = np.nan_to_num(video), np.nan_to_num(audio)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(nobody, np.nan, (video - audio) / (video + audio))

    @property
    def massive(self) -> Bool[np.ndarray, "layer pos"]:
        return self.is_sink("massive")

    @property
    def collects_attention(self) -> Bool[np.ndarray, "layer pos"]:
        return self.is_sink("received")

    @property
    def part_names(self) -> tuple[str, ...]:
        """The part of the prompt that each token belongs to."""
        return tuple(self.parts[number] for number in self.part)

    def to_frame(self, by: By = "either") -> pd.DataFrame:
        """One row a sink and layer."""
        return super().to_frame().loc[self.is_sink(by).ravel()].reset_index(drop=True)

    def parts_frame(self, by: By = "either") -> pd.DataFrame:
        """One row a layer and part of the prompt: its share of the sinks, next to its share of the tokens."""
        table = np.eye(len(self.parts))[self.part]
        n_sinks = self.is_sink(by).astype(np.float64) @ table
        layers, parts = (index.ravel() for index in np.indices(n_sinks.shape))
        with np.errstate(invalid="ignore"):
            share = n_sinks / n_sinks.sum(axis=1, keepdims=True)
        return pd.DataFrame(
            {
                "layer": layers,
                "part": np.array(self.parts, dtype=object)[parts],
                "n_sinks": n_sinks.ravel().astype(np.int64),
                "share_of_sinks": share.ravel(),
                "share_of_tokens": table.mean(axis=0)[parts],
            }
        )


def default_threshold(d_model: int) -> float:
    """25, or in models of less than 2,500 dimensions half of the largest value that there can be, sqrt(d_model).

    >>> [round(default_threshold(d_model), 1) for d_model in (128, 2048, 3584)]
    [5.7, 22.6, 25.0]
    """
    return min(MASSIVE, math.sqrt(d_model) / 2)


@door
def find_sinks(
    model: "HookedAVTransformer",
    inputs: AVInputs,
    *,
    dims: Sequence[int] | None = None,
    threshold: float | None = None,
    received_threshold: float = RECEIVED,
    queries: str | Sequence[str] = ("audio", "video"),
) -> Sinks | PerPrompt[Sinks]:
    """Which tokens are sinks, and of which modality?

    Args:
        inputs: a prompt, or a batch, whose prompts share one pass; it gives a `PerPrompt`.
        dims: dimensions of the residual stream that are looked at (None: all). Published sinks sit in two or three
            dimensions of a model; `Sinks` of all of them shows where to look.
        threshold: a token whose largest |normalised h| there is above it is massive (None: `default_threshold`).
        received_threshold: a token that gets more than this share of later rows' attention collects attention.
        queries: spans whose attention is also kept apart, as far as the prompt has them.

    Errors: `InputsError` for dimensions that are not there, and for a threshold that nothing can exceed;
    `InterventionError` while attention matrices are edited or tokens leave.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model = av.HookedAVTransformer.from_pretrained("tiny-av")
    >>> sample = read_samples()[0]
    >>> sinks = av.find_sinks(model, model.prepare(sample.clip, question=sample.question))
    >>> sinks.peak.shape, sinks.readers
    ((8, 87), ('every later row', 'audio', 'video'))
    """
    inputs = inputs.to(model.device)
    threshold = default_threshold(model.cfg.d_model) if threshold is None else float(threshold)
    _check(model.cfg.d_model, dims, threshold, received_threshold)
    notes = [_Notes(model, one, several(queries)) for one in prompts_of(inputs)]
    _read(model, inputs, dims, notes)
    settings = {"dims": None if dims is None else [int(d) for d in dims]}
    thresholds = {"threshold": threshold, "received_threshold": float(received_threshold)}
    return per_prompt([note.sinks(run_settings(model, note.inputs, **settings), **thresholds) for note in notes])


class _Notes:
    """What a pass shows of one prompt."""

    def __init__(self, model: "HookedAVTransformer", inputs: AVInputs, queries: Sequence[str]) -> None:
        self.inputs, n_layers, n_pos = inputs, model.cfg.n_layers, inputs.n_pos
        read = {name: inputs.spans[name].positions for name in queries if name in inputs.spans}
        rows = {EVERY_ROW: np.arange(n_pos), **read}
        self.readers, self.table = tuple(rows), indicator(rows, n_pos, model.device)
        self.peak = torch.zeros(n_layers, n_pos, device=model.device)
        self.received = torch.zeros(len(rows), n_layers, n_pos, device=model.device)

    def read(self, layer: int, rows: Rows, pattern: Float[Tensor, "head row key"]) -> None:
        """Add what some rows give to each token."""
        weights = pattern.float().mean(dim=0)
        weights[torch.arange(len(rows), device=rows.device), rows] = 0  # what a row gives to itself is not received
        self.received[:, layer, : weights.shape[1]] += self.table[rows].T @ weights

    def sinks(self, settings: dict[str, Any], **thresholds: float) -> Sinks:
        """The result, once the pass has run."""
        parts, inputs = parts_of(self.inputs), self.inputs
        n_later = (self.table.sum(dim=0, keepdim=True) - self.table.cumsum(dim=0)).T[:, None]
        return Sinks(
            peak=self.peak.cpu().numpy(),
            received=(self.received / n_later.masked_fill(n_later == 0, torch.nan)).cpu().numpy(),
            part=indicator(parts, inputs.n_pos, torch.device("cpu")).argmax(dim=1).numpy(),
            parts=tuple(parts),
            readers=self.readers,
            tokens=tuple(inputs.token_texts.get(token, str(token)) for token in inputs.input_ids[0].tolist()),
            settings=settings,
            **thresholds,
        )


def _read(model: "HookedAVTransformer", inputs: AVInputs, dims: Sequence[int] | None, notes: Sequence[_Notes]) -> None:
    """One pass: the peaks of what enters each layer, and what each token receives there."""

    def look(resid: Tensor, hook: HookPoint) -> None:
        layer = int(str(hook.name).split(".")[1])
        for x, note, spans in zip(resid, notes, inputs.row_spans, strict=True):
            x = x[spans.extent.start : spans.extent.stop].float()
            normalised = (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + model.cfg.eps)).abs()
            chosen = normalised if dims is None else normalised[:, list(dims)]
            note.peak[layer] = chosen.amax(dim=-1)

    every = [PromptRows(torch.arange(note.inputs.n_pos, device=model.device), note.read) for note in notes]
    read_rows(model, inputs, every, [("blocks.*.hook_resid_pre", look)])


def _check(d_model: int, dims: Sequence[int] | None, threshold: float, received_threshold: float) -> None:
    wrong_dims = dims is not None and (not len(dims) or not all(0 <= d < d_model for d in dims))
    if wrong_dims or not 0 < threshold < math.sqrt(d_model) or not 0 < received_threshold < 1:
        raise InputsError(
            "these settings find no sink in any model",
            expected=f"dims 0 to {d_model - 1}; threshold between 0 and {math.sqrt(d_model):.1f} (all in one); "
            "received_threshold between 0 and 1",
            got=f"dims {dims}, threshold {threshold:g}, received_threshold {received_threshold:g}",
            next_step="leave them out for the usual ones",
        )
