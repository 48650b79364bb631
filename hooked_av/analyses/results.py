"""Results: frozen dataclasses of numpy arrays with named axes and the exact settings that made them.

`to_frame()` gives a table, `save`/`load` keep everything in one safetensors file, `plot()` draws without a model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hooked_av.errors import InputsError
from hooked_av.figures import Figure, draw
from hooked_av.prompt.inputs import AVInputs

R = TypeVar("R", bound="Result")


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What every analysis returns.

    `axes` names the axes of every array field; arrays that share an axis name share its length. `figure` names the
    function that draws it; subclasses inherit it.
    """

    axes: ClassVar[Mapping[str, tuple[str, ...]]]
    figure: ClassVar[Figure | None] = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths: dict[str, int] = {}
        for name, axes in self.axes.items():
            shape = getattr(self, name).shape
            if len(shape) != len(axes) or any(lengths.setdefault(a, n) != n for a, n in zip(axes, shape, strict=True)):
                raise InputsError(
                    f"{type(self).__name__}.{name} does not fit its axes",
                    expected=" ".join(f"{axis}={lengths.get(axis, '?')}" for axis in axes),
                    got=list(shape),
                    next_step="build results with the analysis that returns them",
                )

    def to_frame(self) -> pd.DataFrame:
        """A table, one row a cell, one column a quantity."""
        raise NotImplementedError

    def plot(self) -> Any:
        """The figure of this result (matplotlib); it is drawn from the arrays, and runs no model."""
        return draw(self)

    def save(self, path: str | Path) -> Path:
        """Write arrays and settings to one safetensors file; `load` reads it back."""
        path = Path(path)
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.axes}
        header = {"result": type(self).__name__, "fields": json.dumps(plain, default=plain_value)}
        save_file({name: np.ascontiguousarray(getattr(self, name)) for name in self.axes}, path, metadata=header)
        return path

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read what `save` wrote.

        Errors: `InputsError` for a file that is not a saved result of this type.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise _not_a_result(cls, f"{type(error).__name__}: {error}") from error
        if header.get("result") != cls.__name__:
            raise _not_a_result(cls, header.get("result", "a safetensors file without a result"))
        plain = {name: _tuples(value) for name, value in json.loads(header["fields"]).items()}
        return cls(**arrays, **plain)


def run_settings(model: Any, inputs: AVInputs, **own: Any) -> dict[str, Any]:
    """What made a result: model, precision, attention backend, positions, versions, and the analysis's own settings."""
    positions = {"positions": inputs.settings.get("positions", "text"), "n_pos": inputs.n_pos}
    return {**model_settings(model), **positions, **own}


def model_settings(model: Any) -> dict[str, Any]:
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


def _not_a_result(cls: type, got: str) -> InputsError:
    return InputsError(
        f"not a saved {cls.__name__}",
        expected=f"a file written by {cls.__name__}.save",
        got=got,
        next_step="load it with the type that saved it",
    )


def plain_value(value: Any) -> Any:
    """What JSON writes in place of a value that it does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.item() if isinstance(value, np.generic) else str(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
