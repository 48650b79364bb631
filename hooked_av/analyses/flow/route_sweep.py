"""Knockouts given as routes: what becomes of one answer when each of them, alone, is cut.

Axes: cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int64

from hooked_av.analyses.cases import Case, as_cases
from hooked_av.analyses.results import Result, run_settings
from hooked_av.doors import door
from hooked_av.errors import InterventionError
from hooked_av.interventions.routes import Route
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer


@dataclass(frozen=True, eq=False, kw_only=True)
class RouteSweep(Result):
    """Probabilities of the clean answer, and of the right and the alternative one if they are known, after each cut."""

    figure: ClassVar = "hooked_av.plots.routes:plot_route_sweep"
    axes: ClassVar = dict.fromkeys(
        ("p_cut", "gold_p_cut", "alternative_p_cut", "best_ids", "best_texts", "change_percent", "flipped"), ("cut",)
    )
    labels: ClassVar = {"cut": "cuts"}
    columns: ClassVar = (
        "cut", "answer", "p_base", "p_cut", "change_percent", "gold_p_base", "gold_p_cut", "alternative_p_base",
        "alternative_p_cut", "best_token=best_texts", "best_id=best_ids", "flipped",
    )  # fmt: skip
    p_cut: Float64[np.ndarray, " cut"]
    gold_p_cut: Float64[np.ndarray, " cut"]  # NaN where the right answer is not known
    alternative_p_cut: Float64[np.ndarray, " cut"]
    best_ids: Int64[np.ndarray, " cut"]  # the most probable token after the cut
    cuts: tuple[str, ...]
    best_texts: tuple[str, ...]
    answer_id: int  # the most probable token of the clean run
    answer: str
    p_base: float
    gold_p_base: float
    alternative_p_base: float

    @property
    def change_percent(self) -> Float64[np.ndarray, " cut"]:
        """100 * (p_cut - p_base) / p_base, for the clean answer."""
        return 100 * (self.p_cut - self.p_base) / self.p_base

    @property
    def flipped(self) -> Bool[np.ndarray, " cut"]:
        """Whether another token is the most probable one."""
        return self.best_ids != self.answer_id


@door
def route_sweep(
    model: "HookedAVTransformer", case: AVInputs | Case, cuts: Sequence[str], *, progress: bool = False
) -> RouteSweep:
    """What becomes of the answer when each of these routes is cut?

    Args:
        case: a prompt, or one with its right answer and an alternative.
        cuts: routes such as "audio->question@2-5" (layers count from 0, the last included; without them: all layers).
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
    (case,) = as_cases(case)
    cuts = (cuts,) if isinstance(cuts, str) else tuple(cuts)
    if not cuts:
        raise InterventionError(
            "nothing to cut", expected="routes of attention", got="none", next_step='give cuts=["audio->question@2-5"]'
        )
    touched = "|".join(dict.fromkeys(Route.parse(cut).queries for cut in cuts))
    baseline = model.baseline(case.inputs, touched=touched)
    cut_logits = baseline.logits_under(list(cuts), progress=progress)
    clean, after = (logits.double().softmax(dim=-1).cpu().numpy() for logits in (baseline.logits, cut_logits))
    answer_id, best_ids = int(clean.argmax()), after.argmax(axis=-1)
    gold, alternative = (_followed(model, text, clean, after) for text in (case.answer, case.alternative))
    return RouteSweep(
        p_cut=after[:, answer_id],
        gold_p_cut=gold[1],
        alternative_p_cut=alternative[1],
        best_ids=best_ids,
        cuts=cuts,
        best_texts=tuple(model.to_string(int(token)) for token in best_ids),
        answer_id=answer_id,
        answer=model.to_string(answer_id),
        p_base=float(clean[answer_id]),
        gold_p_base=gold[0],
        alternative_p_base=alternative[0],
        settings=run_settings(model, case.inputs, cuts=list(cuts)),
    )


def _followed(
    model: "HookedAVTransformer", text: str | None, clean: np.ndarray, after: np.ndarray
) -> tuple[float, np.ndarray]:
    """A token's probability before and after the cuts."""
    if text is None:
        return float("nan"), np.full(len(after), np.nan)
    token = model.to_single_token(text)
    return float(clean[token]), after[:, token]
