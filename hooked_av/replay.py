"""The exact replay engine: a sweep of interventions recomputes only what each of them can change.

In a causal decoder an intervention that first touches layer l and position p changes nothing below l and nothing before
p. `model.baseline(inputs)` runs once and keeps rotated keys, values, and the residual stream; `baseline.run(...)` then
computes rows from p on in layers from l on, many interventions as one batch over the shared keys and values, and
unembeds what is read. Results equal a full pass with the same intervention.

Axes: intervention, span (rows read), row (positions that are computed), kv_head pos d_head, d_model, d_vocab.
"""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm.auto import tqdm

from hooked_av.attention import Attend, KeyValues
from hooked_av.cache import check_budget
from hooked_av.cones import Cone, Reads, holds_every_row, level
from hooked_av.errors import HookedAVWarning, HookError, InputsError
from hooked_av.hooks import HookPoint
from hooked_av.inputs import AVInputs
from hooked_av.interventions import Intervention, as_specs
from hooked_av.plan import Plan, PointEdit
from hooked_av.shared_prefix import BlockedKeys, SharedPrefix

logger = logging.getLogger(__name__)

_FREE_BYTES = 2**23  # what a batch may take in any case: small models run many interventions at once
_MLP_ROWS = 1024  # of the clean pass that go through an MLP at one time: what is kept takes memory beside it


@dataclass(frozen=True, eq=False)
class Replayed:
    """What many interventions lead to, in the order in which they were given.

    `logits` is [intervention, d_vocab] for a read of one position ("last"), [intervention, span, d_vocab] for a longer
    span; `activations[name]` is [intervention, ...]. `full_passes` names those that could not be replayed.
    """

    interventions: tuple[tuple[Intervention, ...], ...]
    logits: Float[Tensor, "intervention *span d_vocab"] | None
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    full_passes: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.interventions)

    def __repr__(self) -> str:
        read = ([] if self.logits is None else [f"logits {list(self.logits.shape)}"]) + list(self.activations)
        return f"Replayed {len(self)} interventions: {', '.join(read)}"


