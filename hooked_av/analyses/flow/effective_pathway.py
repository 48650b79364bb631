"""Effective pathway: are a few routes of attention enough for the answer, when all others are cut?

Axes: sample, draw (random edge set).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from hooked_av.analyses.bootstrap import bootstrap_interval
from hooked_av.analyses.cases import Case, over_cases
from hooked_av.analyses.flow.answers import (
    BASES,
    READINGS,
    SHOWN,
    SHOWN_BASES,
    Answers,
    Measured,
    Reading,
    Targets,
    answer_fields,
    stacked,
)
from hooked_av.analyses.flow.controls import Controls, without_reports_of_empty_rows
from hooked_av.analyses.flow.information_flow import read_all
from hooked_av.analyses.metric import Follow, Metric
from hooked_av.analyses.results import run_settings
from hooked_av.decoder.cuts import count_cut
from hooked_av.doors import door
from hooked_av.former import formerly
from hooked_av.interventions.specs import KeepOnly, keep_only
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer


@dataclass(frozen=True, eq=False, kw_only=True)
class EffectivePathway(Answers):
    """The answer of every sample with these edges only, and with random edge sets of the same share."""

    figure: ClassVar = "hooked_av.plots.effective:plot_effective_pathway"
    axes: ClassVar = {
        **Answers.axes,
        **dict.fromkeys((*READINGS, *SHOWN, "metric_changed", "best_texts", "best_is_right"), ("sample",)),
        **dict.fromkeys((f"control_{name}" for name in (*READINGS, *SHOWN)), ("sample", "draw")),
        "share": ("sample",),
    }
    columns: ClassVar = (
        "id=sample", "task=tasks", "answer=answers", "gold=golds", "alternative=alternatives",
        "share_of_edges=share", *SHOWN_BASES, *BASES, *SHOWN, *READINGS, "metric", "metric_base", "metric_changed",
        "best_token=best_texts", "is_right=best_is_right",
    )  # fmt: skip
    log_p_answer: Float64[np.ndarray, " sample"]
    log_p_gold: Float64[np.ndarray, " sample"]
    log_p_alternative: Float64[np.ndarray, " sample"]
    best_ids: Int64[np.ndarray, " sample"]
    control_log_p_answer: Float64[np.ndarray, "sample draw"]
    control_log_p_gold: Float64[np.ndarray, "sample draw"]
    control_log_p_alternative: Float64[np.ndarray, "sample draw"]
    control_best_ids: Int64[np.ndarray, "sample draw"]
    share: Float64[np.ndarray, " sample"]  # of the L * N * (N + 1) / 2 edges that remain
    edges: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def summary(self) -> pd.DataFrame:
        """Clean run, these edges, random edges: the metric, agreement with the clean answer, accuracy.

        Each with its 95 % bootstrap interval over samples; the metric stands in a column of its own name. Accuracy is
        NaN where right answers are not known.
        """
        return pd.DataFrame([{"run": name, **self._row(*values)} for name, values in self._runs().items()])

    def _runs(self) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
        """For each run the metric, the most probable tokens, and the share of edges."""
        share, random = float(self.share.mean()), self.control_metric
        runs = {
            "clean": (self.metric_base, self.answer_ids, 1.0),
            "these edges": (self.metric_changed, self.best_ids, share),
        }
        return runs | ({"random edges": (random, self.control_best_ids, share)} if random.shape[1] else {})

    def _row(self, measured: np.ndarray, best_ids: np.ndarray, share: float) -> dict[str, float]:
        agrees = (best_ids == self.per_sample(self.answer_ids, best_ids)).astype(float)
        row = {"share_of_edges": share}
        for name, values in {self.metric: measured, "agreement": agrees, "accuracy": self.is_right(best_ids)}.items():
            by_sample = values.reshape(len(values), -1).mean(axis=1)
            low, high = bootstrap_interval(by_sample)
            row |= {name: by_sample.mean(), f"{name}_low": low, f"{name}_high": high}
        return row

    def to_frame(self) -> pd.DataFrame:
        """One row a sample; `summary` has the means."""
        draws = range(self.control_best_ids.shape[1])
        read = ("control_p_answer", "control_best_ids")
        return self.tabulate(*self.columns, *(f"{name}_{draw}={name}[draw={draw}]" for name in read for draw in draws))


@formerly("metric", "follow", ("answer", "gold"))
@door
def effective_pathway(
    model: "HookedAVTransformer",
    cases: Any,
    edges: Any,
    *,
    metric: Metric = "probability",
    follow: Follow = "answer",
    controls: Controls | int = Controls(3),  # noqa: B008 - it is immutable
    only_correct: bool = True,
    progress: bool = False,
) -> EffectivePathway:
    """Do these edges alone carry the answer? Every other (query, key) pair of every layer is cut.

    Args:
        cases: one prompt, one `av.Case`, or any number of either.
        edges: routes that stay, such as `["text->text", "audio->question@0-3", "question->last"]`. A token that no
            route lets read anything, itself included, reads zero, and is reported.
        metric, follow: as for `information_flow`.
        controls: how many random edge sets of the same share, drawn layer by layer (0: none).
        only_correct: leave out samples that the clean model answers wrongly, where the right answer is known.
        progress: show a bar.

    Errors: `SpanError` for a sample without a route's spans; `InterventionError` for what is no route; `InputsError`
    for no sample, or an answer that is not one token.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1]
    >>> case = av.Case(model.prepare(sample.clip, question=sample.question), answer=sample.answer)
    >>> edges = ["user->user", "system->system", "system|user|assistant->assistant"]
    >>> kept = av.effective_pathway(model, case, edges, controls=1)
    >>> bool(0 < kept.share[0] < 1), kept.summary()["run"].tolist()
    (True, ['clean', 'these edges', 'random edges'])
    """
    keep, drawn = keep_only(*([edges] if isinstance(edges, str) else edges)), Controls.given(controls)
    reading = Reading(metric, follow, only_correct)

    def measure(case: Case) -> Measured | None:
        return _measure(model, case, keep, drawn, reading)

    found = over_cases(cases, measure, progress=progress)
    names = tuple(str(route) for route in keep.routes)
    own = {**vars(reading), "controls": vars(drawn), "edges": list(names)}
    return EffectivePathway(
        **answer_fields(model, found.samples, reading),
        **stacked(found.samples),
        edges=names,
        skipped=found.skipped,
        settings=run_settings(model, found.last, **own, n_samples=len(found.samples), n_skipped=len(found.skipped)),
    )


def _measure(
    model: "HookedAVTransformer", case: Case, keep: KeepOnly, controls: Controls, reading: Reading
) -> Measured | None:
    share = share_left(model, case.inputs, keep)
    baseline = model.baseline(case.inputs)
    targets = Targets.of(model, case, baseline.logits)
    if not reading.takes(targets, case.id):
        return None
    runs = {name: np.asarray(values[0]) for name, values in read_all(baseline, [keep], targets).items()}
    with without_reports_of_empty_rows():
        random = [controls.of([keep], case.id, draw) for draw in range(controls.draws)]
        found = read_all(baseline, random, targets)
    runs |= {f"control_{name}": values for name, values in found.items()} | {"share": np.array(share)}
    return Measured(case, targets, targets.read(baseline.logits[None]), runs)


def share_left(model: "HookedAVTransformer", inputs: AVInputs, keep: KeepOnly) -> float:
    """The share of the L * N * (N + 1) / 2 (query, key) pairs that these routes leave.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> inputs = model.prepare(question="Which digit do you hear?")
    >>> inputs = inputs.with_span("everything", range(inputs.n_pos))
    >>> share_left(model, inputs, av.keep_only("everything->everything@0"))
    0.5
    """
    cuts = model.begin(inputs, interventions=keep).plan.cuts
    lost = sum(int(count_cut(some, inputs.n_pos, inputs.starts, model.device).sum()) for some in cuts.values())
    return 1 - lost / (model.cfg.n_layers * inputs.n_pos * (inputs.n_pos + 1) / 2)
