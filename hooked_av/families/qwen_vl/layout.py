"""How Qwen2.5-VL lays pictures and videos out in a prompt; video-SALMONN 2+ adds sound to it.

Every medium stands between one vision_start and one vision_end.

Axes: pos (token of one prompt).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hooked_av.errors import InputsError
from hooked_av.families.blocks import MediaTokens, PromptReader, Supply, check_block, merged_grid
from hooked_av.prompt.layout import Placed
from hooked_av.prompt.positions import TextRun, VisionPiece

NO_TOKEN = -1


@dataclass(frozen=True)
class VLTokens(MediaTokens):
    """Ids of the tokens that mark media, and patches along a side of a token."""

    vision_begin: int
    vision_end: int
    merge: int = 2

    @classmethod
    def from_config(cls, hf_config: Any) -> "VLTokens":
        """From transformers' Qwen2_5_VLConfig; nothing stands for sound."""
        return cls(audio=NO_TOKEN, **vision_ids(hf_config))


def vision_ids(hf_config: Any) -> dict[str, int]:
    """The fields of `VLTokens` that a config names; the released ids where it names none."""
    return {
        "image": getattr(hf_config, "image_token_id", 151655),
        "video": getattr(hf_config, "video_token_id", 151656),
        "vision_begin": getattr(hf_config, "vision_start_token_id", 151652),
        "vision_end": getattr(hf_config, "vision_end_token_id", 151653),
        "merge": hf_config.vision_config.spatial_merge_size,
    }


@dataclass(frozen=True)
class VLPlaced(Placed):
    """A piece at its place in the prompt: every medium has one begin and one end token, a video with sound too."""

    @property
    def n_bounds(self) -> int:
        return 0 if isinstance(self.piece, TextRun) else 1


def vl_supply(features: Mapping[str, Tensor], merge: int) -> Supply:
    """The pictures and videos of a batch.

    Errors: `InputsError` for a video that is not told its seconds a frame group.
    """
    images, videos = features.get("image_grid_thw", ()), features.get("video_grid_thw", ())
    seconds = features.get("second_per_grid", ())
    if len(seconds) != len(videos):
        raise InputsError(
            "every video needs its seconds a frame group",
            expected=f"second_per_grid with {len(videos)} values, 2 / fps each",
            got=f"{len(seconds)} values",
            next_step="give second_per_grid with video_grid_thw",
        )
    return Supply(
        {
            "image": [VisionPiece(merged_grid(grid, merge), None) for grid in images],
            "video": [VisionPiece(merged_grid(g, merge), float(s)) for g, s in zip(videos, seconds, strict=True)],
        }
    )


@dataclass(frozen=True)
class VLReader(PromptReader):
    """Reads layouts from ids: pictures and videos."""

    kind = VLPlaced

    tokens: VLTokens

    def media_at(self, row: list[int], at: int) -> Placed | None:
        ahead = row[at + 1] if at + 1 < len(row) else None
        if row[at] != self.tokens.vision_begin or ahead not in (self.tokens.image, self.tokens.video):
            return None
        modality = "image" if ahead == self.tokens.image else "video"
        return check_block(VLPlaced(self.supply.take(modality, at), at), row, self.tokens, [self.tokens.vision_end])
