"""How Qwen2.5-Omni lays media out in a prompt: reading the blocks back from token ids, checked against the features.

Axes: pos (token of one prompt).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from hooked_av.errors import InputsError
from hooked_av.families.blocks import check_block, merged_grid, read_blocks
from hooked_av.prompt.layout import ItemTimes, Placed
from hooked_av.prompt.positions import AudioPiece, AVPiece, OmniClock, VisionPiece, omni_interleave

SECONDS_PER_AUDIO_TOKEN = 0.04


@dataclass(frozen=True)
class OmniTokens:
    """Ids of the tokens that mark media, and how the model counts time."""

    audio: int
    image: int
    video: int
    audio_begin: int
    audio_end: int
    vision_begin: int
    vision_end: int
    merge: int
    clock: OmniClock

    @classmethod
    def from_config(cls, hf_config: Any) -> "OmniTokens":
        return cls(
            hf_config.audio_token_index,
            hf_config.image_token_index,
            hf_config.video_token_index,
            hf_config.audio_start_token_id,
            hf_config.audio_end_token_id,
            getattr(hf_config, "vision_start_token_id", 151652),  # in released files, not among the class's defaults
            getattr(hf_config, "vision_end_token_id", 151653),
            hf_config.vision_config.spatial_merge_size,
            OmniClock(hf_config.position_id_per_seconds, hf_config.seconds_per_chunk),
        )

    def modality(self, name: str) -> int:
        return {"audio": self.audio, "image": self.image, "video": self.video}[name]


class Supply:
    """The media of a batch, handed out in prompt order."""

    def __init__(self, features: Mapping[str, Tensor], merge: int) -> None:
        masks = features.get("feature_attention_mask")
        lengths = [] if masks is None else [audio_tokens(int(n)) for n in masks.sum(-1)]
        seconds = features.get("video_second_per_grid")
        self.left: dict[str, list[Any]] = {
            "audio": [AudioPiece(n) for n in lengths],
            "image": [VisionPiece(merged_grid(grid, merge), None) for grid in features.get("image_grid_thw", [])],
            "video": [
                VisionPiece(merged_grid(grid, merge), told_seconds(float(second)))
                for grid, second in zip(
                    features.get("video_grid_thw", []), [] if seconds is None else seconds, strict=True
                )
            ],
        }

    def take(self, modality: str, at: int) -> Any:
        if not self.left[modality]:
            raise InputsError(
                f"the prompt has more {modality} items than features",
                expected=f"features for the {modality} placeholder at position {at}",
                got="no features left",
                next_step=f"pass the {modality} features of every placeholder",
            )
        return self.left[modality].pop(0)

    def check_empty(self) -> None:
        left = {modality: len(items) for modality, items in self.left.items() if items}
        if left:
            raise InputsError(
                "more media features than placeholders in the prompt",
                expected="one placeholder block per item",
                got=f"left over: {left}",
                next_step="check input_ids, or drop the extra features",
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


def place_pieces(ids: Int64[Tensor, " pos"], supply: Supply, tokens: OmniTokens, sound_in_video: bool) -> list[Placed]:
    """Read a prompt's layout from its ids, and check it against the features, token by token."""
    row = ids.tolist()
    return read_blocks(row, lambda at: _media_at(row, at, supply, tokens, sound_in_video), tokens)


def _media_at(row: list[int], at: int, supply: Supply, tokens: OmniTokens, sound_in_video: bool) -> Placed | None:
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
    if not sound_in_video:
        raise InputsError(
            f"a video with sound inside at position {at}",
            expected="use_audio_in_video=True for such a prompt",
            got="use_audio_in_video=False",
            next_step="pass use_audio_in_video=True",
        )
    piece = AVPiece(supply.take("video", at), supply.take("audio", at))
    part = Placed(piece, at, omni_interleave(piece, tokens.clock).numpy())
    return check_block(part, row, tokens, [tokens.audio_end, tokens.vision_end])


def nominal_times(part: Placed) -> ItemTimes:
    """Times as the model counts them: 40 ms an audio token, `video_second_per_grid` a frame group."""
    vision = part.vision
    if vision is None or vision.seconds_per_group is None:
        return ItemTimes(SECONDS_PER_AUDIO_TOKEN)
    return ItemTimes(SECONDS_PER_AUDIO_TOKEN, np.arange(vision.grid[0] + 1) * vision.seconds_per_group)
