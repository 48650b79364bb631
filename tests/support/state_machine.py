"""A model object in any state that a user can bring it to: a machine that opens, leaves, runs and breaks off.

The machine keeps a list of what it has placed on the model, in order. What the model gives in this state must be, to
the last bit, what a fresh model with the same weights gives that is told the same at once; hooks must see the same.
"""

import copy
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import Context
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from threading import Barrier, get_ident
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import Tensor

from hooked_av.errors import HookedAVError, HookError
from hooked_av.hooks.names import match_names
from hooked_av.hooks.open_blocks import what_is_open
from hooked_av.hooks.run import current_run
from support.families import FamilyUnderTest
from support.states import (
    ASKED,
    BREAKS,
    DOUBLES,
    EVERY_HOOK,
    GRADIENT_HOOKS,
    HOOKS,
    JOBS,
    NAMES,
    SPECS,
    WRONG,
    outcome,
    same,
    slope,
    sloped,
    written,
)  # fmt: skip

Specs = tuple[str, ...]
Call = Callable[[Any, list[Any]], Any]  # of a model and the interventions that are told to it


@dataclass(eq=False)
class Block:
    """A `with` block that has been entered; one that hides lets nothing through from outside (a pass, `clean`)."""

    entered: Any
    specs: Specs = ()
    hides: bool = False
    stays: bool = False
    half_run: "HalfRun | None" = None


@dataclass(eq=False)
class Placed:
    """A hook on a model, and what it was handed, in each thread. Without a block it lasts until it is reset."""

    name: str
    block: Block | None = None
    permanent: bool = False
    seen: dict[int, list[Tensor]] = field(default_factory=dict)

    @property
    def hook(self) -> tuple[str, Callable[..., Any]]:
        where, does = EVERY_HOOK[self.name]

        def hook_function(tensor: Tensor, hook: Any) -> Any:
            self.seen.setdefault(get_ident(), []).append(tensor.detach().clone())
            return does(tensor)

        return where, hook_function

    @property
    def arguments(self) -> dict[str, Any]:
        return {"bwd_hooks" if self.name in GRADIENT_HOOKS else "fwd_hooks": [self.hook]}

    def twin(self) -> "Placed":
        return Placed(self.name, self.block, self.permanent)

    def take(self) -> list[Tensor]:
        """What it was handed in this thread since it was last asked."""
        return self.seen.pop(get_ident(), [])


@dataclass(eq=False)
class HalfRun:
    """A pass that has been begun: what was told to it, and how far it has come."""

    one: Any
    prompt: str
    placed: list[Placed]
    specs: Specs
    resid: Tensor | None = None
    layer: int = 0


@dataclass(eq=False)
class Graph:
    """What a pass gave that waits for its backward pass; the hooks that were there, and those that acted."""

    prompt: str
    logits: Tensor
    placed: list[Placed]
    acting: list[Placed]
    specs: Specs


def in_line(model: Any) -> Any:
    """A model whose weights torch has laid out itself: a product's last bit may tell where a mapped file lies."""
    return model.to(torch.float64).to(torch.float32)


def place(model: Any, placed: Placed) -> None:
    """A hook that lasts."""
    name, function = placed.hook
    direction = "bwd" if placed.name in GRADIENT_HOOKS else "fwd"
    model.add_hook(name, function, direction, is_permanent=placed.permanent)


def told_at_once(model: Any, call: Call, placed: Sequence[Placed], specs: Specs) -> tuple[Any, list[list[Tensor]]]:
    """What a call gives on a model that is told everything at once, and what its hooks are handed."""
    twins = [one.twin() for one in placed]

    def work() -> Any:
        with ExitStack() as stack:
            stack.callback(model.reset_hooks, including_permanent=True)
            for twin in twins:
                if twin.block is None:
                    place(model, twin)
                else:
                    stack.enter_context(model.hooks(**twin.arguments))
            return outcome(lambda: call(model, [SPECS[name] for name in specs]))

    found = Context().run(work)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
    return found, [twin.take() for twin in twins]


def some(table: dict[str, Any], n: int = 2) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=n, unique=True)


def one_of(table: dict[str, Any]) -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(table))


