"""Metrics, as figures say them."""

from typing import Any

from hooked_av.plots.text import minus

CHANGES = {
    "probability": "change of answer probability, %",
    "log_prob": "change of the answer's log probability, nats",
    "logit_difference": "change of the logit difference",
}
NAMES = {"probability": "probability", "log_prob": "log probability", "logit_difference": "logit difference"}


def metric_of_answer(metric: str, answer: str, alternative: str = "") -> str:
    """What is measured, of which answer.

    >>> metric_of_answer("log_prob", "the clean answer"), metric_of_answer("logit_difference", "“two”", "“one”")
    ('log probability of the clean answer', 'logit difference of “two” to “one”')
    """
    to = f" to {alternative}" if alternative and metric == "logit_difference" else ""
    return f"{NAMES[metric]} of {answer}{to}"


def metric_value(metric: str, value: float) -> str:
    """A number of a title, with the minus of the axes; a probability near 1 does not become 1.

    >>> metric_value("probability", 0.75), metric_value("probability", 0.99996), metric_value("log_prob", -2.0)
    ('p = 0.75', 'p = 1 − 4e−05', '−2')
    """
    if metric != "probability":
        return minus(f"{value:.3g}")
    return minus(f"p = 1 - {1 - value:.1g}" if 0.9995 <= value < 1 else f"p = {value:.3g}")


def saturation(metric: str, n_saturated: int, n_samples: int) -> str:
    """A line for figures of a probability that can hardly move; empty where most samples are not like that."""
    if metric != "probability" or 2 * n_saturated < n_samples:
        return ""
    where = f" in {n_saturated} of {n_samples} samples" if n_samples > 1 else ""
    return f"p is near 1 (clean p > 0.99{where}): see metric='logit_difference'"


def saturation_of(answers: Any) -> str:
    """The same of a result over samples."""
    return saturation(answers.metric, answers.n_saturated, len(answers.ids))
