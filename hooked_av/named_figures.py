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
    return figure_of(type(what))(what)


def figure_of(kind: type) -> Callable[..., Any]:
    """The function that draws things of a class.

    Errors: as of `draw`.
    """
    figure = getattr(kind, "figure", None)
    if isinstance(figure, str):
        figure = _imported(kind, figure)
    if not callable(figure):
        raise _no_figure(kind, "none" if figure is None else repr(figure))
    return figure


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
