"""What an intervention can change, and what of that is read: the rows and layers that a replay computes, never more.

Layers are numbered as blocks; the number after the last block stands for the final norm and the logits.

Axes: batch pos; span (rows of a span), row (positions that are computed).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from hooked_av.decoder.cut_masks import touched_rows
from hooked_av.decoder.cuts import AnyCut, Cut
from hooked_av.errors import InterventionError
from hooked_av.hooks.names import Match, match_names
from hooked_av.hooks.point import HookPoint
from hooked_av.hooks.run import Run, layer_of
from hooked_av.interventions.intervention import PointEdit
from hooked_av.interventions.plan import Plan

BEFORE_QUERIES = ("hook_resid_pre", "hook_k", "hook_rot_k", "hook_v")  # and ln1: what every held row has, in any layer


@dataclass(frozen=True)
class Reads:
    """What is read of every run: logits at one span, or none, and activations by hook name."""

    logits: str | None
    names: tuple[Match, ...]
    rows: Mapping[str, tuple[int, ...]]  # of the logits ("logits") and of each name's key
    n_layers: int
    needs_full_pass: bool

    @classmethod
    def of(cls, wanted: Sequence[str], run: Run, points: Mapping[str, HookPoint], n_layers: int) -> "Reads":
        """Spans and hook names, told apart by `hook_`; names may be patterns and carry spans."""
        matches = {match.key: match for name in wanted if "hook_" in name for match in match_names(name, points)}
        spans = [name for name in wanted if "hook_" not in name]
        silent = [match.name for match in matches.values() if not run.fires(match.name)]
        if len(spans) > 1 or not wanted or silent:
            raise InterventionError(
                "cannot read this from a replay",
                expected='one span for logits (join spans as "question|last"), and hook names that these inputs reach',
                got=silent or list(wanted),
                next_step='read="last", or read=["last", "blocks.*.hook_resid_post@question"]',
            )
        rows = {match.key: _rows(match.scope.queries if match.scope else None, run) for match in matches.values()}
        if spans:
            rows["logits"] = _rows(spans[0], run)
        needs_full_pass = any(not _incremental(name, points) for name in {match.name for match in matches.values()})
        return cls(spans[0] if spans else None, tuple(matches.values()), rows, n_layers, needs_full_pass)

    def check_against(self, plan: Plan) -> None:
        """Refuse to read rows that have left."""
        layers = {"logits": self.n_layers} | {match.key: level(match.name, self.n_layers) for match in self.names}
        for key, rows in self.rows.items():
            gone = {row for since, some in plan.leaving.items() if since <= layers[key] for row in some[0].tolist()}
            if gone & set(rows):
                raise InterventionError(
                    f"an intervention drops rows that are read ({key})",
                    expected="reads of rows that stay",
                    got=f"{len(gone & set(rows))} rows that leave",
                    next_step="read fewer rows, or drop fewer",
                )

    @property
    def top(self) -> int:
        """The last layer that runs."""
        levels = [level(match.name, self.n_layers) for match in self.names]
        return max([self.n_layers] if self.logits is not None else levels)

    @property
    def last_block(self) -> int:
        return min(self.top, self.n_layers - 1)

    def at_the_end(self) -> set[int]:
        """The rows that are read in the last block or after it."""
        late = {match.key for match in self.names if level(match.name, self.n_layers) >= self.last_block}
        return {row for key, rows in self.rows.items() if key == "logits" or key in late for row in rows}


class PlacedEdit(NamedTuple):
    """An edit, the layer in which it acts, and the rows that it edits."""

    layer: int
    edit: PointEdit
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Cone:
    """One intervention's part of the grid of layers and rows.

    From `join` on, `rows` are computed; in the last block only those of `reading` go on after keys and values. Where
    nothing but cuts act in the layer of `join`, only the rows that they touch (`first_cut`) change there.
    """

    cuts: Mapping[int, tuple[AnyCut, ...]]
    edits: Mapping[int, tuple[PointEdit, ...]]
    join: int
    first_cut: tuple[int, ...]
    rows: tuple[int, ...]
    reading: tuple[int, ...]

    @staticmethod
    def can_replay(plan: Plan, points: Mapping[str, HookPoint]) -> bool:
        """Whether every edit is one of rows in the decoder."""
        return all(_incremental(edit.point, points) for edit in plan.edits)

    @classmethod
    def of(cls, plan: Plan, reads: Reads, run: Run) -> "Cone | None":
        """What must be computed; None where nothing that is read can change."""
        reads.check_against(plan)
        cuts = _all_cuts(plan, run, reads.n_layers)
        edits = [PlacedEdit(level(e.point, reads.n_layers), e, _rows(e.scope.queries, run)) for e in plan.edits]
        touches = _first_rows(cuts, edits, reads, run)
        if not touches:
            return None
        join, first = min(touches), min(touches.values())
        own = _computed(first, join, plan, edits, reads)
        late = {row for layer, edit, rows in edits if _mixes_rows(edit) and layer >= reads.last_block for row in rows}
        reading = tuple(row for row in own if row in reads.at_the_end() | late)
        early = any(first <= row for key, rows in reads.rows.items() if key != "logits" for row in rows)
        if not (reading or (own and early)):
            return None
        by_layer = {layer: tuple(edit for at, edit, _ in edits if at == layer) for layer, _, _ in edits}
        only_cuts = join not in by_layer and join < reads.last_block
        first_cut = tuple(sorted(set(own).intersection(_touched(cuts[join], run)))) if only_cuts else own
        return cls(cuts, by_layer, join, first_cut, own, reading)

    def acts(self, layer: int) -> tuple[tuple[AnyCut, ...], tuple[PointEdit, ...]]:
        """What is done to the run in one layer; runs that had the same done to them so far are the same."""
        return self.cuts.get(layer, ()), self.edits.get(layer, ())


def _first_rows(
    cuts: Mapping[int, Sequence[AnyCut]], edits: Sequence[PlacedEdit], reads: Reads, run: Run
) -> dict[int, int]:
    """For each layer that something happens in: the first row that changes."""
    end, last, touches = reads.at_the_end(), _last_row(edits, reads), {}
    for layer, some in cuts.items():
        rows = _touched(some, run)
        # in the last block nobody reads what other rows become
        rows = end.intersection(rows) if layer == reads.last_block else rows
        touches[layer] = min(rows, default=run.n_pos)
    for layer, edit, rows in edits:
        late = layer >= reads.last_block and not (holds_every_row(edit.point) or _mixes_rows(edit))
        touches[layer] = min(touches.get(layer, run.n_pos), *(end.intersection(rows) if late else rows), run.n_pos)
    # what changes behind the last row that is read is read by nobody
    return {layer: row for layer, row in touches.items() if row <= last and layer <= reads.top}


def _computed(first: int, join: int, plan: Plan, edits: Sequence[PlacedEdit], reads: Reads) -> tuple[int, ...]:
    """The rows from the first that changes to the last that anybody reads, without those that have left."""
    gone = {row for layer, rows in plan.leaving.items() if layer <= join for row in rows[0].tolist()}
    # the merged sequence still has the rows that leave before layer 0, and its mean is over them too
    gone -= {row for _, edit, rows in edits if _mixes_rows(edit) and layer_of(edit.point) < 0 for row in rows}
    return tuple(row for row in range(first, _last_row(edits, reads) + 1) if row not in gone)


def _last_row(edits: Sequence[PlacedEdit], reads: Reads) -> int:
    """The last row that anybody reads, or that goes into a mean."""
    means = [edit.rows for edit in edits if _mixes_rows(edit.edit)]
    return max(row for rows in (*reads.rows.values(), *means) for row in rows)


def level(point: str, n_layers: int) -> int:
    """The layer of a hook point; what comes before the blocks counts as layer 0.

    >>> level("hook_inputs_embed", 4), level("blocks.2.hook_mlp_out", 4), level("ln_final.hook_scale", 4)
    (0, 2, 4)
    """
    return min(max(layer_of(point), 0), n_layers)


def holds_every_row(point: str) -> bool:
    """Whether a block computes this for all the rows that it holds, and not only for those that go on.

    >>> holds_every_row("blocks.2.attn.hook_v"), holds_every_row("blocks.2.attn.hook_q")
    (True, False)
    """
    return ".ln1." in point or point.endswith(BEFORE_QUERIES) or point == "hook_inputs_embed"


def _incremental(point: str, points: Mapping[str, HookPoint]) -> bool:
    if point == "hook_inputs_embed":
        return True
    return layer_of(point) >= 0 and not points[point].lazy


def _mixes_rows(edit: PointEdit) -> bool:
    return edit.spec.mixes_rows


def _rows(selector: str | None, run: Run) -> tuple[int, ...]:
    return tuple(range(run.n_pos)) if selector is None else tuple(run.positions(selector)[0].tolist())


def _all_cuts(plan: Plan, run: Run, n_layers: int) -> dict[int, tuple[AnyCut, ...]]:
    """The plan's cuts, with tokens that have left as tokens that no other reads."""
    cuts = {layer: tuple(some) for layer, some in plan.cuts.items()}
    for since, gone in plan.leaving.items():
        left = set(gone[0].tolist())
        others = [row for row in range(run.n_pos) if row not in left]
        make = partial(Cut, torch.tensor([others], device=gone.device), gone)
        cut = run.once(("gone", tuple(left)), make)  # one object: runs that lose the same tokens are alike
        for layer in range(since, n_layers):
            cuts[layer] = (*cuts.get(layer, ()), cut)
    return cuts


def _touched(cuts: Sequence[AnyCut], run: Run) -> list[int]:
    def found() -> list[int]:
        positions = torch.arange(run.n_pos, device=run.device)[None]
        return touched_rows(positions, positions, cuts, 0).tolist()

    return run.once(("touched", tuple(cuts)), found)  # layers and cells of a sweep ask for the same cuts
