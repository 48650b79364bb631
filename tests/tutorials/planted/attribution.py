"""Tutorial 07: exercise, wrong answer, what is said of it."""

# a head's share by hand, with one thing wrong: what is written, the norm, the direction, what is given
_BY_HAND = """
def head_writes(inputs, layer, head, answer, alternative):
    z, norm = f"blocks.{{layer}}.attn.hook_z@last", "ln_final.hook_scale@last"
    _, cache = model.run_with_cache(inputs, names_filter=[z, norm])
    gain, scale = model.ln_final.weight, cache[norm][0, 0]
    one, two = (model.W_U[:, model.to_single_token(text)] for text in (answer, alternative))
    return {given}
"""
_HEAD = "cache[z][0, 0, head] @ model.W_O[layer, head]"


def _by_hand(given):
    return _BY_HAND.format(given=given)


ROWS = [
    ("07", "head_writes", _by_hand(f"(({_HEAD}) * gain / scale @ (two - one)).item()"), "the sign"),
    (
        "07",
        "head_writes",
        _by_hand(
            "sum((cache[z][0, 0, h] @ model.W_O[layer, h] * gain / scale @ (one - two)).item() for h in range(4))"
        ),
        "the whole layer",
    ),
    ("07", "head_writes", _by_hand(f"(({_HEAD}) * gain @ (one - two)).item()"), "not divided by the scale"),
    ("07", "head_writes", _by_hand(f"(({_HEAD}) / scale @ (one - two)).item()"), "without the gain"),
    ("07", "head_writes", _by_hand(f"(({_HEAD}) @ (one - two)).item()"), "without the final norm"),
    ("07", "head_writes", _by_hand(f"(({_HEAD}) * gain / scale @ one).item()"), "the answer's logit alone"),
    ("07", "head_writes", _by_hand(f"({_HEAD}).detach().numpy()"), "one number is asked for"),
    (
        "07",
        "head_writes",
        "head_writes = lambda inputs, layer, head, answer, alternative: 77.0",
        "77.000, but it should",
    ),
    ("07", "cell", "cell = ('sound', 3)", "no such row"),
    ("07", "cell", "cell = ('audio · resid_pre', 0)", "another component"),
    ("07", "cell", "cell = ('last · attn_out', 8)", "from 0 to 7"),
    ("07", "cell", "cell = ('question · attn_out', 0)", "another one by"),
    (
        "07",
        "cell",
        "of = estimate.to_frame().query('row.str.endswith(\"attn_out\")')\n"
        "cell = tuple(of.loc[of.effect.abs().idxmax(), ['row', 'layer']])",
        "that is the largest estimate",
    ),
    ("07", "estimated_change", "estimated_change = lambda slope, n: slope(0.0)", "the tangent that failed"),
    ("07", "estimated_change", "estimated_change = lambda slope, n: slope(0.5)", "whatever n is"),
    (
        "07",
        "estimated_change",
        "estimated_change = lambda slope, n: sum(slope((i + 0.5) / n) for i in range(n))",
        "1 / n",
    ),
    (
        "07",
        "estimated_change",
        "estimated_change = lambda slope, n: sum(slope(i / n) for i in range(n)) / n",
        "in the middle",
    ),
    ("07", "estimated_change", "estimated_change = lambda slope, n: 7.0", "rises by 2 this is 7"),
    ("07", "receiver", "receiver = 'blocks.5.attn.hook_q'", "an MLP is asked for"),
    ("07", "receiver", "receiver = 'blocks.2.hook_mlp_out'", "through another one"),
    (
        "07",
        "receiver",
        "maps = {f'blocks.{n}.hook_mlp_out': None for n in range(8)}\n"
        "maps = {name: np.nansum(av.patch_path(model, **both, receiver=name).effects) for name in maps}\n"
        "receiver = max(maps, key=maps.get)",
        "lose least",
    ),
]
