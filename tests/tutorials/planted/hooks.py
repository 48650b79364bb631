"""Tutorial 01: exercise, wrong answer, what is said of it."""

NO_START = """
def rebuilt(cache, layer, span):
    parts = ("hook_attn_out", "hook_mlp_out")
    return sum(cache[f"blocks.{i}.{part}@{span}"] for i in range(layer + 1) for part in parts)
"""
ONE_LAYER_LESS = """
def rebuilt(cache, layer, span):
    parts = ("hook_attn_out", "hook_mlp_out")
    blocks = sum(cache[f"blocks.{i}.{part}@{span}"] for i in range(layer) for part in parts)
    return cache[f"hook_inputs_embed@{span}"] + blocks
"""
PLACEHOLDERS = """
def rebuilt(cache, layer, span):
    parts = ("hook_attn_out", "hook_mlp_out")
    blocks = sum(cache[f"blocks.{i}.{part}@{span}"] for i in range(layer + 1) for part in parts)
    return cache[f"hook_embed@{span}"] + blocks
"""
NO_MLP = """
def rebuilt(cache, layer, span):
    blocks = sum(cache[f"blocks.{i}.hook_attn_out@{span}"] for i in range(layer + 1))
    return cache[f"hook_inputs_embed@{span}"] + blocks
"""
ONLY_THIS_LAYER = """
def rebuilt(cache, layer, span):
    added = cache[f"blocks.{layer}.hook_attn_out@{span}"] + cache[f"blocks.{layer}.hook_mlp_out@{span}"]
    return cache[f"hook_inputs_embed@{span}"] + added
"""
OVERWRITTEN = """
def swap(rows, hook):
    half = rows.shape[1] // 2
    rows[:, :half] = rows[:, half:]
    rows[:, half:] = rows[:, :half]
    return rows
"""
NOT_RETURNED = """
def swap(rows, hook):
    first, second = rows.chunk(2, dim=1)
    swapped = torch.cat([second, first], dim=1)
"""
ROWS = [
    ("01", "name_of_reads", "reads = 'blocks.*.attn.hook_pattern'", "add @"),
    ("01", "name_of_reads", "reads = 'blocks.*.attn.hook_pattern@word<-last'", "who reads comes first"),
    ("01", "name_of_reads", "reads = 'blocks.*.attn.hook_attn_scores@last<-word'", "before the softmax"),
    ("01", "name_of_reads", "reads = 'blocks.3.attn.hook_pattern@last<-word'", "one layer"),
    ("01", "name_of_reads", "reads = 'blocks.*.attn.hook_pattern@last'", "all that they read"),
    ("01", "name_of_reads", "reads = 'blocks.*.hook_resid_post@last<-word'", "shares of attention are at"),
    ("01", "name_of_reads", "reads = 'blocks.*.attn.hook_pattern@question<-word'", "the answer begins at `last`"),
    ("01", "name_of_reads", "reads = 'blocks.*.attn.hook_pattern@last<-audio'", "you named audio"),
    ("01", "residual_by_hand", NO_START, "the stream begins with hook_inputs_embed"),
    ("01", "residual_by_hand", ONE_LAYER_LESS, "one layer is missing"),
    ("01", "residual_by_hand", PLACEHOLDERS, "placeholders of media"),
    ("01", "residual_by_hand", NO_MLP, "attention alone"),
    ("01", "residual_by_hand", ONLY_THIS_LAYER, "the earlier ones stay"),
    ("01", "residual_by_hand", "rebuilt = lambda cache, layer, span: cache['resid_post', layer]", "you gave"),
    ("01", "swapping_hook", OVERWRITTEN, "overwritten before it was read"),
    ("01", "swapping_hook", NOT_RETURNED, "return the new ones"),
    ("01", "swapping_hook", "swap = lambda rows, hook: rows.flip(1)", "runs backwards"),
    ("01", "swapping_hook", "swap = lambda rows, hook: rows.flip(0)", "axis 1 is pos"),
    ("01", "swapping_hook", "swap = lambda rows, hook: rows.chunk(2, dim=1)[1]", "a hook keeps the shape"),
    ("01", "first_order", "promised = lambda gradient, old, new: (gradient * (old - new)).sum()", "other way round"),
    ("01", "first_order", "promised = lambda gradient, old, new: (gradient * new).sum()", "from zero to new"),
    ("01", "first_order", "promised = lambda gradient, old, new: (gradient * (new - old)).mean()", "a mean"),
    ("01", "first_order", "promised = lambda gradient, old, new: gradient * (new - old)", "one number"),
    ("01", "first_order", "promised = lambda gradient, old, new: (new - old).sum()", "is in the gradient"),
]
