"""The shape of tiny-av: a Qwen2.5-Omni thinker of the standard classes, its small tokenizer, and its preprocessor.

The tokenizer is the official one trained anew on the sentences of the task: the same byte-level BPE and the same
special tokens, but a few hundred merges. Every word of the task is one token, and any other text still has tokens.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2_5OmniThinkerConfig, WhisperFeatureExtractor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from hooked_av.families.chat import DEFAULT_SYSTEM
from hooked_av.model.random import TOKENIZER_FOLDER, mel_extractor
from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.prompt.text import OPTION_INSTRUCTION, question_parts
from hooked_av.tiny.digits import NAMES
from hooked_av.tiny.questions import FAMILIES, NUMBERS, ORDINALS, YES_NO
from hooked_av.tiny.scenes import FPS, FRAME_PIXELS

NAME = "tiny-av"
CAPTION = "Describe the clip."
MESSAGE_END = "<|im_end|>"  # is learned behind every answer
MAX_ANSWER_TOKENS = 8  # an answer of the task is one token and its end; of other prompts, nobody knows
N_TOKENS = 640  # 256 bytes, the special tokens, and merges enough for every word of the task (a test holds it to that)
TEXT = {
    "hidden_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 4, 4]},
}
AUDIO = {
    "encoder_layers": 2,
    "d_model": 128,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 384,
    "n_window": 50,  # pieces of one second
    "output_dim": TEXT["hidden_size"],
}
VISION = {
    "depth": 2,
    "hidden_size": 128,
    "num_heads": 4,
    "intermediate_size": 256,
    "fullatt_block_indexes": [1],
    "out_hidden_size": TEXT["hidden_size"],
}


def make_tokenizer() -> Any:
    """The tokenizer of the task, the same at every call.

    >>> make_tokenizer().tokenize("Which digit is shown when six is spoken?")
    ['Which', 'Ġdigit', 'Ġis', 'Ġshown', 'Ġwhen', 'Ġsix', 'Ġis', 'Ġspoken', '?']
    """
    official = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)
    return official.train_new_from_iterator([*_sentences()], vocab_size=N_TOKENS, show_progress=False)


def _sentences() -> Iterator[str]:
    """Everything that a prompt or an answer of the task can say."""
    yield from (DEFAULT_SYSTEM, OPTION_INSTRUCTION, CAPTION, "system\n", "user\n", "assistant\n")
    for word in (*NUMBERS, *YES_NO):
        yield from (word, f" {word}", word, f" {word}")
    yield from (part.text for part in question_parts("A", [*NUMBERS, *YES_NO], None))
    for family in FAMILIES.values():
        for phrasing, place in product(family.phrasings, range(len(ORDINALS))):
            one, other = NUMBERS[place + 1], NUMBERS[4 - place]
            yield phrasing.format(nth=ORDINALS[place], mth=ORDINALS[3 - place], n=one, m=other, key=NAMES[place])


def make_config(tokenizer: Any) -> Qwen2_5OmniThinkerConfig:
    """The thinker's config, with this tokenizer's ids."""
    ids = tokenizer.convert_tokens_to_ids
    settings: dict[str, Any] = {
        "text_config": {**TEXT, "vocab_size": len(tokenizer)},
        "audio_config": AUDIO,
        "vision_config": VISION,
        "audio_token_index": ids(tokenizer.audio_token),
        "image_token_index": ids(tokenizer.image_token),
        "video_token_index": ids(tokenizer.video_token),
        "audio_start_token_id": ids(tokenizer.audio_bos_token),
        "audio_end_token_id": ids(tokenizer.audio_eos_token),
        "vision_start_token_id": ids(tokenizer.vision_bos_token),
        "vision_end_token_id": ids(tokenizer.vision_eos_token),
        "user_token_id": ids("user"),
        "seconds_per_chunk": 1,
        "pad_token_id": tokenizer.pad_token_id,
        "name_or_path": NAME,
    }
    return Qwen2_5OmniThinkerConfig(**settings)


def make_extractor() -> WhisperFeatureExtractor:
    """The released mel settings, with the sampling that this model was trained with."""
    extractor: Any = mel_extractor()
    extractor.max_pixels, extractor.min_pixels = FRAME_PIXELS**2, FRAME_PIXELS**2
    extractor.fps, extractor.min_frames = float(FPS), FPS
    return extractor


def untrained(seed: int) -> HookedAVTransformer:
    """The model before training."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    thinker = Thinker(make_config(tokenizer))
    thinker.generation_config.max_new_tokens = MAX_ANSWER_TOKENS
    thinker.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(MESSAGE_END)
    return HookedAVTransformer.from_hf(thinker, tokenizer, make_extractor())
