"""The task of tiny-av: right answers, no answer in the text, held-out material, and packed rows that equal prompts."""

import re
from collections import Counter
from dataclasses import replace
from functools import partial
from wave import open as open_wav

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import VOICES, some_digits
from transformers import AutoTokenizer

from hooked_av.cli.main import main
from hooked_av.errors import MediaError
from hooked_av.media.clip import SAMPLING_RATE_HZ
from hooked_av.model.random import TOKENIZER_FOLDER
from hooked_av.tiny import digits, evaluation, truth
from hooked_av.tiny.architecture import make_tokenizer, untrained
from hooked_av.tiny.curriculum import Classroom, Lesson, draw_questions
from hooked_av.tiny.digits import NAMES, read_images, read_speech, speak
from hooked_av.tiny.encoders import encode_seconds, encoder_batch, make_bank
from hooked_av.tiny.evaluation import CONDITIONS, by_speaker, make_exams, take, text_alone
from hooked_av.tiny.held_out import packaged_digits, read_held_out, write_packaged
from hooked_av.tiny.packing import END, PackedAttend, packed_logits, question_tokens
from hooked_av.tiny.questions import FAMILIES, NUMBERS, ORDINALS, SCENES, Question, ask, draw_scene
from hooked_av.tiny.samples import FOLDER, MANIFEST, read_samples
from hooked_av.tiny.scenes import FRAME_PIXELS, Appearance, Item, Scene, _faster, _warped, render

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return untrained(0)


def every_question(family: str, n: int, seed: int = 0, options: bool = False) -> list[tuple[Scene, Question]]:
    rng = np.random.default_rng(seed)
    found: list[tuple[Scene, Question]] = []
    while len(found) < n:
        scene = draw_scene(str(rng.choice(FAMILIES[family].scenes)), rng)
        question = ask(family, scene, rng, options=options)
        found += [(scene, question)] if question is not None else []
    return found


# ---- Answers ---------------------------------------------------------------------------------------------------------


def solved(question: str, scene: Scene) -> str:
    """The answer as a reader of the question would find it, from the words alone."""
    words = question.rstrip("?").replace("spoken?", "spoken").lower().split()
    places = [ORDINALS.index(w) for w in words if w in ORDINALS and not _is_second_of(words, w)]
    numbers = [NUMBERS.index(w) for w in words if w in NUMBERS]
    streams = [s for s, names in {"shown": ("shown", "see", "show", "shows"),
                                  "spoken": ("spoken", "hear", "speak", "speaks")}.items()
               if set(names) & set(words)]  # fmt: skip
    if "item" in words or "items" in words:
        rows = [getattr(item, streams[0]) for item in scene.items]
        if words[0] in ("do", "is"):
            return "yes" if rows[numbers[0] - 1] == rows[numbers[1] - 1] else "no"
        if words[0] in ("which", "in"):
            return (
                NUMBERS[[row[:1] == (numbers[0],) for row in rows].index(True) + 1]
                if words[1] in ("item", "which") and "item" in words[:3] and "digit" not in words
                else NAMES[rows[numbers[0] - 1][0]]
            )
        return NAMES[rows[numbers[0] - 1][0]]
    clip = scene.clip
    if "often" in words or "times" in words:
        return NUMBERS[getattr(clip, streams[0]).count(numbers[0])]
    if "plus" in words or "sum" in words:
        at = places[0] if places else numbers[0] - 1
        return NUMBERS[clip.shown[at] + clip.spoken[at]]
    if words[0] in ("is", "does"):
        return "yes" if clip.shown[places[0]] == clip.spoken[places[1]] else "no"
    if "when" in words:
        key = words.index("when")
        wanted = "shown" if {"shown", "see"} & set(words[:key]) else "spoken"
        other = {"shown": "spoken", "spoken": "shown"}[wanted]
        return NAMES[getattr(clip, wanted)[getattr(clip, other).index(numbers[0])]]
    at = places[0] if places else numbers[0] - 1
    return NAMES[getattr(clip, streams[0])[at]]


