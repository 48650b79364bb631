"""Knockouts given as routes: what becomes of one answer when each of them, alone, is cut.

Axes: cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int64

from hooked_av.analyses.cases import Case, as_cases
from hooked_av.analyses.flow.answers import LOG_P, READINGS, Reading, Targets
from hooked_av.analyses.flow.information_flow import read_all
from hooked_av.analyses.metric import SATURATED, Follow, Metric, change_of, metric_of
from hooked_av.analyses.results import Result, run_settings
from hooked_av.analyses.several import several
from hooked_av.doors import door
from hooked_av.errors import InterventionError
from hooked_av.interventions.routes import Route
from hooked_av.prompt.inputs import AVInputs, check_alone

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer


_CUT = ("log_p_cut", "gold_log_p_cut", "alternative_log_p_cut", "best_ids")  # fields, in the order of `READINGS`
_BASE = ("log_p_base", "gold_log_p_base", "alternative_log_p_base")


@dataclass(frozen=True, eq=False, kw_only=True)
class RouteSweep(Result):
    """The clean answer, the right one if it is known, and the alternative, after each cut.

    `metric` and `follow`: what is measured of which answer; the rest is kept, so that all can be read.
    """

    figure: ClassVar = "hooked_av.plots.routes:plot_route_sweep"
    axes: ClassVar = {
        **dict.fromkeys(("log_p_cut", "gold_log_p_cut", "alternative_log_p_cut", "best_ids", "best_texts"), ("cut",)),
        **dict.fromkeys(("p_cut", "gold_p_cut", "alternative_p_cut", "change_percent", "flipped"), ("cut",)),
        **dict.fromkeys(("metric_cut", "change"), ("cut",)),
    }
    labels: ClassVar = {"cut": "cuts"}
    columns: ClassVar = (
        "cut", "answer", "p_base", "p_cut", "change_percent", "gold_p_base", "gold_p_cut", "alternative",
        "alternative_p_base", "alternative_p_cut", "best_token=best_texts", "best_id=best_ids", "flipped", "metric",
        "metric_base", "metric_cut", "change",
    )  # fmt: skip
    log_p_cut: Float64[np.ndarray, " cut"]
    gold_log_p_cut: Float64[np.ndarray, " cut"]  # NaN where the right answer is not known
    alternative_log_p_cut: Float64[np.ndarray, " cut"]
    best_ids: Int64[np.ndarray, " cut"]  # the most probable token after the cut
    cuts: tuple[str, ...]
    best_texts: tuple[str, ...]
    answer_id: int  # the most probable token of the clean run
    answer: str
    gold: str  # empty where the right answer is not known
    alternative: str  # as named, or the clean run's most probable other token
    log_p_base: float
    gold_log_p_base: float
    alternative_log_p_base: float
    metric: Metric = "probability"
    follow: Follow = "answer"

    @property
    def followed(self) -> str:
        """The text of the token that is followed."""
        return self.gold if self.follow == "gold" else self.answer

    @property
    def metric_base(self) -> float:
        """The metric in the clean run."""
        base = self.gold_log_p_base if self.follow == "gold" else self.log_p_base
        return float(metric_of(self.metric, np.array([base]), np.array([self.alternative_log_p_base]))[0])

    @property
    def metric_cut(self) -> Float64[np.ndarray, " cut"]:
        """The metric after each cut."""
        cut = self.gold_log_p_cut if self.follow == "gold" else self.log_p_cut
        return metric_of(self.metric, cut, self.alternative_log_p_cut)

    @property
    def change(self) -> Float64[np.ndarray, " cut"]:
        """What each cut does to the metric: of a probability percent of the clean run's, else the difference to it."""
        return change_of(self.metric, self.metric_cut, np.array([self.metric_base]))

    @property
    def is_saturated(self) -> bool:
        """Whether the clean probability of what is followed is above `SATURATED`."""
        return bool(np.exp(self.gold_log_p_base if self.follow == "gold" else self.log_p_base) > SATURATED)

    @property
    def p_base(self) -> float:
        """Probability of the clean answer in the clean run."""
        return float(np.exp(self.log_p_base))

    @property
    def gold_p_base(self) -> float:
        """Probability of the right answer in the clean run."""
        return float(np.exp(self.gold_log_p_base))

    @property
    def alternative_p_base(self) -> float:
        """Probability of the alternative in the clean run."""
        return float(np.exp(self.alternative_log_p_base))

    @property
    def p_cut(self) -> Float64[np.ndarray, " cut"]:
        """Probability of the clean answer after each cut."""
        return np.exp(self.log_p_cut)

    @property
    def gold_p_cut(self) -> Float64[np.ndarray, " cut"]:
        """Probability of the right answer after each cut."""
        return np.exp(self.gold_log_p_cut)

    @property
    def alternative_p_cut(self) -> Float64[np.ndarray, " cut"]:
        """Probability of the alternative after each cut."""
        return np.exp(self.alternative_log_p_cut)

    @property
    def change_percent(self) -> Float64[np.ndarray, " cut"]:
        """100 * (p_cut - p_base) / p_base, for the clean answer, whatever the metric."""
        return 100 * (self.p_cut - self.p_base) / self.p_base

    @property
    def flipped(self) -> Bool[np.ndarray, " cut"]:
        """Whether another token is the most probable one."""
        return self.best_ids != self.answer_id


