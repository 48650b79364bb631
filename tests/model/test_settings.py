"""Settings of configs: those that released files and transformers itself write are known, and no other is."""

import json

import pytest
import torch
from bad.checkpoints import SALMONN
from support.qwen_vl import vl_config
from support.thinkers import thinker_config
from transformers import Qwen2_5_VLConfig, Qwen2_5OmniThinkerConfig

from hooked_av.config import TEXT, DecoderConfig, KnownSettings
from hooked_av.errors import CheckpointError, HookedAVWarning
from hooked_av.families.settings import OMNI_AUDIO, QFORMER, QWEN_VL_CONFIG, SALMONN_AUDIO, THINKER, VISION
from hooked_av.model.loading import FAMILY_OF_TYPE, load
from hooked_av.model.random import random_salmonn_config, released_omni_config
from hooked_av.model.transformer import HookedAVTransformer

# What transformers 4 wrote into every config and every part of one.
OLD = {
    name: value
    for name, value in json.loads((SALMONN / "config.json").read_text())["vision_config"].items()
    if name
    in [
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "chunk_size_feed_forward",
        "is_decoder",
        "id2label",
        "label2id",
        "max_length",
        "pruned_heads",
        "tie_word_embeddings",
        "temperature",
        "torch_dtype",
        "typical_p",
        "use_bfloat16",
        "task_specific_params",
    ]
}
ROPE = {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"}
FULL = [7, 15, 23, 31]
VISION_7B = {
    "depth": 32,
    "hidden_act": "silu",
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_chans": 3,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": FULL,
    "tokens_per_second": 2,
    "temporal_patch_size": 2,
}
TEXT_7B = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1e6,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
VL_7B = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "transformers_version": "4.41.2",
    **TEXT_7B,
    "vision_config": VISION_7B,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}
NESTED = {
    "model_type": "qwen2_5_vl_text",
    "image_token_id": None,
    "vision_token_id": 151654,
    "rope_scaling": ROPE,
    "layer_types": ["full_attention"] * 28,
    "dtype": "float32",
}
AUDIO_7B = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "activation_function": "gelu",
    "encoder_layerdrop": 0.0,
    "init_std": 0.02,
    "initializer_range": 0.02,
    "max_source_positions": 1500,
    "n_window": 100,
    "num_hidden_layers": 32,
    "num_mel_bins": 128,
    "output_dim": 3584,
    "scale_embedding": False,
    "model_type": "qwen2_5_omni_audio_encoder",
}
OMNI_7B = {
    "architectures": ["Qwen2_5OmniModel"],
    "model_type": "qwen2_5_omni",
    "enable_audio_output": True,
    "enable_talker": True,
    "talker_config": {"anything": 1},
    "token2wav_config": {"anything": 2},
    "torch_dtype": "bfloat16",
    "thinker_config": {
        "model_type": "qwen2_5_omni_thinker",
        "text_config": OLD | TEXT_7B | {"rope_scaling": ROPE, "init_std": 0.02},
        "vision_config": OLD
        | VISION_7B
        | {"embed_dim": 1280, "in_channels": 3, "tokens_per_second": 25, "init_std": 0.02},
        "audio_config": OLD | AUDIO_7B,
        "audio_token_index": 151646,
        "image_token_index": 151655,
        "ignore_index": -100,
        "video_token_index": 151656,
        "audio_start_token_id": 151647,
        "audio_end_token_id": 151648,
        "user_token_id": 872,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_token_id": 151654,
        "init_std": 0.02,
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
        "bos_token_id": 151644,
        "pad_token_id": 151643,
        "torch_dtype": "bfloat16",
    },
}
RELEASED = {
    "Qwen2.5-VL-7B": VL_7B,
    "Qwen2.5-VL-7B of transformers 4.54": VL_7B | {"text_config": TEXT_7B | NESTED},
    "Qwen2.5-VL-7B, fine-tuned": VL_7B
    | {"unsloth_version": "2025.9", "unsloth_fixed": True, "quantization_config": None},
    "Qwen2.5-Omni-7B": OMNI_7B,
    "its thinker alone": OMNI_7B["thinker_config"],
    "the published video-SALMONN 2+": json.loads((SALMONN / "config.json").read_text()),
    "our random video-SALMONN 2+": random_salmonn_config(num_hidden_layers=2),
    "transformers' Omni": released_omni_config("7b").to_dict(),
    "transformers' VL": Qwen2_5_VLConfig(text_config={"rope_parameters": ROPE | {"rope_theta": 1e6}}).to_dict(),
}


@pytest.mark.parametrize("raw", RELEASED.values(), ids=RELEASED)
def test_what_is_released_is_known(raw):
    from hooked_av.model.loading import _family_of

    raw = json.loads(json.dumps(raw))
    kind = _family_of(raw, "config.json")
    family = kind(kind.read_config(raw))
    with torch.device("meta"):
        assert family.decoder_config(tied=False, model_name="").n_layers > 0
        family.make_encoders()


@pytest.mark.parametrize(
    "config",
    [Qwen2_5OmniThinkerConfig(), Qwen2_5_VLConfig(), thinker_config(), vl_config()],
    ids=lambda c: c.model_type,
)
def test_every_field_that_transformers_has_is_known(config):
    """A field that a new transformers adds goes red here first."""
    values = config.to_dict()
    family = FAMILY_OF_TYPE[config.model_type](config)
    family.refuse_unknown()
    TEXT.refuse_others(values["text_config"])


ALL = [TEXT, VISION, OMNI_AUDIO, SALMONN_AUDIO, QFORMER, THINKER, QWEN_VL_CONFIG]


@pytest.mark.parametrize("known", ALL, ids=lambda known: known.part)
def test_what_is_not_known_is_refused_and_null_says_nothing(known: KnownSettings):
    known.refuse_others({"residual_multiplier_2": None})
    for value in (2.0, False, 0, "", [], {}):
        with pytest.raises(CheckpointError, match="residual_multiplier_2"):
            known.refuse_others({"residual_multiplier_2": value})
    for name, values in known.only.items():
        for value in values:
            known.refuse_others({name: value})
        with pytest.raises(CheckpointError, match=name):
            known.refuse_others({name: "something else"})


def test_settings_that_change_no_number_load():
    """The values at which an unknown arithmetic is ours, and scaling that is off."""
    config = thinker_config(residual_multiplier=1.0, logit_scale=1.0, final_logit_softcapping=None, mlp_bias=False)
    assert DecoderConfig.from_hf(config.text_config, tied=False).n_layers == 3


def test_code_of_a_checkpoint_is_said_and_not_run(tmp_path):
    for path in SALMONN.iterdir():
        (tmp_path / path.name).symlink_to(path)
    raw = json.loads((SALMONN / "config.json").read_text()) | {"auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "evil.py").write_text("raise SystemExit('run')\n")
    with pytest.warns(HookedAVWarning) as told:
        load(HookedAVTransformer, tmp_path, "cpu", None)
    assert any("brings code of its own" in str(warning.message) for warning in told)
