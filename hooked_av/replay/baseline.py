"""The exact replay engine: a sweep of interventions recomputes only what each of them can change.

In a causal decoder an intervention that first touches layer l and position p changes nothing below l and nothing before
p. `model.baseline(inputs)` runs once and keeps rotated keys, values, and the residual stream; `baseline.run(...)` then
computes rows from p on in layers from l on, many interventions as one batch over the shared keys and values, and
unembeds what is read. Results equal a full pass with the same intervention.

Axes: intervention, span (rows read), row (positions that are computed), kv_head pos d_head, d_model, d_vocab.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from hooked_av.decoder import costs
from hooked_av.doors import door
from hooked_av.errors import HookedAVWarning, InputsError, InterventionError
from hooked_av.forward.passes import RunningModel
from hooked_av.hooks.cache import check_budget
from hooked_av.interventions.intervention import Intervention
from hooked_av.interventions.specs import as_specs
from hooked_av.prompt.inputs import AVInputs
from hooked_av.replay.clean_pass import CleanPass
from hooked_av.replay.cones import Cone
from hooked_av.replay.sweep import Batch, Sweep


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

    def __init__(
        self, model: RunningModel, inputs: AVInputs, touched: str | None = None, max_bytes: int | None = None
    ) -> None:
        self.clean = CleanPass(model, inputs, touched, max_bytes)

    def __reduce__(self) -> NoReturn:
        raise InputsError(
            "a baseline is neither copied nor saved: it holds its model, and keys and values of every layer",
            expected="its results (baseline.run(...)), or the inputs it was made of",
            got="a copy, a pickle or torch.save of it",
            next_step="make one where it is needed: model.baseline(inputs)",
        )

    @property
    def inputs(self) -> AVInputs:
        return self.clean.inputs

    @property
    def logits(self) -> Float[Tensor, " d_vocab"]:
        return self.clean.logits

    @property
    def n_bytes(self) -> int:
        return self.clean.n_bytes

    def __repr__(self) -> str:
        return repr(self.clean)

    @torch.no_grad()
    @door
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
        sweep = Sweep(self.clean, [as_specs(some) for some in several], [read] if isinstance(read, str) else list(read))
        full = [i for i, plan in enumerate(sweep.plans) if not sweep.can_replay(plan)]
        _report_full(full, len(sweep.plans))
        cones = {i: Cone.of(plan, sweep.reads, sweep.run) for i, plan in enumerate(sweep.plans) if i not in set(full)}
        batches = self._batches([(i, cone) for i, cone in cones.items() if cone is not None], max_bytes)
        with tqdm(total=len(sweep.plans), desc="interventions", unit="intervention", disable=not progress) as bar:
            for i in full:
                sweep.full_pass(i)
                bar.update()
            for i in cones:
                sweep.fill_clean(i)
            bar.update(sum(cone is None for cone in cones.values()))
            for batch in batches:
                Batch(sweep, batch).run()
                bar.update(len(batch))
        return Replayed(tuple(sweep.specs), sweep.logits, sweep.activations, tuple(full))

    @door
    def logits_under(
        self, interventions: Sequence[Any], read: str = "last", *, progress: bool = False
    ) -> Float[Tensor, "intervention *span d_vocab"]:
        """The logits of `run`, and nothing else: [intervention, d_vocab] at one position.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> baseline = model.baseline(model.prepare(question="Which digit do you hear?"))
        >>> baseline.logits_under(["system->question@0", "system->last@1"]).shape == (2, model.cfg.d_vocab)
        True
        """
        logits = self.run(interventions, read, progress=progress).logits
        if logits is None:
            raise InterventionError(
                "no logits are read here",
                expected="a span whose logits are read",
                got=read,
                next_step="read hook names with baseline.run(..., read=[...])",
            )
        return logits

    def _batches(self, cones: list[tuple[int, Cone]], max_bytes: int | None) -> list[list[tuple[int, Cone]]]:
        """Interventions that hold the same rows, in the order in which they join, as many at a time as fit."""
        groups: dict[Any, list[tuple[int, Cone]]] = {}
        for number, cone in sorted(cones, key=lambda item: item[1].join):
            groups.setdefault((cone.rows, cone.reading), []).append((number, cone))
        at_once = self._rows_at_once() if max_bytes is None else max_bytes // _row_bytes(self.clean.model)
        batches = []
        for (rows, _), group in groups.items():
            if max_bytes is not None and len(rows) > at_once:
                needed = len(rows) * _row_bytes(self.clean.model)
                fits = lambda _, needed=needed: f"give max_bytes={needed}, or more"  # noqa: E731
                check_budget("one intervention", needed, self.clean.model.device, max_bytes, fits)
            size = max(1, at_once // len(rows))
            batches += [group[start : start + size] for start in range(0, len(group), size)]
        return batches

    def _rows_at_once(self) -> int:
        """Rows that a batch may hold, so that it and what is kept take about the memory of a clean pass."""
        n_pos, row = self.inputs.n_pos, _row_bytes(self.clean.model)
        return max(n_pos - self.n_bytes // row, n_pos // 4, costs.FREE_BYTES // row, 1)


def _report_full(full: Sequence[int], n: int) -> None:
    if full:
        warnings.warn(
            f"{len(full)} of {n} interventions run as full forward passes: hooks are open, or they edit or read what "
            "only exists in a full pass (attention matrices, encoder rows, text embeddings)",
            HookedAVWarning,
            stacklevel=4,
        )


def _row_bytes(model: RunningModel) -> int:
    """Working memory of one row of one run in a block, where it peaks."""
    cfg = model.decoder.cfg
    return (2 * cfg.d_mlp + 4 * cfg.d_model) * model.decoder.embed.weight.element_size()
