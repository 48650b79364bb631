"""What the encoders made of the last few clips, so that passes over the same inputs need not run them again.

Patching and sweeps by hand run a model thousands of times over one prompt, and nothing that they change reaches the
encoders. What is kept goes with the features that it was made of, and is used only where running the encoders again
would give the same numbers.

Axes: row (encoder output rows).
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import _has_any_global_hook  # pyright: ignore[reportPrivateUsage]

EncoderRows = Mapping[str, Float[Tensor, "row d_model"]]
Stamp = tuple[Any, ...]

# Where torch keeps the hooks of a module, and a hook point those of its gradient.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_gradient_hooks")
MAX_KEPT = 8  # inputs; clean and corrupt prompts of a few pairs
MAX_BYTES = 2**29  # of rows, all together


@dataclass(frozen=True)
class _Kept:
    """Rows, and the features and the state that they were made of."""

    features: Mapping[str, tuple["weakref.ref[Tensor]", Stamp]]
    state: Stamp
    rows: EncoderRows

    def is_of(self, features: Mapping[str, Tensor], state: Stamp) -> bool:
        """Whether these are the same tensors, not written to since, under the same weights and settings."""
        same = self.features.keys() == features.keys() and self.state == state
        return same and all(
            ref() is features[name] and stamp == _stamp(features[name]) for name, (ref, stamp) in self.features.items()
        )

    @property
    def n_bytes(self) -> int:
        return sum(rows.numel() * rows.element_size() for rows in self.rows.values())


class EncoderMemory:
    """The encoders' rows of the last few inputs: `MAX_KEPT` of them at most, gone when their features are.

    It is asleep while a gradient is wanted through the encoders, while anything is hooked inside them, and in training
    mode. Weights that were written to in place, exchanged, moved or converted are other weights. Writes through
    `.data` are not seen (torch does not count them): call `clear()` after those.

    >>> memory, encoders = EncoderMemory(), nn.ModuleDict({"audio": nn.Linear(2, 2)}).eval()
    >>> sound, calls = {"mel": torch.ones(3, 2)}, []
    >>> def encode():
    ...     calls.append(1)
    ...     return {"audio": encoders["audio"](sound["mel"])}
    >>> with torch.no_grad():
    ...     once, again = memory.rows(encoders, sound, encode), memory.rows(encoders, sound, encode)
    >>> torch.equal(once["audio"], again["audio"]), len(calls)
    (True, 1)
    """

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._lock = RLock()  # features may go away in any thread

    def __reduce__(self) -> tuple[type["EncoderMemory"], tuple[()]]:
        return EncoderMemory, ()  # a copy of a model has weights of its own

    def clear(self) -> None:
        """Forget everything: the next pass runs the encoders."""
        with self._lock:
            self._kept = []

    def rows(
        self, encoders: nn.Module, features: Mapping[str, Tensor], encode: Callable[[], EncoderRows]
    ) -> EncoderRows:
        """What `encode` gives, or gave before for the same features; the tensors are the caller's own."""
        state = _state(encoders, features)
        if state is None:
            return encode()
        with self._lock:
            self._kept = [kept for kept in self._kept if kept.state[-1] == state[-1]]  # of other weights: never again
            found = next((kept for kept in self._kept if kept.is_of(features, state)), None)
        if found is None:
            made = encode()
            found = _Kept({name: (self._ref(x), _stamp(x)) for name, x in features.items()}, state, made)
            self._keep(found)
        return {name: rows.clone() for name, rows in found.rows.items()}  # hooks may write into theirs

    def _keep(self, new: _Kept) -> None:
        with self._lock:
            self._kept = [*self._kept, new][-MAX_KEPT:]
            while sum(kept.n_bytes for kept in self._kept) > MAX_BYTES:
                self._kept.pop(0)

    def _ref(self, tensor: Tensor) -> "weakref.ref[Tensor]":
        memory = weakref.ref(self)

        def forget(gone: "weakref.ref[Tensor]") -> None:
            own = memory()
            if own is not None:
                with own._lock:
                    own._kept = [k for k in own._kept if all(ref is not gone for ref, _ in k.features.values())]

        return weakref.ref(tensor, forget)


def _state(encoders: nn.Module, features: Mapping[str, Tensor]) -> Stamp | None:
    """All that the rows depend on beside the features, the weights last; None where the encoders must run."""
    weights = [*encoders.parameters(), *encoders.buffers()]
    if not features or any(x.is_inference() for x in (*features.values(), *weights)):  # these do not count their edits
        return None
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*features.values(), *weights)):
        return None
    counted = torch._C._len_torch_dispatch_stack()  # pyright: ignore[reportPrivateUsage] - FLOP counters, profilers
    watched = counted or _has_any_global_hook()
    if watched or any(map(_is_watched, encoders.modules())):
        return None
    numbers = (
        torch.is_autocast_enabled(weights[0].device.type) if weights else False,
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
    )
    return (*numbers, tuple(_stamp(weight) for weight in weights))


def _is_watched(module: nn.Module) -> bool:
    """Whether a module must run each time: it is hooked, has a forward of its own, or trains (dropout)."""
    own = vars(module)
    return module.training or "forward" in own or any(own.get(name) for name in _HOOKS)


def _stamp(tensor: Tensor) -> Stamp:
    """Which memory a tensor is, and how often it was written to; the memory's number is not used again while we ask."""
    return StorageWeakRef(tensor.untyped_storage()), tensor.storage_offset(), tensor._version, tensor.dtype
