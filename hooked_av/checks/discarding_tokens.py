"""Tutorial 06: a drop as a cut, the first layer without loss, a rule of one's own, and what leaving saves.

Axes: drop layer sample; span (positions of a span, in order).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hooked_av.analyses.cases import Case
from hooked_av.analyses.discard.cost import formula_macs
from hooked_av.analyses.discard.discard import DiscardCurve
from hooked_av.checks.judgement import Judgement, exercise, first_mistake
from hooked_av.interventions.routes import Route
from hooked_av.interventions.specs import DropTokens
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

SAME = 1e-4  # of logits: rounding
NEAR = 3.0  # percent of the arithmetic: what a rule of thumb may be off


@exercise
def as_cut(answer: str, model: "HookedAVTransformer", inputs: AVInputs, drop: DropTokens) -> Judgement:
    """Which cut gives the same answer as the drop?"""
    route, n_layers = Route.parse(answer), model.cfg.n_layers
    layers, wanted = route.layers or tuple(range(n_layers)), tuple(range(drop.layer, n_layers))
    if mistake := first_mistake(
        (route.queries == drop.span, f"{drop.span} is what nobody reads any more: it stands before the arrow"),
        (route.keys != drop.span, f"{route.keys} stays; it is {drop.span} that leaves"),
        (layers == (drop.layer,), "who has left does not come back: name the layers up to the last one"),
        (layers[0] < drop.layer, f"before layer {drop.layer} the tokens are still there, and are read"),
        (layers[0] > drop.layer, f"layer {drop.layer} is the first that runs without them"),
        (layers != wanted, "some layer between is missing: who has left does not come back"),
    ):
        return mistake
    dropped, cut = (model(inputs, interventions=edits, logits_at="last") for edits in (drop, answer))
    most = float((dropped - cut).abs().max())
    said = f"largest difference of the logits: {most:.1g}"
    return first_mistake(
        (most > SAME, f"{said}. Others read {drop.span}, too, and hand it on; the span `all` is every token"),
    ) or Judgement(True, said)


@exercise
def first_layer(answer: int, curve: DiscardCurve, span: str) -> Judgement:
    """From which layer on does leaving change no answer?"""
    agrees = curve.agrees[curve.spans.index(span)].mean(axis=1)
    fine = [at for at in range(len(agrees)) if (agrees[at:] == 1).all()]
    if not fine:
        return Judgement(False, f"no layer is without loss: take more of {span} along, or other questions")
    wanted = int(curve.layers[fine[0]])
    known = dict(zip(curve.layers.tolist(), agrees.tolist(), strict=True))
    return first_mistake(
        (answer not in known, f"layers are {min(known)} to {max(known)}"),
        (
            answer < wanted and known.get(answer, 0) == 1,
            f"in layer {answer} no answer changes, but in a later one does",
        ),
        (answer == wanted - 1, f"before layer {answer} {1 - known.get(answer, 0):.0%} of the answers still change"),
        (answer < wanted, f"{1 - known.get(answer, 0):.0%} of the answers change there: look at the upper left panel"),
        (answer > wanted, f"already before layer {wanted} nothing is lost: every layer earlier saves more"),
    ) or Judgement(True, f"from layer {wanted} on {span} can go, in {len(curve.ids)} of {len(curve.ids)} questions")


@exercise
def least_read(answer: Callable[[np.ndarray, np.ndarray, int], Any]) -> Judgement:
    """Those that leave, when the `n_kept` that are read most stay."""
    rng = np.random.default_rng()
    positions, scores, n_kept = np.arange(20, 32), rng.random(40), 3
    given = answer(positions, scores, n_kept)
    gone = {int(position) for position in np.ravel(given)}
    order = positions[np.argsort(scores[positions])]
    least, most = set(order[:-n_kept].tolist()), set(order[n_kept:].tolist())
    return first_mistake(
        (gone == set(positions.tolist()) - least, "these are the ones that stay; return those that leave"),
        (gone == most, "you keep the ones that are read least"),
        (gone == set(order[:n_kept].tolist()), "only n_kept leave: n_kept is how many stay"),
        (
            not gone <= set(positions.tolist()),
            "numbers within the span are no positions: positions[...] makes them some",
        ),
        (len(gone) != len(least), f"{len(gone)} leave, of {len(positions)} tokens of which {n_kept} should stay"),
        (gone != least, "not those that are read least: scores has one number for each token of the prompt"),
    ) or Judgement(True, f"{len(gone)} of {len(positions)} leave, and the {n_kept} that are read most stay")


@exercise
def saved(answer: Callable[[float, int, int], Any], model: "HookedAVTransformer", cases: Sequence[Case]) -> Judgement:
    """A rule of thumb for the share of arithmetic that is saved, against the arithmetic of the model."""
    n_layers = model.cfg.n_layers
    worst = 0.0
    for share in (0.4, 0.7, 0.1):
        for layer in range(n_layers):
            given, right = answer(share, layer, n_layers), _saved(model, cases, share, layer)
            said = f"{share:.0%} of the tokens before layer {layer} of {n_layers}: {given:.0%}, but it is {right:.0%}"
            if mistake := first_mistake(
                (given > 1.5, "a share is between 0 and 1, not percent"),
                (layer > 0 and abs(given - share) < 1e-9, f"{said}. Layers before it run with all tokens"),
                (abs(given - share * layer / n_layers) < 1e-9 and abs(given - right) > NEAR / 100,
                 f"{said}. That is the part of the layers that still have all tokens"),
                (abs(given - share * (n_layers - layer - 1) / n_layers) < 1e-9 and abs(given - right) > NEAR / 100,
                 f"{said}. Layer {layer} itself runs without them, too"),
                (abs(given - right) > 2 * NEAR / 100, said),
            ):  # fmt: skip
                return mistake
            worst = max(worst, abs(given - right))
    return Judgement(True, f"never more than {100 * worst:.0f} points off the arithmetic of this model")


def _saved(model: "HookedAVTransformer", cases: Sequence[Case], share: float, layer: int) -> float:
    """By formula, the mean over prompts."""
    parts = []
    for case in cases:
        n_pos = case.inputs.n_pos
        clean, dropped = formula_macs(model.cfg, n_pos, np.array([round(share * n_pos)]), [layer])
        parts.append(1 - float(dropped[0, 0]) / float(clean))
    return float(np.mean(parts))
