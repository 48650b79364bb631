"""Methods that look for routes, each asked the same: how much of the answer goes through the question, and how much
past it?

Every method says for each sample, way and layer what share of the answer it sees there, and what it sees in the same
place of a random control. Shares are 1 where the whole answer goes that way. Where a method looks at the rows behind
the question, all that came through the question is there too; such methods see past the question what they see behind
it beyond what they see in it.

Axes: way ("question": media -> question -> answer; "behind": media -> answer), sample, layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from hooked_av.analyses.attention.direct_attribution import direct_logit_attribution
from hooked_av.analyses.attention.mass import attention_mass
from hooked_av.analyses.discard.discard import discard_curve
from hooked_av.analyses.flow.controls import Controls
from hooked_av.analyses.flow.effective_pathway import effective_pathway
from hooked_av.analyses.flow.information_flow import information_flow
from hooked_av.analyses.flow.map import InformationFlow
from hooked_av.analyses.flow.pathways import Pathway
from hooked_av.analyses.lenses.answer_trace import answer_trace
from hooked_av.analyses.patching.attribution import attribution_patching
from hooked_av.analyses.patching.paths import patch_path
from hooked_av.analyses.patching.spans import patch_spans
from hooked_av.study.contrasts import DigitContrast
from hooked_av.study.measures import DIRECT, SEQUENTIAL
from hooked_av.tiny.digits import NAMES

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

WAYS = ("question", "behind")
READERS = ("asked", "prompt_end|last")  # the rows of each way that read media
BOTH = "both"
_PAIRS = tuple(("media", reader) for reader in READERS)
EACH_WAY = tuple(Pathway(way, (pair,)) for way, pair in zip(WAYS, _PAIRS, strict=True))
BOTH_WAYS = Pathway(BOTH, _PAIRS)

Effects = Float64[np.ndarray, "place sample layer"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Shares of the answer that a method sees on each way and in its random control, and where it is read."""

    seen: Float64[np.ndarray, "way sample layer"]
    control: Float64[np.ndarray, "way sample layer"]
    read_in: Int64[np.ndarray, " way"]  # the layer; -1 of a method that has none


Method = Callable[["HookedAVTransformer", Sequence[DigitContrast], int], Evidence]
Seen = Float64[np.ndarray, "way sample layer"]


def _at_once(seen: Seen, control: Seen) -> Evidence:
    """Of a method that says nothing of layers."""
    return Evidence(seen, control, np.full(len(seen), -1))


def _while_read(seen: Seen, control: Seen) -> Evidence:
    """Of a method that sees a way where it is read: the layer with most."""
    return Evidence(seen, control, seen.mean(axis=1).argmax(axis=-1))


def _once_read(seen: Seen, control: Seen) -> Evidence:
    """Of a method that sees before a layer all that was read by then: the layer before the first with half of it."""
    return Evidence(seen, control, np.maximum(_half(seen).argmax(axis=-1) - 1, 0))


def _until_read(seen: Seen, control: Seen) -> Evidence:
    """Of a method that sees a way until it is read: the last layer with half of the most."""
    half = _half(seen)
    return Evidence(seen, control, half.shape[-1] - 1 - half[:, ::-1].argmax(axis=-1))


def _half(seen: Seen) -> Bool[np.ndarray, "way layer"]:
    """Where at least half of the most is seen."""
    means = seen.mean(axis=1)
    return means >= means.max(axis=-1, keepdims=True) / 2


def _cut(
    model: "HookedAVTransformer",
    contrasts: Sequence[DigitContrast],
    pathways: Sequence[Pathway],
    window: int | Literal["all"],
    seed: int,
) -> InformationFlow:
    how: dict[str, Any] = {"window": window, "controls": Controls(1, seed=seed), "follow": "gold"}
    return information_flow(model, [one.case for one in contrasts], pathways=pathways, only_correct=False, **how)


def _knockout(
    window: int | Literal["all"], model: "HookedAVTransformer", contrasts: Sequence[DigitContrast], seed: int
) -> Evidence:
    """What the answer loses when a way is cut: it needs the way."""
    flow = _cut(model, contrasts, EACH_WAY, window, seed)
    lost, random = -flow.changes / 100, -flow.control_changes_mean / 100
    return (_at_once if window == "all" else _while_read)(lost.swapaxes(0, 1), random.swapaxes(0, 1))


