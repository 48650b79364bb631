"""From clips to the tensors and text of a video-SALMONN 2+ prompt, as published: Qwen2.5-VL's, and sound.

Sampling, sizes and sound follow its `qwenvl/data/dataset.py` with the settings of `inference.py`. Budgets may be set
smaller, and are recorded.

Axes: frame; block (30 s of sound), mel, time.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from hooked_av.errors import InputsError
from hooked_av.families.chat import PreparedClip
from hooked_av.families.qwen_vl.prepare import Indices, MediaRecipe, VLWriter, picture_seconds
from hooked_av.families.salmonn.audio import SECONDS_PER_SOUND_BLOCK, SoundWindows
from hooked_av.families.salmonn.layout import SalmonnTokens, salmonn_interleave
from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip
from hooked_av.media.patches import TOKEN_AREA, PixelBudget, fit_size, resize, sample_indices
from hooked_av.media.sampling import ResolvedSampling
from hooked_av.prompt.layout import ItemTimes
from hooked_av.prompt.positions import AudioPiece, AVPiece

# Of `inference.py`.
MAX_FRAME_PIXELS = 61_250  # of one frame among `max_frames`; fewer frames share what the others leave
MIN_FRAME_PIXELS = 4 * TOKEN_AREA
MIN_PICTURE_PIXELS = 16 * TOKEN_AREA
SHARE_OF_FEWER_FRAMES = 0.95
_PICTURE = PixelBudget(MIN_PICTURE_PIXELS, MAX_FRAME_PIXELS, MAX_FRAME_PIXELS)
_BLOCK_SAMPLES = SECONDS_PER_SOUND_BLOCK * SAMPLING_RATE_HZ


@dataclass(frozen=True)
class SalmonnWriter(VLWriter):
    """Qwen2.5-VL's writer, and sound."""

    tokens: SalmonnTokens
    extractor: WhisperFeatureExtractor

    def write(self, clip: Clip) -> PreparedClip:
        """Features and placeholder text of one clip with sound, and how many samples that has."""
        mel, sound = mel_blocks(clip, self.extractor, self.tokens.windows)
        n_samples = len(clip.waveform)
        if clip.kind == "audio":
            text = self._block("audio", sound.n_tokens)
            return PreparedClip(mel, text, ItemTimes(self.tokens.seconds_per_audio_token), n_samples)
        features, video, edges = self._video(clip)
        flags = salmonn_interleave(AVPiece(video, sound)).tolist()
        body = "".join(self.text_of("video" if is_video else "audio") for is_video in flags)
        times = ItemTimes(self.tokens.seconds_per_audio_token, edges)
        return PreparedClip(features | mel, self._wrapped(body), times, n_samples)


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


SALMONN = MediaRecipe(
    sampling=ResolvedSampling(fps=10.0, min_frames=16, max_frames=768),
    sample=salmonn_indices,
    frame_size=salmonn_frame_size,
    resize=resize,
    picture_budget=_PICTURE,
    resize_picture=resize,
)


def mel_blocks(
    clip: Clip, extractor: WhisperFeatureExtractor, windows: SoundWindows
) -> tuple[dict[str, Tensor], AudioPiece]:
    """Whisper's log-mel of every started 30 s of a sound, silence included: [block, mel, time]."""
    wave = clip.waveform
    wave = np.pad(wave, (0, max(0, SAMPLING_RATE_HZ - len(wave))))  # at least a second, as published
    parts = [wave[start : start + _BLOCK_SAMPLES] for start in range(0, len(wave), _BLOCK_SAMPLES)]
    mels = [extractor(part, sampling_rate=SAMPLING_RATE_HZ, return_tensors="pt")["input_features"] for part in parts]
    return {"audio_feature": torch.cat(mels)}, AudioPiece(len(parts) * windows.n_tokens)
