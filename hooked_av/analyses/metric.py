"""Metrics: what is measured of an answer. The names are the same in every analysis.

"probability" of the answer; "log_prob", its natural logarithm; "logit_difference", the answer's logit less that of
another token. Near 1 a probability hardly moves, whatever is cut: the other two still do.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float64

Metric = Literal["logit_difference", "log_prob", "probability"]
Follow = Literal["answer", "gold"]  # which token is followed: the clean run's answer, or the right one
SATURATED = 0.99  # a clean probability above it cannot show a cut that helps, and hardly one that hurts a little


def metric_of(
    metric: Metric, log_p: Float64[np.ndarray, "*axes"], log_p_alternative: Float64[np.ndarray, "*axes"]
) -> Float64[np.ndarray, "*axes"]:
    """A metric of an answer, from log probabilities: a difference of them is one of logits.

    >>> answer, other = np.log([0.8, 0.5]), np.log([0.1, 0.5])
    >>> [metric_of(metric, answer, other).round(3).tolist() for metric in ("probability", "log_prob")]
    [[0.8, 0.5], [-0.223, -0.693]]
    >>> metric_of("logit_difference", answer, other).round(3).tolist()
    [2.079, 0.0]
    """
    if metric == "probability":
        return np.exp(log_p)
    return log_p if metric == "log_prob" else log_p - log_p_alternative


def change_of(
    metric: Metric, value: Float64[np.ndarray, "*#axes"], base: Float64[np.ndarray, "*#axes"]
) -> Float64[np.ndarray, "*axes"]:
    """What became of a metric: of a probability, percent of what it was; of logits and logarithms, the difference."""
    change = value - base
    return 100 * change / base if metric == "probability" else change