def _joint_knockout(model: "HookedAVTransformer", contrasts: Sequence[DigitContrast], seed: int) -> Evidence:
    """What a way keeps of the answer when the other one is cut, which is lost when both are: it is enough."""
    flow = _cut(model, contrasts, [*EACH_WAY, BOTH_WAYS], "all", seed)
    return _at_once(*(_kept(changes / 100) for changes in (flow.changes, flow.control_changes_mean)))


def _kept(changes: Float64[np.ndarray, "sample pathway layer"]) -> Float64[np.ndarray, "way sample layer"]:
    question, behind, both = changes.swapaxes(0, 1)
    return np.stack([behind - both, question - both])


def _pathways_alone(model: "HookedAVTransformer", contrasts: Sequence[DigitContrast], seed: int) -> Evidence:
    """Whether the answer stays when everything but one way is cut."""
    cases = [one.case for one in contrasts]
    how: dict[str, Any] = {"controls": Controls(1, seed=seed), "follow": "gold", "only_correct": False}
    found = [effective_pathway(model, cases, edges, **how) for edges in (SEQUENTIAL, DIRECT)]
    stays = np.stack([one.best_ids == one.answer_ids for one in found])
    random = np.stack([one.control_best_ids[:, 0] == one.answer_ids for one in found])
    return _at_once(stays[..., None].astype(float), random[..., None].astype(float))


def _patching(
    table: Callable[..., Any],
    noising: bool,
    model: "HookedAVTransformer",
    contrasts: Sequence[DigitContrast],
    seed: int,
) -> Evidence:
    """What the residual stream of one run brings into the other; control: that of a run with a third answer."""
    rows = [_patched(model, one, table, noising) for one in contrasts]
    seen, random = (_past_the_question(np.stack(part, axis=1)) for part in zip(*rows, strict=True))
    return _once_read(seen, random)


def _patched(
    model: "HookedAVTransformer", one: DigitContrast, table: Callable[..., Any], noising: bool
) -> tuple[Float64[np.ndarray, "place layer"], Float64[np.ndarray, "place layer"]]:
    answers = (one.answer, one.alternative)
    first, second = (one.other, one.case.inputs) if noising else (one.case.inputs, one.other)
    answer, alternative = answers[::-1] if noising else answers
    found, random = (
        table(model, clean=source, corrupt=second, spans=list(READERS), components="resid_pre", answer=answer,
              alternative=alternative)
        for source in (first, one.third)
    )  # fmt: skip
    whole = found.metric_clean - found.metric_corrupt
    seen, control = ((part.metric_patched - part.metric_corrupt) / whole for part in (found, random))
    return seen.reshape(len(READERS), -1), control.reshape(len(READERS), -1)


def _past_the_question(effects: Effects) -> Float64[np.ndarray, "way sample layer"]:
    """Effects in the question, and behind it beyond the largest in the question."""
    question, behind = effects
    return np.stack([question, behind - question.max(axis=1, keepdims=True)])


def _path_patching(model: "HookedAVTransformer", contrasts: Sequence[DigitContrast], seed: int) -> Evidence:
    """Heads that write in the question into what later layers read there; heads that write into the answer's logits."""
    rows = [(_paths(model, one, one.case.inputs), _paths(model, one, one.third)) for one in contrasts]
    seen, random = (_past_the_question(np.stack(part, axis=1)) for part in zip(*rows, strict=True))
    return _while_read(seen, random)


def _paths(model: "HookedAVTransformer", one: DigitContrast, source: Any) -> Float64[np.ndarray, "place layer"]:
    how: dict[str, Any] = {"answer": one.answer, "alternative": one.alternative, "corrupt": one.other}
    layers = range(1, model.cfg.n_layers)
    values = [
        patch_path(model, clean=source, receiver=f"blocks.{at}.attn.hook_v", span="asked", **how) for at in layers
    ]
    direct = patch_path(model, clean=source, span="last", **how)
    clean = model(one.case.inputs, logits_at="last")[0, -1].detach()
    difference = clean[model.to_single_token(one.answer)] - clean[model.to_single_token(one.alternative)]
    whole = float(difference) - direct.metric_corrupt
    question = [np.nansum(table.metric_patched - table.metric_corrupt) / whole for table in values]
    behind = np.nansum(direct.metric_patched - direct.metric_corrupt, axis=1) / whole
    return np.stack([np.array([0.0, *question]), behind])


