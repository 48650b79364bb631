"""What a checker says of an answer. Shown at the end of a notebook's cell, it is the cell's output."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import isfunction
from typing import Any, ParamSpec

from torch import Tensor

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


class _OpenError(Exception):
    """A function that is asked for still answers `...`."""


def exercise(check: Callable[_Arguments, Judgement]) -> Callable[_Arguments, Judgement]:
    """A checker that lets an open exercise pass by: as long as an answer, or what it returns, is `...`, it says so."""

    judge: Callable[..., Judgement] = check

    @wraps(check)
    def checked(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Judgement:
        if any(answer is ... for answer in (*args, *kwargs.values())):
            return NOT_YET
        given: Any = [_written(answer) for answer in args]
        named: Any = {name: _written(answer) for name, answer in kwargs.items()}
        try:
            return judge(*given, **named)
        except _OpenError:
            return NOT_YET

    return checked


def _written(answer: Any) -> Any:
    """A function as one that stops the check where it returns `...`; everything else as it is."""
    if not isfunction(answer):
        return answer

    @wraps(answer)
    def called(*args: Any, **kwargs: Any) -> Any:
        returned = answer(*args, **kwargs)
        if returned is ...:
            raise _OpenError
        return returned

    return called


def first_mistake(*mistakes: tuple[bool, str]) -> Judgement | None:
    """The first mistake that was made, if there is one.

    >>> first_mistake((False, "keys and queries are swapped"), (True, "one layer is not enough"))
    ✗ one layer is not enough
    """
    made = [says for is_made, says in mistakes if is_made]
    return Judgement(False, made[0]) if made else None


def shape_of(answer: Any) -> str:
    """What an answer is, where a tensor of some shape is asked for."""
    return str(list(answer.shape)) if isinstance(answer, Tensor) else type(answer).__name__
