"""Direct logit attribution: what each part of the model adds to a logit difference at the last position.

The residual stream is a sum, and the final norm is a division by a scale and a gain (RMSNorm takes no mean away). With
the scale held at its value of this run, the logit difference is therefore a sum over the embedding, every attention
output and every MLP output; an attention output is a sum over heads, and a head one over the tokens that it reads.

Axes: layer, head; source (span that is read); pos; kv_head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Float64
from torch import Tensor

from hooked_av.analyses.attention.parts import Parts, indicator, parts_of
from hooked_av.analyses.attention.rows import check_plain_attention
from hooked_av.analyses.patching.contrast import token_id
from hooked_av.analyses.per_prompt import PerPrompt, naming_the_prompt, one_of_each, per_prompt, prompts_of
from hooked_av.analyses.results import Result, run_settings
from hooked_av.analyses.several import several
from hooked_av.doors import door
from hooked_av.errors import HookError, InputsError
from hooked_av.hooks.point import HookPoint
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

Answer = str | int | Sequence[str | int]  # of all prompts, or a list of one for each

# Of the sum of the sizes of all parts: how far a sum may miss what it stands for.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@dataclass(frozen=True, eq=False, kw_only=True)
class DirectAttribution(Result):
    """Parts of logit(answer) - logit(alternative) at the last position; they sum to it."""

    figure: ClassVar = "hooked_av.plots.direct_attribution:plot_direct_attribution"
    axes: ClassVar = {
        "attn": ("layer",),
        "mlp": ("layer",),
        "heads": ("layer", "head"),
        "sources": ("layer", "head", "source"),
    }
    labels: ClassVar = {"source": "source_spans"}
    attn: Float64[np.ndarray, " layer"]
    mlp: Float64[np.ndarray, " layer"]
    heads: Float64[np.ndarray, "layer head"]
    sources: Float64[np.ndarray, "layer head source"]  # what each head brings from each part of the prompt
    source_spans: tuple[str, ...]
    embed: float  # the embedding of the last token itself
    answer: str
    alternative: str
    logit_difference: float  # of the run
    scale: float  # of the final norm

    @property
    def total(self) -> float:
        """The sum of the parts: the logit difference."""
        return float(self.embed + self.attn.sum() + self.mlp.sum())

    def to_frame(self) -> pd.DataFrame:
        """One row a component: the embedding, and attention and MLP of each layer."""
        layers = np.arange(len(self.attn))
        return pd.DataFrame(
            {
                "component": ["embed", *(kind for _ in layers for kind in ("attn", "mlp"))],
                "layer": [-1, *np.repeat(layers, 2)],
                "contribution": [self.embed, *np.stack([self.attn, self.mlp], axis=1).ravel()],
            }
        )

    def heads_frame(self) -> pd.DataFrame:
        """One row a layer, head and span that the head reads."""
        return self.tabulate("layer", "head", "source", "contribution=sources")


@door
def direct_logit_attribution(
    model: "HookedAVTransformer",
    inputs: AVInputs,
    answer: Answer,
    alternative: Answer,
    *,
    sources: str | Sequence[str] | None = None,
    tolerance: float | None = None,
) -> DirectAttribution | PerPrompt[DirectAttribution]:
    """Which layers, heads and source spans write the answer into the last position?

    Only the direct path to the logits counts: what a part does through later layers is theirs.

    Args:
        inputs: a prompt, or a batch, whose prompts share one pass; it gives a `PerPrompt`.
        answer, alternative: single tokens, as text or id; what is shared out is logit(answer) - logit(alternative). Of
            a batch one for all prompts, or a list of one for each.
        sources: spans without common tokens (None: the usual ones); what no span holds is "other".
        tolerance: largest error of the sum, as a share of the sizes of all parts (None: by the model's precision).

    Errors: `HookError` if the parts do not sum to the logit difference, or heads not to their layer, or sources not to
    their head; `SpanError` for spans that share tokens; `InputsError` for a text of several tokens, two answers
    that are the same, and a list that has not one for each prompt.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model = av.HookedAVTransformer.from_pretrained("tiny-av")
    >>> sample = read_samples()[1]
    >>> inputs = model.prepare(sample.clip, question=sample.question)
    >>> found = av.direct_logit_attribution(model, inputs, answer=sample.answer, alternative="three")
    >>> found.sources.shape, bool(abs(found.total - found.logit_difference) < 1e-3)
    ((8, 4, 6), True)
    """
    inputs = inputs.to(model.device)
    check_plain_attention(model, inputs)
    ids = _ids(model, inputs, answer, alternative)
    prompts = prompts_of(inputs)
    parts: list[Parts] = []
    for row, one in enumerate(prompts):
        with naming_the_prompt(row, inputs):
            parts.append(parts_of(one, None if sources is None else several(sources)))
    path = _Path(model, inputs, ids, parts)
    differences = path.run()
    tolerance = TOLERANCE[model.cfg.dtype] if tolerance is None else tolerance
    found: list[DirectAttribution] = []
    for row, one in enumerate(prompts):
        answer_text, alternative_text = (model.to_string(token) for token in ids[row])
        attribution = DirectAttribution(
            **path.arrays(row),
            source_spans=tuple(parts[row]),
            answer=answer_text,
            alternative=alternative_text,
            logit_difference=differences[row],
            settings=run_settings(model, one, answer_ids=ids[row]),
        )
        with naming_the_prompt(row, inputs):
            _check_sums(attribution, tolerance)
        found.append(attribution)
    return per_prompt(found)


def _ids(model: "HookedAVTransformer", inputs: AVInputs, answer: Answer, alternative: Answer) -> list[list[int]]:
    """Answer and alternative of each prompt."""
    pairs = list(zip(one_of_each(answer, inputs), one_of_each(alternative, inputs), strict=True))
    ids = [[token_id(model, token) for token in pair] for pair in pairs]
    for row, (pair, (one, other)) in enumerate(zip(pairs, ids, strict=True)):
        with naming_the_prompt(row, inputs):
            if one == other:
                raise InputsError(
                    f"answer and alternative are both {model.to_string(one)!r}, so their logit difference is always "
                    "zero",
                    expected="two different tokens",
                    got=f"{pair[0]!r} and {pair[1]!r}",
                    next_step="name the answer, and one that it is to be told from",
                )
    return ids


@dataclass(eq=False)
class _Path:
    """One pass: what the direct path sees at the last position, layer by layer, before the norm's scale is known."""

    model: "HookedAVTransformer"
    inputs: AVInputs
    ids: list[list[int]]
    parts: Sequence[Mapping[str, np.ndarray]]  # name of a source -> its positions, of each prompt
    seen: dict[str, list[Any]] = field(default_factory=dict)  # a tensor or a list a layer, with an entry a prompt

    def __post_init__(self) -> None:
        gain, device = self.model.ln_final.weight.detach().float(), self.model.device
        rows = self.model.unembed.weight.detach()[torch.tensor(self.ids, device=device)].float()
        self.direction = (rows[:, 0] - rows[:, 1]) * gain
        self.values = gain.new_empty(0)  # of the layer that is running
        self.extents = [slice(spans.extent.start, spans.extent.stop) for spans in self.inputs.row_spans]
        sized = zip(self.parts, self.inputs.row_spans, strict=True)
        self.tables = [indicator(parts, len(spans.extent), device) for parts, spans in sized]

    @torch.no_grad()
    def run(self) -> list[float]:
        """The logit difference of each prompt; everything is noted on the way."""
        hooks: list[tuple[str, Callable[..., None]]] = [
            ("hook_inputs_embed@last", self._project("embed")),
            ("blocks.*.hook_attn_out@last", self._project("attn")),
            ("blocks.*.hook_mlp_out@last", self._project("mlp")),
            ("blocks.*.attn.hook_v", self._keep_values),
            ("blocks.*.attn.hook_pattern@last", self._read_sources),
            ("blocks.*.attn.hook_z@last", self._read_heads),
            ("ln_final.hook_scale@last", lambda scale, hook: self._note("scale", scale[:, 0, 0])),
        ]
        logits = self.model.run_with_hooks(self.inputs, fwd_hooks=hooks, logits_at="last")[:, -1]
        pairs = logits.gather(1, torch.tensor(self.ids, device=logits.device)).cpu().double()
        return (pairs[:, 0] - pairs[:, 1]).tolist()

    def arrays(self, row: int) -> dict[str, Any]:
        """The parts of one prompt, divided by the scale."""
        stacked = {
            name: torch.stack([layer[row] for layer in some]).cpu().double().numpy() for name, some in self.seen.items()
        }
        scale = float(stacked.pop("scale")[0])
        embed = float(stacked.pop("embed")[0]) / scale
        return {name: array / scale for name, array in stacked.items()} | {"embed": embed, "scale": scale}

    def _note(self, name: str, value: Any) -> None:
        self.seen.setdefault(name, []).append(value)

    def _project(self, name: str) -> Callable[..., None]:
        return lambda rows, hook: self._note(name, (rows[:, 0].float() * self.direction).sum(dim=-1))

    def _keep_values(self, v: Tensor, hook: HookPoint) -> None:
        self.values = v

    def _out(self, hook: HookPoint) -> Float[Tensor, "batch head d_head"]:
        """What the direction reads of each head's output."""
        layer = int(str(hook.name).split(".")[1])
        weights = self.model.blocks[layer].attn.W_O.float()
        return einsum(weights, self.direction, "head d_head d_model, batch d_model -> batch head d_head")

    def _read_sources(self, pattern: Float[Tensor, "batch head 1 pos"], hook: HookPoint) -> None:
        n_kv = self.values.shape[2]
        out = rearrange(self._out(hook), "batch (kv_head q) d_head -> batch kv_head q d_head", kv_head=n_kv)
        by_source = []
        for row, (own, table) in enumerate(zip(self.extents, self.tables, strict=True)):
            values = self.values[row, own].float()
            written = einsum(values, out[row], "pos kv_head d_head, kv_head q d_head -> kv_head q pos")
            weighted = pattern[row, :, 0, own].float() * rearrange(written, "kv_head q pos -> (kv_head q) pos")
            by_source.append(weighted @ table)
        self._note("sources", by_source)

    def _read_heads(self, z: Float[Tensor, "batch 1 head d_head"], hook: HookPoint) -> None:
        self._note("heads", (z[:, 0].float() * self._out(hook)).sum(dim=-1))


def _check_sums(found: DirectAttribution, tolerance: float) -> None:
    """Every whole is the sum of its parts."""
    size = abs(found.embed) + np.abs(found.attn).sum() + np.abs(found.mlp).sum()
    wholes = {
        "components, to the logit difference": abs(found.total - found.logit_difference),
        "heads, to the attention output of their layer": np.abs(found.heads.sum(axis=1) - found.attn).max(),
        "source spans, to their head": np.abs(found.sources.sum(axis=2) - found.heads).max(),
    }
    for parts, error in wholes.items():
        if not error <= tolerance * size:
            raise HookError(
                f"direct attribution does not add up: {parts}",
                expected=f"an error of at most {tolerance * size:.3g}",
                got=f"{error:.3g}",
                next_step="close hooks and interventions that edit the residual stream, z or attention outputs; "
                "in half precision run in float32, or give a tolerance",
            )
