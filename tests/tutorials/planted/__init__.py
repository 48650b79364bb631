"""Wrong answers to the tutorials' exercises, and what their checkers must say of each; a file a tutorial.

An exercise is the name of its checker: `av.checks.quickstart.smallest_cut` is "smallest_cut". The code stands in place
of the solution, in the notebook as it is at that cell; the call of the checker follows.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple


class Wrong(NamedTuple):
    """`code` answers `exercise` of `tutorial` wrongly; the verdict matches `says` (a regular expression)."""

    tutorial: str
    exercise: str
    code: str
    says: str


def wrong_answers() -> list[Wrong]:
    """Those of all tutorials."""
    modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    return [Wrong(*row) for module in modules for row in module.ROWS]
