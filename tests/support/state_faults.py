"""Faults of hooks, blocks, passes and caches to plant in the package, and the walk that must feel each of them."""

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from hooked_av.forward import passes
from hooked_av.hooks import hooked_model, open_blocks, point, run
from hooked_av.hooks.generation_run import GenerationRun
from hooked_av.hooks.open_blocks import Opened, Wall
from hooked_av.interventions import plan
from hooked_av.interventions.specs import as_specs
from hooked_av.replay import clean_pass
from hooked_av.replay.sweep import Sweep

Patch = pytest.MonkeyPatch
OPEN = open_blocks._OPEN


def put(owner: Any, name: str, fault: Any) -> Callable[[Patch], None]:
    """Something else in the place of one function."""
    return lambda patch: patch.setattr(owner, name, fault)


@contextmanager
def left_only_without_errors(placed: Any, block: Any, *, first: bool = False) -> Any:
    handles = [(at, at.add_hook(hook, direction, prepend=first)) for at, hook, direction in placed]
    yield
    if not block.stays:
        for at, handle in handles:
            at.remove(handle)


@contextmanager
def edits_left_only_without_errors(of: Any, placed: Any, *, first: bool = False) -> Any:
    block = Opened()
    of.opened = (*of.opened, block)
    with left_only_without_errors(placed(block), block, first=first):
        yield


@contextmanager
def never_closed(self: Opened) -> Any:
    OPEN.set((*OPEN.get(), self))
    yield


@contextmanager
def put_back_as_it_was(self: Opened) -> Any:
    before = OPEN.get()
    OPEN.set((*before, self))
    try:
        yield
    finally:
        OPEN.set(before)


@contextmanager
def closed_only_without_errors(self: Any, *interventions: Any) -> Any:
    block = Opened(self, as_specs(interventions))
    OPEN.set((*OPEN.get(), block))
    yield self
    OPEN.set(tuple(other for other in OPEN.get() if other is not block))


def shared_by_all_threads(patch: Patch) -> None:
    held: list[Any] = [()]
    shared = SimpleNamespace(get=lambda: held[0], set=lambda blocks: held.__setitem__(0, blocks))
    patch.setattr(open_blocks, "_OPEN", shared)


def stays_current_after_a_generation(patch: Patch) -> None:
    @contextmanager
    def as_current(self: Any) -> Any:
        OPEN.set((*OPEN.get(), Wall(self)))
        yield self

    patch.setattr(GenerationRun, "as_current", as_current, raising=False)


def reset(*, including_permanent: bool) -> Callable[[Patch], None]:
    """`reset_hooks` that does not mind what it was told of permanent hooks."""
    remove = point.HookPoint.remove_hooks

    def wrong(self: Any, *direction: Any, **told: Any) -> None:
        remove(self, *direction, **{**told, "including_permanent": including_permanent})

    return put(point.HookPoint, "remove_hooks", wrong)


def keeps_no_copy(cache: Any, key: str, *_: Any) -> Any:
    def keep(tensor: Any, *, hook: Any) -> None:
        cache[key] = tensor.detach()

    return keep


def felt_through_walls() -> Any:
    return tuple(block for block in OPEN.get() if not isinstance(block, Wall))


def entered_at_any_time(patch: Patch) -> None:
    enter = passes.Pass.__enter__

    def again(self: Any) -> Any:
        self._open = None
        return enter(self)

    patch.setattr(passes.Pass, "__enter__", again)


def gradients_of_the_latest_run(patch: Patch) -> None:
    runs: list[Any] = []
    makes, acts = run.Run.__init__, point.HookPoint._on_gradient

    def made(self: Any, *told: Any, **more: Any) -> None:
        makes(self, *told, **more)
        runs.append(self)

    patch.setattr(run.Run, "__init__", made)
    patch.setattr(point.HookPoint, "_on_gradient", lambda self, _, acting, grad: acts(self, runs[-1], acting, grad))


def copies_do_not_know_their_hooks(patch: Patch) -> None:
    listeners = point.HookPoint.listeners_in
    first: dict[str, int] = {}  # of each name, the point that was asked first: the original

    def listening(self: Any, of: Any, *, backward: bool = True) -> list[Any]:
        found = listeners(self, of, backward=backward)
        return found if first.setdefault(self.name, id(self)) == id(self) else [None for _ in found]

    patch.setattr(point.HookPoint, "listeners_in", listening)


@contextmanager
def clean_of_nothing(self: Any) -> Any:
    yield self


def replay_that_minds_no_hooks(patch: Patch) -> None:
    patch.setattr(Sweep, "can_replay", lambda self, told: True)


def replay_that_minds_no_interventions(patch: Patch) -> None:
    makes = Sweep.__init__

    def without(self: Any, clean: Any, *told: Any) -> None:
        with clean.model.clean():
            makes(self, clean, *told)

    patch.setattr(Sweep, "__init__", without)


FAULTS: dict[str, tuple[Callable[[Patch], None], str]] = {
    "a hook stays after an error": (put(hooked_model, "attached", left_only_without_errors), "hooks of blocks"),
    "edits stay after an error": (put(plan, "in_pass", edits_left_only_without_errors), "errors"),
    "a cache's hooks stay after an error": (put(passes, "in_pass", edits_left_only_without_errors), "errors"),
    "interventions stay open after an error": (
        put(passes.RunningModel, "intervene", closed_only_without_errors),
        "interventions",
    ),
    "blocks are never closed": (put(Opened, "opened", never_closed), "interventions"),
    "blocks are put back as they were": (put(Opened, "opened", put_back_as_it_was), "interventions"),
    "a generation stays the run of now": (stays_current_after_a_generation, "answers"),
    "threads share what is open": (shared_by_all_threads, "threads"),
    "permanent hooks go": (reset(including_permanent=True), "hooks that last"),
    "permanent hooks never go": (reset(including_permanent=False), "hooks that last"),
    "a block's hooks are reset": (
        put(point.ScopedHook, "is_of_a_block", property(lambda self: False)),
        "hooks of blocks",
    ),
    "a cache copies nothing": (put(passes, "keep_copy", keeps_no_copy), "caches"),
    "a baseline is made under hooks": (put(clean_pass, "_check_clean", lambda *_: None), "replays"),
    "replays mind no hooks": (replay_that_minds_no_hooks, "replays"),
    "replays mind no interventions": (replay_that_minds_no_interventions, "replays"),
    "a run in a hook feels what is open outside": (put(run, "what_is_open", felt_through_walls), "runs in hooks"),
    "a pass is entered twice": (entered_at_any_time, "passes"),
    "gradients belong to the latest run": (gradients_of_the_latest_run, "gradients"),
    "late gradient hooks are dropped": (
        put(passes.RunningModel, "check_gradient_hooks", lambda *_: None),
        "gradients",
    ),
    "a copied model does not know its hooks": (copies_do_not_know_their_hooks, "hooks that last"),
    "a clean block is not clean": (put(passes.RunningModel, "clean", clean_of_nothing), "interventions"),
}
