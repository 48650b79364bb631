"""From clips and a question to the tensors and text of a Qwen2.5-Omni prompt, as the released processor makes them.

Sampling and resizing follow qwen-omni-utils, features follow transformers' processor; the prompt is the released chat
template's text. Budgets may be set smaller, and are recorded.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

from hooked_av.errors import HookedAVWarning, InputsError
from hooked_av.families.chat import PreparedClip
from hooked_av.families.omni.layout import SECONDS_PER_AUDIO_TOKEN, OmniTokens, audio_tokens
from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip
from hooked_av.media.patches import (
    IMAGE_BUDGET,
    MAX_FRAMES,
    MIN_FRAMES,
    SAMPLED_FPS,
    VIDEO_BUDGET,
    patchify,
    resize_in_float,
    resize_picture,
    sample_indices,
)
from hooked_av.media.sampling import ResolvedSampling
from hooked_av.prompt.layout import ItemTimes
from hooked_av.prompt.positions import AudioPiece, AVPiece, VisionPiece, omni_interleave

RELEASED = ResolvedSampling(fps=SAMPLED_FPS, min_frames=MIN_FRAMES, max_frames=MAX_FRAMES)  # what qwen-omni-utils does
MAX_SOUND_SECONDS = 300
HOP_SAMPLES = 160  # 10 ms, one mel frame
_DRIFT = 1.25  # how far the true and the told rate of frames may differ without a word
_EDGE_HOPS = 4  # zeros after the sound, so that its last frames see the padding that the released processor gives


def released_sampling(preprocessor: WhisperFeatureExtractor | None) -> ResolvedSampling:
    """What a checkpoint's preprocessor_config.json says of `fps`, `min_frames`, `max_frames`, `max_pixels`.

    The released checkpoints name only a `max_pixels`, that of a later step, larger than the budget of `RELEASED`: it
    counts only where it is below that.
    """
    said = {name: getattr(preprocessor, name, None) for name in vars(RELEASED)}
    if said["max_pixels"] is not None and said["max_pixels"] >= VIDEO_BUDGET.max_pixels:
        said["max_pixels"] = None
    return replace(RELEASED, **{name: value for name, value in said.items() if value is not None})


def prepared_clip(
    clip: Clip,
    sampling: ResolvedSampling,
    tokens: OmniTokens,
    tokenizer: PreTrainedTokenizerFast,
    extractor: Callable[[], WhisperFeatureExtractor],
) -> PreparedClip:
    """Features and placeholder text of one clip. `extractor` is asked for only if it can be heard."""
    if clip.kind == "image":
        return _image(clip, sampling, tokens, tokenizer)
    if clip.kind == "audio":
        features, piece = _sound(clip, extractor())
        text = _wrap(tokenizer, "audio", _text_of(tokenizer, "audio") * piece.n_tokens)
        return PreparedClip(features, text, ItemTimes(SECONDS_PER_AUDIO_TOKEN))
    pixels, video, edges = _video(clip, sampling, tokens)
    if clip.kind == "video":
        text = _wrap(tokenizer, "vision", _text_of(tokenizer, "video") * video.n_tokens)
        return PreparedClip(pixels, text, ItemTimes(SECONDS_PER_AUDIO_TOKEN, edges))
    features, audio = _sound(clip, extractor())
    flags = omni_interleave(AVPiece(video, audio), tokens.clock).tolist()
    texts = {is_video: _text_of(tokenizer, "video" if is_video else "audio") for is_video in (True, False)}
    body = "".join(texts[is_video] for is_video in flags)
    text = _wrap(tokenizer, "vision", _wrap(tokenizer, "audio", body))
    return PreparedClip(pixels | features, text, ItemTimes(SECONDS_PER_AUDIO_TOKEN, edges))


def _wrap(tokenizer: PreTrainedTokenizerFast, kind: str, body: str) -> str:
    return _text_of(tokenizer, f"{kind}_bos") + body + _text_of(tokenizer, f"{kind}_eos")


def _text_of(tokenizer: PreTrainedTokenizerFast, token: str) -> str:
    """The text of a token that Omni's tokenizer has a name for."""
    return getattr(tokenizer, f"{token}_token")


