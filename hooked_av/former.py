"""Former spellings of arguments: they go on working through 0.x, with a DeprecationWarning that says the new one."""

import warnings
from collections.abc import Callable, Container
from functools import wraps
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def formerly(old: str, new: str, values: Container[Any] | None = None) -> Callable[[Function], Function]:
    """What was `old=` is `new=` now; with `values`, only where it is one of them.

    It stands above `@door`, which knows the new spelling only.

    >>> @formerly("options", "tokens")
    ... def trace(tokens=()):
    ...     return tokens
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     print(trace(options=["five"]), said[0].message)
    ['five'] trace(options=...) is now trace(tokens=...)
    """

    def decorate(function: Function) -> Function:
        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if old in kwargs and new not in kwargs and (values is None or _is_one(kwargs[old], values)):
                name = function.__name__
                warnings.warn(f"{name}({old}=...) is now {name}({new}=...)", DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return cast(Function, called)

    return decorate


def _is_one(value: Any, values: Container[Any]) -> bool:
    return isinstance(value, str) and value in values
