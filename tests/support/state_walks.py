"""Walks of the machine in a fixed order: every rule, and in each walk what a certain kind of fault would be felt by."""

from typing import Any

from support.families import FamilyUnderTest
from support.state_machine import ModelStates
from support.states import NAMES

Step = tuple[str, dict[str, Any]]


def step(rule: str, **arguments: Any) -> Step:
    return rule, arguments


def open_hooks(*names: str, stays: bool = False) -> Step:
    return step("open_hooks", names=list(names), stays=stays)


def open_interventions(*names: str) -> Step:
    return step("open_interventions", names=list(names))


def leave(which: int, error: type[BaseException] | None = None) -> Step:
    return step("leave", which=which, error=error)


def add_hook(name: str, *, permanent: bool = False) -> Step:
    return step("add_hook", name=name, permanent=permanent)


def reset_hooks(direction: str, *, permanent: bool = False) -> Step:
    return step("reset_hooks", permanent=permanent, direction=direction)


TEXT, IMAGE = {"prompt": "text"}, {"prompt": "image"}
RUN = step("run", **TEXT, asked="all logits")
GRADIENTS = ("turns gradients", "halves gradients")

WALKS: dict[str, list[Step]] = {
    "hooks of blocks": [
        open_hooks("adds to all"),
        reset_hooks("both", permanent=True),
        *(step("run", **IMAGE, asked=asked) for asked in ("the last", "some layers", "no such span")),
        step("run_with_hooks", **TEXT, names=["halves the question", "looks at gradients"], own=["zeros"]),
        open_hooks("weakens attention", "squares in place"),
        leave(0, ZeroDivisionError),
        leave(0),
        open_hooks("bends the logits", stays=True),
        leave(0),
        RUN,
    ],
    "hooks that last": [
        add_hook("halves the question", permanent=True),
        add_hook("takes any encoder"),
        step("copy_model", **TEXT),
        add_hook("turns gradients"),
        step("gradients", **TEXT),
        reset_hooks("fwd"),
        reset_hooks("bwd"),
        reset_hooks("both", permanent=True),
    ],
    "interventions": [
        open_interventions("zeros", "a cut"),
        step("open_clean"),
        open_interventions("a vector"),
        leave(0),
        leave(0),
        RUN,
        leave(0, KeyboardInterrupt),
    ],
    "errors": [
        *(step("is_refused", **TEXT, wrong=wrong) for wrong in ("one hook of two", "another form", "no such span")),
        *(step("breaks_off", **TEXT, how=how) for how in ("a hook on a span", "a cache", "a decode step", "a pass")),
        *(step("breaks_off", **IMAGE, how=how) for how in ("an interrupt", "a gradient hook", "a pass in a hook")),
    ],
    "passes": [
        step("begin", **TEXT, own="zeros"),
        step("begin", **IMAGE, own=None),
        step("enter_pass", which=0),
        step("enter_pass", which=0),
        step("go_on", n_layers=2),
        step("enter_pass", which=1),
        step("an_outer_pass_waits", which=0),
        step("go_on", n_layers=3),
        leave(0),
        leave(0),
        step("enter_pass", which=0),
        step("go_on", n_layers=3),
    ],
    "caches": [
        *(step("run_with_cache", **TEXT, names=names, own="a vector") for names in NAMES),
        step("copy_cache", which=0),
        add_hook("squares in place"),
        step("run_with_cache", **IMAGE, names="everything", own=None),
        RUN,
    ],
    "answers": [
        step("generate", **TEXT, names=["halves the question"], own="zeros"),
        open_hooks("adds to all"),
        step("generate", **IMAGE, names=["looks at every layer"], own=None),
    ],
    "gradients": [
        *(add_hook(name) for name in GRADIENTS),
        step("forward_for_later", **IMAGE),
        RUN,
        step("backward_now"),
        step("forward_for_later", **TEXT),
        add_hook("halves gradients"),
        step("backward_now"),
        step("forward_for_later", **TEXT),
        open_hooks(*GRADIENTS, stays=True),
        step("backward_now"),
        step("open_clean"),
        step("forward_for_later", **TEXT),
        leave(0),
        step("forward_for_later", **TEXT),
        leave(0),
        step("backward_now"),
        step("backward_now"),
    ],
    "threads": [
        add_hook("halves the question"),
        open_hooks("adds to all"),
        step("two_threads", first="opens blocks", second="intervenes"),
        step("two_threads", first="writes", second="caches"),
        step("two_threads", first="breaks off", second="differentiates"),
    ],
    "runs in hooks": [
        add_hook("halves the question"),
        open_hooks("adds to all"),
        open_interventions("zeros"),
        *(step("run_in_a_hook", **TEXT, job=job) for job in ("runs", "replays", "breaks off")),
    ],
    "replays": [
        open_hooks("adds to all"),
        step("make_baseline", **TEXT),
        step("replay", which=0, sweep=[["zeros"]]),
        leave(0),
        open_interventions("a vector"),
        step("make_baseline", **TEXT),
        step("replay", which=0, sweep=[["zeros"], ["a cut", "a patch"], ["tokens leave"]]),
    ],
    "other forms": [
        step("to_another_dtype_and_back", **TEXT),
        step("copy_inputs", **TEXT, pickled=True),
        step("copy_inputs", **IMAGE, pickled=False),
        step("save_and_load", **TEXT),
    ],
}


def machine_of(family: FamilyUnderTest) -> type[ModelStates]:
    return type(f"ModelStates_{family.name}", (ModelStates,), {"family": family})


def walk(family: FamilyUnderTest, steps: list[Step]) -> None:
    """Takes the steps one after the other, with a look at what must be so after each."""
    machine = machine_of(family)()
    for rule, arguments in steps:
        getattr(machine, rule)(**arguments)
        for invariant in machine.invariants:
            invariant.function(machine)
    machine.teardown()
