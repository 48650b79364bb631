"""Small models with random weights: real classes, real tokenizer, real processor path, meaningless answers."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2_5OmniThinkerConfig, WhisperFeatureExtractor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from hooked_av.doors import door
from hooked_av.families.salmonn.family import SalmonnFamily
from hooked_av.families.salmonn.family import mel_extractor as salmonn_mel_extractor
from hooked_av.model.transformer import HookedAVTransformer

TOKENIZER_FOLDER = Path(__file__).parent.parent / "data" / "tokenizer"
D_VOCAB = 151_936  # rows of the released 3B embedding
RELEASED_SIZES: dict[str, dict[str, int]] = {  # text decoders of Qwen2.5-Omni's thinker
    "3b": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
           "intermediate_size": 11008, "vocab_size": 151936},
    "7b": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
           "intermediate_size": 18944, "vocab_size": 152064},
}  # fmt: skip
_RELEASED_IDS: dict[str, Any] = {"vision_start_token_id": 151652, "vision_end_token_id": 151653}  # no class fields
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


@door
def random_omni(n_layers: int = 4, *, seed: int = 0, **text_config: Any) -> HookedAVTransformer:
    """A Qwen2.5-Omni of a few layers with random weights and the official tokenizer, made in a second.

    It answers nothing: use it to learn the tool, to test code, and to measure cost. Same seed, same weights.

    Args:
        n_layers: decoder layers.
        seed: of the weights.
        text_config: more fields of transformers' text config, such as `hidden_size=256`.

    >>> random_omni(n_layers=2).cfg.n_layers
    2
    """
    config = random_omni_config(num_hidden_layers=n_layers, **text_config)
    config.name_or_path = f"random_omni({n_layers}, seed={seed})"
    with _seeded(seed):
        thinker = Thinker(config)
        randomise(thinker)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)
    return HookedAVTransformer.from_hf(thinker.eval(), tokenizer, mel_extractor())


def random_omni_config(**text_config: Any) -> Qwen2_5OmniThinkerConfig:
    """A thinker config of toy width, with the released token ids."""
    text = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": D_VOCAB,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        **text_config,
    }
    width = text["hidden_size"]
    vision = {"depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 96, "out_hidden_size": width}
    return Qwen2_5OmniThinkerConfig(
        text_config=text,
        vision_config=vision,
        audio_config={
            "encoder_layers": 2,
            "d_model": 64,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "output_dim": width,
        },
        **_RELEASED_IDS,
    )


def released_omni_config(size: str) -> Qwen2_5OmniThinkerConfig:
    """The thinker config of a released Qwen2.5-Omni, "3b" or "7b": full sizes, for weights of your own.

    >>> released_omni_config("7b").text_config.num_hidden_layers
    28
    """
    text = RELEASED_SIZES[size]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2_5OmniThinkerConfig(
        text_config={**text, "rope_parameters": rope},
        vision_config={"hidden_size": 1280, "out_hidden_size": text["hidden_size"]},  # the class default is wrong
        audio_config={"output_dim": text["hidden_size"]},
        **_RELEASED_IDS,
    )


def mel_extractor() -> WhisperFeatureExtractor:
    """The mel extractor with the released settings: 128 bins, 10 ms hops."""
    return WhisperFeatureExtractor(
        feature_size=128, sampling_rate=16_000, hop_length=160, n_fft=400, chunk_length=300, return_attention_mask=True
    )


@door
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
    family = SalmonnFamily(SalmonnFamily.read_config(raw), vl_tokenizer(), salmonn_mel_extractor())
    name = f"random_salmonn({n_layers}, seed={seed})"
    with _seeded(seed):
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


@torch.no_grad()
def randomise(thinker: torch.nn.Module) -> None:
    """Make every parameter random, gains and biases too: default initialisation hides faults."""
    for parameter in thinker.parameters():
        is_gain = parameter.ndim == 1 and bool((parameter == 1).all())
        if parameter.ndim == 1:
            parameter.normal_(mean=float(is_gain), std=0.3)
        else:
            parameter.normal_(std=1 / parameter[0].numel() ** 0.5)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """A seed for the length of a block, without touching the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
