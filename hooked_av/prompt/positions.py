"""(time, height, width) position ids, as pure functions of a prompt's layout; one function per model family.

A layout is a list of pieces in prompt order. Every media piece brings its own begin and end tokens, as the released
chat templates write them. Lengths are token counts; grids are in merged cells; times in seconds.

Axes: axis (time, height, width), pos, token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hooked_av.errors import InputsError


@dataclass(frozen=True)
class TextRun:
    """`n_tokens` text tokens (template tokens included)."""

    n_tokens: int


@dataclass(frozen=True)
class AudioPiece:
    """begin, `n_tokens` audio tokens, end."""

    n_tokens: int


@dataclass(frozen=True)
class VisionPiece:
    """begin, one token a merged cell, end. `seconds_per_group` is None for an image."""

    grid: tuple[int, int, int]  # frame groups, rows, columns
    seconds_per_group: float | None

    @property
    def n_tokens(self) -> int:
        groups, rows, cols = self.grid
        return groups * rows * cols


@dataclass(frozen=True)
class AVPiece:
    """Two begin tokens, video tokens with the clip's sound in between, two end tokens."""

    video: VisionPiece
    audio: AudioPiece

    @property
    def n_tokens(self) -> int:
        return self.video.n_tokens + self.audio.n_tokens


Piece = TextRun | AudioPiece | VisionPiece | AVPiece


@dataclass(frozen=True)
class OmniClock:
    """How Qwen2.5-Omni counts time: position ids per second, and seconds per interleaved chunk."""

    positions_per_second: float = 25
    seconds_per_chunk: float = 2.0

    @property
    def chunk(self) -> int:
        return int(self.positions_per_second * self.seconds_per_chunk)


def omni_interleave(piece: AVPiece, clock: OmniClock) -> Bool[Tensor, " token"]:
    """Which tokens of an audio-visual block are video: True for video, False for audio, in prompt order.

    The released processor deals out both streams chunk by chunk (2 s), video first
    (transformers 5.23, `processing_qwen2_5_omni.py`, `replace_video_with_audio_token`).

    >>> piece = AVPiece(VisionPiece((3, 1, 1), 1.0), AudioPiece(60))
    >>> omni_interleave(piece, OmniClock()).int().tolist() == [1, 1] + [0] * 50 + [1] + [0] * 10
    True
    """
    groups, rows, cols = piece.video.grid
    seconds = piece.video.seconds_per_group or 0.0
    # float64, not truncated: the processor's arithmetic. The position rule below uses float32, as the model does.
    times = np.repeat(np.arange(groups), rows * cols) * seconds * clock.positions_per_second
    video, audio = _runs(times, clock.chunk), _runs(np.arange(piece.audio.n_tokens), clock.chunk)
    flags: list[np.ndarray] = []
    for j in range(max(len(video), len(audio))):
        flags += [np.ones(stop - start, bool) for start, stop in video[j : j + 1]]
        flags += [np.zeros(stop - start, bool) for start, stop in audio[j : j + 1]]
    return torch.from_numpy(np.concatenate(flags))


def omni_positions(pieces: Sequence[Piece], clock: OmniClock) -> Int64[Tensor, "axis=3 pos"]:
    """Position ids of Qwen2.5-Omni for one prompt, equal to transformers' `get_rope_index`.

    Text advances on all three axes. Audio advances one id a token; a video token stands at its frame group's time and
    at its row and column; after a media block the count goes on from the block's last piece (not its largest id).

    >>> omni_positions([TextRun(2), VisionPiece((1, 2, 2), None), TextRun(1)], OmniClock())
    tensor([[0, 1, 2, 3, 3, 3, 3, 5, 6],
            [0, 1, 2, 3, 3, 4, 4, 5, 6],
            [0, 1, 2, 3, 4, 3, 4, 5, 6]])
    """
    parts: list[Tensor] = []
    for piece in pieces:
        if isinstance(piece, TextRun):
            _append_line(parts, piece.n_tokens)
        elif isinstance(piece, AVPiece):
            _append_audio_video(parts, piece, clock)
        else:
            _append_line(parts, 1)
            start = _next(parts)
            body = _audio(piece) if isinstance(piece, AudioPiece) else _vision(piece, clock)
            parts.append(body + start)
            _append_line(parts, 1)
    if not parts:
        raise InputsError("an empty prompt", expected="at least one token", got="none", next_step="give a text or clip")
    return torch.cat(parts, dim=1)


def rope_delta(position_ids: Int64[Tensor, "axis=3 pos"]) -> int:
    """What to add to a sequence index to get the position of a token decoded after this prompt.

    >>> rope_delta(omni_positions([TextRun(5)], OmniClock()))
    0
    """
    return int(position_ids.max()) + 1 - position_ids.shape[1]


def _next(parts: list[Tensor]) -> int:
    return int(parts[-1].max()) + 1 if parts else 0


def _append_line(parts: list[Tensor], n_tokens: int, copies: int = 1) -> None:
    if n_tokens:
        line = (torch.arange(n_tokens) + _next(parts)).expand(3, -1)
        parts.extend([line] * copies)


def _append_audio_video(parts: list[Tensor], piece: AVPiece, clock: OmniClock) -> None:
    _append_line(parts, 1, copies=2)  # both begin tokens share one id
    start = _next(parts)
    video, audio = _vision(piece.video, clock), _audio(piece.audio)
    video_runs, audio_runs = _runs(video[0].numpy(), clock.chunk), _runs(audio[0].numpy(), clock.chunk)
    for j in range(max(len(video_runs), len(audio_runs))):
        parts.extend(video[:, a:b] + start for a, b in video_runs[j : j + 1])
        parts.extend(audio[:, a:b] + start for a, b in audio_runs[j : j + 1])
    _append_line(parts, 1, copies=2)  # and both end tokens


def _audio(piece: AudioPiece) -> Int64[Tensor, "axis=3 token"]:
    return torch.arange(piece.n_tokens).expand(3, -1)


def _vision(piece: VisionPiece, clock: OmniClock) -> Int64[Tensor, "axis=3 token"]:
    groups, rows, cols = piece.grid
    times = _group_times(groups, piece.seconds_per_group, clock)
    return torch.cartesian_prod(times, torch.arange(rows), torch.arange(cols)).reshape(-1, 3).T


def _group_times(groups: int, seconds_per_group: float | None, clock: OmniClock) -> Int64[Tensor, " group"]:
    if seconds_per_group is None:
        return (torch.arange(groups) * clock.positions_per_second).long()
    # float32, then truncated: the published arithmetic, which decides ids at exact borders
    times: Float[Tensor, " group"] = torch.arange(groups) * torch.tensor(seconds_per_group, dtype=torch.float32)
    return (times * clock.positions_per_second).long()


def _runs(times: np.ndarray, chunk: int) -> list[tuple[int, int]]:
    """Cut a rising list wherever it reaches the next multiple of `chunk`: at most one cut an element."""
    runs: list[tuple[int, int]] = []
    start, border = 0, chunk
    for index, time in enumerate(times.tolist()):
        if time >= border:
            runs.append((start, index))
            start, border = index, border + chunk
    return [*runs, (start, len(times))]
