"""Cases: prompts with what is known about their answers, which an analysis over many samples is run on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from tqdm.auto import tqdm

from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.prompt.inputs import AVInputs

M = TypeVar("M")


@door
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

    def __repr__(self) -> str:
        known = {name: getattr(self, name) for name in ("id", "answer", "alternative", "task", "queried_item")}
        said = [f"{name}={value!r}" for name, value in known.items() if value not in (None, "")]
        swaps = [f"{len(self.swapped)} swaps"] if self.swapped else []
        return f"{type(self).__name__}({', '.join([f'{self.inputs.n_pos} tokens', *said, *swaps])})"


def as_cases(given: Any) -> Iterator[Case]:
    """One prompt, a batch, one case, or any iterable of prompts and cases, as cases; they are taken one by one.

    Errors: `InputsError` for anything else, a batch inside a list among them, and for no case at all.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> inputs = model.prepare(question="Which digit do you hear?")
    >>> [case.id for case in as_cases([inputs, Case(inputs, answer=" three", id="second")])]
    ['0', 'second']
    """
    several = given.prompts if isinstance(given, AVInputs) else [given] if isinstance(given, Case) else given
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


@dataclass(frozen=True, eq=False)
class Measurements(Generic[M]):
    """What was measured of each case, and who was left out."""

    samples: tuple[M, ...]
    skipped: tuple[str, ...]  # their ids
    sizes: tuple[int, ...]  # tokens of every prompt, also of those that were left out
    last: AVInputs  # stands for all prompts in a result's settings


def over_cases(given: Any, measure: Callable[[Case], M | None], *, progress: bool = False) -> Measurements[M]:
    """Measure one case after the other; a case of which `measure` gives None is left out.

    Errors: those of `as_cases` and of `measure`; `InputsError` when every case is left out.

    >>> import hooked_av as av
    >>> inputs = av.random_omni(n_layers=2).prepare(question="Which digit do you hear?")
    >>> found = over_cases([inputs, inputs], lambda case: None if case.id == "0" else case.inputs.n_pos)
    >>> found.samples, found.skipped
    ((25,), ('0',))
    """
    samples, skipped, sizes, last = [], [], [], None
    for case in tqdm(as_cases(given), desc="samples", unit="sample", disable=not progress):
        measured, last = measure(case), case.inputs
        (skipped if measured is None else samples).append(case.id if measured is None else measured)
        sizes.append(last.n_pos)
    if not samples or last is None:
        raise nothing_left(skipped)
    return Measurements(tuple(samples), tuple(skipped), tuple(sizes), last)


def nothing_left(skipped: Sequence[str]) -> InputsError:
    """Every sample was left out."""
    return InputsError(
        "no sample is left to analyse",
        expected="some that the clean model answers rightly",
        got=f"{len(skipped)} samples, all answered wrongly",
        next_step="pass only_correct=False to analyse them all",
    )


def _name(inputs: Any) -> str:
    return f"a batch of {inputs.batch} prompts" if isinstance(inputs, AVInputs) else type(inputs).__name__


def _not_cases(got: str) -> InputsError:
    return InputsError(
        "nothing to analyse here",
        expected="one prompt (AVInputs), a batch, one av.Case, or several prompts and cases",
        got=got,
        next_step="make prompts with model.prepare(...), one at a time, and give them as a list",
    )
