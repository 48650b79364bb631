"""Activation patching: which activations of the clean run, brought into the corrupt one, bring its answer back?

Effect = (metric_patched - metric_corrupt) / (metric_clean - metric_corrupt): 0 changes nothing, 1 restores the clean
answer. Clean and corrupt prompts come from the media or the question (`make_pair`), not from noise (Meng et al. 2022;
Basu et al. 2024; Golovanevsky et al. 2025).

Axes: component (resid_pre, attn_out, mlp_out), span, layer, head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float64
from transformer_lens.utilities import get_act_name  # pyright: ignore[reportPrivateImportUsage]

from hooked_av.analyses.metric import SATURATED, Metric
from hooked_av.analyses.patching.exchange import Exchange, in_heads
from hooked_av.analyses.results import Result
from hooked_av.analyses.several import several
from hooked_av.doors import door
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

COMPONENTS = ("resid_pre", "attn_out", "mlp_out")
# what a table of spans shows, where the prompt has it
SPANS = ("system", "audio", "video", "image", "boundary", "question", "options", "instruction", "answer_prefix", "last")

EFFECTS = ("metric_patched", "effect=effects")  # the columns of every table of patches, one row a patch


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchEffects(Result):
    """What all tables of patches share: the metric of every patched run, and of the two runs without a patch."""

    metric_patched: Float64[np.ndarray, "*axes"]
    metric_clean: float
    metric_corrupt: float
    metric: str
    answers: tuple[str, str]  # of the clean run, and of the corrupt run

    @property
    def effects(self) -> Float64[np.ndarray, "*axes"]:
        """(metric_patched - metric_corrupt) / (metric_clean - metric_corrupt)."""
        return (self.metric_patched - self.metric_corrupt) / (self.metric_clean - self.metric_corrupt)

    @property
    def is_saturated(self) -> bool:
        """Whether the metric is a probability that is above `SATURATED` in the clean run."""
        return self.metric == "probability" and self.metric_clean > SATURATED


@dataclass(frozen=True, eq=False, kw_only=True)
class SpanPatching(PatchEffects):
    """Effect of a whole span's rows, by component and layer."""

    figure: ClassVar = "hooked_av.plots.patching:plot_span_patching"
    axes: ClassVar = dict.fromkeys(("metric_patched", "effects"), ("component", "span", "layer"))
    labels: ClassVar = {"component": "components", "span": "spans"}
    columns: ClassVar = ("component", "span", "layer", *EFFECTS)
    components: tuple[str, ...]
    spans: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadPatching(PatchEffects):
    """Effect of one head's output (z) at the rows of a span."""

    figure: ClassVar = "hooked_av.plots.patching:plot_head_patching"
    axes: ClassVar = dict.fromkeys(("metric_patched", "effects"), ("layer", "head"))
    columns: ClassVar = ("layer", "head", *EFFECTS)
    span: str


@door
def patch_spans(
    model: "HookedAVTransformer",
    *,
    clean: AVInputs,
    corrupt: AVInputs,
    spans: str | Sequence[str] | None = None,
    components: str | Sequence[str] = COMPONENTS,
    metric: Metric = "logit_difference",
    answer: str | int | None = None,
    alternative: str | int | None = None,
    progress: bool = False,
) -> SpanPatching:
    """Where does the difference between two prompts sit: in which span, after which layer, put there by what?

    Args:
        clean, corrupt: prompts of the same layout, see `make_pair`.
        spans: rows that are patched together (None: system, media, boundary, question, ... as far as the prompt has
            them); algebra works ("text|boundary|av" is every row).
        components: TransformerLens's short names of what is patched: "resid_pre", "attn_out", "mlp_out", "z" ...
        metric: "logit_difference" (clean answer less corrupt answer), or the clean answer's "probability", "log_prob".
        answer: that of the clean run, a single token as text or id (None: what it answers).
        alternative: that of the corrupt run (None: what it answers).
        progress: show a bar.

    Two forward passes are cached at the spans' rows, and one is kept as a baseline; each patch then costs only the rows
    and layers that it can change.

    Errors: `InputsError` for prompts of different layout and for runs whose metric is the same; `SpanError` and
    `HookNameError` for names that are not there.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, (sample, other) = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1:4:2]
    >>> pair = av.make_pair(model, sample.clip, "audio", other=other.clip, question=sample.question)
    >>> table = av.patch_spans(model, clean=pair.clean, corrupt=pair.corrupt, spans=["audio", "last"])
    >>> table.answers, table.effects.shape
    (('five', 'two'), (3, 2, 8))
    >>> round(float(table.effects[0, 0, 0]), 5)  # all that differs enters layer 0 at the audio rows
    1.0
    """
    spans = present(corrupt, SPANS) if spans is None else several(spans)
    components = several(components)
    layers = range(model.cfg.n_layers)
    places = {span: corrupt.spans.resolve(span).positions for span in spans}
    points = [get_act_name(component, layer) for component in components for layer in layers]
    exchange = Exchange(model, clean, corrupt, places, points, metric=metric, answer=answer, alternative=alternative)
    exchange.contrast.check_differs()
    # layers vary fastest: patches of the same rows replay as one batch
    cells = [
        exchange.patch(get_act_name(component, layer), span)
        for component in components
        for span in spans
        for layer in layers
    ]
    measured = exchange.run(cells, progress=progress)
    return SpanPatching(
        metric_patched=measured.reshape(len(components), len(spans), len(layers)),
        components=components,
        spans=spans,
        **exchange.fields(spans=list(spans), components=list(components)),
    )


@door
def patch_heads(
    model: "HookedAVTransformer",
    *,
    clean: AVInputs,
    corrupt: AVInputs,
    span: str = "last",
    metric: Metric = "logit_difference",
    answer: str | int | None = None,
    alternative: str | int | None = None,
    progress: bool = False,
) -> HeadPatching:
    """Which attention heads carry the difference to the rows of a span?

    Args:
        span: the rows whose z (a head's output before W_O) is patched.
        metric, answer, alternative, progress: as for `patch_spans`.

    Errors: as for `patch_spans`.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, (sample, other) = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1:4:2]
    >>> pair = av.make_pair(model, sample.clip, "audio", other=other.clip, question=sample.question)
    >>> av.patch_heads(model, clean=pair.clean, corrupt=pair.corrupt, span="last").effects.shape
    (8, 4)
    """
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    places = {span: corrupt.spans.resolve(span).positions}
    points = [get_act_name("z", layer) for layer in layers]
    exchange = Exchange(model, clean, corrupt, places, points, metric=metric, answer=answer, alternative=alternative)
    exchange.contrast.check_differs()
    whole = [exchange.patch(point, span) for point in points]
    measured = exchange.run([in_heads(cell, head) for cell in whole for head in heads], progress=progress)
    return HeadPatching(
        metric_patched=measured.reshape(len(layers), len(heads)), span=span, **exchange.fields(span=span)
    )


def present(inputs: AVInputs, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the spans that a prompt has."""
    return tuple(name for name in names if name in inputs.spans)
