"""Information flow: which pathways carry the answer, through which layers, beside random cuts of the same size.

The map of attention knockouts of Geva et al. (2023), Cross-modal Information Flow (CVPR 2025) and Map the Flow (ICLR
2026), for audio-visual prompts.

Axes: sample, draw (random control), pathway, layer (centre of the window that is cut), edge (low and high, or first and
last).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hooked_av.analyses.cases import Case, over_cases
from hooked_av.analyses.flow.answers import (
    READINGS,
    Measured,
    Reading,
    Targets,
    answer_fields,
    stacked,
)
from hooked_av.analyses.flow.controls import Controls, without_reports_of_empty_rows
from hooked_av.analyses.flow.map import InformationFlow
from hooked_av.analyses.flow.pathways import Pathway, as_pathways, default_pathways, other_layout, with_answer_spans
from hooked_av.analyses.flow.windows import layer_window, window_size
from hooked_av.analyses.metric import Follow, Metric
from hooked_av.analyses.results import run_settings
from hooked_av.doors import door
from hooked_av.former import formerly
from hooked_av.prompt.inputs import AVInputs
from hooked_av.replay.baseline import Baseline

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

_LOGITS_AT_ONCE = 2**25  # numbers: 128 MiB in float32


@formerly("metric", "follow", ("answer", "gold"))
@door
def information_flow(
    model: "HookedAVTransformer",
    cases: Any,
    *,
    pathways: Any = None,
    window: int | Literal["all"] | None = None,
    metric: Metric = "probability",
    follow: Follow = "answer",
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
        window: layers that are cut at once (None: `default_window`); "all": every layer at once, so that the result
            has one layer, and says whether a pathway is needed at all.
        metric: what is measured of the answer: "probability", "log_prob", or "logit_difference" to the case's
            alternative (None is named: to the clean run's most probable other token). A probability near 1 hides much.
        follow: whose: the clean run's "answer", or the right one ("gold").
        controls: random draws beside each cut (0: none), or `av.Controls(draws, "entries" or "rows", seed)`.
        only_correct: leave out samples that the clean model answers wrongly, where the right answer is known; who was
            left out is in `skipped`.
        progress: show a bar, over samples; of one prompt, over its cuts.

    It runs on the replay engine. All pathways cost about two forward passes a sample; a control that is drawn from the
    whole triangle costs up to one for each cut ("rows" is as cheap as the cut). Random cuts that leave a row without
    any key make it read zero; this is not reported here.

    Errors: `SpanError` for a sample without a pathway's spans, `InputsError` for samples of different layouts, no
    sample, or an answer that is not one token; `InterventionError` for a window that the model does not have, and
    for a sample in which a pathway can carry nothing ("question->audio": every key comes after every query).

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1]
    >>> inputs = model.prepare(sample.clip, question=sample.question)
    >>> flow = av.information_flow(model, inputs, pathways=["audio->question", "audio->last"], controls=0)
    >>> sample.question, flow.answers, flow.change_percent.shape
    ('Which digit is spoken first?', ('five',), (2, 8))
    """
    n_layers, drawn = model.cfg.n_layers, Controls.given(controls)
    reading = Reading(metric, follow, only_correct)
    size = window_size(window, n_layers)
    whole = [range(n_layers)] if window == "all" else None
    windows = whole or [layer_window(layer, n_layers, size) for layer in range(n_layers)]
    is_one = isinstance(cases, (AVInputs, Case))  # then the bar counts its cuts
    named = None if pathways is None else as_pathways(pathways)
    flow = _Flow(model, named, windows, drawn, progress=progress and is_one)

    def measure(case: Case) -> Measured | None:
        return flow.measure(case, reading)

    found = over_cases(cases, measure, progress=progress and not is_one)
    names = [pathway.name for pathway in flow.pathways or ()]
    own = {"window": size, **vars(reading), "controls": vars(drawn), "pathways": names}
    own |= {"n_pos": sorted(set(found.sizes)), "n_samples": len(found.samples), "n_skipped": len(found.skipped)}
    return InformationFlow(
        **answer_fields(model, found.samples, reading),
        **stacked(found.samples),
        windows=np.array([(some[0], some[-1]) for some in windows], dtype=np.int64),
        pathways=tuple(names),
        window=size,
        skipped=found.skipped,
        settings=run_settings(model, found.last, **own),
    )


