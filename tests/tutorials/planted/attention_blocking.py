"""Tutorial 03: exercise, wrong answer, what is said of it."""


def _function(*lines: str) -> str:
    return "\n    ".join(["def knock_out(scores, queries, keys):", "scores = scores.clone()", *lines, "return scores"])


ROWS = [
    ("03", "knock_out", _function("scores[:, :, keys[:, None], queries] = -torch.inf"), "swapped"),
    ("03", "knock_out", _function("scores[:, :, queries[:, None], keys] = 0"), "has a weight: use -inf"),
    ("03", "knock_out", _function("scores[:, :, queries, keys] = -torch.inf"), "paired one by one"),
    ("03", "knock_out", _function("scores[:, :, queries] = -torch.inf"), "more is cut"),
    ("03", "knock_out", _function("scores[:, 0, queries[:, None], keys] = -torch.inf"), "some heads still"),
    ("03", "knock_out", _function(), "nothing changed"),
    ("03", "knock_out", "knock_out = lambda scores, queries, keys: None", "return the scores"),
    ("03", "second_half", "cut = 'media->asked@2-4'", "first half begins"),
    ("03", "second_half", "cut = 'prompt_begin->asked@2-4'", "before the arrow"),
    ("03", "second_half", "cut = 'asked->prompt_end|last'", "in every layer"),
    ("03", "second_half", "cut = 'asked->prompt_end|last@0-2'", "reads what is asked"),
    ("03", "second_half", "cut = 'asked->prompt_end|last@3-4'", "other layers"),
    ("03", "routes", "answer = {'plain': 'through', 'lettered': 'past'}", "both are wrong"),
    ("03", "routes", "answer = {'plain': 'past', 'lettered': 'past'}", "not .'lettered'.*random cuts"),
    ("03", "routes", "answer = {'plain': 'sequential', 'lettered': 'direct'}", "each .through. or .past."),
    ("03", "standing_in", "layers = [4]", "stand in for itself"),
    ("03", "standing_in", "layers = range(8)", "works with 3"),
    ("03", "standing_in", "layers = [0, 1, 2]", "not missed either"),
]
