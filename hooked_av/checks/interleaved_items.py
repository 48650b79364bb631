"""Tutorial 05: what can be hidden, a cut between items that does not leak, and what accuracies say of streams.

Axes: batch pos d_model.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hooked_av.analyses.cases import Case
from hooked_av.checks.judgement import Judgement, exercise, first_mistake
from hooked_av.interventions.routes import Route
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

SEALED = 1e-6  # of the size of a row: what is below is rounding
PARALLEL, SEQUENTIAL, UNKNOWN = "parallel", "sequential", "cannot say"


@exercise
def hidden(answer: str, model: "HookedAVTransformer", case: Case) -> Judgement:
    """How much of the items can be hidden from all text, with the answer as it was?"""
    spans = case.inputs.spans
    given, queried = set(spans.resolve(answer)), set(spans["queried_item"])
    items = set(spans["queried_item"]) | set(spans["other_items"])
    most = max((items - set(spans[name]) for name in _streams(case.inputs) if _keeps(model, case, name)), key=len)
    name = next(name for name in spans if name.startswith("item") and set(spans[name]) == queried)
    if mistake := first_mistake(
        (bool(given - items), "that is more than the items: hide nothing of the text or of the marks"),
        (queried <= given, f"{name} is the one that is asked for: names count from 0, the question from one"),
    ):
        return mistake
    clean, cut = (_answer(model, case.inputs, edits) for edits in ((), f"{answer}->text"))
    return first_mistake(
        (clean != cut, f"{clean!r} becomes {cut!r}: you hid what the question is about"),
        (not set(spans["other_items"]) <= given, "more can go: some item that nobody asks about is still there"),
        (len(given) < len(most), f"more can go: not all of {name} is needed; which of its two streams is asked for?"),
    ) or Judgement(True, f"{len(given)} of {len(items)} tokens hidden, and still {cut!r}")


def _streams(inputs: AVInputs) -> list[str]:
    return [name for name in inputs.spans if name.startswith("item") and "." in name]


def _keeps(model: "HookedAVTransformer", case: Case, stream: str) -> bool:
    """Whether one stream of one item is enough."""
    others = "|".join(name for name in _streams(case.inputs) if name != stream)
    return _answer(model, case.inputs, f"{others}->text") == _answer(model, case.inputs, ())


@exercise
def sealed(
    answer: Sequence[str], model: "HookedAVTransformer", inputs: AVInputs, others: Sequence[AVInputs]
) -> Judgement:
    """Do later items know nothing of an earlier one that was changed, and does the text still read all of them?

    `others`: the same prompt with item 0 changed, and with item 1 changed.
    """
    cuts = [answer] if isinstance(answer, str) else list(answer)
    texts = {name for cut in cuts for name in Route.parse(cut).queries.replace(" ", "").split("|")}
    if texts & {"text", "question", "last", "all"}:
        return Judgement(
            False, "the text must go on reading the items: cut what items read of each other, nothing else"
        )
    spans = inputs.spans
    for route in map(Route.parse, cuts):
        if spans.resolve(route.keys).positions[0] > spans.resolve(route.queries).positions[-1]:
            return Judgement(False, f"{route.queries} comes before {route.keys}: what is read stands before the arrow")
    leaks = {
        f"item{later} still knows of item{changed}": _leak(model, (inputs, other), cuts, f"item{later}")
        for changed, other in enumerate(others)
        for later in range(changed + 1, len(others) + 1)
    }
    direct = {Route.parse(cut).queries for cut in cuts}
    worst = max(leaks, key=lambda pair: leaks[pair])
    said = f"{worst} ({leaks[worst]:.1%} of its stream differs)"
    return first_mistake(
        (leaks[worst] > SEALED and not any("boundary" in queries for queries in direct),
         f"{said}: there are tokens between the items that read one and are read by the next"),
        (leaks[worst] > SEALED, f"{said}: one pair of items, or of an item and the marks, is still open"),
    ) or Judgement(True, "no item knows anything of another one, to the last bit")  # fmt: skip


def _leak(model: "HookedAVTransformer", pair: tuple[AVInputs, AVInputs], cuts: Sequence[str], item: str) -> float:
    """How far the residual streams of an item differ between two prompts; the largest over layers."""
    name = f"blocks.*.hook_resid_post@{item}"
    with torch.no_grad():
        one, other = (model.run_with_cache(some, names_filter=name, interventions=list(cuts))[1] for some in pair)
    return max(float((one[key] - other[key]).norm() / one[key].norm()) for key in one)


@exercise
def streams(answer: Callable[[float, float, float], Any]) -> Judgement:
    """What shares of right answers say: clean, with items cut from each other, with random cuts of that size."""
    if answer(1.0, 0.3, 0.95) != SEQUENTIAL:
        return Judgement(False, f"the cut breaks it, a random one does not: that is {SEQUENTIAL!r}")
    if answer(1.0, 0.3, 0.3) == SEQUENTIAL:
        return Judgement(False, "any cut of that size breaks it: the cut of the items shows nothing beyond that")
    if answer(1.0, 0.97, 0.3) == UNKNOWN:
        return Judgement(False, "the random cut breaks it, and that of the items does not: clearer it cannot be")
    if answer(0.96, 0.94, 0.93) == UNKNOWN:
        return Judgement(False, "a random cut that does no harm is no trouble: the cut of the items does none either")
    wanted = [((1.0, 0.97, 0.3), PARALLEL), ((0.96, 0.94, 0.93), PARALLEL), ((0.9, 0.4, 0.42), UNKNOWN)]
    for shares, says in wanted:
        if answer(*shares) != says:
            return Judgement(False, f"clean, cut, random = {shares}: you say {answer(*shares)!r}, not {says!r}")
    return Judgement(True, "a cut counts beside its control only")


def _answer(model: "HookedAVTransformer", inputs: AVInputs, cut: str | tuple[()]) -> str:
    return model.to_string(int(model(inputs, interventions=cut, logits_at="last")[0, -1].argmax()))
