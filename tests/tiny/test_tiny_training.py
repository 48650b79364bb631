"""Training tiny-av: a run that breaks off goes on as if it had not, the log tells the truth, and it learns."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.tiny import VOICES, some_digits

from hooked_av.cli.main import main
from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.tiny import digits, recipes, training
from hooked_av.tiny.architecture import untrained
from hooked_av.tiny.curriculum import Lesson
from hooked_av.tiny.scenes import LEARNING
from hooked_av.tiny.training import Recipe, Stage, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = Recipe(
    audio=Stage(4, 1e-3),
    video=Stage(4, 1e-3),
    words=Stage(2, 1e-3),
    questions=Stage(4, 1e-3),
    clips={"audio": 2, "video": 4},
    bank={"audio": 12, "video": 6},
    answers=Stage(2, 1e-3),
    lesson=Lesson(scenes=2, questions=3, questions_with_options=2, copies=4),
    answers_lesson=Lesson(scenes=2, questions=3, questions_with_options=2, drills_share=0.0, drills_share_later=0.0),
)


NONE = Stage(0, 1e-3)


def trainer(out: Path, recipe: Recipe = SHORT) -> Trainer:
    return Trainer(untrained(0), recipe, some_digits(held_out=False), some_digits(), out, log_every=2, progress=False)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def save_often(monkeypatch) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    monkeypatch.setattr(training, "HELD_OUT_BATCHES", 1)


def test_a_run_that_breaks_off_anywhere_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    whole = trainer(tmp_path / "whole")
    whole.run()
    steps = sum(getattr(SHORT, name).steps for name in ("audio", "video", "words", "questions", "answers"))
    step = torch.optim.AdamW.step
    for breaks_at in (11,):
        out = tmp_path / str(breaks_at)
        taken = 0

        def breaking(self, *args, limit=breaks_at, **kwargs):
            nonlocal taken
            taken += 1
            if taken == limit:
                raise KeyboardInterrupt
            return step(self, *args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(torch.optim.AdamW, "step", breaking)
            with pytest.raises(KeyboardInterrupt):
                trainer(out).run()
        assert taken < steps
        again = trainer(out)
        again.run()
        for name, tensor in weights(whole).items():
            assert torch.equal(tensor, again.model.state_dict()[name]), (breaks_at, name)


@pytest.mark.slow
def test_seeds_decide_and_repeat(tmp_path):
    one, same, other = (trainer(tmp_path / name) for name in ("one", "same", "other"))
    other.recipe = replace(SHORT, seed=1)
    for run in (one, same, other):
        run.run()
    assert one.model.fingerprint() == same.model.fingerprint() != other.model.fingerprint()


def test_the_log_has_a_row_for_every_stage_and_the_last_step(tmp_path):
    trainer(tmp_path).run()
    rows = log_of(tmp_path)
    last = {row["stage"]: row["step"] for row in rows}
    assert last == {"audio": 4, "video": 4, "words": 2, "questions": 4, "answers": 2}
    assert all(0 <= share <= 1 for row in rows for share in row["held_out"].values())
    assert {"audio"} == set(rows[0]["held_out"])
    assert not any(form.startswith("drill") for form in {**rows[-1]["train"], **rows[-1]["held_out"]})


def test_worker_processes_change_nothing(tmp_path):
    recipe = replace(SHORT, video=NONE, questions=NONE, answers=NONE)
    alone, helped = (trainer(tmp_path / name, recipe) for name in ("alone", "helped"))
    helped.workers = 2
    for run in (alone, helped):
        run.run()
    for name, tensor in weights(alone).items():
        assert torch.equal(tensor, helped.model.state_dict()[name]), name


def test_batches_are_made_on_the_cpu_wherever_the_model_is(tmp_path):
    """Worker processes are forked, and must not touch a GPU."""
    run = trainer(tmp_path)
    run.model.to("meta")
    made = [run._encoder_batch(name, run.training, 0, LEARNING) for name in ("audio", "video")]
    classroom = run._classroom(run.recipe.lesson)
    packed = [classroom.words_batch(0), *(classroom.batch(step, run.training) for step in range(4))]
    tensors = [tensor for batch in made for part in batch.features for tensor in part.values()]
    tensors += [t for batch in packed for t in (batch.input_ids, batch.position_ids, batch.marks, batch.pairs)]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert packed[1].to(torch.device("meta")).targets.device.type == "meta"


def test_each_stage_trains_its_own_part_only(tmp_path):
    run = trainer(tmp_path, replace(SHORT, video=NONE, words=NONE, questions=NONE, answers=NONE))
    before = weights(run)
    run.run()
    changed = {name.split(".")[1] for name, t in run.model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"audio_tower"}


def test_the_command_trains_and_writes_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "_STAGES", {"free": SHORT})
    out = tmp_path / "run"
    asked = ["train-tiny", "--out", str(out), "--speech", str(VOICES), "--no-voices", "--threads", "1"]
    result = CliRunner().invoke(main, [*asked, "--leave-out", "nobody"])
    assert result.exit_code == 1
    assert "no such speaker" in result.output
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    model = HookedAVTransformer.from_pretrained(out / "model")
    assert model.cfg.n_layers == 8
    assert torch.equal(model.W_E, torch.load(out / "state.pt", weights_only=True)["model"]["decoder.embed.weight"])


@pytest.mark.slow
def test_a_short_run_beats_chance(tmp_path, monkeypatch):
    """Encoders and decoder learn: after about three minutes, digits are told apart, and words are copied."""
    monkeypatch.setattr(training, "HELD_OUT_BATCHES", 4)
    recipe = Recipe(
        audio=Stage(60, 2e-3),
        video=Stage(100, 2e-3),
        words=Stage(150, 1.5e-3),
        questions=NONE,
        answers=NONE,
        clips={"audio": 8, "video": 16},
        bank={"audio": 20, "video": 12},
        lesson=Lesson(scenes=4, questions=6, questions_with_options=4),
    )
    run = trainer(tmp_path, recipe)
    run.log_every = 200
    run.run()
    reached = {row["stage"]: row["held_out"] for row in log_of(tmp_path)}
    assert reached["audio"]["audio"] > 0.2
    assert reached["video"]["video"] > 0.2
    assert reached["words"]["drill, copy"] > 0.3  # chance is 0.05


def test_the_command_learns_from_voices_and_keeps_a_speaker_for_the_test(tmp_path, monkeypatch):
    """What the trainer is handed; espeak-ng, and the training itself, have tests of their own."""
    everybody = some_digits().recordings + some_digits(held_out=False).recordings
    alone, *_, other = sorted(set(everybody.speakers))
    voice = everybody.by([other])
    handed = []

    class Noted:
        def __init__(self, model, recipe, learned, held_out, *rest):
            handed.extend([learned.recordings, held_out.recordings])

        def run(self):
            pass

    monkeypatch.setattr(training, "Trainer", Noted)
    monkeypatch.setattr(digits, "speak", lambda voices: voice)
    monkeypatch.setattr(digits, "read_speech", lambda source, held_out: everybody)
    words = ["train-tiny", "--out", str(tmp_path / "run"), "--speech", str(VOICES), "--leave-out", alone]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    learned, held_out = handed
    recorded = len(everybody.without(alone).waves)
    assert alone not in learned.speakers
    assert set(held_out.speakers) == {alone}
    assert len(learned.waves) == len(learned.digits) == recorded + len(voice.waves)
    assert learned.digits[recorded:].tolist() == voice.digits.tolist()
