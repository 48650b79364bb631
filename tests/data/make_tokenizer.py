"""Rebuild the Qwen2.5-Omni tokenizer that the package carries from the ranks in the dashscope wheel.

    pip download --no-deps --dest /tmp dashscope==2.0.2
    python tests/data/make_tokenizer.py dashscope-2.0.2-py3-none-any.whl hooked_av/data/tokenizer

The wheel (Apache-2.0, Alibaba Cloud) holds `qwen.tiktoken`: one line a token, base64 bytes and rank. A byte-level BPE
wants the vocabulary (rank -> token, which is the token's id) and the merges. A token's merge is the pair of pieces that
are left when its bytes are encoded with lower ranks only. The known checksums of the ranks and of the vocabulary are
checked on the way.
"""

import base64
import hashlib
import json
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

RANKS_MEMBER = "dashscope/resources/qwen.tiktoken"
LICENSE_MEMBER = "dashscope-2.0.2.dist-info/licenses/LICENSE"
RANKS_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
VOCAB_SHA256 = "ca10d7e9fb3ed18575dd1e277a2579c16d108e32f27439684afa0e10b1440910"

ROLES = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
# In the order of their ids, the first of which is 151643. As in the official file, the control tokens are "special"
# (decoding can skip them) and the tool and code marks are ordinary added tokens.
CONTROL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>"),
)
MARKS = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
)


def byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself where that is visible, else the next letter from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def read_ranks(wheel: Path) -> dict[bytes, int]:
    with zipfile.ZipFile(wheel) as archive:
        raw = archive.read(RANKS_MEMBER)
    found = hashlib.sha256(raw).hexdigest()
    if found != RANKS_SHA256:
        raise SystemExit(f"{RANKS_MEMBER}: sha256 {found}, expected {RANKS_SHA256}")
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in raw.splitlines() if line)}


def merge_of(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The last pair left when `token` is encoded with the ranks below its own."""
    pieces = [bytes([byte]) for byte in token]
    while len(pieces) > 2:
        joined = [ranks.get(left + right, len(ranks)) for left, right in pairwise(pieces)]
        at = min(range(len(joined)), key=joined.__getitem__)
        if joined[at] >= ranks[token]:
            raise SystemExit(f"token {token!r} is not a merge of two tokens of lower rank")
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces[0], pieces[1]


def tokenizer_config(n_ranks: int) -> dict:
    added = {
        str(n_ranks + i): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in CONTROL,
        }
        for i, token in enumerate(CONTROL + MARKS)
    }
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "extra_special_tokens": ROLES,
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen2_5OmniProcessor",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def build(wheel: Path, folder: Path) -> None:
    ranks = read_ranks(wheel)
    letters = byte_letters()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocab = {spelled(token): rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])}
    vocab_json = json.dumps(vocab, ensure_ascii=False, separators=(",", ":"))
    found = hashlib.sha256(vocab_json.encode()).hexdigest()
    if found != VOCAB_SHA256:
        raise SystemExit(f"vocab.json: sha256 {found}, expected {VOCAB_SHA256}")
    pairs = (merge_of(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1)
    merges = "".join(f"{spelled(left)} {spelled(right)}\n" for left, right in pairs)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(vocab_json, encoding="utf-8", newline="\n")
    (folder / "merges.txt").write_text(merges, encoding="utf-8", newline="\n")
    config = json.dumps(tokenizer_config(len(ranks)), indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(config, encoding="utf-8", newline="\n")
    with zipfile.ZipFile(wheel) as archive:
        (folder / "LICENSE").write_bytes(archive.read(LICENSE_MEMBER))


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
