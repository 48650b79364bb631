"""Training tiny-av: encoders with throw-away classifiers, then the decoder on encoded seconds, then all of it on clips.

    audio, video   each encoder alone, on single digits                 (encoders.py)
    lookup         the decoder, on captions and single digits, over a bank of encoded seconds
    questions      the decoder, on everything                           (curriculum.py)
    together       decoder and encoders, on rendered clips as they are

Every stage can be taken up again: `state.pt` holds weights, optimiser and step, `curve.jsonl` the log.

Axes: second, digit; batch answer d_vocab (see packing).
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from hooked_av.tiny.curriculum import Classroom, Lesson
from hooked_av.tiny.digits import Digits
from hooked_av.tiny.encoders import ROWS, Bank, Classifier, EncoderBatch, encode_seconds, encoder_batch, make_bank
from hooked_av.tiny.packing import PackedBatch, count_right, packed_logits, packed_loss

logger = logging.getLogger(__name__)

Outcome: TypeAlias = tuple[Tensor, dict[str, tuple[int, int]]]  # loss, and right answers of each form of question
SAVE_EVERY = 100  # steps
EXAM_BATCHES = 8
_HELD_OUT_SEED = 1  # of the held-out batches; a training seed never meets it, because steps are counted otherwise


@dataclass(frozen=True)
class Stage:
    """Steps, learning rate, warm-up steps, and over which last share of the steps the rate falls to zero.

    >>> stage = Stage(steps=100, rate=1.0, warmup=10, decay=0.5)
    >>> [stage.rate_at(step) for step in (0, 9, 49, 75)]
    [0.1, 1.0, 1.0, 0.5]
    """

    steps: int
    rate: float
    warmup: int = 50
    decay: float = 0.4

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        rising = min(1.0, (step + 1) / self.warmup)
        falling = min(1.0, (self.steps - step) / max(1, round(self.decay * self.steps)))
        return self.rate * min(rising, falling)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out, besides the data."""

    seed: int = 0
    audio: Stage = Stage(steps=700, rate=2e-3)
    video: Stage = Stage(steps=1500, rate=2e-3)
    lookup: Stage = Stage(steps=1000, rate=1.5e-3, warmup=100, decay=0.0)
    questions: Stage = Stage(steps=4000, rate=1.5e-3, warmup=100)
    together: Stage = Stage(steps=300, rate=5e-4, decay=0.8)
    clips: dict[str, int] = field(default_factory=lambda: {"audio": 16, "video": 32})  # of an encoder step, 3 s each
    bank: dict[str, int] = field(default_factory=lambda: {"audio": 250, "video": 125})  # batches of that size
    lesson: Lesson = field(default_factory=Lesson)
    clip_norm: float = 1.0
    weight_decay: float = 0.01


