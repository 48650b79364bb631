"""Samples of tiny-av's task that there are not, and arguments under the names of other libraries."""

import hooked_av as av
from bad import Bad

draw, cases = av.tiny.draw_samples, av.tiny.held_out_cases


def _rows(name: str, says: str, call, *values: object) -> list[Bad]:
    return [Bad(f"{name} {value!r}", lambda at, _, value=value: call(at, value), says) for value in values]


# Of each function, our argument and what other libraries call it.
WORDS = (
    (
        lambda at: at.model.prepare,
        {"question": "prompt text query", "media": "video audio images clip", "options": "choices candidates",
         "answer_prefix": "prefix", "system": "system_prompt"},
    ),
    (
        lambda at: at.model.generate,
        {"inputs": "tokens", "max_new_tokens": "max_tokens max_length", "stop_tokens": "eos_token_id",
         "fwd_hooks": "hooks"},
    ),
    (
        lambda at: av.block_attention,
        {"layers": "layer block", "heads": "head head_index", "keys": "source", "queries": "dest pos"},
    ),
    (lambda at: av.logit_lens, {"at": "pos position", "tokens": "choices"}),
    (lambda at: draw, {"task": "family", "n": "n_samples"}),
)  # fmt: skip

ROWS = [
    *_rows("a task called", "the nearest: auditory", lambda at, v: draw(v, 3), "auditry", "Auditory", "auditory,"),
    *_rows("a task called", "the nearest", lambda at, v: draw(v, 3), "", "digits", "visual, options"),
    *_rows("a task that is", "`task`", lambda at, v: draw(v, 3), None, 5, ["visual"], b"visual"),
    *_rows("so many samples:", "no such questions", lambda at, v: draw("visual", v), 0, -1),
    *_rows("so many samples:", "`n`", lambda at, v: draw("visual", v), "3", 2.5, None, True, [3]),
    *_rows("samples with seed", "seed -1", lambda at, v: draw("visual", 1, seed=v), -1),
    *_rows("samples with seed", "`seed`", lambda at, v: draw("visual", 1, seed=v), "1", 1.5, None),
    *_rows("samples of the split", "`split`", lambda at, v: draw("visual", 1, split=v), "test", "heldout", None, 1),
    *_rows("samples with options", "`options`", lambda at, v: draw("visual", 1, options=v), 2, "yes", None),
    *_rows("so many cases:", "no such questions", lambda at, v: cases(at.model, "visual", v), 0, -3),
    Bad("cases with seed -1", lambda at, _: cases(at.model, "visual", 1, seed=-1), "seed -1"),
    Bad("one clip of several items", lambda at, _: draw("spoken in item", 1)[0].clip, "take sample.media"),
    Bad("a setting that no prompt has", lambda at, _: draw("visual", 1)[0].prepare(at.model, fps=3), "fps"),
    Bad("a clip of the package, by argument", lambda at, _: av.sample_clips("two-seconds"), "too many positional"),
    *[
        Bad(f"{word}= for {ours}=", lambda at, _, call=call, word=word: call(at)(**{word: "last"}), f"write {ours}=")
        for call, meant in WORDS
        for ours, words in meant.items()
        for word in words.split()
    ],
]
