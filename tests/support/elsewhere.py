"""A second device on a machine that has none: tensors that say they live elsewhere, and refuse to meet others.

`with elsewhere():` makes the device `ELSEWHERE`. A tensor there holds its numbers on the processor, so results can be
compared; an operation of tensors from both sides raises, as it does between a processor and a GPU. What CUDA allows is
allowed: numbers without axes, copies, and indices from the processor.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")  # the one other device that every build of torch knows
_aten = torch.ops.aten
# CUDA takes indices from the processor; a copy is what moves tensors
_MIXED = {_aten.copy_, _aten._to_copy, _aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_READERS = {getattr(torch.Tensor, name) for name in ("tolist", "item", "__int__", "__bool__", "__float__", "__index__")}
# these would start CUDA up, or go around what dispatch sees
_MAKERS = {
    torch.tensor, torch.as_tensor, torch.arange, torch.zeros, torch.ones, torch.empty, torch.full, torch.linspace,
    torch.randint, torch.rand, torch.randn, torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like,
}  # fmt: skip


class MixedDevicesError(Exception):
    """An operation of tensors from two devices."""


class Elsewhere(torch.Tensor):
    """A tensor of the other device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=ELSEWHERE, requires_grad=False,
        )  # fmt: skip

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    """An operation on what the tensors hold."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, Elsewhere)]
    here = [x for x in tensors if not isinstance(x, Elsewhere) and x.ndim]
    device = kwargs.get("device")
    packet = getattr(func, "overloadpacket", func)
    if there and here and (packet not in _MIXED or not _allowed(packet, args)):
        raise MixedDevicesError(f"{func} of {[list(x.shape) for x in there]} there and {[list(x.shape) for x in here]}")
    asked = None if device is None else torch.device(device)
    stays = bool(there) if asked is None else asked == ELSEWHERE
    if asked is not None:
        kwargs = {**kwargs, "device": "cpu"}
    if packet is _aten.copy_:  # into the first
        stays = isinstance(args[0], Elsewhere)
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    changed = {id(x.held): x for x in there}  # edited in place: the same tensor comes back
    return tree_map(lambda x: changed.get(id(x), Elsewhere(x) if stays else x) if _is_tensor(x) else x, out)


def _allowed(packet, args):
    """Indices may come from the processor, but not go there."""
    return packet in (_aten.copy_, _aten._to_copy) or isinstance(args[0], Elsewhere)


def _is_tensor(x):
    return isinstance(x, torch.Tensor)


def _held(x):
    return x.held if isinstance(x, Elsewhere) else x


def _index(func, tensor, index, *value):
    """`tensor[index]`, which asks for the device before dispatch does."""
    there = [x for x in tree_leaves(index) if isinstance(x, Elsewhere)]
    if isinstance(tensor, Elsewhere):
        mixed = [x for x in value if _is_tensor(x) and x.ndim and not isinstance(x, Elsewhere)]
    else:
        mixed = [*there, *(x for x in value if isinstance(x, Elsewhere) and x.ndim)]
    if mixed:
        raise MixedDevicesError(f"{func.__name__} of {list(tensor.shape)} with {[list(x.shape) for x in mixed]}")
    out = func(_held(tensor), tree_map(_held, index), *map(_held, value))
    return Elsewhere(out) if isinstance(tensor, Elsewhere) and out is not None else out


def _to(tensor, *args, **kwargs):
    """`tensor.to(...)`, likewise."""
    like = [x for x in (*args, *kwargs.values()) if _is_tensor(x)]
    named = [torch.device(x) for x in (*args, kwargs.get("device")) if isinstance(x, (torch.device, str))]
    goes = (named or [like[0].device if like else tensor.device])[0] == ELSEWHERE
    to_cpu = lambda x: torch.device("cpu") if isinstance(x, (torch.device, str)) else _held(x)  # noqa: E731
    out = _held(tensor).to(*map(to_cpu, args), **{key: to_cpu(x) for key, x in kwargs.items()})
    if goes and isinstance(tensor, Elsewhere) and out is tensor.held:
        return tensor
    return Elsewhere(out) if goes else out


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _READERS and isinstance(args[0], Elsewhere):
            return func(args[0].held)
        if func is torch.Tensor.__getitem__ or func is torch.Tensor.__setitem__:
            return _index(func, *args)
        if func is torch.Tensor.to:
            return _to(*args, **kwargs)
        if func in _MAKERS and kwargs.get("device") is not None and torch.device(kwargs["device"]) == ELSEWHERE:
            return Elsewhere(func(*map(_held, args), **{**kwargs, "device": "cpu"}))
        if func is torch.nn.functional.scaled_dot_product_attention:  # it would choose a kernel by the device
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """The other device, for the length of a block."""
    generator = torch.Generator
    with torch.no_grad(), _Functions(), _Dispatch(), patch("torch.Generator", lambda device: generator()):
        yield ELSEWHERE


def move(module: torch.nn.Module) -> None:
    """Every parameter and buffer of a module to the other device."""
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            setattr(owner, name, torch.nn.Parameter(Elsewhere(parameter.data), requires_grad=False))
        for name, buffer in owner.named_buffers(recurse=False):
            owner._buffers[name] = Elsewhere(buffer)
