"""TransformerLens's `pos_slice`: only some positions of every activation are kept, under the plain names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformer_lens.utilities import Slice  # pyright: ignore[reportPrivateImportUsage] - TransformerLens's own way

from hooked_av.errors import InputsError
from hooked_av.hooks.names import Match, Scope
from hooked_av.hooks.point import HookPoint
from hooked_av.prompt.inputs import AVInputs

_NAME = "pos_slice"


def with_part(inputs: AVInputs, pos_slice: Any) -> tuple[AVInputs, str | None]:
    """The inputs, and the span that a `pos_slice` means on them (of numbers: one that is added).

    Errors: `InputsError` for what is neither a span nor TransformerLens's, or for positions that are not there.
    """
    if pos_slice is None or isinstance(pos_slice, str):
        return inputs, pos_slice
    try:
        numbers = np.atleast_1d(np.arange(inputs.n_pos)[Slice.unwrap(pos_slice).slice])
    except (ValueError, IndexError, TypeError) as error:
        raise InputsError(
            "no such positions",
            expected="a span, an int, (start, stop) or a list of ints",
            got=repr(pos_slice),
            next_step=f"positions are 0 to {inputs.n_pos - 1}",
        ) from error
    if not (np.diff(numbers) > 0).all():
        raise InputsError(
            "positions are kept in the order of the prompt, each once",
            expected="rising numbers",
            got=repr(pos_slice),
            next_step="sort them, and take them apart afterwards",
        )
    return inputs.with_span(_NAME, numbers), _NAME


def in_part(matches: Sequence[Match], points: Mapping[str, HookPoint], part: str | None) -> list[Match]:
    """The same activations, of the part's positions; encoder rows have no positions, and stay whole.

    Errors: `InputsError` where a name has a span already.
    """
    if part is None:
        return list(matches)
    scoped = next((match.key for match in matches if match.scope is not None), None)
    if scoped is not None:
        raise InputsError(
            "a name with a span, and pos_slice",
            expected="one of the two",
            got=scoped,
            next_step="leave pos_slice out, and write name@span",
        )
    has_rows = {match.name for match in matches if {"pos", "query"} & set(points[match.name].axes)}
    return [replace(match, scope=Scope(part)) if match.name in has_rows else match for match in matches]
