"""Plan: what interventions mean for one batch of inputs, once every spec fits the model and the inputs.

Axes: batch, span (rows selected by a span).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from hooked_av.config import DecoderConfig
from hooked_av.decoder.cuts import AnyCut, Cut, Keep, RandomCut, count_cut, members, spread_evenly
from hooked_av.errors import InterventionError
from hooked_av.hooks.names import Scope, match_names
from hooked_av.hooks.point import HookPoint, ScopedHook
from hooked_av.hooks.run import Run, layer_of
from hooked_av.interventions.random_cuts import BlockRandom
from hooked_av.interventions.routes import check_range
from hooked_av.interventions.specs import Ablate, BlockAttention, DropTokens, Edit, Intervention, KeepOnly

Places = Int64[Tensor, "batch span"]


@dataclass(frozen=True)
class PointEdit:
    """One spec at one hook point: the rows of `scope` go through `spec.rows`."""

    point: str
    scope: Scope
    spec: Edit

    def hook(self, run: Run) -> ScopedHook:
        """The edit as a hook of one pass."""

        def edit(rows: Tensor, *, hook: HookPoint) -> Tensor:
            return self.spec.rows(self.point, rows)

        return ScopedHook(edit, self.scope, True, lambda: run)


@dataclass(frozen=True)
class Plan:
    """Cuts by layer, rows that leave by layer, and edits in the order in which they were given."""

    cuts: Mapping[int, Sequence[AnyCut]] = field(default_factory=dict)
    leaving: Mapping[int, Places] = field(default_factory=dict)
    edits: tuple[PointEdit, ...] = ()

    @classmethod
    def of(cls, specs: Sequence[Intervention], run: Run, cfg: DecoderConfig, points: Mapping[str, HookPoint]) -> "Plan":
        """What these specs do to these inputs.

        Errors: `InterventionError`, `SpanError` or `HookNameError` for a spec that does not fit, before anything runs.
        """
        cuts: dict[int, list[AnyCut]] = {}
        edits: list[PointEdit] = []
        for spec in specs:
            spec.check(cfg)
            for layer, cut in _cuts(spec, run, cfg):
                cuts.setdefault(layer, []).append(cut)
            if isinstance(spec, Edit):
                edits += _point_edits(spec, run, cfg, points)
        leaving = _leaving([spec for spec in specs if isinstance(spec, DropTokens)], run)
        plan = cls({layer: tuple(some) for layer, some in cuts.items()}, leaving, tuple(edits))
        _check_reached(specs, plan, run, cfg)
        return plan


def _cuts(spec: Intervention, run: Run, cfg: DecoderConfig) -> list[tuple[int, AnyCut]]:
    """The layers that a spec cuts, and what it cuts there."""
    every = range(cfg.n_layers)
    if isinstance(spec, BlockAttention):
        cut = _cut(run, spec.queries, spec.keys, spec.heads)
        return [(layer, cut) for layer in (every if spec.layers is None else spec.layers)]
    if isinstance(spec, BlockRandom):
        return run.once(("random", spec), partial(_random_cuts, spec, run, cfg))
    if not isinstance(spec, KeepOnly):
        return []
    edges = [
        (every if route.layers is None else route.layers, _cut(run, route.queries, route.keys, None))
        for route in spec.routes
    ]
    kept = [tuple(edge for layers, edge in edges if layer in layers) for layer in every]
    return [(layer, run.once(("keep", some), partial(Keep, some))) for layer, some in enumerate(kept)]


def _cut(run: Run, queries: str, keys: str, heads: tuple[int, ...] | None) -> Cut:
    """The cut between two spans: one object for all specs that say the same, so that what it touches is found once."""
    return run.once(("cut", queries, keys, heads), lambda: Cut(run.positions(queries), run.positions(keys), heads))


def _layers_of(spec: Intervention, cfg: DecoderConfig) -> set[int]:
    """The layers where a cut or a drop acts; edits have hook names instead."""
    if isinstance(spec, BlockRandom):
        return set().union(*(_layers_of(one, cfg) for one in spec.like))
    if isinstance(spec, BlockAttention) and spec.layers is not None:
        return set(spec.layers)
    if isinstance(spec, DropTokens):
        return {spec.layer}
    return set(range(cfg.n_layers)) if isinstance(spec, (BlockAttention, KeepOnly)) else set()


def _random_cuts(spec: BlockRandom, run: Run, cfg: DecoderConfig) -> list[tuple[int, AnyCut]]:
    """As many pairs as the cuts that it is like, layer by layer."""
    like: dict[int, list[AnyCut]] = {}
    for one in spec.like:
        for layer, cut in _cuts(one, run, cfg):
            like.setdefault(layer, []).append(cut)
    # padding belongs to no span, and every prompt's first token to one
    starts = tuple(min(int(span.positions[0]) for span in spans.values()) for spans in run.row_spans)
    drawn: dict[tuple[tuple[int, ...], int], RandomCut] = {}
    cuts: list[tuple[int, AnyCut]] = []
    for layer, some in like.items():
        seed = spec.seed * cfg.n_layers + layer if isinstance(spec.like[0], KeepOnly) else spec.seed
        key = (tuple(map(id, some)), seed)
        if key not in drawn:
            counts = count_cut(some, run.n_pos, starts, run.device)
            if spec.spread == "entries":
                counts = spread_evenly(counts, starts, seed)
            drawn[key] = RandomCut.drawn(counts, starts, seed, spec.heads)
        cuts.append((layer, drawn[key]))
    return cuts


def _leaving(specs: Sequence[DropTokens], run: Run) -> dict[int, Places]:
    """Which rows leave before which layer; who has left does not leave again."""
    leaving: dict[int, Places] = {}
    gone: list[set[int]] = [set() for _ in run.row_spans]
    for layer in sorted({spec.layer for spec in specs}):
        spans = [spec.span for spec in specs if spec.layer == layer]
        rows = [set(row.tolist()) - before for row, before in zip(run.union(spans), gone, strict=True)]
        for row, before in zip(rows, gone, strict=True):
            before |= row
            if any(position >= run.n_pos - 1 for position in row):
                raise InterventionError(
                    "the last token cannot be dropped",
                    expected="a span that leaves at least the last token, where the answer is read",
                    got=", ".join(spans),
                    next_step='drop less, such as "question - last"',
                )
        if len({len(row) for row in rows}) > 1:
            raise InterventionError(
                f"each prompt of the batch would lose another number of tokens before layer {layer}",
                expected="equal numbers",
                got=[len(row) for row in rows],
                next_step="run such prompts one by one",
            )
        if rows[0]:
            leaving[layer] = torch.tensor([sorted(row) for row in rows], device=run.device)
    return leaving


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
    n_span = run.positions(edit.scope.queries).shape[1] if edit.scope.queries else run.n_pos
    if edit.scope.queries and bool((run.positions(edit.scope.queries) >= run.n_pos).any()):
        n_span = 1  # how many there will be is not known, and each comes alone
        if isinstance(spec, Ablate) and spec.value == "mean":
            raise _no_fit(edit, "a span of the prompt, for a mean over its rows", edit.scope.queries)
    if edit.scope.keys:
        run.positions(edit.scope.keys)
    head_axis = next((axis for axis in ("head", "kv_head") if axis in axes), None)
    if spec.heads is not None:
        n_heads = cfg.n_heads if head_axis == "head" else cfg.n_key_value_heads
        if head_axis is None or "key" in axes:
            raise _no_fit(edit, "a hook point whose rows have heads (hook_z, hook_q, hook_v ...)", " ".join(axes))
        check_range("heads", spec.heads, n_heads, str(spec))
    given = spec.given(edit.point)
    if given is None:
        return
    if "key" in axes:
        raise _no_fit(edit, 'value="zero" for attention matrices', repr(given))
    sizes = {"head": cfg.n_heads, "kv_head": cfg.n_key_value_heads, "1": 1}
    row = tuple(
        sizes[axis] if axis in sizes else getattr(cfg, axis) for axis in axes[axes.index(_row_axis(axes)) + 1 :]
    )
    shape = tuple(given.tensor.shape)
    if shape not in (row, (n_span, *row), (1, *row), (1, n_span, *row), (len(run.row_spans), n_span, *row)):
        raise _no_fit(edit, f"{list(row)} or [{n_span}, ...] or [batch, {n_span}, ...]", list(shape))


def _row_axis(axes: Sequence[str]) -> str:
    return next(axis for axis in ("pos", "row") if axis in axes)


def _no_fit(edit: PointEdit, expected: str, got: Any) -> InterventionError:
    return InterventionError(
        f"this intervention does not fit {edit.point} ({edit.spec})",
        expected=expected,
        got=got,
        next_step="see docs/hooks.md for the axes of each hook point",
    )


def _check_reached(specs: Sequence[Intervention], plan: Plan, run: Run, cfg: DecoderConfig) -> None:
    """A spec whose layers this pass leaves out is an error, and so is an edit of rows that have left."""
    for spec in specs:
        own = _layers_of(spec, cfg)
        if own and not any(layer in run.layers for layer in own):
            raise InterventionError(
                f"this pass runs no layer of an intervention ({spec})",
                expected=f"layers {run.layers.start} to {run.layers.stop - 1}",
                got=sorted(own),
                next_step="run all layers, or leave the intervention out",
            )
    for edit in plan.edits:
        gone = [rows for layer, rows in plan.leaving.items() if layer <= layer_of(edit.point)]
        if edit.scope.queries and any(members(run.positions(edit.scope.queries), rows).any() for rows in gone):
            raise _no_fit(edit, "rows that are still there", "rows that drop_tokens takes away before")
