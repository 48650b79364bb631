"""Tutorial 10: exercise, wrong answer, what is said of it."""

_BYTES = """
def weight_bytes(size, bytes_each):
    attention = {attention}
    mlp = {mlp}
    return {each} * ({layers} * (attention + mlp) + {words})
"""
_RIGHT = {
    "attention": "2 * size.d_model * size.d_head * (size.n_heads + size.n_kv)",
    "mlp": "3 * size.d_model * size.d_mlp",
    "each": "bytes_each",
    "layers": "size.n_layers",
    "words": "2 * size.d_vocab * size.d_model",
}
_APART = """
apart = {{}}
for mode, prompt in prompts.items():
    times, found = {times}, []
    for s in range({seconds}):
        first = [(prompt.spans.between(s, s + 1) & prompt.spans[name]).positions[0] for name in ("video", "audio")]
        found.append(abs(int(times[first[0]] - times[first[1]])))
    apart[mode] = max(found)
"""


def _bytes(**wrong: str) -> str:
    return _BYTES.format(**{**_RIGHT, **wrong})


_HEADS = "4 * size.d_model * size.d_head * size.n_heads"
ROWS = [
    ("10", "weight_bytes", _bytes(words="0"), "without the vocabulary"),
    ("10", "weight_bytes", _bytes(words="size.d_vocab * size.d_model"), "do not share it"),
    ("10", "weight_bytes", _bytes(attention=_HEADS), "n_kv"),
    ("10", "weight_bytes", _bytes(mlp="2 * size.d_model * size.d_mlp"), "three matrices"),
    ("10", "weight_bytes", _bytes(each="2"), "4 bytes a number.*bytes_each"),
    ("10", "weight_bytes", _bytes(each="8 * bytes_each"), "bits"),
    ("10", "weight_bytes", _bytes(layers="1"), "one layer"),
    ("10", "n_tokens", "n_tokens = 120", "one pair"),
    ("10", "n_tokens", "n_tokens = 1200", "covers two frames"),
    ("10", "n_tokens", "n_tokens = 2400", "patches"),
    ("10", "n_tokens", "n_tokens = 638", "whole tokens"),
    ("10", "n_tokens", "n_tokens = 850", "420 x 224"),
    ("10", "apart", _APART.format(times="list(range(prompt.n_pos))", seconds=4), "places in the prompt"),
    ("10", "apart", _APART.format(times="prompt.position_ids[1, 0]", seconds=4), "the height"),
    ("10", "apart", _APART.format(times="prompt.position_ids[0, 0]", seconds=1), "the first second"),
    ("10", "apart", "apart = {'train': 0}", "each mode"),
]
