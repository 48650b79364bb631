"""Devices: whether this machine has one."""

import torch

from hooked_av.errors import HookedAVError, excerpt


def check_device(device: torch.device | str, error: type[HookedAVError]) -> None:
    """Refuse a device that torch does not know, or that this machine does not have; `error` is raised.

    >>> from hooked_av.errors import InputsError
    >>> check_device("cpu", InputsError)
    >>> check_device("gpu", InputsError)
    Traceback (most recent call last):
    hooked_av.errors.InputsError: this machine has no device 'gpu'
    ...
    """
    try:
        torch.empty(0, device=device)
    except Exception as why:  # torch raises AssertionError, RuntimeError, NotImplementedError, TypeError
        raise error(
            f"this machine has no device {excerpt(str(device), 60)!r}",
            expected="cpu, or an accelerator that torch finds (torch.cuda.is_available())",
            got=f"{type(why).__name__}: {excerpt(str(why).partition(chr(10))[0])}",
            next_step='device="cpu", or a build of torch for this machine\'s accelerator',
        ) from why
