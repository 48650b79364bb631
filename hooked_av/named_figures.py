"""Figures by name: what can be drawn says which function draws it, and that is imported when a picture is asked for.

So a result and a prompt know their figures without knowing a plotting library.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from hooked_av.errors import HookedAVError

Figure = str | Callable[[Any], Any]  # "package.module:function", or a function


def draw(what: Any) -> Any:
    """The figure of something whose class has a `figure`; subclasses inherit it.

    Errors: `HookedAVError` for a class that names none, or one that is not there.

    >>> class Two:
    ...     figure = staticmethod(lambda two: f"a picture of {two.number}")
    ...     number = 2
    >>> draw(Two())
    'a picture of 2'
    """
    figure = getattr(type(what), "figure", None)
    if isinstance(figure, str):
        figure = _imported(type(what), figure)
    if not callable(figure):
        raise _no_figure(type(what), "none" if figure is None else repr(figure))
    return figure(what)


def _imported(kind: type, name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise _no_figure(kind, f"{name!r} ({type(error).__name__}: {error})") from error


def _no_figure(kind: type, got: str) -> HookedAVError:
    return HookedAVError(
        f"{kind.__name__} names no figure",
        expected='a class attribute figure = "package.module:function", or a function of one argument',
        got=got,
        next_step=f"write `figure: ClassVar = draw_it` in {kind.__name__}, with a function that takes the result",
    )
