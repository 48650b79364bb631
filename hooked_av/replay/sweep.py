"""Sweep: many interventions over one clean pass; runs of a batch part where they are first done different things.

Axes: branch (runs that have been the same so far), row (positions that are computed), query (those that go on after
keys and values), d_model, d_vocab.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hooked_av.decoder import costs
from hooked_av.forward.precision import check_no_autocast
from hooked_av.hooks.attached import PlacedHook, in_pass
from hooked_av.hooks.open_blocks import Opened
from hooked_av.hooks.point import HookFunction, HookPoint, ScopedHook
from hooked_av.interventions.intervention import Intervention
from hooked_av.interventions.plan import Plan
from hooked_av.replay.blocked_keys import BlockedKeys
from hooked_av.replay.clean_pass import CleanPass
from hooked_av.replay.cones import Cone, Reads, holds_every_row, level


class GoingOn(NamedTuple):
    """Rows that go on after a block's keys and values: their positions, where these stand, and what cuts take away."""

    rows: Int64[Tensor, " query"]
    places: Int64[Tensor, " query"]
    blocked: BlockedKeys


class Sweep:
    """One call of `baseline.run`: what is asked, checked, and what has been found."""

    def __init__(self, clean: CleanPass, specs: list[tuple[Intervention, ...]], wanted: list[str]) -> None:
        check_no_autocast(clean.model.device)
        self.clean, self.model, self.specs = clean, clean.model, specs
        one = self.model.begin(clean.inputs)
        self.run, points = one.run, self.model.hook_dict
        self.reads = Reads.of(wanted, self.run, points, self.model.decoder.cfg.n_layers)
        self.plans = [one.plan_of(some) for some in specs]
        self.hooked = any(point.listeners_in(self.run) for point in points.values())
        self.logits: Tensor | None = None
        self.activations: dict[str, Tensor] = {}

    def can_replay(self, plan: Plan) -> bool:
        return not self.hooked and not self.reads.needs_full_pass and Cone.can_replay(plan, self.model.hook_dict)

    def full_pass(self, number: int) -> None:
        """One intervention by a whole forward pass."""
        keys = [match.key for match in self.reads.names]
        at, specs, inputs = self.reads.logits or "last", self.specs[number], self.clean.inputs
        if not keys:
            self._store(number, self.model(inputs, interventions=specs, logits_at=at), {})
            return
        logits, cache = self.model.run_with_cache(inputs, names_filter=keys, interventions=specs, logits_at=at)
        self._store(number, logits, {key: cache[key] for key in keys})

    def fill_clean(self, number: int) -> None:
        """What an intervention leads to where it changes nothing."""
        reads, read = self.reads, self.clean.read
        self._store(number, read(reads.logits or "last"), {match.key: read(match.key) for match in reads.names})

    def _store(self, number: int, logits: Tensor, activations: Mapping[str, Tensor]) -> None:
        if self.reads.logits is not None:
            row = logits[0, 0] if logits.shape[1] == 1 else logits[0]
            if self.logits is None:
                self.logits = row.new_empty(len(self.specs), *row.shape)
            self.logits[number] = row
        for key, value in activations.items():
            if key not in self.activations:
                self.activations[key] = value.new_empty(len(self.specs), *value.shape[1:])
            self.activations[key][number] = value[0]