class Baseline:
    """One clean pass of one prompt, kept for replays; made by `model.baseline(inputs)`.

    `logits` are the clean ones at the last position, [d_vocab]; `n_bytes` is what it keeps.
    """

    def __init__(self, model: Any, inputs: AVInputs, touched: str | None, max_bytes: int | None) -> None:
        self.model, self.inputs = model, inputs
        _check_clean(model, inputs)
        self.first_row = 0 if touched is None else int(inputs.spans.resolve(touched).positions[0])
        expected = _kept_bytes(model, inputs.n_pos, inputs.n_pos - self.first_row)
        logger.info("the baseline of %d tokens will keep %.1f MB", inputs.n_pos, expected / 1e6)
        check_budget(expected, model.device, max_bytes)
        self._clean: dict[str, Tensor] = {}
        with torch.no_grad():
            self._run_clean()
        logger.info("%r", self)

    def _run_clean(self) -> None:
        model, inputs = self.model, self.inputs
        run = model._run = model._begin(inputs)
        resid = model._embed(inputs, run)
        self.embeds, self.keys_values, self.resid = resid[0], KeyValues(), {}
        attend = Attend(model.attn_implementation, inputs.starts, {}, run, past=self.keys_values)
        tables = model.decoder.rotary(inputs.position_ids, resid.dtype)
        for layer, block in enumerate(model.blocks):
            self._keep(layer, resid)
            resid = block.add_mlp(block.to_mid(resid, tables, attend), _MLP_ROWS)
        self._keep(len(model.blocks), resid)
        logits = model.decoder.read_out(resid, run.positions("last"), attend)
        self.logits: Float[Tensor, " d_vocab"] = logits[0, -1]
        self._clean["last"] = logits

    def _keep(self, layer: int, resid: Float[Tensor, "batch=1 pos d_model"]) -> None:
        # a slice would keep the whole tensor alive
        self.resid[layer] = resid[0] if not self.first_row else resid[0, self.first_row :].clone()

    @property
    def n_bytes(self) -> int:
        """What the baseline keeps."""
        kept = {t.data_ptr(): t.numel() * t.element_size() for t in (self.embeds, *self.resid.values())}
        return self.keys_values.n_bytes + sum(kept.values())

    def __repr__(self) -> str:
        rows = self.inputs.n_pos - self.first_row
        return f"Baseline of {self.inputs.n_pos} tokens, residual stream of {rows}: {self.n_bytes / 1e6:.1f} MB"

    @torch.no_grad()
    def run(
        self,
        interventions: Sequence[Any],
        read: str | Sequence[str] = "last",
        *,
        max_bytes: int | None = None,
        progress: bool = False,
    ) -> Replayed:
        """What every one of these interventions leads to, each alone.

        Args:
            interventions: a spec, a route as text, or a list of specs for each; open `model.intervene`s are added.
            read: a span ("last": the answer) whose logits are read, hook names with spans, or several of both.
            max_bytes: working memory of a batch (None: what a clean pass takes, less what the baseline keeps, but at
                least a quarter of a clean pass, and at least 8 MiB).
            progress: show a bar.

        What cannot be replayed (an edit of an attention matrix or of encoder rows, a read of them, open hooks) runs as
        a full forward pass, with a warning. No gradients.

        Errors: those of the specs and reads, before anything runs.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> baseline = model.baseline(model.prepare(question="Which digit do you hear?"))
        >>> baseline.run([f"system->question@{layer}" for layer in range(2)]).logits.shape
        torch.Size([2, 151936])
        """
        several = [interventions] if isinstance(interventions, (str, Intervention)) else interventions
        job = _Job(self, [as_specs(some) for some in several], [read] if isinstance(read, str) else list(read))
        full = [i for i, plan in enumerate(job.plans) if not job.can_replay(plan)]
        _report_full(full, len(job.plans))
        cones = {i: Cone.of(plan, job.reads, job.run) for i, plan in enumerate(job.plans) if i not in set(full)}
        batches = self._batches([(i, cone) for i, cone in cones.items() if cone is not None], max_bytes)
        with tqdm(total=len(job.plans), desc="interventions", unit="intervention", disable=not progress) as bar:
            for i in full:
                job.full_pass(i)
                bar.update()
            for i in cones:
                job.fill_clean(i)
            bar.update(sum(cone is None for cone in cones.values()))
            for batch in batches:
                _Sweep(job, batch).run()
                bar.update(len(batch))
        return Replayed(tuple(job.specs), job.logits, job.activations, tuple(full))

    def _batches(self, cones: list[tuple[int, Cone]], max_bytes: int | None) -> list[list[tuple[int, Cone]]]:
        """Interventions that hold the same rows, in the order in which they join, as many at a time as fit."""
        groups: dict[Any, list[tuple[int, Cone]]] = {}
        for number, cone in sorted(cones, key=lambda item: item[1].join):
            groups.setdefault((cone.rows, cone.reading), []).append((number, cone))
        at_once = self._rows_at_once() if max_bytes is None else max_bytes // _row_bytes(self.model)
        batches = []
        for (rows, _), group in groups.items():
            if max_bytes is not None and len(rows) > at_once:
                check_budget(len(rows) * _row_bytes(self.model), self.model.device, max_bytes)
            size = max(1, at_once // len(rows))
            batches += [group[start : start + size] for start in range(0, len(group), size)]
        return batches

    def _rows_at_once(self) -> int:
        """Rows that a batch may hold, so that it and what is kept take about the memory of a clean pass."""
        n_pos, row = self.inputs.n_pos, _row_bytes(self.model)
        return max(n_pos - self.n_bytes // row, n_pos // 4, _FREE_BYTES // row, 1)

    def clean_resid(self, layer: int, rows: Int64[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
        """The clean residual stream that enters a layer, at some rows."""
        return self.resid[layer][rows - self.first_row]

    def reach(self, first_row: int) -> None:
        """Compute the clean residual stream of rows that were not kept, over the kept keys and values."""
        if first_row >= self.first_row:
            return
        logger.info("the residual stream from row %d on was not kept: computed again", first_row)
        self.first_row = first_row
        own = torch.arange(first_row, self.inputs.n_pos, device=self.model.device)
        resid = self.embeds[None, first_row:]
        for layer, block in enumerate(self.model.blocks):
            self.resid[layer] = resid[0]
            resid = block(resid, self.tables(own, 1), self.attend(layer, own, [()]))
        self.resid[len(self.model.blocks)] = resid[0]

    def tables(self, rows: Int64[Tensor, " row"], n_runs: int) -> tuple[Tensor, Tensor]:
        """Rotary tables of some rows, for each of several runs."""
        cos, sin = self.model.decoder.rotary(self.inputs.position_ids[:, :, rows], self.embeds.dtype)
        return cos.expand(n_runs, -1, -1), sin.expand(n_runs, -1, -1)

    def attend(self, layer: int, own: Int64[Tensor, " row"], cuts: Sequence[Any], **more: Any) -> SharedPrefix:
        """How runs with these rows of their own attend in a layer."""
        known, n_prefix = self.keys_values.layers[layer], int(own[0])
        k, v = known.k[:, :, :n_prefix], known.v[:, :, :n_prefix]
        # scores take less than the MLP's activations of a clean pass, or 4 MiB
        max_scores = max(1 << 20, self.inputs.n_pos * self.model.decoder.cfg.d_mlp // 2)
        return SharedPrefix(prefix_k=k, prefix_v=v, own=own, run_cuts=cuts, max_scores=max_scores, **more)

    def clean(self, key: str) -> Tensor:
        """Clean logits at a span, or a clean activation, from a pass of its own the first time."""
        if key not in self._clean:
            model = self.model
            open_ones, model._interventions = model._interventions, ()
            try:
                if "hook_" in key:
                    self._clean[key] = model.run_with_cache(self.inputs, names_filter=[key], logits_at="last")[1][key]
                else:
                    self._clean[key] = model(self.inputs, logits_at=key)
            finally:
                model._interventions = open_ones
        return self._clean[key]


class _Job:
    """One call of `Baseline.run`: what is asked, checked, and what has been found."""

    def __init__(self, baseline: Baseline, specs: list[tuple[Intervention, ...]], wanted: list[str]) -> None:
        self.baseline, self.model = baseline, baseline.model
        self.specs = specs
        self.run = self.model._run = self.model._begin(baseline.inputs)
        points, cfg = self.model.hook_dict, self.model.decoder.cfg
        self.reads = Reads.of(wanted, self.run, points, cfg.n_layers)
        self.plans = [self.model._plan(self.run, some) for some in specs]
        self.hooked = any(point.is_hooked for point in points.values())
        self.logits: Tensor | None = None
        self.activations: dict[str, Tensor] = {}

    def can_replay(self, plan: Plan) -> bool:
        return not self.hooked and not self.reads.needs_full_pass and Cone.can_replay(plan, self.model.hook_dict)

    def full_pass(self, number: int) -> None:
        """One intervention by a whole forward pass."""
        keys = [match.key for match in self.reads.names]
        at, specs, inputs = self.reads.logits or "last", self.specs[number], self.baseline.inputs
        cache: Mapping[str, Tensor] = {}
        if keys:
            logits, cache = self.model.run_with_cache(inputs, names_filter=keys, interventions=specs, logits_at=at)
        else:
            logits = self.model(inputs, interventions=specs, logits_at=at)
        self._store(number, logits, {key: cache[key] for key in keys})

    def fill_clean(self, number: int) -> None:
        """What an intervention leads to where it changes nothing."""
        reads, clean = self.reads, self.baseline.clean
        self._store(number, clean(reads.logits or "last"), {match.key: clean(match.key) for match in reads.names})

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


class _Sweep:
    """One batch of interventions that hold the same rows, from the first layer that any of them touches."""

    def __init__(self, job: _Job, batch: list[tuple[int, Cone]]) -> None:
        self.job, self.baseline, self.model = job, job.baseline, job.model
        self.numbers, self.cones = [number for number, _ in batch], [cone for _, cone in batch]
        self.rows = torch.tensor(self.cones[0].rows, device=self.model.device)
        self.reading = torch.tensor(self.cones[0].reading, device=self.model.device, dtype=torch.int64)
        cfg = self.model.decoder.cfg
        self.blocked = BlockedKeys(self.rows, self.rows, self.cones[0].rows[0], cfg.n_heads, cfg.n_key_value_heads)

    def run(self) -> None:
        """Blocks from the first that is touched to the last that is read, and the logits."""
        reads, blocks = self.job.reads, self.model.blocks
        self.baseline.reach(self.cones[0].rows[0])
        resid = self.baseline.embeds.new_empty(0, len(self.rows), self.baseline.embeds.shape[1])
        with self.model.hooks():
            self._hook()
            # nothing that is read at the end can change: then the last block is left out
            stop = reads.last_block + bool(len(self.reading))
            for layer in range(min(self.cones[0].join, reads.last_block), stop):
                resid = self._joined(resid, layer, self.rows)
                if not len(resid):
                    continue
                narrow = {}
                if layer == reads.last_block and len(self.reading) < len(self.rows):
                    narrow = {"reading": torch.searchsorted(self.rows, self.reading)}
                cuts = [cone.cuts.get(layer, ()) for cone in self.cones[: len(resid)]]
                attend = self.baseline.attend(layer, self.rows, cuts, blocked=self.blocked, **narrow)
                resid = blocks[layer](resid, self.baseline.tables(self.rows, len(resid)), attend)
            if reads.top == reads.n_layers and len(self.reading):
                self._read_out(self._joined(resid, reads.n_layers, self.reading))

    def _joined(self, resid: Tensor, layer: int, rows: Tensor) -> Tensor:
        """The batch with those interventions that first touch this layer: so far their rows are the clean ones."""
        n_new = sum(cone.join == layer for cone in self.cones)
        if n_new:
            clean = self.baseline.clean_resid(layer, rows)
            held = resid if len(resid) else resid.new_empty(0, *clean.shape)
            resid = torch.cat([held, clean.expand(n_new, -1, -1)])
        return self.model.hook_inputs_embed(resid) if layer == 0 and n_new else resid

    def _read_out(self, resid: Float[Tensor, "run row d_model"]) -> None:
        normalized = self.model.ln_final(resid)
        if self.job.reads.logits is None or self.job.logits is None:
            return
        wanted = torch.tensor(self.job.reads.rows["logits"], device=resid.device)
        found = torch.isin(wanted, self.reading)
        logits = self.model.unembed(normalized[:, torch.searchsorted(self.reading, wanted[found])])
        for run, number in enumerate(self.numbers):
            if len(wanted) == 1:
                self.job.logits[number] = logits[run, 0]
            else:
                self.job.logits[number][found] = logits[run]

    def _hook(self) -> None:
        """Edits and reads as hooks on the points of this batch; edits come first."""
        edits: dict[str, list[tuple[int, PointEdit]]] = {}
        for run, cone in enumerate(self.cones):
            for edit in cone.plan.edits:
                edits.setdefault(edit.point, []).append((run, edit))
        for point, some in edits.items():
            self._add(point, lambda tensor, hook, some=some: self._edit(tensor, hook, some))
        for match in self.job.reads.names:
            self._add(match.name, lambda tensor, hook, key=match.key: self._read(tensor, hook, key))

    def _add(self, point: str, function: Callable[..., Any]) -> None:
        self.model.hook_dict[point].add_hook(function, level=self.model.context_level)

    def _held(self, point: str) -> Int64[Tensor, " row"]:
        """The positions that a hook point's tensor holds."""
        reads = self.job.reads
        late = level(point, reads.n_layers) >= reads.last_block and not holds_every_row(point)
        return self.reading if late else self.rows

    def _edit(self, tensor: Tensor, hook: HookPoint, edits: Sequence[tuple[int, PointEdit]]) -> Tensor:
        """Each run's own edits, in its own rows; rows that are not held are read by nobody."""
        held, out = self._held(str(hook.name)), tensor.clone()
        for run, edit in edits:
            if run >= len(tensor):
                continue  # joins later: it does not touch this layer
            wanted = self.job.run.positions(edit.scope.queries or "")[0]
            found = torch.isin(wanted, held)
            index = torch.searchsorted(held, wanted[found])
            rows = tensor.new_zeros(1, len(wanted), *tensor.shape[2:])
            rows[0, found] = out[run, index]
            out[run, index] = edit.spec.rows(edit.point, rows)[0, found]
        return out

    def _read(self, tensor: Tensor, hook: HookPoint, key: str) -> None:
        held = self._held(str(hook.name))
        wanted = torch.tensor(self.job.reads.rows[key], device=tensor.device)
        found = torch.isin(wanted, held)
        index = torch.searchsorted(held, wanted[found])
        for run, number in enumerate(self.numbers[: len(tensor)]):
            self.job.activations[key][number][found] = tensor[run, index]


def _report_full(full: Sequence[int], n: int) -> None:
    if full:
        warnings.warn(
            f"{len(full)} of {n} interventions run as full forward passes: hooks are open, or they edit or read what "
            "only exists in a full pass (attention matrices, encoder rows, text embeddings)",
            HookedAVWarning,
            stacklevel=4,
        )


def _kept_bytes(model: Any, n_pos: int, n_rows: int) -> int:
    cfg = model.decoder.cfg
    kv = cfg.n_layers * n_pos * 2 * cfg.n_key_value_heads * cfg.d_head
    resid = cfg.d_model * (cfg.n_layers * n_rows + n_pos + (n_rows if n_rows < n_pos else 0))
    return (kv + resid) * model.embed.weight.element_size()


def _row_bytes(model: Any) -> int:
    """Working memory of one row of one run in a block, where it peaks."""
    cfg = model.decoder.cfg
    return (2 * cfg.d_mlp + 4 * cfg.d_model) * model.embed.weight.element_size()


def _check_clean(model: Any, inputs: AVInputs) -> None:
    if inputs.batch != 1 or inputs.starts != (0,):
        raise InputsError(
            "a baseline needs one prompt without padding",
            expected="one prompt",
            got=f"{inputs.batch} prompts, starting at {list(inputs.starts)}",
            next_step="make a baseline for each prompt",
        )
    hooked = [name for name, point in model.hook_dict.items() if point.is_hooked]
    if hooked:
        raise HookError(
            "a baseline is a clean pass, but hooks are open",
            expected="no hooks",
            got=hooked[:5],
            next_step="make the baseline first; replays under open hooks run as full passes",
        )
