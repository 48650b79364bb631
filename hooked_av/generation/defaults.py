"""What a checkpoint says about generation: the values of its generation_config.json, as they stand.

transformers applies them without a word (a `repetition_penalty` of 1.05 also when decoding is greedy); here they are
values that can be read, compared and passed on.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hooked_av.errors import CheckpointError, excerpt
from hooked_av.frozen import Frozen

# No statements about how to generate.
_NOT_SETTINGS = {"transformers_version", "_from_model_config", "_name_or_path"}


@dataclass(frozen=True)
class GenerationDefaults:
    """Generation settings that a checkpoint was released with; transformers' defaults where it says nothing.

    others: further settings of the file, under its names. stated: which fields the file states.

    >>> said = GenerationDefaults.from_dict({"repetition_penalty": 1.05, "eos_token_id": [151645, 151643]})
    >>> said.repetition_penalty, said.eos_token_ids, said.do_sample, said.stated
    (1.05, (151645, 151643), False, ('eos_token_ids', 'repetition_penalty'))
    """

    repetition_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 50
    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    others: Mapping[str, Any] = field(default_factory=Frozen)
    stated: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "GenerationDefaults":
        """From the content of a generation_config.json.

        Errors: `CheckpointError` for a value that no generation can run with.
        """
        said = {name: value for name, value in raw.items() if value is not None and name not in _NOT_SETTINGS}
        eos = said.pop("eos_token_id", None)
        if eos is not None:
            said["eos_token_ids"] = tuple(eos) if isinstance(eos, list | tuple) else (eos,)
        own = {item.name for item in fields(cls)} - {"others", "stated"}
        known = {name: value for name, value in said.items() if name in own}
        for name, value in known.items():
            _check(name, value)
        others = Frozen({name: value for name, value in said.items() if name not in own})
        return cls(**known, others=others, stated=tuple(sorted(known)))

    def to_dict(self) -> dict[str, Any]:
        """What was stated, as a generation_config.json says it."""
        said = {name: getattr(self, name) for name in self.stated} | dict(self.others)
        if "eos_token_ids" in said:
            said["eos_token_id"] = list(said.pop("eos_token_ids"))
        return said


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


_VALUES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "repetition_penalty": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "do_sample": ("true or false", lambda value: isinstance(value, bool)),
    "temperature": ("a number, 0 or more", lambda value: _is_number(value) and value >= 0),
    "top_p": ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "top_k": ("a whole number, 0 or more", _is_whole),
    "max_new_tokens": ("a whole number above 0", lambda value: _is_whole(value, 1)),
    "eos_token_ids": ("one token id, or several", lambda value: bool(value) and all(map(_is_whole, value))),
    "pad_token_id": ("a token id", _is_whole),
}


def _check(name: str, value: Any) -> None:
    expected, holds = _VALUES[name]
    if not holds(value):
        raise CheckpointError(
            f"{name} of this generation config cannot be used",
            expected=expected,
            got=excerpt(value),
            next_step="correct generation_config.json, or remove the line: then transformers' default holds",
        )
