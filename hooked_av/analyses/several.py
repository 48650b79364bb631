"""Arguments that take one name or several: a text alone is one name, not its letters."""

from collections.abc import Sequence


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as a tuple.

    >>> several("audio"), several(["audio", "video"])
    (('audio',), ('audio', 'video'))
    """
    return (names,) if isinstance(names, str) else tuple(names)