@door
def knockout_curves(
    model: "HookedAVTransformer",
    inputs: AVInputs,
    pathways: Any = ("audio->question", "video->question"),
    *,
    window: int | Literal["all"] | None = None,
    metric: Metric = "probability",
    progress: bool = False,
) -> InformationFlow:
    """Through which layers does the answer to one prompt need these pathways?

    `information_flow` of one prompt, without random cuts beside the cuts: quick to run, and nothing says yet that
    another cut of that size would do less.

    Args:
        pathways: routes ("audio->question"), or (keys, queries) pairs.
        window, metric: as for `information_flow`.
        progress: show a bar over the cuts.

    Errors: as for `information_flow`.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> inputs = model.prepare(question="Which digit do you hear?")
    >>> curves = av.knockout_curves(model, inputs, ["system->question"])
    >>> curves.pathways, curves.change_percent.shape
    (('system → question',), (1, 2))
    """
    how: dict[str, Any] = {"window": window, "metric": metric, "progress": progress}
    return information_flow(model, inputs, pathways=pathways, controls=0, only_correct=False, **how)


class _Flow:
    """One call: what is cut in every sample, and the first sample's own pathways where none are given."""

    def __init__(
        self,
        model: "HookedAVTransformer",
        pathways: tuple[Pathway, ...] | None,
        windows: Sequence[range],
        controls: Controls,
        *,
        progress: bool,
    ) -> None:
        self.model, self.windows, self.controls, self.progress = model, windows, controls, progress
        self.pathways, self.is_default, self.first = pathways, pathways is None, ""

    def measure(self, case: Case, reading: Reading) -> Measured | None:
        """One sample; None for one that is left out."""
        case = with_answer_spans(case)
        pathways = self._pathways_of(case)
        keep_all = bool(self.controls.draws) and self.controls.spread == "entries"
        queries = "|".join(dict.fromkeys(queries for pathway in pathways for _, queries in pathway.pairs))
        baseline = self.model.baseline(case.inputs, touched=None if keep_all else queries)
        targets = Targets.of(self.model, case, baseline.logits)
        if not reading.takes(targets, case.id):
            return None
        cuts = [pathway.cut(window, case.inputs) for pathway in pathways for window in self.windows]
        shape = (len(pathways), len(self.windows))
        found = read_all(baseline, cuts, targets, progress=self.progress)
        runs = {name: values.reshape(shape) for name, values in found.items()}
        draws = self.controls.draws
        with without_reports_of_empty_rows():
            random = [self.controls.of(cut, case.id, draw) for draw in range(draws) for cut in cuts]
            found = read_all(baseline, random, targets, progress=self.progress)
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


def read_all(
    baseline: Baseline, interventions: Sequence[Any], targets: Targets, *, progress: bool = False
) -> dict[str, np.ndarray]:
    """What each intervention leads to; only a part of them has its logits in memory at one time."""
    chunks = _chunks(interventions, len(baseline.logits))
    parts = [targets.read(baseline.logits_under(some, progress=progress)) for some in chunks]
    if not parts:
        return {name: values[:0] for name, values in targets.read(baseline.logits[None]).items()}
    return {name: np.concatenate([part[name] for part in parts]) for name in READINGS}


def _chunks(interventions: Sequence[Any], d_vocab: int) -> Iterator[Sequence[Any]]:
    size = max(1, _LOGITS_AT_ONCE // d_vocab)
    for start in range(0, len(interventions), size):
        yield interventions[start : start + size]
