"""What must be refused: one table in several files (media, calls, checkpoints, data sets), one rule for all of it.

`tests/test_bad_inputs.py` holds every row to the rule. A file of this folder ends in `ROWS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a row happens: a folder of its own, and a model that other rows use too."""

    folder: Path
    model: Any
    inputs: Any  # a text prompt of that model
    clip: Any  # a picture of 56 x 56


@dataclass(frozen=True)
class Bad:
    """One thing that must be refused: what there is before (`make`; `call` gets its value), and what a user then does.

    `says` are words that the message must hold, so that a row is not refused for another reason than its own.
    """

    name: str
    call: Callable[[Place, Any], object]
    says: str
    make: Callable[[Place], Any] = lambda at: None
