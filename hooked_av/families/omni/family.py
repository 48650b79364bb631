"""Qwen2.5-Omni: checkpoint names, encoders, prompt, positions.

Facts from transformers 5.23 (`models/qwen2_5_omni`) and qwen-omni-utils 0.0.9. The encoders are transformers' own
modules; only their outputs pass our hook points.

Axes: batch pos; row (encoder output rows); axis (time, height, width); mel (frames of 10 ms).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder, Qwen2_5OmniVisionEncoder

from hooked_av.doors import door
from hooked_av.errors import HookedAVWarning, InputsError
from hooked_av.families.chat import PreparedClip
from hooked_av.families.features import PICTURES, VIDEOS
from hooked_av.families.names import DECODER, VISION_TOWER, TensorNames
from hooked_av.families.omni.layout import OmniReader, OmniTokens, omni_supply
from hooked_av.families.omni.prepare import prepared_clip, released_sampling
from hooked_av.families.qwen import QwenFamily
from hooked_av.families.settings import OMNI_AUDIO, OMNI_FOLDER, THINKER, VISION_TOWER_SETTINGS
from hooked_av.frozen import Frozen
from hooked_av.media.clip import Clip
from hooked_av.media.sampling import ResolvedSampling
from hooked_av.prompt.inputs import AVInputs
from hooked_av.prompt.positions import AVPiece, Piece, VisionPiece, omni_positions

SOUNDS = ("input_features", "feature_attention_mask")
MODEL_TYPES = ("qwen2_5_omni", "qwen2_5_omni_thinker")


class OmniFamily(QwenFamily):
    """Qwen2.5-Omni 3B and 7B (and anything of that shape): the thinker, without speech output.

    >>> OmniFamily.our_name("thinker.model.layers.3.self_attn.q_proj.bias")
    'decoder.blocks.3.attn.q_proj.bias'
    >>> OmniFamily.our_name("talker.model.norm.weight") is None
    True
    >>> OmniFamily.checkpoint_name("decoder.blocks.3.ln1.weight")
    'model.layers.3.input_layernorm.weight'
    """

    name = "qwen2_5_omni"
    architecture = "Qwen2_5OmniThinkerForConditionalGeneration"
    encoder_names = ("audio_tower", "visual")
    tensor_names = TensorNames(
        in_files=(*DECODER, *VISION_TOWER, ("audio_tower.", "encoders.audio_tower.")),
        # transformers 5 keeps everything one level deeper in memory than in files
        in_memory=(
            ("model.language_model.", "model."),
            ("model.visual.", "visual."),
            ("model.audio_tower.", "audio_tower."),
        ),
        skipped=("talker.", "token2wav."),  # speech output, no part of the thinker
        wrapper="thinker.",
    )
    known = Frozen({"": THINKER, **VISION_TOWER_SETTINGS, "audio_config": OMNI_AUDIO})
    position_modes = ("released",)
    feature_groups = (SOUNDS, PICTURES, (*VIDEOS, "video_second_per_grid"))
    tensor_arguments = "input_ids, attention_mask, use_audio_in_video"

    @property
    def tokens(self) -> OmniTokens:
        return OmniTokens.from_config(self.hf_config)

    # --- checkpoint ---

    @classmethod
    def read_config(cls, raw: dict[str, Any]) -> Qwen2_5OmniThinkerConfig:
        """The thinker's transformers config, from the config.json of a thinker or of a whole Omni folder."""
        if "thinker_config" in raw:
            OMNI_FOLDER.refuse_others(raw)
        return Qwen2_5OmniThinkerConfig.from_dict(raw.get("thinker_config", raw))

    # --- encoders ---

    def make_encoders(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "audio_tower": Qwen2_5OmniAudioEncoder._from_config(self.hf_config.audio_config),  # pyright: ignore[reportPrivateUsage]
                "visual": Qwen2_5OmniVisionEncoder._from_config(self.hf_config.vision_config),  # pyright: ignore[reportPrivateUsage]
            }
        )

    def encode(
        self, encoders: nn.ModuleDict, features: Mapping[str, Tensor]
    ) -> dict[str, Float[Tensor, "row d_model"]]:
        rows = super().encode(encoders, features)
        if "input_features" in features:
            rows["audio"] = _encode_sound(encoders["audio_tower"], features)
        return rows

    # --- prompts ---

    @property
    def released_sampling(self) -> ResolvedSampling:
        return released_sampling(self._feature_extractor)

    def writer(self, clips: Sequence[Clip], sampling: ResolvedSampling) -> Callable[[Clip], PreparedClip]:
        return partial(
            prepared_clip,
            sampling=sampling,
            tokens=self.tokens,
            tokenizer=self.tokenizer,
            extractor=lambda: self.feature_extractor,
        )

    def reader(self, features: Mapping[str, Tensor], n_samples: Sequence[int] | None) -> OmniReader:
        return OmniReader(omni_supply(features, self.tokens.merge), self.tokens)

    def position_ids(self, pieces: Sequence[Piece], mode: str) -> Int64[Tensor, "axis=3 pos"]:
        silent = any(isinstance(piece, VisionPiece) and piece.seconds_per_group is not None for piece in pieces)
        if silent and any(isinstance(piece, AVPiece) for piece in pieces):
            warnings.warn(
                "videos with and without sound in one prompt: each gets its own kind of positions here; transformers "
                "has one setting for the whole prompt, and its position ids differ",
                HookedAVWarning,
                stacklevel=2,
            )
        return omni_positions(pieces, self.tokens.clock)

    @door
    def inputs_from_tensors(
        self,
        input_ids: Int64[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        use_audio_in_video: bool = False,
        **features: Any,
    ) -> AVInputs:
        given = self._checked_features(features)
        reader = OmniReader(omni_supply(given, self.tokens.merge), self.tokens, use_audio_in_video)
        settings = {"positions": self.position_modes[0], "use_audio_in_video": use_audio_in_video}
        return self._from_tensors(input_ids, attention_mask, given, reader, settings)

    def _checked_features(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        given = super()._checked_features(features)
        if "input_features" in given and given["input_features"].shape[::2] != given["feature_attention_mask"].shape:
            raise InputsError(
                "input_features does not match feature_attention_mask",
                expected="[sound, mel bin, frame] and [sound, frame]",
                got=[list(given[name].shape) for name in SOUNDS],
                next_step="take both from the same processor call",
            )
        return given


def _encode_sound(tower: nn.Module, features: Mapping[str, Tensor]) -> Float[Tensor, "row d_model"]:
    mask = features["feature_attention_mask"].bool()
    lengths = mask.sum(-1)
    packed = features["input_features"].permute(0, 2, 1)[mask].permute(1, 0)
    return tower(packed, feature_lens=lengths, aftercnn_lens=(lengths - 1) // 2 + 1).last_hidden_state