def _is_second_of(words: list[str], word: str) -> bool:
    """`in second two`: the unit, not the place."""
    return word == "second" and words.index(word) > 0 and words[words.index(word) - 1] == "in"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_is_what_the_question_asks_for(family):
    for scene, question in every_question(family, 60):
        assert solved(question.text, scene) == question.answer, (question.text, scene)


@pytest.mark.parametrize("family", FAMILIES)
def test_options_hold_the_answer_once_and_the_target_is_its_letter(family):
    for _, question in every_question(family, 40, options=True):
        assert 2 <= len(set(question.options)) == len(question.options) <= 4
        assert question.options["ABCD".index(question.target)] == question.answer
        assert question.form == f"{family}, options"


# ---- Balance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["comparison", "items speak the same", "items show the same"])
def test_yes_and_no_are_equally_frequent(family):
    counts = Counter(question.answer for _, question in every_question(family, 1200))
    assert abs(counts["yes"] / 1200 - 0.5) < 0.06  # four standard deviations


@pytest.mark.parametrize("family", ["counting, shown", "counting, spoken"])
def test_counts_are_uniform_whatever_the_length(family):
    for seconds in (2, 3, 4):
        rows = [q for s, q in every_question(family, 1500) if s.clip.seconds == seconds]
        shares = np.array([sum(q.answer == NUMBERS[count] for q in rows) for count in range(min(seconds, 3) + 1)])
        assert shares.sum() == len(rows)
        assert np.abs(shares / len(rows) - 1 / len(shares)).max() < 0.1


CHANCE = {"comparison": 0.5, "counting, spoken": 0.25 + 0.33 / 9, "binding, shown": 0.1, "arithmetic": 0.1}


@pytest.mark.parametrize("family, chance", CHANCE.items())
def test_the_text_alone_gives_chance(family, chance):
    assert text_alone(family, False, n_learned=3000, n_asked=1000) < chance + 0.06


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [False, True])
def test_the_text_alone_gives_chance_in_every_family(family, options):
    questions = [q for _, q in every_question(family, 3000, options=options)]
    if options:
        chance = np.mean([1 / len(q.options) for q in questions])
    else:
        chance = max(Counter(q.answer for q in questions).values()) / len(questions)
    assert text_alone(family, options, n_learned=10_000, n_asked=3000) < chance + 0.035


def test_text_alone_would_find_an_answer_that_the_text_gives_away(monkeypatch):
    def gives_away(scene, rng):
        return {"nth": ORDINALS[scene.clip.shown[0] % 4], "n": "one"}, NAMES[scene.clip.shown[0] % 4], None

    phrasing = ("Which digit is shown {nth}?",)
    leaky = replace(FAMILIES["visual"], ask=gives_away, phrasings=phrasing)
    monkeypatch.setitem(FAMILIES, "visual", leaky)  # type: ignore[arg-type]
    assert text_alone("visual", False, n_learned=300, n_asked=200) > 0.95


# ---- Material --------------------------------------------------------------------------------------------------------


def test_held_out_images_and_recordings_are_others():
    trained, tested = read_images(held_out=False), read_images(held_out=True)
    assert len(trained.digits) + len(tested.digits) == 1797
    assert {image.tobytes() for image in trained.ink}.isdisjoint(image.tobytes() for image in tested.ink)
    trained, tested = read_speech(VOICES, held_out=False), read_speech(VOICES, held_out=True)
    assert {wave.tobytes() for wave in trained.waves}.isdisjoint(wave.tobytes() for wave in tested.waves)
    assert set(tested.digits.tolist()) | set(trained.digits.tolist()) == set(range(10))


def test_the_packaged_material_is_held_out(tmp_path):
    packaged = read_held_out()
    trained, tested = read_images(held_out=False), read_images(held_out=True)
    assert np.array_equal(packaged.images.ink, tested.ink)
    assert np.array_equal(packaged.images.digits, tested.digits)
    assert not {image.tobytes() for image in trained.ink} & {image.tobytes() for image in packaged.images.ink}
    assert len(set(packaged.recordings.speakers)) == 6
    again = read_held_out(write_packaged(VOICES, tmp_path / "x.npz", held_out=True))
    assert {wave.tobytes() for wave in again.recordings.waves} == {
        wave.tobytes() for wave in read_speech(VOICES, held_out=True).waves
    }


