"""What a user may do with a model object: hooks, interventions, runs, wrong calls, and errors in the midst of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import hooked_av as av
from hooked_av.errors import HookedAVError

D_MODEL, N_NEW = 64, 3  # the width of the small models in support.families; tokens that are written


def ramp(n: int) -> Tensor:
    return torch.linspace(-1, 1, n)


# name -> where, and what is done there. Several share a point, so that their order counts.
HOOKS: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    "halves the question": ("blocks.1.hook_mlp_out@question", lambda rows: rows * 0.5),
    "adds to all": ("blocks.1.hook_mlp_out", lambda rows: rows + 1),
    "squares in place": ("blocks.0.hook_resid_post@last", lambda rows: [rows.pow_(2), None][1]),
    "looks at every layer": ("blocks.*.hook_resid_pre@question", lambda rows: None),
    "weakens attention": ("blocks.2.attn.hook_pattern@question<-early", lambda pattern: pattern * 0.25),
    "looks at attention": ("blocks.*.attn.hook_pattern@last", lambda pattern: None),
    "shifts the beginning": ("hook_inputs_embed@early", lambda rows: rows + ramp(rows.shape[-1])),
    "is about pictures": ("hook_image_embed", lambda rows: rows * 2),
    "takes any encoder": ("hook_*_embed", lambda rows: None),
    "bends the logits": ("hook_logits@last", lambda logits: logits.tanh()),
}
GRADIENT_HOOKS: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    "halves gradients": ("blocks.1.hook_resid_post@question", lambda gradient: gradient * 0.5),
    "turns gradients": ("blocks.1.hook_resid_post", lambda gradient: gradient.flip(-1)),
    "looks at gradients": ("blocks.*.hook_mlp_out@last", lambda gradient: None),
}
EVERY_HOOK = HOOKS | GRADIENT_HOOKS
# It edits, in place, the very tensor that `blocks.0.hook_resid_post` was handed before.
DOUBLES = ("blocks.1.hook_resid_pre", lambda tensor, hook: [tensor.mul_(2), None][1])
SPECS: dict[str, Any] = {
    "a cut": av.block_attention("early->question@0-1"),
    "a cut of a head": av.block_attention(keys="question", queries="last", layers=[1], heads=[0]),
    "no rows": av.ablate("blocks.0.hook_mlp_out", "question", "mean"),
    "zeros": av.ablate("blocks.2.hook_attn_out", "last"),
    "a vector": av.add_vector("blocks.1.hook_mlp_out", "question", ramp(D_MODEL), 0.5),
    "a patch": av.patch("blocks.1.hook_resid_pre", "last", ramp(D_MODEL)[None]),
    "tokens leave": av.drop_tokens("early", 1),
    "one route stays": av.keep_only("question->last", "early->question"),
}
# What is asked of a pass; also what cannot be had in some states, and must then be refused there too.
ASKED: dict[str, dict[str, Any]] = {
    "all logits": {},
    "the last": {"logits_at": "last"},
    "some layers": {"stop_at_layer": 2},
    "no layers": {"stop_at_layer": 0},
    "no such span": {"logits_at": "nowhere"},
}
NAMES: dict[str, Any] = {
    "everything": None,
    "a span": ["blocks.*.hook_resid_post@question", "hook_embed"],
    "attention": "blocks.1.attn.hook_pattern@last<-early",
    "pictures": ["hook_image_embed"],
    "a rule": lambda name: name.endswith("hook_z"),
}
WRONG: dict[str, Callable[[Any, Any], Any]] = {
    "no such point": lambda model, inputs: model.add_hook("blocks.0.hook_nothing", lambda tensor, hook: None),
    "one hook of two": lambda model, inputs: model.run_with_hooks(
        inputs, fwd_hooks=[("hook_embed", lambda tensor, hook: tensor * 0), ("hook_embd", lambda tensor, hook: None)]
    ),
    "no such layer": lambda model, inputs: model.intervene("early->last@7").__enter__(),
    "no such span": lambda model, inputs: model(inputs, interventions=["early->last", "early->lasst"]),
    "another form": lambda model, inputs: model.run_with_hooks(
        inputs, fwd_hooks=[("blocks.1.hook_mlp_out", lambda tensor, hook: tensor[:, :1])]
    ),
    "no memory": lambda model, inputs: model.run_with_cache(inputs, max_bytes=10),
    "no tokens": lambda model, inputs: model.generate(inputs, max_new_tokens=0),
    "no decoding": lambda model, inputs: model.generate(
        inputs, max_new_tokens=1, fwd_hooks=[("hook_embed@generated", lambda tensor, hook: None)]
    ),
    "two prompts": lambda model, inputs: model.baseline(model.batch([inputs, inputs])),
}


def breaks(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError


def interrupts(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def within(block: Any, call: Callable[[], Any]) -> None:
    with block:
        call()
        breaks()


LATE = "blocks.2.hook_mlp_out"
BREAKS: dict[str, Callable[[Any, Any], Any]] = {
    "a hook": lambda model, inputs: model.run_with_hooks(
        inputs, fwd_hooks=[("hook_embed", lambda tensor, hook: None), (LATE, breaks)]
    ),
    "an interrupt": lambda model, inputs: model.run_with_hooks(
        inputs, fwd_hooks=[(LATE, interrupts)], interventions=SPECS["zeros"]
    ),
    "a hook on a span": lambda model, inputs: model.run_with_hooks(inputs, fwd_hooks=[(f"{LATE}@last", breaks)]),
    "a gradient hook": lambda model, inputs: within(
        model.hooks(bwd_hooks=[(LATE, breaks)]), lambda: sloped(model, inputs)
    ),
    "a block of hooks": lambda model, inputs: within(
        model.hooks([("hook_embed", lambda tensor, hook: None)]), lambda: model(inputs)
    ),
    "a block of interventions": lambda model, inputs: within(
        model.intervene(SPECS["a cut"], SPECS["zeros"]), lambda: model(inputs)
    ),
    "a clean block": lambda model, inputs: within(model.clean(), lambda: model(inputs)),
    "a pass": lambda model, inputs: within(model.begin(inputs, interventions=SPECS["zeros"]), lambda: model(inputs)),
    "a cache": lambda model, inputs: within(
        model.hooks([(LATE, breaks)]), lambda: model.run_with_cache(inputs, interventions=SPECS["a vector"])
    ),
    "a prefill": lambda model, inputs: model.generate(
        inputs, max_new_tokens=N_NEW, stop_tokens=(), fwd_hooks=[(f"{LATE}@question", breaks)]
    ),
    "a decode step": lambda model, inputs: model.generate(
        inputs, max_new_tokens=N_NEW, stop_tokens=(), fwd_hooks=[(f"{LATE}@generated", breaks)],
        interventions=SPECS["zeros"],
    ),
    "a callback": lambda model, inputs: model.generate(
        inputs, max_new_tokens=N_NEW, stop_tokens=(), on_token=breaks, interventions=SPECS["zeros"]
    ),
    "a pass in a hook": lambda model, inputs: model.run_with_hooks(
        inputs, fwd_hooks=[(LATE, lambda tensor, hook: BREAKS["a pass"](model, inputs))]
    ),
    "a replay": lambda model, inputs: within(
        model.hooks([(LATE, breaks)]), lambda: clean_baseline(model, inputs).run([SPECS["zeros"]])
    ),
}  # fmt: skip


def clean_baseline(model: Any, inputs: Any) -> Any:
    with model.clean():
        return model.baseline(inputs)


def written(model: Any, inputs: Any, **arguments: Any) -> Any:
    answer = model.generate(inputs, max_new_tokens=N_NEW, stop_tokens=(), keep="logits", **arguments)
    return answer.tokens, answer.logits


def slope(model: Any, logits: Tensor) -> Tensor:
    with torch.enable_grad():
        return torch.autograd.grad(logits[0, -1].square().sum(), model.blocks[0].mlp.up_proj.weight)[0]


def sloped(model: Any, inputs: Any, **arguments: Any) -> Tensor:
    with torch.enable_grad():
        return slope(model, model(inputs, **arguments))


def in_a_block(model: Any, inputs: Any) -> Tensor:
    with model.intervene(SPECS["a cut"]), model.hooks([("blocks.1.hook_mlp_out@last", lambda rows, hook: rows * 2)]):
        return model(inputs)


# What may be done beside an open block, in another thread or in a hook: it feels the hooks that last, and no others.
JOBS: dict[str, Callable[[Any, Any], Any]] = {
    "runs": lambda model, inputs: model(inputs),
    "opens blocks": in_a_block,
    "caches": lambda model, inputs: model.run_with_cache(inputs, names_filter=NAMES["a span"])[1].cache_dict,
    "writes": written,
    "differentiates": sloped,
    "intervenes": lambda model, inputs: model(inputs, interventions=list(SPECS.values())[:5]),
    "replays": lambda model, inputs: clean_baseline(model, inputs).logits,
    "breaks off": lambda model, inputs: [
        outcome(lambda name=name: BREAKS[name](model, inputs)) for name in ("a hook", "a pass")
    ],
}


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives; the kind of its error, where it is refused or breaks off."""
    try:
        return call()
    except (HookedAVError, ZeroDivisionError, KeyboardInterrupt) as error:
        return type(error)


def same(found: Any, wanted: Any) -> bool:
    """Equal to the last bit, through tuples, lists and dicts."""
    if isinstance(wanted, Tensor):
        return isinstance(found, Tensor) and torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(same(*pair) for pair in zip(found, wanted, strict=True))
    return found == wanted
