"""Controls: how many random cuts, of which kind, stand beside every cut."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from zlib import crc32

from hooked_av.doors import door
from hooked_av.errors import HookedAVWarning, InputsError
from hooked_av.interventions.random_cuts import BlockRandom, Spread, block_random
from hooked_av.interventions.specs import Intervention


@door
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
        if self.draws < 0 or self.seed < 0:
            raise InputsError(
                "cannot make controls like this",
                expected="a number of draws (0: none), and a seed that is not negative",
                got=f"draws={self.draws}, seed={self.seed}",
                next_step="leave controls out for one draw of each",
            )

    @classmethod
    def given(cls, controls: "Controls | int") -> "Controls":
        """A number of draws, or all of it."""
        return controls if isinstance(controls, Controls) else cls(controls)

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
