"""Tutorial 04: exercise, wrong answer, what is said of it."""

BY_THE_WORDS_THAT_COME_IN = "read = lambda rows: (model.ln_final(rows) @ model.W_E.T).softmax(dim=-1)"
UNIT = """
def control(directions, seed):
    drawn = torch.randn(directions.shape, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True)
"""
ONE_SEED = """
def control(directions, seed):
    drawn = torch.randn(directions.shape, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.norm(dim=-1, keepdim=True) * directions.norm(dim=-1, keepdim=True)
"""
NO_SEED = """
def control(directions, seed):
    drawn = torch.randn(directions.shape)
    return drawn / drawn.norm(dim=-1, keepdim=True) * directions.norm(dim=-1, keepdim=True)
"""
SHUFFLED = """
def control(directions, seed):
    return directions[torch.randperm(len(directions), generator=torch.Generator().manual_seed(seed))]
"""
ROWS = [
    ("04", "read_by_hand", "read = lambda rows: model.unembed(model.ln_final(rows))", "these are logits"),
    ("04", "read_by_hand", "read = lambda rows: model.unembed(rows).softmax(dim=-1)", "without the final norm"),
    ("04", "read_by_hand", "read = lambda rows: model.unembed(model.ln_final(rows)).softmax(dim=1)", "last axis"),
    ("04", "read_by_hand", BY_THE_WORDS_THAT_COME_IN, "words that come in"),
    ("04", "read_by_hand", "read = lambda rows: model.ln_final(rows).softmax(dim=-1)", "a lens gives"),
    ("04", "which_convention", "convention = 'layer_input'", "theirs jumps"),
    ("04", "which_convention", "convention = 'no_norm'", "one layer later"),
    ("04", "which_convention", "convention = 'no_norm+layer_input+input_embedding'", "not said in the last layer"),
    ("04", "random_control", UNIT, "of other lengths"),
    ("04", "random_control", ONE_SEED, "the same for every seed"),
    ("04", "random_control", NO_SEED, "nobody could repeat it"),
    ("04", "random_control", SHUFFLED, "in another order"),
    ("04", "random_control", "control = lambda directions, seed: directions", "these are the true directions"),
    ("04", "who_listens", "cut = 'av->question'", "said there, and nobody needs it"),
    ("04", "who_listens", "cut = 'av->last'", "does not come from the media straight"),
    ("04", "who_listens", "cut = 'options->av'", "keys come first"),
    ("04", "who_listens", "cut = 'options->last'", "the clip is what is read"),
    ("04", "who_listens", "cut = 'av->text'", "one of question"),
    ("04", "who_listens", "cut = 'av->options@3'", "leave out @"),
]
