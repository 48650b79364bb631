"""What is trained on: random scenes with random questions, the same for the same seed and step.

Axes: batch (scenes of one step), row (encoder rows), d_model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_av.inputs import merge_features
from hooked_av.media import SAMPLING_RATE_HZ, Clip
from hooked_av.tiny.architecture import BESIDE_CAPTION, CAPTION, WORKED_CAPTION
from hooked_av.tiny.digits import NAMES, Digits
from hooked_av.tiny.encoders import CLIPS_AT_ONCE, Bank
from hooked_av.tiny.packing import (
    UNLEARNED,
    Media,
    PackedBatch,
    PackedScene,
    Slot,
    collate,
    question_slot,
    question_tokens,
)
from hooked_av.tiny.questions import FAMILIES, NUMBERS, ORDINALS, YES_NO, Question, ask, draw_length, draw_scene
from hooked_av.tiny.scenes import FPS, FRAME_PIXELS, Item, Scene, render

SCENE_SHARES: Mapping[str, float] = {
    "free": 0.35,
    "paired": 0.2,
    "repeating": 0.15,
    "items": 0.17,
    "paired items": 0.13,
}

TOLD_SECONDS = 2  # of a clip, in captions that do not go in order

Change = Callable[[Clip], Clip]


@dataclass(frozen=True)
class Lesson:
    """Scenes of a step, questions of a scene, and how often a step's questions come with options (then fewer)."""

    scenes: int = 12
    questions: int = 12
    options_share: float = 0.35
    questions_with_options: int = 7


@dataclass(frozen=True)
class FromBank:
    """Encoder rows put together from encoded seconds."""

    encoded: Mapping[str, Float[Tensor, "row d_model"]]

    def rows(self, model: Any) -> Mapping[str, Float[Tensor, "row d_model"]]:
        return self.encoded

    @classmethod
    def of(cls, scenes: Sequence[Scene], bank: Bank, rng: np.random.Generator) -> "FromBank":
        found: dict[str, list[Tensor]] = {"audio": [], "video": [], "image": []}
        for item in (item for scene in scenes for item in scene.items):
            if item.shown:
                found["image" if item.is_still else "video"].append(bank.draw("video", item.shown, rng))
            if item.spoken:
                found["audio"].append(bank.draw("audio", item.spoken, rng))
        return cls({name: torch.cat(parts).flatten(0, 1) for name, parts in found.items() if parts})


@dataclass(frozen=True)
class FromClips:
    """Encoder rows of rendered clips: the path of every prompt, a few scenes at a time."""

    features: tuple[Mapping[str, Tensor], ...]

    def rows(self, model: Any) -> Mapping[str, Float[Tensor, "row d_model"]]:
        parts = [model.family.encode(model.encoders, features) for features in self.features]
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}

    @classmethod
    def of(
        cls, model: Any, scenes: Sequence[Scene], digits: Digits, rng: np.random.Generator, change: Change
    ) -> "FromClips":
        clips = ([change(clip) for clip in render(scene, digits, rng)] for scene in scenes)
        features = [model.prepare(some, question=CAPTION).features for some in clips]
        chunks = (features[i : i + CLIPS_AT_ONCE] for i in range(0, len(features), CLIPS_AT_ONCE))
        return cls(tuple(merge_features(chunk) for chunk in chunks))


