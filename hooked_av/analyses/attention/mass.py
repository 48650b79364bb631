"""Attention mass: how much of its attention a span spends on each other span, per layer and head.

Axes: sample, layer, head, queries (spans that read), keys (spans that are read), edge (of an interval).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from hooked_av.analyses.attention.parts import REST, Parts, indicator, parts_of
from hooked_av.analyses.attention.rows import PromptRows, read_rows
from hooked_av.analyses.bootstrap import bootstrap_interval
from hooked_av.analyses.cases import Case, over_cases
from hooked_av.analyses.results import Result, run_settings
from hooked_av.analyses.several import several
from hooked_av.doors import door
from hooked_av.errors import SpanError
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

USUAL_QUERIES = ("audio", "video", "image", "question", "last")


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionMass(Result):
    """Mean over a span's rows of the attention that they give to each span.

    Table: one row a layer, head, reading span and span read, the mean over samples.
    """

    figure: ClassVar = "hooked_av.plots.attention_mass:plot_attention_mass"
    axes: ClassVar = {
        "mass": ("sample", "layer", "head", "queries", "keys"),
        "n_keys": ("sample", "keys"),
        "n_pos": ("sample",),
        "mean_mass": ("layer", "head", "queries", "keys"),
        "share_of_tokens": ("keys",),
    }
    labels: ClassVar = {"sample": "ids", "queries": "queries", "keys": "keys"}
    columns: ClassVar = ("layer", "head", "queries", "keys", "mass=mean_mass", "share_of_tokens", "n_samples")
    mass: Float32[np.ndarray, "sample layer head queries keys"]
    n_keys: Int64[np.ndarray, "sample keys"]  # tokens of each span that is read
    n_pos: Int64[np.ndarray, " sample"]
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    ids: tuple[str, ...]  # of the samples

    @property
    def by_layer(self) -> Float64[np.ndarray, "layer queries keys"]:
        """Mean over samples and heads."""
        return self.mass.astype(np.float64).mean(axis=(0, 2))

    @property
    def by_layer_interval(self) -> Float64[np.ndarray, "edge=2 layer queries keys"]:
        """Bootstrap interval of `by_layer` over samples; NaN for one sample."""
        return bootstrap_interval(self.mass.astype(np.float64).mean(axis=2))

    @property
    def mean_mass(self) -> Float64[np.ndarray, "layer head queries keys"]:
        """Mean over samples."""
        return self.mass.astype(np.float64).mean(axis=0)

    @property
    def share_of_tokens(self) -> Float64[np.ndarray, " keys"]:
        """Of the prompt, in each span that is read: what attention without a choice would give it."""
        return (self.n_keys / self.n_pos[:, None]).mean(axis=0)

    @property
    def n_samples(self) -> int:
        return len(self.ids)


@door
def attention_mass(
    model: "HookedAVTransformer",
    cases: Any,
    *,
    keys: str | Sequence[str] | None = None,
    queries: str | Sequence[str] | None = None,
    progress: bool = False,
) -> AttentionMass:
    """What do the tokens of a span look at?

    Of every query row the attention weights are summed over the tokens of each key span; rows of a query span are
    averaged. Weights are made a block of rows at a time, so memory grows with the prompt, not with its square.
    Attention cuts that are open (`model.intervene`) count.

    Args:
        cases: one prompt, a batch, one `Case`, or several of either.
        keys: spans that are read; they may overlap. None: the usual ones and "other" for the rest, so that each row
            sums to 1.
        queries: spans that read. None: audio, video, image, question and last, as far as the prompt has them.
        progress: show a bar over samples.

    Errors: `SpanError` for a sample without one of the spans (None: those of the first sample), `InterventionError`
    while attention matrices are edited or tokens leave.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model = av.HookedAVTransformer.from_pretrained("tiny-av")
    >>> sample = read_samples()[0]
    >>> mass = av.attention_mass(model, model.prepare(sample.clip, question=sample.question), queries=["last"])
    >>> mass.keys
    ('system', 'audio', 'video', 'boundary', 'question', 'other')
    >>> bool(abs(mass.mass.sum(axis=-1) - 1).max() < 1e-5)
    True
    """
    names: tuple[str, ...] = () if keys is None else several(keys)
    readers: tuple[str, ...] = () if queries is None else several(queries)

    def measure(case: Case) -> tuple[str, np.ndarray, list[int]]:
        nonlocal names, readers  # those of the first sample hold for all
        inputs = case.inputs.to(model.device)
        parts = _parts(inputs, names, keys is None)
        names = names or tuple(parts)
        readers = readers or tuple(name for name in USUAL_QUERIES if name in inputs.spans)
        return case.id, mass_of(model, inputs, parts, readers), [len(positions) for positions in parts.values()]

    found = over_cases(cases, measure, progress=progress)
    ids, masses, sizes = zip(*found.samples, strict=True)
    return AttentionMass(
        mass=np.stack(masses),
        n_keys=np.array(sizes, dtype=np.int64),
        n_pos=np.array(found.sizes, dtype=np.int64),
        queries=readers,
        keys=names,
        ids=ids,
        settings=run_settings(model, found.last, keys=list(names), queries=list(readers)),
    )


def _parts(inputs: AVInputs, names: tuple[str, ...], share_out: bool) -> Parts:
    """The key spans of one sample; every sample has those of the first."""
    if not share_out:
        return {name: inputs.spans.resolve(name).positions for name in names}
    parts = parts_of(inputs, [name for name in names if name != REST] or None)
    if names and tuple(parts) != names:
        raise SpanError(
            "the samples are not made of the same spans",
            expected=", ".join(names),
            got=", ".join(parts),
            next_step="name the key spans (keys=[...]), or take such samples apart",
        )
    return parts


def mass_of(
    model: "HookedAVTransformer", inputs: AVInputs, parts: Parts, queries: Sequence[str]
) -> Float32[np.ndarray, "layer head queries keys"]:
    """The attention of one prompt: of each reading span, what its rows give to each part, on average."""
    readers = {name: inputs.spans.resolve(name).positions for name in queries}
    weights = indicator(readers, inputs.n_pos, model.device)
    weights = (weights / weights.sum(dim=0)).T
    table = indicator(parts, inputs.n_pos, model.device)
    shape = (model.cfg.n_layers, model.cfg.n_heads, len(readers), len(parts))
    total = torch.zeros(shape, device=model.device)

    def read(layer: int, rows: Int64[Tensor, " row"], pattern: Float[Tensor, "head row key"]) -> None:
        spent = pattern.float() @ table[: pattern.shape[-1]]
        total[layer] += weights[:, rows] @ spent

    rows = torch.from_numpy(np.unique(np.concatenate(list(readers.values())))).to(model.device)
    read_rows(model, inputs, [PromptRows(rows, read)])
    return total.cpu().numpy()
