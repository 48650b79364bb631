"""Tutorial 04: a lens by hand, the convention of a curve, random directions, and who listens to the clip."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_av.analyses.lenses.answer_trace import AnswerTrace, answer_trace
from hooked_av.analyses.lenses.convention import LensConvention
from hooked_av.checks.judgement import Judgement, exercise, first_mistake, shape_of
from hooked_av.interventions.routes import Route
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

PAPERS_CONVENTION = "no_norm+layer_input"
MEDIA = ("av", "audio")
PARTS_OF_TEXT = ("question", "options", "instruction", "last")
MOST_RIGHT = 0.5  # of answers that need what was cut: options leave a third to chance


@exercise
def read_by_hand(read: Callable[[Tensor], Any], model: "HookedAVTransformer", inputs: AVInputs) -> Judgement:
    """Does a function read rows as the logit lens does?"""
    _, cache = model.run_with_cache(inputs, names_filter="blocks.*.hook_resid_post@last")
    rows = torch.cat([cache["resid_post", layer, "last"] for layer in range(model.cfg.n_layers)], dim=1)
    got = read(rows)
    wanted_shape = [*rows.shape[:-1], model.cfg.d_vocab]
    if not isinstance(got, Tensor) or list(got.shape) != wanted_shape:
        return Judgement(
            False, f"rows {list(rows.shape)} went in, {shape_of(got)} came out; a lens gives {wanted_shape}"
        )
    normed, words = model.ln_final(rows), model.embed.weight.T
    logits = model.unembed(normed)
    return first_mistake(
        (_same(got, logits), "these are logits; a softmax makes them probabilities"),
        (_same(got, model.unembed(rows).softmax(-1)), "without the final norm: that is the convention no_norm"),
        (_same(got, logits.softmax(-2)), "the softmax goes over the vocabulary, the last axis"),
        (_same(got, logits.log_softmax(-1)), "these are logarithms of probabilities"),
        (
            _same(got, (normed @ words).softmax(-1)),
            "with the embeddings of words that come in; answers have the unembedding (model.W_U)",
        ),
        (not _same(got, logits.softmax(-1)), "not what the last two steps of the model give"),
    ) or Judgement(True, "in the last layer these are the model's own probabilities")


def reported(model: "HookedAVTransformer", inputs: AVInputs) -> Float[np.ndarray, " layer"]:
    """The probability of the answer over the layers, as somebody read it who does not say how."""
    return _probabilities(model, inputs, PAPERS_CONVENTION)


@exercise
def which_convention(
    answer: str, curve: Float[np.ndarray, " layer"], model: "HookedAVTransformer", inputs: AVInputs
) -> Judgement:
    """By which convention was a curve read?"""
    mine, theirs = LensConvention.parse(answer), LensConvention.parse(PAPERS_CONVENTION)
    return first_mistake(
        (
            mine.uses_unembedding != theirs.uses_unembedding,
            "by the input embedding “six” is not said in the last layer; the paper's curve ends at 1",
        ),
        (
            mine.reads_output != theirs.reads_output,
            "the norm aside, look where it rises: what enters a layer rises one layer later than what leaves it",
        ),
        (
            mine.has_norm != theirs.has_norm,
            "right about the layer, but a shifted curve of ours has values in between; theirs jumps from 0 to 1",
        ),
        (not np.allclose(_probabilities(model, inputs, answer), curve, atol=1e-4), "that gives another curve"),
    ) or Judgement(True, f"{mine.name}: one layer later, and steeper")


def _probabilities(model: "HookedAVTransformer", inputs: AVInputs, convention: str) -> Float[np.ndarray, " layer"]:
    """Of what the model says in the end."""
    answer = model.to_string(int(model(inputs, logits_at="last")[0, -1].argmax()))
    trace = cast(AnswerTrace, answer_trace(model, inputs, [answer], convention=convention))  # inputs are one prompt
    return trace.probabilities[:, 0]


@exercise
def random_control(control: Callable[[Tensor, int], Any]) -> Judgement:
    """Are these ten directions a control: random, as long as the true ones, and new for each seed?"""
    lengths = torch.arange(1.0, 11.0)[:, None]
    true = (
        torch.nn.functional.normalize(torch.randn(10, 64, generator=torch.Generator().manual_seed(1)), dim=-1) * lengths
    )
    got, again, other = (control(true.clone(), seed) for seed in (0, 0, 1))
    if not isinstance(got, Tensor) or got.shape != true.shape:
        return Judgement(False, f"ten directions {list(true.shape)} went in, {shape_of(got)} came out")
    is_one_of_them = torch.cdist(got, true).min(dim=-1).values < 1e-4
    return first_mistake(
        (_same(got, true), "these are the true directions"),
        (
            bool(is_one_of_them.all()),
            "the true directions in another order: each still fits its digit, so they are wrong too often",
        ),
        (not _same(got.norm(dim=-1), true.norm(dim=-1)), "of other lengths: a longer direction wins more often"),
        (_same(got, other), "the same for every seed: one draw says nothing of luck"),
        (not _same(got, again), "another draw for the same seed: nobody could repeat it"),
        (bool((torch.cosine_similarity(got, true) > 0.5).any()), "close to the true directions"),
    ) or Judgement(True, "as long as the true ones, and about nothing")


@exercise
def who_listens(cut: str, model: "HookedAVTransformer", answers: Sequence[str], batch: AVInputs) -> Judgement:
    """Which part of the text must read the media, so that the lettered answers are right?"""
    route = Route.parse(cut)
    if mistake := first_mistake(
        (route.keys in PARTS_OF_TEXT and route.queries in MEDIA, "keys come first: what is read, then who reads it"),
        (route.keys not in MEDIA, f"the clip is what is read: av->..., not {route.keys}"),
        (route.queries not in PARTS_OF_TEXT, f"one of {', '.join(PARTS_OF_TEXT)}; you named {route.queries}"),
        (route.layers is not None, "in every layer: leave out @ and the layers"),
    ):
        return mistake
    said = model.generate(batch, interventions=cut).texts
    share = float(np.mean([one == answer for one, answer in zip(said, answers, strict=True)]))
    why = {
        "question": "the digit is said there, and nobody needs it",
        "last": "the letter is said there, but it does not come from the media straight",
    }.get(route.queries, "look for the part that is asked to choose")
    return first_mistake(
        (share > MOST_RIGHT, f"{share:.0%} are right still: {why}"),
    ) or Judgement(True, f"{share:.0%} are right, no more than by chance: the {route.queries} listen")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)
