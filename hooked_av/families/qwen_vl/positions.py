"""Position ids of Qwen2.5-VL, as pure functions of a prompt's layout.

Axes: axis (time, height, width), pos, token.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from hooked_av.errors import InputsError
from hooked_av.prompt.positions import Piece, TextRun, VisionPiece


def qwen_vl_positions(pieces: Sequence[Piece], mode: str, tokens_per_second: float) -> Int64[Tensor, "axis=3 pos"]:
    """Position ids of Qwen2.5-VL for one prompt.

    Text advances on all three axes; a token of a picture or video stands at its frame group's time, its row and its
    column. "transformers": what follows a video counts on from its larger side (transformers 5.23, `get_rope_index`),
    so that a long video's times reach beyond it. "train": from the largest id of all, as the model was trained and as
    transformers had it before version 5. The two differ only where a video lasts longer than its sides are wide.

    >>> pieces = [VisionPiece((3, 1, 1), 1.0), TextRun(1)]
    >>> qwen_vl_positions(pieces, "transformers", tokens_per_second=2)[0].tolist()
    [0, 1, 3, 5, 2, 3]
    >>> qwen_vl_positions(pieces, "train", tokens_per_second=2)[0].tolist()
    [0, 1, 3, 5, 6, 7]
    """
    parts: list[Tensor] = []
    following = 0
    for piece in pieces:
        if isinstance(piece, TextRun):
            parts.append(_line(piece.n_tokens) + following)
            following += piece.n_tokens
        elif isinstance(piece, VisionPiece):
            body = _raster(piece, tokens_per_second)
            parts += [_line(1) + following, body + following + 1]
            advance = max(piece.grid[1:]) if mode == "transformers" else int(body.max()) + 1
            parts.append(_line(1) + following + 1 + advance)
            following += advance + 2
    if not following:
        raise InputsError("an empty prompt", expected="at least one token", got="none", next_step="give a text or clip")
    return torch.cat(parts, dim=1)


def _line(n_tokens: int) -> Int64[Tensor, "axis=3 token"]:
    return torch.arange(n_tokens).expand(3, -1)


def _raster(piece: VisionPiece, tokens_per_second: float) -> Int64[Tensor, "axis=3 token"]:
    groups, rows, cols = piece.grid
    # float32, in this order, then truncated: transformers' arithmetic, which decides ids at exact borders
    interval = tokens_per_second * torch.tensor(piece.seconds_per_group or 0.0, dtype=torch.float32)
    times = (torch.arange(groups) * interval).long()
    return torch.cartesian_prod(times, torch.arange(rows), torch.arange(cols)).reshape(-1, 3).T
