"""tiny-av as it comes with the package: it loads everywhere, answers, and answers for the right reasons."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import some_digits
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

import hooked_av as av
from hooked_av.families.checkpoint import PACKAGED, PACKAGED_FOLDER
from hooked_av.tiny.evaluation import make_exams, take
from hooked_av.tiny.samples import answer, read_samples, share_right
from hooked_av.tiny.scenes import render

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = PACKAGED_FOLDER
N_QUESTIONS = 60
EVERYTHING_ELSE = {"audio": "text | video | boundary", "video": "text | audio | boundary"}


@pytest.fixture(scope="module")
def model() -> av.HookedAVTransformer:
    return av.HookedAVTransformer.from_pretrained("tiny-av")


def exam_of(form: str, n: int = N_QUESTIONS):
    return next(exam for exam in make_exams(n) if exam.form == form)


def test_the_folder_is_complete_small_and_free_of_pickle():
    names = {path.name for path in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors.index.json", "preprocessor_config.json", "tokenizer.json"} <= names
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert all(size <= 6e6 for size in sizes.values())
    assert sum(sizes.values()) <= 5.2e6 + 5.4e6 * len(PACKAGED)  # encoders once, a decoder each
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


@torch.no_grad()
def test_transformers_loads_it_and_gives_the_same_logits(model):
    thinker = Thinker.from_pretrained(FOLDER).eval()
    sample = read_samples()[0]
    inputs = model.prepare(sample.clip, question=sample.question)
    features = dict(inputs.features)
    theirs = thinker(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask.long(),
                     use_audio_in_video=True, **features).logits  # fmt: skip
    assert torch.equal(model(inputs), theirs)


def test_it_is_a_model_with_layers_enough_and_its_own_sampling(model):
    assert 8 <= model.cfg.n_layers <= 12
    inputs = model.prepare(read_samples()[0].clip, question="What moves?")
    assert inputs.settings["sampling"]["max_pixels"] == 56 * 56
    assert len(inputs.spans["audio"]) == 50
    assert len(inputs.spans["video"]) == 8


@torch.no_grad()
def test_it_answers_nine_of_ten_sample_questions(model):
    assert share_right(model, read_samples()) >= 0.9


@torch.no_grad()
def test_the_same_seed_and_clip_give_the_same_answer(model):
    again = av.HookedAVTransformer.from_pretrained("tiny-av")
    for sample in read_samples()[:3]:
        inputs = model.prepare(sample.clip, question=sample.question, options=sample.options)
        assert torch.equal(model(inputs), again(again.prepare(sample.clip, question=sample.question,
                                                              options=sample.options)))  # fmt: skip
        assert answer(model, sample) == answer(again, sample)


@torch.no_grad()
@pytest.mark.parametrize(
    "form, needed, other", [("auditory", "silenced", "blanked"), ("visual", "blanked", "silenced")]
)
def test_without_the_needed_modality_it_guesses(model, form, needed, other):
    exam = exam_of(form)
    assert take(model, exam, some_digits()) >= 0.9
    assert take(model, exam, some_digits(), needed) <= 0.25  # chance is 0.1
    assert take(model, exam, some_digits(), other) >= 0.85


@torch.no_grad()
@pytest.mark.parametrize("form, cut, other", [("auditory", "audio", "video"), ("visual", "video", "audio")])
def test_a_cut_modality_is_a_cause_and_the_other_is_not(model, form, cut, other):
    exam = exam_of(form)
    right = {None: 0, cut: 0, other: 0}
    n = 0
    rng = np.random.default_rng(0)
    for scene, questions in zip(exam.scenes, exam.questions, strict=True):
        clips = render(scene, some_digits(), rng)
        for question in questions:
            inputs = model.prepare(clips, question=question.text)
            n += 1
            for keys in right:
                cuts = [] if keys is None else [
                    av.block_attention(keys=keys, queries=EVERYTHING_ELSE[keys], layers=range(model.cfg.n_layers))
                ]  # fmt: skip
                logits = model(inputs, interventions=cuts, logits_at="last")
                right[keys] += model.to_string(int(logits[0, -1].argmax())) == question.target
    shares = {keys: count / n for keys, count in right.items()}
    assert shares[None] >= 0.9
    assert shares[cut] <= 0.25  # chance is 0.1
    assert abs(shares[other] - shares[None]) <= 0.02


def test_the_model_card_gives_licences_and_figures():
    card = (Path(av.__file__).parent / "tiny" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for word in ("CC BY-SA 4.0", "Jakobovski", "load_digits", "held out", "silenced", "espeak-ng"):
        assert word in card
