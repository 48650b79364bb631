"""Precision: the settings of the process that would change numbers without a word, and what is made of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hooked_av.errors import InputsError

WORKS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Features are made in float32, whatever `torch.set_default_dtype` and autocast say outside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)


def check_dtype(dtype: torch.dtype) -> None:
    """Refuse weights in a precision in which the decoder does not run.

    Errors: `InputsError`.
    """
    if dtype not in WORKS:
        raise InputsError(
            "the model does not run in this precision",
            expected=", ".join(str(known).removeprefix("torch.") for known in WORKS),
            got=str(dtype).removeprefix("torch."),
            next_step="convert it back: model.to(torch.bfloat16), or load it again with dtype=",
        )


def check_no_autocast(device: torch.device) -> None:
    """Refuse a replay under autocast: it would round other products than the clean pass did.

    Errors: `InputsError`.
    """
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        raise InputsError(
            "a replay is not exact under autocast",
            expected="one precision for everything",
            got=f"torch.autocast({device.type!r}, dtype={torch.get_autocast_dtype(device.type)})",
            next_step="leave the autocast block; load the model in that precision: from_pretrained(..., dtype=...)",
        )
