"""Values: a tensor that is a value. It never changes, can be compared and hashed, and goes to JSON and back."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hooked_av.errors import InterventionError
from hooked_av.hooks.cache import AVCache
from hooked_av.hooks.names import match_names


class Values:
    """The numbers of an intervention, copied from a tensor when it is made.

    >>> Values(torch.ones(2)) == Values(torch.ones(2)) != Values(torch.zeros(2))
    True
    >>> Values.from_dict(Values(torch.ones(2)).to_dict())
    Values([2], torch.float32)
    """

    __slots__ = ("_bytes", "largest", "tensor")

    def __init__(self, tensor: Tensor, what: str = "the values of an intervention") -> None:
        if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_meta:
            raise InterventionError(
                "the values of an intervention are a tensor of floats",
                expected="a dense torch tensor that holds numbers, or a cache of another run (patch)",
                got=f"{tensor.dtype} {tensor.layout} on {tensor.device}",
                next_step="pass torch.tensor(values)",
            )
        self.tensor = tensor.detach().clone()
        self.largest = _largest(self.tensor, what)
        # bytes of the numbers, because bfloat16 has no numpy type
        self._bytes = self.tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""

    @classmethod
    def by_point(
        cls, name: str, span: str, values: Tensor | AVCache | Mapping[str, Tensor]
    ) -> tuple[tuple[str, "Values"], ...]:
        """A tensor for every hook point that a name matches, or each point's own rows of a cache."""
        if isinstance(values, Tensor):
            return (("", cls(values, f"the values to patch into {name}@{span}")),)
        if isinstance(values, AVCache):
            whole = {key.partition("@")[0]: None for key in values.cache_dict}
            keys = [(match.name, f"{match.name}@{span}") for match in match_names(name, whole)]
            return tuple((point, cls(values[key], f"the values of {key}")) for point, key in keys)
        return tuple((point, cls(tensor, f"the values of {point}")) for point, tensor in values.items())

    def like(self, rows: Tensor) -> Tensor:
        """The numbers in the precision and place of the rows that they go to.

        Errors: `InterventionError` for numbers that this precision does not have.
        """
        if self.largest > torch.finfo(rows.dtype).max:
            raise _not_numbers("values too large for the precision of the model", f"{self.largest:g}", rows.dtype)
        tensor = self.tensor.to(rows.device, rows.dtype)
        return tensor[0] if tensor.ndim > rows.ndim else tensor

    def to_dict(self) -> dict[str, Any]:
        """Shape, precision and bytes as text."""
        dtype = str(self.tensor.dtype).removeprefix("torch.")
        return {"dtype": dtype, "shape": list(self.tensor.shape), "data": b64encode(self._bytes).decode("ascii")}

    @classmethod
    def from_dict(cls, item: Mapping[str, Any]) -> "Values":
        """What `to_dict` wrote."""
        raw = torch.from_numpy(np.frombuffer(b64decode(item["data"]), dtype=np.uint8).copy())
        return cls(raw.view(getattr(torch, item["dtype"])).view(item["shape"]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Values) and self._form() == other._form() and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash((self._form(), self._bytes))

    def _form(self) -> tuple[tuple[int, ...], torch.dtype]:
        return tuple(self.tensor.shape), self.tensor.dtype

    def __repr__(self) -> str:
        return f"Values({list(self.tensor.shape)}, {self.tensor.dtype})"


def _largest(tensor: Tensor, what: str) -> float:
    """The largest size of a number.

    Errors: `InterventionError` for nan and infinite ones: what they touch would be nan, and no answer.
    """
    odd = (~tensor.isfinite()).nonzero()
    if len(odd):
        got = f"{len(odd)} of {tensor.numel()} are not, first {tensor[tuple(odd[0])].item()} at {odd[0].tolist()}"
        raise _not_numbers(f"{what} are not all numbers", got, tensor.dtype)
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _not_numbers(what: str, got: str, dtype: torch.dtype) -> InterventionError:
    return InterventionError(
        what,
        expected=f"finite numbers, at most {torch.finfo(dtype).max:.3g} in {str(dtype).removeprefix('torch.')}",
        got=got,
        next_step="look where they come from: a mean over no rows, a division by 0, a run in float16 that overflowed",
    )
