"""Reading the media blocks of a prompt back from its token ids: what the families share.

A family's reader says what stands at a position (`media_at`) and which end tokens its blocks have.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from hooked_av.errors import InputsError
from hooked_av.prompt.layout import ItemTimes, Placed
from hooked_av.prompt.positions import TextRun

P = TypeVar("P", bound=Placed)


@dataclass(frozen=True)
class MediaTokens:
    """The ids of a family's placeholder tokens."""

    audio: int
    image: int
    video: int

    @property
    def seconds_per_audio_token(self) -> float:
        """How much sound one token stands for; 0.0 where nothing is heard."""
        return 0.0

    def modality(self, name: str) -> int:
        return {"audio": self.audio, "image": self.image, "video": self.video}[name]


@dataclass(frozen=True)
class Supply:
    """The media of a batch, handed out in prompt order. `left`: what is still to come, by modality."""

    left: dict[str, list[Any]]

    def take(self, modality: str, at: int) -> Any:
        """The next item; `at`: the position of its block, for the message.

        Errors: `InputsError` if there is none.
        """
        if not self.left[modality]:
            raise InputsError(
                f"the prompt has more {modality} items than features",
                expected=f"features for the {modality} placeholder at position {at}",
                got="no features left",
                next_step=f"pass the {modality} features of every placeholder",
            )
        return self.left[modality].pop(0)

    def check_empty(self) -> None:
        """Refuse features that no prompt asked for."""
        left = {modality: len(items) for modality, items in self.left.items() if items}
        if left:
            raise InputsError(
                "more media features than placeholders in the prompt",
                expected="one placeholder block per item",
                got=f"left over: {left}",
                next_step="check input_ids, or drop the extra features",
            )


@dataclass(frozen=True)
class PromptReader(ABC):
    """Reads the prompts of one batch, in order, each checked against the features that are left.

    kind: what a family calls a piece at its place, where it counts the begin and end tokens its own way.
    """

    kind: ClassVar[type[Placed]] = Placed

    supply: Supply
    tokens: MediaTokens

    @abstractmethod
    def media_at(self, row: list[int], at: int) -> Placed | None:
        """The media block that begins at this position, checked; None if none does."""

    def place(self, ids: Int64[Tensor, " pos"]) -> list[Placed]:
        """The layout of the next prompt.

        Errors: `InputsError` where a block does not match its features.
        """
        row = ids.tolist()
        return read_blocks(row, lambda at: self.media_at(row, at), self.tokens, self.kind)

    def labels(self, placed: Sequence[Placed]) -> dict[str, list[int]]:
        """Positions of spans that only this family has, of the prompt just read."""
        return {}

    def check_empty(self) -> None:
        """Refuse what no prompt asked for, after the last prompt."""
        self.supply.check_empty()


def merged_grid(grid_thw: Tensor, merge: int) -> tuple[int, int, int]:
    """Frame groups, rows and columns of tokens, from a grid of patches."""
    groups, rows, cols = (int(n) for n in grid_thw)
    return groups, rows // merge, cols // merge


def nominal_times(part: Placed, seconds_per_audio_token: float) -> ItemTimes:
    """Times as the model counts them: so long an audio token, and so long a frame group as the prompt was told."""
    vision = part.vision
    if vision is None or vision.seconds_per_group is None:
        return ItemTimes(seconds_per_audio_token)
    return ItemTimes(seconds_per_audio_token, np.arange(vision.grid[0] + 1) * vision.seconds_per_group)


def read_blocks(
    row: Sequence[int], media_at: Callable[[int], Placed | None], tokens: MediaTokens, kind: type[Placed] = Placed
) -> list[Placed]:
    """The pieces of a prompt, in order: media where `media_at` finds them, text between; stray placeholders raise."""
    placed: list[Placed] = []
    at, text_from = 0, 0
    while at < len(row):
        part = media_at(at)
        if part is None:
            at += 1
            continue
        placed += [kind(TextRun(at - text_from), text_from)] if at > text_from else []
        placed.append(part)
        at = text_from = int(part.bounds[-1]) + 1
    placed += [kind(TextRun(at - text_from), text_from)] if at > text_from else []
    _check_text(row, placed, tokens)
    return placed


def check_block(part: P, row: Sequence[int], tokens: MediaTokens, ends: Sequence[int]) -> P:
    """The block's tokens must be exactly what its features imply: no row more, no row less, ends in place."""
    expected: dict[int, int] = {}
    for modality, positions in part.streams.items():
        expected |= dict.fromkeys(positions.tolist(), tokens.modality(modality))
    expected |= dict(zip(part.bounds[part.n_bounds :].tolist(), ends, strict=True))
    wrong = [at for at, token in sorted(expected.items()) if at >= len(row) or row[at] != token]
    if wrong:
        counts = {name: len(positions) for name, positions in part.streams.items()}
        raise InputsError(
            f"the media block at position {part.start} does not match its features",
            expected=f"{counts} placeholder tokens in their interleaved order, then the end token",
            got=f"first difference at position {wrong[0]}: "
            + (f"token {row[wrong[0]]}" if wrong[0] < len(row) else "the prompt ends"),
            next_step="make input_ids, grids and features with the same processor call",
        )
    return part


def _check_text(row: Sequence[int], placed: Sequence[Placed], tokens: MediaTokens) -> None:
    media = {tokens.audio: "audio", tokens.image: "image", tokens.video: "video"}
    texts = [part.body.tolist() for part in placed if isinstance(part.piece, TextRun)]
    stray = [at for body in texts for at in body if row[at] in media]
    if stray:
        raise InputsError(
            f"a {media[row[stray[0]]]} placeholder outside any media block",
            expected="begin token, placeholders, end token",
            got=f"token {row[stray[0]]} at position {stray[0]}",
            next_step="keep the begin and end tokens around media",
        )
