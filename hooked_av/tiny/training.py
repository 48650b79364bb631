"""Training tiny-av: the encoders with throw-away classifiers, then the decoder on encoded seconds.

    audio, video   each encoder alone, on single digits                                (encoders.py)
    words          the decoder, on copying words                                       (drills.py)
    questions      the decoder, on drills and questions, over a bank of encoded seconds, with probes (probes.py)
    answers        the same with questions only

Every stage can be taken up again: `state.pt` holds weights, optimiser and step, `curve.jsonl` the log. A step's batch
depends on seed and step alone, so worker processes can make batches ahead of time, and change nothing.

Axes: second, digit; batch answer d_vocab (see packing).
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hooked_av.tiny.curriculum import Classroom, Lesson
from hooked_av.tiny.digits import Digits
from hooked_av.tiny.encoders import ROWS, Bank, Classifier, EncoderBatch, encode_seconds, encoder_batch, make_bank
from hooked_av.tiny.muon import Muon
from hooked_av.tiny.packing import PackedBatch, count_right, packed_logits, packed_loss, packed_pass
from hooked_av.tiny.probes import AFTER_BLOCKS, Probes
from hooked_av.tiny.routes import UNCUT, Cuts
from hooked_av.tiny.scenes import AS_IT_IS, LEARNING, Appearance

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

logger = logging.getLogger(__name__)

AnyBatch = TypeVar("AnyBatch", PackedBatch, EncoderBatch)
Counts: TypeAlias = dict[str, tuple[int, int]]  # right answers and answers of each form of question
Outcome: TypeAlias = tuple[Tensor, Callable[[], Counts]]  # the loss; counting waits for the device, so only if asked
SAVE_EVERY = 200  # steps
AHEAD = 4  # batches that a worker may have ready
HELD_OUT_BATCHES = 8
_QUESTIONS_ONLY = Lesson(scenes=16, drills_share=0.0, drills_share_later=0.0)
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
    audio: Stage = Stage(steps=1200, rate=2e-3)
    video: Stage = Stage(steps=3000, rate=2e-3)
    words: Stage = Stage(steps=400, rate=2e-3, decay=0.0)
    questions: Stage = Stage(steps=8000, rate=1e-3, warmup=100)
    clips: dict[str, int] = field(default_factory=lambda: {"audio": 16, "video": 32})  # of an encoder step, 3 s each
    bank: dict[str, int] = field(default_factory=lambda: {"audio": 250, "video": 125})  # batches of that size
    answers: Stage = Stage(steps=2600, rate=1e-3, decay=0.5)
    lesson: Lesson = field(default_factory=Lesson)
    answers_lesson: Lesson = _QUESTIONS_ONLY
    clip_norm: float = 1.0
    weight_decay: float = 0.01
    matrix_rate: float = 7.0  # of the decoder's matrices, which go by Muon, over a stage's rate
    probe_weight: float = 0.3
    cuts: Cuts = UNCUT  # of every layer in every step of the decoder


@dataclass
class Trainer:
    """A model on its way through the stages, with its folder."""

    model: "HookedAVTransformer"
    recipe: Recipe
    training: Digits
    held_out: Digits
    out: Path
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a constant
    workers: int = 0  # processes that make batches
    log_every: int = 200
    progress: bool = True

    def run(self) -> None:
        """All stages that are not done yet."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.model.to(self.device)
        for modality in ROWS:
            self._encoder_stage(modality)
        self._words_stage()
        self._asking_stage("questions", self.recipe.lesson)
        self._asking_stage("answers", self.recipe.answers_lesson)

    # --- the stages ---

    def _encoder_stage(self, modality: str) -> None:
        torch.manual_seed(self.recipe.seed)
        tower = self.model.encoders[{"audio": "audio_tower", "video": "visual"}[modality]]
        learner = nn.ModuleDict({"tower": tower, "classifier": Classifier(self.model.cfg.d_model)}).to(self.device)

        def outcome(batch: EncoderBatch) -> Outcome:
            logits = learner["classifier"](encode_seconds(self.model, batch))
            right = logits.argmax(-1) == batch.digits
            return cross_entropy(logits, batch.digits), lambda: {modality: (int(right.sum()), len(right))}

        check = HeldOut(lambda i: self._encoder_batch(modality, self.held_out, i, AS_IT_IS), outcome)
        self._stage(
            modality, learner, lambda step: self._encoder_batch(modality, self.training, step, LEARNING), outcome, check
        )

    def _encoder_batch(self, modality: str, digits: Digits, step: int, look: Appearance) -> EncoderBatch:
        rng = np.random.default_rng([self.recipe.seed, list(ROWS).index(modality), step, int(digits is self.held_out)])
        return encoder_batch(self.model, digits, modality, self.recipe.clips[modality], rng, look)

    def _words_stage(self) -> None:
        learner = nn.ModuleDict({"decoder": self.model.decoder})
        words = self._classroom(self.recipe.lesson).words_batch
        check = HeldOut(self._held_out_classroom(self.recipe.lesson).words_batch, self._answered)
        self._stage("words", learner, words, self._answered, check)

    def _asking_stage(self, name: str, lesson: Lesson) -> None:
        """Over a bank: it needs no encoder."""
        stage: Stage = getattr(self.recipe, name)
        if self._done(name) >= stage.steps:
            return
        bank, classroom = self._bank(), self._classroom(lesson)
        torch.manual_seed(self.recipe.seed)
        learner = nn.ModuleDict({"decoder": self.model.decoder, "probes": Probes(self.model)}).to(self.device)

        def outcome(batch: PackedBatch) -> Outcome:
            resids, logits = packed_pass(self.model, batch, AFTER_BLOCKS)
            loss = packed_loss(logits, batch)
            probed = learner["probes"](self.model, resids, batch)
            return loss + self.recipe.probe_weight * probed, lambda: count_right(logits, batch)

        asking = self._held_out_classroom(lesson)
        check = HeldOut(lambda step: asking.batch(step, self.held_out), self._answered)
        self._stage(name, learner, lambda step: classroom.batch(step, bank), outcome, check)

    def _bank(self) -> Bank:
        """The encoded seconds, made anew whenever a stage goes on: they are not saved."""
        plan = [(name, step) for name in ROWS for step in range(self.recipe.bank[name])]
        first = max(self.recipe.audio.steps, self.recipe.video.steps)

        def batch(number: int) -> EncoderBatch:
            name, step = plan[number]
            return self._encoder_batch(name, self.training, first + step, LEARNING)

        bar = tqdm(self._batches(batch, 0, len(plan)), desc="encode seconds", disable=not self.progress)
        return make_bank(self.model, (batch.to(self.device) for batch in bar))

    def _answered(self, batch: PackedBatch) -> Outcome:
        logits = packed_logits(self.model, batch)
        return packed_loss(logits, batch), lambda: count_right(logits, batch)

    def _classroom(self, lesson: Lesson) -> Classroom:
        return Classroom(self.model, lesson, self.recipe.seed, self.recipe.cuts)

    def _held_out_classroom(self, lesson: Lesson) -> Classroom:
        return Classroom(self.model, lesson, self.recipe.seed + _HELD_OUT_SEED, self.recipe.cuts)

    # --- steps ---

    def _stage(
        self,
        name: str,
        learner: nn.ModuleDict,
        make: Callable[[int], AnyBatch],
        outcome: Callable[[AnyBatch], Outcome],
        check: "HeldOut[Any]",
    ) -> None:
        stage: Stage = getattr(self.recipe, name)
        optimisers = self._optimisers(learner)
        start = self._resumed(name, learner, optimisers)
        began = time.perf_counter()
        batches = tqdm(self._batches(make, start, stage.steps), desc=name, initial=start, total=stage.steps,
                       disable=not self.progress)  # fmt: skip
        for step, batch in enumerate(batches, start):
            loss, counts = outcome(batch.to(self.device))
            loss.backward()
            nn.utils.clip_grad_norm_(learner.parameters(), self.recipe.clip_norm)
            for optimiser in optimisers:
                _step(optimiser, stage.rate_at(step))
            last = step + 1 == stage.steps
            if last or (step + 1) % self.log_every == 0:
                self._log(name, step + 1, loss.item(), counts(), check, time.perf_counter() - began)
            if last or (step + 1) % SAVE_EVERY == 0:
                self._save(name, step + 1, learner, optimisers)

    def _batches(self, make: Callable[[int], AnyBatch], start: int, stop: int) -> Iterable[AnyBatch]:
        """The batches of these steps, in order."""
        return DataLoader(
            Steps(make),
            batch_size=None,
            sampler=range(start, stop),
            collate_fn=_as_it_is,
            num_workers=self.workers,
            prefetch_factor=AHEAD if self.workers else None,
            multiprocessing_context="fork" if self.workers else None,  # the batches' sources need not be sent
            generator=torch.Generator(),  # its own: the loader draws a number that nothing here uses
        )

    def _optimisers(self, learner: nn.ModuleDict) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the decoder, AdamW for everything else."""
        named = learner.named_parameters()
        matrices = [
            parameter for name, parameter in named if name.startswith("decoder.blocks.") and parameter.ndim == 2
        ]
        groups = _groups(learner, {id(matrix) for matrix in matrices}, self.recipe.weight_decay)
        found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98))]
        if matrices:
            found.append(Muon(matrices, lr=self.recipe.matrix_rate, weight_decay=self.recipe.weight_decay))
        for optimiser in found:
            for group in optimiser.param_groups:
                group["scale"] = group["lr"]  # over the rate of the stage
        return found

    def _log(self, name: str, step: int, loss: float, counts: Counts, check: "HeldOut[Any]", seconds: float) -> None:
        held_out_loss, held_out = check.measure(self.device)
        row = {"stage": name, "step": step, "loss": round(loss, 4), "held_out_loss": round(held_out_loss, 4),
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
        return torch.load(self._state_file, weights_only=True, map_location="cpu")

    def _done(self, name: str) -> int:
        return self._state()["done"].get(name, 0)

    def _save(self, name: str, step: int, learner: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        state = {
            "done": {**self._state()["done"], name: step},
            "model": self.model.state_dict(),
            "learner": learner.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            "stage": name,
        }
        unfinished = self._state_file.with_suffix(".new")
        torch.save(state, unfinished)
        unfinished.replace(self._state_file)

    def _resumed(self, name: str, learner: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> int:
        """Weights, optimisers and step as they were saved last."""
        state = self._state()
        if "model" in state:
            self.model.load_state_dict(state["model"])
        if state.get("stage") == name:
            learner.load_state_dict(state["learner"])
            for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
        return state["done"].get(name, 0)


class Steps(Dataset[AnyBatch], Generic[AnyBatch]):
    """Batches by step."""

    def __init__(self, make: Callable[[int], AnyBatch]) -> None:
        self._make = make

    def __getitem__(self, index: int) -> AnyBatch:
        return self._make(index)


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True, eq=False)
class HeldOut(Generic[AnyBatch]):
    """Held-out batches, made once, and what is asked of them."""

    make: Callable[[int], AnyBatch]
    outcome: Callable[[AnyBatch], Outcome]

    @cached_property
    def batches(self) -> list[AnyBatch]:
        return [self.make(number) for number in range(HELD_OUT_BATCHES)]

    @torch.no_grad()
    def measure(self, device: torch.device) -> tuple[float, Counts]:
        """The mean loss, and the summed counts."""
        losses: list[float] = []
        total: Counts = {}
        for batch in self.batches:
            loss, counts = self.outcome(batch.to(device))
            losses.append(loss.item())
            for form, (right, n) in counts().items():
                before = total.get(form, (0, 0))
                total[form] = (before[0] + right, before[1] + n)
        return float(np.mean(losses)), total


def _step(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]
    optimiser.step()
    optimiser.zero_grad()


def _groups(learner: nn.Module, others: Set[int], weight_decay: float) -> list[dict[str, Any]]:
    """What is not in `others`: matrices decay; gains, biases and embeddings do not."""
    named = [(name, parameter) for name, parameter in learner.named_parameters() if id(parameter) not in others]
    decays = [p for name, p in named if p.ndim >= 2 and "embed" not in name]
    stays = [p for name, p in named if not (p.ndim >= 2 and "embed" not in name)]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": stays, "weight_decay": 0.0}]


def _shares(counts: Counts) -> dict[str, float]:
    return {form: round(right / n, 4) for form, (right, n) in sorted(counts.items())}
