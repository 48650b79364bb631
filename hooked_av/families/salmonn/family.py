"""video-SALMONN 2+ (3B, 7B, 72B): Qwen2.5-VL with Whisper's encoder and a window Q-Former.

Facts: the published code (github.com/bytedance/video-SALMONN-2, `video_SALMONN2_plus`). What it shares with Qwen2.5-VL
(names, vision tower, prompt) is in `families/qwen_vl`; here is what sound adds, and the two published ways of counting
positions.

Axes: batch pos; row (encoder output rows); axis (time, height, width); block (30 s of sound).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedConfig, WhisperFeatureExtractor

from hooked_av.doors import door
from hooked_av.families.blocks import PromptReader
from hooked_av.families.chat import PreparedClip
from hooked_av.families.family import EncoderHook
from hooked_av.families.names import DECODER, VISION_TOWER, TensorNames
from hooked_av.families.qwen_vl.family import IN_MEMORY, QwenVLFamily
from hooked_av.families.salmonn.audio import IGNORED, SECONDS_PER_SOUND_BLOCK, SalmonnAudio
from hooked_av.families.salmonn.layout import (
    SalmonnReader,
    SalmonnTokens,
    check_published,
    salmonn_positions,
    salmonn_supply,
)
from hooked_av.families.salmonn.prepare import SALMONN, SalmonnWriter
from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip
from hooked_av.media.sampling import ResolvedSampling
from hooked_av.prompt.inputs import AVInputs
from hooked_av.prompt.positions import AudioPiece, AVPiece, Piece, VisionPiece

_HOP_SAMPLES = 160  # 10 ms, one mel frame


class SalmonnFamily(QwenVLFamily):
    """video-SALMONN 2+: video with its sound, video, sound, pictures and text.

    >>> SalmonnFamily.our_name("audio.q_tokens")
    'encoders.audio.q_tokens'
    >>> SalmonnFamily.our_name("audio.qformer.bert.embeddings.position_ids") is None
    True
    >>> SalmonnFamily.checkpoint_name("encoders.audio.q_tokens")
    'audio.q_tokens'
    """

    name = "video_salmonn_2_plus"
    architecture = "video_SALMONN2_plus"
    encoder_names = ("audio", "visual")
    hears = True
    tensor_names = TensorNames(
        in_files=(*DECODER, *VISION_TOWER, ("audio.", "encoders.audio.")), in_memory=IN_MEMORY, skipped=IGNORED
    )
    recipe = SALMONN
    after_media = "\n"
    position_modes = ("generate", "train")
    feature_groups = (("audio_feature",), *QwenVLFamily.feature_groups)

    @property
    def tokens(self) -> SalmonnTokens:
        return SalmonnTokens.from_config(self.hf_config)

    # --- checkpoint ---

    @classmethod
    def read_extractor(cls, folder: Path, hf_config: PreTrainedConfig) -> WhisperFeatureExtractor:
        """Whisper's extractor with the published settings: the folder's own file is that of the pictures."""
        audio_config: Mapping[str, Any] = getattr(hf_config, "audio_config", None) or {}
        return mel_extractor(audio_config.get("num_mel_bins", 128))

    def write_config(self, folder: Path, *, tied: bool) -> None:
        """The flat config.json that the published class reads."""
        config = flat_config(self.hf_config) | {"architectures": [self.architecture], "tie_word_embeddings": tied}
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")

    # --- encoders ---

    @property
    def audio_config(self) -> Mapping[str, Any]:
        """The `audio_config` of config.json; empty where it has none, which means the released values."""
        return getattr(self.hf_config, "audio_config", None) or {}

    def make_encoders(self) -> nn.ModuleDict:
        audio = SalmonnAudio(self.audio_config, self.hf_config.text_config.hidden_size)
        return nn.ModuleDict({"audio": audio, **super().make_encoders()})

    @property
    def encoder_hooks(self) -> Mapping[str, EncoderHook]:
        windows = self.tokens.windows
        qformer: Mapping[str, Any] = self.audio_config.get("qformer_config") or {}
        d_audio, d_query = self.audio_config.get("d_model", 1280), qformer.get("hidden_size", 3072)
        return {
            "audio.hook_windows": EncoderHook("audio", windows.n_frames * d_audio, every=windows.n_queries),
            "audio.hook_rows": EncoderHook("audio", d_query),
        }

    def encode(
        self, encoders: nn.ModuleDict, features: Mapping[str, Tensor]
    ) -> dict[str, Float[Tensor, "row d_model"]]:
        rows = super().encode(encoders, features)
        if "audio_feature" in features:
            rows["audio"] = encoders["audio"](features["audio_feature"])
        return rows

    # --- prompts ---

    def check_media(self, clips: Sequence[Clip]) -> None:
        check_published([_STAND_IN[clip.kind] for clip in clips])

    def writer(self, clips: Sequence[Clip], sampling: ResolvedSampling) -> Callable[[Clip], PreparedClip]:
        if not any(clip.has_audio for clip in clips):
            return super().writer(clips, sampling)
        return SalmonnWriter(
            recipe=self.recipe,
            sampling=sampling,
            layout=self.patch_layout,
            tokens=self.tokens,
            tokenizer=self.tokenizer,
            extractor=self.feature_extractor,
        ).write

    def reader(self, features: Mapping[str, Tensor], n_samples: Sequence[int] | None) -> PromptReader:
        supply = salmonn_supply(features, self.tokens.merge)
        return SalmonnReader(supply, self.tokens, None if n_samples is None else list(n_samples))

    def position_ids(self, pieces: Sequence[Piece], mode: str) -> Int64[Tensor, "axis=3 pos"]:
        return salmonn_positions(pieces, mode)

    # --- ready tensors ---

    @door
    def inputs_from_tensors(
        self,
        input_ids: Int64[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        *,
        positions: str | None = "generate",
        audio_samples: Sequence[int] | None = None,
        **features: Any,
    ) -> AVInputs:
        """`audio_samples`: 16 kHz samples of each sound before padding; then there is a span `audio_padding`."""
        settings = {"positions": self._mode(positions)}
        given = self._checked_features(features)
        return self._from_tensors(input_ids, attention_mask, given, self.reader(given, audio_samples), settings)


# What a clip will be in the prompt, as far as mixes of media are concerned; sizes come later.
_IMAGE, _VIDEO = VisionPiece((1, 1, 1), None), VisionPiece((1, 1, 1), 1.0)
_STAND_IN: Mapping[str, Piece] = {
    "image": _IMAGE,
    "video": _VIDEO,
    "audio": AudioPiece(1),
    "audiovisual": AVPiece(_VIDEO, AudioPiece(1)),
}


def mel_extractor(n_mel: int = 128) -> WhisperFeatureExtractor:
    """Whisper's mel extractor as the published code makes it: 30 s at a time, 10 ms hops."""
    return WhisperFeatureExtractor(
        feature_size=n_mel,
        sampling_rate=SAMPLING_RATE_HZ,
        hop_length=_HOP_SAMPLES,
        chunk_length=SECONDS_PER_SOUND_BLOCK,
    )


def flat_config(hf_config: Any) -> dict[str, Any]:
    """The published layout of a config: text fields beside vision_config and audio_config."""
    nested = hf_config.to_dict()
    text = {name: value for name, value in nested.pop("text_config").items() if value is not None}
    rope = text.pop("rope_parameters")
    own = {"model_type", "layer_types", "transformers_version", "_name_or_path", "architectures", "dtype"}
    flat = nested | {name: value for name, value in text.items() if name not in own}
    vision = nested["vision_config"] | {"model_type": "qwen2_5_vl"}
    scaling = {"type": "default", "rope_type": "default", "mrope_section": list(rope["mrope_section"])}
    return flat | {"vision_config": vision, "rope_scaling": scaling, "rope_theta": rope["rope_theta"]}
