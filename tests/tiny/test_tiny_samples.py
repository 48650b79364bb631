"""Samples for users: clips of the package by name, labelled samples by task, and answers that end by themselves."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

import hooked_av as av
from hooked_av.errors import InputsError
from hooked_av.tiny.architecture import MAX_ANSWER_TOKENS, untrained
from hooked_av.tiny.cases import held_out_cases
from hooked_av.tiny.digits import NAMES
from hooked_av.tiny.evaluation import clips_of, make_exam
from hooked_av.tiny.held_out import packaged_digits
from hooked_av.tiny.questions import FAMILIES, NUMBERS, ORDINALS

pytestmark = pytest.mark.usefixtures("one_thread")
draw = av.tiny.draw_samples


@pytest.fixture(scope="module")
def model() -> av.HookedAVTransformer:
    return av.HookedAVTransformer.from_pretrained("tiny-av")


def same(one, other) -> bool:
    clips = zip(one.media, other.media, strict=True)
    return (one.question, one.options, one.answer, one.alternative) == (
        other.question, other.options, other.answer, other.alternative,
    ) and all(
        a.kind == b.kind
        and (not a.has_video or np.array_equal(a.frames, b.frames))
        and (not a.has_audio or np.array_equal(a.waveform, b.waveform))
        for a, b in clips
    )  # fmt: skip


def test_the_clips_of_the_package_are_there_with_a_question_that_is_answered(model):
    clips = av.sample_clips()
    assert len(clips) == 7
    for name, sample in clips.items():
        assert (sample.path.is_file(), sample.path.stem, sample.question[-1]) == (True, name, "?")
        assert str(sample.clip) == str(av.Clip.from_file(sample.path))
        if sample.answer is not None:
            inputs = model.prepare(sample.clip, question=sample.question, options=sample.options)
            assert model.generate(inputs).texts == (sample.target,)
    assert [name for name, sample in clips.items() if sample.answer is None] == ["bigbuckbunny"]
    assert clips["bigbuckbunny"].target is None


def test_an_answer_ends_by_itself_and_may_be_made_longer(model, tmp_path):
    sample = av.sample_clips()["four-is-spoken-twice"]
    inputs = model.prepare(sample.clip, question=sample.question)
    assert model.generate(inputs).texts == ("six",)
    assert [model.to_string(token) for token in model.generate(inputs).tokens[0]] == ["six", "<|im_end|>"]
    assert len(model.generate(inputs, max_new_tokens=5, stop_tokens=()).tokens[0]) == 5
    model.save_pretrained(tmp_path / "saved")
    assert av.HookedAVTransformer.from_pretrained(tmp_path / "saved").generate(inputs).texts == ("six",)


def test_a_model_that_is_trained_anew_ends_there_too():
    model = untrained(0)
    assert model.generation_defaults.eos_token_ids == (model.to_single_token("<|im_end|>"),)
    assert model.generation_defaults.max_new_tokens == MAX_ANSWER_TOKENS


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("task", FAMILIES)
def test_every_task_has_samples_whose_labels_are_what_is_in_the_clips(model, task, options):
    samples = draw(task, 3, options=options)
    assert len({sample.id for sample in samples}) == 3
    for sample in samples:
        kinds = chain.from_iterable([clip.kind] * (round(clip.duration_seconds) or 1) for clip in sample.media)
        for kind, shown, spoken in zip(kinds, sample.shown, sample.spoken, strict=True):
            assert (shown is None) == (kind == "audio")
            assert (spoken is None) == (kind in ("image", "video"))
        assert sample.answer != sample.alternative
        assert {sample.answer, sample.alternative} <= set(sample.options or (*NUMBERS, "yes", "no"))
        case = sample.prepare(model)
        assert (case.answer, case.id, case.task) == (sample.target, sample.id, task)
        assert case.alternative != case.answer
        assert len(case.alternative) == 1 or not options


def test_the_labels_answer_the_questions():
    for task, stream in (("auditory", "spoken"), ("visual", "shown")):
        for sample in draw(task, 20):
            words = sample.question.replace("in second", "").rstrip("?").split()
            (second,) = [at for at in range(4) if {ORDINALS[at], NUMBERS[at + 1]} & set(words)]
            assert sample.answer == NAMES[getattr(sample, stream)[second]]


def test_the_same_seed_gives_the_same_and_more_of_them_begin_alike():
    few, many, others = draw("arithmetic", 5), draw("arithmetic", 9), draw("arithmetic", 5, seed=1)
    assert (len(few), len(many)) == (5, 9)
    assert all(map(same, few, many))
    assert not any(map(same, few, others))


def test_another_seed_is_other_pictures_and_voices_too():
    exam, digits = make_exam("arithmetic", 2), packaged_digits("held_out")
    ((one,), (other,)) = (next(clips_of(replace(exam, seed=seed), digits)) for seed in (1, 2))
    assert not np.array_equal(one.frames, other.frames)
    assert not np.array_equal(one.waveform, other.waveform)


def test_the_two_splits_have_nothing_in_common():
    held_out, train = draw("binding, shown", 8), draw("binding, shown", 8, split="train")
    assert [sample.question for sample in held_out] != [sample.question for sample in train]
    assert not any(same(one, other) for one in held_out for other in train)


def test_cases_are_the_same_samples(model):
    for task in ("arithmetic", "spoken in item"):
        for case, sample in zip(
            held_out_cases(model, task, 4, options=True), draw(task, 4, options=True), strict=False
        ):
            prepared = sample.prepare(model)
            assert torch.equal(case.inputs.input_ids, prepared.inputs.input_ids)
            assert all(torch.equal(case.inputs.features[name], rows) for name, rows in prepared.inputs.features.items())
            assert (case.answer, case.alternative) == (prepared.answer, prepared.alternative)


@torch.no_grad()
@pytest.mark.parametrize("split", ["held_out", "train"])
def test_a_batch_of_samples_in_three_lines(model, split):
    samples = draw("arithmetic", 40, split=split)
    inputs = model.batch([sample.prepare(model).inputs for sample in samples])
    right = [text == sample.answer for text, sample in zip(model.generate(inputs).texts, samples, strict=True)]
    assert np.mean(right) > 0.9


def test_a_sample_of_several_items_has_no_one_clip():
    with pytest.raises(InputsError, match=r"take sample\.media"):
        _ = draw("spoken in item", 1)[0].clip


def test_the_clip_of_a_sample_of_one_item_is_that_item():
    (sample,) = draw("visual", 1)
    assert sample.clip is sample.media[0]
