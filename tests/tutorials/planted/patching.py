"""Tutorial 02: exercise, wrong answer, what is said of it."""

# a head by hand, with one thing wrong: the prompt that is kept, the prompt that runs, the span, the new rows
_BY_HAND = """
def patch_head(clean, corrupt, layer, head):
    name = f"blocks.{{layer}}.attn.hook_z{span}"
    _, kept = model.run_with_cache({source}, names_filter=name)
    return model.run_with_hooks({run}, fwd_hooks=[(name, lambda rows, hook: {new})], logits_at="last")
"""
_ONE_HEAD = "rows.index_copy(2, torch.tensor([head]), kept[name][:, :, [head]])"


def _by_hand(*, source="clean", run="corrupt", span="@last", new=_ONE_HEAD):
    return _BY_HAND.format(source=source, run=run, span=span, new=new)


ROWS = [
    ("02", "effect", "effect = lambda patched, clean, corrupt: patched / clean", "changes nothing must give 0"),
    ("02", "effect", "effect = lambda patched, clean, corrupt: patched - corrupt", "divide by how much was lost"),
    ("02", "effect", "effect = lambda patched, clean, corrupt: (clean - patched) / (clean - corrupt)", "still missing"),
    ("02", "effect", "effect = lambda patched, clean, corrupt: (patched - corrupt) / (corrupt - clean)", "the sign"),
    (
        "02",
        "effect",
        "effect = lambda patched, clean, corrupt: (patched - clean) / (clean - corrupt)",
        "from the corrupt",
    ),
    ("02", "effect", "effect = lambda patched, clean, corrupt: 0.5", "of 16 lost, 10 came back"),
    ("02", "effect", "effect = lambda patched, clean, corrupt: 10 / 16", "must have effect 1"),
    ("02", "patch_head", _by_hand(new="None"), "does the hook return"),
    ("02", "patch_head", _by_hand(run="clean"), "corrupt prompt that must run"),
    ("02", "patch_head", _by_hand(source="corrupt", run="clean"), "the wrong way round"),
    ("02", "patch_head", _by_hand(new="kept[name]"), "all heads"),
    ("02", "patch_head", _by_hand(span=""), "every position"),
    ("02", "patch_head", _by_hand(new=_ONE_HEAD.replace("head]", "0]")), "always the same head"),
    ("02", "patch_head", _by_hand(new="rows * 0"), "other logits"),
    ("02", "patch_head", "patch_head = lambda clean, corrupt, layer, head: 3.5", "logits of the last position"),
    ("02", "place", "place = 'video 2-3 s'", "nothing of them can be brought back"),
    ("02", "place", "place = 'third'", "no such place"),
    ("02", "place", "place = 'audio 3-4 s'", "one too late"),
    ("02", "place", "place = 'audio 1-2 s'", "one too early"),
    ("02", "place", "place = 'audio 0-1 s'", "darkest column"),
    ("02", "group", "group = []", "no layer"),
    ("02", "group", "group = [8]", "from 0 to 7"),
    ("02", "group", "group = [0, 7]", "no neighbours"),
    ("02", "group", "group = [0]", "add a neighbour, or move"),
    ("02", "group", "group = list(range(8))", "fewer than 8 layers"),
]
