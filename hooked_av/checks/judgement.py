"""What a checker says of an answer. Shown at the end of a notebook's cell, it is the cell's output."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True, repr=False)
class Judgement:
    """Right or not, and why.

    >>> Judgement(True, "the sound is enough")
    ✓ the sound is enough
    """

    right: bool
    says: str

    def __repr__(self) -> str:
        return f"{'✓' if self.right else '✗'} {self.says}"


NOT_YET = Judgement(False, "not answered yet: put your answer in place of the ...")


def exercise(check: Callable[_Arguments, Judgement]) -> Callable[_Arguments, Judgement]:
    """A checker that lets an open exercise pass by: as long as an answer is `...`, it says so and nothing else."""

    @wraps(check)
    def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Judgement:
        answers = (*args, *kwargs.values())
        return NOT_YET if any(answer is ... for answer in answers) else check(*args, **kwargs)

    return checked


def first_mistake(*mistakes: tuple[bool, str]) -> Judgement | None:
    """The first mistake that was made, if there is one.

    >>> first_mistake((False, "keys and queries are swapped"), (True, "one layer is not enough"))
    ✗ one layer is not enough
    """
    made = [says for is_made, says in mistakes if is_made]
    return Judgement(False, made[0]) if made else None
