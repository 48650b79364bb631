"""What every intervention is: a value that says which attention it cuts, which rows it edits, and which it drops.

A spec of your own is a frozen dataclass with at least one of `cuts`, `edits` and `leaves`; passes, replays and
generation ask these, and know no spec by name (docs/interventions.md).

Axes: batch, span (rows selected by a span).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from hooked_av.config import DecoderConfig
from hooked_av.decoder.cuts import AnyCut, Cut
from hooked_av.doors import door
from hooked_av.errors import InterventionError
from hooked_av.hooks.attached import PlacedHook
from hooked_av.hooks.generation_run import EVERYWHERE, GenerationRun, Reach
from hooked_av.hooks.names import Scope, match_names
from hooked_av.hooks.open_blocks import Opened
from hooked_av.hooks.point import HookPoint, ScopedHook
from hooked_av.hooks.run import Run, current_run
from hooked_av.interventions.acting import check_pairs
from hooked_av.interventions.routes import Route, check_range
from hooked_av.interventions.values import Values

_SAYS = ("cuts", "edits", "leaves")


@dataclass(frozen=True)
class Intervention:
    """What all specs share. They are values: equal if they say the same, hashable, never changed.

    Write at least one of `cuts` (attention that is taken away), `edits` (rows that are changed; subclass `Edit`) and
    `leaves` (rows that leave). `kind` is its name in JSON.

    >>> import hooked_av as av
    >>> from dataclasses import dataclass
    >>> from hooked_av.interventions.intervention import cut_between
    >>> @dataclass(frozen=True)
    ... class Deafen(av.interventions.Intervention):
    ...     layer: int
    ...     def cuts(self, run, cfg):
    ...         return [(self.layer, cut_between(run, queries="last", keys="system"))]
    >>> model = av.random_omni(n_layers=2)
    >>> inputs = model.prepare(question="Which digit do you hear?")
    >>> logits = model(inputs, interventions=[Deafen(1)])
    >>> (logits == model(inputs, interventions="system->last@1")).all().item()
    True
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type["Intervention"]]] = {}  # every kind of spec that there is, by its name in JSON
    both_phases: ClassVar[bool] = False  # of a generation: it makes no sense in prefill or decoding alone

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "kind" not in cls.__dict__:
            cls.kind = f"{cls.__module__}.{cls.__qualname__}"
        other = Intervention.kinds.setdefault(cls.kind, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise InterventionError(
                f"two interventions are of kind {cls.kind!r}",
                expected="a kind of its own, because JSON tells specs apart by it",
                got=f"{other.__module__}.{other.__qualname__} and {cls.__module__}.{cls.__qualname__}",
                next_step=f"give {cls.__name__} another `kind`, or none",
            )
        Intervention.kinds[cls.kind] = cls  # a class that a notebook defines again

    def check(self, cfg: DecoderConfig) -> None:
        """Refuse layers and heads that the model does not have."""

    def cuts(self, run: Run, cfg: DecoderConfig) -> Sequence[tuple[int, AnyCut]]:
        """The layers that are cut, and what is cut there. Use `cut_between`, or a `Cut` of positions."""
        return ()

    def edits(self, run: Run, cfg: DecoderConfig, points: Mapping[str, HookPoint]) -> Sequence["PointEdit"]:
        """What is changed at which hook points; `Edit` writes this for you."""
        return ()

    def leaves(self, run: Run) -> Sequence[tuple[int, str]]:
        """The spans whose rows leave, each with the layer before which it does."""
        return ()

    def reach(self, run: GenerationRun) -> Reach:
        """Of a generation: whether it can act on rows of the prompt, on rows to come, or on both."""
        return EVERYWHERE

    @property
    def forgets(self) -> str | None:
        """Of a generation: the span whose keys and values of every layer go before decoding."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain numbers and texts, for JSON."""
        return {"kind": self.kind} | {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def check_written(cls) -> None:
        """Refuse a kind of spec that could never do anything, or that is no value."""
        name = cls.__name__
        if all(getattr(cls, method) is getattr(Intervention, method) for method in _SAYS):
            raise InterventionError(
                f"{name} does nothing: it says neither what it cuts, nor what it edits, nor what leaves",
                expected="a method cuts(self, run, cfg), edits(self, run, cfg, points) or leaves(self, run)",
                got=f"a subclass of {cls.__bases__[0].__name__} that writes none of them",
                next_step="write one: def cuts(self, run, cfg): return [(layer, cut_between(run, queries=, keys=))]",
            )
        parameters = cls.__dict__.get("__dataclass_params__")  # its own: those of a parent know none of its fields
        if parameters is None or not parameters.frozen:
            raise InterventionError(
                f"{name} is no value",
                expected="@dataclass(frozen=True), so that specs can be compared and hashed",
                got="a class that is not frozen",
                next_step=f"write @dataclass(frozen=True) above class {name}",
            )


@dataclass(frozen=True)
class PointEdit:
    """One spec at one hook point: the rows of `scope` go through `spec.rows`."""

    point: str
    scope: Scope
    spec: "Edit"

    def placed(self, points: Mapping[str, HookPoint], block: Opened) -> PlacedHook:
        """The edit as a hook on its point."""

        def edit(rows: Tensor, *, hook: HookPoint) -> Tensor:
            if "row" not in hook.axes or not self.spec.mixes_rows:
                return self.spec.rows(self.point, rows)
            run = cast(Run, current_run())  # encoder rows of all prompts: what is mixed is each prompt's own
            prompts = run.flat_places(self.point, self.scope.queries) // run.n_pos
            counts = prompts.bincount(minlength=1).tolist()
            return torch.cat([self.spec.rows(self.point, part) for part in rows.split(counts) if len(part)])

        edit.knows_prompts = True  # type: ignore[attr-defined] - hooks are told when they are called prompt by prompt
        return PlacedHook(points[self.point], ScopedHook(edit, self.scope, True, block=block))


@dataclass(frozen=True)
class Edit(Intervention):
    """Rows of a span are changed at the hook points that `name` matches; made by `ablate`, `patch` and `add_vector`.

    An edit of your own is a subclass that writes `new`.
    """

    name: str
    span: str
    heads: tuple[int, ...] | None = None

    def adds_nothing_to(self, earlier: Sequence["Edit"], run: Run) -> str | None:
        """Why this edit changes nothing of what earlier ones leave; None if it may change something."""
        return None

    @property
    def mixes_rows(self) -> bool:
        """Whether what a row becomes depends on other rows of the span; a replay then computes all of them."""
        return True

    def edits(self, run: Run, cfg: DecoderConfig, points: Mapping[str, HookPoint]) -> list[PointEdit]:
        """One edit for each hook point that the name matches and this pass reaches."""
        return _point_edits(self, run, cfg, points)

    def reach(self, run: GenerationRun) -> Reach:
        queries, _, _ = self.span.partition("<-")
        return run.reach(queries.strip() or None)

    def given(self, point: str) -> Values | None:
        """The numbers that this spec brings to a hook point, if any."""
        return None

    def new(self, point: str, rows: Tensor) -> Tensor:
        """What the rows become: a tensor of their shape, or one that broadcasts to it."""
        raise InterventionError(
            f"{type(self).__name__} does not say what rows become",
            expected="a method new(self, point, rows) that returns them",
            got=f"a subclass of {type(self).__mro__[1].__name__} without it",
            next_step="write it: def new(self, point, rows): return rows * 0",
        )

    def rows(self, point: str, rows: Tensor) -> Tensor:
        """The rows after the edit, in the heads that are named."""
        changed = self.new(point, rows)
        if self.heads is None:
            return changed.expand_as(rows)
        out = rows.clone()
        heads = list(self.heads)
        out[..., heads, :] = changed.expand_as(rows)[..., heads, :]
        return out

    def _where(self) -> str:
        heads = "" if self.heads is None else f", heads {list(self.heads)}"
        return f"{self.name}@{self.span}{heads}"


def _point_edits(spec: Edit, run: Run, cfg: DecoderConfig, points: Mapping[str, HookPoint]) -> list[PointEdit]:
    """One edit for each hook point that the spec's name matches and this pass reaches."""
    if "@" in spec.name:
        raise InterventionError(
            "the span of an intervention is an argument of its own",
            expected="a hook name or pattern without '@'",
            got=repr(spec.name),
            next_step=f"write name={spec.name.partition('@')[0]!r}, span={spec.name.partition('@')[2]!r}",
        )
    matches = [match for match in match_names(f"{spec.name}@{spec.span}", points) if run.fires(match.name)]
    if not matches:
        raise InterventionError(
            f"nothing that this pass runs has this name ({spec})",
            expected="a hook point of these inputs and layers",
            got=spec.name,
            next_step="encoder rows need inputs of their modality; start_at_layer and stop_at_layer leave layers out",
        )
    edits = [PointEdit(match.name, match.scope or Scope(None), spec) for match in matches]
    for edit in edits:
        _check_edit(edit, points[edit.point], run, cfg)
    return edits


def _check_edit(edit: PointEdit, point: HookPoint, run: Run, cfg: DecoderConfig) -> None:
    """Spans, heads and the form of the values fit this hook point."""
    spec, axes = edit.spec, point.axes
    uneven = edit.scope.queries is not None and run.is_uneven(edit.scope.queries)
    n_span = run.places(edit.scope.queries).shape[1] if edit.scope.queries else run.n_pos
    if edit.scope.queries and bool((run.places(edit.scope.queries) >= run.n_pos).any()):
        n_span = 1  # how many there will be is not known, and each comes alone
        if spec.mixes_rows:
            raise no_fit(edit, "a span of the prompt, for an edit that mixes its rows (a mean)", edit.scope.queries)
    _check_it_can_matter(edit, run)
    head_axis = next((axis for axis in ("head", "kv_head") if axis in axes), None)
    if spec.heads is not None:
        n_heads = cfg.n_heads if head_axis == "head" else cfg.n_key_value_heads
        if head_axis is None or "key" in axes:
            raise no_fit(edit, "a hook point whose rows have heads (hook_z, hook_q, hook_v ...)", " ".join(axes))
        check_range("heads", spec.heads, n_heads, str(spec))
    given = spec.given(edit.point)
    if given is None:
        return
    if "key" in axes:
        raise no_fit(edit, 'value="zero" for attention matrices', repr(given))
    sizes = {"head": cfg.n_heads, "kv_head": cfg.n_key_value_heads, "1": 1}
    row = tuple(
        sizes[axis] if axis in sizes else getattr(cfg, axis) for axis in axes[axes.index(_row_axis(axes)) + 1 :]
    )
    shape = tuple(given.tensor.shape)
    if uneven and shape not in (row, (1, *row)):
        raise no_fit(edit, f"{list(row)}, because each prompt has another number of these rows", list(shape))
    if shape not in (row, (n_span, *row), (1, *row), (1, n_span, *row), (len(run.row_spans), n_span, *row)):
        raise no_fit(edit, f"{list(row)} or [{n_span}, ...] or [batch, {n_span}, ...]", list(shape))


def _check_it_can_matter(edit: PointEdit, run: Run) -> None:
    """An edit of what is zero anyway, or of what is overwritten, is an error."""
    queries, keys = edit.scope.queries, edit.scope.keys
    if keys and edit.point.endswith("hook_pattern"):  # future keys have no attention that could be taken away
        rows = run.places(queries) if queries else torch.arange(run.n_pos, device=run.device)[None]
        check_pairs(str(edit.spec), [Cut(rows.expand(len(run.row_spans), -1), run.places(keys))], run)
    elif keys:
        run.places(keys)
    if queries and edit.point == "hook_embed":
        rows = run.flat_places(edit.point, queries)
        media = torch.cat(list(run.media_rows.values())) if run.media_rows else rows[:0]
        if bool(torch.isin(rows, media).all()):
            raise no_fit(edit, "rows of text: encoder rows take the places of media", f"only rows of media ({queries})")


def _row_axis(axes: Sequence[str]) -> str:
    return next(axis for axis in ("pos", "row") if axis in axes)


def no_fit(edit: PointEdit, expected: str, got: Any) -> InterventionError:
    """An edit that cannot be made at its hook point."""
    return InterventionError(
        f"this intervention does not fit {edit.point} ({edit.spec})",
        expected=expected,
        got=got,
        next_step="see docs/hooks.md for the axes of each hook point",
    )


@door
def cut_between(run: Run, *, queries: str, keys: str, heads: tuple[int, ...] | None = None) -> Cut:
    """The cut between two spans of a pass: one object for all that say the same, so what it touches is found once."""
    make = lambda: Cut(run.places(queries), run.places(keys), heads)  # noqa: E731
    return run.once(("cut", queries, keys, heads), make)


def _plain(value: Any) -> Any:
    if isinstance(value, (Values, Intervention)):
        return value.to_dict()
    if isinstance(value, Route):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
