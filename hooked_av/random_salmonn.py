"""A small video-SALMONN 2+ with random weights: real classes, real tokenizer, real media path, meaningless answers."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer

from hooked_av.families.salmonn import SalmonnFamily, mel_extractor
from hooked_av.model import HookedAVTransformer
from hooked_av.random_model import D_VOCAB, TOKENIZER_FOLDER, randomise, seeded

# Qwen2.5-VL's texts for the ids that Qwen2.5-Omni's tokenizer (ours) names otherwise, and the one token 2+ adds.
VL_TEXTS = {
    151646: "<|object_ref_start|>",
    151647: "<|object_ref_end|>",
    151648: "<|box_start|>",
    151652: "<|vision_start|>",
    151653: "<|vision_end|>",
    151655: "<|image_pad|>",
    151656: "<|video_pad|>",
    151665: "<|audio_pad|>",
}


def random_salmonn(n_layers: int = 4, *, seed: int = 0, **text_config: Any) -> HookedAVTransformer:
    """A video-SALMONN 2+ of a few layers with random weights and its tokenizer, made in a second.

    It answers nothing: use it to learn the tool, to test code, and to measure cost. Same seed, same weights.
    `save_pretrained` writes a checkpoint folder as the released ones are.

    Args:
        n_layers: decoder layers.
        seed: of the weights.
        text_config: more text fields of config.json, such as `hidden_size=256`.

    >>> model = random_salmonn(n_layers=2)
    >>> model.cfg.n_layers, model.family.name
    (2, 'video_salmonn_2_plus')
    """
    raw = random_salmonn_config(num_hidden_layers=n_layers, **text_config)
    family = SalmonnFamily(SalmonnFamily.read_config(raw), vl_tokenizer(), mel_extractor())
    name = f"random_salmonn({n_layers}, seed={seed})"
    with seeded(seed):
        cfg = family.decoder_config(tied=raw["tie_word_embeddings"], model_name=name)
        model = HookedAVTransformer(cfg, family, family.make_encoders())
        randomise(model)
    return model.eval()


def random_salmonn_config(**text_config: Any) -> dict[str, Any]:
    """A flat config.json of toy width, with the released token ids, windows and rotary settings."""
    text: dict[str, Any] = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": D_VOCAB,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": True,
        **text_config,
    }
    vision = {"depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 96, "fullatt_block_indexes": [1]}
    return {
        **text,
        "model_type": "qwen2_5_vl",
        "architectures": [SalmonnFamily.architecture],
        "audio_token_id": 151665,
        "vision_config": {**vision, "out_hidden_size": text["hidden_size"]},
        "audio_config": {
            "encoder_layers": 2,
            "d_model": 64,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "second_per_window": 0.5,
            "second_stride": 0.5,
            "qformer_config": {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 128},
        },
    }


def vl_tokenizer() -> Any:
    """Qwen2.5-VL's tokenizer with `<|audio_pad|>`, from the one that the package carries: the words are the same."""
    config = json.loads((TOKENIZER_FOLDER / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = config["added_tokens_decoder"]
    for token_id, text in VL_TEXTS.items():
        added[str(token_id)] = {**added["151655"], "content": text}
    for omni_only in ("extra_special_tokens", "processor_class", "chat_template"):
        config.pop(omni_only, None)
    with TemporaryDirectory() as folder:
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(TOKENIZER_FOLDER / name, folder)
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return AutoTokenizer.from_pretrained(folder)