def test_the_packaged_training_material_is_what_was_trained_on():
    packaged, held_out = packaged_digits("train"), packaged_digits("held_out")
    trained = {image.tobytes() for image in read_images(held_out=False).ink}
    assert {image.tobytes() for image in packaged.images.ink} <= trained
    assert len(packaged.images.digits) == len(held_out.images.digits) == 360
    waves = [{wave.tobytes() for wave in part.recordings.waves} for part in (packaged, held_out)]
    assert waves[0].isdisjoint(waves[1])
    for part in (packaged.images.digits, packaged.recordings.digits):
        assert min(np.bincount(part, minlength=10)) >= 20


def test_recordings_start_and_end_with_the_word():
    recordings = some_digits().recordings
    for wave in recordings.waves:
        assert np.abs(wave).max() == pytest.approx(1, abs=1e-6)
        assert np.abs(wave[:640]).max() > 0.02
        assert np.abs(wave[-640:]).max() > 0.02


def test_a_folder_of_recordings_reads_as_the_data_set_names_them(tmp_path):
    import av

    recordings = some_digits().recordings
    for index in (3, 7):
        with av.open(str(tmp_path / f"4_theo_{index}.wav"), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=SAMPLING_RATE_HZ, layout="mono")
            samples = (recordings.waves[index] * 30_000).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = SAMPLING_RATE_HZ
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    (tmp_path / "readme.wav").write_bytes(b"")
    held_out, trained = (read_speech(tmp_path, held_out=which) for which in (True, False))
    assert (held_out.digits.tolist(), held_out.speakers) == ([4], ("theo",))
    assert np.abs(held_out.waves[0] - recordings.waves[3]).max() < 1e-3
    assert np.abs(trained.waves[0] - recordings.waves[7]).max() < 1e-3


@pytest.fixture
def espeak(tmp_path, monkeypatch):
    """A program of the name of espeak-ng: whatever it is asked, it says one word of half a second, at 22 kHz."""
    word = np.zeros(22_050, np.int16)
    word[5_000:16_025] = 8_000 * np.sin(np.arange(11_025) / 9)
    with open_wav(str(tmp_path / "word.wav"), "wb") as file:
        file.setparams((1, 2, 22_050, 0, "NONE", "not compressed"))
        file.writeframes(word.tobytes())
    program = tmp_path / "espeak-ng"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat {tmp_path}/word.wav\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path / "asked"


def test_voices_say_every_word_at_two_speeds(espeak):
    said = speak(["en-us", "en-gb"], ["one", "two"])
    assert said.digits.tolist() == [0, 0, 1, 1] * 2
    assert said.speakers == ("en-us",) * 4 + ("en-gb",) * 4
    assert all(len(one) / SAMPLING_RATE_HZ == pytest.approx(0.5, abs=0.1) for one in said.waves)
    assert espeak.read_text().splitlines()[1:3] == ["-v en-us -s 165 --stdout one", "-v en-us -s 130 --stdout two"]


def test_without_espeak_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MediaError, match=r"(?s)did not speak.*not installed.*apt-get install espeak-ng"):
        speak(["en-us"])


