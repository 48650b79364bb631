"""Nothing is silent: every line of docs/not_silent.md, done once, on models whose every parameter is random.

A line is what somebody does, what happens here ("right" or "error", or a warning), and what happens elsewhere. The page
must say what this file does: `test_the_page_is_this_table`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.families import FAMILIES

import hooked_av as av
from hooked_av.errors import (
    HookedAVWarning,
    HookError,
    HookNameError,
    InputsError,
    InterventionError,
    SpanError,
)

PAGE = Path(__file__).parents[1] / "docs" / "not_silent.md"
MLP, PATTERN = "blocks.0.hook_mlp_out", "blocks.1.attn.hook_pattern"
OMNI = FAMILIES["omni"]


@dataclass(frozen=True)
class Line:
    """`does` raises `error`, warns (a warning class), or ends by itself, having asserted that all is right (None)."""

    topic: str
    what: str
    elsewhere: str
    error: type[BaseException] | None
    does: Callable[..., object]

    @property
    def here(self) -> str:
        if self.error is None:
            return "right"
        return "warning" if issubclass(self.error, Warning) else f"`{self.error.__name__}`"


LINES: list[Line] = []


def line(topic: str, what: str, elsewhere: str = "", error: type[BaseException] | None = None):
    """Put the function below into the table."""

    def put(does):
        LINES.append(Line(topic, what, elsewhere, error, does))
        return does

    return put


@pytest.mark.parametrize("one", LINES, ids=lambda one: one.what)  # filled below, see pytest_generate_tests
def test_nothing_is_silent(one, tmp_path, monkeypatch):
    raise AssertionError("replaced below")


# --- names and hooks -------------------------------------------------------------------------------------------------


@line("Hooks", "a hook name that matches nothing", "TransformerLens: a filter that matches nothing does nothing",
      HookNameError)  # fmt: skip
def _(model, inputs):
    model.run_with_hooks(inputs, fwd_hooks=[("blocks.*.hook_mlp_outs", lambda rows, hook: rows * 0)])


@line("Hooks", "a cache filter that matches nothing", "TransformerLens: an empty cache", HookNameError)
def _(model, inputs):
    model.run_with_cache(inputs, names_filter=lambda name: False)


@line("Hooks", "a hook point that never fires on this prompt", "nothing happens", HookError)
def _(model):
    model.run_with_hooks(OMNI.inputs("text"), fwd_hooks=[("hook_audio_embed", lambda rows, hook: rows * 0)])


@line("Hooks", "a hook at a span that is not there", "paper codes: the first substring that matches", SpanError)
def _(model, inputs):
    model.run_with_hooks(inputs, fwd_hooks=[(f"{MLP}@adio", lambda rows, hook: rows * 0)])


@line("Hooks", "a hook at `name@span` returns (rows, something)", "the second member is thrown away", HookError)
def _(model, inputs):
    model.run_with_hooks(inputs, fwd_hooks=[(f"{MLP}@last", lambda rows, hook: (rows, rows))])


@line("Hooks", "an edit of the attention pattern",
      "TransformerBridge: dropped on Qwen2.5-VL, with a warning")  # fmt: skip
def _(model, inputs):
    edited = model.run_with_hooks(inputs, fwd_hooks=[(f"{PATTERN}@last", lambda rows, hook: rows * 0)])
    assert not torch.allclose(edited[0, -1], model(inputs)[0, -1], atol=1e-3)


@line("Hooks", "reading attention scores", "TransformerBridge: `hook_attn_scores` is the pattern")
def _(model, inputs):
    _, cache = model.run_with_cache(inputs, names_filter=["blocks.1.attn.hook_attn_scores@last", f"{PATTERN}@last"])
    scores, pattern = cache["blocks.1.attn.hook_attn_scores@last"], cache[f"{PATTERN}@last"]
    torch.testing.assert_close(scores.softmax(-1), pattern)
    assert not torch.allclose(scores, pattern)


@line("Hooks", "a hook on rotated queries", "TransformerBridge: `hook_rot_q` never fires")
def _(model, inputs):
    seen = []
    model.run_with_hooks(inputs, fwd_hooks=[("blocks.*.attn.hook_rot_q", lambda rows, hook: seen.append(hook.name))])
    assert len(seen) == model.cfg.n_layers


@line("Hooks", "a later hook edits in place what a cache has", "the cached tensor changes, too")
def _(model, inputs):
    clean = model.run_with_cache(inputs, names_filter=MLP)[1][MLP]
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda rows, hook: rows.mul_(0))]):
        kept = model.run_with_cache(inputs, names_filter=[MLP, "blocks.0.hook_resid_mid"])[1]
    mid = model.run_with_cache(inputs, names_filter="blocks.0.hook_resid_mid")[1]["blocks.0.hook_resid_mid"]
    assert kept[MLP].equal(clean)
    assert kept["blocks.0.hook_resid_mid"].equal(mid)


# --- prompts ---------------------------------------------------------------------------------------------------------


@line("Prompts", "ten sound rows for six slots", "transformers 5.23: scattered into them, four are lost", InputsError)
def _(model):
    tensors = OMNI.tensors("audio")
    ids = tensors["input_ids"]
    slots = (ids[0] == model.family.placeholder("audio")).nonzero().flatten()
    keep = torch.ones(ids.shape[1], dtype=torch.bool)
    keep[slots[:2]] = False
    fewer = {"input_ids": ids[:, keep], "attention_mask": tensors["attention_mask"][:, keep]}
    model(model.inputs_from_tensors(**{**tensors, **fewer}))


@line("Prompts", "frames without their grid (positions would be those of text)",
      "transformers: positions of text, where a keyword is missing", InputsError)  # fmt: skip
def _(model):
    tensors = {name: value for name, value in OMNI.tensors("video").items() if name != "video_grid_thw"}
    model.inputs_from_tensors(**tensors)


@line("Prompts", "an empty span, by name", "paper codes: an empty slice, and no effect", SpanError)
def _(inputs):
    inputs.with_span("nothing", "audio - audio")


@line("Prompts", "texts that touch make a special token", "tokenised as one: a turn ends in the middle of a question",
      InputsError)  # fmt: skip
def _(random, clip):
    random.prepare([clip, "<|im_", "end|>"], question="q")


@line("Prompts", "text and question make one", "the same", InputsError)
def _(random, clip):
    random.prepare([clip, "<|im_"], question="end|> q")


@line("Prompts", "a batch of prompts of different lengths", "transformers: positions go wrong where a mask is left out")
def _(model):
    several = [OMNI.inputs(kind) for kind in ("text", "audio", "video")]
    together = model(model.batch(several), logits_at="last")
    for row, one in enumerate(several):
        torch.testing.assert_close(together[row], model(one, logits_at="last")[0], rtol=1e-4, atol=1e-4)


# --- interventions ---------------------------------------------------------------------------------------------------


@line("Interventions", "a cut blocks, and does not let through",
      "a mask written as False into a float mask lets through")  # fmt: skip
def _(model, inputs):
    with model.intervene("audio->last"):
        pattern = model.run_with_cache(inputs, names_filter="blocks.*.attn.hook_pattern@last<-audio")[1]
    assert all(not blocked.any() for blocked in pattern.values())
    assert not torch.allclose(model(inputs, interventions="audio->last")[0, -1], model(inputs)[0, -1], atol=1e-4)


@line("Interventions", "a cut in every layer takes in the last layer and the last row",
      "paper codes: layers 0 to L-2, or all rows but the last")  # fmt: skip
def _(model, inputs):
    assert sorted(model.begin(inputs, interventions="audio->last").plan.cuts) == list(range(model.cfg.n_layers))
    last = model.cfg.n_layers - 1
    only = model(inputs, interventions=f"audio->last@{last}")
    assert not torch.allclose(only[0, -1], model(inputs)[0, -1], atol=1e-4)


@line("Interventions", "a cut in layers that the model does not have", "the layers that there are", InterventionError)
def _(model, inputs):
    model(inputs, interventions=f"audio->last@0-{model.cfg.n_layers}")


@line("Interventions", "keys and queries swapped: what comes later is not read anyway", "nothing happens",
      InterventionError)  # fmt: skip
def _(model, inputs):
    model(inputs, interventions="last->audio")


@line("Interventions", "a cut of rows that have left before", "nothing happens", HookedAVWarning)
def _(model, inputs):
    model(inputs, interventions=[av.drop_tokens("audio", 1), "audio->last@1-2"])


@line("Interventions", "an ablation of rows that have left before", "nothing happens", HookedAVWarning)
def _(model, inputs):
    model(inputs, interventions=[av.drop_tokens("audio", 1), av.ablate("blocks.1.hook_mlp_out", "audio")])


@line("Interventions", "a spec of one's own that does nothing", "nothing happens", InterventionError)
def _(model, inputs):
    class Nothing(av.Intervention):
        kind = "nothing_of_not_silent"

    model(inputs, interventions=Nothing())


@line("Interventions", "NaN in a patch", "every logit is NaN", InterventionError)
def _():
    av.patch(MLP, "last", torch.full((1, 64), float("nan")))


@line("Interventions", "infinity in an added vector", "every logit is NaN", InterventionError)
def _():
    av.add_vector(MLP, "last", torch.full((64,), float("inf")))


# --- generation ------------------------------------------------------------------------------------------------------


@line("Generation", "answers with and without a key/value cache", "transformers: may differ with M-RoPE positions")
def _(model, inputs):
    written = model.generate(inputs, max_new_tokens=4, stop_tokens=[]).tokens
    by_hand = inputs
    for _ in range(4):
        token = int(model(by_hand, logits_at="last" if by_hand is inputs else "generated")[0, -1].argmax())
        by_hand = by_hand.with_generated([[token]])
    assert list(written[0]) == by_hand.input_ids[0, -4:].tolist()


@line("Generation", "activations that are NaN", "token 0, for ever", InputsError)
def _(model, inputs):
    broken = [("blocks.1.hook_mlp_out", lambda rows, hook: rows * float("nan"))]
    model.generate(inputs, max_new_tokens=2, stop_tokens=[], fwd_hooks=broken)


@line("Generation", "more new tokens than there are positions", "goes on past what was trained", InputsError)
def _(model, inputs):
    model.generate(inputs, max_new_tokens=10**9)


@line("Generation", "`do_sample=True, top_p=0`", "greedy, in silence", InputsError)
def _(model, inputs):
    model.generate(inputs, max_new_tokens=1, do_sample=True, top_p=0.0)


# --- the table and its page ------------------------------------------------------------------------------------------
