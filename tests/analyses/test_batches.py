"""A batch gives what its prompts give alone, from one pass; what takes one prompt refuses it with the loop."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hooked_av as av
from hooked_av.analyses import Result
from hooked_av.errors import InputsError, SpanError

pytestmark = [
    pytest.mark.usefixtures("each_family"),
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::hooked_av.errors.HookedAVWarning"),
]
# Set for each family in turn.
MODEL = PROMPTS = ROUNDING = None
ALONE = {}  # what a prompt gives alone, by analysis, setting and prompt
FOLLOWED = [[" three"], [" eight"], [" one", " two"], [], (" three",)]
RIGHT, WRONG = [" three", " eight", " one", " three", " eight"], [" one", " two", 7, " eight", " three"]


def use(family):
    global MODEL, PROMPTS, ROUNDING
    MODEL, ROUNDING = family.random(n_layers=2), family.rounding
    rng, sampling = np.random.default_rng(0), av.Sampling(max_pixels=56 * 56)
    frames = rng.integers(0, 255, (8, 56, 56, 3), np.uint8)
    film = av.Clip.from_arrays(frames=frames, fps=4, waveform=rng.normal(size=32_000) * 0.1, sampling_rate_hz=16_000)
    asked = [(), film, film.without_video(), (), av.Clip.from_arrays(waveform=rng.normal(size=9_000) * 0.1,
                                                                     sampling_rate_hz=16_000)]  # fmt: skip
    texts = ["Which digit do you hear?", "Which digit is shown first?", "What?", "And what do you think of it?", "And?"]
    PROMPTS = [
        MODEL.prepare(*([clip] if clip else []), question=text, sampling=sampling)
        for clip, text in zip(asked, texts, strict=True)
    ]
    ALONE.clear()


# Name -> analysis of some inputs, where `of` takes the settings of each prompt from a list of all.
ANALYSES = {
    "lens of the last": lambda inputs, of: av.logit_lens(MODEL, inputs, tokens=[" three", " one"]),
    "lens of a span": lambda inputs, of: av.logit_lens(MODEL, inputs, at="question|last", tokens=of(FOLLOWED)),
    "lens of an even span": lambda inputs, of: av.logit_lens(MODEL, inputs, at="assistant", tokens=of(FOLLOWED)),
    "lens of all": lambda inputs, of: av.logit_lens(MODEL, inputs, at="all", top_k=2, convention="layer_input"),
    "trace": lambda inputs, of: av.answer_trace(MODEL, inputs, " three"),
    "trace of each": lambda inputs, of: av.answer_trace(MODEL, inputs, of(FOLLOWED)),
    "trace of the best": lambda inputs, of: av.answer_trace(MODEL, inputs, convention="no_norm"),
    "attribution": lambda inputs, of: av.direct_logit_attribution(MODEL, inputs, " three", " one"),
    "attribution of each": lambda inputs, of: av.direct_logit_attribution(MODEL, inputs, of(RIGHT), of(WRONG)),
    "to a source": lambda inputs, of: av.direct_logit_attribution(MODEL, inputs, " three", " one", sources="question"),
    "sinks": lambda inputs, of: av.find_sinks(MODEL, inputs, queries=["audio", "question"]),
    "sinks of some dimensions": lambda inputs, of: av.find_sinks(MODEL, inputs, dims=[3, 5]),
    "media lens": lambda inputs, of: av.media_lens(MODEL, inputs, tokens=of(FOLLOWED)),
}
OPEN = {
    "nothing": [],
    "a cut": ["system->last@1"],
    "a cut in a head": [av.block_attention("text->question", heads=1)],
    "a random cut": [av.block_random("system->question@0", seed=3)],
    "an edit": [av.ablate("blocks.0.hook_mlp_out", "question")],
}


@torch.no_grad()
def run(name, inputs, numbers, opened="nothing"):
    one = len(numbers) == 1
    with MODEL.intervene(*OPEN[opened]):
        return ANALYSES[name](inputs, lambda every: [every[n] for n in numbers] if not one else [every[numbers[0]]])


def check_same(found, alone):
    assert type(found) is type(alone)
    for field in fields(alone):
        one, other = getattr(found, field.name), getattr(alone, field.name)
        if field.name == "settings":
            assert {**one} == {**other}
        elif isinstance(other, np.ndarray) and other.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=ROUNDING, err_msg=field.name)
        elif field.name.endswith("ranks"):  # of 150,000 tokens, some of which are as good as equal
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=2)
        elif isinstance(other, float):
            assert one == pytest.approx(other, rel=1e-4, abs=ROUNDING)
        else:
            assert np.array_equal(one, other), field.name


def check(name, numbers, opened="nothing"):
    batch = MODEL.batch([PROMPTS[n] for n in numbers])
    found = run(name, batch, numbers, opened)
    assert isinstance(found, av.analyses.PerPrompt)
    assert len(found) == len(numbers)
    for one, number in zip(found, numbers, strict=True):
        key = name, number, opened
        if key not in ALONE:
            ALONE[key] = run(name, PROMPTS[number], [number], opened)
        assert isinstance(ALONE[key], Result)
        check_same(one, ALONE[key])


def numbers_for(name):
    return [1, 2, 4] if name == "media lens" else list(range(len(PROMPTS)))


@pytest.mark.parametrize("name", ANALYSES)
def test_a_batch_gives_what_its_prompts_give_alone(name):
    check(name, numbers_for(name))


@pytest.mark.parametrize("opened", list(OPEN)[1:])
@pytest.mark.parametrize("name", ["lens of a span", "attribution", "sinks"])
def test_what_is_open_acts_in_each_prompt(name, opened):
    check(name, numbers_for(name), opened)


@settings(max_examples=3, deadline=None)
@given(
    data=st.data(),
    name=st.sampled_from(["lens of a span", "trace of each", "attribution of each", "sinks"]),
    opened=st.sampled_from(list(OPEN)),
)
def test_whatever_the_batch_each_result_is_that_of_the_prompt(data, name, opened):
    some = st.sampled_from(range(len(PROMPTS)))
    check(name, data.draw(st.lists(some, min_size=2, max_size=4)), opened)


@pytest.mark.parametrize("name", ["lens of the last", "trace", "trace of each", "attribution", "sinks", "media lens"])
def test_prompts_share_one_pass(name):
    numbers, passes = numbers_for(name)[:2], []
    with MODEL.hooks(fwd_hooks=[("hook_embed", lambda embed, hook: passes.append(embed.shape[0]))]):
        run(name, MODEL.batch([PROMPTS[n] for n in numbers]), numbers)
    assert passes == [len(numbers)]


def test_only_tokens_that_are_not_named_take_a_second_pass():
    passes = []
    with MODEL.hooks(fwd_hooks=[("hook_embed", lambda embed, hook: passes.append(embed.shape[0]))]):
        run("trace of the best", MODEL.batch(PROMPTS[:2]), [0, 1])
    assert passes == [2, 2]


def test_the_padding_of_one_row_is_left_out():
    batch = MODEL.batch([PROMPTS[0], PROMPTS[1]])
    for name in ("lens of a span", "attribution", "sinks"):
        check_same(run(name, batch[0], [0]), run(name, PROMPTS[0], [0]))


def test_texts_of_one_length_are_a_batch():
    lens = av.logit_lens(MODEL, ["Hello world", "Hello there"])
    assert [one.top_ids.shape for one in lens] == [(2, 1, 5)] * 2
    check_same(lens[1], av.logit_lens(MODEL, "Hello there"))


def test_cases_may_be_a_batch():
    cases = [PROMPTS[n] for n in (1, 2)]
    found, wanted = (
        av.attention_mass(MODEL, given, keys="audio", queries="last") for given in (MODEL.batch(cases), cases)
    )
    assert found.ids == wanted.ids == ("0", "1")
    np.testing.assert_array_equal(found.mass, wanted.mass)


REFUSED = {
    "a span that one has not": (lambda b: av.logit_lens(MODEL, b, at="audio"), SpanError, "prompt 0 of the batch"),
    "no span of any": (lambda b: av.answer_trace(MODEL, b, at="adio"), SpanError, "no span 'adio'"),
    "a long span": (
        lambda b: av.answer_trace(MODEL, b, at="question"),
        InputsError,
        "prompt 0 of the batch: an answer",
    ),
    "numbers": (lambda b: av.logit_lens(MODEL, b, at=[3]), InputsError, "others in each prompt"),
    "a prompt without media": (lambda b: av.media_lens(MODEL, b), InputsError, "prompt 0 of the batch: no media"),
    "sources that share tokens": (
        lambda b: av.direct_logit_attribution(MODEL, b, " one", " two", sources=["text", "system"]),
        SpanError,
        "prompt 0 of the batch",
    ),
    "too few answers": (
        lambda b: av.direct_logit_attribution(MODEL, b, [" one"], " two"),
        InputsError,
        "not one of these for each prompt",
    ),
    "an answer that is its alternative": (
        lambda b: av.direct_logit_attribution(MODEL, b, [" one", " two"], " two"),
        InputsError,
        "prompt 1 of the batch: answer and alternative",
    ),
    "too many lists of tokens": (lambda b: av.logit_lens(MODEL, b, tokens=[[" one"]] * 3), InputsError, "list of 2"),
}


@pytest.mark.parametrize("call, kind, says", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_for_which_prompt(call, kind, says):
    with pytest.raises(kind, match=says):
        call(MODEL.batch([PROMPTS[0], PROMPTS[1]]))


@pytest.mark.parametrize(
    "name, call",
    [
        ("model.baseline", lambda batch: MODEL.baseline(batch)),
        ("av.route_sweep", lambda batch: av.route_sweep(MODEL, batch, "system->last")),
    ],
)
def test_what_takes_one_prompt_names_the_loop(name, call):
    with pytest.raises(InputsError) as refused:
        call(MODEL.batch([PROMPTS[0], PROMPTS[1]]))
    assert name in refused.value.next_step
    assert "for one in inputs.prompts" in refused.value.next_step
