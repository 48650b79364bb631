"""The run-time type checker of the tests: beartype, which takes an int where a float is asked for (PEP 484).

`install` puts it into every function of the package. jaxtyping's own wrapper remembers the sizes of axes during a call,
which costs several times what the check does; functions without a shape in their signature are checked without it.
"""

import inspect
from dataclasses import is_dataclass
from functools import partial, wraps
from typing import Any, ForwardRef, TypeVar, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_plainly_checked = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_with_shapes = jaxtyping.jaxtyped


def install(package: str) -> None:
    """Check all functions of a package that is imported from now on."""
    jaxtyping.jaxtyped = _jaxtyped  # what the hook's decorators name
    jaxtyping.install_import_hook(package, f"{__name__}.checked")


def _jaxtyped(fn: Any = None, *, typechecker: Any) -> Any:
    """`jaxtyping.jaxtyped`, or the same check without its memory of axes where there are none."""
    if fn is None:
        return partial(_jaxtyped, typechecker=typechecker)
    if isinstance(fn, property):
        parts = (fn.fget, fn.fset, fn.fdel)
        return property(*(part and _jaxtyped(part, typechecker=typechecker) for part in parts))
    if isinstance(fn, (classmethod, staticmethod)):
        return type(fn)(_jaxtyped(fn.__func__, typechecker=typechecker))
    if is_dataclass(fn) and _is_plain(fn.__init__):
        fn.__init__ = _plain(fn.__init__)
        return fn
    return _plain(fn) if _is_plain(fn) else _with_shapes(fn, typechecker=typechecker)


def _plain(fn: Any) -> Any:
    checked_fn = _plainly_checked(fn)

    @wraps(fn)
    def either(*args: Any, **kwargs: Any) -> Any:
        return (fn if jaxtyping.config.jaxtyping_disable else checked_fn)(*args, **kwargs)

    return either


def _is_plain(fn: Any) -> bool:
    """Whether a signature has no axes, and nothing that only jaxtyping knows how to read."""
    if not inspect.isfunction(fn) or inspect.isgeneratorfunction(inspect.unwrap(fn)) or hasattr(fn, "__wrapped__"):
        return False
    return not any(map(_is_special, fn.__annotations__.values()))


def _is_special(annotation: Any) -> bool:
    if isinstance(annotation, (str, ForwardRef, TypeVar)):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(_is_special, get_args(annotation)))
