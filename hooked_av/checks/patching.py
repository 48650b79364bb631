"""Tutorial 02: the effect of a patch, a head by hand, a stretch of time, and layers that are enough together."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hooked_av.analyses.patching.contrast import Contrast
from hooked_av.analyses.patching.pairs import Pair, make_pair
from hooked_av.analyses.patching.positions import patch_positions
from hooked_av.checks.judgement import Judgement, exercise, first_mistake, shape_of
from hooked_av.interventions.specs import patch
from hooked_av.prompt.inputs import AVInputs
from hooked_av.tiny.samples import sample_clips

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

ENOUGH = 0.9  # of the clean answer
_CLOSE = 1e-3  # of logits, and of effects


@exercise
def effect(answer: Callable[[float, float, float], Any]) -> Judgement:
    """How much of what was lost has come back?"""
    patched, clean, corrupt = 3.0, 9.0, -7.0
    said = answer(patched, clean, corrupt)
    lost = clean - corrupt

    def is_said(value: float) -> bool:
        return abs(said - value) < _CLOSE

    return first_mistake(
        (is_said(patched / clean), "a share of the clean value: a patch that changes nothing must give 0"),
        (is_said(patched - corrupt), "that is how much came back, in logits: divide by how much was lost"),
        (is_said((clean - patched) / lost), "that is 1 where nothing came back: this is the share still missing"),
        (is_said((patched - corrupt) / -lost), "the sign is turned around: effect(clean, clean, corrupt) must be 1"),
        (is_said((patched - clean) / lost), "that is 0 for the clean run: measure from the corrupt run"),
        (not is_said((patched - corrupt) / lost), f"effect(3, 9, -7) is {said:g}; of 16 lost, 10 came back"),
        (abs(answer(clean, clean, corrupt) - 1) > _CLOSE, "a patch that gives the clean run must have effect 1"),
    ) or Judgement(True, "0 for the corrupt run, 1 for the clean one, and a straight line between")


@exercise
def patch_head(
    answer: Callable[[AVInputs, AVInputs, int, int], Tensor], model: "HookedAVTransformer", layer: int | None = None
) -> Judgement:
    """The corrupt run with one head at the last row taken from the clean run, on two films of the checker's own."""
    films = sample_clips()
    one, other = (films[name].clip for name in ("two-seconds", "three-and-eight"))
    pair = make_pair(model, one, "audio", other=other, question="Which digit is spoken first?")
    heads, layer = range(model.cfg.n_heads), model.cfg.n_layers // 2 if layer is None else layer
    head = heads[-1]
    with torch.no_grad():
        said = answer(pair.clean, pair.corrupt, layer, head)
        known = _runs(model, pair, layer, head)
    if not isinstance(said, Tensor) or said.shape != known["right"].shape:  # pyright: ignore[reportUnnecessaryIsInstance]
        return Judgement(
            False, f"give the logits of the last position, {list(known['right'].shape)}; this is {shape_of(said)}"
        )

    def is_said(name: str) -> bool:
        return torch.allclose(said, known[name], atol=_CLOSE)

    return first_mistake(
        (is_said("corrupt"), "that is the corrupt run, unpatched: does the hook return the new rows?"),
        (is_said("clean"), "that is the clean run: it is the corrupt prompt that must run"),
        (is_said("noised"), "the wrong way round: you brought corrupt rows into the clean run"),
        (is_said("layer"), "you patched all heads of the layer, not one"),
        (is_said("rows"), "you patched the head at every position: only the last row is asked for"),
        (is_said("first"), "always the same head: use the argument `head`"),
        (not is_said("right"), "these are other logits: is it hook_z, of this layer, from the clean run?"),
    ) or Judgement(True, f"layer {layer}, head {head} of two other films, as the package patches it")


