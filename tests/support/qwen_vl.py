"""Small random Qwen2.5-VL models of transformers, and prompts as the tensors that its processor would return."""

from typing import Any

import torch
from transformers import Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration as VL

from hooked_av.model.random import randomise
from support.salmonn import IMAGE, VIDEO, VISION_BEGIN, VISION_END, SalmonnPrompt


def vl_config(**text: Any) -> Qwen2_5_VLConfig:
    """Small theta and three distinct axes, so that a fault in the positions shows."""
    config = {
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 96, "vocab_size": 320, "rms_norm_eps": 1e-2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]}, **text,
    }  # fmt: skip
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64,
              "fullatt_block_indexes": [1], "tokens_per_second": 2}  # fmt: skip
    return Qwen2_5_VLConfig(
        text_config=config, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=VISION_BEGIN, vision_end_token_id=VISION_END,
    )  # fmt: skip


def make_vl(attn: str = "sdpa", dtype: torch.dtype = torch.float32, **text: Any) -> VL:
    """A random model in which every parameter is random, gains and biases too."""
    torch.manual_seed(0)
    model = VL._from_config(vl_config(**text), attn_implementation=attn, dtype=dtype).eval()
    randomise(model)
    return model


VL_PROMPTS = {
    "text": SalmonnPrompt(1).text(9),
    "image": SalmonnPrompt(2).text(3).image(2, 3).text(4),
    "two images": SalmonnPrompt(3).text(3).image(2, 3).text(1).image(3, 1).text(4),
    "video": SalmonnPrompt(4).text(3).video(3, 2, 4, 0.5).text(5),
    "long video": SalmonnPrompt(5).text(3).video(9, 1, 2, 1.3).text(5),
    "two videos and an image": SalmonnPrompt(6).video(4, 2, 2, 0.7).text(2).image(1, 3).video(2, 3, 1, 2.0).text(3),
}


def vl_tensors(kind: str) -> dict[str, torch.Tensor]:
    """As transformers' processor names them."""
    made = VL_PROMPTS[kind].tensors()
    ids = made["input_ids"]
    if "second_per_grid" in made:
        made["second_per_grid_ts"] = made.pop("second_per_grid")
    return {
        **made,
        "mm_token_type_ids": (ids == IMAGE) * 1 + (ids == VIDEO) * 2,
        "attention_mask": torch.ones_like(ids),
    }
