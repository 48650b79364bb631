"""Tutorial 05: exercise, wrong answer, what is said of it."""


def _rule(*lines: str) -> str:
    return "\n    ".join(["def streams(clean, cut, random):", *lines])


ROWS = [
    ("05", "hidden", "hidden = 'item0|item1'", "which of its two streams"),
    ("05", "hidden", "hidden = 'item0|item2.video'", "nobody asks about"),
    ("05", "hidden", "hidden = 'item0|item1|item2.audio'", "what the question is about"),
    ("05", "hidden", "hidden = 'item1|item2'", "count from 0"),
    ("05", "hidden", "hidden = 'item0|boundary'", "more than the items"),
    ("05", "sealed", "sealed = ['item0->item1|item2', 'item1->item2']", "tokens between the items"),
    (
        "05",
        "sealed",
        "sealed = ['item0->item1|item2', 'item0|item1|item2->boundary']",
        "item2 still knows of item1.*open",
    ),
    ("05", "sealed", "sealed = ['item0|item1|item2->boundary', 'item2->item1']", "item1 comes before item2"),
    ("05", "sealed", "sealed = ['item0|item1|item2->boundary|text']", "must go on reading"),
    ("05", "streams", _rule("return 'parallel'"), "that is 'sequential'"),
    ("05", "streams", _rule("return 'sequential' if clean - cut > 0.1 else 'parallel'"), "any cut of that size"),
    (
        "05",
        "streams",
        _rule("return 'cannot say' if clean - random > 0.1 else 'sequential' if clean - cut > 0.1 else 'parallel'"),
        "clearer it cannot be",
    ),
    (
        "05",
        "streams",
        _rule("return 'sequential' if random - cut > 0.1 else 'parallel' if cut - random > 0.1 else 'cannot say'"),
        "no trouble",
    ),
]
