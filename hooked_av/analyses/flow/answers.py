"""Answers: what the last position says of a sample, in the clean run and in changed ones.

Axes: sample, run (one change of the model or the prompt).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from hooked_av.analyses.cases import Case
from hooked_av.analyses.metric import SATURATED, Follow, Metric, change_of, metric_of
from hooked_av.analyses.results import Result
from hooked_av.doors import door
from hooked_av.errors import InputsError

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

A = TypeVar("A", bound="Answers")
LOG_P = ("log_p_answer", "log_p_gold", "log_p_alternative")  # what every metric is made of
READINGS = (*LOG_P, "best_ids")
BASES = tuple(f"{name}_base" for name in LOG_P)  # of the clean run
SHOWN = ("p_answer", "p_gold", "logit_difference")  # what tables say besides, of runs
SHOWN_BASES = tuple(f"{name}_base" for name in SHOWN)
_TOKENS = ("answer", "gold", "alternative")
UNKNOWN = -1  # the id of a token that nobody named


@dataclass(frozen=True)
class Targets:
    """The tokens that are followed: the clean run's answer, the right one, and a wrong one to measure them against."""

    answer_id: int
    gold_id: int
    alternative_id: int

    @classmethod
    def of(cls, model: "HookedAVTransformer", case: Case, clean: Float[Tensor, " d_vocab"]) -> "Targets":
        """Of one sample; where no alternative is named, it is the clean run's most probable token besides the others.

        Errors: `InputsError` for an answer or an alternative that is not one token.
        """
        gold, named = (
            UNKNOWN if text is None else model.to_single_token(text) for text in (case.answer, case.alternative)
        )
        answer, *others = clean.topk(min(3, len(clean))).indices.tolist()
        free = [token for token in others if token != gold]
        return cls(answer, gold, free[0] if case.alternative is None and free else named)

    @property
    def is_wrong(self) -> bool:
        """Whether the right answer is known, and the clean run gives another."""
        return self.gold_id not in (UNKNOWN, self.answer_id)

    @torch.no_grad()
    def read(self, logits: Float[Tensor, "run d_vocab"]) -> dict[str, np.ndarray]:
        """Log probabilities of the three tokens, NaN of what is not known, and the most probable token."""
        log_p = log_probabilities(logits, [self.answer_id, self.gold_id, self.alternative_id])
        log_p[:, [token == UNKNOWN for token in (self.answer_id, self.gold_id, self.alternative_id)]] = np.nan
        return dict(zip(LOG_P, log_p.T.copy(), strict=True)) | {"best_ids": logits.argmax(dim=-1).cpu().numpy()}


@dataclass(frozen=True)
class Reading:
    """How a sample is read: what is measured, of whose answer, and whether wrong answers are left out."""

    metric: Metric
    follow: Follow
    only_correct: bool = False

    def takes(self, targets: Targets, sample: str) -> bool:
        """False for a sample that is left out.

        Errors: `InputsError` for the right answer where nobody knows it, and a difference of an answer to itself.
        """
        if self.only_correct and targets.is_wrong:
            return False
        followed = targets.gold_id if self.follow == "gold" else targets.answer_id
        if followed == UNKNOWN:
            raise InputsError(
                f"nothing to measure of sample {sample!r}",
                expected="follow 'answer', or 'gold' for cases with an answer",
                got="follow 'gold', no right answer that is known",
                next_step="give av.Case(inputs, answer=...), or take follow='answer'",
            )
        if self.metric == "logit_difference" and followed == targets.alternative_id:
            raise InputsError(
                f"the logit difference of sample {sample!r} is always zero: what is followed is the alternative itself",
                expected="an alternative that is another token",
                got=f"token {followed} for both",
                next_step="name another alternative; of samples that are answered wrongly, take follow='gold'",
            )
        return True


