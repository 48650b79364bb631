"""Controls: how many random cuts, of which kind, stand beside every cut."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any, get_args
from zlib import crc32

from hooked_av.errors import HookedAVWarning, InputsError
from hooked_av.interventions.random_cuts import BlockRandom, Spread, block_random
from hooked_av.interventions.specs import Intervention


@dataclass(frozen=True)
class Controls:
    """`draws` random cuts beside every cut, each as large as it: see `block_random`.

    `spread`: "entries" draws from the whole causal triangle, "rows" leaves each query row as many keys as the cut does
    (cheaper: nothing before the queries is computed again). Every sample has draws of its own, made from `seed`, its id
    and the number of the draw.

    >>> Controls(3, "rows")
    Controls(draws=3, spread='rows', seed=0)
    """

    draws: int = 1
    spread: Spread = "entries"
    seed: int = 0

    def __post_init__(self) -> None:
        whole = all(isinstance(n, Integral) and not isinstance(n, bool) and n >= 0 for n in (self.draws, self.seed))
        if not whole or self.spread not in get_args(Spread):
            raise _no_controls(f"draws={self.draws!r}, spread={self.spread!r}, seed={self.seed!r}")

    @classmethod
    def given(cls, controls: Any) -> "Controls":
        """A number of draws, or all of it.

        Errors: `InputsError` for anything else.
        """
        if isinstance(controls, Controls):
            return controls
        if isinstance(controls, bool) or not isinstance(controls, Integral):
            raise _no_controls(repr(controls))
        return cls(int(controls))

    def of(self, like: Sequence[Intervention], sample: str, draw: int) -> BlockRandom:
        """One random cut as large as this one."""
        seed = crc32(f"{self.seed} {draw} {sample}".encode())
        return block_random(list(like), spread=self.spread, seed=seed)


@contextmanager
def without_reports_of_empty_rows() -> Iterator[None]:
    """A random cut may leave a row without a key (it reads zero); of hundreds of draws this is no news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no key left to read", category=HookedAVWarning)
        yield


def _no_controls(got: str) -> InputsError:
    return InputsError(
        "cannot make controls like this",
        expected="a number of draws (0: none), or av.Controls(draws, 'entries' or 'rows', seed)",
        got=got,
        next_step="leave controls out for one draw of each",
    )