PROMPTS = st.sampled_from(["text", "text", "image"])
WHICH = st.integers(0, 9)


class ModelStates(RuleBasedStateMachine):
    """Subclasses name the family."""

    family: FamilyUnderTest

    def __init__(self) -> None:
        super().__init__()
        self.inside = Context()  # the thread of the user whose model this is
        self.model, self.fresh = in_line(self.family.make_model()), in_line(self.family.make_model())
        self.prompts = {kind: self._prompt(kind) for kind in ("text", "image")}
        with torch.no_grad():
            self.clean = {kind: self.fresh(inputs) for kind, inputs in self.prompts.items()}
        self.blocks: list[Block] = []
        self.placed: list[Placed] = []
        self.passes: list[HalfRun] = []
        self.graphs: list[Graph] = []
        self.caches: list[tuple[Any, dict[str, Tensor]]] = []
        self.baselines = [(kind, self.model.baseline(inputs)) for kind, inputs in self.prompts.items()]

    def _prompt(self, kind: str) -> Any:
        return self.family.inputs(kind, n_question=5).with_span("early", range(3))

    # --- what is so, as the machine knows it ---

    @property
    def visible(self) -> list[Block]:
        """The open blocks that the next pass feels."""
        walls = [number for number, block in enumerate(self.blocks) if block.hides]
        return self.blocks[walls[-1] + 1 :] if walls else self.blocks

    @property
    def lasting(self) -> list[Placed]:
        return [placed for placed in self.placed if placed.block is None]

    @property
    def acting(self) -> list[Placed]:
        return [placed for placed in self.placed if placed.block is None or placed.block in self.visible]

    @property
    def specs(self) -> Specs:
        return tuple(name for block in self.visible for name in block.specs)

    @property
    def running(self) -> HalfRun | None:
        open_passes = [block.half_run for block in self.blocks if block.half_run is not None]
        return open_passes[-1] if open_passes else None

    # --- how things are done and compared ---

    def do(self, call: Callable[[], Any]) -> Any:
        """Something that a user does, who reads on when it is refused."""

        def work() -> Any:
            with torch.no_grad():
                return outcome(call)

        return self.inside.run(work)

    def compare(self, call: Call) -> Any:
        """A call in the state that the model is in, and on a model that is told this state at once."""
        found = self.do(lambda: call(self.model, []))
        self.check(found, call, self.acting, self.specs)
        return found

    def check(self, found: Any, call: Call, acting: Sequence[Placed], specs: Specs) -> None:
        seen = {placed: placed.take() for placed in self.placed}
        with torch.no_grad():
            wanted, handed = told_at_once(self.fresh, call, acting, specs)
        assert same(found, wanted), f"{found} is not {wanted}"
        for placed, tensors in zip(acting, handed, strict=True):
            assert same(seen.pop(placed), tensors), f"the hook that {placed.name} was handed something else"
        assert not any(seen.values()), "a hook acted that should not"

    def forget(self) -> None:
        """What hooks were handed where nobody compares it."""
        for placed in self.placed:
            placed.take()

    def enter(self, block: Block) -> None:
        self.do(block.entered.__enter__)
        self.blocks.append(block)

    # --- blocks and hooks ---

    @rule(names=some(EVERY_HOOK), stays=st.booleans())
    def open_hooks(self, names: list[str], stays: bool) -> None:
        hooks: dict[str, Any] = {"fwd_hooks": [], "bwd_hooks": []}
        block = Block(None, stays=stays)
        for placed in (Placed(name, block) for name in names):
            self.placed.append(placed)
            for key, value in placed.arguments.items():
                hooks[key] += value
        block.entered = self.model.hooks(**hooks, reset_hooks_end=not stays)
        self.enter(block)

    @rule(names=some(SPECS))
    def open_interventions(self, names: list[str]) -> None:
        self.enter(Block(self.model.intervene(*(SPECS[name] for name in names)), tuple(names)))

    @rule()
    def open_clean(self) -> None:
        self.enter(Block(self.model.clean(), hides=True))

    @precondition(lambda self: self.blocks)
    @rule(which=WHICH, error=st.sampled_from([None, ZeroDivisionError, KeyboardInterrupt]))
    def leave(self, which: int, error: type[BaseException] | None) -> None:
        """Blocks are left in any order, also by an error."""
        block = self.blocks.pop(which % len(self.blocks))
        self.do(lambda: block.entered.__exit__(error, error and error(), None))
        stay = [placed for placed in self.placed if placed.block is block and block.stays]
        self.placed = [placed for placed in self.placed if placed.block is not block or placed in stay]
        for placed in stay:
            placed.block = None

    @rule(name=one_of(EVERY_HOOK), permanent=st.booleans())
    def add_hook(self, name: str, permanent: bool) -> None:
        self.placed.append(Placed(name, permanent=permanent))
        self.do(lambda: place(self.model, self.placed[-1]))

    @rule(permanent=st.booleans(), direction=st.sampled_from(["fwd", "bwd", "both"]))
    def reset_hooks(self, permanent: bool, direction: str) -> None:
        """Hooks that last go; those of a block go with their block."""
        self.do(lambda: self.model.reset_hooks(including_permanent=permanent, direction=direction))
        self.placed = [
            placed
            for placed in self.placed
            if placed.block is not None
            or (placed.permanent and not permanent)
            or direction == ("fwd" if placed.name in GRADIENT_HOOKS else "bwd")
        ]

    # --- runs ---

    @rule(prompt=PROMPTS, asked=one_of(ASKED))
    def run(self, prompt: str, asked: str) -> None:
        self.compare(lambda model, specs: model(self.prompts[prompt], interventions=specs, **ASKED[asked]))

    @rule(prompt=PROMPTS, names=some(EVERY_HOOK), own=some(SPECS))
    def run_with_hooks(self, prompt: str, names: list[str], own: list[str]) -> None:
        def call(model: Any, specs: list[Any]) -> Any:
            hooks = [Placed(name) for name in names]
            forward = [hook.hook for hook in hooks if hook.name in HOOKS]
            backward = [hook.hook for hook in hooks if hook.name in GRADIENT_HOOKS]
            specs = [*specs, *(SPECS[name] for name in own)]
            given = {"fwd_hooks": forward, "bwd_hooks": backward, "interventions": specs}
            return model.run_with_hooks(self.prompts[prompt], **given), [hook.take() for hook in hooks]

        self.compare(call)

    @rule(prompt=PROMPTS, names=one_of(NAMES), own=st.sampled_from([None, *SPECS]))
    def run_with_cache(self, prompt: str, names: str, own: str | None) -> None:
        """A cache holds what a hook of one's own is handed that is added last."""
        inputs, more = self.prompts[prompt], [] if own is None else [SPECS[own]]

        def cached(model: Any, specs: list[Any]) -> Any:
            with model.hooks([DOUBLES]):
                return model.run_with_cache(inputs, names_filter=NAMES[names], interventions=[*specs, *more])

        found = self.do(lambda: cached(self.model, []))
        if isinstance(found, type):
            return self.check(found, cached, self.acting, self.specs)
        logits, cache = found

        def by_hand(model: Any, specs: list[Any]) -> Any:
            kept: dict[str, Tensor] = {}
            hooks = [DOUBLES, *((key, copies_into(kept, key)) for key in cache)]
            logits = model.run_with_hooks(inputs, fwd_hooks=hooks, interventions=[*specs, *more])
            return logits, dict(sorted(kept.items()))

        self.check((logits, dict(sorted(cache.items()))), by_hand, self.acting, self.specs)
        self.caches.append((cache, {key: value.clone() for key, value in cache.items()}))

    @rule(prompt=PROMPTS, names=some(HOOKS), own=st.sampled_from([None, *SPECS]))
    def generate(self, prompt: str, names: list[str], own: str | None) -> None:
        def call(model: Any, specs: list[Any]) -> Any:
            hooks = [Placed(name) for name in names]
            specs = [*specs, *([] if own is None else [SPECS[own]])]
            answer = written(model, self.prompts[prompt], fwd_hooks=[hook.hook for hook in hooks], interventions=specs)
            return answer, [hook.take() for hook in hooks]

        self.compare(call)

    @rule(prompt=PROMPTS)
    def gradients(self, prompt: str) -> None:
        self.compare(lambda model, specs: sloped(model, self.prompts[prompt], interventions=specs))

    @rule(prompt=PROMPTS, job=one_of(JOBS))
    def run_in_a_hook(self, prompt: str, job: str) -> None:
        """A pass that a hook begins is clean, but for hooks that last; the outer pass goes on as if it were not."""
        other = self.prompts["image" if prompt == "text" else "text"]

        def call(model: Any, specs: list[Any]) -> Any:
            inner: list[Any] = []
            hook = (
                "blocks.1.hook_attn_out",
                lambda tensor, hook: inner.append(outcome(lambda: JOBS[job](model, other))),
            )
            return model.run_with_hooks(self.prompts[prompt], fwd_hooks=[hook], interventions=specs), inner

        found = self.compare(call)
        if not isinstance(found, type):
            with torch.no_grad():
                wanted, _ = told_at_once(self.fresh, lambda model, specs: JOBS[job](model, other), self.lasting, ())
            assert same(found[1], [wanted])

    @rule(first=one_of(JOBS), second=one_of(JOBS))
    def two_threads(self, first: str, second: str) -> None:
        """Each feels the hooks that last, and nothing of the other, nor of what is open here."""
        barrier = Barrier(2, timeout=60)

        def twice(model: Any, job: str, prompt: str) -> list[Any]:
            return [outcome(lambda: JOBS[job](model, self.prompts[prompt])) for _ in range(2)]

        def work(job: str, prompt: str) -> Any:
            barrier.wait()
            with torch.no_grad():
                return twice(self.model, job, prompt), {placed: placed.take() for placed in self.placed}

        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(work, (first, second), ("text", "image")))
        for (found, seen), *of in zip(done, (first, second), ("text", "image"), strict=True):
            with torch.no_grad():
                wanted, handed = told_at_once(
                    self.fresh, lambda model, specs, of=of: twice(model, *of), self.lasting, ()
                )
            assert same(found, wanted)
            told = dict(zip(self.lasting, handed, strict=True))
            assert all(same(tensors, told.get(placed, [])) for placed, tensors in seen.items())

    # --- what goes wrong ---

    @rule(prompt=PROMPTS, wrong=one_of(WRONG))
    def is_refused(self, prompt: str, wrong: str) -> None:
        found = self.do(lambda: WRONG[wrong](self.model, self.prompts[prompt]))
        assert isinstance(found, type)
        assert issubclass(found, HookedAVError)
        self.forget()

    @rule(prompt=PROMPTS, how=one_of(BREAKS))
    def breaks_off(self, prompt: str, how: str) -> None:
        found = self.do(lambda: BREAKS[how](self.model, self.prompts[prompt]))
        assert isinstance(found, type)
        self.forget()

    # --- passes that are begun, and left where they are ---

    @rule(prompt=PROMPTS, own=st.sampled_from([None, *SPECS]))
    def begin(self, prompt: str, own: str | None) -> None:
        def begin(model: Any, specs: list[Any]) -> Any:
            return model.begin(self.prompts[prompt], interventions=[*specs, *([] if own is None else [SPECS[own]])])

        one = self.do(lambda: begin(self.model, []))
        self.check(
            one if isinstance(one, type) else None, lambda *told: [begin(*told), None][1], self.acting, self.specs
        )
        if not isinstance(one, type):
            specs = (*self.specs, *([] if own is None else [own]))
            self.passes.append(HalfRun(one, prompt, self.acting, specs))

    @precondition(lambda self: self.passes)
    @rule(which=WHICH)
    def enter_pass(self, which: int) -> None:
        half_run = self.passes[which % len(self.passes)]
        if any(block.half_run is half_run for block in self.blocks):
            assert self.do(half_run.one.__enter__) is HookError, "it runs already"
            return
        half_run.resid, half_run.layer = None, 0
        self.enter(Block(half_run.one, hides=True, half_run=half_run))

    @precondition(lambda self: self.running)
    @rule(n_layers=st.integers(0, 3))
    def go_on(self, n_layers: int) -> None:
        """The innermost pass goes on; at its end it has given what a whole pass does."""
        half_run = self.running
        one = half_run.one
        if half_run.resid is None:
            half_run.resid = self.do(one.embed)
        for _ in range(n_layers):
            if isinstance(half_run.resid, type) or half_run.layer == len(one.layers):
                break
            half_run.resid = self.do(lambda: one.block(half_run.layer, half_run.resid))
            half_run.layer += 1
        found = half_run.resid
        if not isinstance(found, type) and half_run.layer == len(one.layers):
            found = self.do(lambda: one.unembed(half_run.resid))
        self.forget()
        self.compare_pass(half_run, found)

    def compare_pass(self, half_run: HalfRun, found: Any) -> None:
        told = [placed for placed in half_run.placed if placed in self.placed]
        if len(told) < len(half_run.placed) or set(self.lasting) - set(told):
            return  # it has lost hooks on its way, or found some
        inputs, stop = self.prompts[half_run.prompt], half_run.layer

        def call(model: Any, specs: list[Any]) -> Any:
            with model.begin(inputs, interventions=specs) as one:
                resid = one.embed()
                for layer in range(stop):
                    resid = one.block(layer, resid)
                return one.unembed(resid) if stop == len(one.layers) else resid

        with torch.no_grad():
            wanted, _ = told_at_once(self.fresh, call, told, half_run.specs)
        assert same(found, wanted)

    @precondition(lambda self: any(block.half_run for block in self.blocks))
    @rule(which=WHICH)
    def an_outer_pass_waits(self, which: int) -> None:
        others = [block.half_run for block in self.blocks if block.half_run not in (None, self.running)]
        for half_run in others:
            assert self.do(half_run.one.embed) is HookError

    # --- gradients that come later ---

    @rule(prompt=PROMPTS)
    def forward_for_later(self, prompt: str) -> None:
        def call() -> Tensor:
            with torch.enable_grad():
                return self.model(self.prompts[prompt])

        logits = self.do(call)
        self.forget()
        if not isinstance(logits, type):
            self.graphs.append(Graph(prompt, logits, [*self.placed], self.acting, self.specs))

    @precondition(lambda self: self.graphs)
    @rule()
    def backward_now(self) -> None:
        """Gradient hooks act that were there in the forward pass, also if they are gone; later ones are refused."""
        graph = self.graphs.pop()
        acting, prompt = graph.acting, self.prompts[graph.prompt]
        found = self.do(lambda: slope(self.model, graph.logits))
        if any(placed.name in GRADIENT_HOOKS and placed not in graph.placed for placed in self.acting):
            assert found is HookError
            return self.forget()
        seen = {placed: placed.take() for placed in dict.fromkeys((*self.placed, *acting))}
        wanted, handed = told_at_once(
            self.fresh, lambda model, specs: sloped(model, prompt, interventions=specs), acting, graph.specs
        )
        assert same(found, wanted)
        for placed, tensors in zip(acting, handed, strict=True):
            assert placed.name in HOOKS or same(seen.pop(placed), tensors)
        assert not any(seen.values())
        return None

    # --- replays ---

    @rule(prompt=PROMPTS)
    def make_baseline(self, prompt: str) -> None:
        made = self.do(lambda: self.model.baseline(self.prompts[prompt]))
        refused = isinstance(made, type)
        assert refused == bool(self.acting)
        if refused:
            assert made is HookError
        else:
            assert torch.equal(made.logits, self.fresh.baseline(self.prompts[prompt]).logits)
            self.baselines.append((prompt, made))

    @rule(which=WHICH, sweep=st.lists(some(SPECS), min_size=1, max_size=3))
    def replay(self, which: int, sweep: list[list[str]]) -> None:
        prompt, baseline = self.baselines[which % len(self.baselines)]
        told = [[SPECS[name] for name in names] for names in sweep]
        found = self.do(lambda: baseline.run(told).logits)
        self.forget()

        def call(model: Any, specs: list[Any]) -> Tensor:
            runs = [model(self.prompts[prompt], interventions=[*specs, *own], logits_at="last") for own in told]
            return torch.cat(runs)[:, 0]

        with torch.no_grad():
            wanted, _ = told_at_once(self.fresh, call, self.acting, self.specs)
        if isinstance(wanted, type):
            assert found is wanted
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)

    # --- other forms of the same things ---

    @rule(prompt=PROMPTS)
    def to_another_dtype_and_back(self, prompt: str) -> None:
        self.graphs = []  # torch's own graphs do not outlive this
        self.model.to(torch.float64)
        logits = self.do(lambda: self.model(self.prompts[prompt]))
        assert isinstance(logits, type) or logits.dtype == torch.float64
        self.model.to(torch.float32)
        self.forget()

    @rule(prompt=PROMPTS, pickled=st.booleans())
    def copy_inputs(self, prompt: str, pickled: bool) -> None:
        inputs = self.prompts[prompt]
        self.prompts[prompt] = pickle.loads(pickle.dumps(inputs)) if pickled else copy.deepcopy(inputs)

    @precondition(lambda self: self.caches)
    @rule(which=WHICH)
    def copy_cache(self, which: int) -> None:
        cache, kept = self.caches[which % len(self.caches)]
        self.caches.append((copy.deepcopy(cache), kept))

    @rule(prompt=PROMPTS)
    def copy_model(self, prompt: str) -> None:
        twin = copy.deepcopy(self.model)
        with torch.no_grad():
            found = Context().run(lambda: outcome(lambda: twin(self.prompts[prompt])))
        self.check(found, lambda model, specs: model(self.prompts[prompt]), self.lasting, ())

    @rule(prompt=PROMPTS)
    def save_and_load(self, prompt: str) -> None:
        with TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            loaded = in_line(type(self.model).from_pretrained(folder))
        with torch.no_grad():
            assert torch.equal(Context().run(lambda: loaded(self.prompts[prompt])), self.clean[prompt])

    # --- what must be so after every step ---

    @invariant()
    def only_what_is_open_is_open(self) -> None:
        blocks = self.inside.run(what_is_open)
        assert [tuple(block.interventions) for block in blocks] == [
            tuple(SPECS[name] for name in block.specs) for block in self.visible
        ]
        running = self.inside.run(current_run)
        assert running is (self.running and self.running.one.run)
        assert (what_is_open(), current_run()) == ((), None), "nothing is open elsewhere"

    @invariant()
    def the_hooks_that_are_there_are_those_that_should_be(self) -> None:
        points = self.model.hook_dict
        wanted: Counter[tuple[str, str]] = Counter()
        for placed in self.placed:
            direction = "bwd" if placed.name in GRADIENT_HOOKS else "fwd"
            wanted.update((match.name, direction) for match in match_names(EVERY_HOOK[placed.name][0], points))
        for block in self.blocks:
            if block.half_run is not None:
                wanted.update((edit.point, "fwd") for edit in block.half_run.one.plan.edits)
        found = {
            (name, direction): len(getattr(point, f"{direction}_hooks"))
            for name, point in points.items()
            for direction in ("fwd", "bwd")
        }
        assert {key: n for key, n in found.items() if n} == dict(wanted)
        assert all(len(point._forward_hooks) == len(point.fwd_hooks) for point in points.values())

    @invariant()
    def the_model_gives_what_its_state_says(self) -> None:
        self.compare(lambda model, specs: model(self.prompts["text"], interventions=specs))
        if not self.acting and not self.specs:
            with torch.no_grad():
                assert torch.equal(self.inside.run(self.model, self.prompts["text"]), self.clean["text"])

    @invariant()
    def caches_stay_as_they_were(self) -> None:
        assert all(same(dict(cache.items()), kept) for cache, kept in self.caches)

    def teardown(self) -> None:
        while self.blocks:
            self.leave(len(self.blocks) - 1, None)
            self.only_what_is_open_is_open()
        self.reset_hooks(True, "both")
        self.the_hooks_that_are_there_are_those_that_should_be()
        self.the_model_gives_what_its_state_says()


def copies_into(kept: dict[str, Tensor], key: str) -> Callable[..., None]:
    def keep(tensor: Tensor, hook: Any) -> None:
        kept[key] = tensor.clone()

    return keep
