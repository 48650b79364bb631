"""Public doors: every public function has one, every argument whose default is None takes None, words are ours."""

import inspect
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from jaxtyping import Float
from torch import Tensor, zeros

import hooked_av as av
from hooked_av.doors import OTHER_WORDS, door, mismatch
from hooked_av.errors import ArgumentError
from hooked_av.forward.passes import Pass
from hooked_av.replay.baseline import Baseline

PLACES = (av, av.datasets, av.interventions, av.tiny, av.plots)
# Given to nobody but our own code, or with no argument to check.
METHODS = {
    av.HookedAVTransformer: {
        *("prepare", "batch", "baseline", "begin", "forward", "generate", "from_hf", "from_pretrained"),
        *("save_pretrained", "inputs_from_tensors", "run_with_cache", "hooks", "add_hook", "get_caching_hooks"),
        *("add_caching_hooks", "to_tokens", "to_string", "to_str_tokens", "to_single_token"),
        *("loss_fn", "to_single_str_token", "get_token_position", "tokens_to_residual_directions"),
        *("all_composition_scores", "set_use_attn_result", "set_use_split_qkv_input", "set_use_attn_in"),
        "set_use_hook_mlp_in",
    },
    av.Clip: {"from_file", "from_arrays", "from_image", "cut", "save", "with_audio", "with_frames", "read_frames"},
    av.AVInputs: {"from_tokens", "row", "to", "with_generated", "with_positions", "with_span", "positions_after"},
    Baseline: {"run", "logits_under"},
    Pass: {"block", "unembed", "finish"},
}


def with_doors():
    for place in PLACES:
        for name in place.__all__:
            if inspect.isfunction(found := getattr(place, name)):
                yield name, found
    for owner, names in METHODS.items():
        for name in sorted(names):
            found = inspect.getattr_static(owner, name)
            yield f"{owner.__name__}.{name}", getattr(found, "__func__", found)


def signature(function):
    """What a door knows, also below a decorator of another kind (contextmanager, no_grad)."""
    while not hasattr(function, "__door__"):
        function = function.__wrapped__
    return function.__door__


DOORS = dict(with_doors())


@pytest.mark.parametrize("name", DOORS)
def test_every_public_function_checks_its_calls(name):
    hints = signature(DOORS[name]).hints
    parameters = signature(DOORS[name]).signature.parameters
    assert hints.keys() >= parameters.keys() - {"self", "cls"}


@pytest.mark.parametrize("name", DOORS)
def test_every_default_is_taken_when_it_is_given_in_words(name):
    known = signature(DOORS[name])
    for parameter in known.signature.parameters.values():
        if parameter.default is not parameter.empty:
            assert mismatch(parameter.default, known.hints[parameter.name]) is None, parameter


@door
def kept(
    spans: str | Sequence[str],
    share: float = 0.5,
    n: int | None = None,
    *more: int,
    spread: Literal["rows", "all"] = "rows",
    rows: Float[Tensor, "pos d_model"] | None = None,
    flag: bool = False,
):
    return spans, share, n, more, spread, rows, flag


@pytest.mark.parametrize("call", [
    lambda: kept("audio"), lambda: kept(["a", "b"], 1, None, 3, 4, spread="all"), lambda: kept((), flag=True),
    lambda: kept("a", rows=zeros(2, 3)), lambda: kept("a", np.float32(0.5), np.int64(3)), lambda: kept("a", share=0),
])  # fmt: skip
def test_what_fits_passes(call):
    call()


