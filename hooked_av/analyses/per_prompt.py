"""Results of a batch: one for each prompt, the one that the prompt alone gives, from passes that they share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, overload

import pandas as pd

from hooked_av.analyses.result_files import not_a_result, read_arrays, write_arrays
from hooked_av.analyses.results import Result
from hooked_av.analyses.several import several
from hooked_av.doors import door
from hooked_av.errors import HookedAVError, InputsError
from hooked_av.named_figures import Figure, draw
from hooked_av.prompt.inputs import AVInputs

R = TypeVar("R", bound=Result)
T = TypeVar("T")

# One name, several for every prompt of a batch, or a list for each of them.
Names = str | Sequence[str] | Sequence[Sequence[str]]
PROMPT = "prompt"  # the first column of a table
_SHOWN = 10  # by `repr`


@door
@dataclass(frozen=True, eq=False)
class PerPrompt(Sequence[R], Generic[R]):
    """The results of a batch: a sequence of what each of its prompts gives alone, in the order of its rows.

    `found[0]` is the first prompt's, `found[1:]` are the others'. `to_frame()` is one table, whose first column,
    "prompt", is the row of the batch; `table_of` makes one of any other table. One prompt gives its result itself.

    Errors: `InputsError` for no results, and for results of several types.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> batch = model.batch([model.prepare(question=text) for text in ("Which digit do you hear?", "And now?")])
    >>> lens = av.logit_lens(model, batch, tokens=[" three"])
    >>> len(lens), lens[1].top_ids.shape, lens.to_frame()["prompt"].unique().tolist()
    (2, (2, 1, 5), [0, 1])
    >>> lens.table_of(lambda one: one.tokens_frame()).shape
    (4, 6)
    """

    figure: ClassVar[Figure] = "hooked_av.plots.per_prompt:plot_per_prompt"
    results: Sequence[R]

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", tuple(self.results))
        kinds = dict.fromkeys(type(one) for one in self.results)
        if len(kinds) != 1:
            raise InputsError(
                "these are not the results of a batch",
                expected="one result a prompt, all of one type",
                got=", ".join(kind.__name__ for kind in kinds) or "none",
                next_step="take what one analysis gives",
            )

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, row: int) -> R: ...
    @overload
    def __getitem__(self, row: slice) -> "PerPrompt[R]": ...
    def __getitem__(self, row: int | slice) -> "R | PerPrompt[R]":
        return PerPrompt(self.results[row]) if isinstance(row, slice) else self.results[row]

    def __getattr__(self, name: str) -> Any:
        kind = type(vars(self)["results"][0]).__name__ if vars(self).get("results") else "result"
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}: it holds a {kind} for each prompt of a batch; "
            f"write found[0].{name}, or [one.{name} for one in found]",
            name=name,
            obj=self,
        )

    @property
    def kind(self) -> type[R]:
        """The type of the results."""
        return type(self.results[0])

    @property
    def settings(self) -> dict[str, Any]:
        """What made the results; of what differs from prompt to prompt, a tuple."""
        names = dict.fromkeys(name for one in self.results for name in one.settings)
        values = {name: tuple(one.settings.get(name) for one in self.results) for name in names}
        return {name: some[0] if all(one == some[0] for one in some) else some for name, some in values.items()}

    def to_frame(self) -> pd.DataFrame:
        """The tables of all prompts as one, with the column "prompt" in front."""
        return self.table_of(lambda one: one.to_frame())

    def table_of(self, make: Callable[[R], pd.DataFrame]) -> pd.DataFrame:
        """One table of what `make` gives for each prompt."""
        tables = [make(one) for one in self.results]
        for row, table in enumerate(tables):
            table.insert(0, PROMPT, row)
        return pd.concat(tables, ignore_index=True)

    def plot(self) -> Any:
        """The figures of the first prompts, one under the other (matplotlib)."""
        return draw(self)

    @door
    def save(self, path: str | Path) -> Path:
        """Write all results to one safetensors file; `load` reads it back.

        Errors: `InputsError` where it cannot be written.
        """
        parts = [one.to_parts() for one in self.results]
        arrays = {f"{row}.{name}": array for row, (own, _) in enumerate(parts) for name, array in own.items()}
        return write_arrays(Path(path), _saved_as(self.kind), arrays, [plain for _, plain in parts])

    @classmethod
    @door
    def load(cls, path: str | Path, kind: type[R]) -> "PerPrompt[R]":
        """Read what `save` wrote: results of this kind, such as `av.analyses.LogitLens`.

        Errors: `InputsError` for a file that holds no such results.
        """
        saved = _saved_as(kind)
        arrays, plain = read_arrays(path, saved)
        own: list[dict[str, Any]] = [{} for _ in plain]
        try:
            for key, array in arrays.items():
                row, _, name = key.partition(".")
                own[int(row)][name] = array
        except (ValueError, IndexError) as error:
            raise not_a_result(saved, f"{type(error).__name__}: {error}") from error
        return cls(tuple(kind.from_parts(some, rest, saved) for some, rest in zip(own, plain, strict=True)))

    def __repr__(self) -> str:
        lines = [f"  {row}: {repr(one).splitlines()[0]}" for row, one in enumerate(self.results[:_SHOWN])]
        left = len(self) - _SHOWN
        return "\n".join(
            [
                f"{type(self).__name__} of {len(self)} prompts",
                *lines,
                *([f"  ... {left} more"] if left > 0 else []),
                "  [0] is the first prompt's, .plot() draws them, .to_frame() is one table of all",
            ]
        )

    def _repr_html_(self) -> str:
        from hooked_av.plots.notebook import result_html

        return result_html(self, repr(self))


def per_prompt(results: Sequence[R]) -> R | PerPrompt[R]:
    """What an analysis gives: the result of one prompt itself, those of a batch as a sequence."""
    return results[0] if len(results) == 1 else PerPrompt(tuple(results))


def prompts_of(inputs: AVInputs) -> list[AVInputs]:
    """Each prompt of a batch as it is alone, without its media: for its spans and settings."""
    return [inputs.row(row).without_padding() for row in range(inputs.batch)]


def names_of_each(names: Names, inputs: AVInputs) -> list[tuple[str, ...]]:
    """Names for each prompt of a batch: the same for all, or of a list of lists each its own.

    >>> import torch
    >>> two = AVInputs.from_tokens(torch.tensor([[5], [6]]))
    >>> names_of_each(["five", "one"], two), names_of_each([["five", "one"], "two"], two)
    ([('five', 'one'), ('five', 'one')], [('five', 'one'), ('two',)])
    """
    texts = [name for name in names if isinstance(name, str)]
    if isinstance(names, str) or len(texts) == len(names):
        return [several(names if isinstance(names, str) else texts)] * inputs.batch
    each: list[str | Sequence[str]] = one_of_each(names, inputs)
    return [several(own) for own in each]


def one_of_each(given: T | Sequence[T], inputs: AVInputs) -> list[T]:
    """A value for each prompt of a batch: the same for all, or of a list each its own.

    Errors: `InputsError` for a list of another length.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [given] * inputs.batch  # type: ignore[list-item] - it is no list
    if len(given) != inputs.batch:
        raise InputsError(
            "there is not one of these for each prompt",
            expected=f"one for all, or a list of {inputs.batch}, the number of prompts",
            got=f"{len(given)}: {given!r}",
            next_step="give as many as the batch has prompts, in their order",
        )
    return list(given)


@contextmanager
def naming_the_prompt(row: int, inputs: AVInputs) -> Iterator[None]:
    """An error in this `with` block says which prompt of a batch it is about."""
    try:
        yield
    except HookedAVError as error:
        if inputs.batch == 1:
            raise
        raise type(error)(
            f"prompt {row} of the batch: {error.what}",
            expected=error.expected,
            got=error.got,
            next_step=error.next_step,
        ) from error


def _saved_as(kind: type[Result]) -> str:
    return f"{PerPrompt.__name__}[{kind.__name__}]"