class Classroom:
    """Makes the batch of any step from a bank (fast), or from clips (the real path)."""

    def __init__(self, model: Any, lesson: Lesson, seed: int) -> None:
        self.model, self.lesson, self.seed = model, lesson, seed
        self._layouts: dict[tuple, tuple[Tensor, Tensor]] = {}

    def batch(self, step: int, source: Bank | Digits) -> PackedBatch:
        """The batch of a step: it depends on seed and step alone, so that a run can be taken up again."""
        rng = np.random.default_rng([self.seed, step])
        options = bool(rng.random() < self.lesson.options_share)
        kinds = rng.choice(list(SCENE_SHARES), self.lesson.scenes, p=list(SCENE_SHARES.values())).tolist()
        length = draw_length(rng)  # one for all scenes of a step, so that little is padded
        scenes = [draw_scene(kind, rng, length) for kind in kinds]
        n = self.lesson.questions_with_options if options else self.lesson.questions
        asked = [draw_questions(kind, scene, rng, n, options) for kind, scene in zip(kinds, scenes, strict=True)]
        return self.packed(scenes, asked, source, rng, captions=not options)

    def lookup_batch(self, step: int, source: Bank | Digits) -> PackedBatch:
        """Single clips, single digits and captions only: finding a second comes before everything else."""
        rng = np.random.default_rng([self.seed, step])
        length = draw_length(rng)
        scenes = [draw_scene("free", rng, length) for _ in range(self.lesson.scenes)]
        asked = [draw_questions("free", s, rng, self.lesson.questions, False, ("visual", "auditory")) for s in scenes]
        return self.packed(scenes, asked, source, rng, captions=True)

    def packed(
        self,
        scenes: Sequence[Scene],
        asked: Sequence[Sequence[Question]],
        source: Bank | Digits,
        rng: np.random.Generator,
        *,
        captions: bool = False,
        change: Change = lambda clip: clip,
    ) -> PackedBatch:
        """These questions about these scenes, with images and recordings drawn from the source.

        `change` edits every clip before the model sees it; encoded seconds cannot be changed.
        """
        media: Media
        if isinstance(source, Bank):
            media = FromBank.of(scenes, source, rng)
        else:
            media = FromClips.of(self.model, scenes, source, rng, change)
        rows = zip(scenes, asked, strict=True)
        return collate([self._scene(scene, some, rng if captions else None) for scene, some in rows], media)

    def _scene(self, scene: Scene, questions: Sequence[Question], captions: np.random.Generator | None) -> PackedScene:
        slots = [question_slot(self.model, question) for question in questions]
        if captions is not None and len(scene.items) == 1:
            slots += self._captions(scene.clip, captions)
        return PackedScene(*self._layout(scene), tuple(slots))

    def _captions(self, item: Item, rng: np.random.Generator) -> list[Slot]:
        """Three ways of telling a clip: in order, by the name of a second, and by what stands beside a digit."""
        told = [(NAMES[shown], True) for pair in zip(item.shown, item.spoken, strict=True) for shown in pair]
        slots = [self._told("caption", CAPTION, told)]
        seconds = rng.permutation(item.seconds)[:TOLD_SECONDS].tolist()
        slots.append(self._told("caption, worked", WORKED_CAPTION, [w for at in seconds for w in _worked(item, at)]))
        beside = [word for at in seconds for word in _beside(item, at, rng)]
        return [*slots, self._told("caption, beside", BESIDE_CAPTION, beside)] if beside else slots

    def _told(self, form: str, request: str, words: Sequence[tuple[str, bool]]) -> Slot:
        """A caption; of its words, some are given and the others are learned."""
        ids = [self.model.to_single_token(f" {word}") for word, _ in words]
        if form == "caption":
            ids[0] = self.model.to_single_token(words[0][0])  # it begins the answer, as the answer to a question does
        tokens = question_tokens(self.model.family.tokenizer, request)
        answers = [token if learned else UNLEARNED for token, (_, learned) in zip(ids, words, strict=True)]
        return Slot(form, (*tokens, *ids[:-1]), tuple(answers))

    def _layout(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """Ids and positions of everything before the question; they depend on the kinds and lengths of items only."""
        key = tuple((bool(item.shown), bool(item.spoken), item.is_still, item.seconds) for item in scene.items)
        if key not in self._layouts:
            inputs = self.model.prepare([_stand_in(item) for item in scene.items], question=CAPTION)
            stop = int(inputs.spans["question"].positions[0])
            self._layouts[key] = inputs.input_ids[0, :stop], inputs.position_ids[:, 0, :stop]
        return self._layouts[key]


def _worked(item: Item, second: int) -> list[tuple[str, bool]]:
    """A second by its name: its digits, whether they are the same, and their sum. The name is given."""
    shown, spoken = item.shown[second], item.spoken[second]
    told = (NAMES[shown], NAMES[spoken], YES_NO[shown != spoken], NUMBERS[shown + spoken])
    return [(ORDINALS[second], False), *((word, True) for word in told)]


def _beside(item: Item, second: int, rng: np.random.Generator) -> list[tuple[str, bool]]:
    """What is seen when a digit is heard, or the reverse. The digit is given; one that occurs twice is left out."""
    verbs, streams = ("hear", "see"), (item.spoken, item.shown)
    if rng.random() < 0.5:
        verbs, streams = verbs[::-1], streams[::-1]
    key, value = (stream[second] for stream in streams)
    if streams[0].count(key) > 1:
        return []
    return [(verbs[0], False), (NAMES[key], False), (verbs[1], False), (NAMES[value], True)]


def _stand_in(item: Item) -> Clip:
    """A clip of the same shape, of no matter what."""
    n_frames = 1 if item.is_still else FPS * len(item.shown)
    frames = np.zeros((n_frames, FRAME_PIXELS, FRAME_PIXELS, 3), np.uint8) if item.shown else None
    sound = np.ones(SAMPLING_RATE_HZ * len(item.spoken), np.float32) if item.spoken else None
    fps = None if item.is_still or not item.shown else FPS
    return Clip.from_arrays(frames, fps, sound, SAMPLING_RATE_HZ if item.spoken else None)


def draw_questions(
    kind: str, scene: Scene, rng: np.random.Generator, n: int, options: bool, families: Sequence[str] = tuple(FAMILIES)
) -> list[Question]:
    """Up to `n` questions that this kind of scene can answer; every family has the same share."""
    fitting = [name for name in families if kind in FAMILIES[name].scenes]
    found = [ask(str(name), scene, rng, options=options) for name in rng.choice(fitting, n)]
    return [question for question in found if question is not None]