@door
def route_sweep(
    model: "HookedAVTransformer",
    case: AVInputs | Case,
    cuts: str | Sequence[str],
    *,
    metric: Metric = "probability",
    follow: Follow = "answer",
    progress: bool = False,
) -> RouteSweep:
    """What becomes of the answer when each of these routes is cut?

    Args:
        case: a prompt, or one with its right answer and an alternative.
        cuts: routes such as "audio->question@2-5" (layers count from 0, the last included; without them: all layers).
        metric: what is measured of the answer: "probability", "log_prob", or "logit_difference" to the case's
            alternative (None is named: to the clean run's most probable other token). A probability near 1 hides much.
        follow: whose: the clean run's "answer", or the right one ("gold").
        progress: show a bar.

    All cuts are replayed from one clean pass.

    Errors: `InterventionError` for no cut, a text that is not a route, layers that the model has not, or a route that
    can carry nothing ("last->audio": every key comes after every query); `SpanError` for a span that is not there.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> inputs = model.prepare(question="Which digit do you hear?")
    >>> route_sweep(model, inputs, ["system->question@0-1", "question->last"]).to_frame()["cut"].tolist()
    ['system->question@0-1', 'question->last']
    """
    check_alone(case.inputs if isinstance(case, Case) else case, "av.route_sweep")
    (case,) = as_cases(case)
    cuts = several(cuts)
    if not cuts:
        raise InterventionError(
            "nothing to cut", expected="routes of attention", got="none", next_step='give cuts=["audio->question@2-5"]'
        )
    touched = "|".join(dict.fromkeys(Route.parse(cut).queries for cut in cuts))
    baseline = model.baseline(case.inputs, touched=touched)
    targets = Targets.of(model, case, baseline.logits)
    Reading(metric, follow).takes(targets, case.id)
    clean, after = targets.read(baseline.logits[None]), read_all(baseline, list(cuts), targets, progress=progress)
    fields: dict[str, Any] = {name: after[of] for name, of in zip(_CUT, READINGS, strict=True)}
    fields |= {name: float(clean[of][0]) for name, of in zip(_BASE, LOG_P, strict=True)}
    return RouteSweep(
        **fields,
        cuts=cuts,
        best_texts=tuple(model.to_string(int(token)) for token in after["best_ids"]),
        answer_id=targets.answer_id,
        answer=model.to_string(targets.answer_id),
        gold=case.answer or "",
        alternative=model.to_string(targets.alternative_id),
        metric=metric,
        follow=follow,
        settings=run_settings(model, case.inputs, cuts=list(cuts), metric=metric, follow=follow),
    )
