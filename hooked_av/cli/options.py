"""Options of a command, read from the signature and the docstring of the function that it calls."""

# pyright: reportMissingTypeArgument=false, reportUnknownParameterType=false
# (click's ParamType takes arguments in its newest versions only)

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, cleandoc, signature
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click

from hooked_av.errors import HookedAVError

EXCLUDED: Mapping[str, str] = {"progress": "a run over a manifest shows one bar, over its samples"}
_SCALARS = {int: click.INT, float: click.FLOAT, str: click.STRING}
_SEVERAL = (Sequence, Iterable, list, tuple)


@dataclass(frozen=True)
class Form:
    """How a text says an argument, and whether the option may be given several times."""

    type: click.ParamType
    is_multiple: bool = False


class Reader(click.ParamType):
    """A text with a form of its own: `read` makes the value of it, or raises; `say` is the text of a default."""

    def __init__(self, name: str, read: Callable[[str], Any], say: Callable[[Any], str] = str) -> None:
        self.name, self.read, self.say = name, read, say

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.read(value) if isinstance(value, str) else value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name


class _Either(click.ParamType):
    """A value of one of several types: the first that takes the text."""

    def __init__(self, types: Sequence[click.ParamType]) -> None:
        self.types = types
        self.name = "|".join("|".join(one.choices) if isinstance(one, click.Choice) else one.name for one in types)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        for one in self.types:
            try:
                return one.convert(value, param, ctx)
            except click.BadParameter:
                continue
        return self.fail(f"{value!r} is not one of {self.name}", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name


def options_of(function: Callable[..., Any], forms: Mapping[str, Form]) -> list[click.Option]:
    """An option for each argument of a function of (model, case, **arguments), less those in `EXCLUDED`.

    Args:
        forms: how an argument is said whose type does not tell it, by name.

    Errors: `HookedAVError` for an argument that no text can express, or that the docstring does not explain.

    >>> def read(model, case, top_k: int = 5, *, at: str | list[str] = "last", progress: bool = False):
    ...     '''Args:
    ...     top_k: tokens kept.
    ...     at: where it is read
    ...         (several).
    ...     '''
    >>> [(option.opts, option.default, option.help) for option in options_of(read, {})]
    [(['--top-k'], 5, 'Tokens kept.'), (['--at'], ('last',), 'Where it is read (several).')]
    """
    arguments = list(signature(function).parameters.values())[2:]
    said = explained(function.__doc__ or "")
    return [_option(function, each, forms, said.get(each.name)) for each in arguments if each.name not in EXCLUDED]


def _option(function: Any, argument: Parameter, forms: Mapping[str, Form], said: str | None) -> click.Option:
    form = forms.get(argument.name) or form_of(argument.annotation)
    if form is None or said is None:
        raise HookedAVError(
            f"{argument.name!r} of {function.__qualname__} cannot become an option",
            expected="a type that a text can express (or a form of its own), and a line under Args: in the docstring",
            got=str(argument) if form is None else "no such line",
            next_step="mend the signature or the docstring, or say in EXCLUDED why there is no option",
        )
    option = click.Option(
        [argument.name, *_names(argument.name, form)],
        type=form.type,
        multiple=form.is_multiple,
        required=argument.default is Parameter.empty,
        help=said[:1].upper() + said[1:].replace("None: ", "default: "),
    )
    if not option.required:
        option.default = _default(argument.default, form)
        option.show_default = _shown(option.default, form)
    return option


def _default(value: Any, form: Form) -> Any:
    """As click holds it: of what may be given several times, all of them."""
    if not form.is_multiple:
        return value
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _shown(default: Any, form: Form) -> bool | str:
    """What `--help` says of a default; of none at all, the docstring says what it means."""
    if isinstance(form.type, Reader) and not form.is_multiple:
        return form.type.say(default)
    return default not in (None, ())


def _names(name: str, form: Form) -> list[str]:
    """`--span` and `--spans` where several may be given, one at a time."""
    dashed = f"--{name.replace('_', '-')}"
    if form.type is click.BOOL:
        return [f"{dashed}/--no-{dashed[2:]}"]
    return [dashed.removesuffix("s"), dashed] if form.is_multiple and dashed.endswith("s") else [dashed]


def form_of(annotation: Any) -> Form | None:
    """How a text says a value of this type; None where no text can.

    Of a union, what a text can express is taken: one value, or several of them where these may be given.

    >>> form_of(int | Literal["all"] | None).type.name, form_of(str | Sequence[str]).is_multiple, form_of(object)
    ('integer|all', True, None)
    """
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    single = {member: found for member in members if member is not NoneType and (found := _type_of(member))}
    several = {get_args(member)[0]: None for member in members if get_origin(member) in _SEVERAL}
    several = {member: found for member in several if (found := _type_of(member))}
    if several and single.keys() <= several.keys():
        return Form(_joined(several.values()), is_multiple=True)
    return Form(_joined(single.values())) if single else None


def _type_of(annotation: Any) -> click.ParamType | None:
    """The type of one value."""
    if annotation is bool:
        return click.BOOL
    if get_origin(annotation) is Literal and all(isinstance(choice, str) for choice in get_args(annotation)):
        return click.Choice(get_args(annotation))
    return _SCALARS.get(annotation) if isinstance(annotation, type) else None


def _joined(types: Iterable[click.ParamType]) -> click.ParamType:
    first, *others = types
    return _Either([first, *others]) if others else first


def explained(docstring: str) -> dict[str, str]:
    """What a docstring says of each argument under "Args:".

    >>> explained("What?\\n\\nArgs:\\n    seed: of draws\\n        (any).\\n    width: of windows.\\n\\nErrors: none.")
    {'seed': 'of draws (any).', 'width': 'of windows.'}
    """
    _, _, after = f"\n{cleandoc(docstring)}".partition("\nArgs:\n")
    block = after.partition("\n\n")[0]
    indent = re.match(" *", block)
    parts = re.split(rf"^{indent[0] if indent else ''}(\w+): ", block, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
