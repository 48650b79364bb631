"""Files of results: arrays by name and everything else as JSON, in one safetensors file that is whole or not there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hooked_av.errors import InputsError
from hooked_av.whole_files import appearing


def write_arrays(path: Path, kind: str, arrays: Mapping[str, np.ndarray], plain: Any) -> Path:
    """One file of a kind of result.

    Errors: `InputsError` where it cannot be written.
    """
    header = {"result": kind, "fields": json.dumps(plain, default=plain_value)}
    with appearing(path, InputsError) as part:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, part, metadata=header)
    return path


def read_arrays(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], Any]:
    """What `write_arrays` wrote.

    Errors: `InputsError` for a file that is not of this kind.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise not_a_result(kind, f"{type(error).__name__}: {error}") from error
    if header.get("result") != kind:
        raise not_a_result(kind, header.get("result", "a safetensors file without a result"))
    try:
        return arrays, json.loads(header["fields"])
    except (ValueError, KeyError) as error:
        raise not_a_result(kind, f"{type(error).__name__}: {error}") from error


def not_a_result(kind: str, got: str) -> InputsError:
    """A file is not what it is read as."""
    return InputsError(
        f"not a saved {kind}",
        expected=f"a file written by {kind.partition('[')[0]}.save",
        got=got,
        next_step="load it with the type that saved it",
    )


def plain_value(value: Any) -> Any:
    """What JSON writes in place of a value that it does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.item() if isinstance(value, np.generic) else str(value)


def tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were, also inside each other.

    >>> tuples(["a", ["b"]])
    ('a', ('b',))
    """
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