def _image(
    clip: Clip, sampling: ResolvedSampling, tokens: OmniTokens, tokenizer: PreTrainedTokenizerFast
) -> PreparedClip:
    height, width = sampling.budget(IMAGE_BUDGET).fit(n_frames=1, height=clip.height, width=clip.width)
    picture = torch.from_numpy(clip.read_frames([0])).permute(0, 3, 1, 2)
    pixels, grid = patchify(resize_picture(picture, height, width))
    n_tokens = int(grid.prod()) // tokens.merge**2
    features = {"pixel_values": pixels, "image_grid_thw": grid[None]}
    text = _wrap(tokenizer, "vision", _text_of(tokenizer, "image") * n_tokens)
    return PreparedClip(features, text, ItemTimes(SECONDS_PER_AUDIO_TOKEN))


def _video(
    clip: Clip, sampling: ResolvedSampling, tokens: OmniTokens
) -> tuple[dict[str, Tensor], VisionPiece, Float[np.ndarray, " edge"]]:
    rate = clip.n_frames / clip.duration_seconds
    indices = sample_indices(
        clip.n_frames, rate, fps=sampling.fps, min_frames=sampling.min_frames, max_frames=sampling.max_frames
    )
    height, width = sampling.budget(VIDEO_BUDGET).fit(n_frames=len(indices), height=clip.height, width=clip.width)
    frames = torch.from_numpy(clip.read_frames(indices)).permute(0, 3, 1, 2)
    pixels, grid = patchify(resize_in_float(frames, height, width))
    # The model is told the nominal rate, as the released processor does, even where short or long clips differ.
    seconds = torch.tensor([2 / sampling.fps], dtype=torch.float32)
    features = {"pixel_values_videos": pixels, "video_grid_thw": grid[None], "video_second_per_grid": seconds}
    groups, rows, cols = grid.tolist()
    piece = VisionPiece((groups, rows // tokens.merge, cols // tokens.merge), 2 / sampling.fps)
    edges = np.append(clip.frame_seconds[indices[::2]], clip.duration_seconds)
    _say_if_far_apart(clip.duration_seconds / groups, 2 / sampling.fps)
    return features, piece, edges


def _say_if_far_apart(true_seconds: float, told_seconds: float) -> None:
    """A clip too short, too long or too slow for its rate: picture and sound drift apart in the prompt."""
    if not 1 / _DRIFT <= true_seconds / told_seconds <= _DRIFT:
        warnings.warn(
            f"the frames sampled are {true_seconds:.2f} s a group apart, but the model is told {told_seconds:g} s, as "
            "the released processor does: choose fps, min_frames and max_frames that this clip can keep",
            HookedAVWarning,
            stacklevel=2,
        )


def _sound(clip: Clip, extractor: WhisperFeatureExtractor) -> tuple[dict[str, Tensor], AudioPiece]:
    wave = clip.waveform
    seconds = len(wave) / SAMPLING_RATE_HZ
    n_mel = -(-len(wave) // HOP_SAMPLES)
    if seconds > MAX_SOUND_SECONDS or n_mel < 3:
        raise InputsError(
            "a sound of a length that the model does not take",
            expected=f"30 ms to {MAX_SOUND_SECONDS} s",
            got=f"{seconds:g} s",
            next_step="cut the clip: Clip.from_file(path, start=..., stop=...)",
        )
    out = extractor(
        wave,
        sampling_rate=SAMPLING_RATE_HZ,
        padding="max_length",
        max_length=(n_mel + _EDGE_HOPS) * HOP_SAMPLES,
        return_attention_mask=True,
        return_tensors="pt",
    )
    features = {"input_features": out["input_features"], "feature_attention_mask": out["attention_mask"].long()}
    return features, AudioPiece(audio_tokens(int(out["attention_mask"].sum())))