@pytest.mark.parametrize(("call", "says"), {
    "kind": (lambda: kept(7), ["this `spans`", "str or Sequence[str]", "7 (int)"]),
    "item": (lambda: kept(["a", 3]), ["['a', 3] (list)", "str or Sequence[str]"]),
    "number in quotes": (lambda: kept("a", "0.5"), ["float", "'0.5' (str)", "write 0.5 without quotes"]),
    "none": (lambda: kept("a", None), ["this `share`", "None"]),
    "true is no number": (lambda: kept("a", n=True), ["this `n`", "True (bool)"]),
    "literal": (lambda: kept("a", spread="row"), ["'rows' or 'all'"]),
    "shape": (lambda: kept("a", rows=zeros(3)), ["Float[Tensor, 'pos d_model'] or None", "[3] of torch.float32"]),
    "dtype": (lambda: kept("a", rows=zeros(2, 3).int()), ["Tensor [2, 3] of torch.int32"]),
    "more": (lambda: kept("a", 0.5, 1, "x"), ["this `more`"]),
    "missing": (lambda: kept(), ["kept: missing a required argument: 'spans'", "spans, share, n"]),
    "unknown": (lambda: kept("a", sprad="all"), ["unexpected keyword argument 'sprad'", "expected: spread"]),
    "too long": (lambda: kept(["x" * 9_999] * 999, 0.5, "y" * 10_000), ["this `n`", "..."]),
}.values())  # fmt: skip
def test_what_does_not_fit_is_said_in_four_parts(call, says):
    with pytest.raises(ArgumentError) as refused:
        call()
    for words in says:
        assert words in str(refused.value)
    assert len(str(refused.value)) < 500
    assert isinstance(refused.value, TypeError)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(("call", "meant"), {
    "prompt": (lambda at: at.prepare(None, prompt="Which?"), "question="),
    "text": (lambda at: at.prepare(text="Which?"), "question="),
    "clip": (lambda at: at.prepare(clip=None, question="Which?"), "media="),
    "choices": (lambda at: at.prepare(question="Which?", choices=["a", "b"]), "options="),
    "max_tokens": (lambda at: at.generate("a", max_tokens=3), "max_new_tokens="),
    "hooks": (lambda at: at.generate("a", hooks=[]), "fwd_hooks="),
    "pos": (lambda at: av.logit_lens(at, "a", pos="last"), "at="),
    "layer": (lambda at: av.block_attention(keys="audio", queries="last", layer=3), "layers="),
    "head": (lambda at: av.block_attention(keys="audio", queries="last", head=3), "heads="),
    "source": (lambda at: av.block_attention(source="audio", queries="last"), "keys="),
    "family": (lambda at: av.tiny.draw_samples(family="auditory", n=3), "task="),
}.values())  # fmt: skip
def test_a_word_of_another_library_is_answered_with_ours(call, meant):
    with pytest.raises(ArgumentError, match=f"expected: {meant[:-1]} [\\s\\S]*next: +write {meant}$"):
        call(av.random_omni(n_layers=1))


def test_every_word_of_another_library_means_an_argument_of_ours():
    known = {name for door in DOORS.values() for name in signature(door).signature.parameters}
    assert {name for meant in OTHER_WORDS.values() for name in meant} <= known


@pytest.mark.parametrize("name", DOORS)
def test_a_notebook_shows_what_a_public_function_takes(name):
    """Shift-Tab reads `inspect.signature`, which a door must not hide."""
    shown = inspect.signature(DOORS[name])
    assert list(shown.parameters.values()) == list(signature(DOORS[name]).signature.parameters.values())
    assert shown.return_annotation is not shown.empty


def test_numbers_of_numpy_arrive_as_numbers_of_python():
    given = kept(["a"], np.float64(0.25), np.int64(3))
    assert [type(value) for value in given[1:3]] == [float, int]


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda model: model(input="a"), "write inputs="),
        (lambda model: model("a", past_kv_cache=None), "model.generate keeps keys and values itself"),
        (lambda model: model("a", attention_mask=None), "model.batch"),
        (lambda model: model.run_with_cache("a", padding_side="left"), "pads prompts on the left"),
        (lambda model: model.to_tokens("a", truncate=True), "nothing is cut off"),
        (lambda model: model.generate("a", stop_at_eos=False), "stop_tokens=()"),
        (lambda model: model.generate("a", freq_penalty=1.0), "repetition_penalty="),
        (lambda model: type(model).from_pretrained("a", fold_ln=False), "never processed"),
        (lambda model: type(model).from_pretrained("a", torch_dtype="float32"), "dtype="),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_a_keyword_of_another_library_is_told_our_way(call, says):
    with pytest.raises(ArgumentError, match=f"next: .*{re.escape(says)}"):
        call(av.random_omni(n_layers=1))
