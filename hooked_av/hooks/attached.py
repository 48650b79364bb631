"""Hooks on points for a while: each goes on its own way out, whatever else was hooked in between."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from hooked_av.hooks.names import Match
from hooked_av.hooks.open_blocks import Opened
from hooked_av.hooks.point import HookFunction, HookPoint, ScopedHook
from hooked_av.hooks.run import Run

Direction = Literal["fwd", "bwd"]


class PlacedHook(NamedTuple):
    """A hook, and the point that it goes to."""

    point: HookPoint
    hook: ScopedHook
    direction: Direction = "fwd"


def scoped(match: Match, function: HookFunction, block: Opened | None) -> ScopedHook:
    """A function as the hook of one matched name, for the passes that feel a block (None: for all)."""
    return ScopedHook(function, match.scope, match.explicit, getattr(function, "reads_only", False), block)


@contextmanager
def attached(placed: Sequence[PlacedHook], block: Opened, *, first: bool = False) -> Iterator[None]:
    """The hooks of a block on their points, until it is left (if it does not stay); `first`: in front of all others."""
    handles = []
    try:
        for point, hook, direction in placed:
            handles.append((point, point.add_hook(hook, direction, prepend=first)))
        yield
    finally:
        if not block.stays:
            for point, handle in handles:
                point.remove(handle)


@contextmanager
def in_pass(run: Run, placed: Callable[[Opened], Sequence[PlacedHook]], *, first: bool = False) -> Iterator[None]:
    """Hooks that act in this pass and in no other, for the length of a `with` block; `placed` makes them."""
    block = Opened()
    with run.feeling(block), attached(placed(block), block, first=first):
        yield
