"""Information flow: which pathways carry the answer, through which layers, beside random cuts of the same size.

The map of attention knockouts of Geva et al. (2023), Cross-modal Information Flow (CVPR 2025) and Map the Flow (ICLR
2026), for audio-visual prompts.

Axes: sample, draw (random control), pathway, layer (centre of the window that is cut), edge (low and high, or first and
last).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from tqdm.auto import tqdm

from hooked_av.analyses.answers import (
    READINGS,
    UNKNOWN,
    Answers,
    Measured,
    Metric,
    Targets,
    answer_fields,
    check_metric,
    nothing_left,
    stacked,
)
from hooked_av.analyses.controls import Controls, without_reports_of_empty_rows
from hooked_av.analyses.flow_table import fields_of, table_of
from hooked_av.analyses.knockout import default_width, layer_window
from hooked_av.bootstrap import bootstrap_interval
from hooked_av.cases import Case, as_cases
from hooked_av.pathways import Pathway, as_pathways, default_pathways, other_layout, with_answer_spans
from hooked_av.replay import Baseline
from hooked_av.results import run_settings

_LOGITS_AT_ONCE = 2**25  # numbers: 128 MiB in float32


@dataclass(frozen=True, eq=False, kw_only=True)
class InformationFlow(Answers):
    """The answer of every sample while each pathway is cut around each layer, and while random cuts are made."""

    axes: ClassVar = {
        **Answers.axes,
        **dict.fromkeys(READINGS, ("sample", "pathway", "layer")),
        **dict.fromkeys((f"control_{name}" for name in READINGS), ("sample", "draw", "pathway", "layer")),
        "windows": ("layer", "edge"),
    }
    p_answer: Float64[np.ndarray, "sample pathway layer"]
    p_gold: Float64[np.ndarray, "sample pathway layer"]
    logit_difference: Float64[np.ndarray, "sample pathway layer"]  # to the alternative; NaN where there is none
    best_ids: Int64[np.ndarray, "sample pathway layer"]  # the most probable token while the pathway is cut
    control_p_answer: Float64[np.ndarray, "sample draw pathway layer"]
    control_p_gold: Float64[np.ndarray, "sample draw pathway layer"]
    control_logit_difference: Float64[np.ndarray, "sample draw pathway layer"]
    control_best_ids: Int64[np.ndarray, "sample draw pathway layer"]
    windows: Int64[np.ndarray, "layer edge=2"]  # first and last layer that are cut, both included
    pathways: tuple[str, ...]
    window: int
    skipped: tuple[str, ...] = ()  # samples left out, because the clean model answers them wrongly

    @property
    def changes(self) -> Float64[np.ndarray, "sample pathway layer"]:
        """Change of the answer's probability in each sample, 100 * (p_cut - p_base) / p_base."""
        return self.percent(self.p_answer, self.p_gold)

    @property
    def control_changes(self) -> Float64[np.ndarray, "sample draw pathway layer"]:
        """The same under the random cuts."""
        return self.percent(self.control_p_answer, self.control_p_gold)

    @property
    def control_changes_mean(self) -> Float64[np.ndarray, "sample pathway layer"]:
        """The mean of `control_changes` over draws; NaN without controls."""
        changes = self.control_changes
        return changes.mean(axis=1) if changes.shape[1] else np.full_like(self.p_answer, np.nan)

    @property
    def change_percent(self) -> Float64[np.ndarray, "pathway layer"]:
        """The mean of `changes` over samples."""
        return self.changes.mean(axis=0)

    @property
    def interval(self) -> Float64[np.ndarray, "edge pathway layer"]:
        """95 % bootstrap interval of `change_percent` over samples; NaN for one sample."""
        return bootstrap_interval(self.changes)

    @property
    def control_percent(self) -> Float64[np.ndarray, "pathway layer"]:
        """The mean of `control_changes` over draws and samples; NaN without controls."""
        return self.control_changes_mean.mean(axis=0)

    @property
    def control_interval(self) -> Float64[np.ndarray, "edge pathway layer"]:
        """95 % bootstrap interval of `control_percent` over samples; of one sample, the range of its draws."""
        changes = self.control_changes
        if len(changes) == 1 and changes.shape[1]:
            return np.stack([changes[0].min(axis=0), changes[0].max(axis=0)])
        return bootstrap_interval(self.control_changes_mean)

    @property
    def logit_difference_change(self) -> Float64[np.ndarray, "pathway layer"]:
        """Mean change of the logit difference to the alternative."""
        return (self.logit_difference - self.per_sample(self.logit_difference_base, self.best_ids)).mean(axis=0)

    @property
    def flips(self) -> Float64[np.ndarray, "pathway layer"]:
        """Share of samples whose most probable token is another one."""
        return (self.best_ids != self.per_sample(self.answer_ids, self.best_ids)).mean(axis=0)

    @property
    def accuracy(self) -> Float64[np.ndarray, "pathway layer"]:
        """Share of samples that are answered rightly; NaN where a right answer is not known."""
        return self.is_right(self.best_ids).mean(axis=0)

    def summary(self) -> pd.DataFrame:
        """One row a pathway and layer, over all samples."""
        pathways, layers = (index.ravel() for index in np.indices(self.change_percent.shape))
        (low, high), (control_low, control_high) = self.interval, self.control_interval
        return pd.DataFrame(
            {
                "pathway": np.array(self.pathways, dtype=object)[pathways],
                "layer": layers,
                "first_cut": self.windows[layers, 0],
                "last_cut": self.windows[layers, 1],
                "n_samples": len(self.ids),
                "change_percent": self.change_percent.ravel(),
                "low": low.ravel(),
                "high": high.ravel(),
                "control_percent": self.control_percent.ravel(),
                "control_low": control_low.ravel(),
                "control_high": control_high.ravel(),
                "logit_difference_change": self.logit_difference_change.ravel(),
                "flips": self.flips.ravel(),
                "accuracy": self.accuracy.ravel(),
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a sample, pathway and layer; `summary` has the means."""
        return table_of(self)

    @classmethod
    def from_frame(
        cls,
        table: pd.DataFrame,
        *,
        only_correct: bool = True,
        metric: Metric = "answer",
        settings: Mapping[str, Any] | None = None,
    ) -> "InformationFlow":
        """The result of these samples, from tables that `to_frame` made of them together or one by one.

        Args:
            only_correct: leave out samples that the clean model answers wrongly, where the right answer is known.
            metric, settings: what the table does not say.

        Errors: `InputsError` for samples of different layouts, for what is no such table, and when nothing is left.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> flow = information_flow(model, model.prepare(question="Which digit do you hear?"))
        >>> again = InformationFlow.from_frame(flow.to_frame())
        >>> bool((again.control_changes == flow.control_changes).all())
        True
        """
        fields = fields_of(table, only_correct)
        for sample, gold in zip(fields["ids"], fields["gold_ids"].tolist(), strict=True):
            check_metric(metric, sample, is_known=gold != UNKNOWN)
        counts = {"n_samples": len(fields["ids"]), "n_skipped": len(fields["skipped"])}
        own = {"metric": metric, "only_correct": only_correct, **counts}
        return cls(**fields, metric=metric, settings={**(settings or {}), **own})


def information_flow(
    model: Any,
    cases: Any,
    *,
    pathways: Any = None,
    window: int | Literal["all"] | None = None,
    metric: Metric = "answer",
    controls: Controls | int = Controls(),  # noqa: B008 - it is immutable
    only_correct: bool = True,
    progress: bool = False,
) -> InformationFlow:
    """Through which layers does the answer need which pathway, and more than any cut of that size would do?

    For each pathway and layer, attention from keys to queries is cut in a window of layers around that layer; beside it
    stands a random cut of as many (query, key) pairs in the same layers.

    Args:
        cases: one prompt, one `av.Case`, or any number of either (taken one by one; only numbers are kept).
        pathways: routes ("audio->question"), (keys, queries) pairs, or `Pathway`s; None: all that the prompt's spans
            allow (`default_pathways`), the same in every sample.
        window: layers that are cut at once (None: `default_width`); "all": every layer at once, so that the result
            has one layer, and says whether a pathway is needed at all.
        metric: whose probability `change_percent` is about: the clean run's "answer", or the right one ("gold").
        controls: random draws beside each cut (0: none), or `av.Controls(draws, "entries" or "rows", seed)`.
        only_correct: leave out samples that the clean model answers wrongly, where the right answer is known; who was
            left out is in `skipped`.
        progress: show a bar.

    It runs on the replay engine. All pathways cost about two forward passes a sample; a control that is drawn from the
    whole triangle costs up to one for each cut ("rows" is as cheap as the cut). Random cuts that leave a row without
    any key make it read zero; this is not reported here.

    Errors: `SpanError` for a sample without a pathway's spans, `InputsError` for samples of different layouts, a batch,
    no sample, or an answer that is not one token; `InterventionError` for a window that the model does not have.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1]
    >>> inputs = model.prepare(sample.clip, question=sample.question)
    >>> flow = av.information_flow(model, inputs, pathways=["audio->question", "audio->last"], controls=0)
    >>> sample.question, flow.texts(flow.answer_ids), flow.change_percent.shape
    ('Which digit is spoken first?', ['five'], (2, 8))
    """
    n_layers, drawn = model.cfg.n_layers, Controls.given(controls)
    width = {None: default_width(n_layers), "all": n_layers}.get(window, window)
    whole = [range(n_layers)] if window == "all" else None
    windows = whole or [layer_window(layer, n_layers, width) for layer in range(n_layers)]
    flow = _Flow(model, None if pathways is None else as_pathways(pathways), windows, drawn)
    samples, skipped, sizes, last = [], [], [], None
    for case in tqdm(as_cases(cases), desc="samples", unit="sample", disable=not progress):
        check_metric(metric, case.id, is_known=case.answer is not None)
        measured = flow.measure(case, only_correct)
        (skipped if measured is None else samples).append(case.id if measured is None else measured)
        sizes, last = [*sizes, case.inputs.n_pos], case.inputs
    if not samples or last is None:
        raise nothing_left(skipped)
    names = [pathway.name for pathway in flow.pathways or ()]
    own = {"window": width, "metric": metric, "controls": vars(drawn), "only_correct": only_correct}
    return InformationFlow(
        **answer_fields(model, samples, metric),
        **stacked(samples),
        windows=np.array([(some[0], some[-1]) for some in windows], dtype=np.int64),
        pathways=tuple(names),
        window=width,
        skipped=tuple(skipped),
        settings=run_settings(
            model, last, **own, pathways=names, n_pos=sorted(set(sizes)), n_samples=len(samples), n_skipped=len(skipped)
        ),
    )


class _Flow:
    """One call: what is cut in every sample, and the first sample's own pathways where none are given."""

    def __init__(
        self, model: Any, pathways: tuple[Pathway, ...] | None, windows: Sequence[range], controls: Controls
    ) -> None:
        self.model, self.windows, self.controls = model, windows, controls
        self.pathways, self.is_default, self.first = pathways, pathways is None, ""

    def measure(self, case: Case, only_correct: bool) -> Measured | None:
        """One sample; None for one that is left out."""
        case = with_answer_spans(case)
        pathways = self._pathways_of(case)
        keep_all = bool(self.controls.draws) and self.controls.spread == "entries"
        queries = "|".join(dict.fromkeys(queries for pathway in pathways for _, queries in pathway.pairs))
        baseline = self.model.baseline(case.inputs, touched=None if keep_all else queries)
        targets = Targets.of(self.model, case, baseline.logits)
        if only_correct and targets.is_wrong:
            return None
        cuts = [pathway.cut(window) for pathway in pathways for window in self.windows]
        shape = (len(pathways), len(self.windows))
        runs = {name: values.reshape(shape) for name, values in read_all(baseline, cuts, targets).items()}
        draws = self.controls.draws
        with without_reports_of_empty_rows():
            random = [self.controls.of(cut, case.id, draw) for draw in range(draws) for cut in cuts]
            found = read_all(baseline, random, targets)
        runs |= {f"control_{name}": values.reshape(draws, *shape) for name, values in found.items()}
        return Measured(case, targets, targets.read(baseline.logits[None]), runs)

    def _pathways_of(self, case: Case) -> tuple[Pathway, ...]:
        pathways = default_pathways(case.inputs) if self.is_default else self.pathways or ()
        for pathway in pathways:
            pathway.check(case)
        if self.pathways is None:
            self.pathways, self.first = pathways, case.id
        differing = {pathway.name for pathway in pathways} ^ {pathway.name for pathway in self.pathways}
        if differing:
            raise other_layout(case.id, self.first, sorted(differing))
        return pathways


def read_all(baseline: Baseline, interventions: Sequence[Any], targets: Targets) -> dict[str, np.ndarray]:
    """What each intervention leads to; only a part of them has its logits in memory at one time."""
    runs = (baseline.run(some).logits for some in _chunks(interventions, len(baseline.logits)))
    parts = [targets.read(logits) for logits in runs if logits is not None]
    if not parts:
        return {name: values[:0] for name, values in targets.read(baseline.logits[None]).items()}
    return {name: np.concatenate([part[name] for part in parts]) for name in READINGS}


def _chunks(interventions: Sequence[Any], d_vocab: int) -> Iterator[Sequence[Any]]:
    size = max(1, _LOGITS_AT_ONCE // d_vocab)
    for start in range(0, len(interventions), size):
        yield interventions[start : start + size]
