"""The tokenizer that the package carries: official ids, official vocabulary, byte-pair encoding by definition."""

import hashlib
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

FOLDER = Path(__file__).parents[2] / "hooked_av" / "data" / "tokenizer"
SPECIAL = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|AUDIO|>": 151646,
    "<|audio_bos|>": 151647,
    "<|audio_eos|>": 151648,
    "<|box_end|>": 151649,
    "<|quad_start|>": 151650,
    "<|quad_end|>": 151651,
    "<|vision_bos|>": 151652,
    "<|vision_eos|>": 151653,
    "<|vision_pad|>": 151654,
    "<|IMAGE|>": 151655,
    "<|VIDEO|>": 151656,
}
MARKS = {
    "<tool_call>": 151657,
    "</tool_call>": 151658,
    "<|fim_prefix|>": 151659,
    "<|fim_middle|>": 151660,
    "<|fim_suffix|>": 151661,
    "<|fim_pad|>": 151662,
    "<|repo_name|>": 151663,
    "<|file_sep|>": 151664,
}
SAMPLE = [
    "Which digit do you hear? three, eight",
    "I'll say it's 12345 o'clock -- don't YOU'RE",
    "  leading, trailing  \n\n\t and\r\nbreaks   ",
    "def f(x):\n    return x ** 2  # 二乗",
    "声音和画面一致吗?请回答。",
    "😀 🎬👩‍👩‍👧 𝔘𝔫𝔦 naïve e\u0301 Å ﷺ \u200b\ufeff",
    "Привет, мир! שלום नमस्ते สวัสดี",
    "\x00\x01\x7f\u0378\U0010ffff",
]
# Surrogates are no text; marks of special tokens are parsed as such, and have tests of their own.
# Characters without a meaning yet (Cn) are letters to some versions of Unicode and not to others.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"])).filter(
    lambda text: "<|" not in text and "tool_call>" not in text
)


@cache
def load():
    return Qwen2Tokenizer.from_pretrained(FOLDER, local_files_only=True)


def encode(text: str) -> list[int]:
    return load()(text, add_special_tokens=False)["input_ids"]


@cache
def vocabulary() -> dict[str, int]:
    return load().get_vocab()


@cache
def merge_ranks() -> dict[tuple[str, ...], int]:
    lines = (FOLDER / "merges.txt").read_text(encoding="utf-8").split("\n")[:-1]
    return {tuple(line.split(" ")): rank for rank, line in enumerate(lines)}


@cache
def byte_letters() -> list[str]:
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in seen else chr(next(hidden)) for byte in range(256)]


def reference_encode(text: str) -> list[int]:
    """Byte-pair encoding as its definition says: merge the pair of lowest rank until no pair has one."""
    ids, vocab, ranks = [], vocabulary(), merge_ranks()
    for word in regex.findall(PRETOKENIZE_REGEX, unicodedata.normalize("NFC", text)):
        pieces = [byte_letters()[byte] for byte in word.encode()]
        while len(pieces) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(pieces)))
            if rank == len(ranks):
                break
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        ids += [vocab[piece] for piece in pieces]
    return ids


def test_vocabulary_is_the_official_one_byte_for_byte():
    found = hashlib.sha256((FOLDER / "vocab.json").read_bytes()).hexdigest()
    assert found == "ca10d7e9fb3ed18575dd1e277a2579c16d108e32f27439684afa0e10b1440910"


def test_counts():
    assert load().vocab_size == 151643
    assert len(load()) == 151665
    assert len(merge_ranks()) == 151643 - 256


def test_known_ids():
    assert encode("Hello world") == [9707, 1879]


@pytest.mark.parametrize(("token", "token_id"), [*SPECIAL.items(), *MARKS.items()])
def test_every_added_token_is_one_id_and_back(token, token_id):
    assert encode(token) == [token_id]
    assert encode(f"a{token}b") == [64, token_id, 65]
    assert load().convert_tokens_to_ids(token) == token_id
    assert load().decode([token_id]) == token


def test_decoding_skips_control_tokens_and_keeps_marks():
    text = "".join([*SPECIAL, *MARKS])
    assert load().decode(encode(text), skip_special_tokens=True) == "".join(MARKS)


def test_named_tokens_that_the_omni_processor_reads():
    tokenizer = load()
    assert (tokenizer.image_token, tokenizer.audio_token, tokenizer.video_token) == (
        "<|IMAGE|>",
        "<|AUDIO|>",
        "<|VIDEO|>",
    )
    assert (tokenizer.vision_bos_token, tokenizer.vision_eos_token) == ("<|vision_bos|>", "<|vision_eos|>")
    assert (tokenizer.audio_bos_token, tokenizer.audio_eos_token) == ("<|audio_bos|>", "<|audio_eos|>")
    assert (tokenizer.image_token_id, tokenizer.audio_token_id, tokenizer.video_token_id) == (151655, 151646, 151656)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.bos_token is None
    assert tokenizer.unk_token is None


def test_auto_tokenizer_finds_the_same_tokenizer():
    auto = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    assert type(auto) is type(load())
    assert all(auto(text)["input_ids"] == encode(text) for text in SAMPLE)


@pytest.mark.parametrize("text", SAMPLE)
def test_equals_byte_pair_encoding_by_definition(text):
    assert encode(text) == reference_encode(text)


@settings(deadline=None, max_examples=200)
@given(TEXT)
def test_any_text_equals_byte_pair_encoding_by_definition(text):
    assert encode(text) == reference_encode(text)


@settings(deadline=None, max_examples=200)
@given(TEXT)
@example("e\u0301 \u212b")
def test_any_text_comes_back_in_its_composed_form(text):
    assert load().decode(encode(text), clean_up_tokenization_spaces=False) == unicodedata.normalize("NFC", text)


def test_offsets_around_special_tokens_chinese_and_emoji():
    parts = ["<|im_start|>", "user", "\n", "<|AUDIO|>", "<|AUDIO|>", "你好", ",", "世界", "<|audio_eos|>", "👩", " ok"]
    text = "".join(parts)
    found = load()(text, return_offsets_mapping=True)["offset_mapping"]
    assert [text[start:stop] for start, stop in found] == parts


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(TEXT, st.sampled_from([*SPECIAL, *MARKS]), st.sampled_from(SAMPLE)), max_size=8))
def test_offsets_cover_composed_text_without_a_gap(parts):
    text = unicodedata.normalize("NFC", "".join(parts))
    offsets = load()(text, return_offsets_mapping=True)["offset_mapping"]
    covered = 0
    for start, stop in offsets:  # pieces of one character (an emoji is four bytes) share its offsets
        assert start <= covered <= stop
        covered = stop
    assert covered == len(text)