def _runs(model: "HookedAVTransformer", pair: Pair, layer: int, head: int) -> dict[str, Tensor]:
    """Logits of the right patch, and of the likely wrong ones."""
    name = f"blocks.{layer}.attn.hook_z"
    caches = {
        inputs: model.run_with_cache(inputs, names_filter=[f"{name}@last", f"{name}@all"])[1]
        for inputs in (pair.clean, pair.corrupt)
    }

    def run(inputs: AVInputs, span: str, heads: int | None) -> Tensor:
        source = pair.corrupt if inputs is pair.clean else pair.clean
        values = caches[source][f"{name}@{span}"]
        return model(inputs, interventions=patch(name, span, values, heads=heads), logits_at="last")

    return {
        "right": run(pair.corrupt, "last", head),
        "clean": model(pair.clean, logits_at="last"),
        "corrupt": model(pair.corrupt, logits_at="last"),
        "noised": run(pair.clean, "last", head),
        "layer": run(pair.corrupt, "last", None),
        "rows": run(pair.corrupt, "all", head),
        "first": run(pair.corrupt, "last", 0),
    }


@exercise
def place(answer: str, model: "HookedAVTransformer", pair: Pair) -> Judgement:
    """In which stretch of the sound does the answer sit?"""
    table = patch_positions(model, clean=pair.clean, corrupt=pair.corrupt, every_seconds=1.0)
    names = table.place_names
    wanted = names[int(table.effects[0].argmax())]
    modality, _, time = wanted.partition(" ")
    start = int(time.partition("-")[0])
    return first_mistake(
        (answer.startswith("video"), "the pictures are the same in both prompts: nothing of them can be brought back"),
        (answer not in names, f"no such place: {', '.join(names[:2])}, ..."),
        (
            answer == f"{modality} {start + 1}-{start + 2} s",
            "one too late: the table counts from 0, so the first second is 0-1 s",
        ),
        (answer == f"{modality} {start - 1}-{start} s", "one too early: is it the table of the new question?"),
        (answer != wanted, "nothing comes back there: look for the darkest column"),
    ) or Judgement(
        True, f"{wanted}: {float(table.effects[0].max()):.0%} of the answer, and the other digits do nothing"
    )


@exercise
def group(answer: Sequence[int], model: "HookedAVTransformer", pair: Pair) -> Judgement:
    """The fewest neighbouring layers whose attention at the last row is enough."""
    n_layers, layers = model.cfg.n_layers, sorted({*answer})
    if mistake := first_mistake(
        (not layers, "no layer: nothing is patched"),
        (not all(0 <= layer < n_layers for layer in layers), f"layers are counted from 0 to {n_layers - 1}"),
        (bool(layers) and layers[-1] - layers[0] >= len(layers), "these layers are no neighbours"),
    ):
        return mistake
    effects = _Together(model, pair)
    reached = effects(layers)
    shorter = next((some for some in _windows(n_layers, len(layers) - 1) if effects(some) >= ENOUGH), None)
    return first_mistake(
        (reached < ENOUGH, f"together they bring back {reached:.2f}: add a neighbour, or move the window"),
        (shorter is not None, f"that is enough, but fewer than {len(layers)} layers are, too"),
    ) or Judgement(
        True,
        f"layers {layers} bring back {reached:.2f} together; one by one they add up to "
        f"{sum(effects([layer]) for layer in layers):.2f}",
    )


def _windows(n_layers: int, longest: int) -> list[range]:
    return [range(first, first + width) for width in range(1, longest + 1) for first in range(n_layers + 1 - width)]


class _Together:
    """The effect of attention at the last row, brought from the clean run in several layers at once."""

    def __init__(self, model: "HookedAVTransformer", pair: Pair) -> None:
        self.model, self.corrupt = model, pair.corrupt
        with torch.no_grad():
            logits, self.kept = model.run_with_cache(
                pair.clean, names_filter="blocks.*.hook_attn_out@last", logits_at="last"
            )
            self.contrast = Contrast.of(model, logits[0, -1], self._logits(()), "logit_difference")

    def __call__(self, layers: Sequence[int]) -> float:
        reached = float(self.contrast(self._logits(layers)))
        return (reached - self.contrast.corrupt) / (self.contrast.clean - self.contrast.corrupt)

    @torch.no_grad()
    def _logits(self, layers: Sequence[int]) -> Any:
        patches = [patch(f"blocks.{layer}.hook_attn_out", "last", self.kept) for layer in layers]
        return self.model(self.corrupt, interventions=patches, logits_at="last")[0, -1]
