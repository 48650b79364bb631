"""Pairs of prompts to patch between: what differs in them; pairs and arguments that are refused."""

from dataclasses import replace

import pytest
import torch
from support.patching import tiny

import hooked_av as av
from hooked_av.errors import ArgumentError, HookNameError, InputsError, InterventionError, MediaError, SpanError
from hooked_av.tiny.samples import read_samples

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny_pair():
    model, clip, other, question = tiny()
    pair = av.make_pair(model, clip, "audio", other=other, question=question)
    return model, {"clean": pair.clean, "corrupt": pair.corrupt}


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "corruption, changed",
    [
        ("audio", {"input_features"}),
        ("frames", {"pixel_values_videos"}),
        ("silence", {"input_features"}),
        ("black_frames", {"pixel_values_videos"}),
    ],
)
def test_a_pair_differs_in_what_was_corrupted_only(corruption, changed):
    model, clip, other, question = tiny()
    given = {"other": other} if corruption in ("audio", "frames") else {}
    pair = av.make_pair(model, clip, corruption, question=question, **given)
    assert set(pair.differing) == changed
    assert torch.equal(
        pair.clean.features["input_features"], model.prepare(clip, question=question).features["input_features"]
    )


def test_words_are_replaced_symmetrically():
    model, clip, *_ = tiny()
    swap = {"shown": "second", "second": "shown"}  # they change places
    pair = av.make_pair(model, clip, "words", other=swap, question="Which digit is shown second?")
    texts = model.to_str_tokens(pair.corrupt)
    assert "".join(texts[i] for i in pair.corrupt.spans["question"]) == "Which digit is second shown?"
    assert len(pair.differing) == 2


@pytest.mark.parametrize(
    "corruption, arguments, error, message",
    [
        ("noise", {}, InputsError, "unknown corruption"),
        ("audio", {}, InputsError, "audio of what"),
        ("words", {}, InputsError, "which words"),
        ("words", {"other": {"heard": "shown"}}, InputsError, "words that the question has not"),
        ("silence", {"item": 1}, InputsError, "no such clip"),
        ("words", {"other": {"first": "first first"}}, InputsError, "question: 6 tokens in clean, 7 in corrupt"),
    ],
)
def test_pairs_that_cannot_be_are_refused(corruption, arguments, error, message):
    model, clip, _, question = tiny()
    with pytest.raises(error, match=message):
        av.make_pair(model, clip, corruption, question=question, **arguments)


def test_media_of_other_length_name_the_spans_that_differ():
    model, clip, _, question = tiny()
    longer = read_samples()[6].clip
    with pytest.raises(InputsError, match="audio: 50 tokens in clean, 75 in corrupt"):
        av.make_pair(model, clip, "audio", other=longer, question=question)
    with pytest.raises(MediaError, match="no sound track"):
        av.make_pair(model, clip.without_audio(), "silence", question=question)
    inputs = model.prepare(clip, question=question)
    moved = replace(inputs, position_ids=inputs.position_ids + 1)
    with pytest.raises(InputsError, match="position ids"):
        av.patch_heads(model, clean=inputs, corrupt=moved)
    with pytest.raises(InputsError, match="mine: 1 tokens in clean, 0 in corrupt"):
        av.patch_heads(model, clean=inputs.with_span("mine", [3]), corrupt=inputs)


def test_one_clip_of_several_is_corrupted():
    model, clip, other, question = tiny()
    pair = av.make_pair(model, [clip, other.without_video()], "silence", item=1, question=question)
    assert pair.corrupt.clips[0][0] is clip
    assert not pair.corrupt.clips[0][1].waveform.any()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_runs_that_do_not_differ_are_refused(tiny_pair):
    model, pair = tiny_pair
    same = {"clean": pair["clean"], "corrupt": pair["clean"]}
    with pytest.raises(InputsError, match="both answers are 'five'"):
        av.patch_spans(model, **same)
    for analysis in (av.patch_spans, av.patch_heads, av.patch_positions, av.patch_path, av.back_patch):
        with pytest.raises(InputsError, match="shares of nothing"):
            analysis(model, **same, answer="five", alternative="two")
    with pytest.raises(InputsError, match="shares of nothing"):
        av.attribution_patching(model, **same, metric="probability")


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "analysis, arguments, error, message",
    [
        (av.patch_spans, {"spans": ["vidio"]}, SpanError, "no span 'vidio'"),
        (av.patch_spans, {"components": ["resid_prae"]}, HookNameError, "no hook point"),
        (av.patch_heads, {"metric": "loss"}, ArgumentError, "'logit_difference' or 'log_prob' or 'probability'"),
        (av.patch_heads, {"answer": "five one", "alternative": "two"}, InputsError, "not one token"),
        (av.patch_positions, {"span": "question"}, InputsError, "not all media"),
        (av.patch_positions, {"every_seconds": 0.0}, InputsError, "need a length"),
        (av.patch_path, {"receiver": "blocks.9.attn.hook_q"}, InterventionError, "no such receiver"),
        (av.patch_path, {"receiver": "blocks.2.hook_resid_pre"}, InterventionError, "no such receiver"),
        (av.patch_path, {"receiver": "blocks.2.attn.hook_k", "receiver_heads": [2]}, InterventionError, "heads 0 to 1"),
        (av.patch_path, {"receiver": "blocks.2.hook_mlp_out", "receiver_heads": [0]}, InterventionError, "receiver"),
    ],
)
def test_bad_arguments_are_refused(tiny_pair, analysis, arguments, error, message):
    model, pair = tiny_pair
    with pytest.raises(error, match=message):
        analysis(model, **pair, **arguments)


def test_open_interventions_are_refused(tiny_pair):
    model, pair = tiny_pair
    with model.intervene("audio->question@0"), pytest.raises(InterventionError, match="open interventions"):
        av.patch_heads(model, **pair)


def test_one_answer_may_be_named_and_the_other_left_to_the_runs(tiny_pair):
    model, both = tiny_pair
    own = av.patch_heads(model, **both).answers
    named = av.patch_heads(model, **both, alternative=model.to_single_token("nine"))
    assert named.answers == (own[0], "nine")
    assert av.patch_heads(model, **both, answer="nine").answers == ("nine", own[1])
    first, second = av.back_patch(model, clean=both["clean"]).answers
    assert av.back_patch(model, clean=both["clean"], answer=second).answers == (second, first)