@dataclass
class Trainer:
    """A model on its way through the stages, with its folder."""

    model: Any
    recipe: Recipe
    training: Digits
    held_out: Digits
    out: Path
    log_every: int = 200
    progress: bool = True

    def run(self) -> None:
        """All stages that are not done yet."""
        self.out.mkdir(parents=True, exist_ok=True)
        for modality in ROWS:
            self._stage(modality, *self._encoder_stage(modality))
        classroom = Classroom(self.model, self.recipe.lesson, self.recipe.seed)
        self._decoder_stages({"lookup": classroom.lookup_batch, "questions": classroom.batch})
        self._stage("together", self.model, self._asked(classroom.batch, self.training), self._exam)

    # --- the stages ---

    def _decoder_stages(self, batches: dict[str, Callable[[int, Bank | Digits], PackedBatch]]) -> None:
        """The stages that need no encoder, over one bank."""
        pending = [name for name in batches if self._done(name) < getattr(self.recipe, name).steps]
        if pending:
            bank = self._bank()
            for name in pending:
                self._stage(name, self.model.decoder, self._asked(batches[name], bank), self._exam)

    def _encoder_stage(self, modality: str) -> tuple[nn.Module, Callable[[int], Outcome], Callable[[], Outcome]]:
        torch.manual_seed(self.recipe.seed)
        tower = self.model.encoders[{"audio": "audio_tower", "video": "visual"}[modality]]
        learner = nn.ModuleDict({"tower": tower, "classifier": Classifier(self.model.cfg.d_model)})

        def outcome(batch: EncoderBatch) -> Outcome:
            logits = learner["classifier"](encode_seconds(self.model, batch))
            n_right = int((logits.argmax(-1) == batch.digits).sum())
            return cross_entropy(logits, batch.digits), {modality: (n_right, len(batch.digits))}

        batches = [self._encoder_batch(modality, self.held_out, -1 - i) for i in range(8)]
        return (
            learner,
            lambda step: outcome(self._encoder_batch(modality, self.training, step)),
            lambda: _summed(outcome(batch) for batch in batches),
        )

    def _encoder_batch(self, modality: str, digits: Digits, step: int) -> EncoderBatch:
        """Held-out batches count below zero."""
        rng = np.random.default_rng([self.recipe.seed, list(ROWS).index(modality), abs(step), int(step < 0)])
        return encoder_batch(self.model, digits, modality, self.recipe.clips[modality], rng)

    def _bank(self) -> Bank:
        """The encoded seconds, made anew whenever the questions go on: they are not saved."""
        plan = [(name, step) for name in ROWS for step in range(self.recipe.bank[name])]
        first = max(self.recipe.audio.steps, self.recipe.video.steps)
        bar = tqdm(plan, desc="encode seconds", disable=not self.progress)
        return make_bank(self.model, (self._encoder_batch(name, self.training, first + step) for name, step in bar))

    def _asked(
        self, batch: Callable[[int, Bank | Digits], PackedBatch], source: Bank | Digits
    ) -> Callable[[int], Outcome]:
        # the last stage continues the count of steps, so that it meets new scenes
        first = 0 if isinstance(source, Bank) else self.recipe.questions.steps
        return lambda step: self._answered(batch(first + step, source))

    def _answered(self, batch: PackedBatch) -> Outcome:
        logits = packed_logits(self.model, batch)
        return packed_loss(logits, batch), count_right(logits, batch)

    def _exam(self) -> Outcome:
        classroom = Classroom(self.model, self.recipe.lesson, self.recipe.seed + _HELD_OUT_SEED)
        return _summed(self._answered(classroom.batch(step, self.held_out)) for step in range(EXAM_BATCHES))

    # --- steps ---

    def _stage(
        self, name: str, learner: nn.Module, outcome: Callable[[int], Outcome], exam: Callable[[], Outcome]
    ) -> None:
        stage: Stage = getattr(self.recipe, name)
        optimiser = torch.optim.AdamW(_groups(learner, self.recipe.weight_decay), betas=(0.9, 0.98))
        start = self._resumed(name, learner, optimiser)
        began = time.perf_counter()
        for step in tqdm(range(start, stage.steps), desc=name, initial=start, total=stage.steps,
                         disable=not self.progress):  # fmt: skip
            for group in optimiser.param_groups:
                group["lr"] = stage.rate_at(step)
            loss, counts = outcome(step)
            loss.backward()
            nn.utils.clip_grad_norm_(learner.parameters(), self.recipe.clip_norm)
            optimiser.step()
            optimiser.zero_grad()
            last = step + 1 == stage.steps
            if last or (step + 1) % self.log_every == 0:
                self._log(name, step + 1, loss.item(), counts, exam, time.perf_counter() - began)
            if last or (step + 1) % SAVE_EVERY == 0:
                self._save(name, step + 1, learner, optimiser)

    def _log(self, name: str, step: int, loss: float, counts: Any, exam: Callable[[], Outcome], seconds: float) -> None:
        with torch.no_grad():
            held_out_loss, held_out = exam()
        row = {"stage": name, "step": step, "loss": round(loss, 4), "held_out_loss": round(float(held_out_loss), 4),
               "seconds": round(seconds, 1), "train": _shares(counts), "held_out": _shares(held_out)}  # fmt: skip
        with (self.out / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        logger.info("%s", row)

    # --- state ---

    @property
    def _state_file(self) -> Path:
        return self.out / "state.pt"

    def _state(self) -> dict[str, Any]:
        if not self._state_file.exists():
            return {"done": {}}
        return torch.load(self._state_file, weights_only=True)

    def _done(self, name: str) -> int:
        return self._state()["done"].get(name, 0)

    def _save(self, name: str, step: int, learner: nn.Module, optimiser: Any) -> None:
        state = {
            "done": {**self._state()["done"], name: step},
            "model": self.model.state_dict(),
            "learner": learner.state_dict(),
            "optimiser": optimiser.state_dict(),
            "stage": name,
        }
        unfinished = self._state_file.with_suffix(".new")
        torch.save(state, unfinished)
        unfinished.replace(self._state_file)

    def _resumed(self, name: str, learner: nn.Module, optimiser: Any) -> int:
        """Weights, optimiser and step as they were saved last."""
        state = self._state()
        if "model" in state:
            self.model.load_state_dict(state["model"])
        if state.get("stage") == name:
            learner.load_state_dict(state["learner"])
            optimiser.load_state_dict(state["optimiser"])
        return state["done"].get(name, 0)


def _groups(learner: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, gains, biases and embeddings do not."""
    named = [(name, parameter) for name, parameter in learner.named_parameters()]
    decays = [p for name, p in named if p.ndim >= 2 and "embed" not in name]
    others = [p for name, p in named if not (p.ndim >= 2 and "embed" not in name)]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _summed(outcomes: Iterator[Outcome]) -> Outcome:
    """Mean loss and summed counts."""
    losses, total = [], {}
    for loss, counts in outcomes:
        losses.append(loss)
        for form, (right, n) in counts.items():
            before = total.get(form, (0, 0))
            total[form] = (before[0] + right, before[1] + n)
    return torch.stack(losses).mean(), total


def _shares(counts: dict[str, tuple[int, int]]) -> dict[str, float]:
    return {form: round(right / n, 4) for form, (right, n) in sorted(counts.items())}
