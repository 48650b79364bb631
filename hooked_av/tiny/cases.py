"""Cases of tiny-av's held-out set: the questions of an evaluation as prompts, with answers, swaps and named spans."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from hooked_av.analyses.cases import Case
from hooked_av.analyses.swaps import media_swaps
from hooked_av.doors import door
from hooked_av.prompt.inputs import AVInputs
from hooked_av.tiny.digits import Digits
from hooked_av.tiny.evaluation import EVALUATION_SEED, clips_of, make_exam
from hooked_av.tiny.held_out import read_held_out
from hooked_av.tiny.questions import NUMBERS, Question
from hooked_av.tiny.scenes import Scene

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

    They are those of `evaluation.make_exam`, about the clips that `evaluation.take` shows, prepared by `model.prepare`.
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
    exam = make_exam(family, n_questions, options, seed)
    clips = clips_of(exam, digits or read_held_out())
    found = []
    for number, (scene, questions, media) in enumerate(zip(exam.scenes, exam.questions, clips, strict=True)):
        for place, question in enumerate(questions):
            asked: dict[str, Any] = {"question": question.text, "options": question.options}
            model.to_single_token(question.target)  # refused here, not in the middle of an analysis
            inputs = _with_parts(model.prepare(media, **asked))
            inputs = _with_items(inputs, scene, question) if len(scene.items) > 1 else inputs
            swapped = media_swaps(model, media, **asked) if swaps else {}
            found.append(Case(inputs, question.target, id=f"{family} {number}.{place}", task=family, swapped=swapped))
    return found


def queried_items(scene: Scene, question: Question) -> tuple[int, ...]:
    """The items that a question names, or the one that is its answer.

    >>> from hooked_av.tiny.scenes import Item
    >>> scene = Scene((Item(spoken=(3,)), Item(spoken=(8,)), Item(spoken=(3,))))
    >>> queried_items(scene, Question("", "Do item one and item three speak the same digit?", "yes", ("audio",)))
    (0, 2)
    >>> queried_items(scene, Question("", "Which item speaks eight?", "two", ("audio",)))
    (1,)
    """
    named = _NAMED_ITEM.findall(question.text) or [question.answer]
    return tuple(NUMBERS.index(name) - 1 for name in named)


def _with_parts(inputs: AVInputs) -> AVInputs:
    """The prompt cut into consecutive parts, so that routes between them can be told apart."""
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


def _with_items(inputs: AVInputs, scene: Scene, question: Question) -> AVInputs:
    queried = set(queried_items(scene, question))
    groups = {"queried_item": queried, "other_items": set(range(len(scene.items))) - queried}
    for name, items in groups.items():
        if items:  # a question may be about all of them
            inputs = inputs.with_span(name, "|".join(f"item{at}" for at in sorted(items)))
    return inputs
