"""From the pieces of a prompt to its spans: which positions are audio, video, boundary, item 2, second 3, row 1.

Axes: pos (token of one prompt).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64

from hooked_av.prompt.positions import AudioPiece, AVPiece, Piece, TextRun, VisionPiece
from hooked_av.prompt.spans import Spans, TokenPlaces


@dataclass(frozen=True)
class Placed:
    """A piece at its place in the prompt. `is_video` tells the two streams of an audio-visual block apart."""

    piece: Piece
    start: int
    is_video: Bool[np.ndarray, " token"] | None = None

    @property
    def n_bounds(self) -> int:
        """Begin (and as many end) tokens of the piece."""
        if isinstance(self.piece, TextRun):
            return 0
        return 2 if isinstance(self.piece, AVPiece) else 1

    @property
    def body(self) -> np.ndarray:
        """Positions between the begin and end tokens."""
        first = self.start + self.n_bounds
        return np.arange(first, first + self.piece.n_tokens)

    @property
    def bounds(self) -> np.ndarray:
        body = self.body
        last = int(body[-1]) if len(body) else self.start + self.n_bounds - 1
        return np.r_[self.start : self.start + self.n_bounds, last + 1 : last + 1 + self.n_bounds]

    @property
    def streams(self) -> dict[str, np.ndarray]:
        """Positions by modality."""
        if isinstance(self.piece, AudioPiece):
            return {"audio": self.body}
        if isinstance(self.piece, VisionPiece):
            return {"image" if self.piece.seconds_per_group is None else "video": self.body}
        if isinstance(self.piece, AVPiece) and self.is_video is not None:
            return {"video": self.body[self.is_video], "audio": self.body[~self.is_video]}
        return {}

    @property
    def vision(self) -> VisionPiece | None:
        if isinstance(self.piece, AVPiece):
            return self.piece.video
        return self.piece if isinstance(self.piece, VisionPiece) else None


@dataclass(frozen=True)
class ItemTimes:
    """When the tokens of one media item happen, in seconds of its clip."""

    seconds_per_audio_token: float
    group_edges: Float64[np.ndarray, " edge"] | None = None  # start of each frame group, and the end of the last


@dataclass
class _Collected:
    spans: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    def add(self, name: str, positions: np.ndarray) -> None:
        if len(positions):
            self.spans.setdefault(name, []).extend(positions.tolist())


def media_spans(placed: Sequence[Placed], n_pos: int, labels: dict[str, list[int]]) -> dict[str, list[int]]:
    """Every built-in span of a prompt that has any position: modalities, items, boundary, text, last, and `labels`."""
    found = _Collected()
    for item, part in enumerate(p for p in placed if not isinstance(p.piece, TextRun)):
        found.add("boundary", part.bounds)
        found.add(f"item{item}", part.body)
        for stream, positions in part.streams.items():
            found.add(stream, positions)
            found.add(f"item{item}.{stream}", positions)
    found.add("av", np.array(found.spans.get("audio", []) + found.spans.get("video", []), dtype=int))
    for part in placed:
        if isinstance(part.piece, TextRun):
            found.add("text", part.body)
    return {**found.spans, **labels, "last": [n_pos - 1]}


def media_places(placed: Sequence[Placed], n_pos: int, times: Sequence[ItemTimes]) -> TokenPlaces:
    """Seconds, grid cell and item of every media token."""
    places = TokenPlaces.nowhere(n_pos)
    parts = [part for part in placed if not isinstance(part.piece, TextRun)]
    for item, (part, clock) in enumerate(zip(parts, times, strict=True)):
        places.items[part.body] = item
        audio = part.streams.get("audio")
        if audio is not None:
            edges = np.arange(len(audio) + 1) * clock.seconds_per_audio_token
            places.seconds[audio] = np.stack([edges[:-1], edges[1:]], axis=1)
        vision = part.streams.get("video", part.streams.get("image"))
        if vision is not None and part.vision is not None:
            places.cells[vision] = np.stack(np.unravel_index(np.arange(len(vision)), part.vision.grid), axis=1)
            if clock.group_edges is not None:
                group = places.cells[vision, 0]
                places.seconds[vision] = np.stack([clock.group_edges[group], clock.group_edges[group + 1]], axis=1)
    return places


def build_spans(
    placed: Sequence[Placed], n_pos: int, times: Sequence[ItemTimes], labels: dict[str, list[int]]
) -> Spans:
    """All spans and places of one prompt."""
    return Spans(n_pos, media_spans(placed, n_pos, labels), media_places(placed, n_pos, times))
