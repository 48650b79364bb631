"""Tutorial 07: a head's direct share, the worst miss of an estimate, slopes on the way, and who takes back."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hooked_av.analyses.attention.direct_attribution import direct_logit_attribution
from hooked_av.analyses.patching.attribution import AttributionPatching
from hooked_av.analyses.patching.pairs import Pair
from hooked_av.analyses.patching.paths import patch_path
from hooked_av.checks.judgement import Judgement, exercise, first_mistake
from hooked_av.prompt.inputs import AVInputs
from hooked_av.tiny.samples import sample_clips

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

Writes = Callable[[AVInputs, int, int, str, str], Any]
_CLOSE = 1e-3  # of logits
_NEAR = 0.03  # effects that are as good as the same


@exercise
def head_writes(answer: Writes, model: "HookedAVTransformer") -> Judgement:
    """What a head adds to a logit difference, in a prompt of the checker's own."""
    film = sample_clips()["two-seconds"]
    inputs, tokens = model.prepare(film.clip, question="Which digit is spoken first?"), ("two", "seven")
    found = direct_logit_attribution(model, inputs, *tokens)
    layer = int(np.abs(found.heads).sum(axis=1).argmax())
    head = int(np.abs(found.heads[layer]).argmax())
    said = answer(inputs, layer, head, *tokens)
    if np.size(said) != 1:
        return Judgement(False, f"one number is asked for; this has {np.size(said)}")
    wrong, wanted = _wrong_shares(model, inputs, layer, head, *tokens), float(found.heads[layer, head])

    def is_said(value: float) -> bool:
        return abs(float(said) - value) < _CLOSE

    return first_mistake(
        (is_said(-wanted), "the sign is turned around: the answer's direction less the alternative's"),
        (is_said(float(found.attn[layer])), "that is the whole layer: take one head of z, and its W_O"),
        (is_said(wrong["scale"]), "not divided by the scale of the final norm"),
        (is_said(wrong["gain"]), "without the gain of the final norm (model.ln_final.weight)"),
        (is_said(wrong["norm"]), "without the final norm: multiply by its gain, divide by its scale"),
        (is_said(wrong["answer"]), "that is the answer's logit alone: subtract the alternative's direction"),
        (
            not is_said(wanted),
            f"{float(said):.3f}, but it should be {wanted:.3f}: is it this layer, head and position?",
        ),
    ) or Judgement(True, f"layer {layer}, head {head} of another film adds {wanted:.2f}, as the package has it")


def _wrong_shares(
    model: "HookedAVTransformer", inputs: AVInputs, layer: int, head: int, answer: str, alternative: str
) -> Mapping[str, float]:
    """What comes out if something is forgotten."""
    z, norm = f"blocks.{layer}.attn.hook_z@last", "ln_final.hook_scale@last"
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs, names_filter=[z, norm])
        written = cache[z][0, 0, head] @ model.W_O[layer, head]
        one, other = (model.W_U[:, model.to_single_token(text)] for text in (answer, alternative))
        gain, scale = model.ln_final.weight, cache[norm][0, 0]
        return {
            "scale": float(written * gain @ (one - other)),
            "gain": float(written / scale @ (one - other)),
            "norm": float(written @ (one - other)),
            "answer": float(written * gain / scale @ one),
        }


@exercise
def cell(answer: tuple[str, int], estimate: AttributionPatching) -> Judgement:
    """Which cell of attn_out does the estimate miss by most?"""
    row, layer = answer
    known = [place for place, name in enumerate(estimate.rows) if name.endswith("attn_out")]
    misses = np.abs(estimate.effects - estimate.exact)
    if mistake := first_mistake(
        (row not in estimate.rows, f"no such row: {', '.join(estimate.rows[:3])}, ..."),
        (not row.endswith("attn_out"), "that is another component: asked is attn_out"),
        (not 0 <= layer < misses.shape[1], f"layers are counted from 0 to {misses.shape[1] - 1}"),
    ):
        return mistake
    place, worst = estimate.rows.index(row), float(misses[known].max())
    best_estimate = np.abs(estimate.effects[known]).max()
    return first_mistake(
        (
            misses[place, layer] < worst - _NEAR and abs(estimate.effects[place, layer]) >= best_estimate,
            "that is the largest estimate: asked is the largest distance to the exact effect",
        ),
        (misses[place, layer] < worst - _NEAR, f"missed by {misses[place, layer]:.2f}; another one by {worst:.2f}"),
    ) or Judgement(
        True, f"exact {estimate.exact[place, layer]:.2f}, but estimated at {estimate.effects[place, layer]:.2f}"
    )


@exercise
def estimated_change(answer: Callable[[Callable[[float], float], int], Any]) -> Judgement:
    """The change from 0 to 1 from slopes on the way, tried on curves whose change is known."""

    def bend(dial: float) -> float:
        return 3 * dial**2 + 1  # of a curve that rises by 2

    said = {n: answer(bend, n) for n in (1, 4, 64)}
    return first_mistake(
        (abs(said[64] / 64 - 2) < 0.1, "that is the sum of the slopes: each step is only 1 / n long"),
        (abs(said[64] - bend(0)) < _CLOSE, "that is the slope at 0 alone: the tangent that failed"),
        (abs(said[64] - bend(0.5)) < _CLOSE, "the slope at one place, whatever n is: take n places"),
        (abs(said[64] - 2) > 0.1, f"with 64 slopes of a curve that rises by 2 this is {said[64]:.2f}"),
        (abs(said[4] - 2) > 0.1, f"with 4 slopes this is {said[4]:.2f}, not 2: take them in the middle of each step"),
    ) or Judgement(True, f"a curve that rises by 2: {said[1]:.2f} from one slope, {said[4]:.2f} from four")


@exercise
def receiver(answer: str, model: "HookedAVTransformer", pair: Pair) -> Judgement:
    """Through which MLP do the heads together lose most?"""
    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(model.cfg.n_layers)]
    if answer not in names:
        return Judgement(False, f"an MLP is asked for, by its hook's name, such as {names[0]}")
    sums = {
        name: float(np.nansum(patch_path(model, clean=pair.clean, corrupt=pair.corrupt, receiver=name).effects))
        for name in names
    }
    least = min(sums.values())
    return first_mistake(
        (sums[answer] >= max(sums.values()), "there they lose least: asked is the smallest sum (the most below zero)"),
        (sums[answer] > least + _NEAR, f"there they lose {-sums[answer]:.2f}; through another one {-least:.2f}"),
    ) or Judgement(True, f"through {answer} the heads lose {-sums[answer]:.2f} of the answer, added up")
