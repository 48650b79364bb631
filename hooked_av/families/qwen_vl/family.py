"""Qwen2.5-VL: checkpoint names, vision tower, prompt, positions; pictures, videos and text.

video-SALMONN 2+ is built on it (`salmonn.py` adds the sound). Facts from transformers 5.23 (`models/qwen2_5_vl`).

Axes: batch pos; row (encoder output rows); axis (time, height, width).
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from hooked_av.config import DecoderConfig
from hooked_av.errors import InputsError
from hooked_av.families.checkpoint import renamed
from hooked_av.families.family import Family
from hooked_av.families.features import PICTURES, VIDEOS, check_features, encode_pictures
from hooked_av.families.omni.prepare import prompt_parts
from hooked_av.families.qwen_vl.positions import qwen_vl_positions
from hooked_av.families.salmonn.layout import (
    SalmonnSupply,
    SalmonnTokens,
    audio_padding,
    nominal_times,
    place_pieces,
)
from hooked_av.families.salmonn.prepare import QWEN_VL, Recipe, SalmonnItem, Writer
from hooked_av.media.clip import Clip
from hooked_av.media.frames import PatchLayout
from hooked_av.media.sampling import ResolvedSampling, Sampling
from hooked_av.prompt.inputs import PAD_POSITION_ID, AVInputs, check_same_shape, merge_features
from hooked_av.prompt.layout import Placed, build_spans
from hooked_av.prompt.positions import Piece, TextRun
from hooked_av.prompt.spans import Spans
from hooked_av.prompt.text import (
    check_options,
    question_parts,
    refuse_special_tokens,
    refuse_unknown,
    token_texts,
    tokenize,
)

FEATURE_GROUPS = (PICTURES, (*VIDEOS, "second_per_grid"))
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
)
# transformers since 4.52 keeps both parts one level deeper, in memory and in some files.
IN_MEMORY = (("model.language_model.", "model."), ("model.visual.", "visual."))
NO_TOKEN = -1
_ARGUMENTS = "question, options, instruction, answer_prefix, system, sampling, positions"


class QwenVLFamily(Family):
    """Qwen2.5-VL: pictures, videos and text, no sound."""

    name = "qwen2_5_vl"
    architecture = "Qwen2_5_VLForConditionalGeneration"
    encoder_names = ("visual",)
    hears = False
    recipe: ClassVar[Recipe] = QWEN_VL
    position_modes: ClassVar[tuple[str, ...]] = ("transformers", "train")  # the first is the default

    def __init__(self, hf_config: Any, tokenizer: Any = None, feature_extractor: Any = None) -> None:
        super().__init__(hf_config, tokenizer, feature_extractor)
        self.tokens = self._read_tokens()

    def _read_tokens(self) -> SalmonnTokens:
        return replace(SalmonnTokens.from_config(self.hf_config), audio=NO_TOKEN)

    # --- checkpoint ---

    @classmethod
    def read_config(cls, raw: dict[str, Any]) -> Any:
        """transformers' config, from a flat config.json (as released) or one with a text_config (as saved since)."""
        return Qwen2_5_VLConfig.from_dict(deepcopy(raw))

    @staticmethod
    def our_name(checkpoint_name: str) -> str | None:
        """Our parameter name of a checkpoint tensor; the name itself if nobody knows it.

        >>> QwenVLFamily.our_name("model.language_model.layers.3.self_attn.q_proj.bias")
        'decoder.blocks.3.attn.q_proj.bias'
        """
        return renamed(renamed(checkpoint_name, IN_MEMORY), RENAMES)

    @staticmethod
    def checkpoint_name(our_name: str) -> str:
        """The name under which released files keep our parameter; transformers reads it too.

        >>> QwenVLFamily.checkpoint_name("decoder.blocks.3.ln1.weight")
        'model.layers.3.input_layernorm.weight'
        """
        return renamed(our_name, [(ours, theirs) for theirs, ours in RENAMES])

    def decoder_config(self, *, tied: bool, model_name: str) -> DecoderConfig:
        return DecoderConfig.from_hf(self.hf_config.text_config, tied=tied, model_name=model_name)

    # --- encoders ---

    def make_encoders(self) -> nn.ModuleDict:
        tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(self.hf_config.vision_config)
        return nn.ModuleDict({"visual": tower})

    @staticmethod
    def encode(encoders: nn.ModuleDict, features: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "row d_model"]]:
        return encode_pictures(encoders["visual"], features)

    # --- prompts ---

    def placeholder(self, modality: str) -> int:
        return self.tokens.modality(modality)

    def position_ids(self, pieces: Sequence[Piece], mode: str) -> Int64[Tensor, "axis=3 pos"]:
        """(time, height, width) of every token of one prompt, by one of `position_modes`."""
        return qwen_vl_positions(pieces, mode, self.hf_config.vision_config.tokens_per_second)

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
        positions: str | None = None,
        **unknown: Any,
    ) -> AVInputs:
        refuse_unknown(unknown, _ARGUMENTS)
        mode = self._mode(positions)
        options = check_options(options)
        texts = [question, *options, instruction or "", answer_prefix or "", system or ""]
        asked = question_parts(question, options, instruction)
        refuse_special_tokens([*texts, *(item for item in media if isinstance(item, str))], self.tokenizer)
        clips = tuple(item for item in media if isinstance(item, Clip))
        self._check_media(clips)
        seen = sampling.resolved(self.recipe.sampling)
        writer = self._writer(clips)
        items = [item if isinstance(item, str) else writer.item(item, seen) for item in media]
        between = [self.recipe.after_media] if items and self.recipe.after_media else []
        parts = prompt_parts(system, [*items, *between], asked, answer_prefix or "")
        shown = [item for item in items if isinstance(item, SalmonnItem)]
        return self._assembled(*tokenize(parts, self.tokenizer), shown, clips, seen, mode)

    def _writer(self, clips: Sequence[Clip]) -> Writer:
        vision = self.hf_config.vision_config
        layout = PatchLayout(vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
        extractor = self.feature_extractor if any(clip.has_audio for clip in clips) else None
        return Writer(self.recipe, layout, self.tokens, self.tokenizer, extractor)

    def _check_media(self, clips: Sequence[Clip]) -> None:
        if any(clip.has_audio for clip in clips):
            raise InputsError(
                "Qwen2.5-VL has no ears",
                expected="pictures and videos without sound",
                got=[clip.kind for clip in clips],
                next_step="clip.without_audio(), or a model that hears: Qwen2.5-Omni, video-SALMONN 2+",
            )

    def _mode(self, positions: str | None) -> str:
        mode = self.position_modes[0] if positions is None else positions
        if mode not in self.position_modes:
            raise InputsError(
                "unknown position mode",
                expected=f"one of {self.position_modes} for {self.name} (see docs/gotchas.md for what they are)",
                got=repr(mode),
                next_step=" or ".join(f"positions={known!r}" for known in self.position_modes),
            )
        return mode

    def _assembled(
        self,
        ids: Int64[Tensor, " pos"],
        labels: dict[str, list[int]],
        items: Sequence[SalmonnItem],
        clips: tuple[Clip, ...],
        seen: ResolvedSampling,
        mode: str,
    ) -> AVInputs:
        features = merge_features([item.features for item in items])
        supply = SalmonnSupply(features, self.tokens.merge)
        placed = place_pieces(ids, supply, self.tokens)
        supply.check_empty()
        labels |= self._padding(placed, [item.n_samples for item in items if item.n_samples is not None])
        return AVInputs(
            ids[None],
            self.position_ids([part.piece for part in placed], mode)[:, None],
            torch.ones(1, len(ids), dtype=torch.bool),
            (build_spans(placed, len(ids), [item.times for item in items], labels),),
            features,
            {"family": self.name, "positions": mode, **({"sampling": asdict(seen)} if items else {})},
            (clips,),
            token_texts(ids, self.tokenizer),
        )

    def _padding(self, placed: Sequence[Placed], n_samples: Sequence[int]) -> dict[str, list[int]]:
        padding = audio_padding(placed, n_samples, self.tokens.windows)
        return {"audio_padding": padding} if padding else {}

    # --- ready tensors ---

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
        return self._from_tensors(input_ids, attention_mask, features, FEATURE_GROUPS, positions)

    def _check_types(self, input_ids: Tensor, types: Tensor) -> None:
        said = (input_ids == self.tokens.image) * 1 + (input_ids == self.tokens.video) * 2
        if not torch.equal(said, types.to(said)):
            raise InputsError(
                "mm_token_type_ids do not match input_ids",
                expected="1 at image tokens, 2 at video tokens, 0 elsewhere",
                got=f"{int((said != types.to(said)).sum())} differences",
                next_step="take both from the same processor call, or leave mm_token_type_ids out",
            )

    def _from_tensors(
        self,
        input_ids: Int64[Tensor, "batch pos"],
        attention_mask: Tensor | None,
        features: Mapping[str, Any],
        groups: Sequence[tuple[str, ...]],
        positions: str | None,
        n_samples: Sequence[int] | None = None,
    ) -> AVInputs:
        mode = self._mode(positions)
        given = check_features(features, groups, "input_ids, attention_mask, positions")
        if "second_per_grid" in given:
            given["second_per_grid"] = given["second_per_grid"].flatten().float()
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        check_same_shape(input_ids, mask)
        rows = list(self._read_rows(input_ids, mask, given, mode, n_samples))
        position_ids = torch.full((3, *input_ids.shape), PAD_POSITION_ID, device=input_ids.device)
        for row, (found, _) in enumerate(rows):
            position_ids[:, row, mask[row]] = found.to(input_ids.device)
        settings = {"family": self.name, "positions": mode}
        return AVInputs(input_ids, position_ids, mask, tuple(spans for _, spans in rows), given, settings)

    def _read_rows(
        self, ids: Tensor, mask: Tensor, features: Mapping[str, Tensor], mode: str, n_samples: Sequence[int] | None
    ) -> Iterator[tuple[Tensor, Spans]]:
        supply = SalmonnSupply(features, self.tokens.merge)
        lengths = None if n_samples is None else list(n_samples)
        for row, real in zip(ids, mask, strict=True):
            placed = place_pieces(row[real].cpu(), supply, self.tokens)
            positions = self.position_ids([part.piece for part in placed], mode)
            times = [nominal_times(part, self.tokens.windows) for part in placed if not isinstance(part.piece, TextRun)]
            labels = {} if lengths is None else self._padding(placed, _take_lengths(lengths, placed))
            spans = build_spans(placed, int(real.sum()), times, labels)
            yield positions, spans.shifted(int(real.int().argmax()), len(row))
        supply.check_empty()
        if lengths:
            raise _wrong_lengths(f"{len(lengths)} more")


def _take_lengths(lengths: list[int], placed: Sequence[Placed]) -> list[int]:
    """The first of `lengths`, one a sound of this prompt; they are taken away."""
    n_sounds = sum("audio" in part.streams for part in placed)
    if len(lengths) < n_sounds:
        raise _wrong_lengths(f"{n_sounds - len(lengths)} fewer")
    taken = lengths[:n_sounds]
    del lengths[:n_sounds]
    return taken


def _wrong_lengths(got: str) -> InputsError:
    return InputsError(
        "audio_samples does not match the sounds of the prompts",
        expected="one number a sound, in prompt order: its 16 kHz samples before padding to 30 s",
        got=got,
        next_step="give one number a sound, or leave audio_samples out",
    )
