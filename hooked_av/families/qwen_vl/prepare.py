"""From clips to the tensors and text of a Qwen2.5-VL prompt, as published; video-SALMONN 2+ adds sound to it.

Sampling and sizes follow qwen-vl-utils (which are those of qwen-omni-utils), but tell the true frame rate. Budgets may
be set smaller, and are recorded.

Axes: frame.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hooked_av.errors import InputsError
from hooked_av.families.blocks import merged_grid
from hooked_av.families.chat import PreparedClip
from hooked_av.families.qwen_vl.layout import VLTokens
from hooked_av.media.clip import Clip
from hooked_av.media.patches import (
    IMAGE_BUDGET,
    MAX_FRAMES,
    MIN_FRAMES,
    SAMPLED_FPS,
    VIDEO_BUDGET,
    PatchLayout,
    PixelBudget,
    patchify,
    resize_in_float,
    resize_picture,
    sample_indices,
)
from hooked_av.media.sampling import ResolvedSampling
from hooked_av.prompt.layout import ItemTimes
from hooked_av.prompt.positions import VisionPiece

Pixels = UInt8[Tensor, "frame 3 height width"]
Indices = Int64[np.ndarray, " sample"]


@dataclass(frozen=True)
class MediaRecipe:
    """What a release does to its media before the encoders see them."""

    sampling: ResolvedSampling
    sample: Callable[[Clip, ResolvedSampling], Indices]
    frame_size: Callable[[int, Clip, ResolvedSampling, int], tuple[int, int]]  # frames, clip, sampling, side of a token
    resize: Callable[[Pixels, int, int], Pixels]
    picture_budget: PixelBudget
    resize_picture: Callable[[Pixels, int, int], Pixels]


@dataclass(frozen=True)
class VLWriter:
    """Turns a clip into what the prompt holds of it: recipe, sampling, patches, token ids and their texts."""

    recipe: MediaRecipe
    sampling: ResolvedSampling
    layout: PatchLayout
    tokens: VLTokens
    tokenizer: PreTrainedTokenizerFast

    def write(self, clip: Clip) -> PreparedClip:
        """Features and placeholder text of one clip without sound."""
        if clip.kind == "image":
            features, piece = self._picture(clip)
            return PreparedClip(
                features, self._block("image", piece.n_tokens), ItemTimes(self.tokens.seconds_per_audio_token)
            )
        features, video, edges = self._video(clip)
        times = ItemTimes(self.tokens.seconds_per_audio_token, edges)
        return PreparedClip(features, self._block("video", video.n_tokens), times)

    def text_of(self, modality: str) -> str:
        """The text that the tokenizer turns into a placeholder."""
        return self._token(self.tokens.modality(modality))

    def _block(self, modality: str, n_tokens: int) -> str:
        return self._wrapped(self.text_of(modality) * n_tokens)

    def _wrapped(self, body: str) -> str:
        return self._token(self.tokens.vision_begin) + body + self._token(self.tokens.vision_end)

    def _token(self, token_id: int) -> str:
        text = self.tokenizer.convert_ids_to_tokens(token_id)
        if not isinstance(text, str) or self.tokenizer(text, add_special_tokens=False)["input_ids"] != [token_id]:
            raise InputsError(
                "the tokenizer lacks a token that marks media",
                expected=f"one token with the id {token_id}, as config.json says",
                got=repr(text),
                next_step="use the tokenizer of this checkpoint (the audio placeholder is an added token)",
            )
        return text

    def _picture(self, clip: Clip) -> tuple[dict[str, Tensor], VisionPiece]:
        size = self.sampling.budget(self.recipe.picture_budget).fit(
            n_frames=1, height=clip.height, width=clip.width, factor=self.layout.token_pixels
        )
        picture = torch.from_numpy(clip.read_frames([0])).permute(0, 3, 1, 2)
        pixels, grid = patchify(self.recipe.resize_picture(picture, *size), self.layout)
        piece = VisionPiece(merged_grid(grid, self.tokens.merge), None)
        return {"pixel_values": pixels, "image_grid_thw": grid[None]}, piece

    def _video(self, clip: Clip) -> tuple[dict[str, Tensor], VisionPiece, Float[np.ndarray, " edge"]]:
        indices = self.recipe.sample(clip, self.sampling)
        size = self.recipe.frame_size(len(indices), clip, self.sampling, self.layout.token_pixels)
        frames = torch.from_numpy(clip.read_frames(indices)).permute(0, 3, 1, 2)
        pixels, grid = patchify(self.recipe.resize(frames, *size), self.layout)
        # The model is told the rate that the sampling came to.
        seconds = self.layout.frames_per_patch / (len(indices) / picture_seconds(clip))
        piece = VisionPiece(merged_grid(grid, self.tokens.merge), seconds)
        edges = np.append(clip.frame_seconds[indices[:: self.layout.frames_per_patch]], clip.duration_seconds)
        told = torch.tensor([seconds], dtype=torch.float32)
        return {"pixel_values_videos": pixels, "video_grid_thw": grid[None], "second_per_grid": told}, piece, edges


def picture_seconds(clip: Clip) -> float:
    """How long the frames of a clip last: their number over their average rate, as the published code has it.

    >>> picture_seconds(Clip.from_arrays(frames=np.zeros((8, 28, 28, 3), np.uint8), fps=4))
    2.0
    """
    return clip.n_frames / (clip.fps or 1.0)


def qwen_indices(clip: Clip, seen: ResolvedSampling) -> Indices:
    """Frames of a clip as qwen-vl-utils takes them: an even number, evenly spread."""
    return sample_indices(
        clip.n_frames, clip.fps or 1.0, fps=seen.fps, min_frames=seen.min_frames, max_frames=seen.max_frames
    )


def qwen_frame_size(n_frames: int, clip: Clip, seen: ResolvedSampling, factor: int) -> tuple[int, int]:
    """(height, width) of each frame, as qwen-vl-utils has it."""
    return seen.budget(VIDEO_BUDGET).fit(n_frames=n_frames, height=clip.height, width=clip.width, factor=factor)


QWEN_VL = MediaRecipe(
    sampling=ResolvedSampling(fps=SAMPLED_FPS, min_frames=MIN_FRAMES, max_frames=MAX_FRAMES),
    sample=qwen_indices,
    frame_size=qwen_frame_size,
    resize=resize_in_float,
    picture_budget=IMAGE_BUDGET,
    resize_picture=resize_picture,
)
