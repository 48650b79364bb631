"""Cases: prompts with what is known about their answers, which an analysis over many samples is run on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hooked_av.errors import InputsError
from hooked_av.prompt.inputs import AVInputs


@dataclass(frozen=True, eq=False)
class Case:
    """One prompt, the right answer, a wrong one to measure it against, and what the sample belongs to.

    `answer` and `alternative` are texts of one token each; None where nothing is known. `swapped` holds the same
    question about other media, by what was done to them ("silence", "black frames", ...): `media_swaps` makes it.
    `queried_item`: of several clips, sounds or pictures, the one that the question is about, from 0.
    """

    inputs: AVInputs
    answer: str | None = None
    alternative: str | None = None
    id: str = ""
    task: str = ""
    swapped: Mapping[str, AVInputs] = field(default_factory=dict)
    queried_item: int | None = None


def as_cases(given: Any) -> Iterator[Case]:
    """One prompt, one case, or any iterable of either, as cases; they are taken one by one, never held together.

    Errors: `InputsError` for anything else, for a batch, and for no case at all.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> inputs = model.prepare(question="Which digit do you hear?")
    >>> [case.id for case in as_cases([inputs, Case(inputs, answer=" three", id="second")])]
    ['0', 'second']
    """
    several = [given] if isinstance(given, (AVInputs, Case)) else given
    if isinstance(several, (str, dict)) or not isinstance(several, Iterable):
        raise _not_cases(type(given).__name__)
    number = -1
    for number, one in enumerate(several):
        case = one if isinstance(one, Case) else Case(one)
        if not isinstance(case.inputs, AVInputs) or case.inputs.batch != 1:
            raise _not_cases(f"number {number} is {_name(case.inputs)}")
        yield case if case.id else replace(case, id=str(number))
    if number < 0:
        raise _not_cases("nothing")


def _name(inputs: Any) -> str:
    return f"a batch of {inputs.batch} prompts" if isinstance(inputs, AVInputs) else type(inputs).__name__


def _not_cases(got: str) -> InputsError:
    return InputsError(
        "nothing to analyse here",
        expected="one prompt (AVInputs), one av.Case, or several of them",
        got=got,
        next_step="make prompts with model.prepare(...), one at a time, and give them as a list",
    )
