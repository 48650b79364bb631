"""Results: frozen dataclasses of numpy arrays with named axes and the exact settings that made them.

`to_frame()` gives a table, `save`/`load` keep everything in one safetensors file, `plot()` draws without a model.
A type of your own declares `axes`, and has all of that:

    @dataclass(frozen=True, eq=False, kw_only=True)
    class Gates(Result):
        axes: ClassVar = {"gates": ("layer", "expert"), "shares": ("layer", "expert")}
        labels: ClassVar = {"expert": "experts"}
        gates: Float64[np.ndarray, "layer expert"]
        experts: tuple[str, ...]

        @property
        def shares(self) -> Float64[np.ndarray, "layer expert"]:
            return self.gates / self.gates.sum(axis=1, keepdims=True)

Its table has the columns layer, expert (by name), gates and shares. `columns` says which, in what order and by what
names, where that is not enough.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
import torch

from hooked_av.analyses.result_files import not_a_result, read_arrays, tuples, write_arrays
from hooked_av.doors import door
from hooked_av.errors import InputsError, nearest
from hooked_av.named_figures import Figure, draw
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

R = TypeVar("R", bound="Result")
_MADE_WIDTH, _AXES_SHOWN = 110, 6  # by `repr`: characters of what made a result
_OF_MODELS = ("model", "weights", "n_layers", "attention", "hooked_av", "torch", "transformers")


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What every analysis returns.

    `axes` names the axes of every array field, and of tuples and properties that stand in the table; arrays that share
    an axis name share its length. `labels` says which field or property names the places along an axis; without one
    they count from 0. `columns` are those of the table, see `tabulate`. `figure` names the function that draws it.
    Subclasses inherit all of them.
    """

    axes: ClassVar[Mapping[str, tuple[str, ...]]]
    labels: ClassVar[Mapping[str, str]] = {}
    columns: ClassVar[tuple[str, ...]] = ()
    figure: ClassVar[Figure | None] = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__repr__" not in vars(cls):
            cls.__repr__ = cls.__repr__  # the inherited one; a dataclass would write one that prints its arrays

    def __post_init__(self) -> None:
        lengths: dict[str, int] = {}
        for name, array in self._arrays().items():
            axes, shape = self.axes[name], array.shape
            if len(shape) != len(axes) or any(lengths.setdefault(a, n) != n for a, n in zip(axes, shape, strict=True)):
                raise InputsError(
                    f"{type(self).__name__}.{name} does not fit its axes",
                    expected=" ".join(f"{axis}={lengths.get(axis, '?')}" for axis in axes),
                    got=list(shape),
                    next_step="build results with the analysis that returns them",
                )

    def to_frame(self) -> pd.DataFrame:
        """A table, one row a cell, one column a quantity: `columns`, or all that goes with the widest array."""
        return self.tabulate(*(self.columns or self._all_columns()))

    @door
    def tabulate(self, *columns: str) -> pd.DataFrame:
        """One row a cell of the axes that these columns have together, in the order in which they come.

        Args:
            columns: each an axis, field or property ("layer", "p_cut"); by a name of its own ("best_id=best_ids"); or
                one place along an axis that the rows have not ("low=interval[edge=0]").

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> lens = av.logit_lens(model, model.prepare(question="Which digit do you hear?"), top_k=3)
        >>> lens.tabulate("layer", "best=top_ids[rank=0]").shape
        (2, 2)
        """
        wanted = [_Column.parse(text) for text in columns]
        values = {name: self._values_of(name) for name in {column.quantity for column in wanted}}
        axes_of = {column: self._axes_of(column.quantity) for column in wanted}
        rows = list(dict.fromkeys(axis for column in wanted for axis in axes_of[column] if axis != column.axis))
        held = [(self.axes[name], array) for name, array in self._arrays().items()]
        held += [(axes_of[column], values[column.quantity]) for column in wanted]
        lengths = {
            axis: n
            for axes, array in held
            if hasattr(array, "shape")
            for axis, n in zip(axes, array.shape, strict=True)
        }
        index = dict(zip(rows, np.indices([lengths[axis] for axis in rows]).reshape(len(rows), -1), strict=True))
        return pd.DataFrame(
            {column.name: column.along(index, values[column.quantity], axes_of[column]) for column in wanted}
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        """The array fields."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name in self.axes}
        return {name: value for name, value in known.items() if not isinstance(value, (tuple, list))}

    def _all_columns(self) -> tuple[str, ...]:
        """The axes of the widest array, and all that has no other axes; not the labels, which the axes show."""
        rows = max((self.axes[name] for name in self._arrays()), key=len)
        shown = {*self.labels.values()}
        return (*rows, *(name for name, axes in self.axes.items() if {*axes} <= {*rows} and name not in shown))

    def _axes_of(self, quantity: str) -> tuple[str, ...]:
        """Of an axis, itself; none for a number or a text, which is the same in every row."""
        by_label = {field: (axis,) for axis, field in self.labels.items()}
        is_axis = any(quantity in axes for axes in self.axes.values())
        return (quantity,) if is_axis else self.axes.get(quantity) or by_label.get(quantity, ())

    def _values_of(self, quantity: str) -> Any:
        """A field or property; of an axis its labels, or None where its places are numbers."""
        is_axis = any(quantity in axes for axes in self.axes.values())
        name = self.labels.get(quantity) if is_axis else quantity
        if name is not None and not hasattr(self, name):
            known = {*self.axes, *(axis for axes in self.axes.values() for axis in axes), *self.labels.values()}
            raise InputsError(
                f"{type(self).__name__} has no column of this name",
                expected=nearest(name, known),
                got=repr(name),
                next_step="name an axis, a field or a property of the result",
            )
        value = None if name is None else getattr(self, name)
        return np.array(value, dtype=object) if isinstance(value, (tuple, list)) else value

    def __repr__(self) -> str:
        """Three lines: what it is, how it was made, and what to do with it."""
        shapes = [zip(self.axes[name], array.shape, strict=True) for name, array in self._arrays().items()]
        lengths = dict(pair for shape in shapes for pair in shape)
        last = ("dtype", "positions", "n_pos")  # of all results; what is the analysis's own comes first
        own = {name: value for name, value in self.settings.items() if name not in (*_OF_MODELS, *last)}
        own |= {name: self.settings[name] for name in last if name in self.settings}
        made = ", ".join(f"{name} {_in_words(value)}" for name, value in own.items())
        of = f" of {self.settings['model']}" if "model" in self.settings else ""
        size = ", ".join(f"{axis} {n}" for axis, n in list(lengths.items())[:_AXES_SHOWN])
        return "\n".join(
            [
                f"{type(self).__name__}{of}: {size}",
                f"  {made[:_MADE_WIDTH]}{'…' if len(made) > _MADE_WIDTH else ''}" if made else "  no settings",
                "  .plot() draws it, .to_frame() is its table, .settings says how it was made",
            ]
        )

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the figure, with the settings folded; text where the type has no figure."""
        from hooked_av.plots.notebook import result_html

        return None if self.figure is None else result_html(self, repr(self))

    def plot(self) -> Any:
        """The figure of this result (matplotlib); it is drawn from the arrays, and runs no model."""
        return draw(self)

    @door
    def save(self, path: str | Path) -> Path:
        """Write arrays and settings to one safetensors file; `load` reads it back.

        Errors: `InputsError` where it cannot be written.
        """
        return write_arrays(Path(path), type(self).__name__, *self.to_parts())

    @classmethod
    @door
    def load(cls: type[R], path: str | Path) -> R:
        """Read what `save` wrote.

        Errors: `InputsError` for a file that is not a saved result of this type.
        """
        return cls.from_parts(*read_arrays(path, cls.__name__), cls.__name__)

    def to_parts(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Its array fields, and the others: what a file keeps."""
        arrays = self._arrays()
        return arrays, {f.name: getattr(self, f.name) for f in fields(self) if f.name not in arrays}

    @classmethod
    def from_parts(cls: type[R], arrays: Mapping[str, np.ndarray], plain: Mapping[str, Any], saved: str) -> R:
        """The result of what `to_parts` gave, read from a file.

        Errors: `InputsError`, about what was `saved`, where these are not its fields.
        """
        try:
            return cls(**arrays, **{name: tuples(value) for name, value in plain.items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # fields that it has not
            raise not_a_result(saved, f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class _Column:
    """A column of a table: a quantity by its name, maybe at one place along one of its axes."""

    name: str
    quantity: str
    axis: str | None = None
    place: int = 0

    @classmethod
    def parse(cls, text: str) -> "_Column":
        """From "name", "name=quantity" or "name=quantity[axis=place]"."""
        found = re.fullmatch(r"(\w+)(?:=(\w+))?(?:\[(\w+)=(\d+)\])?", text)
        if found is None:
            raise InputsError(
                "no such column",
                expected="name, name=quantity, or name=quantity[axis=place]",
                got=repr(text),
                next_step='say which field or property it is, such as "low=interval[edge=0]"',
            )
        name, quantity, axis, place = found.groups()
        return cls(name, quantity or name, axis, int(place or 0))

    def along(self, index: Mapping[str, np.ndarray], values: Any, axes: tuple[str, ...]) -> Any:
        """What stands in each row; `index` has the place of each row along each axis."""
        if not axes:
            return values
        if values is None:
            return index[axes[0]]
        return values[tuple(self.place if axis == self.axis else index[axis] for axis in axes)]


def run_settings(model: "HookedAVTransformer", inputs: AVInputs, **own: Any) -> dict[str, Any]:
    """What made a result: model, precision, attention backend, positions, versions, and the analysis's own settings."""
    positions = {"positions": inputs.settings.get("positions", "text"), "n_pos": inputs.n_pos}
    return {**model_settings(model), **positions, **own}


def model_settings(model: "HookedAVTransformer") -> dict[str, Any]:
    """What every result of a model shares: its weights, precision, attention backend, and package versions."""
    return {
        "model": model.cfg.model_name,
        "weights": model.fingerprint(),
        "n_layers": model.cfg.n_layers,
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "attention": model.attn_implementation,
        "hooked_av": version("hooked-av"),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def _in_words(value: Any) -> str:
    """A setting, short: of many items, how many."""
    if isinstance(value, (list, tuple)) and len(str(value)) > _MADE_WIDTH // 3:
        return f"({len(value)})"
    plain = " ".join(map(str, value.values())) if isinstance(value, Mapping) else str(value)
    return " ".join(plain.split())
