"""How well tiny-av answers: by family of question, with the sound silenced or the picture blanked, and by speaker.

Images and recordings are held out: the model has met none of them, and no scene of an evaluation.

Axes: question.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from hooked_av.errors import InputsError, nearest
from hooked_av.media.clip import Clip
from hooked_av.tiny.curriculum import Classroom, FromBank, Lesson, draw_questions
from hooked_av.tiny.digits import Digits
from hooked_av.tiny.packing import count_right, packed_logits
from hooked_av.tiny.questions import FAMILIES, Question, ask, draw_scene
from hooked_av.tiny.routes import UNCUT, Cuts
from hooked_av.tiny.scenes import Scene, render

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

EVALUATION_SEED = 20_261_125  # no training run has it
SCENES_AT_ONCE = 24
QUESTIONS_OF_A_SCENE = 2


def _silenced(clip: Clip) -> Clip:
    return clip.silenced() if clip.has_audio else clip


def _blanked(clip: Clip) -> Clip:
    return clip.blanked() if clip.has_video else clip


CONDITIONS: Mapping[str, Callable[[Clip], Clip]] = {
    "as it is": lambda clip: clip,
    "silenced": _silenced,
    "blanked": _blanked,
    "both": lambda clip: _silenced(_blanked(clip)),
}


@dataclass(frozen=True)
class Exam:
    """Questions of one form, about scenes of their own."""

    form: str
    scenes: tuple[Scene, ...]
    questions: tuple[tuple[Question, ...], ...]
    seed: int = EVALUATION_SEED  # of images and recordings


def make_exams(n_questions: int, seed: int = EVALUATION_SEED) -> list[Exam]:
    """At least `n_questions` of every family, open and with options, two about each scene."""
    return [make_exam(family, n_questions, options, seed) for family in FAMILIES for options in (False, True)]


def check_family(family: str) -> None:
    """Refuse a family of questions that the task does not have.

    Errors: `InputsError`.
    """
    if family not in FAMILIES:
        raise InputsError(
            "no such family of questions", expected=", ".join(FAMILIES), got=repr(family),
            next_step=f"the nearest: {nearest(family, FAMILIES)}",
        )  # fmt: skip


def make_exam(family: str, n_questions: int, options: bool = False, seed: int = EVALUATION_SEED) -> Exam:
    """At least `n_questions` of one family: that exam of `make_exams`, by itself.

    Errors: `InputsError` for a family that the task does not have, for no question, and for a seed below 0.

    >>> exam = make_exam("auditory", 10)
    >>> exam.form, sum(map(len, exam.questions)) >= 10
    ('auditory', True)
    """
    check_family(family)
    if n_questions < 1 or seed < 0:
        raise InputsError(
            "no such questions", expected="1 or more, with a seed of 0 or more", got=f"{n_questions} with seed {seed}",
            next_step='such as av.tiny.draw_samples("auditory", 200, seed=1)',
        )  # fmt: skip
    number = list(FAMILIES).index(family)
    return replace(_exam(family, options, n_questions, np.random.default_rng([seed, number, options])), seed=seed)


def _exam(family: str, options: bool, n_questions: int, rng: np.random.Generator) -> Exam:
    scenes: list[Scene] = []
    asked: list[tuple[Question, ...]] = []
    while sum(map(len, asked)) < n_questions:
        kind = str(rng.choice(FAMILIES[family].scenes))
        scene = draw_scene(kind, rng)
        found = [ask(family, scene, rng, options=options) for _ in range(QUESTIONS_OF_A_SCENE)]
        questions = tuple(dict.fromkeys(question for question in found if question is not None))
        if questions:
            scenes.append(scene)
            asked.append(questions)
    return Exam(asked[0][0].form, tuple(scenes), tuple(asked))


def _parts(exam: Exam) -> Iterator[tuple[slice, np.random.Generator]]:
    """Some scenes at a time, and the numbers that choose their images and recordings."""
    for first in range(0, len(exam.scenes), SCENES_AT_ONCE):
        yield slice(first, first + SCENES_AT_ONCE), np.random.default_rng([exam.seed, first])


def clips_of(exam: Exam, digits: Digits) -> Iterator[list[Clip]]:
    """The clips of each scene, the very ones that `take` asks about."""
    for part, rng in _parts(exam):
        yield from (render(scene, digits, rng) for scene in exam.scenes[part])


def take(model: "HookedAVTransformer", exam: Exam, digits: Digits, condition: str = "as it is") -> float:
    """The share of an exam's questions that the model answers rightly."""
    (right,), total = take_under(model, exam, digits, [UNCUT], condition)
    return right / total


