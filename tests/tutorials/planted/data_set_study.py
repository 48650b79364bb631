"""Tutorial 11: exercise, wrong answer, what is said of it."""

_LINE = "line = {{'id': 'mine', 'media': {}, 'question': 'Which digit is shown second?', 'answer': {!r}}}"
_PART = "[{'file': film, 'start': 2, 'stop': 4}]"
_VERDICT = """
def verdict(change, control):
    beyond = {beyond}
    mean, half = beyond.mean(), 1.96 * beyond.std(ddof=1) / len(beyond) ** 0.5
    {few}
    if mean <= {needed} and mean + {half} < 0:
        return "holds"
    return "does not hold" if mean - {half} > -10 else "cannot be said"
"""
_RIGHT = {
    "beyond": "change - control",
    "few": "if len(beyond) < 30: return 'cannot be said'",
    "needed": "-10",
    "half": "half",
}


def _verdict(**wrong: str) -> str:
    return _VERDICT.format(**{**_RIGHT, **wrong})


ROWS = [
    ("11", "line", _LINE.format("film", "eight"), "the whole film"),
    ("11", "line", _LINE.format("[{'file': film, 'start': 1, 'stop': 3}]", "eight"), "the last two seconds are 2 to 4"),
    ("11", "line", _LINE.format(_PART, "six"), "six is shown second in the whole film"),
    ("11", "line", _LINE.format(_PART, "8"), "in words: eight"),
    ("11", "line", "line = {'id': 'mine', 'film': film, 'question': 'Which?'}", "refuses this line"),
    ("11", "missing", "missing = {'q2', 'q9'}", "base_is_right"),
    ("11", "missing", "missing = {'q5'}", "failed.csv"),
    ("11", "missing", "missing = {'q2', 'q5'}", "there are more"),
    ("11", "missing", "missing = {'q0', 'q2', 'q5', 'q9'}", "q0: the model answers it rightly"),
    ("11", "n_needed", "n_needed = 60", "just 5 points"),
    ("11", "n_needed", "n_needed = 20", "seeing none does not exclude"),
    ("11", "n_needed", "n_needed = 30", "may still be 10 points"),
    ("11", "n_needed", "n_needed = 100", "more than is needed"),
    ("11", "verdict", _verdict(beyond="change"), "look at the control"),
    ("11", "verdict", _verdict(needed="0"), "surely not zero, but small"),
    ("11", "verdict", _verdict(half="0"), "look at the interval"),
    ("11", "verdict", _verdict(few=""), "too few"),
    ("11", "verdict", _verdict(few="half = 1.96 * (change.var() + control.var()) ** 0.5 / len(beyond) ** 0.5"),
     "sample by sample"),
]  # fmt: skip