class Batch:
    """One batch of interventions that hold the same rows, from the first layer that any of them touches.

    Runs that have been done the same things so far are one branch, and computed once: windows that the first layer
    cuts short differ only from where the shorter one ends. `branches` are all that have joined; `running` are those
    in the call of a block that runs now, where the rows of `queries` go on after keys and values.
    """

    def __init__(self, sweep: Sweep, batch: list[tuple[int, Cone]]) -> None:
        self.sweep, self.clean, self.model = sweep, sweep.clean, sweep.model
        self.numbers, self.cones = [number for number, _ in batch], [cone for _, cone in batch]
        self.branches: list[list[int]] = []
        self.running = self.branches
        self.rows, self.reading = (self._positions(rows) for rows in (self.cones[0].rows, self.cones[0].reading))
        self.queries, self.tables = self.rows, self.clean.tables(self.rows)
        self.asked: dict[tuple[int, ...], GoingOn] = {}

    def run(self) -> None:
        """Blocks from the first that is touched to the last that is read, and the logits."""
        reads = self.sweep.reads
        self.clean.reach(self.cones[0].rows[0])
        resid = self.clean.embeds.new_empty(0, len(self.rows), self.clean.embeds.shape[1])
        with in_pass(self.sweep.run, self._hooks), self.sweep.run.as_current():
            # nothing that is read at the end can change: then the last block is left out
            stop = reads.last_block + bool(len(self.reading))
            for layer in range(min(self.cones[0].join, reads.last_block), stop):
                resid = self._layer(resid, layer)
            if reads.top == reads.n_layers and len(self.reading):
                self._read_out(resid)

    def _layer(self, resid: Float[Tensor, "branch row d_model"], layer: int) -> Float[Tensor, "more query d_model"]:
        """One block, for the branches so far and for the runs that it is the first to touch."""
        new = self._split(self._joining(layer), layer)
        by_rows: dict[tuple[int, ...], list[list[int]]] = {}
        for part in new:
            by_rows.setdefault(self.cones[part[0]].first_cut, []).append(part)
        apart = {rows: parts for rows, parts in by_rows.items() if self._is_worth_a_call(rows, len(parts))}
        resid = self._parted(resid, layer, [part for part in new if self.cones[part[0]].first_cut not in apart])
        queries = self.cones[0].reading if layer == self.sweep.reads.last_block else self.cones[0].rows
        found = [self._block(resid, layer, self.branches, queries)] if len(resid) else []
        for rows, parts in apart.items():
            found.append(self._first_cut(layer, parts, rows))
            self.branches = self.branches + parts
        return torch.cat(found) if found else resid[:, : len(queries)]  # nobody has joined

    def _is_worth_a_call(self, rows: tuple[int, ...], n_branches: int) -> bool:
        """Whether the rows that stay as they are, are worth leaving out, by a call of the block for the others."""
        least = costs.CALL_ROWS_ON_CPU if self.rows.device.type == "cpu" else costs.CALL_ROWS
        return (len(self.rows) - len(rows)) * n_branches >= least

    def _first_cut(
        self, layer: int, parts: list[list[int]], rows: tuple[int, ...]
    ) -> Float[Tensor, "part row d_model"]:
        """Runs that are cut for the first time: the rows that lose keys change, all others stay clean."""
        clean = self.clean.clean_resid(layer, self.rows).expand(len(parts), -1, -1)
        after = self.clean.clean_resid(layer + 1, self.rows).repeat(len(parts), 1, 1)
        after[:, self._asked(rows).places] = self._block(clean, layer, parts, rows)
        return after

    def _block(
        self,
        resid: Float[Tensor, "branch row d_model"],
        layer: int,
        branches: list[list[int]],
        queries: tuple[int, ...],
    ) -> Float[Tensor, "branch query d_model"]:
        """A block for some branches; of its rows, those of `queries` go on after keys and values."""
        asked = self._asked(queries)
        self.running, self.queries = branches, asked.rows
        cuts = [self.cones[members[0]].cuts.get(layer, ()) for members in branches]
        narrow = {} if len(queries) == len(self.rows) else {"reading": asked.places}
        attend = self.clean.attend(layer, self.rows, cuts, blocked=asked.blocked, **narrow)
        cos, sin = (table.expand(len(resid), -1, -1) for table in self.tables)
        return self.model.decoder.blocks[layer](resid, (cos, sin), attend)

    def _asked(self, queries: tuple[int, ...]) -> GoingOn:
        if queries not in self.asked:
            cfg, rows = self.model.decoder.cfg, self._positions(queries)
            blocked = BlockedKeys(rows, self.rows, self.cones[0].rows[0], cfg.n_heads, cfg.n_key_value_heads)
            self.asked[queries] = GoingOn(rows, torch.searchsorted(self.rows, rows), blocked)
        return self.asked[queries]

    def _positions(self, rows: Sequence[int]) -> Int64[Tensor, " row"]:
        return torch.tensor(rows, device=self.model.device, dtype=torch.int64)

    def _joining(self, layer: int) -> list[int]:
        return [run for run, cone in enumerate(self.cones) if cone.join == layer]

    def _parted(
        self, resid: Float[Tensor, "branch row d_model"], layer: int, new: list[list[int]]
    ) -> Float[Tensor, "more row d_model"]:
        """The branches as this layer needs them, and new ones, which come from the clean pass."""
        parts = [self._split(members, layer) for members in self.branches]
        if any(len(some) > 1 for some in parts):
            copies = self._positions([len(some) for some in parts])
            resid = resid.repeat_interleave(copies, dim=0, output_size=sum(len(some) for some in parts))
        if new:
            rows = self.rows if layer < self.sweep.reads.n_layers else self.reading
            clean = self.clean.clean_resid(layer, rows)
            held = resid if len(resid) else resid.new_empty(0, *clean.shape)
            resid = torch.cat([held, clean.expand(len(new), -1, -1)])
        self.branches = self.running = [part for some in parts for part in some] + new
        return self.model.hook_inputs_embed(resid) if layer == 0 and new else resid

    def _split(self, runs: Sequence[int], layer: int) -> list[list[int]]:
        """Those of these runs that this layer treats alike."""
        parts: dict[Any, list[int]] = {}
        for run in runs:
            parts.setdefault(self.cones[run].acts(layer), []).append(run)
        return list(parts.values())

    def _read_out(self, resid: Float[Tensor, "branch row d_model"]) -> None:
        end, self.queries = self.sweep.reads.n_layers, self.reading
        normalized = self.model.decoder.ln_final(self._parted(resid, end, self._split(self._joining(end), end)))
        if self.sweep.reads.logits is None or self.sweep.logits is None:
            return
        wanted = self._positions(self.sweep.reads.rows["logits"])
        found, index = _among(wanted, self.reading)
        if not len(found):
            return  # what changes comes after what is read of the logits
        logits = self.model.decoder.unembed(normalized[:, index])
        for branch, number in self._numbered():
            if len(wanted) == 1:
                self.sweep.logits[number] = logits[branch, 0]
            else:
                self.sweep.logits[number][found] = logits[branch]

    def _numbered(self) -> Iterator[tuple[int, int]]:
        """Every intervention that runs now, by its number, and its branch."""
        for branch, members in enumerate(self.running):
            for run in members:
                yield branch, self.numbers[run]

    def _hooks(self, block: Opened) -> list[PlacedHook]:
        """Edits and reads as hooks on the points of this batch; edits come first."""
        edited = dict.fromkeys(edit.point for cone in self.cones for some in cone.edits.values() for edit in some)
        found: list[tuple[str, HookFunction]] = [(point, self._edit) for point in edited]
        found += [(match.name, partial(self._keep, key=match.key)) for match in self.sweep.reads.names]
        points = self.model.hook_dict
        return [PlacedHook(points[name], ScopedHook(function, None, True, block=block)) for name, function in found]

    def _held(self, point: str) -> Int64[Tensor, " row"]:
        """The positions that a hook point's tensor holds in the call that runs now."""
        return self.rows if holds_every_row(point) else self.queries

    def _edit(self, tensor: Tensor, hook: HookPoint) -> Tensor:
        """Each branch's own edits, in its own rows; rows that are not held are read by nobody."""
        point = str(hook.name)
        held, out = self._held(point), tensor.clone()
        for branch, members in enumerate(self.running):
            for edit in self.cones[members[0]].edits.get(level(point, self.sweep.reads.n_layers), ()):
                if edit.point != point:
                    continue
                wanted = self.sweep.run.positions(edit.scope.queries or "")[0]
                found, index = _among(wanted, held)
                rows = tensor.new_zeros(1, len(wanted), *tensor.shape[2:])
                rows[0, found] = out[branch, index]
                out[branch, index] = edit.spec.rows(point, rows)[0, found]
        return out

    def _keep(self, tensor: Tensor, hook: HookPoint, key: str) -> None:
        found, index = _among(self._positions(self.sweep.reads.rows[key]), self._held(str(hook.name)))
        branches, numbers = torch.tensor(list(self._numbered()), device=tensor.device).T[..., None]
        self.sweep.activations[key][numbers, found] = tensor[branches, index]


def _among(
    wanted: Int64[Tensor, " wanted"], held: Int64[Tensor, " held"]
) -> tuple[Int64[Tensor, " found"], Int64[Tensor, " found"]]:
    """Which of the positions that are wanted are held, and where they stand there."""
    found = torch.isin(wanted, held).nonzero().flatten()
    return found, torch.searchsorted(held, wanted[found])
