"""Qwen2.5-Omni: checkpoint names, encoders, prompt, positions.

Facts from transformers 5.23 (`models/qwen2_5_omni`) and qwen-omni-utils 0.0.9. The encoders are transformers' own
modules; only their outputs pass our hook points.

Axes: batch pos; row (encoder output rows); axis (time, height, width); mel (frames of 10 ms).
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder, Qwen2_5OmniVisionEncoder

from hooked_av.config import DecoderConfig
from hooked_av.errors import HookedAVWarning, InputsError
from hooked_av.families.checkpoint import renamed
from hooked_av.families.family import Family
from hooked_av.families.features import PICTURES, VIDEOS, check_features, encode_pictures
from hooked_av.families.omni.layout import OmniTokens, Supply, nominal_times, place_pieces
from hooked_av.families.omni.prepare import MediaItem, media_item, prompt_parts, released_sampling
from hooked_av.media.clip import Clip
from hooked_av.media.sampling import ResolvedSampling, Sampling
from hooked_av.prompt.inputs import PAD_POSITION_ID, AVInputs, check_same_shape, merge_features
from hooked_av.prompt.layout import Placed, build_spans
from hooked_av.prompt.positions import AVPiece, TextRun, VisionPiece, omni_positions
from hooked_av.prompt.spans import Spans
from hooked_av.prompt.text import (
    check_options,
    question_parts,
    refuse_special_tokens,
    refuse_unknown,
    token_texts,
    tokenize,
)

SKIPPED = ("talker.", "token2wav.")  # speech output, no part of the thinker
FEATURE_GROUPS = (
    ("input_features", "feature_attention_mask"),
    PICTURES,
    (*VIDEOS, "video_second_per_grid"),
)
# Checkpoint name <-> ours; `{}` is a layer number.
RENAMES = (
    ("model.embed_tokens.", "decoder.embed."),
    ("model.norm.", "decoder.ln_final."),
    ("lm_head.", "decoder.unembed."),
    ("model.layers.{}.input_layernorm.", "decoder.blocks.{}.ln1."),
    ("model.layers.{}.post_attention_layernorm.", "decoder.blocks.{}.ln2."),
    ("model.layers.{}.self_attn.", "decoder.blocks.{}.attn."),
    ("model.layers.{}.mlp.", "decoder.blocks.{}.mlp."),
    ("visual.", "encoders.visual."),
    ("audio_tower.", "encoders.audio_tower."),
)
# transformers 5 keeps everything one level deeper in memory than in files.
IN_MEMORY = (
    ("model.language_model.", "model."),
    ("model.visual.", "visual."),
    ("model.audio_tower.", "audio_tower."),
)
MODEL_TYPES = ("qwen2_5_omni", "qwen2_5_omni_thinker")


class OmniFamily(Family):
    """Qwen2.5-Omni 3B and 7B (and anything of that shape): the thinker, without speech output."""

    name = "qwen2_5_omni"
    architecture = "Qwen2_5OmniThinkerForConditionalGeneration"
    encoder_names = ("audio_tower", "visual")

    def __init__(self, hf_config: Any, tokenizer: Any = None, feature_extractor: Any = None) -> None:
        super().__init__(hf_config, tokenizer, feature_extractor)
        self.tokens = OmniTokens.from_config(hf_config)

    # --- checkpoint ---

    @classmethod
    def read_config(cls, raw: dict[str, Any]) -> Any:
        """The thinker's transformers config, from the config.json of a thinker or of a whole Omni folder."""
        return Qwen2_5OmniThinkerConfig.from_dict(raw.get("thinker_config", raw))

    @staticmethod
    def our_name(checkpoint_name: str) -> str | None:
        """Our parameter name of a checkpoint tensor; None for speech output, the name itself if nobody knows it.

        >>> OmniFamily.our_name("thinker.model.layers.3.self_attn.q_proj.bias")
        'decoder.blocks.3.attn.q_proj.bias'
        >>> OmniFamily.our_name("talker.model.norm.weight") is None
        True
        """
        if checkpoint_name.startswith(SKIPPED):
            return None
        return renamed(renamed(checkpoint_name.removeprefix("thinker."), IN_MEMORY), RENAMES)

    @staticmethod
    def checkpoint_name(our_name: str) -> str:
        """The name that transformers' `save_pretrained` writes for our parameter.

        >>> OmniFamily.checkpoint_name("decoder.blocks.3.ln1.weight")
        'model.layers.3.input_layernorm.weight'
        """
        return renamed(our_name, [(ours, theirs) for theirs, ours in RENAMES])

    def decoder_config(self, *, tied: bool, model_name: str) -> DecoderConfig:
        return DecoderConfig.from_hf(self.hf_config.text_config, tied=tied, model_name=model_name)

    # --- encoders ---

    def make_encoders(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "audio_tower": Qwen2_5OmniAudioEncoder._from_config(self.hf_config.audio_config),
                "visual": Qwen2_5OmniVisionEncoder._from_config(self.hf_config.vision_config),
            }
        )

    @staticmethod
    def encode(encoders: nn.ModuleDict, features: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "row d_model"]]:
        rows = encode_pictures(encoders["visual"], features)
        if "input_features" in features:
            rows["audio"] = _encode_sound(encoders["audio_tower"], features)
        return rows

    # --- prompts ---

    def placeholder(self, modality: str) -> int:
        return self.tokens.modality(modality)

    def prepare(
        self,
        media: Sequence[Clip | str],
        *,
        question: str,
        options: Sequence[str] = (),
        instruction: str | None = None,
        answer_prefix: str | None = None,
        system: str | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        **unknown: Any,
    ) -> AVInputs:
        refuse_unknown(unknown, "question, options, instruction, answer_prefix, system, sampling")
        options = check_options(options)
        between = [item for item in media if isinstance(item, str)]
        answer_prefix = answer_prefix or ""
        texts = [question, *options, instruction or "", answer_prefix, system or "", *between]
        asked = question_parts(question, options, instruction)
        refuse_special_tokens(texts, self.tokenizer)
        seen = sampling.resolved(released_sampling(self._feature_extractor))
        items = [m if isinstance(m, str) else self._media_item(m, seen) for m in media]
        ids, labels = tokenize(prompt_parts(system, items, asked, answer_prefix), self.tokenizer)
        clips = tuple(item for item in media if isinstance(item, Clip))
        return self._assembled(ids, labels, [i for i in items if isinstance(i, MediaItem)], clips, seen)

    def _media_item(self, clip: Clip, sampling: ResolvedSampling) -> MediaItem:
        extractor = self.feature_extractor if clip.has_audio else None
        return media_item(clip, sampling, self.tokens, self.tokenizer, extractor)

    def _assembled(
        self,
        ids: Int64[Tensor, " pos"],
        labels: dict[str, list[int]],
        items: Sequence[MediaItem],
        clips: tuple[Clip, ...],
        sampling: ResolvedSampling,
    ) -> AVInputs:
        features = merge_features([item.features for item in items])
        supply = Supply(features, self.tokens.merge)
        placed = place_pieces(ids, supply, self.tokens, sound_in_video=True)
        supply.check_empty()
        return AVInputs(
            ids[None],
            _positions(placed, self.tokens)[:, None],
            torch.ones(1, len(ids), dtype=torch.bool),
            (build_spans(placed, len(ids), [item.times for item in items], labels),),
            features,
            {"family": self.name, "positions": "released", **({"sampling": asdict(sampling)} if items else {})},
            (clips,),
            token_texts(ids, self.tokenizer),
        )

    def inputs_from_tensors(
        self,
        input_ids: Int64[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        use_audio_in_video: bool = False,
        **features: Any,
    ) -> AVInputs:
        given = _checked_features(features)
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        check_same_shape(input_ids, mask)
        rows = list(self._read_rows(input_ids, mask, given, use_audio_in_video))
        position_ids = torch.full((3, *input_ids.shape), PAD_POSITION_ID, device=input_ids.device)
        for row, (positions, _) in enumerate(rows):
            position_ids[:, row, mask[row]] = positions.to(input_ids.device)
        settings = {"family": self.name, "positions": "released", "use_audio_in_video": use_audio_in_video}
        return AVInputs(input_ids, position_ids, mask, tuple(spans for _, spans in rows), given, settings)

    def _read_rows(
        self, ids: Tensor, mask: Tensor, features: Mapping[str, Tensor], sound_in_video: bool
    ) -> Iterator[tuple[Tensor, Spans]]:
        supply = Supply(features, self.tokens.merge)
        for row, real in zip(ids, mask, strict=True):
            placed = place_pieces(row[real].cpu(), supply, self.tokens, sound_in_video)
            positions = _positions(placed, self.tokens)
            times = [nominal_times(part) for part in placed if not isinstance(part.piece, TextRun)]
            spans = build_spans(placed, int(real.sum()), times, {})
            yield positions, spans.shifted(int(real.int().argmax()), len(row))
        supply.check_empty()


def _positions(placed: Sequence[Placed], tokens: OmniTokens) -> Int64[Tensor, "axis=3 pos"]:
    pieces = [part.piece for part in placed]
    silent = any(isinstance(piece, VisionPiece) and piece.seconds_per_group is not None for piece in pieces)
    if silent and any(isinstance(piece, AVPiece) for piece in pieces):
        warnings.warn(
            "videos with and without sound in one prompt: each gets its own kind of positions here; transformers has "
            "one setting for the whole prompt, and its position ids differ",
            HookedAVWarning,
            stacklevel=2,
        )
    return omni_positions(pieces, tokens.clock)


def _encode_sound(tower: Any, features: Mapping[str, Tensor]) -> Float[Tensor, "row d_model"]:
    mask = features["feature_attention_mask"].bool()
    lengths = mask.sum(-1)
    packed = features["input_features"].permute(0, 2, 1)[mask].permute(1, 0)
    return tower(packed, feature_lens=lengths, aftercnn_lens=(lengths - 1) // 2 + 1).last_hidden_state


def _checked_features(features: Mapping[str, Any]) -> dict[str, Tensor]:
    """The media tensors that were given, complete, and under known names."""
    given = check_features(features, FEATURE_GROUPS, "input_ids, attention_mask, use_audio_in_video")
    if "input_features" in given and given["input_features"].shape[::2] != given["feature_attention_mask"].shape:
        raise InputsError(
            "input_features does not match feature_attention_mask",
            expected="[sound, mel bin, frame] and [sound, frame]",
            got=[list(given[name].shape) for name in FEATURE_GROUPS[0]],
            next_step="take both from the same processor call",
        )
    return given
