"""Specs as JSON, for files and tables, and back."""

import json
from collections.abc import Mapping
from typing import Any

from hooked_av.doors import door
from hooked_av.errors import InterventionError, nearest
from hooked_av.interventions import random_cuts  # noqa: F401 # pyright: ignore[reportUnusedImport] - makes its kind known
from hooked_av.interventions.intervention import Intervention
from hooked_av.interventions.routes import Route
from hooked_av.interventions.specs import as_specs
from hooked_av.interventions.values import Values


@door
def to_json(interventions: Any) -> str:
    """Specs as text, for files and tables; `from_json` reads it back.

    >>> from_json(to_json("audio->last@1")) == list(as_specs("audio->last@1"))
    True
    """
    return json.dumps([spec.to_dict() for spec in as_specs(interventions)])


@door
def from_json(text: str) -> list[Intervention]:
    """The specs that `to_json` wrote.

    Errors: `InterventionError` for a text that holds no specs.

    >>> import hooked_av as av
    >>> text = av.interventions.to_json([av.block_attention("audio->question@2-3")])
    >>> [str(spec) for spec in from_json(text)]
    ['block audio → question in layers [2, 3]']
    """
    try:
        found = json.loads(text)
        if not isinstance(found, list):
            raise TypeError(f"a list of specs is wanted, this is a {type(found).__name__}")
        return [_from_dict(item) for item in found]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InterventionError(
            "these are no interventions",
            expected="what av.interventions.to_json wrote",
            got=f"{type(error).__name__}: {error}",
            next_step="write specs with av.interventions.to_json(specs)",
        ) from error


def _from_dict(item: Mapping[str, Any]) -> Intervention:
    arguments = dict(item)
    kind = arguments.pop("kind")
    if kind not in Intervention.kinds:
        raise InterventionError(
            f"these are no interventions: none is of kind {kind!r}",
            expected=nearest(str(kind), Intervention.kinds),
            got=repr(kind),
            next_step="import the module that defines it first",
        )
    return Intervention.kinds[kind](**{name: _read(name, value) for name, value in arguments.items()})


def _read(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return _from_dict(value) if "kind" in value else Values.from_dict(value)
    if name == "routes":
        return tuple(Route(**{key: _read(key, part) for key, part in route.items()}) for route in value)
    return tuple(_read("", item) for item in value) if isinstance(value, list) else value
