"""The settings that configs of the families have, besides those of the text decoder (`hooked_av/config.py`).

Encoders are transformers' own: what their config class reads is done by them, whatever the value.
"""

from collections.abc import Mapping
from typing import Any

from hooked_av.config import TEXT, KnownSettings
from hooked_av.errors import CheckpointError
from hooked_av.frozen import Frozen

VISION = KnownSettings(
    "vision config",
    "vision tower",
    frozenset(
        [
            "depth",
            "hidden_size",
            "num_heads",
            "intermediate_size",
            "hidden_act",
            "in_channels",
            "patch_size",
            "spatial_merge_size",
            "temporal_patch_size",
            "window_size",
            "out_hidden_size",
            "fullatt_block_indexes",
            "rope_parameters",
            "tokens_per_second",
            # written by the first releases and by Qwen2-VL's class, read by nobody
            "embed_dim",
            "mlp_ratio",
        ]
    ),
    {"in_chans": (3,), "spatial_patch_size": (14,)},  # other names of what stands above, not read under these
)
VISION_ROPE = KnownSettings(
    "rope_parameters of the vision config",
    "vision tower",
    frozenset({"rope_theta"}),
    {"rope_type": ("axial", "default"), "type": ("axial", "default")},
)
VISION_TOWER_SETTINGS: Mapping[str, KnownSettings] = Frozen(
    {"vision_config": VISION, "vision_config.rope_parameters": VISION_ROPE}
)

_SOUND_ENCODER = frozenset(
    [
        "num_mel_bins",
        "encoder_layers",
        "encoder_attention_heads",
        "encoder_ffn_dim",
        "d_model",
        "activation_function",
        "max_source_positions",
        "num_hidden_layers",
        "dropout",
        "attention_dropout",
        "activation_dropout",
        "encoder_layerdrop",
    ]
)
OMNI_AUDIO = KnownSettings(
    "audio config", "audio tower", _SOUND_ENCODER | {"n_window", "output_dim"}, {"scale_embedding": (False,)}
)
# Whisper's decoder and its training: the encoder alone is used, and it is not trained.
_WHISPER_IDLE = frozenset(
    [
        "apply_spec_augment",
        "classifier_proj_size",
        "decoder_attention_heads",
        "decoder_ffn_dim",
        "decoder_layerdrop",
        "decoder_layers",
        "mask_feature_length",
        "mask_feature_min_masks",
        "mask_feature_prob",
        "mask_time_length",
        "mask_time_min_masks",
        "mask_time_prob",
        "max_target_positions",
        "median_filter_width",
        "use_weighted_layer_sum",
        "vocab_size",
    ]
)
SALMONN_AUDIO = KnownSettings(
    "audio config",
    "audio branch",
    _SOUND_ENCODER | _WHISPER_IDLE | {"second_per_window", "second_stride", "qformer_config"},
    {"scale_embedding": (False,)},
)
QFORMER = KnownSettings(
    "qformer_config of the audio config",
    "audio branch",
    frozenset(
        [
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "layer_norm_eps",
            "query_length",
            "cross_attention_freq",
            "encoder_width",
            "out_hidden_size",
            "attention_probs_dropout_prob",
            "hidden_dropout_prob",
            "classifier_dropout",
            "max_position_embeddings",
            "type_vocab_size",
            "vocab_size",
        ]
    ),
    {"hidden_act": ("gelu",), "position_embedding_type": ("absolute",), "add_cross_attention": (True,)},
)

_PARTS = frozenset({"text_config", "vision_config", "audio_config"})
_TOKENS = frozenset(
    f"{name}_{kind}"
    for name in ("audio", "image", "video", "vision", "vision_start", "vision_end", "audio_start", "audio_end", "user")
    for kind in ("token_id", "token_index")
)
THINKER = KnownSettings(
    "config of the thinker",
    "model",
    _PARTS | _TOKENS | {"position_id_per_seconds", "seconds_per_chunk", "ignore_index"},
)
OMNI_FOLDER = KnownSettings(
    "config of Qwen2.5-Omni",
    "model",
    frozenset({"thinker_config", "talker_config", "token2wav_config", "enable_audio_output", "enable_talker"}),
)
# As released, its text fields stand beside the others; whether a plain Qwen2.5-VL holds sound, its tensors say.
QWEN_VL_CONFIG = KnownSettings("config", "model", TEXT.read | _PARTS | _TOKENS, TEXT.only)


def check_heads(part: str, width: Any, n_heads: Any) -> None:
    """Errors: `CheckpointError` if the heads of an encoder do not share its width evenly."""
    if n_heads < 1 or width < 1 or width % n_heads:
        raise CheckpointError(
            f"the heads of the {part} do not fit its width",
            expected="num_attention_heads (num_heads) that divide hidden_size",
            got=f"{n_heads} heads for a width of {width}",
            next_step="check config.json against the checkpoint",
        )
