"""Reading the media blocks of a prompt back from its token ids: what the families share.

A family says what stands at a position (`media_at`) and which end tokens its blocks have.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from hooked_av.errors import InputsError
from hooked_av.prompt.layout import Placed
from hooked_av.prompt.positions import TextRun

P = TypeVar("P", bound=Placed)


@runtime_checkable
class MediaTokens(Protocol):
    """The ids of a family's placeholder tokens."""

    @property
    def audio(self) -> int: ...
    @property
    def image(self) -> int: ...
    @property
    def video(self) -> int: ...
    def modality(self, name: str) -> int: ...


def merged_grid(grid_thw: Tensor, merge: int) -> tuple[int, int, int]:
    """Frame groups, rows and columns of tokens, from a grid of patches."""
    groups, rows, cols = (int(n) for n in grid_thw)
    return groups, rows // merge, cols // merge


def read_blocks(
    row: Sequence[int], media_at: Callable[[int], Placed | None], tokens: MediaTokens, text: type[Placed] = Placed
) -> list[Placed]:
    """The pieces of a prompt, in order: media where `media_at` finds them, text between; stray placeholders raise."""
    placed: list[Placed] = []
    at, text_from = 0, 0
    while at < len(row):
        part = media_at(at)
        if part is None:
            at += 1
            continue
        placed += [text(TextRun(at - text_from), text_from)] if at > text_from else []
        placed.append(part)
        at = text_from = int(part.bounds[-1]) + 1
    placed += [text(TextRun(at - text_from), text_from)] if at > text_from else []
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
