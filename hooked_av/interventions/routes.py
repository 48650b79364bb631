"""Routes of attention as text, and lists of layers and heads as numbers: what specs are written with."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from hooked_av.errors import InterventionError

_ROUTE = re.compile(r"\s*(?P<keys>[^>@]+?)\s*(?:->|→)\s*(?P<queries>[^>@]+?)\s*(?:@\s*(?P<layers>[\d,\s-]+))?")


@dataclass(frozen=True)
class Route:
    """Attention from `keys` to `queries` in `layers` (None: in every layer)."""

    keys: str
    queries: str
    layers: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> "Route":
        """Read `"audio->question@6-20"`: spans, and layers counted from 0, the last included.

        >>> Route.parse("audio|video -> question @ 2-4,7")
        Route(keys='audio|video', queries='question', layers=(2, 3, 4, 7))
        """
        found = _ROUTE.fullmatch(text)
        if found is None:
            raise not_a_route(text)
        layers = found["layers"]
        return cls(found["keys"], found["queries"], None if layers is None else _layer_ranges(layers, text))

    def __str__(self) -> str:
        return f"{self.keys} → {self.queries} in {_layers_text(self.layers)}"


def numbers(what: str, values: Any) -> tuple[int, ...] | None:
    """Layers or heads as sorted numbers; None stays None (all)."""
    if values is None:
        return None
    given = [values] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if not given or not all(isinstance(value, Integral) and not isinstance(value, bool) for value in given):
        raise InterventionError(
            f"no {what} to cut" if not given else f"{what} are numbers",
            expected="one number, or several",
            got=given,
            next_step=f"name the {what}: {what}=range(2, 6)",
        )
    return tuple(sorted({int(value) for value in given}))


def check_range(what: str, chosen: Iterable[int], n: int, spec: str) -> None:
    """Refuse numbers outside 0 ... n - 1."""
    wrong = [number for number in chosen if not 0 <= number < n]
    if wrong:
        raise InterventionError(
            f"the model has no such {what} ({spec})",
            expected=f"{what} 0 to {n - 1}",
            got=wrong,
            next_step=f"count {what} from 0; model.cfg has their number",
        )


def _layer_ranges(text: str, route: str) -> tuple[int, ...]:
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise not_a_route(route)
        layers |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(layers))


def _layers_text(layers: tuple[int, ...] | None) -> str:
    return "every layer" if layers is None else f"layers {list(layers)}"


def not_a_route(got: str) -> InterventionError:
    return InterventionError(
        "not a route of attention",
        expected='"keys->queries" or "keys->queries@layers", such as "audio->question@6-20"',
        got=repr(got),
        next_step="name two spans; layers count from 0, and the last one is included",
    )