def _attention(model: "HookedAVTransformer", contrasts: Sequence[DigitContrast], seed: int) -> Evidence:
    """The attention that the head which looks most gives to media; control: their share of all tokens."""
    found = attention_mass(model, [one.case for one in contrasts], keys="media", queries=READERS)
    seen = found.mass.max(axis=2)[..., 0].astype(float).transpose(2, 0, 1)
    shares = found.n_keys[:, 0] / found.n_pos
    return _while_read(seen, np.broadcast_to(shares[None, :, None], seen.shape).copy())


def _direct_attribution(model: "HookedAVTransformer", contrasts: Sequence[DigitContrast], seed: int) -> Evidence:
    """What the last token's heads write of the answer from the question, and from media; control: of another token."""
    rows = [_attributed(model, one) for one in contrasts]
    return _while_read(*(np.stack(part, axis=1) for part in zip(*rows, strict=True)))


def _attributed(
    model: "HookedAVTransformer", one: DigitContrast
) -> tuple[Float64[np.ndarray, "way layer"], Float64[np.ndarray, "way layer"]]:
    answer, alternative = one.answer, one.alternative
    sources = ["asked", "media"]
    found, random = (
        direct_logit_attribution(model, one.case.inputs, token, alternative, sources=sources)
        for token in (answer, _unasked(answer, alternative))
    )
    at = [found.source_spans.index(name) for name in sources]
    return tuple(part.sources.sum(axis=1)[:, at].T / found.logit_difference for part in (found, random))  # type: ignore[return-value]


def _lens(model: "HookedAVTransformer", contrasts: Sequence[DigitContrast], seed: int) -> Evidence:
    """The answer's probability at the end of the question, and at the last token; control: the alternative's.

    The lens reads after a layer; a layer 0 of nothing is put before it, as the other methods count.
    """
    rows = [np.stack([_traced(model, one, at) for at in READERS]) for one in contrasts]
    probabilities = np.stack(rows).transpose(3, 1, 0, 2)  # token place sample layer
    before = np.pad(probabilities, ((0, 0), (0, 0), (0, 0), (1, 0)))
    seen, random = (_past_the_question(one) for one in before)
    return _once_read(seen, random)


def _traced(model: "HookedAVTransformer", one: DigitContrast, at: str) -> Float64[np.ndarray, "layer token=2"]:
    inputs = one.case.inputs
    last = [int(inputs.spans.resolve(at).positions[-1])]
    tokens = [one.answer, one.alternative]
    return answer_trace(model, inputs, tokens, at=last).probabilities.astype(float)


def _discards(model: "HookedAVTransformer", contrasts: Sequence[DigitContrast], seed: int) -> Evidence:
    """Which of media and question is needed for longer: where one can go, and the other cannot.

    Control: with the prompt's beginning for the one that cannot go.
    """
    found = discard_curve(model, [one.case for one in contrasts], ["media", "asked", "prompt_begin"], seed=seed)
    media, asked, begin = found.agrees.swapaxes(1, 2)
    return _until_read(np.stack([media - asked, asked - media]), np.stack([media - begin, asked - begin]))


def _unasked(*answers: str) -> str:
    """A token of the same kind that nobody asks about."""
    kind = NAMES if answers[0] in NAMES else ascii_uppercase
    return next(name for name in kind if name not in answers)


METHODS: Mapping[str, Method] = {
    "knockout, one layer": partial(_knockout, 1),
    "knockout, three layers": partial(_knockout, 3),
    "knockout, all layers": partial(_knockout, "all"),
    "knockout of the other way": _joint_knockout,
    "pathways alone": _pathways_alone,
    "patching, denoising": partial(_patching, patch_spans, False),
    "patching, noising": partial(_patching, patch_spans, True),
    "attribution patching": partial(_patching, attribution_patching, False),
    "path patching": _path_patching,
    "attention": _attention,
    "direct attribution": _direct_attribution,
    "logit lens": _lens,
    "discards": _discards,
}
