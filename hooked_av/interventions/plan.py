"""Plan: what interventions mean for one batch of inputs, once every spec fits the model and the inputs.

Axes: batch, span (rows selected by a span).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from hooked_av.config import DecoderConfig
from hooked_av.decoder.cuts import AnyCut, members
from hooked_av.errors import InterventionError
from hooked_av.hooks.attached import in_pass
from hooked_av.hooks.point import HookPoint
from hooked_av.hooks.run import Run, layer_of
from hooked_av.interventions.acting import LayerCuts, Leaves, check_company, check_pairs, report_idle, report_repeated
from hooked_av.interventions.intervention import Edit, Intervention, PointEdit, no_fit
from hooked_av.interventions.routes import check_range

SpanPositions = Int64[Tensor, "batch span"]


@dataclass(frozen=True)
class Plan:
    """Cuts by layer, rows that leave by layer, and edits in the order in which they were given."""

    cuts: Mapping[int, Sequence[AnyCut]] = field(default_factory=dict)
    leaving: Mapping[int, SpanPositions] = field(default_factory=dict)
    edits: tuple[PointEdit, ...] = ()

    @classmethod
    def of(cls, specs: Sequence[Intervention], run: Run, cfg: DecoderConfig, points: Mapping[str, HookPoint]) -> "Plan":
        """What these specs do to these inputs.

        Errors: `InterventionError`, `SpanError` or `HookNameError` for a spec that does not fit, before anything runs.
        """
        cuts: dict[int, list[AnyCut]] = {}
        leaves: list[tuple[int, str]] = []
        edits: list[PointEdit] = []
        said: list[tuple[Intervention, LayerCuts, Leaves]] = []
        for spec in specs:
            spec.check(cfg)
            own_cuts, own_leaves = _checked(spec, spec.cuts(run, cfg), cfg), list(spec.leaves(run))
            own_edits = spec.edits(run, cfg, points)
            _check_reached(spec, {layer for layer, _ in (*own_cuts, *own_leaves)}, run)
            if own_cuts:
                check_pairs(str(spec), [cut for layer, cut in own_cuts if layer in run.layers], run)
            for layer, cut in own_cuts:
                cuts.setdefault(layer, []).append(cut)
            leaves += own_leaves
            edits += own_edits
            if not (own_cuts or own_leaves or own_edits):
                report_idle(spec, run)
            if isinstance(spec, Edit) and own_edits:
                report_repeated(spec, [other for other, _, _ in said if isinstance(other, Edit)], run)
            said.append((spec, own_cuts, own_leaves))
        plan = cls({layer: tuple(some) for layer, some in cuts.items()}, _leaving(leaves, run), tuple(edits))
        check_company(said, plan.leaving, run, cfg.n_heads)
        _check_still_there(plan, run)
        return plan

    @contextmanager
    def edited(self, points: Mapping[str, HookPoint], run: Run) -> Iterator[None]:
        """The edits as hooks of one pass; they come first, so that user hooks see the edited rows."""
        if not self.edits:
            yield
            return
        with in_pass(run, lambda block: [e.placed(points, block) for e in reversed(self.edits)], first=True):
            yield


def _checked(spec: Intervention, cuts: Any, cfg: DecoderConfig) -> Sequence[tuple[int, AnyCut]]:
    """The cuts that a spec gives, if they are cuts of layers that there are."""
    check_range("layers", {layer for layer, _ in cuts}, cfg.n_layers, str(spec))
    odd = [type(cut).__name__ for _, cut in cuts if not isinstance(cut, AnyCut)]
    if odd:
        raise InterventionError(
            f"{type(spec).__name__}.cuts gives what is no cut",
            expected="pairs of a layer and a cut: cut_between(run, queries=..., keys=...), or a Cut of positions",
            got=odd[0],
            next_step="see docs/interventions.md",
        )
    return cuts


def _leaving(leaves: Sequence[tuple[int, str]], run: Run) -> dict[int, SpanPositions]:
    """Which rows leave before which layer; who has left does not leave again."""
    leaving: dict[int, SpanPositions] = {}
    gone: list[set[int]] = [set() for _ in run.row_spans]
    for layer in sorted({layer for layer, _ in leaves}):
        spans = [span for since, span in leaves if since == layer]
        rows = [set(row[row >= 0].tolist()) - before for row, before in zip(run.union(spans), gone, strict=True)]
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


def _check_reached(spec: Intervention, layers: set[int], run: Run) -> None:
    """A spec whose layers this pass leaves out is an error."""
    if layers and not any(layer in run.layers for layer in layers):
        raise InterventionError(
            f"this pass runs no layer of an intervention ({spec})",
            expected=f"layers {run.layers.start} to {run.layers.stop - 1}",
            got=sorted(layers),
            next_step="run all layers, or leave the intervention out",
        )


def _check_still_there(plan: Plan, run: Run) -> None:
    """An edit of rows that have left is an error."""
    for edit in plan.edits:
        gone = [rows for layer, rows in plan.leaving.items() if layer <= layer_of(edit.point)]
        if edit.scope.queries and any(members(run.places(edit.scope.queries), rows).any() for rows in gone):
            raise no_fit(edit, "rows that are still there", "rows that drop_tokens takes away before")
