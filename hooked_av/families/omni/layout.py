"""How Qwen2.5-Omni lays media out in a prompt: reading the blocks back from token ids, checked against the features.

Axes: pos (token of one prompt).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hooked_av.errors import InputsError
from hooked_av.families.blocks import MediaTokens, PromptReader, Supply, check_block, merged_grid
from hooked_av.prompt.layout import Placed
from hooked_av.prompt.positions import AudioPiece, AVPiece, OmniClock, VisionPiece, omni_interleave

SECONDS_PER_AUDIO_TOKEN = 0.04


@dataclass(frozen=True)
class OmniTokens(MediaTokens):
    """Ids of the tokens that mark media, and how the model counts time."""

    audio_begin: int
    audio_end: int
    vision_begin: int
    vision_end: int
    merge: int
    clock: OmniClock

    @property
    def seconds_per_audio_token(self) -> float:
        return SECONDS_PER_AUDIO_TOKEN

    @classmethod
    def from_config(cls, hf_config: Any) -> "OmniTokens":
        return cls(
            audio=hf_config.audio_token_index,
            image=hf_config.image_token_index,
            video=hf_config.video_token_index,
            audio_begin=hf_config.audio_start_token_id,
            audio_end=hf_config.audio_end_token_id,
            # in released files, not among the class's defaults
            vision_begin=getattr(hf_config, "vision_start_token_id", 151652),
            vision_end=getattr(hf_config, "vision_end_token_id", 151653),
            merge=hf_config.vision_config.spatial_merge_size,
            clock=OmniClock(hf_config.position_id_per_seconds, hf_config.seconds_per_chunk),
        )


def omni_supply(features: Mapping[str, Tensor], merge: int) -> Supply:
    """The media of a batch, from the tensors of the published processor."""
    masks = features.get("feature_attention_mask")
    lengths = [] if masks is None else [audio_tokens(int(n)) for n in masks.sum(-1)]
    grids, seconds = features.get("video_grid_thw", ()), features.get("video_second_per_grid", ())
    return Supply(
        {
            "audio": [AudioPiece(n) for n in lengths],
            "image": [VisionPiece(merged_grid(grid, merge), None) for grid in features.get("image_grid_thw", ())],
            "video": [
                VisionPiece(merged_grid(grid, merge), told_seconds(float(second)))
                for grid, second in zip(grids, seconds, strict=True)
            ],
        }
    )


def told_seconds(rounded: float) -> float:
    """The seconds of a frame group before they went into a float32 tensor.

    The processor deals tokens out by 2 / fps in float64; in float32 a group that stands just at the end of a chunk can
    fall into the one before. So a plain rate (25, 12.5, 30000/1001) with the same float32 quotient is looked for; if
    there is none, the number stays.

    >>> told_seconds(float(np.float32(2 / 25))) == 2 / 25
    True
    >>> told_seconds(1.0), told_seconds(0.1234567)
    (1.0, 0.1234567)
    """
    if not 0 < rounded < np.inf:
        return rounded
    for parts in (1000, 1001):
        rate = round(2 / rounded * parts) / parts
        if rate and rounded == float(np.float32(2 / rate)):
            return 2 / rate
    return rounded


def audio_tokens(n_mel: int) -> int:
    """Tokens of a sound of `n_mel` valid mel frames (10 ms): about 25 a second.

    >>> audio_tokens(500)
    125
    """
    return ((n_mel - 1) // 2 + 1 - 2) // 2 + 1


@dataclass(frozen=True)
class OmniReader(PromptReader):
    """Reads layouts from ids. `sound_in_video`: a video's block may hold its sound."""

    tokens: OmniTokens
    sound_in_video: bool = True

    def media_at(self, row: list[int], at: int) -> Placed | None:
        supply, tokens = self.supply, self.tokens
        ahead = row[at + 1] if at + 1 < len(row) else None
        begin = row[at]
        if begin == tokens.audio_begin and ahead == tokens.audio:
            return check_block(Placed(supply.take("audio", at), at), row, tokens, [tokens.audio_end])
        if begin != tokens.vision_begin or ahead not in (tokens.image, tokens.video, tokens.audio_begin):
            return None
        if ahead == tokens.image:
            return check_block(Placed(supply.take("image", at), at), row, tokens, [tokens.vision_end])
        if ahead == tokens.video:
            return check_block(Placed(supply.take("video", at), at), row, tokens, [tokens.vision_end])
        if not self.sound_in_video:
            raise InputsError(
                f"a video with sound inside at position {at}",
                expected="use_audio_in_video=True for such a prompt",
                got="use_audio_in_video=False",
                next_step="pass use_audio_in_video=True",
            )
        piece = AVPiece(supply.take("video", at), supply.take("audio", at))
        part = Placed(piece, at, omni_interleave(piece, tokens.clock).numpy())
        return check_block(part, row, tokens, [tokens.audio_end, tokens.vision_end])
