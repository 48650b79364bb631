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
        _OPEN.set((*_OPEN.get(), self))
        try:
            yield
        finally:
            _OPEN.set(tuple(block for block in _OPEN.get() if block is not self))


class Wall(Opened):
    """A block behind which nothing is felt that was opened in front of it; `run` is the pass that it belongs to."""

    def __init__(self, run: Any = None) -> None:
        super().__init__()
        self.run = run


# One list for all of it, and each block takes itself out: they need not be left in the order of their entering, nor in
# the context in which they were entered (one that was dropped is left by the garbage collector).
_OPEN: ContextVar[tuple[Opened, ...]] = ContextVar("hooked_av_open", default=())


def what_is_open() -> tuple[Opened, ...]:
    """The blocks that a pass feels, if it begins now."""
    blocks = _OPEN.get()
    walls = [number for number, block in enumerate(blocks) if isinstance(block, Wall)]
    return blocks[walls[-1] + 1 :] if walls else blocks


def innermost_run() -> Any:
    """The pass whose wall was put up last; None if there is none."""
    runs = (block.run for block in reversed(_OPEN.get()) if isinstance(block, Wall) and block.run is not None)
    return next(runs, None)
