"""Heat of the token strip: one value a token, or one a layer and token, checked, pooled, and cut into shades.

Positive values are shades of orange, negative ones striped shades of blue; both grow darker with size, so that they
are told apart without colour too. One scale holds for all layers.
Axes: layer, pos (token of one prompt), unit (what is drawn: a token, or several pooled into one).
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, Float64

from hooked_av.errors import InputsError

N_SHADES = 8
ZERO_SHADE, NO_VALUE = "#F4F4F4", "#FFFFFF"
_SHADES = {1: ("#FBE3CF", "#D55E00", "#451D00"), -1: ("#D9EAF7", "#0072B2", "#00263D")}  # pale, Okabe and Ito's, dark
MAX_LAYERS = 256


@dataclass(frozen=True, eq=False)
class Heat:
    """Values to colour tokens with; nan where there is none."""

    values: Float64[np.ndarray, "layer pos"]
    label: str
    has_layers: bool  # given as [layer, pos]: the strip has a slider

    @classmethod
    def of(cls, given: Any, n_pos: int, label: str) -> "Heat":
        """An array or tensor [pos] or [layer, pos], checked.

        Errors: `InputsError` for another shape, infinities, and nothing but nan.

        >>> Heat.of([0.5, -1.0], n_pos=2, label="change").peak
        1.0
        """
        values = _numbers(given)
        has_layers = values.ndim == 2
        if values.ndim not in (1, 2) or values.shape[-1] != n_pos or not len(values) >= 1:
            raise _refused("heat of another shape", f"[{n_pos}] or [layer, {n_pos}]", list(values.shape), _TAKE_ONE)
        values = values if has_layers else values[None]
        if len(values) > MAX_LAYERS:
            raise _refused(
                "more layers than a strip holds", f"at most {MAX_LAYERS}", len(values), "pass a part of them"
            )
        if np.isinf(values).any():
            where = np.argwhere(np.isinf(values))[0].tolist()
            raise _refused("heat that is infinite", "finite values, or nan", f"infinity at [layer, pos] = {where}",
                           "set it to nan where there is no value")  # fmt: skip
        if np.isnan(values).all():
            raise _refused("heat without a value", "at least one that is not nan", "only nan", "check the result")
        return cls(values, label, has_layers)

    @property
    def peak(self) -> float:
        """Largest size of a value: the end of the scale, and of its mirror below zero."""
        return float(np.nanmax(np.abs(self.values)))

    @property
    def strongest_layer(self) -> int:
        """The layer that holds the peak: where a strip begins to show."""
        return int(np.unravel_index(np.nanargmax(np.abs(self.values)), self.values.shape)[0])

    @property
    def has_negatives(self) -> bool:
        return bool((self.values < 0).any())

    def pooled(self, units: Sequence[np.ndarray]) -> Float16[np.ndarray, "layer unit"]:
        """Mean over the positions of each unit, as a share of the peak; in the precision that the page carries."""
        owner = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
        taken = self.values[:, np.concatenate(units)] / (self.peak or 1.0)
        there = ~np.isnan(taken)
        sums, counts = np.zeros((2, len(taken), len(units)))
        for layer, (row, known) in enumerate(zip(taken, there, strict=True)):
            sums[layer] = np.bincount(owner[known], row[known], len(units))
            counts[layer] = np.bincount(owner[known], minlength=len(units))
        with np.errstate(invalid="ignore"):
            return (sums / counts).astype(np.float16)


def shade_numbers(shares: Float16[np.ndarray, " unit"]) -> list[int | None]:
    """Shade of each value: 0 for zero, 1 to 8 above it, -1 to -8 below; None for nan.

    >>> shade_numbers(np.array([0, 0.01, 1, -0.5, np.nan], np.float16))
    [0, 1, 8, -4, None]
    """
    sizes = np.ceil(np.abs(shares.astype(np.float64)) * N_SHADES)
    return [
        None if np.isnan(size) else int(np.copysign(size, share)) for size, share in zip(sizes, shares, strict=True)
    ]


def shade_colour(number: int | None) -> str:
    """The colour of a shade.

    >>> shade_colour(0), shade_colour(1), shade_colour(-8)
    ('#F4F4F4', '#FBE3CF', '#00263D')
    """
    if not number:
        return NO_VALUE if number is None else ZERO_SHADE
    pale, middle, dark = (_rgb(colour) for colour in _SHADES[1 if number > 0 else -1])
    at = 2 * (abs(number) - 1) / (N_SHADES - 1)
    mixed = pale + at * (middle - pale) if at <= 1 else middle + (at - 1) * (dark - middle)
    return "#" + "".join(f"{round(channel):02X}" for channel in mixed.tolist())


def packed(array: np.ndarray) -> str:
    """Little-endian bytes of an array, in base64."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def _rgb(colour: str) -> Float[np.ndarray, "3"]:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=float)


def _numbers(given: Any) -> Float64[np.ndarray, "..."]:
    if isinstance(given, torch.Tensor):
        given = given.detach().to("cpu", torch.float64).numpy()
    try:
        array = np.asarray(given)
    except ValueError as error:  # rows of different length
        raise _refused("heat that is no array", "numbers", error, _TAKE_ONE) from error
    if array.dtype.kind not in "biuf":
        raise _refused("heat that is no array of numbers", "real numbers", array.dtype, _TAKE_ONE)
    return array.astype(np.float64)


_TAKE_ONE = "give one value a token of this prompt; for a batch choose the row, and give its values"


def _refused(what: str, expected: object, got: object, next_step: str) -> InputsError:
    return InputsError(what, expected=expected, got=got, next_step=next_step)
