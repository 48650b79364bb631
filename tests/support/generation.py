"""What generates beside us: transformers' `generate` on the same weights, for each family; and our answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration as VL

import hooked_av as av
from hooked_av.model.transformer import HookedAVTransformer
from support.qwen_vl import VL_PROMPTS, make_vl, vl_tensors
from support.salmonn import make_salmonn, salmonn_prompts
from support.thinkers import make_thinker, prompts

N_NEW = 6


@dataclass(frozen=True)
class Generating:
    """A small model, transformers' own around the same weights, and one prompt of each kind."""

    name = ""
    kinds: tuple[str, ...] = ()

    @cached_property
    def model(self) -> HookedAVTransformer:
        return HookedAVTransformer.from_hf(self.published)

    @cached_property
    def published(self) -> Any:
        """transformers' model."""
        raise NotImplementedError

    def tensors(self, kind: str) -> dict[str, Any]:
        raise NotImplementedError

    def arguments(self, inputs: av.AVInputs) -> Mapping[str, Any]:
        """The same inputs for `published.generate`."""
        raise NotImplementedError

    def inputs(self, kind: str) -> av.AVInputs:
        inputs = self.model.inputs_from_tensors(**self.tensors(kind))
        return inputs.with_span("question", range(inputs.n_pos - 6, inputs.n_pos))

    def generate(self, inputs: av.AVInputs, seed: int = 0, **settings: Any) -> Any:
        """What transformers writes behind each prompt."""
        self.published.model.rope_deltas = None
        settings = {"max_new_tokens": N_NEW, "eos_token_id": None, "pad_token_id": 0, "do_sample": False, **settings}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.published.generate(**self.arguments(inputs), **settings)

    def tokens(self, inputs: av.AVInputs, **settings: Any) -> list[list[int]]:
        return self.generate(inputs, **settings)[:, inputs.n_pos :].tolist()

    def logits(self, inputs: av.AVInputs) -> Tensor:
        """Of every step, before any processor."""
        said = self.generate(inputs, output_logits=True, return_dict_in_generate=True)
        return torch.stack(said.logits, dim=1)


@dataclass(frozen=True)
class GeneratingOmni(Generating):
    """Qwen2.5-Omni's thinker."""

    name = "omni"
    random = staticmethod(av.random_omni)
    kinds: tuple[str, ...] = ("text", "audio", "image", "video", "audio in video", "interleaved", "two clips")
    mixed = ("video", "interleaved")

    @cached_property
    def published(self) -> Any:
        return make_thinker(n_kv=2)

    def tensors(self, kind: str) -> dict[str, Any]:
        return prompts()[kind].tensors()

    def arguments(self, inputs: av.AVInputs) -> Mapping[str, Any]:
        sound_in_video = inputs.settings.get("use_audio_in_video", False)
        given = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask.long()}
        return {**given, **inputs.features, "use_audio_in_video": sound_in_video}


@dataclass(frozen=True)
class GeneratingSalmonn(Generating):
    """video-SALMONN 2+: transformers has no such model, but its decoder and its way of generating are Qwen2.5-VL's.

    So Qwen2.5-VL's `generate` gets our embeddings and position ids of the prompt; what it counts on from there is its
    own. The embeddings themselves equal the published ones (tests/families/test_salmonn.py).
    """

    name = "salmonn"
    random = staticmethod(av.random_salmonn)
    kinds: tuple[str, ...] = ("text", "audio", "two sounds", "image", "video", "audio in video")
    mixed = ("video", "audio in video")

    @cached_property
    def model(self) -> HookedAVTransformer:
        return make_salmonn(n_kv=2)

    @cached_property
    def published(self) -> Any:
        family = self.model.family
        model = VL._from_config(family.hf_config, attn_implementation="sdpa", dtype=torch.float32).eval()
        weights = {family.checkpoint_name(f"decoder.{n}"): p for n, p in self.model.decoder.state_dict().items()}
        weights = {name.replace("model.", "model.language_model.", 1): p for name, p in weights.items()}
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not unexpected
        assert all(name.startswith("model.visual.") for name in missing)
        return model

    def tensors(self, kind: str) -> dict[str, Any]:
        return salmonn_prompts()[kind].tensors()

    def arguments(self, inputs: av.AVInputs) -> Mapping[str, Any]:
        with torch.no_grad():
            embeds = self.model(inputs, stop_at_layer=0)
        text = inputs.attention_mask.long().cumsum(-1) - 1
        positions = torch.cat([text[None].clamp(min=0), inputs.position_ids])  # transformers' first axis is the mask's
        mask = inputs.attention_mask.long()
        return {
            "input_ids": inputs.input_ids, "inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions
        }  # fmt: skip


@dataclass(frozen=True)
class GeneratingVL(Generating):
    """Plain Qwen2.5-VL, whole: pictures and videos, transformers' own positions."""

    name = "qwen_vl"
    kinds: tuple[str, ...] = tuple(VL_PROMPTS)

    @cached_property
    def published(self) -> Any:
        return make_vl()

    def tensors(self, kind: str) -> dict[str, Any]:
        return vl_tensors(kind)

    def arguments(self, inputs: av.AVInputs) -> Mapping[str, Any]:
        features = dict(inputs.features)
        if "second_per_grid" in features:
            features["second_per_grid_ts"] = features.pop("second_per_grid")
        tokens, ids = self.model.family.tokens, inputs.input_ids
        types = (ids == tokens.image) * 1 + (ids == tokens.video) * 2
        return {
            "input_ids": ids, "attention_mask": inputs.attention_mask.long(), "mm_token_type_ids": types, **features
        }  # fmt: skip


# The first two have every kind of media, and are run with hooks and interventions too.
GENERATING = {family.name: family for family in (GeneratingOmni(), GeneratingSalmonn(), GeneratingVL())}


def write(model, inputs, **arguments):
    return model.generate(inputs, **{"max_new_tokens": N_NEW, "stop_tokens": (), **arguments})


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