@torch.no_grad()
def take_under(
    model: "HookedAVTransformer", exam: Exam, digits: Digits, several: Sequence[Cuts], condition: str = "as it is"
) -> tuple[list[int], int]:
    """How many of an exam's questions are answered rightly under each of these sets of cuts, and how many there are."""
    classroom = Classroom(model, Lesson(), EVALUATION_SEED)
    right, total = [0] * len(several), 0
    for part, rng in _parts(exam):
        batch = classroom.packed(exam.scenes[part], exam.questions[part], digits, rng, change=CONDITIONS[condition])
        batch = replace(batch, media=FromBank(batch.media.rows(model)))  # encoded once for all cuts
        for number, cuts in enumerate(several):
            right[number] += count_right(packed_logits(model, replace(batch, cuts=cuts)), batch)[exam.form][0]
        total += sum(forms.count(exam.form) for forms in batch.forms)
    return right, total


def by_family(
    model: "HookedAVTransformer", digits: Digits, n_questions: int = 200, *, progress: bool = False
) -> pd.DataFrame:
    """One row a form of question: accuracy under each condition, and what the question's text alone would give.

    Columns: form, needs, n, one for each of `CONDITIONS`, "text alone" (see `text_alone`).
    """
    rows = []
    for exam in tqdm(make_exams(n_questions), desc="evaluate", disable=not progress):
        question = exam.questions[0][0]
        rows.append(
            {"form": exam.form, "needs": " + ".join(question.needs), "n": sum(map(len, exam.questions))}
            | {condition: take(model, exam, digits, condition) for condition in CONDITIONS}
            | {"text alone": text_alone(question.family, bool(question.options))}
        )
    return pd.DataFrame(rows)


def by_speaker(
    model: "HookedAVTransformer", digits: Digits, n_questions: int = 200, *, progress: bool = False
) -> pd.DataFrame:
    """Accuracy on the plain auditory questions, each time with one speaker's recordings only."""
    exam = _exam("auditory", False, n_questions, np.random.default_rng(EVALUATION_SEED))
    speakers = sorted(set(digits.recordings.speakers))
    rows = []
    for speaker in tqdm(speakers, desc="speakers", disable=not progress):
        only = replace(digits, recordings=digits.recordings.by([speaker]))
        rows.append({"speaker": speaker, "auditory": take(model, exam, only)})
    return pd.DataFrame(rows)


def text_alone(family: str, options: bool, n_learned: int = 6_000, n_asked: int = 2_000) -> float:
    """What can be answered from the text: the most frequent answer to each text, learned on many questions.

    It is the best that any model can do without picture and sound (texts not met before get the most frequent answer).
    """
    learned: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for question in _drawn(family, options, n_learned, seed=1):
        learned[_text(question)][question.target] += 1
        overall[question.target] += 1
    guess = overall.most_common(1)[0][0]
    asked = _drawn(family, options, n_asked, seed=2)
    right = [(learned[_text(q)].most_common(1)[0][0] if _text(q) in learned else guess) == q.target for q in asked]
    return float(np.mean(right))


def _text(question: Question) -> str:
    """What is asked, in any phrasing order of options: letters depend on their order, so the options stay in it."""
    return "\n".join((question.text, *question.options))


def _drawn(family: str, options: bool, n: int, seed: int) -> list[Question]:
    rng = np.random.default_rng([EVALUATION_SEED, seed])
    found: list[Question] = []
    while len(found) < n:
        kind = str(rng.choice(FAMILIES[family].scenes))
        found += draw_questions(kind, draw_scene(kind, rng), rng, 1, options, families=(family,))
    return found
