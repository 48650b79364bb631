"""What is trained on: random scenes with random questions, the same for the same seed and step.

Axes: batch (scenes of one step), row (encoder rows), d_model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip
from hooked_av.prompt.inputs import AVInputs, merge_features
from hooked_av.tiny.architecture import CAPTION
from hooked_av.tiny.digits import Digits
from hooked_av.tiny.drills import copied, draw_drills
from hooked_av.tiny.encoders import CLIPS_AT_ONCE, Bank, features_to
from hooked_av.tiny.packing import (
    BEFORE_ITEMS,
    UNLEARNED,
    Media,
    PackedBatch,
    PackedScene,
    Slot,
    collate,
    drill_slot,
    question_slot,
)
from hooked_av.tiny.probes import MARKS, marks_of
from hooked_av.tiny.questions import FAMILIES, Question, ask, draw_length, draw_scene
from hooked_av.tiny.routes import UNCUT, Cuts
from hooked_av.tiny.scenes import FPS, FRAME_PIXELS, Item, Scene, render

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

SCENE_SHARES: Mapping[str, float] = {
    "free": 0.3,
    "paired": 0.25,
    "repeating": 0.15,
    "items": 0.15,
    "paired items": 0.15,
}

TEXT_BEGINS = (20, 160)  # positions at which questions begin after two to four seconds, and before

Change = Callable[[Clip], Clip]


@dataclass(frozen=True)
class Lesson:
    """What a step has: scenes, questions of a scene (fewer where they have options), or rows of words to copy.

    `drills_share` of the first steps have drills, fewer and fewer until `drills_steps`, and `drills_share_later` of the
    others. `options_share` of the steps without drills have options.
    """

    scenes: int = 32
    questions: int = 12
    questions_with_options: int = 7
    drills_share: float = 0.65
    drills_share_later: float = 0.3
    drills_steps: int = 6000
    options_share: float = 0.5
    copies: int = 96

    def drills_share_at(self, step: int) -> float:
        """The share of drills at a step.

        >>> [round(Lesson().drills_share_at(step), 3) for step in (0, 3000, 6000, 9000)]
        [0.65, 0.475, 0.3, 0.3]
        """
        passed = min(1.0, step / self.drills_steps)
        return self.drills_share + passed * (self.drills_share_later - self.drills_share)


@dataclass(frozen=True)
class FromBank:
    """Encoder rows put together from encoded seconds."""

    encoded: Mapping[str, Float[Tensor, "row d_model"]]

    def rows(self, model: "HookedAVTransformer") -> Mapping[str, Float[Tensor, "row d_model"]]:
        return self.encoded

    def to(self, device: torch.device) -> "FromBank":
        return FromBank({name: rows.to(device) for name, rows in self.encoded.items()})

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

    def rows(self, model: "HookedAVTransformer") -> Mapping[str, Float[Tensor, "row d_model"]]:
        parts = [model.family.encode(model.encoders, features) for features in self.features]
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}

    def to(self, device: torch.device) -> "FromClips":
        return FromClips(features_to(self.features, device))

    @classmethod
    def of(
        cls,
        model: "HookedAVTransformer",
        scenes: Sequence[Scene],
        digits: Digits,
        rng: np.random.Generator,
        change: Change,
    ) -> "FromClips":
        clips = ([change(clip) for clip in render(scene, digits, rng)] for scene in scenes)
        features = [model.family.prepare(some, question=CAPTION).features for some in clips]
        chunks = (features[i : i + CLIPS_AT_ONCE] for i in range(0, len(features), CLIPS_AT_ONCE))
        return cls(tuple(merge_features(chunk) for chunk in chunks))


class Classroom:
    """Makes the batch of any step from a bank (fast), or from clips (the real path), with these cuts."""

    def __init__(self, model: "HookedAVTransformer", lesson: Lesson, seed: int, cuts: Cuts = UNCUT) -> None:
        self.model, self.lesson, self.seed, self.cuts = model, lesson, seed, cuts
        self._layouts: dict[tuple[object, ...], tuple[Tensor, Tensor, Tensor]] = {}

    def batch(self, step: int, source: Bank | Digits) -> PackedBatch:
        """The batch of a step: drills, or questions. It depends on seed and step alone: a run can be taken up again."""
        rng = np.random.default_rng([self.seed, step])
        drills = bool(rng.random() < self.lesson.drills_share_at(step))
        options = bool(rng.random() < self.lesson.options_share)
        kinds = rng.choice(list(SCENE_SHARES), self.lesson.scenes, p=list(SCENE_SHARES.values())).tolist()
        length = draw_length(rng)  # one for all scenes of a step, so that little is padded
        scenes = [draw_scene(kind, rng, length) for kind in kinds]
        if drills:
            slots = [
                [drill_slot(self.model, drill, self.cuts) for drill in draw_drills(scene, rng)] for scene in scenes
            ]
            return self._collated(scenes, slots, source, rng)
        n = self.lesson.questions_with_options if options else self.lesson.questions
        asked = [draw_questions(kind, scene, rng, n, options) for kind, scene in zip(kinds, scenes, strict=True)]
        return self.packed(scenes, asked, source, rng)

    def words_batch(self, step: int) -> PackedBatch:
        """No media, only words to copy: finding what was there before comes before everything else."""
        rng = np.random.default_rng([self.seed, step])
        packed = [self._without_media(rng) for _ in range(self.lesson.copies)]
        return collate(packed, FromBank({}), self.cuts)

    def packed(
        self,
        scenes: Sequence[Scene],
        asked: Sequence[Sequence[Question]],
        source: Bank | Digits,
        rng: np.random.Generator,
        *,
        change: Change = lambda clip: clip,
    ) -> PackedBatch:
        """These questions about these scenes, with images and recordings drawn from the source.

        `change` edits every clip before the model sees it; encoded seconds cannot be changed.
        """
        slots = [[question_slot(self.model, question) for question in questions] for questions in asked]
        return self._collated(scenes, slots, source, rng, change)

    def _collated(
        self,
        scenes: Sequence[Scene],
        slots: Sequence[Sequence[Slot]],
        source: Bank | Digits,
        rng: np.random.Generator,
        change: Change = lambda clip: clip,
    ) -> PackedBatch:
        media: Media
        if isinstance(source, Bank):
            media = FromBank.of(scenes, source, rng)
        else:
            media = FromClips.of(self.model, scenes, source, rng, change)
        packed = [self._scene(scene, some) for scene, some in zip(scenes, slots, strict=True)]
        return collate(packed, media, self.cuts)

    def _scene(self, scene: Scene, slots: Sequence[Slot]) -> PackedScene:
        ids, positions, items = self._layout(scene)
        return PackedScene(ids, positions, items, tuple(slots), marks_of(scene, ids, self.model))

    def _without_media(self, rng: np.random.Generator) -> PackedScene:
        """Words to copy after the system prompt, at the positions where words stand after a clip."""
        ids = torch.tensor(self.model.family.tokenizer("system\n", add_special_tokens=False)["input_ids"])
        positions = (torch.arange(len(ids)) + int(rng.integers(*TEXT_BEGINS))).expand(3, -1)
        marks = torch.full((len(MARKS), len(ids)), UNLEARNED)
        items = torch.full((len(ids),), BEFORE_ITEMS)
        return PackedScene(ids, positions, items, (drill_slot(self.model, copied(rng), self.cuts),), marks)

    def _layout(self, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, positions and items of what comes before the question: they follow from kinds and lengths of items."""
        key = tuple((bool(item.shown), bool(item.spoken), item.is_still, item.seconds) for item in scene.items)
        if key not in self._layouts:
            inputs = self.model.family.prepare([_stand_in(item) for item in scene.items], question=CAPTION)
            stop = int(inputs.spans["question"].positions[0])
            items = _item_of_each(inputs, len(scene.items))[:stop]
            self._layouts[key] = inputs.input_ids[0, :stop], inputs.position_ids[:, 0, :stop], items
        return self._layouts[key]


def _item_of_each(inputs: AVInputs, n_items: int) -> Int64[Tensor, " pos"]:
    """The item that each position belongs to, with the marks before it; behind the last one, the last one."""
    names = ("boundary", "audio", "video", "image")
    first = min(int(inputs.spans[name].positions[0]) for name in names if name in inputs.spans)
    ends = [int(inputs.spans[f"item{number}"].positions[-1]) for number in range(n_items - 1)] if n_items > 1 else []
    items = torch.full((inputs.input_ids.shape[1],), BEFORE_ITEMS)
    items[first:] = torch.bucketize(torch.arange(first, len(items)), torch.tensor(ends, dtype=torch.int64))
    return items


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
