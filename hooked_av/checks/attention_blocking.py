"""Tutorial 03: a knockout by hand, the second half of a way, what two maps say, and layers that stand in for another.

Axes: batch head query key; sample cut.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from hooked_av.analyses.cases import Case
from hooked_av.checks.judgement import Judgement, exercise, first_mistake
from hooked_av.interventions.routes import Route

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

THROUGH, PAST = "media->asked", "media->prompt_end|last"
MEDIA = {"media", "audio", "video", "av", "item0"}
BROKEN, WHOLE = 0.75, 0.9  # of the answer's probability, as the mean over samples
MOST_LAYERS = 3
MORE = 0.3  # of the samples: what layers together break beyond what one of them does


@exercise
def knock_out(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Judgement:
    """Do these queries not read these keys any more, and everything else as before?"""
    n, queries, keys = 9, torch.tensor([5, 7, 8]), torch.tensor([1, 6])
    future = torch.ones(n, n, dtype=torch.bool).triu(1)
    scores = torch.randn(2, 3, n, n).masked_fill(future, -torch.inf)
    try:
        given = answer(scores.clone(), queries, keys)
    except IndexError:
        return Judgement(False, "queries and keys are paired one by one: with queries[:, None] each meets every key")
    if not isinstance(given, Tensor) or given.shape != scores.shape:
        return Judgement(False, "return the scores: a tensor of the shape that came in")
    asked, swapped = torch.zeros(2, n, n, dtype=torch.bool)
    asked[queries[:, None], keys] = swapped[keys[:, None], queries] = True
    mistake = _of_scores(scores, given, asked & ~future, swapped & ~future)
    return mistake or Judgement(True, "these queries read these keys no more, in any head")


def _of_scores(
    before: Float[Tensor, "batch head query key"],
    after: Float[Tensor, "batch head query key"],
    asked: Bool[Tensor, "query key"],
    swapped: Bool[Tensor, "query key"],
) -> Judgement | None:
    changed, gone = (after != before).flatten(0, 1), (after == -torch.inf).flatten(0, 1)
    somewhere = changed.any(dim=0)
    return first_mistake(
        (not bool(somewhere.any()), "nothing changed: write -inf at scores[:, :, queries[:, None], keys]"),
        (somewhere.equal(swapped), "queries and keys are swapped: the axes are [batch, head, query, key]"),
        (bool(changed[:, asked].all() and not gone[:, asked].any()), "what you wrote still has a weight: use -inf"),
        (bool((somewhere & ~asked).any()), "more is cut than was asked: other queries, or other keys, changed too"),
        (not bool(gone[:, asked].any(dim=0).all()), "some pairs are still there: cut every query from every key"),
        (not bool(gone[:, asked].all()), "some heads still read these keys: cut all of them"),
    )


@exercise
def second_half(
    answer: str, model: "HookedAVTransformer", lettered: Sequence[Case], plain: Sequence[Case]
) -> Judgement:
    """Which cut stops what the question hands on, and not the reading of the question itself?"""
    route = Route.parse(answer)
    if mistake := first_mistake(
        (route.keys in MEDIA, f"{route.keys} is where the first half begins; the second half begins at the question"),
        (route.queries == "asked", "the question is what is read here: it stands before the arrow"),
        (route.layers is None, "in every layer, plain answers break too: add @ and layers, such as @0-2"),
    ):
        return mistake
    of_lettered, of_plain = _kept(model, lettered, answer), _kept(model, plain, answer)
    said = f"{of_lettered:.0%} of the probability stays with letters, {of_plain:.0%} without"
    return first_mistake(
        (of_plain < WHOLE, f"{said}: in these layers `last` reads what is asked; the digit comes later"),
        (of_lettered > BROKEN, f"{said}: the digit is handed on in other layers, or in one more beside these"),
    ) or Judgement(True, said)


@exercise
def routes(
    answer: Mapping[str, str], model: "HookedAVTransformer", plain: Sequence[Case], lettered: Sequence[Case]
) -> Judgement:
    """Which kind of question goes through the question, and which past it? Cuts of all layers decide."""
    kinds = {"plain": plain, "lettered": lettered}
    if set(answer) != set(kinds) or not set(answer.values()) <= {"through", "past"}:
        return Judgement(False, 'give {"plain": ..., "lettered": ...}, each "through" or "past"')
    truth = {
        kind: "through" if _kept(model, some, THROUGH) < _kept(model, some, PAST) else "past"
        for kind, some in kinds.items()
    }
    wrong = [kind for kind in kinds if answer[kind] != truth[kind]]
    both = "both are wrong: a curve that falls means that the way is NEEDED, a flat one that it is not"
    return first_mistake(
        (len(wrong) == 2, both),
        (bool(wrong), f"not {wrong[:1]}: in its map, look for the panel whose curve leaves the band of random cuts"),
    ) or Judgement(True, ", ".join(f"{kind}: {way} the question" for kind, way in truth.items()))


@exercise
def standing_in(answer: Iterable[int], model: "HookedAVTransformer", cases: Sequence[Case]) -> Judgement:
    """Layers of which none is missed alone, but all are together."""
    layers = sorted({int(layer) for layer in answer})
    if mistake := first_mistake(
        (len(layers) < 2, "one layer cannot stand in for itself: name two or three"),
        (len(layers) > MOST_LAYERS, f"that works with {MOST_LAYERS}"),
        (not 0 <= layers[0] <= layers[-1] < model.cfg.n_layers, f"layers count from 0 to {model.cfg.n_layers - 1}"),
    ):
        return mistake
    together = ",".join(map(str, layers))
    flips = 1 - _same(model, cases, [f"{PAST}@{some}" for some in [*layers, together]])
    *alone, joint = flips.mean(axis=0)
    said = f"each alone changes at most {max(alone):.0%} of the answers, all together {joint:.0%}"
    return first_mistake(
        (joint < MORE, f"{said}: together they are not missed either; where does the curve of the window fall?"),
        (joint - max(alone) < MORE, f"{said}: one of them does nearly all of it, so nobody stands in for it"),
    ) or Judgement(True, said)


def _kept(model: "HookedAVTransformer", cases: Sequence[Case], cut: str) -> float:
    """Of the probability of the clean answer, what stays: the mean over samples."""
    shares = []
    for case in cases:
        baseline = model.baseline(case.inputs)
        clean, after = baseline.logits.softmax(-1), baseline.logits_under([cut])[0].softmax(-1)
        shares.append(float(after[clean.argmax()] / clean.max()))
    return float(np.mean(shares))


def _same(
    model: "HookedAVTransformer", cases: Sequence[Case], cuts: Sequence[str]
) -> Float64[np.ndarray, "sample cut"]:
    """1 where an answer is that of the clean run."""
    rows = []
    for case in cases:
        baseline = model.baseline(case.inputs)
        rows.append((baseline.logits_under(cuts).argmax(-1) == baseline.logits.argmax()).double().numpy())
    return np.stack(rows)