@pytest.mark.slow
@pytest.mark.usefixtures("espeak")
def test_the_sample_clips_can_be_written_anew(tmp_path):
    done = CliRunner().invoke(main, ["make-tiny-clips", "--out", str(tmp_path / "clips")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "clips" / MANIFEST).read_bytes() == (FOLDER / MANIFEST).read_bytes()
    made, packaged = ([(s.clip.duration_seconds, s.clip.n_frames) for s in read_samples(at)]
                      for at in (tmp_path / "clips", FOLDER))  # fmt: skip
    assert made == packaged


def test_missing_speech_says_where_to_get_it(tmp_path):
    with pytest.raises(MediaError, match=r"no spoken digits at .*nowhere") as caught:
        read_speech(tmp_path / "nowhere", held_out=True)
    assert "free-spoken-digit-dataset" in caught.value.next_step
    with pytest.raises(MediaError, match="no spoken digits in"):
        read_speech(tmp_path, held_out=True)
    with pytest.raises(MediaError, match="no such speaker"):
        some_digits().recordings.without("nobody")


def test_each_second_shows_and_speaks_its_own_digit():
    rng = np.random.default_rng(0)
    (clip,) = render(
        Scene((Item((1, 8), (0, 5)),)), some_digits(), rng, Appearance(fps=4, picture_noise=0, sound_noise=0.002)
    )
    assert clip.frames.shape == (8, FRAME_PIXELS, FRAME_PIXELS, 3)
    corners = clip.frames[:, 0, 0].astype(int)  # the paper, which no digit covers
    assert np.ptp(corners[:4], axis=0).max() == np.ptp(corners[4:], axis=0).max() == 0
    assert np.abs(corners[0] - corners[4]).max() > 0
    loud = np.abs(clip.waveform.reshape(2, -1)).max(axis=1)
    assert (loud > 0.2).all()


def test_learning_sees_digits_warped_and_hears_them_at_another_tempo():
    still, quiet = {"picture_noise": 0.0, "sound_noise": 0.001}, some_digits()
    ink = np.zeros((40, 40), np.float32)
    ink[10:30, 18:22] = 1.0
    assert np.array_equal(_warped(ink, np.zeros((2, 2))), ink)
    leaning = _warped(ink, np.array([[0.0, 0.15], [0.0, 0.0]]))
    assert np.abs(leaning[12] - leaning[27]).max() > 0.9  # top and bottom of the stroke moved apart
    assert abs(leaning.sum() / ink.sum() - 1) < 0.05
    word = quiet.recordings.waves[0]
    assert len(_faster(word, 1.1)) == round(len(word) / 1.1)
    assert np.abs(_faster(word, 1.0) - word).max() < 1e-6
    scene = Scene((Item((1, 8), (0, 5)),))
    seen = [
        render(scene, quiet, np.random.default_rng(0), Appearance(**still, **more))[0] for more in ({}, {"warp": 0.15})
    ]
    assert seen[0].frames.shape == seen[1].frames.shape
    assert not np.array_equal(seen[0].frames, seen[1].frames)
    (heard,) = render(scene, quiet, np.random.default_rng(0), Appearance(**still, tempo=0.1))
    assert heard.waveform.shape == seen[0].waveform.shape
    assert not np.array_equal(heard.waveform, seen[0].waveform)


@given(st.sampled_from(sorted(SCENES)), st.integers(2, 4), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_scenes_have_the_length_that_was_asked_for(kind, n, seed):
    scene = draw_scene(kind, np.random.default_rng(seed), n)
    if kind.endswith("items"):
        assert len(scene.items) == max(n, 3 if kind == "paired items" else 2)
        assert all(item.seconds == 1 for item in scene.items)
    else:
        assert scene.clip.seconds == len(scene.clip.shown) == len(scene.clip.spoken) == n


# ---- Tokenizer -------------------------------------------------------------------------------------------------------


def test_every_word_of_the_task_is_one_token_and_other_text_survives():
    tokenizer = make_tokenizer()
    rng = np.random.default_rng(0)
    for family in FAMILIES:
        for _, question in every_question(family, 10, options=bool(rng.random() < 0.5)):
            words = re.findall(r"'s|\w+|[?.,\n]", question.text)
            assert len(tokenizer.tokenize(question.text)) == len(words), question.text
    for word in (*NUMBERS, "yes", "no", "A", "B", "C", "D"):
        assert len(tokenizer(word)["input_ids"]) == 1
    text = "Zwölf Äpfel, 12 🍎?"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.get_vocab() == make_tokenizer().get_vocab()


def test_the_special_tokens_have_their_official_names():
    tokenizer = make_tokenizer()
    official = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)
    assert set(official.get_added_vocab()) == set(tokenizer.get_added_vocab())
    for token in official.get_added_vocab():
        assert len(tokenizer(token)["input_ids"]) == 1
    assert tokenizer.audio_token == "<|AUDIO|>"
    assert tokenizer.eos_token == "<|im_end|>"


# ---- Packing ---------------------------------------------------------------------------------------------------------


def packed_and_alone(model, kind: str, options: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of some questions about two scenes, in packed rows and prompt by prompt."""
    rng = np.random.default_rng(3)
    scenes = [draw_scene(kind, rng, 4), draw_scene(kind, rng, 3)]
    asked = [draw_questions(kind, scene, rng, 12, options) for scene in scenes]
    n = min(3, *map(len, asked))
    assert n, "nothing to compare"
    asked = [questions[:n] for questions in asked]
    batch = Classroom(model, Lesson(), 0).packed(scenes, asked, some_digits(), np.random.default_rng(9))
    same = np.random.default_rng(9)
    alone = []
    for scene, questions in zip(scenes, asked, strict=True):
        clips = render(scene, some_digits(), same)
        for question in questions:
            inputs = model.prepare(clips, question=question.text, options=question.options)
            alone.append(model(inputs, logits_at="last")[0, -1])
    logits = packed_logits(model, batch)
    answers = torch.tensor([[form not in ("", END) for form in forms] for forms in batch.forms])
    return logits[answers], torch.stack(alone)


@torch.no_grad()
@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.parametrize("options", [False, True])
def test_packed_rows_give_what_prompts_give_one_by_one(model, kind, options):
    packed, alone = packed_and_alone(model, kind, options)
    assert (packed - alone).abs().max() < 1e-5


@torch.no_grad()
def test_a_question_that_sees_another_would_be_noticed(model, monkeypatch):
    honest = PackedAttend.of.__func__

    def leaky(cls, batch):
        attend = honest(cls, batch)
        return replace(attend, allowed=attend.allowed.roll(1, dims=-1))

    monkeypatch.setattr(PackedAttend, "of", classmethod(leaky))
    packed, alone = packed_and_alone(model, "free", False)
    assert (packed - alone).abs().max() > 1e-4


def test_question_tokens_are_the_end_of_the_prompt(model):
    question = every_question("arithmetic", 1, options=True)[0][1]
    inputs = model.prepare(question=question.text, options=question.options)
    asked, behind = question_tokens(model.family.tokenizer, question.text, question.options)
    tokens = [*asked, *behind]
    assert inputs.input_ids[0, -len(tokens) :].tolist() == tokens
    assert model.family.tokenizer.decode(behind) == "<|im_end|>\n<|im_start|>assistant\n"


@torch.no_grad()
def test_encoder_rows_of_a_second_do_not_depend_on_the_others(model):
    rng = np.random.default_rng(0)
    (clip,) = render(Scene((Item((1, 8, 3), (0, 5, 9)),)), some_digits(), rng)
    whole = model.family.encode(model.encoders, model.prepare(clip, question="?").features)
    seconds = [model.prepare(clip.cut(i, i + 1), question="?").features for i in range(3)]
    alone = [model.family.encode(model.encoders, features) for features in seconds]
    assert (torch.cat([part["video"] for part in alone]) - whole["video"]).abs().max() < 1e-5
    # the mel features are clamped 8 decades below the loudest frame of the clip, which moves silence a little
    assert (torch.cat([part["audio"] for part in alone]) - whole["audio"]).abs().mean() < 0.05


@torch.no_grad()
def test_a_bank_gives_seconds_of_the_digits_that_were_asked_for(model):
    batches = [encoder_batch(model, some_digits(), name, 4, np.random.default_rng(i), Appearance())
               for i, name in enumerate(("audio", "video", "video"))]  # fmt: skip
    bank = make_bank(model, iter(batches))
    rng = np.random.default_rng(0)
    for name in ("audio", "video"):
        known = sorted(set(bank.digits[name].tolist()))
        rows = bank.draw(name, known, rng)
        every = torch.cat([encode_seconds(model, batch) for batch in batches if batch.modality == name])
        digits = torch.cat([batch.digits for batch in batches if batch.modality == name])
        for digit, row in zip(known, rows, strict=True):
            found = (every == row).all(dim=(1, 2))
            assert set(digits[found].tolist()) == {digit}


# ---- Evaluation ------------------------------------------------------------------------------------------------------


def test_exams_ask_enough_of_every_form():
    exams = make_exams(10)
    assert {exam.form for exam in exams} == {*FAMILIES, *(f"{family}, options" for family in FAMILIES)}
    assert all(sum(map(len, exam.questions)) >= 10 for exam in exams)
    assert make_exams(10) == exams


def test_conditions_take_away_what_they_say(model):
    (clip,) = render(Scene((Item((1, 8), (0, 5)),)), some_digits(), np.random.default_rng(0))
    for name, change in CONDITIONS.items():
        changed = change(clip)
        assert (np.abs(changed.waveform).max() == 0) == (name in ("silenced", "both"))
        assert (changed.frames.max() == 0) == (name in ("blanked", "both"))


@torch.no_grad()
def test_an_untrained_model_is_at_chance_for_every_speaker(model):
    table = by_speaker(model, some_digits(), 40)
    assert sorted(table["speaker"]) == sorted(set(some_digits().recordings.speakers))
    assert table["auditory"].max() < 0.4


@pytest.mark.slow
def test_the_command_prints_and_writes_its_tables(tmp_path, monkeypatch):
    """Of two families of questions; what the text alone gives has tests of its own."""
    monkeypatch.setattr(evaluation, "FAMILIES", {name: FAMILIES[name] for name in ("auditory", "visual")})
    monkeypatch.setattr(evaluation, "text_alone", lambda family, options: 0.125)
    monkeypatch.setattr(truth, "truth_of", partial(truth.truth_of, families=["auditory"]))
    asked = ["evaluate-tiny", "--questions", "4", "--out", str(tmp_path / "new" / "exam")]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    forms, speakers = (pd.read_csv(tmp_path / "new" / "exam" / f"{name}.csv") for name in ("families", "speakers"))
    assert forms.form.tolist() == ["auditory", "auditory, options", "visual", "visual, options"]
    assert set(forms.columns) == {"form", "needs", "n", *CONDITIONS, "text alone"}
    assert (forms.n >= 4).all()
    assert (forms["as it is"] > forms["both"]).all()
    assert sorted(speakers.speaker) == sorted(set(read_held_out().recordings.speakers))
    routes = pd.read_csv(tmp_path / "new" / "exam" / "routes.csv")
    assert routes.cut.tolist() == ["nothing", "media -> behind the question", "media -> question", "both"] * 2
    for table in (forms, speakers, routes):
        assert all(f"{value:.3f}" in done.output for value in table.select_dtypes(float).to_numpy().ravel())
    n_samples = len(read_samples())
    share = float(re.search(rf"sample clips: (\S+) of {n_samples} questions", done.output)[1])  # pyright: ignore
    assert share >= 0.9


@torch.no_grad()
def test_an_exam_counts_right_answers(model, monkeypatch):
    exam = make_exams(12)[0]

    def knows(batch_model, batch):
        wanted = torch.nn.functional.one_hot(batch.targets.clamp(min=0), batch_model.cfg.d_vocab).float()
        wanted[0, 0] = -wanted[0, 0]  # but gets one answer wrong
        return wanted

    monkeypatch.setattr("hooked_av.tiny.evaluation.packed_logits", knows)
    n = sum(map(len, exam.questions))
    assert take(model, exam, some_digits()) == pytest.approx((n - 1) / n)


def test_a_silent_recording_is_left_out_and_a_word_too_slow_for_its_second_stays_as_it_is():
    assert len(digits._trimmed(np.zeros(100, np.float32))) == 0
    word = some_digits().recordings.waves[0]
    assert _faster(word, len(word) / SAMPLING_RATE_HZ) is word


def test_how_often_is_not_asked_of_a_scene_that_was_drawn_for_something_else():
    assert ask("counting, shown", Scene((Item((1, 8), (0, 5)),)), np.random.default_rng(0), options=False) is None
