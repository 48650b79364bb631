"""From clips and a question to the tensors and text of a Qwen2.5-VL or video-SALMONN 2+ prompt, as published.

video-SALMONN 2+: sampling, sizes and sound follow its `qwenvl/data/dataset.py` with the settings of `inference.py`.
Qwen2.5-VL: sampling and sizes follow qwen-vl-utils (which are those of qwen-omni-utils), but tell the true frame rate.
Budgets may be set smaller, and are recorded.

Axes: frame; block (30 s of sound), mel, time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from hooked_av.errors import InputsError
from hooked_av.families.blocks import merged_grid
from hooked_av.families.omni.prepare import MediaItem, resize_picture
from hooked_av.families.salmonn.audio import SECONDS_PER_SOUND_BLOCK, SoundWindows
from hooked_av.families.salmonn.layout import SalmonnTokens, salmonn_interleave
from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip
from hooked_av.media.frames import (
    IMAGE_BUDGET,
    MAX_FRAMES,
    MIN_FRAMES,
    SAMPLED_FPS,
    TOKEN_AREA,
    VIDEO_BUDGET,
    PatchLayout,
    PixelBudget,
    fit_size,
    patchify,
    resize,
    resize_in_float,
    sample_indices,
)
from hooked_av.media.sampling import ResolvedSampling
from hooked_av.prompt.layout import ItemTimes
from hooked_av.prompt.positions import AudioPiece, AVPiece, VisionPiece

Frames = UInt8[Tensor, "frame 3 height width"]
Indices = Int64[np.ndarray, " sample"]

# video-SALMONN 2+: `inference.py`
MAX_FRAME_PIXELS = 61_250  # of one frame among `max_frames`; fewer frames share what the others leave
MIN_FRAME_PIXELS = 4 * TOKEN_AREA
MIN_PICTURE_PIXELS = 16 * TOKEN_AREA
SHARE_OF_FEWER_FRAMES = 0.95
_PICTURE = PixelBudget(MIN_PICTURE_PIXELS, MAX_FRAME_PIXELS, MAX_FRAME_PIXELS)
_BLOCK_SAMPLES = SECONDS_PER_SOUND_BLOCK * SAMPLING_RATE_HZ


@dataclass(frozen=True)
class Recipe:
    """What a release does to its media before the encoders see them."""

    sampling: ResolvedSampling
    sample: Callable[[Clip, ResolvedSampling], Indices]
    frame_size: Callable[[int, Clip, ResolvedSampling, int], tuple[int, int]]  # frames, clip, sampling, side of a token
    resize: Callable[[Frames, int, int], Frames]
    picture_budget: PixelBudget
    resize_picture: Callable[[Frames, int, int], Frames]
    after_media: str  # what stands between the last medium and the question


@dataclass(frozen=True)
class SalmonnItem(MediaItem):
    """A clip as the model will see it, and how many samples its sound has (None: it has no sound)."""

    n_samples: int | None = None


@dataclass(frozen=True)
class Writer:
    """Everything that turns a clip into an item: recipe, patches, token ids and their texts, mel extractor."""

    recipe: Recipe
    layout: PatchLayout
    tokens: SalmonnTokens
    tokenizer: Any
    extractor: Any

    def item(self, clip: Clip, seen: ResolvedSampling) -> SalmonnItem:
        """Features and placeholder text of one clip."""
        windows = self.tokens.windows
        if clip.kind == "image":
            features, piece = self._picture(clip, seen)
            return SalmonnItem(features, self._block("image", piece.n_tokens), ItemTimes(windows.seconds_per_token))
        if clip.kind == "audio":
            features, sound = mel_blocks(clip, self.extractor, windows)
            text = self._block("audio", sound.n_tokens)
            return SalmonnItem(features, text, ItemTimes(windows.seconds_per_token), len(clip.waveform))
        features, video, edges = self._video(clip, seen)
        times = ItemTimes(windows.seconds_per_token, edges)
        if clip.kind == "video":
            return SalmonnItem(features, self._block("video", video.n_tokens), times)
        mel, sound = mel_blocks(clip, self.extractor, windows)
        flags = salmonn_interleave(AVPiece(video, sound)).tolist()
        body = "".join(self.text_of("video" if is_video else "audio") for is_video in flags)
        return SalmonnItem(features | mel, self._wrapped(body), times, len(clip.waveform))

    def text_of(self, modality: str) -> str:
        """The text that the tokenizer turns into a placeholder."""
        return self._token(self.tokens.modality(modality))

    def _block(self, modality: str, n_tokens: int) -> str:
        return self._wrapped(self.text_of(modality) * n_tokens)

    def _wrapped(self, body: str) -> str:
        return self._token(self.tokens.vision_begin) + body + self._token(self.tokens.vision_end)

    def _token(self, token_id: int) -> str:
        text = self.tokenizer.convert_ids_to_tokens(token_id)
        if text is None or self.tokenizer(text, add_special_tokens=False)["input_ids"] != [token_id]:
            raise InputsError(
                "the tokenizer lacks a token that marks media",
                expected=f"one token with the id {token_id}, as config.json says",
                got=repr(text),
                next_step="use the tokenizer of this checkpoint (the audio placeholder is an added token)",
            )
        return text

    def _picture(self, clip: Clip, seen: ResolvedSampling) -> tuple[dict[str, Tensor], VisionPiece]:
        size = seen.budget(self.recipe.picture_budget).fit(
            n_frames=1, height=clip.height, width=clip.width, factor=self.layout.token_pixels
        )
        picture = torch.from_numpy(clip.read_frames([0])).permute(0, 3, 1, 2)
        pixels, grid = patchify(self.recipe.resize_picture(picture, *size), self.layout)
        piece = VisionPiece(merged_grid(grid, self.tokens.merge), None)
        return {"pixel_values": pixels, "image_grid_thw": grid[None]}, piece

    def _video(
        self, clip: Clip, seen: ResolvedSampling
    ) -> tuple[dict[str, Tensor], VisionPiece, Float[np.ndarray, " edge"]]:
        indices = self.recipe.sample(clip, seen)
        size = self.recipe.frame_size(len(indices), clip, seen, self.layout.token_pixels)
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


def salmonn_indices(clip: Clip, seen: ResolvedSampling) -> Indices:
    """Frames of a clip at the published interval (0.1 s): evenly spread, rounded down, none twice.

    >>> clip = Clip.from_arrays(frames=np.zeros((8, 28, 28, 3), np.uint8), fps=4)
    >>> salmonn_indices(clip, ResolvedSampling(fps=2.0, min_frames=1, max_frames=9))
    array([0, 2, 4, 7])
    """
    # checks the rate and the bounds; the published rule allows odd counts
    sample_indices(clip.n_frames, clip.fps or 1.0, fps=seen.fps)
    if not 1 <= seen.min_frames <= seen.max_frames:
        raise InputsError(
            "no number of frames lies within these bounds",
            expected="1 <= min_frames <= max_frames",
            got=f"min_frames={seen.min_frames}, max_frames={seen.max_frames}",
            next_step="choose bounds such as 16 and 768",
        )
    interval = 1 / seen.fps  # the published arithmetic divides by it, which decides some halves
    n_wanted = min(max(round(picture_seconds(clip) / interval), seen.min_frames), seen.max_frames)
    return np.unique(np.linspace(0, clip.n_frames - 1, n_wanted, dtype=np.int64))


def salmonn_frame_size(n_frames: int, clip: Clip, seen: ResolvedSampling, factor: int) -> tuple[int, int]:
    """(height, width) of each frame: fewer frames than `max_frames` share what the others leave, but for 5 percent."""
    cap = float(MAX_FRAME_PIXELS)
    if n_frames < seen.max_frames:
        cap *= SHARE_OF_FEWER_FRAMES * seen.max_frames / n_frames
    lowest = MIN_FRAME_PIXELS
    if seen.max_pixels is not None:
        cap, lowest = min(cap, seen.max_pixels), min(lowest, seen.max_pixels)
    return fit_size(clip.height, clip.width, min_pixels=lowest, max_pixels=cap, factor=factor)


def qwen_indices(clip: Clip, seen: ResolvedSampling) -> Indices:
    """Frames of a clip as qwen-vl-utils takes them: an even number, evenly spread."""
    return sample_indices(
        clip.n_frames, clip.fps or 1.0, fps=seen.fps, min_frames=seen.min_frames, max_frames=seen.max_frames
    )


def qwen_frame_size(n_frames: int, clip: Clip, seen: ResolvedSampling, factor: int) -> tuple[int, int]:
    """(height, width) of each frame, as qwen-vl-utils has it."""
    return seen.budget(VIDEO_BUDGET).fit(n_frames=n_frames, height=clip.height, width=clip.width, factor=factor)


SALMONN = Recipe(
    ResolvedSampling(fps=10.0, min_frames=16, max_frames=768),
    salmonn_indices,
    salmonn_frame_size,
    resize,
    _PICTURE,
    resize,
    after_media="\n",
)
QWEN_VL = Recipe(
    ResolvedSampling(SAMPLED_FPS, MIN_FRAMES, MAX_FRAMES),
    qwen_indices,
    qwen_frame_size,
    resize_in_float,
    IMAGE_BUDGET,
    resize_picture,
    after_media="",
)


def mel_blocks(clip: Clip, extractor: Any, windows: SoundWindows) -> tuple[dict[str, Tensor], AudioPiece]:
    """Whisper's log-mel of every started 30 s of a sound, silence included: [block, mel, time]."""
    wave = clip.waveform
    wave = np.pad(wave, (0, max(0, SAMPLING_RATE_HZ - len(wave))))  # at least a second, as published
    parts = [wave[start : start + _BLOCK_SAMPLES] for start in range(0, len(wave), _BLOCK_SAMPLES)]
    mels = [extractor(part, sampling_rate=SAMPLING_RATE_HZ, return_tensors="pt")["input_features"] for part in parts]
    return {"audio_feature": torch.cat(mels)}, AudioPiece(len(parts) * windows.n_tokens)
