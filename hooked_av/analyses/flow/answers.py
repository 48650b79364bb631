"""Answers: what the last position says of a sample, in the clean run and in changed ones.

Axes: sample, run (one change of the model or the prompt).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from hooked_av.analyses.cases import Case
from hooked_av.analyses.results import Result
from hooked_av.errors import InputsError

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

Whose = Literal["answer", "gold"]  # whose probability counts: the clean run's answer, or the right one
READINGS = ("p_answer", "p_gold", "logit_difference", "best_ids")
BASES = ("p_answer_base", "p_gold_base", "logit_difference_base")  # of the clean run
UNKNOWN = -1  # the id of a token that nobody named


@dataclass(frozen=True)
class Targets:
    """The tokens that are followed: the clean run's answer, the right one, and a wrong one to measure it against."""

    answer_id: int
    gold_id: int = UNKNOWN
    alternative_id: int = UNKNOWN

    @classmethod
    def of(cls, model: "HookedAVTransformer", case: Case, clean: Float[Tensor, " d_vocab"]) -> "Targets":
        """Of one sample.

        Errors: `InputsError` for an answer or an alternative that is not one token.
        """
        named = [UNKNOWN if text is None else model.to_single_token(text) for text in (case.answer, case.alternative)]
        return cls(int(clean.argmax()), *named)

    @property
    def is_wrong(self) -> bool:
        """Whether the right answer is known, and the clean run gives another."""
        return self.gold_id not in (UNKNOWN, self.answer_id)

    @torch.no_grad()
    def read(self, logits: Float[Tensor, "run d_vocab"]) -> dict[str, np.ndarray]:
        """Probabilities of both answers, the logit difference to the alternative, and the most probable token.

        What is not known is NaN. The difference is that of the right answer, or of the clean run's.
        """
        named = [self.answer_id, self.gold_id, self.alternative_id]
        p, chosen = (x[:, named].double().cpu().numpy() for x in (logits.float().softmax(dim=-1), logits.float()))
        nothing, right = np.full(len(p), np.nan), int(self.gold_id != UNKNOWN)
        return {
            "p_answer": p[:, 0],
            "p_gold": nothing if self.gold_id == UNKNOWN else p[:, 1],
            "logit_difference": nothing if self.alternative_id == UNKNOWN else chosen[:, right] - chosen[:, 2],
            "best_ids": logits.argmax(dim=-1).cpu().numpy(),
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers(Result):
    """What results over samples share: who the samples are, and what the clean run says of each.

    `metric`: whose probability counts, that of the clean run's answer ("answer") or of the right one ("gold").
    """

    axes: ClassVar = dict.fromkeys(
        ("answer_ids", "gold_ids", *BASES, "answers", "golds", "tasks", "base_is_right"), ("sample",)
    )
    labels: ClassVar = {"sample": "ids"}
    answer_ids: Int64[np.ndarray, " sample"]
    gold_ids: Int64[np.ndarray, " sample"]  # -1 where the right answer is not known
    p_answer_base: Float64[np.ndarray, " sample"]
    p_gold_base: Float64[np.ndarray, " sample"]
    logit_difference_base: Float64[np.ndarray, " sample"]
    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    token_texts: tuple[tuple[int, str], ...]  # of every token that is an answer somewhere
    best_ids: Int64[np.ndarray, " sample *cell"]  # the most probable token of each changed run
    control_best_ids: Int64[np.ndarray, " sample draw *cell"]
    metric: Whose = "answer"

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

    def percent(
        self, p_answer: Float64[np.ndarray, " sample *axes"], p_gold: Float64[np.ndarray, " sample *axes"]
    ) -> Float64[np.ndarray, " sample *axes"]:
        """Change of the probability that counts, 100 * (p - p_base) / p_base, sample by sample."""
        p, base = (p_gold, self.p_gold_base) if self.metric == "gold" else (p_answer, self.p_answer_base)
        base = self.per_sample(base, p)
        return 100 * (p - base) / base

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


def answer_fields(model: "HookedAVTransformer", samples: Sequence[Measured], metric: Whose) -> dict[str, Any]:
    """The fields that `Answers` holds."""
    ids = {
        "answer_ids": [sample.targets.answer_id for sample in samples],
        "gold_ids": [sample.targets.gold_id for sample in samples],
    }
    seen = [*ids["answer_ids"], *ids["gold_ids"]]
    seen += [
        token
        for sample in samples
        for name, run in sample.runs.items()
        if name.endswith("best_ids")
        for token in run.flat
    ]
    return {
        **{name: np.array(tokens, dtype=np.int64) for name, tokens in ids.items()},
        **{f"{name}_base": np.array([sample.clean[name][0] for sample in samples]) for name in READINGS[:3]},
        "ids": tuple(sample.case.id for sample in samples),
        "tasks": tuple(sample.case.task for sample in samples),
        "token_texts": tuple((int(token), model.to_string(int(token))) for token in sorted({*seen} - {UNKNOWN})),
        "metric": metric,
    }


def stacked(samples: Sequence[Measured]) -> dict[str, Any]:
    """The readings of all samples, the sample axis first."""
    return {name: np.stack([sample.runs[name] for sample in samples]) for name in samples[0].runs}


def check_metric(metric: str, sample: str, *, is_known: bool) -> None:
    """Refuse the right answer's probability where nobody knows the right answer.

    Errors: `InputsError`.
    """
    if metric == "gold" and not is_known:
        raise InputsError(
            f"nothing to measure of sample {sample!r}",
            expected="metric 'answer', or 'gold' for cases with an answer",
            got=f"metric {metric!r}, {'a' if is_known else 'no'} right answer that is known",
            next_step="give av.Case(inputs, answer=...), or take metric='answer'",
        )
