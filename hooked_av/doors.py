"""Doors: public functions whose calls are held against their signature, and refused in our words.

Who calls a function with `start="1"`, with None where a prompt is wanted, or without the question, should read what is
wanted, not find out from a library that stands ten calls deeper. Values (ranges, names, shapes that must agree) are the
functions' own business. The checking is typeguard's, and goes through every item of a list.
"""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import cached_property, wraps
from reprlib import Repr
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from hooked_av.errors import ArgumentError, nearest

# Keywords of TransformerLens and transformers that are not needed here, or need more words than a name.
_OUR_WAY = {
    "input": "write inputs=, or give it first without a name",
    "prepend_bos": "leave it out: these models have no token that begins a text",
    "return_cache_object": "leave it out: a cache is an AVCache, and its cache_dict the plain dict",
    "past_kv_cache": "model.generate keeps keys and values itself; for passes of your own see Attend(past=)",
    "use_past_kv_cache": "leave it out: keys and values are always kept",
    "padding_side": "leave it out: model.batch pads prompts on the left",
    "attention_mask": "leave it out: prompts know their padding; model.batch([...]) makes a batch",
    "truncate": "leave it out: nothing is cut off; a prompt that is too long is refused",
    "move_to_device": "leave it out: tokens are where the weights are",
    "stop_at_eos": "leave it out, or stop_tokens=() to go on",
    "freq_penalty": "write repetition_penalty= (of each token once, as transformers does)",
    "num_beams": "leave it out: one token after the other is chosen",
    "fold_ln": "leave it out: weights are never processed, and apply_ln=True of a cache knows the gains",
    "center_unembed": "leave it out: weights are never processed; differences of logits need no centring",
    "center_writing_weights": "leave it out: weights are never processed",
    "fold_value_biases": "leave it out: weights are never processed",
    "pixel_values": "use model.inputs_from_tensors, or model.prepare(clip, question=...)",
    "input_ids": "use model.inputs_from_tensors(input_ids=...), or give the tensor of ids itself",
}

Door = TypeVar("Door", bound=Callable[..., Any])
# Words of other libraries (TransformerLens, transformers, nnsight) for what our functions take under another name.
OTHER_WORDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("prompt", "text", "query", "instruction", "user"), ("question", "inputs", "at", "queries")),
    **dict.fromkeys(("tokens", "toks", "x", "input", "input_ids", "prompts", "batch"), ("inputs", "prompts", "tokens")),
    **dict.fromkeys(
        ("clip", "clips", "video", "videos", "audio", "image", "images", "file", "film"), ("media", "path")
    ),
    **dict.fromkeys(("choices", "candidates", "labels"), ("options", "tokens")),
    **dict.fromkeys(("prefix", "prefill", "answer_start"), ("answer_prefix",)),
    **dict.fromkeys(("system_prompt", "system_message"), ("system",)),
    **dict.fromkeys(("layer", "layer_idx", "block", "blocks"), ("layers", "names_filter")),
    **dict.fromkeys(("head", "head_idx", "head_index"), ("heads",)),
    **dict.fromkeys(
        ("pos", "position", "pos_slice", "token_position", "positions", "span"), ("at", "spans", "queries")
    ),
    **dict.fromkeys(("target", "correct", "label", "gold", "answer_token"), ("answer", "tokens")),
    **dict.fromkeys(("wrong", "incorrect", "foil", "distractor"), ("alternative",)),
    **dict.fromkeys(("source", "src", "sources", "from_span"), ("keys", "pathways")),
    **dict.fromkeys(("destination", "dest", "dst", "to_span"), ("queries", "pathways")),
    **dict.fromkeys(("hooks", "hook", "hook_fn"), ("fwd_hooks", "interventions", "hook")),
    **dict.fromkeys(("name", "names", "filter", "activations", "hook_names"), ("names_filter", "name")),
    "torch_dtype": ("dtype",),
    "temp": ("temperature",),
    **dict.fromkeys(("max_tokens", "max_length", "n_tokens"), ("max_new_tokens",)),
    **dict.fromkeys(("eos_token_id", "eos", "stop", "stop_at_eos"), ("stop_tokens", "stop")),
    **dict.fromkeys(("clean_inputs", "clean_tokens", "original"), ("clean",)),
    **dict.fromkeys(("corrupted", "corrupted_tokens", "counterfactual"), ("corrupt",)),
    **dict.fromkeys(("family", "dataset"), ("task",)),
    **dict.fromkeys(("n_samples", "num_samples", "count", "size"), ("n", "n_questions", "samples")),
    **dict.fromkeys(("frame_rate", "rate", "sample_rate", "sr"), ("fps", "sampling_rate_hz")),
}


