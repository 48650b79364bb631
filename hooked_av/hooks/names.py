"""Hook names: TransformerLens's (`blocks.5.hook_resid_post`), shell patterns, and spans.

`blocks.5.hook_resid_post@audio` means the audio rows; attention matrices take `@queries<-keys`:
`blocks.5.attn.hook_pattern@question<-video`. A name that matches nothing raises.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from hooked_av.errors import HookNameError, nearest

# TransformerLens writes these points of the attention also as the block's.
_AS_THE_BLOCKS = re.compile(r"^(blocks\.[^.]+\.)(hook_(?:[qkv]_input|attn_in))$")

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None


@dataclass(frozen=True)
class Scope:
    """The part of an activation that a name's `@...` selects; None means all."""

    queries: str | None
    keys: str | None = None


@dataclass(frozen=True)
class HookName:
    """A hook name or pattern and its scope.

    >>> HookName.parse("blocks.5.attn.hook_pattern@question<-video")
    HookName(pattern='blocks.5.attn.hook_pattern', scope=Scope(queries='question', keys='video'))
    >>> HookName.parse("blocks.5.hook_q_input").pattern
    'blocks.5.attn.hook_q_input'
    """

    pattern: str
    scope: Scope | None

    @classmethod
    def parse(cls, text: str) -> "HookName":
        pattern, at, selection = text.partition("@")
        pattern = _AS_THE_BLOCKS.sub(r"\1attn.\2", pattern)
        if not at:
            return cls(pattern, None)
        queries, arrow, keys = ("".join(part.split()) for part in selection.partition("<-"))
        if not (queries or keys) or (arrow and not keys):
            raise HookNameError(
                "this hook name has an empty span",
                expected="name@span or name@queries<-keys",
                got=repr(text),
                next_step="name a span after '@', or leave '@' out",
            )
        return cls(pattern, Scope(queries or None, keys or None))

    @property
    def is_pattern(self) -> bool:
        return any(mark in self.pattern for mark in "*?[")

    def key(self, name: str) -> str:
        """The cache key of one matched name: with the scope, as the user wrote it."""
        if self.scope is None:
            return name
        arrow = f"<-{self.scope.keys}" if self.scope.keys else ""
        return f"{name}@{self.scope.queries or ''}{arrow}"


@dataclass(frozen=True)
class Match:
    """One hook point that a user's name, pattern or filter selected."""

    name: str
    scope: Scope | None
    key: str
    explicit: bool  # written out in full, so it must fire


def match_names(wanted: str | Callable[[str], bool], points: Mapping[str, Any]) -> list[Match]:
    """The hook points that a name, shell pattern or predicate selects.

    Errors: `HookNameError` if there are none, with the nearest names; or if `<-keys` is used where there are no keys.
    """
    if callable(wanted):
        found = [Match(name, None, name, False) for name in points if wanted(name)]
        return found or _no_match("a filter function", points)
    parsed = HookName.parse(wanted)
    names = [name for name in points if fnmatchcase(name, parsed.pattern)]
    if not names:
        return _no_match(parsed.pattern, points)
    matches = [Match(name, parsed.scope, parsed.key(name), not parsed.is_pattern) for name in names]
    for match in matches:
        _check_scope(match, points[match.name])
    return matches


def _no_match(what: str, points: Iterable[str]) -> list[Match]:
    layer = re.search(r"blocks\.(\d+)\.", what)
    alike = points if layer is None else [p for p in points if f".{layer.group(1)}." in p] or points
    raise HookNameError(
        "no hook point has this name",
        expected=nearest(what, alike),
        got=what,
        next_step="see list(model.hook_dict) for all names",
    )


def _check_scope(match: Match, point: Any) -> None:
    if match.scope is None:
        return
    if match.scope.keys and "key" not in point.axes:
        raise HookNameError(
            f"{match.name} has no key axis",
            expected="'<-keys' on hook_attn_scores and hook_pattern only",
            got=match.key,
            next_step=f"write {match.name}@{match.scope.queries or 'span'}",
        )
