"""What is open: the blocks of hooks and interventions that the next pass of this thread will feel.

A pass takes what is open when it begins, and is alone with it until it ends: a pass that one of its hooks begins is a
run of its own, which feels only what was opened inside that hook. Every thread has its own (contextvars).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class Opened:
    """One block: `with model.hooks(...)`, `with model.intervene(...)`, or what belongs to one pass alone.

    `owner` is the model; `interventions` are a block's specs. A block that `stays` goes on acting, in every pass, when
    it has been left.
    """

    def __init__(self, owner: object = None, interventions: tuple[Any, ...] = ()) -> None:
        self.owner, self.interventions = owner, interventions
        self.stays = False

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The passes that begin in this `with` block, in this thread, feel it."""
        before = _OPEN.get()
        _OPEN.set((*before, self))
        try:
            yield
        finally:
            # not the value of before: blocks need not be left in the order in which they were entered
            _OPEN.set(tuple(block for block in _OPEN.get() if block is not self))


_OPEN: ContextVar[tuple[Opened, ...]] = ContextVar("hooked_av_open", default=())


def what_is_open() -> tuple[Opened, ...]:
    """The blocks that a pass feels, if it begins now."""
    return _OPEN.get()


@contextmanager
def nothing_open() -> Iterator[None]:
    """What begins in this `with` block feels nothing that was opened outside."""
    token = _OPEN.set(())
    try:
        yield
    finally:
        _OPEN.reset(token)