def door(opened: Door) -> Door:
    """Refuse calls that do not fit the signature of a function, or of a class's `__init__`.

    numpy's numbers are numbers, and arrive as Python's; True and False are not. Shapes of tensors are checked, too.
    What is annotated `Any` is checked by the function itself.

    Errors: `ArgumentError`, which is a `TypeError`, too.

    >>> @door
    ... def cut(start: float, stop: float | None = None) -> float:
    ...     return start
    >>> cut(1), cut(np.float32(0.5), stop=None)
    (1, 0.5)
    >>> cut("1")
    Traceback (most recent call last):
    hooked_av.errors.ArgumentError: cut does not take this `start`
      expected: float
      got:      '1' (str)
      next:     write 1 without quotes
    """
    if inspect.isclass(opened):
        cast(Any, opened).__init__ = door(opened.__init__)
        return cast(Door, opened)
    signature = _Signature(opened)

    @wraps(opened)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = signature.checked(args, kwargs)
        return opened(*given.args, **given.kwargs)

    checked.__door__ = signature  # pyright: ignore[reportAttributeAccessIssue] - functions take attributes
    return cast(Door, checked)


class _Signature:
    """What a function takes; its annotations are read at the first call, when all that they name can be imported."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.signature = inspect.signature(function)
        self.name = function.__qualname__.removesuffix(".__init__").rpartition("<locals>.")[2]

    @cached_property
    def hints(self) -> dict[str, Any]:
        # One mapping for globals and one for names that only type checkers import: those are public.
        module = inspect.unwrap(self.function).__globals__
        hints = get_type_hints(self.function, module, cast(dict[str, Any], _PublicNames(module)))
        return {name: hint for name, hint in hints.items() if name not in ("self", "cls")}

    def checked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """The arguments of a call, each by its name, with Python's numbers in place of numpy's."""
        try:
            given = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise self._misfit(error, kwargs) from None
        for name, value in given.arguments.items():
            if name not in self.hints:
                continue
            hint, kind = self.hints[name], self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                given.arguments[name] = tuple(self._one(name, item, hint) for item in value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                given.arguments[name] = {label: self._one(label, item, hint) for label, item in value.items()}
            else:
                given.arguments[name] = self._one(name, value, hint)
        return given

    def _one(self, name: str, value: Any, hint: Any) -> Any:
        plain = _without_numpy(value)
        problem = mismatch(plain, hint)
        if problem is not None:
            raise ArgumentError(
                f"{self.name} does not take this `{name}`",
                expected=plain_name(hint),
                got=f"{_shown(value)}{f': {problem}' if problem else ''}",
                next_step=_next_step(value, self.name),
            )
        return plain

    def _misfit(self, error: TypeError, kwargs: Mapping[str, Any]) -> ArgumentError:
        known = self.signature.parameters
        unknown = [name for name in kwargs if name not in known]
        names = [name for name in known if name not in ("self", "cls")]
        shown = ", ".join(names) or "nothing"
        meant = [name for word in unknown for name in OTHER_WORDS.get(word, ()) if name in names]
        write = f"write {meant[0]}=" if meant else ""
        like = meant[0] if meant else nearest(unknown[0], names) if unknown else ""
        return ArgumentError(
            f"{self.name}: {error}",
            expected=f"{like} (it takes {shown})" if unknown else shown,
            got=", ".join(kwargs) or "no argument by name",
            next_step=next((_OUR_WAY[name] for name in unknown if name in _OUR_WAY), write or f"see help({self.name})"),
        )


class _PublicNames(dict[str, Any]):
    """Names that a file imports for type checkers only, looked up where the package shows them."""

    def __init__(self, module: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> Any:
        if name in self.module or not hasattr(sys.modules["hooked_av"], name):
            raise KeyError(name)
        return getattr(sys.modules["hooked_av"], name)


def mismatch(value: Any, hint: Any) -> str | None:
    """What does not fit about a value: None if all does, "" if it is plainly another kind of thing."""
    from typeguard import CollectionCheckStrategy, ForwardRefPolicy, TypeCheckError, check_type

    if isinstance(value, bool) and not _allows_bool(hint):
        return "neither a number nor one of these"
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return "no float holds it"
    try:
        check_type(
            value,
            hint,
            forward_ref_policy=ForwardRefPolicy.ERROR,
            collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
        )
    except TypeCheckError as error:
        found = str(error).splitlines()[0]
        return found if found.startswith(("item ", "value of key ", "key ")) else ""
    return None


def _allows_bool(hint: Any) -> bool:
    return hint in (bool, Any, object) or isinstance(hint, TypeVar) or any(map(_allows_bool, get_args(hint)))


def _without_numpy(value: Any) -> Any:
    """numpy's numbers as Python's, also in a list; everything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple) and any(isinstance(item, np.generic) for item in value):
        return type(value)(map(_without_numpy, value))
    return value


def plain_name(hint: Any) -> str:
    """An annotation in words: `Literal["a", "b"] | Sequence[str] | None` -> `'a' or 'b' or Sequence[str] or None`."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(map(plain_name, inner))
    if kind is Literal:
        return " or ".join(map(repr, inner))
    if inspect.isclass(kind) and not isinstance(inner[0], list):  # the arguments of a Callable are a list
        return f"{kind.__name__}[{', '.join(map(plain_name, inner))}]"
    name = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", inspect.formatannotation(hint))
    return name.replace("NoneType", "None")


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype"):
        return f"{type(value).__name__} {list(shape)} of {value.dtype}"
    short = Repr()
    short.maxstring = short.maxother = 60
    return "None" if value is None else f"{short.repr(value)} ({type(value).__name__})"


def _next_step(value: Any, name: str) -> str:
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d+)?", value):
        return f"write {value} without quotes"
    return f"see help({name})"
