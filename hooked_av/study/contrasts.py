"""Contrasts: a question about a clip, and about the same clip with every digit moved on, so that the answer is another.

What is patched from one run into the other differs by the digits alone: places, lengths and words are the same.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hooked_av.analyses.cases import Case
from hooked_av.prompt.inputs import AVInputs
from hooked_av.study.measures import OPTIONS, family_of
from hooked_av.tiny.cases import with_parts
from hooked_av.tiny.digits import NAMES
from hooked_av.tiny.evaluation import EVALUATION_SEED, make_exam
from hooked_av.tiny.held_out import packaged_digits
from hooked_av.tiny.labelled import TinySample, samples_of
from hooked_av.tiny.questions import target_of
from hooked_av.tiny.scenes import Item, Scene, render

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

DIGIT_FAMILIES = ("visual", "auditory", "shown in item", "spoken in item")  # answered by a digit of the media


@dataclass(frozen=True, eq=False)
class DigitContrast:
    """A case with the spans of `held_out_cases`; its prompt with the alternative's digits, and others."""

    case: Case
    answer: str  # the token that is right
    alternative: str  # the one that is right for `other`
    other: AVInputs
    third: AVInputs


def draw_contrasts(model: "HookedAVTransformer", form: str, n: int, seed: int = EVALUATION_SEED) -> list[DigitContrast]:
    """The first questions of one form of a family whose answers are digits, with their contrasts."""
    exam = make_exam(family_of(form), n, form.endswith(OPTIONS), seed)
    samples = list(samples_of(exam, packaged_digits("held_out")))[:n]
    return [_contrast(model, sample, np.random.default_rng([seed, number])) for number, sample in enumerate(samples)]


def _contrast(model: "HookedAVTransformer", sample: TinySample, rng: np.random.Generator) -> DigitContrast:
    case = sample.prepare(model)
    step = (NAMES.index(sample.alternative) - NAMES.index(sample.answer)) % len(NAMES)
    others = [number for number in range(1, len(NAMES)) if number != step]
    other, third = (_moved(model, sample, number, rng) for number in (step, int(rng.choice(others))))
    alternative = target_of(sample.alternative, sample.options)
    return DigitContrast(replace(case, inputs=with_parts(case.inputs)), sample.target, alternative, other, third)


def _moved(model: "HookedAVTransformer", sample: TinySample, step: int, rng: np.random.Generator) -> AVInputs:
    """The same question about the same scene with every digit so many further, nine before zero."""
    scene = Scene(tuple(_on(item, step) for item in sample.scene.items))
    clips = render(scene, packaged_digits("held_out"), rng)
    return with_parts(model.prepare(clips, question=sample.question, options=sample.options))


def _on(item: Item, step: int) -> Item:
    shown, spoken = (tuple((digit + step) % len(NAMES) for digit in row) for row in (item.shown, item.spoken))
    return replace(item, shown=shown, spoken=spoken)
