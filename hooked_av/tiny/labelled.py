"""Labelled samples of tiny-av's task, as many as you like: clips, a question, the answer, and what is in every second.

Axes: second (of a clip, or one item of several).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hooked_av.analyses.cases import Case
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.media.clip import Clip
from hooked_av.tiny.digits import Digits
from hooked_av.tiny.evaluation import EVALUATION_SEED, Exam, clips_of, make_exam
from hooked_av.tiny.held_out import Split, packaged_digits
from hooked_av.tiny.questions import FAMILIES, Question, target_of
from hooked_av.tiny.scenes import Item, Scene

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

_OF_TRAINING = 1 << 40  # added to a seed, so that a sample of one split has no twin in the other


@dataclass(frozen=True, eq=False)
class TinySample:
    """One question of tiny-av's task, with everything that is known of it.

    media: one clip, or the items of a prompt in order. answer, alternative: the right text and another one that could
    have been right. scene: what the media were made of.
    """

    id: str
    task: str
    media: tuple[Clip, ...]
    question: str
    options: tuple[str, ...]
    answer: str
    alternative: str
    scene: Scene

    @property
    def target(self) -> str:
        """The answer token: the answer, or the letter of its option."""
        return target_of(self.answer, self.options)

    @property
    def clip(self) -> Clip:
        """The one clip of a sample that has no more. Errors: `InputsError` for one of several items."""
        first, *others = self.media
        if others:
            raise InputsError(
                f"sample {self.id!r} has several items",
                expected="one clip",
                got=", ".join(item.kind for item in self.media),
                next_step="take sample.media",
            )
        return first

    @property
    def shown(self) -> tuple[int | None, ...]:
        """The digit that is shown in each second; None where nothing is (an item that is a sound)."""
        return _seconds(self.scene.items, "shown")

    @property
    def spoken(self) -> tuple[int | None, ...]:
        """The digit that is spoken in each second; None where nothing is (an item that is a picture)."""
        return _seconds(self.scene.items, "spoken")

    def prepare(self, model: "HookedAVTransformer", **arguments: Any) -> Case:
        """The prompt with its answer and alternative, as one token each: what analyses take.

        Args:
            arguments: of `model.prepare`.

        Errors: those of `model.prepare`; `InputsError` for a model that has no single token for an answer.
        """
        answer, alternative = self.target, target_of(self.alternative, self.options)
        for text in (answer, alternative):
            model.to_single_token(text)  # refused here, not in the middle of an analysis
        inputs = model.prepare(list(self.media), question=self.question, options=self.options, **arguments)
        return Case(inputs, answer, alternative, id=self.id, task=self.task)


@door
def draw_samples(
    task: str, n: int, *, options: bool = False, seed: int = EVALUATION_SEED, split: Split = "held_out"
) -> list[TinySample]:
    """Labelled samples of one task, the same for the same seed; they need no other package and no download.

    "held_out" is made of digits that tiny-av has never met: those of its evaluation (two questions about a scene, where
    it has two). "train" is made of digits that it was trained on, in scenes of their own: to fit a probe on one split
    and test it on the other.

    Args:
        task: a row of the model card: "visual", "auditory", "comparison", "arithmetic", "binding, shown",
            "spoken in item", ...
        n: how many; the first of more are the same.
        options: with lettered options, of which the answer is one.

    Errors: `InputsError` for an unknown task, and for less than one sample.

    >>> sample = draw_samples("auditory", 200)[0]
    >>> sample.question, sample.answer, sample.spoken, sample.shown
    ('Which digit do you hear in second two?', 'nine', (9, 9, 9, 2), (0, 6, 0, 4))

    Two hundred, batched, through the model:

    >>> import hooked_av as av
    >>> model = av.HookedAVTransformer.from_pretrained("tiny-av")
    >>> samples = draw_samples("auditory", 8)
    >>> inputs = model.batch([sample.prepare(model).inputs for sample in samples])
    >>> [text == sample.answer for text, sample in zip(model.generate(inputs).texts, samples)].count(True)
    8
    """
    exam = make_exam(task, n, options, seed + _OF_TRAINING * (split == "train"))
    return list(samples_of(exam, packaged_digits(split)))[:n]


def samples_of(exam: Exam, digits: Digits) -> Iterator[TinySample]:
    """The questions of an exam, about the very clips that an evaluation shows."""
    for number, (scene, questions, media) in enumerate(
        zip(exam.scenes, exam.questions, clips_of(exam, digits), strict=True)
    ):
        for place, question in enumerate(questions):
            other = _alternative(question, scene, np.random.default_rng([exam.seed, number, place]))
            yield TinySample(
                f"{question.family} {number}.{place}",
                question.family,
                tuple(media),
                question.text,
                question.options,
                question.answer,
                other,
                scene,
            )


def _alternative(question: Question, scene: Scene, rng: np.random.Generator) -> str:
    """Another option, or another answer that this scene could have had."""
    pool = question.options or FAMILIES[question.family].pool(scene)
    return str(rng.choice([text for text in dict.fromkeys(pool) if text != question.answer]))


def _seconds(items: tuple[Item, ...], stream: str) -> tuple[int | None, ...]:
    return tuple(digit for item in items for digit in getattr(item, stream) or (None,) * item.seconds)
