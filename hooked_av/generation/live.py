"""Live: which interventions and hooks are on in the prefill of a generation, and which in its decode steps.

Everything is checked before anything runs: what could never act or fire is refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from hooked_av.config import DecoderConfig
from hooked_av.decoder.cuts import Cut
from hooked_av.errors import HookError, InputsError, InterventionError
from hooked_av.forward.passes import RunningModel
from hooked_av.hooks.attached import in_pass
from hooked_av.hooks.generation_run import EVERYWHERE, GenerationRun, Reach
from hooked_av.hooks.hooked_model import Hook
from hooked_av.hooks.names import Match, Scope, match_names
from hooked_av.interventions.acting import acts_within
from hooked_av.interventions.intervention import Intervention
from hooked_av.interventions.plan import Plan
from hooked_av.interventions.specs import as_specs

During = Literal["both", "prefill", "decode"]


@dataclass(frozen=True)
class Phase:
    """What is on while a part of a generation runs."""

    plan: Plan
    hooks: tuple[Hook, ...]

    @contextmanager
    def on(self, model: RunningModel, run: GenerationRun) -> Iterator[None]:
        """The hooks of the call, behind those of the plan, for the length of the phase."""
        with in_pass(run, lambda block: model.placed(self.hooks, block)), self.plan.edited(model.hook_dict, run):
            yield


@dataclass(frozen=True)
class Live:
    """The two phases, and the spans whose keys and values go in between."""

    prefill: Phase
    decode: Phase
    forgotten: tuple[str, ...]

    @classmethod
    def of(
        cls,
        model: RunningModel,
        run: GenerationRun,
        interventions: Any,
        hooks: Sequence[Hook],
        during: During,
        decodes: bool,
    ) -> "Live":
        """What a call asks for, together with the interventions and hooks that are open anyway.

        `during` is about this call's; `decodes` says whether there will be a decode step at all.

        Errors: `InterventionError`, `HookError`, `SpanError` or `HookNameError` for what does not fit, or never acts.
        """
        own, always = as_specs(interventions), model.interventions_in(run)
        _check_during(during, bool(own or hooks))
        for specs, when in ((always, "both"), (own, during)):
            for spec in specs:
                _check_spec(spec, run, _Phases.of(when, decodes))
        for name, _ in hooks:
            _check_hooks(match_names(name, model.hook_dict), run, _Phases.of(during, decodes))
        _check_open_hooks(model, run, _Phases.of("both", decodes))
        early, late = (during != other for other in ("decode", "prefill"))
        plans = [
            Plan.of((*always, *(own if on else ())), run, model.decoder.cfg, model.hook_dict) for on in (early, late)
        ]
        for spec in own:
            _check_pairs(spec, run, model.decoder.cfg, _Phases.of(during, decodes))
        return cls(
            Phase(plans[0], tuple(hooks) if early else ()),
            Phase(_of_decoding(plans[1], run), tuple(hooks) if late else ()),
            tuple(span for spec in (*always, *own) if (span := spec.forgets) is not None),
        )


@dataclass(frozen=True)
class _Phases:
    """When something is on."""

    prefill: bool
    decode: bool

    @classmethod
    def of(cls, during: str, decodes: bool) -> "_Phases":
        return cls(during != "decode", during != "prefill" and decodes)

    def meet(self, queries: Reach, keys: Reach = EVERYWHERE) -> bool:
        """Whether some pass computes rows of the queries that can read rows of the keys."""
        return (self.prefill and queries.prompt and keys.prompt) or (self.decode and queries.to_come)

    def __str__(self) -> str:
        names = [name for name, on in vars(self).items() if on]
        return " and ".join(names) if names else "no pass (there is no decode step: max_new_tokens is 1)"


def _check_during(during: str, anything: bool) -> None:
    if during != "both" and not anything:
        raise InputsError(
            "nothing to be live",
            expected=" or ".join(get_args(During)) + " for the interventions and fwd_hooks of this call",
            got=f"during={during!r}",
            next_step="pass interventions=... or fwd_hooks=... here; open `with` blocks are live all the time",
        )


def _check_spec(spec: Intervention, run: GenerationRun, phases: _Phases) -> None:
    """Refuse a spec that no pass of its phases can feel."""
    if spec.both_phases:
        if not phases.prefill or phases == _Phases(True, False):
            raise _never(spec, 'during="both": kv="keep" or kv="drop" says what decoding keeps', phases)
    elif not phases.meet(spec.reach(run)):
        raise _never(spec, "tokens of the prompt for the prefill, of the span 'generated' for decoding", phases)


def _check_pairs(spec: Intervention, run: GenerationRun, cfg: DecoderConfig, phases: _Phases) -> None:
    """Refuse a cut whose rows are computed, but read none of its keys, while it is live."""
    rows = range(0 if phases.prefill else run.n_pos, run.row_spans[0].n_pos if phases.decode else run.n_pos)
    cuts = spec.cuts(run, cfg)
    if cuts and not acts_within(cuts, rows, run):
        raise _never(spec, "queries that can read the keys while it is live", phases)


def _never(spec: Intervention, expected: str, phases: _Phases) -> InterventionError:
    return InterventionError(
        f"this intervention can never act ({spec})",
        expected=expected,
        got=f"live in {phases}",
        next_step='name a span such as "last|generated", or another `during`',
    )


def _check_hooks(matches: Sequence[Match], run: GenerationRun, phases: _Phases) -> None:
    """A name written out in full must fire; of a pattern, something must."""
    fires = [run.fires(match.name) and _meets(match.name, match.scope, run, phases) for match in matches]
    silent = [match for match, fired in zip(matches, fires, strict=True) if not fired]
    if not any(fires) or any(match.explicit for match in silent):
        raise _never_fires(silent[0].key, phases)


def _check_open_hooks(model: RunningModel, run: GenerationRun, phases: _Phases) -> None:
    """The same for hooks that were there before the call; there are no gradients here."""
    for name, point in model.hook_dict.items():
        forward = point.listeners_in(run, backward=False)
        if len(forward) < len(point.listeners_in(run)):
            raise HookError(
                f"a gradient hook at {name} can never fire",
                expected="forward hooks: generation runs without gradients",
                got="bwd_hooks",
                next_step="take gradients of model(inputs.with_generated(tokens))",
            )
        for listener in forward:
            scope = getattr(listener, "scope", None)
            if scope is not None and run.fires(name) and not _meets(name, scope, run, phases):
                raise _never_fires(f"{name}@{scope.queries or ''}", phases)


def _meets(name: str, scope: Scope | None, run: GenerationRun, phases: _Phases) -> bool:
    queries, keys = (run.reach(None if scope is None else getattr(scope, axis)) for axis in ("queries", "keys"))
    if name in run.media_rows:  # encoders run once
        queries = Reach(queries.prompt, False)
    return phases.meet(queries, keys)


def _never_fires(name: str, phases: _Phases) -> HookError:
    return HookError(
        f"a hook at {name} can never fire",
        expected="rows that are computed while it is live",
        got=f"live in {phases}",
        next_step='prompt spans are computed in the prefill, "generated" in decode steps, encoder rows once',
    )


def _of_decoding(plan: Plan, run: GenerationRun) -> Plan:
    """What of a plan a decode step can feel; nobody leaves there."""
    cuts = {
        layer: tuple(cut for cut in some if not isinstance(cut, Cut) or bool((cut.queries >= run.n_pos).any()))
        for layer, some in plan.cuts.items()
    }
    edits = tuple(
        edit for edit in plan.edits if edit.point not in run.media_rows and run.reach(edit.scope.queries).to_come
    )
    return replace(plan, cuts={layer: some for layer, some in cuts.items() if some}, leaving={}, edits=edits)
