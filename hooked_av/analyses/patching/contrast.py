"""Contrast: the number that tells a clean run from a corrupt one, and the effect of a patch on its scale.

Axes: cell (one patch), d_vocab.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hooked_av.analyses.metric import Metric
from hooked_av.errors import InputsError
from hooked_av.forward.tokens import check_ids

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

LEAST_CONTRAST = 1e-4  # of logits or probability: below it a ratio is rounding noise


@dataclass(frozen=True)
class Contrast:
    """A metric with the two answers that it compares, and its value in both runs."""

    metric: Metric
    answers: tuple[str, str]
    ids: tuple[int, int]
    clean: float
    corrupt: float

    @classmethod
    def of(
        cls,
        model: "HookedAVTransformer",
        clean: Float[Tensor, " d_vocab"],
        corrupt: Float[Tensor, " d_vocab"],
        metric: Metric,
        answer: str | int | None = None,
        alternative: str | int | None = None,
    ) -> "Contrast":
        """The metric of two runs; what is not named is each run's own best token.

        Errors: `InputsError` for an answer of several tokens, and answers that are the same.
        """
        best = (int(clean.argmax()), int(corrupt.argmax()))
        ids = (
            best[0] if answer is None else token_id(model, answer),
            best[1] if alternative is None else token_id(model, alternative),
        )
        texts = (model.to_string(ids[0]), model.to_string(ids[1]))
        if metric == "logit_difference" and ids[0] == ids[1]:
            raise InputsError(
                f"both answers are {texts[0]!r}, so their logit difference is always zero",
                expected="a corrupt run that answers something else",
                got=f"the clean run answers {model.to_string(best[0])!r}, the corrupt run {model.to_string(best[1])!r}",
                next_step='name answer="five" and alternative="one", take metric="probability", or corrupt more',
            )
        measured = (float(measure(metric, ids, logits)) for logits in (clean, corrupt))
        return cls(metric, texts, ids, *measured)

    def __call__(self, logits: Float[Tensor, "*cell d_vocab"]) -> Float64[Tensor, "*cell"]:
        return measure(self.metric, self.ids, logits)

    def check_differs(self) -> "Contrast":
        """Refuse two runs whose metric is the same: no effect can be a share of nothing.

        Errors: `InputsError`.
        """
        if not abs(self.clean - self.corrupt) > LEAST_CONTRAST:
            raise InputsError(
                f"effects would be shares of nothing: both runs have the same {self.metric.replace('_', ' ')}",
                expected=f"a difference of more than {LEAST_CONTRAST:g}",
                got=f"{self.clean:.6g} in the clean run, {self.corrupt:.6g} in the corrupt run ({self._answers()})",
                next_step="corrupt what the answer depends on, or name an answer and an alternative that differ",
            )
        return self

    def _answers(self) -> str:
        return f"answers {self.answers[0]!r} and {self.answers[1]!r}"


def token_id(model: "HookedAVTransformer", token: str | int) -> int:
    """The id of a single token that is given as text or id.

    Errors: `InputsError` for a text of several tokens, or an id that the model does not have.
    """
    if isinstance(token, str):
        return model.to_single_token(token)
    check_ids(torch.tensor(token), model.cfg.d_vocab)
    return token


def measure(metric: Metric, ids: tuple[int, int], logits: Float[Tensor, "*cell d_vocab"]) -> Float64[Tensor, "*cell"]:
    """Logit of the clean answer less that of the corrupt one, or the clean answer's probability, or its logarithm.

    >>> import torch
    >>> measure("logit_difference", (0, 1), torch.tensor([2.0, 0.5])).item()
    1.5
    """
    logits = logits.float()
    if metric == "logit_difference":
        return (logits[..., ids[0]] - logits[..., ids[1]]).double()
    log_p = (logits[..., ids[0]] - logits.logsumexp(dim=-1)).double()
    return log_p if metric == "log_prob" else log_p.exp()
