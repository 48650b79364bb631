"""Modality contribution: how much of the answer rests on the sound, and how much on the picture, task by task.

Axes: sample, draw (random control), condition (what a modality loses), edge (low, high); layer, rows (that read),
modality (that is read).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64, Shaped

from hooked_av.analyses.attention.mass import mass_of
from hooked_av.analyses.attention.parts import Parts
from hooked_av.analyses.bootstrap import bootstrap_interval, percentile_interval, resampled_means
from hooked_av.analyses.cases import Case, over_cases
from hooked_av.analyses.flow.answers import (
    BASES,
    READINGS,
    SHOWN,
    SHOWN_BASES,
    UNKNOWN,
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
from hooked_av.analyses.swaps import SWAPS, check_swaps
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.former import formerly
from hooked_av.interventions.specs import block_attention
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

# What a condition is called -> the modality that loses, and how: attention to it, or what it says.
CONDITIONS: Mapping[str, tuple[str, str]] = {
    "audio cut": ("audio", "cut"),
    "video cut": ("video", "cut"),
    "both cut": ("both", "cut"),
    **SWAPS,
}
ROWS = ("question", "last")
MODALITIES = ("audio", "video", "text")  # pictures count as video; text is all that is neither
_SPANS: Mapping[str, tuple[str, ...]] = {"audio": ("audio",), "video": ("video", "image")}


@dataclass(frozen=True, eq=False, kw_only=True)
class ModalityContribution(Answers):
    """The answer of every sample as it is, and without each modality; NaN and -1 where a condition was not run."""

    figure: ClassVar = "hooked_av.plots.contribution:plot_modality_contribution"
    axes: ClassVar = {
        **Answers.axes,
        **dict.fromkeys((*READINGS, *SHOWN, "best_texts"), ("sample", "condition")),
        **dict.fromkeys(("drop", "probability_drop", "accuracy_drop", "control_drop"), ("sample", "condition")),
        **dict.fromkeys((f"control_{name}" for name in READINGS), ("sample", "draw", "condition")),
        "attention": ("sample", "layer", "rows", "modality"),
        "token_share": ("sample", "modality"),
        "attention_lost": ("sample", "rows", "condition"),
        **dict.fromkeys(("lost", "kinds"), ("condition",)),
    }
    labels: ClassVar = {**Answers.labels, "condition": "conditions", "rows": "rows", "modality": "modalities"}
    columns: ClassVar = (
        "id=sample", "task=tasks", "condition", "modality=lost", "kind=kinds", "answer=answers", "gold=golds",
        "alternative=alternatives", *SHOWN_BASES, *BASES, *SHOWN, *READINGS, "best_token=best_texts",
        "probability_drop", "accuracy_drop", "metric", "drop", "control_drop",
    )  # fmt: skip
    log_p_answer: Float64[np.ndarray, "sample condition"]
    log_p_gold: Float64[np.ndarray, "sample condition"]
    log_p_alternative: Float64[np.ndarray, "sample condition"]
    best_ids: Int64[np.ndarray, "sample condition"]
    control_log_p_answer: Float64[np.ndarray, "sample draw condition"]  # random cuts as large as each cut; else NaN, -1
    control_log_p_gold: Float64[np.ndarray, "sample draw condition"]
    control_log_p_alternative: Float64[np.ndarray, "sample draw condition"]
    control_best_ids: Int64[np.ndarray, "sample draw condition"]
    attention: Float64[np.ndarray, "sample layer rows modality"]  # of the clean run; NaN where a sample lacks either
    token_share: Float64[np.ndarray, "sample modality"]  # of all tokens of the prompt
    conditions: tuple[str, ...]
    rows: tuple[str, ...] = ROWS
    modalities: tuple[str, ...] = MODALITIES
    skipped: tuple[str, ...] = ()

    @property
    def drop(self) -> Float64[np.ndarray, "sample condition"]:
        """The metric in the clean run, minus that in the condition."""
        return self.per_sample(self.metric_base, self.best_ids) - self.metric_changed

    @property
    def control_drop(self) -> Float64[np.ndarray, "sample condition"]:
        """The same under random cuts of the same size, the mean over draws; NaN without, and for swaps."""
        drops = self.per_sample(self.metric_base, self.control_best_ids) - self.control_metric
        return drops.mean(axis=1) if drops.shape[1] else np.full_like(self.log_p_answer, np.nan)

    @property
    def probability_drop(self) -> Float64[np.ndarray, "sample condition"]:
        """Probability of the answer in the clean run, minus that in the condition, whatever the metric."""
        base, p = (self.p_gold_base, self.p_gold) if self.follow == "gold" else (self.p_answer_base, self.p_answer)
        return self.per_sample(base, p) - p

    @property
    def accuracy_drop(self) -> Float64[np.ndarray, "sample condition"]:
        """1 where the condition loses a right answer, -1 where it gains one; NaN where nobody knows the right one."""
        drop = self.is_right(self.answer_ids)[:, None] - self.is_right(self.best_ids)
        return np.where(self.best_ids == UNKNOWN, np.nan, drop)

    def summary(self) -> pd.DataFrame:
        """One row a task and condition: drops of the metric, of probability and accuracy with 95 % bootstrap intervals.

        `control_drop`: of the metric, under random cuts of the same size; NaN for swaps.
        """
        return pd.DataFrame([self._row(*pair) for pair in product(dict.fromkeys(self.tasks), self.conditions)])

    def _row(self, task: str, condition: str) -> dict[str, Any]:
        modality, kind = CONDITIONS[condition]
        row = {"task": task, "condition": condition, "modality": modality, "kind": kind}
        samples, column = self._of(task), self.conditions.index(condition)
        row |= {"n_samples": int((self.best_ids[samples, column] != UNKNOWN).sum())}
        for name in ("drop", "probability_drop", "accuracy_drop", "control_drop"):
            values = getattr(self, name)[samples, column]
            known = values[~np.isnan(values)]
            low, high = bootstrap_interval(known)
            row |= {name: known.mean() if len(known) else np.nan, f"{name}_low": low, f"{name}_high": high}
        return row

    def index(self) -> pd.DataFrame:
        """One row a task and kind of loss: (video - audio) / (video + audio), of the drops of the metric.

        1: all rests on the picture; -1: all on the sound; beyond them, where a modality is in the way. NaN where both
        drops together are not above 0, or one was not measured. Intervals: 95 % bootstrap over samples.
        """
        kinds = dict.fromkeys(CONDITIONS[name][1] for name in self.conditions)
        return pd.DataFrame([self._index(*pair) for pair in product(dict.fromkeys(self.tasks), kinds)])

    def _index(self, task: str, kind: str) -> dict[str, Any]:
        columns = [number for modality in ("video", "audio") for number in self._columns(modality, kind)]
        row = {"task": task, "kind": kind, "n_samples": 0, "index": np.nan, "low": np.nan, "high": np.nan}
        if len(columns) != 2:
            return row
        drops = self.drop[self._of(task)][:, columns]
        drops = drops[~np.isnan(drops).any(axis=1)]
        if not len(drops):
            return row
        low, high = percentile_interval(_index_of(resampled_means(drops))) if len(drops) > 1 else (np.nan, np.nan)
        mean = _index_of(drops.mean(axis=0, keepdims=True))[0]
        return row | {"n_samples": len(drops), "index": mean, "low": low, "high": high}

    def attention_mass(self) -> pd.DataFrame:
        """One row a task, layer, reading rows and modality: the share of attention, a mean over heads and samples.

        The modalities and text sum to 1. `low`, `high`: 95 % bootstrap interval over samples; `token_share`: the share
        of the prompt's tokens, which attention that looks at nothing in particular would give. `n_samples` have both.
        """
        tables = [self._attention(*cell) for cell in product(dict.fromkeys(self.tasks), self.rows, self.modalities)]
        return pd.concat([table for table in tables if len(table)], ignore_index=True)

    def _attention(self, task: str, rows: str, modality: str) -> pd.DataFrame:
        column = self.modalities.index(modality)
        values = self.attention[self._of(task), :, self.rows.index(rows), column]
        known = ~np.isnan(values).any(axis=1)
        if not known.any():
            return pd.DataFrame()
        low, high = bootstrap_interval(values[known])
        return pd.DataFrame(
            {
                "task": task,
                "layer": np.arange(values.shape[1]),
                "rows": rows,
                "modality": modality,
                "n_samples": int(known.sum()),
                "attention": values[known].mean(axis=0),
                "low": low,
                "high": high,
                "token_share": self.token_share[self._of(task), column][known].mean(),
            }
        )

    def _of(self, task: str) -> Int64[np.ndarray, " sample_of_task"]:
        return np.array([number for number, name in enumerate(self.tasks) if name == task], dtype=np.int64)

    def _columns(self, modality: str, kind: str) -> list[int]:
        return [number for number, name in enumerate(self.conditions) if CONDITIONS[name] == (modality, kind)]

    @property
    def lost(self) -> tuple[str, ...]:
        """The modality that each condition takes away."""
        return tuple(CONDITIONS[name][0] for name in self.conditions)

    @property
    def kinds(self) -> tuple[str, ...]:
        """How each condition takes it away."""
        return tuple(CONDITIONS[name][1] for name in self.conditions)

    @property
    def attention_lost(self) -> Float64[np.ndarray, "sample rows condition"]:
        """What these rows give in the clean run to the modality of each condition, the mean over layers."""
        mean = self.attention.mean(axis=1)
        of = {name: mean[:, :, number] for number, name in enumerate(self.modalities)}
        of["both"] = of["audio"] + of["video"]
        return np.stack([of[name] for name in self.lost], axis=2)

    def to_frame(self) -> pd.DataFrame:
        """One row a sample and condition that was run; `summary` has the means of each task.

        `attention_question`, `attention_last`: what these rows give in the clean run to the modality that the condition
        takes away, the mean over layers and heads; `attention_mass` has every layer.
        """
        attention = (f"attention_{name}=attention_lost[rows={number}]" for number, name in enumerate(self.rows))
        frame = self.tabulate(*self.columns, *attention)
        return frame.loc[self.best_ids.ravel() != UNKNOWN].reset_index(drop=True)


@formerly("metric", "follow", ("answer", "gold"))
@door
def modality_contribution(
    model: "HookedAVTransformer",
    cases: Any,
    *,
    metric: Metric = "probability",
    follow: Follow = "answer",
    controls: Controls | int = Controls(),  # noqa: B008 - it is immutable
    only_correct: bool = False,
    progress: bool = False,
) -> ModalityContribution:
    """How far does the answer rest on the sound, and how far on the picture?

    Cuts: in every layer, no later token outside the modality may read its tokens (audio, video and pictures, both).
    Swaps: the media themselves say nothing, or something else, where a case brings such prompts (`Case.swapped`).
    Attention: the share that the rows of the question, and the last one, give to sound, picture and text, layer by
    layer in the clean run (`attention`); it is read a block of rows at a time, never as a whole matrix.

    Args:
        cases: one prompt, one `av.Case`, or any number; `Case.task` groups them, `Case.swapped` holds the same question
            about other media (`av.media_swaps(model, clip, other, question=...)`).
        metric, follow: what drops, and of whose answer; as for `information_flow`.
        controls: random cuts beside each cut, of as many (query, key) pairs in every layer (0: none).
        only_correct: leave out samples that the clean model answers wrongly (then who was left out is in `skipped`).
        progress: show a bar.

    A sample without sound has no audio condition; the tables say how many samples each number rests on.

    Errors: `InputsError` for a prompt without media, a swap of an unknown name, or no sample;
    `InterventionError` while attention matrices are edited or tokens leave.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1]
    >>> case = av.Case(
    ...     model.prepare(sample.clip, question=sample.question), sample.answer, task="hearing",
    ...     swapped=av.media_swaps(model, sample.clip, question=sample.question))
    >>> found = av.modality_contribution(model, case)
    >>> found.conditions
    ('audio cut', 'video cut', 'both cut', 'silence', 'black frames', 'silence and black frames')
    >>> bool(found.index()["index"][0] < 0)  # the question is about the sound
    True
    """
    drawn, reading = Controls.given(controls), Reading(metric, follow, only_correct)

    def measure(case: Case) -> Measured | None:
        check_swaps(case.swapped, case.id)
        return _measure(model, case, reading, drawn)

    found = over_cases(cases, measure, progress=progress)
    run = {
        name
        for sample in found.samples
        for name, best in zip(CONDITIONS, sample.runs["best_ids"], strict=True)
        if best >= 0
    }
    columns = [number for number, name in enumerate(CONDITIONS) if name in run]
    own = {**vars(reading), "controls": vars(drawn)}
    runs = stacked(found.samples)
    return ModalityContribution(
        **answer_fields(model, found.samples, reading),
        **{name: runs.pop(name)[..., columns] for name in list(runs) if name.removeprefix("control_") in READINGS},
        **runs,
        conditions=tuple(list(CONDITIONS)[column] for column in columns),
        skipped=found.skipped,
        settings=run_settings(model, found.last, **own, n_samples=len(found.samples), n_skipped=len(found.skipped)),
    )


def _measure(model: "HookedAVTransformer", case: Case, reading: Reading, controls: Controls) -> Measured | None:
    """One sample in every condition that it has, in the order of `CONDITIONS`."""
    case, cuts = _with_cuts(case)
    baseline = model.baseline(case.inputs)
    targets = Targets.of(model, case, baseline.logits)
    if not reading.takes(targets, case.id):
        return None
    by_cut = read_all(baseline, [cuts[name] for name in cuts], targets)
    with torch.no_grad():
        swapped = {name: targets.read(model(x, logits_at="last")[:, -1]) for name, x in case.swapped.items()}
    found = {name: {key: by_cut[key][number] for key in READINGS} for number, name in enumerate(cuts)}
    found |= {name: {key: read[key][0] for key in READINGS} for name, read in swapped.items()}
    nothing = dict.fromkeys(READINGS, np.nan) | {"best_ids": UNKNOWN}
    runs = {key: np.array([found.get(name, nothing)[key] for name in CONDITIONS]) for key in READINGS}
    with without_reports_of_empty_rows():
        random = [controls.of([cut], case.id, draw) for draw in range(controls.draws) for cut in cuts.values()]
        runs |= _of_cuts(read_all(baseline, random, targets), list(cuts), controls.draws)
    return Measured(case, targets, targets.read(baseline.logits[None]), runs | _attention(model, case.inputs))


def _of_cuts(
    found: Mapping[str, np.ndarray], cuts: Sequence[str], draws: int
) -> dict[str, Shaped[np.ndarray, "draw condition"]]:
    """The readings of random cuts in the places of their cuts, nothing in those of the swaps."""
    columns, runs = [list(CONDITIONS).index(name) for name in cuts], {}
    for name in READINGS:
        nothing = UNKNOWN if name == "best_ids" else np.nan
        values = np.full((draws, len(CONDITIONS)), nothing, dtype=found[name].dtype)
        values[:, columns] = found[name].reshape(draws, len(cuts))
        runs[f"control_{name}"] = values
    return runs


def _attention(model: "HookedAVTransformer", inputs: AVInputs) -> dict[str, Float64[np.ndarray, "..."]]:
    """What question and last row give to each modality in each layer, the mean over heads; and how large they are."""
    parts, inputs = _by_modality(inputs), inputs.to(model.device)
    readers = [name for name in ROWS if name in inputs.spans]
    attention = np.full((model.cfg.n_layers, len(ROWS), len(MODALITIES)), np.nan)
    share = np.full(len(MODALITIES), np.nan)
    rows, columns = [ROWS.index(name) for name in readers], [MODALITIES.index(name) for name in parts]
    mass = mass_of(model, inputs, parts, readers).mean(axis=1, dtype=np.float64)
    attention[:, np.array(rows)[:, None], columns] = mass
    share[columns] = [len(positions) / inputs.n_pos for positions in parts.values()]
    return {"attention": attention, "token_share": share}


def _by_modality(inputs: AVInputs) -> Parts:
    """All tokens, by the modality that they belong to; only those that the prompt has."""
    spans = {m: "|".join(name for name in some if name in inputs.spans) for m, some in _SPANS.items()}
    parts = {m: inputs.spans.resolve(span).positions for m, span in spans.items() if span}
    return parts | {"text": np.setdiff1d(np.arange(inputs.n_pos), np.concatenate(list(parts.values())))}


def _with_cuts(case: Case) -> tuple[Case, dict[str, Any]]:
    """A cut for each modality that the prompt has, and the spans that say which tokens come later, outside it."""
    spans, n_pos = case.inputs.spans, case.inputs.n_pos
    held = {m: [name for name in some if name in spans] for m, some in _SPANS.items()}
    held["both"] = held["audio"] + held["video"] if held["audio"] and held["video"] else []
    inputs, cuts = case.inputs, {}
    for modality, some in held.items():
        if some:
            keys = spans.resolve("|".join(some))
            later = np.setdiff1d(np.arange(int(keys.positions[0]), n_pos), keys.positions)
            inputs = inputs.with_span(f"outside_{modality}", later)
            cuts[f"{modality} cut"] = block_attention(keys="|".join(some), queries=f"outside_{modality}")
    if not cuts:
        raise InputsError(
            f"sample {case.id!r} has no modality to contribute",
            expected="a span 'audio', 'video' or 'image'",
            got=list(spans),
            next_step="prepare prompts with media, or add spans with inputs.with_span",
        )
    return replace(case, inputs=inputs), cuts


def _index_of(drops: Float64[np.ndarray, "resample two=2"]) -> Float64[np.ndarray, " resample"]:
    """(video - audio) / (video + audio)."""
    video, audio = drops.T
    total = np.where(video + audio > 0, video + audio, np.nan)
    return (video - audio) / total
