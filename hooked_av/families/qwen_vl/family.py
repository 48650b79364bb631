"""Qwen2.5-VL: checkpoint names, vision tower, prompt, positions; pictures, videos and text.

video-SALMONN 2+ is built on it (`families/salmonn` adds the sound). Facts from transformers 5.23 (`models/qwen2_5_vl`).

Axes: batch pos; row (encoder output rows); axis (time, height, width).
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.families.blocks import PromptReader
from hooked_av.families.chat import PreparedClip
from hooked_av.families.features import PICTURES, VIDEOS
from hooked_av.families.names import DECODER, VISION_TOWER, TensorNames
from hooked_av.families.qwen import QwenFamily
from hooked_av.families.qwen_vl.layout import VLReader, VLTokens, vl_supply
from hooked_av.families.qwen_vl.positions import qwen_vl_positions
from hooked_av.families.qwen_vl.prepare import QWEN_VL, MediaRecipe, VLWriter
from hooked_av.families.settings import QWEN_VL_CONFIG, VISION_TOWER_SETTINGS
from hooked_av.frozen import Frozen
from hooked_av.media.clip import Clip
from hooked_av.media.patches import PatchLayout
from hooked_av.media.sampling import ResolvedSampling
from hooked_av.prompt.inputs import AVInputs
from hooked_av.prompt.positions import Piece

# transformers since 4.52 keeps both parts one level deeper, in memory and in some files.
IN_MEMORY = (("model.language_model.", "model."), ("model.visual.", "visual."))


class QwenVLFamily(QwenFamily):
    """Qwen2.5-VL: pictures, videos and text, no sound.

    >>> QwenVLFamily.our_name("model.language_model.layers.3.self_attn.q_proj.bias")
    'decoder.blocks.3.attn.q_proj.bias'
    >>> QwenVLFamily.checkpoint_name("decoder.blocks.3.ln1.weight")
    'model.layers.3.input_layernorm.weight'
    """

    name = "qwen2_5_vl"
    architecture = "Qwen2_5_VLForConditionalGeneration"
    encoder_names = ("visual",)
    hears = False
    tensor_names = TensorNames(in_files=(*DECODER, *VISION_TOWER), in_memory=IN_MEMORY)
    known = Frozen({"": QWEN_VL_CONFIG, **VISION_TOWER_SETTINGS})
    recipe: ClassVar[MediaRecipe] = QWEN_VL
    position_modes = ("transformers", "train")
    feature_groups = (PICTURES, (*VIDEOS, "second_per_grid"))
    tensor_arguments = "input_ids, attention_mask, positions"

    @property
    def tokens(self) -> VLTokens:
        return VLTokens.from_config(self.hf_config)

    # --- checkpoint ---

    @classmethod
    def read_config(cls, raw: dict[str, Any]) -> Qwen2_5_VLConfig:
        """transformers' config, from a flat config.json (as released) or one with a text_config (as saved since)."""
        return Qwen2_5_VLConfig.from_dict(deepcopy(raw))

    # --- encoders ---

    def make_encoders(self) -> nn.ModuleDict:
        tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(self.hf_config.vision_config)  # pyright: ignore[reportPrivateUsage]
        return nn.ModuleDict({"visual": tower})

    # --- prompts ---

    @property
    def released_sampling(self) -> ResolvedSampling:
        return self.recipe.sampling

    @property
    def patch_layout(self) -> PatchLayout:
        """How frames are cut into patches."""
        vision = self.hf_config.vision_config
        return PatchLayout(vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)

    def check_media(self, clips: Sequence[Clip]) -> None:
        if any(clip.has_audio for clip in clips):
            raise InputsError(
                "Qwen2.5-VL has no ears",
                expected="pictures and videos without sound",
                got=[clip.kind for clip in clips],
                next_step="clip.without_audio(), or a model that hears: Qwen2.5-Omni, video-SALMONN 2+",
            )

    def writer(self, clips: Sequence[Clip], sampling: ResolvedSampling) -> Callable[[Clip], PreparedClip]:
        return VLWriter(
            recipe=self.recipe,
            sampling=sampling,
            layout=self.patch_layout,
            tokens=self.tokens,
            tokenizer=self.tokenizer,
        ).write

    def reader(self, features: Mapping[str, Tensor], n_samples: Sequence[int] | None) -> PromptReader:
        return VLReader(vl_supply(features, self.tokens.merge), self.tokens)

    def position_ids(self, pieces: Sequence[Piece], mode: str) -> Int64[Tensor, "axis=3 pos"]:
        return qwen_vl_positions(pieces, mode, self.hf_config.vision_config.tokens_per_second)

    # --- ready tensors ---

    @door
    def inputs_from_tensors(
        self,
        input_ids: Int64[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        *,
        mm_token_type_ids: Tensor | None = None,
        second_per_grid_ts: Any = None,
        positions: str | None = None,
        **features: Any,
    ) -> AVInputs:
        if mm_token_type_ids is not None:
            self._check_types(input_ids, torch.as_tensor(mm_token_type_ids))
        videos = features.get("video_grid_thw")
        if videos is not None:  # transformers takes a second where it is told nothing
            untold = torch.ones(len(videos))
            features["second_per_grid"] = untold if second_per_grid_ts is None else second_per_grid_ts
        settings = {"positions": self._mode(positions)}
        given = self._checked_features(features)
        return self._from_tensors(input_ids, attention_mask, given, self.reader(given, None), settings)

    def _checked_features(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        given = super()._checked_features(features)
        if "second_per_grid" in given:
            given["second_per_grid"] = given["second_per_grid"].flatten().float()
        return given

    def _check_types(self, input_ids: Tensor, types: Tensor) -> None:
        said = (input_ids == self.tokens.image) * 1 + (input_ids == self.tokens.video) * 2
        if not torch.equal(said, types.to(said)):
            raise InputsError(
                "mm_token_type_ids do not match input_ids",
                expected="1 at image tokens, 2 at video tokens, 0 elsewhere",
                got=f"{int((said != types.to(said)).sum())} differences",
                next_step="take both from the same processor call, or leave mm_token_type_ids out",
            )