def log_probabilities(
    logits: Float[Tensor, "run d_vocab"], token_ids: Sequence[int]
) -> Float64[np.ndarray, "run token"]:
    """Of these tokens; exact near 0 too, where a probability is almost 1.

    >>> bool(0 < -log_probabilities(torch.tensor([[30.0, 0.0]]), [0])[0, 0] < 1e-12)
    True
    """
    less = logits.float() - logits.float().max(dim=-1, keepdim=True).values
    chosen, best = less[:, token_ids].double(), less.argmax(dim=-1, keepdim=True)
    others = less.exp_().scatter_(1, best, 0.0).sum(dim=-1, keepdim=True, dtype=torch.float64)
    return (chosen - others.log1p()).cpu().numpy()


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers(Result):
    """What results over samples share: who the samples are, and what the clean run says of each.

    `follow`: which token is followed, the clean run's answer ("answer") or the right one ("gold"). `metric`: what is
    measured of it. Everything else is kept, so that `with_metric` reads the same runs in another way.
    """

    axes: ClassVar = dict.fromkeys(
        (
            *("answer_ids", "gold_ids", "alternative_ids", *BASES, *SHOWN_BASES, "metric_base"),
            *("answers", "golds", "alternatives", "tasks", "base_is_right"),
        ),
        ("sample",),
    )
    labels: ClassVar = {"sample": "ids"}
    answer_ids: Int64[np.ndarray, " sample"]
    gold_ids: Int64[np.ndarray, " sample"]  # -1 where the right answer is not known
    alternative_ids: Int64[np.ndarray, " sample"]  # as named, or the clean run's most probable other token
    log_p_answer_base: Float64[np.ndarray, " sample"]
    log_p_gold_base: Float64[np.ndarray, " sample"]
    log_p_alternative_base: Float64[np.ndarray, " sample"]
    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    token_texts: tuple[tuple[int, str], ...]  # of every token that is an answer somewhere
    log_p_answer: Float64[np.ndarray, " sample *cell"]
    log_p_gold: Float64[np.ndarray, " sample *cell"]
    log_p_alternative: Float64[np.ndarray, " sample *cell"]
    best_ids: Int64[np.ndarray, " sample *cell"]  # the most probable token of each changed run
    control_log_p_answer: Float64[np.ndarray, " sample draw *cell"]
    control_log_p_gold: Float64[np.ndarray, " sample draw *cell"]
    control_log_p_alternative: Float64[np.ndarray, " sample draw *cell"]
    control_best_ids: Int64[np.ndarray, " sample draw *cell"]
    metric: Metric = "probability"
    follow: Follow = "answer"

    @door
    def with_metric(self: A, metric: Metric, follow: Follow | None = None) -> A:
        """The same runs, measured in another way: no model runs.

        Args:
            metric: "probability", "log_prob" or "logit_difference".
            follow: the clean run's "answer" or the right one, "gold" (None: as before).

        Errors: `InputsError` for the right answer where it is not known, and a logit difference of an answer to itself.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> flow = av.knockout_curves(model, model.prepare(question="Which digit do you hear?"), ["system->question"])
        >>> flow.with_metric("logit_difference").change.shape
        (1, 2)
        """
        follow = self.follow if follow is None else follow
        for sample, *ids in zip(self.ids, self.answer_ids, self.gold_ids, self.alternative_ids, strict=True):
            Reading(metric, follow).takes(Targets(*map(int, ids)), sample)
        return replace(
            self, metric=metric, follow=follow, settings={**self.settings, "metric": metric, "follow": follow}
        )

    @property
    def n_samples(self) -> int:
        return len(self.ids)

    @property
    def answers(self) -> tuple[str, ...]:
        """The clean run's answer to each sample, as text."""
        return tuple(self.texts(self.answer_ids).tolist())

    @property
    def golds(self) -> tuple[str, ...]:
        """The right answer to each sample, as text; empty where it is not known."""
        return tuple(self.texts(self.gold_ids).tolist())

    @property
    def alternatives(self) -> tuple[str, ...]:
        """What the answers are measured against, as text."""
        return tuple(self.texts(self.alternative_ids).tolist())

    @property
    def best_texts(self) -> Shaped[np.ndarray, " sample *cell"]:
        """`best_ids` as texts."""
        return self.texts(self.best_ids)

    @property
    def control_best_texts(self) -> Shaped[np.ndarray, " sample draw *cell"]:
        """`control_best_ids` as texts."""
        return self.texts(self.control_best_ids)

    @property
    def base_is_right(self) -> Float64[np.ndarray, " sample"]:
        """`is_right` of the clean run."""
        return self.is_right(self.answer_ids)

    @property
    def best_is_right(self) -> Float64[np.ndarray, " sample *cell"]:
        """`is_right` of each changed run."""
        return self.is_right(self.best_ids)

    def texts(self, token_ids: Int64[np.ndarray, " *axes"]) -> Shaped[np.ndarray, " *axes"]:
        """Token ids as texts; empty where nobody knows the token."""
        ids, places = np.unique(token_ids, return_inverse=True)
        known = dict(self.token_texts)
        texts = np.array([known.get(int(token), "") for token in ids], dtype=object)
        return texts[places.reshape(token_ids.shape)]

    def per_sample(self, values: np.ndarray, like: np.ndarray) -> np.ndarray:
        """A number of each sample, in the shape of an array whose first axis is the sample."""
        return values.reshape(-1, *[1] * (like.ndim - 1))

    def _log_p(self, prefix: str = "", suffix: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Of the token that is followed, and of the alternative; NaN where both are one."""
        followed = getattr(self, f"{prefix}log_p_{self.follow}{suffix}")
        ids = self.gold_ids if self.follow == "gold" else self.answer_ids
        is_one = self.per_sample(ids == self.alternative_ids, followed)
        return followed, np.where(is_one, np.nan, getattr(self, f"{prefix}log_p_alternative{suffix}"))

    @property
    def metric_base(self) -> Float64[np.ndarray, " sample"]:
        """The metric in the clean run."""
        return metric_of(self.metric, *self._log_p("", "_base"))

    @property
    def metric_changed(self) -> Float64[np.ndarray, " sample *cell"]:
        """The metric in each changed run."""
        return metric_of(self.metric, *self._log_p())

    @property
    def control_metric(self) -> Float64[np.ndarray, " sample draw *cell"]:
        """The metric under each random cut."""
        return metric_of(self.metric, *self._log_p("control_"))

    @property
    def n_saturated(self) -> int:
        """Samples whose clean probability is above `SATURATED`: look at their logit difference."""
        return int((np.exp(self._log_p("", "_base")[0]) > SATURATED).sum())

    @property
    def p_answer(self) -> Float64[np.ndarray, " sample *cell"]:
        """Probability of the clean run's answer."""
        return np.exp(self.log_p_answer)

    @property
    def p_gold(self) -> Float64[np.ndarray, " sample *cell"]:
        """Probability of the right answer."""
        return np.exp(self.log_p_gold)

    @property
    def logit_difference(self) -> Float64[np.ndarray, " sample *cell"]:
        """Logit of the token that is followed, less that of the alternative."""
        return metric_of("logit_difference", *self._log_p())

    @property
    def p_answer_base(self) -> Float64[np.ndarray, " sample"]:
        """`p_answer` of the clean run."""
        return np.exp(self.log_p_answer_base)

    @property
    def p_gold_base(self) -> Float64[np.ndarray, " sample"]:
        """`p_gold` of the clean run."""
        return np.exp(self.log_p_gold_base)

    @property
    def logit_difference_base(self) -> Float64[np.ndarray, " sample"]:
        """`logit_difference` of the clean run."""
        return metric_of("logit_difference", *self._log_p("", "_base"))

    @property
    def control_p_answer(self) -> Float64[np.ndarray, " sample draw *cell"]:
        """`p_answer` under each random cut."""
        return np.exp(self.control_log_p_answer)

    @property
    def control_p_gold(self) -> Float64[np.ndarray, " sample draw *cell"]:
        """`p_gold` under each random cut."""
        return np.exp(self.control_log_p_gold)

    @property
    def control_logit_difference(self) -> Float64[np.ndarray, " sample draw *cell"]:
        """`logit_difference` under each random cut."""
        return metric_of("logit_difference", *self._log_p("control_"))

    def changes_of(self, metric: Metric, prefix: str = "") -> Float64[np.ndarray, " sample *cell"]:
        """What became of a metric in each changed run (`prefix` "control_": under each random cut), see `change_of`."""
        value = metric_of(metric, *self._log_p(prefix))
        return change_of(metric, value, self.per_sample(metric_of(metric, *self._log_p("", "_base")), value))

    def is_right(self, best_ids: Int64[np.ndarray, " sample *axes"]) -> Float64[np.ndarray, " sample *axes"]:
        """1 where the most probable token is the right answer, 0 where not, NaN where nobody knows."""
        gold = self.per_sample(self.gold_ids, best_ids)
        return np.where(gold == UNKNOWN, np.nan, best_ids == gold)


@dataclass(frozen=True)
class Measured:
    """One sample: what it is, the clean run, and the runs, each reading an array."""

    case: Case
    targets: Targets
    clean: dict[str, np.ndarray]
    runs: dict[str, np.ndarray]


def answer_fields(model: "HookedAVTransformer", samples: Sequence[Measured], reading: Reading) -> dict[str, Any]:
    """The fields that `Answers` holds."""
    ids = {f"{name}_ids": [getattr(one.targets, f"{name}_id") for one in samples] for name in _TOKENS}
    seen = {token for tokens in ids.values() for token in tokens}
    seen |= {
        token
        for sample in samples
        for name, run in sample.runs.items()
        if name.endswith("best_ids")
        for token in run.flat
    }
    return {
        **{name: np.array(tokens, dtype=np.int64) for name, tokens in ids.items()},
        **{f"{name}_base": np.array([sample.clean[name][0] for sample in samples]) for name in LOG_P},
        "ids": tuple(sample.case.id for sample in samples),
        "tasks": tuple(sample.case.task for sample in samples),
        "token_texts": tuple((int(token), model.to_string(int(token))) for token in sorted(seen - {UNKNOWN})),
        "metric": reading.metric,
        "follow": reading.follow,
    }


def stacked(samples: Sequence[Measured]) -> dict[str, Any]:
    """The readings of all samples, the sample axis first."""
    return {name: np.stack([sample.runs[name] for sample in samples]) for name in samples[0].runs}
