"""The sample clips of the package: a few short films with a manifest of questions, made from held-out material.

    hooked_av/tiny/clips/*.mp4, manifest.jsonl     written by `make_samples`, read by `read_samples`

Pictures are scikit-learn's handwritten digits, voices are espeak-ng's; neither has been trained on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hooked_av.doors import door
from hooked_av.media.clip import Clip
from hooked_av.tiny.digits import HELD_OUT_VOICES, Digits, read_images, speak
from hooked_av.tiny.questions import target_of
from hooked_av.tiny.scenes import Appearance, Item, Scene, render

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

FOLDER = Path(__file__).parent / "clips"
FILM = Path(__file__).parents[1] / "data" / "bigbuckbunny.mp4"
MANIFEST = "manifest.jsonl"
FPS = 10
SAMPLES_SEED = 7
# File name -> digits shown and spoken, second by second.
FILMS: Mapping[str, Item] = {
    "three-and-eight": Item((3, 8), (5, 1)),
    "two-seconds": Item((7, 2), (2, 6)),
    "same-digit": Item((4, 9, 1), (4, 0, 7)),
    "three-seconds": Item((0, 5, 6), (8, 3, 9)),
    "four-is-spoken-twice": Item((1, 7, 3, 2), (4, 6, 4, 0)),
    "four-seconds": Item((9, 6, 0, 8), (1, 3, 7, 5)),
}
# Film, question, options, answer. Of the families that tiny-av answers well: see its model card.
QUESTIONS: Sequence[tuple[str, str, tuple[str, ...], str]] = (
    ("three-and-eight", "Which digit is shown second?", (), "eight"),
    ("three-and-eight", "Which digit is spoken first?", (), "five"),
    ("three-and-eight", "What is the first shown digit?", (), "three"),
    ("two-seconds", "Which digit do you hear in second two?", (), "six"),
    ("two-seconds", "Which digit do you see in second one?", (), "seven"),
    ("two-seconds", "Which digit is shown second?", (), "two"),
    ("same-digit", "What is the third spoken digit?", (), "seven"),
    ("same-digit", "Which digit is shown first?", (), "four"),
    ("same-digit", "Which digit do you see in second three?", (), "one"),
    ("three-seconds", "Which digit is spoken first?", (), "eight"),
    ("three-seconds", "Which digit is shown third?", (), "six"),
    ("three-seconds", "What is the second spoken digit?", (), "three"),
    ("four-is-spoken-twice", "Which digit is spoken second?", (), "six"),
    ("four-is-spoken-twice", "What is the second shown digit?", (), "seven"),
    ("four-is-spoken-twice", "Which digit do you hear in second three?", (), "four"),
    ("four-seconds", "Which digit is spoken third?", (), "seven"),
    ("four-seconds", "What is the fourth shown digit?", (), "eight"),
    ("four-seconds", "Which digit is shown first?", (), "nine"),
    ("three-and-eight", "Which digit is shown when one is spoken?", (), "eight"),
    ("three-and-eight", "What is the shown digit plus the spoken digit in second one?", (), "eight"),
    ("two-seconds", "Which digit is spoken when seven is shown?", (), "two"),
    ("two-seconds", "What is the sum of the second shown and spoken digits?", (), "eight"),
    ("same-digit", "Which digit do you hear when you see nine?", (), "zero"),
    ("same-digit", "What is the shown digit plus the spoken digit in second three?", (), "eight"),
    ("three-seconds", "Which digit do you see when you hear three?", (), "five"),
    ("three-seconds", "What is the sum of the first shown and spoken digits?", (), "eight"),
    ("four-is-spoken-twice", "Which digit is shown when zero is spoken?", (), "three"),
    ("four-is-spoken-twice", "What is the shown digit plus the spoken digit in second two?", (), "thirteen"),
    ("four-seconds", "Which digit is spoken when eight is shown?", (), "five"),
    ("four-seconds", "Which digit do you see when you hear three?", (), "six"),
    ("same-digit", "Is the first shown digit the same as the first spoken?", (), "yes"),
    ("same-digit", "Is the second shown digit the same as the third spoken?", (), "no"),
    ("three-seconds", "Does the first shown digit equal the second spoken digit?", (), "no"),
    ("four-is-spoken-twice", "How often is four spoken?", (), "two"),
    ("four-is-spoken-twice", "How many times do you see nine?", (), "zero"),
    ("three-and-eight", "Which digit is shown second?", ("three", "eight", "one"), "eight"),
    ("three-and-eight", "Which digit do you hear in second two?", ("one", "five", "nine", "two"), "one"),
    ("two-seconds", "Which digit is spoken first?", ("two", "six"), "two"),
    ("three-seconds", "What is the sum of the first shown and spoken digits?", ("nine", "eight", "six"), "eight"),
    ("four-seconds", "Which digit is spoken when zero is shown?", ("three", "five", "seven", "one"), "seven"),
)


@dataclass(frozen=True)
class SampleQuestion:
    """One question about one of the films."""

    path: Path
    question: str
    options: tuple[str, ...]
    answer: str | None  # None: nobody has written it down

    @property
    def target(self) -> str | None:
        """The answer token: a word, or the letter of the right option."""
        return None if self.answer is None else target_of(self.answer, self.options)

    @cached_property
    def clip(self) -> Clip:
        """The film, decoded."""
        return Clip.from_file(self.path)


@door
def read_samples(folder: Path = FOLDER) -> list[SampleQuestion]:
    """The sample questions that come with the package.

    >>> sample = read_samples()[0]
    >>> sample.question, sample.answer, sample.clip
    ('Which digit is shown second?', 'eight', Clip(audiovisual, 2.00 s, 20 frames of 56x56 at 10 fps, sound of 2.00 s))
    """
    lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    return [
        SampleQuestion(folder / row["media"], row["question"], tuple(row["options"]), row["answer"])
        for row in map(json.loads, lines)
    ]


@door
def sample_clips() -> dict[str, SampleQuestion]:
    """The clips that come with the package, by name: where each is, a question about it, and the clip itself.

    Six films of digits, for tiny-av, and at last five seconds of "Big Buck Bunny" (CC BY 3.0, (c) 2008 Blender
    Foundation, www.bigbuckbunny.org), for all other models. `.path`, `.clip`, `.question`, `.options`, `.answer` (None
    for Big Buck Bunny). `av.tiny.read_samples` has all questions about the digits, `av.tiny.draw_samples` any number of
    other clips.

    >>> clips = sample_clips()
    >>> list(clips)[3:]
    ['three-seconds', 'four-is-spoken-twice', 'four-seconds', 'bigbuckbunny']
    >>> sample = clips["four-is-spoken-twice"]
    >>> sample.path.name, sample.question, sample.answer, sample.clip.duration_seconds
    ('four-is-spoken-twice.mp4', 'Which digit is spoken second?', 'six', 4.0)
    """
    found: dict[str, SampleQuestion] = {}
    for sample in (*read_samples(), SampleQuestion(FILM, "What do you hear?", (), None)):
        found.setdefault(sample.path.stem, sample)
    return found


def make_samples(folder: Path) -> None:
    """Write films and manifest; needs scikit-learn and espeak-ng."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = Digits(read_images(held_out=True), speak(HELD_OUT_VOICES))
    for number, (name, item) in enumerate(FILMS.items()):
        rng = np.random.default_rng([SAMPLES_SEED, number])
        (clip,) = render(Scene((item,)), digits, rng, Appearance(fps=FPS, picture_noise=10))
        clip.save(folder / f"{name}.mp4")
    write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """The questions alone."""
    rows = [
        {"id": f"{film}-{n}", "media": f"{film}.mp4", "question": q, "options": options, "answer": a, "task": _task(q)}
        for n, (film, q, options, a) in enumerate(QUESTIONS)
    ]
    (folder / MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _task(question: str) -> str:
    words = set(question.rstrip("?").split())
    sees, hears = bool({"shown", "see"} & words), bool({"spoken", "hear"} & words)
    return "joint" if sees and hears else "visual" if sees else "auditory"


def share_right(model: "HookedAVTransformer", samples: Sequence[SampleQuestion]) -> float:
    """The share of samples that a model answers rightly, through the whole decode path."""
    answers = [answer(model, sample) for sample in samples]
    return float(np.mean([said == sample.target for said, sample in zip(answers, samples, strict=True)]))


def answer(model: "HookedAVTransformer", sample: SampleQuestion) -> str:
    """What a model says to a sample: its most likely next token."""
    inputs = model.prepare(sample.clip, question=sample.question, options=sample.options)
    return model.to_string(int(model(inputs, logits_at="last")[0, -1].argmax()))
