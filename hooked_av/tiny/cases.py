"""Cases of tiny-av's held-out set: the questions of an evaluation as prompts, with answers, swaps and named spans."""

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hooked_av.analyses.cases import Case
from hooked_av.analyses.swaps import media_swaps
from hooked_av.doors import door
from hooked_av.prompt.inputs import AVInputs
from hooked_av.tiny.digits import Digits
from hooked_av.tiny.evaluation import EVALUATION_SEED, make_exam
from hooked_av.tiny.held_out import packaged_digits
from hooked_av.tiny.labelled import TinySample, samples_of
from hooked_av.tiny.questions import NUMBERS

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

_NAMED_ITEM = re.compile(rf"\bitem ({'|'.join(NUMBERS)})\b")


@door
def held_out_cases(
    model: "HookedAVTransformer",
    family: str,
    n_questions: int,
    *,
    options: bool = False,
    seed: int = EVALUATION_SEED,
    digits: Digits | None = None,
    swaps: bool = False,
) -> list[Case]:
    """The questions of one family that an evaluation asks, each as the prompt that a user would make.

    They are the samples of `draw_samples`, those of an evaluation, prepared by `model.prepare`.
    Spans besides those of the prompt: "media" (all of it, marks and words between items too), "asked" (question,
    options, instruction), "prompt_begin" and "prompt_end" (the template before the media, and between what is asked and
    the last token). Of several items: "queried_item" (those that the question is about, or that are its answer) and
    "other_items".

    Args:
        n_questions: at least so many.
        options: whether the prompt has lettered options; the answer is a letter then.
        digits: images and recordings (None: the held-out ones of the package).
        swaps: with the same question about silenced and blanked clips (`Case.swapped`).

    Errors: `InputsError` for an unknown family, and for a model that has no single token for an answer.

    >>> import hooked_av as av
    >>> model = av.HookedAVTransformer.from_pretrained("tiny-av")
    >>> case = held_out_cases(model, "spoken in item", 4)[0]
    >>> case.id, case.task, case.answer, "queried_item" in case.inputs.spans
    ('spoken in item 0.0', 'spoken in item', 'three', True)
    """
    found = []
    for sample in samples_of(make_exam(family, n_questions, options, seed), digits or packaged_digits("held_out")):
        case = sample.prepare(model)
        inputs = with_parts(case.inputs)
        inputs = _with_items(inputs, sample) if len(sample.media) > 1 else inputs
        asked: dict[str, Any] = {"question": sample.question, "options": sample.options}
        swapped = media_swaps(model, list(sample.media), **asked) if swaps else {}
        found.append(replace(case, inputs=inputs, swapped=swapped))
    return found


def queried_items(question: str, answer: str) -> tuple[int, ...]:
    """The items that a question names, or the one that is its answer.

    >>> queried_items("Do item one and item three speak the same digit?", "yes")
    (0, 2)
    >>> queried_items("Which item speaks eight?", "two")
    (1,)
    """
    named = _NAMED_ITEM.findall(question) or [answer]
    return tuple(NUMBERS.index(name) - 1 for name in named)


def with_parts(inputs: AVInputs) -> AVInputs:
    """The prompt cut into consecutive parts, so that routes between them can be told apart: see `held_out_cases`."""
    spans, last = inputs.spans, int(inputs.spans["last"].positions[0])
    asked = np.concatenate([spans[name].positions for name in ("question", "options", "instruction") if name in spans])
    media = min(int(spans[name].positions[0]) for name in ("boundary", "audio", "video", "image") if name in spans)
    parts = {
        "prompt_begin": range(media),
        "media": range(media, asked.min()),
        "asked": range(asked.min(), asked.max() + 1),
        "prompt_end": range(asked.max() + 1, last),
    }
    for name, positions in parts.items():
        inputs = inputs.with_span(name, positions)
    return inputs


def _with_items(inputs: AVInputs, sample: TinySample) -> AVInputs:
    queried = set(queried_items(sample.question, sample.answer))
    groups = {"queried_item": queried, "other_items": set(range(len(sample.media))) - queried}
    for name, items in groups.items():
        if items:  # a question may be about all of them
            inputs = inputs.with_span(name, "|".join(f"item{at}" for at in sorted(items)))
    return inputs
