"""Tutorial 01: the name of a piece of attention, the residual stream by hand, a hook that swaps, a first order."""

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hooked_av.checks.judgement import Judgement, exercise, first_mistake, shape_of
from hooked_av.hooks.cache import AVCache
from hooked_av.hooks.names import HookName, Scope
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

PARTS = ("hook_attn_out", "hook_mlp_out")


@exercise
def name_of_reads(answer: str, model: "HookedAVTransformer", inputs: AVInputs) -> Judgement:
    """Under which name is, in every layer, what `last` reads of `word`?"""
    name = HookName.parse(answer)
    scope, spans = name.scope or Scope(None), inputs.spans
    if mistake := first_mistake(
        (name.scope is None, "that names whole matrices: add @, who reads, <-, and what is read"),
        (name.pattern.endswith("hook_attn_scores"), "scores are before the softmax: they are no shares yet"),
        (not name.pattern.endswith("attn.hook_pattern"), "shares of attention are at blocks.3.attn.hook_pattern"),
        (not name.is_pattern, "that is one layer: * stands for every number"),
        (scope.keys is None, "that names rows, and all that they read: add <- and what is read"),
    ):
        return mistake
    queries, keys = (spans.resolve(part or "all") for part in (scope.queries, scope.keys))
    return first_mistake(
        (keys == spans["last"], "who reads comes first in a hook's name: queries<-keys"),
        (queries != spans["last"], f"the answer begins at `last`; you named what {scope.queries} reads"),
        (keys != spans["word"], f"the word is the span `word`; you named {scope.keys}"),
    ) or Judgement(True, f"{model.cfg.n_layers} layers, and in each of them {len(keys)} shares a head")


@exercise
def residual_by_hand(rebuilt: Callable[[AVCache, int, str], Tensor], cache: AVCache, inputs: AVInputs) -> Judgement:
    """Is what leaves a layer the sum of everything that was added so far?"""
    layers = list(range(cache.model.cfg.n_layers))[1::3]
    spans = [name for name in ("question", "audio", "last") if name in inputs.spans]
    for layer, span in product(layers, spans):
        got = rebuilt(cache, layer, span)
        if mistake := _not_the_residual(got, cache, layer, span):
            return mistake
    return Judgement(True, f"the same numbers as hook_resid_post, in layers {layers}, at {', '.join(spans)}")


def _not_the_residual(got: Any, cache: AVCache, layer: int, span: str) -> Judgement | None:
    wanted = cache["resid_post", layer, span]
    where = f"blocks.{layer}, {span}"
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        return Judgement(False, f"{where}: you gave {shape_of(got)}, the residual stream has {list(wanted.shape)}")
    start, words = cache[f"hook_inputs_embed@{span}"], cache[f"hook_embed@{span}"]
    attention, mlp = (sum(_part(cache, one, part, span) for one in range(layer + 1)) for part in PARTS)
    last = sum(_part(cache, layer, part, span) for part in PARTS)
    return first_mistake(
        (_same(got, wanted - start), f"{where}: the blocks alone; the stream begins with hook_inputs_embed"),
        (_same(got, wanted - last), f"{where}: one layer is missing; range(layer) ends before it"),
        (_same(got, start + attention), f"{where}: attention alone; each layer's MLP adds to the stream, too"),
        (_same(got, start + mlp), f"{where}: the MLPs alone; each layer's attention adds to the stream, too"),
        (_same(got, start + last), f"{where}: only this layer was added; the earlier ones stay in the stream"),
        (
            _same(got, wanted - start + words) and not _same(start, words),
            f"{where}: hook_embed holds the placeholders of media; what the encoder wrote is in hook_inputs_embed",
        ),
        (not _same(got, wanted), f"{where}: not the same numbers as hook_resid_post"),
    )


def _part(cache: AVCache, layer: int, part: str, span: str) -> Tensor:
    return cache[f"blocks.{layer}.{part}@{span}"]


def _same(one: Any, other: Any) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-3)


@exercise
def swapping_hook(swap: Callable[..., Any]) -> Judgement:
    """Does a hook put the second half of its rows in place of the first, and the other way round?"""
    rows = torch.arange(2 * 6 * 3, dtype=torch.float32).view(2, 6, 3)
    first, second = rows.split(3, dim=1)
    seen = rows.clone()
    returned = swap(seen, hook=None)
    got = seen if returned is None else returned  # a hook may also write into what it sees
    if not isinstance(got, Tensor) or got.shape != rows.shape:
        return Judgement(False, f"rows {list(rows.shape)} went in, {shape_of(got)} came out: a hook keeps the shape")
    return first_mistake(
        (torch.equal(got, rows), "the rows are what they were: return the new ones"),
        (
            torch.equal(got, torch.cat([second, second], dim=1)),
            "the first word was overwritten before it was read: torch.cat makes new rows",
        ),
        (torch.equal(got, rows.flip(1)), "every row changed its place: each word now runs backwards"),
        (torch.equal(got, rows.flip(0)), "that swaps prompts of a batch: axis 0 is batch, axis 1 is pos"),
        (not torch.equal(got, torch.cat([second, first], dim=1)), "not the two halves, one in place of the other"),
    ) or Judgement(True, "each word stands where the other was")


@exercise
def first_order(predicted: Callable[[Tensor, Tensor, Tensor], Any]) -> Judgement:
    """What does a gradient promise for new rows in place of old ones?"""
    gradient, old, new = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(0)).unbind()
    got = predicted(gradient, old, new)
    if not isinstance(got, Tensor | float) or (isinstance(got, Tensor) and got.numel() != 1):
        return Judgement(False, "one number is asked for: sum over all rows and all their numbers")
    change = gradient * (new - old)
    return first_mistake(
        (_close(got, -change.sum()), "the other way round: a step goes from old to new, so new - old"),
        (_close(got, (gradient * new).sum()), "that is a step from zero to new: the step is new - old"),
        (_close(got, change.mean()), "a mean: the changes of all numbers add up"),
        (_close(got, change.abs().sum()), "without signs: changes against each other cancel"),
        (_close(got, (new - old).sum()), "the size of the step; how much a step matters is in the gradient"),
        (not _close(got, change.sum()), "gradient times step, number by number, then the sum"),
    ) or Judgement(True, "gradient times step, summed up")


def _close(got: Any, wanted: Tensor) -> bool:
    return abs(float(got) - float(wanted)) < 1e-4
