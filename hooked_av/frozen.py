"""A mapping that cannot be changed, and can be copied and pickled (`types.MappingProxyType` cannot)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Frozen(Mapping[Key, Value]):
    """The items of a mapping as they are now.

    >>> settings = Frozen({"fps": 2})
    >>> settings, settings["fps"], settings == {"fps": 2}
    (Frozen({'fps': 2}), 2, True)
    """

    __slots__ = ("_items",)

    def __init__(self, items: "Mapping[Key, Value] | Iterable[tuple[Key, Value]]" = ()) -> None:
        self._items = dict(items)

    def __getitem__(self, key: Key) -> Value:
        return self._items[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Frozen({self._items})"
