"""Many questions about one scene in one row: the media are read once, and no question sees another.

    [ system, media, padding | question 1, padding | question 2, padding | ... ]
      n_shared positions       n_slot positions      n_slot positions

Every question stands at the positions that it would have alone, and reads the media and itself only. So a packed row
gives what its prompts give one by one (a test compares them), at a fraction of the cost.

Axes: batch (scenes), pos, slot (questions of a row), answer (tokens that are learned from), head, kv_head, row (encoder
rows of the batch, in prompt order).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from hooked_av.decoder.attention import Attend, Keys, Queries
from hooked_av.decoder.decoder import ALL_LAYERS
from hooked_av.families.chat import prompt_parts
from hooked_av.prompt.inputs import PAD_POSITION_ID
from hooked_av.prompt.text import question_parts
from hooked_av.tiny.drills import Drill
from hooked_av.tiny.questions import DigitPair, Question

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

UNLEARNED = -100
NO_PAIR = (UNLEARNED, UNLEARNED)


@runtime_checkable
class Media(Protocol):
    """Where the encoder rows of a batch come from."""

    def rows(self, model: "HookedAVTransformer") -> Mapping[str, Float[Tensor, "row d_model"]]: ...

    def to(self, device: torch.device) -> "Media": ...


@dataclass(frozen=True)
class Slot:
    """One question (or drill) of a row: its tokens, and what is to be answered after the last of them."""

    form: str
    tokens: tuple[int, ...]
    answers: tuple[int, ...]  # UNLEARNED where a word of the answer is given, not asked for
    pairs: tuple[DigitPair, ...]  # the two digits that each of them is made of, or NO_PAIR


@dataclass(frozen=True)
class PackedScene:
    """The shared part of a row, as `model.prepare` lays it out, and its questions."""

    shared_ids: Int64[Tensor, " pos"]
    shared_positions: Int64[Tensor, "axis=3 pos"]
    slots: tuple[Slot, ...]
    marks: Int64[Tensor, "mark pos"]  # what probes are told of the shared part


@dataclass(frozen=True)
class PackedBatch:
    """Several packed scenes of one shape."""

    input_ids: Int64[Tensor, "batch pos"]
    position_ids: Int64[Tensor, "axis=3 batch pos"]
    n_shared: int
    n_slot: int
    shared: Bool[Tensor, "batch shared"]  # which positions of the shared part are no padding
    marks: Int64[Tensor, "mark batch shared"]
    media: Media
    answer_rows: Int64[Tensor, "batch answer"]
    targets: Int64[Tensor, "batch answer"]
    pairs: Int64[Tensor, "batch answer pair=2"]  # what probes are told of the answers
    forms: tuple[tuple[str, ...], ...]

    def to(self, device: torch.device) -> "PackedBatch":
        """The same on another device."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor | Media)}
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class PackedAttend(Attend):
    """Attention in which each question reads the shared part and itself."""

    n_shared: int
    n_slot: int
    allowed: Bool[Tensor, "batch_slot 1 query key"]

    @classmethod
    def of(cls, batch: PackedBatch) -> "PackedAttend":
        n_slots = (batch.input_ids.shape[1] - batch.n_shared) // batch.n_slot
        own = torch.ones(batch.n_slot, batch.n_slot, dtype=torch.bool, device=batch.shared.device).tril()
        shared = repeat(batch.shared, "b p -> (b s) 1 q p", s=n_slots, q=batch.n_slot)
        own = repeat(own, "q k -> b 1 q k", b=len(shared))
        return cls(n_shared=batch.n_shared, n_slot=batch.n_slot, allowed=torch.cat([shared, own], dim=-1))

    def read(self, layer: int, q: Queries, k: Keys, v: Keys) -> Queries:
        shared_q, slot_q = q[:, :, : self.n_shared], self._by_slot(q)
        shared_k, shared_v = k[:, :, : self.n_shared], v[:, :, : self.n_shared]
        shared_z = scaled_dot_product_attention(shared_q, shared_k, shared_v, is_causal=True, enable_gqa=True)
        n_slots = len(slot_q) // len(q)
        keys, values = (
            torch.cat([repeat(whole[:, :, : self.n_shared], "b h p d -> (b s) h p d", s=n_slots), self._by_slot(whole)],
                      dim=2)
            for whole in (k, v)
        )  # fmt: skip
        z = scaled_dot_product_attention(slot_q, keys, values, attn_mask=self.allowed, enable_gqa=True)
        return torch.cat([shared_z, rearrange(z, "(b s) h l d -> b h (s l) d", s=n_slots)], dim=2)

    def _by_slot(self, heads: Float[Tensor, "batch any pos d_head"]) -> Float[Tensor, "batch_slot any query d_head"]:
        return rearrange(heads[:, :, self.n_shared :], "b h (s l) d -> (b s) h l d", l=self.n_slot)


def question_slot(model: "HookedAVTransformer", question: Question) -> Slot:
    """A question and its answer token."""
    return Slot(
        question.form,
        question_tokens(model.family.tokenizer, question.text, question.options),
        (model.to_single_token(question.target),),
        (question.pair or NO_PAIR,),
    )


def drill_slot(model: "HookedAVTransformer", drill: Drill) -> Slot:
    """A drill: its request and words, of which some are learned."""
    ids = [_token(model.family.tokenizer, word.text) for word in drill.words]
    return Slot(
        drill.form,
        (*question_tokens(model.family.tokenizer, drill.request, drill.options), *ids[:-1]),
        tuple(token if word.learned else UNLEARNED for token, word in zip(ids, drill.words, strict=True)),
        tuple(word.pair or NO_PAIR for word in drill.words),
    )


@lru_cache(maxsize=10_000)
def question_tokens(tokenizer: Any, text: str, options: tuple[str, ...] = ()) -> tuple[int, ...]:
    """What follows the media in a prompt, as `model.prepare` writes it."""
    template = prompt_parts(None, [], question_parts(text, options, None), "")
    asked = "".join(part.text for part in template[2:])  # without system prompt and user header
    return tuple(tokenizer(asked, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=1_000)
def _token(tokenizer: Any, word: str) -> int:
    (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]  # every word of the task is one (a test says so)
    return token


class _Answer(NamedTuple):
    """Where a row answers, and what; the defaults fill up rows with fewer answers."""

    at: int = 0
    target: int = UNLEARNED
    form: str = ""
    pair: DigitPair = NO_PAIR


def collate(scenes: Sequence[PackedScene], media: Media) -> PackedBatch:
    """One batch of packed scenes; a row with fewer questions than others ends in empty slots."""
    n_shared = max(len(scene.shared_ids) for scene in scenes)
    n_slot = max(len(slot.tokens) for scene in scenes for slot in scene.slots)
    n_pos = n_shared + n_slot * max(len(scene.slots) for scene in scenes)
    ids = torch.zeros(len(scenes), n_pos, dtype=torch.int64)
    positions = torch.full((3, len(scenes), n_pos), PAD_POSITION_ID)
    shared = torch.zeros(len(scenes), n_shared, dtype=torch.bool)
    marks = torch.full((len(scenes[0].marks), len(scenes), n_shared), UNLEARNED)
    for row, scene in enumerate(scenes):
        length = len(scene.shared_ids)
        ids[row, :length], shared[row, :length] = scene.shared_ids, True
        positions[:, row, :length], marks[:, row, :length] = scene.shared_positions, scene.marks
        begin = int(scene.shared_positions[0, -1]) + 1
        for number, slot in enumerate(scene.slots):
            at = slice(n_shared + number * n_slot, n_shared + number * n_slot + len(slot.tokens))
            ids[row, at] = torch.tensor(slot.tokens)
            positions[:, row, at] = begin + torch.arange(len(slot.tokens))
    answers = _answers(scenes, n_shared, n_slot)
    return PackedBatch(
        ids, positions, n_shared, n_slot, shared, marks, media,
        torch.tensor([[answer.at for answer in row] for row in answers]),
        torch.tensor([[answer.target for answer in row] for row in answers]),
        torch.tensor([[answer.pair for answer in row] for row in answers]),
        tuple(tuple(answer.form for answer in row) for row in answers),
    )  # fmt: skip


def _answers(scenes: Sequence[PackedScene], n_shared: int, n_slot: int) -> list[list[_Answer]]:
    """What is learned in each row, filled up to the same number."""
    answers: list[list[_Answer]] = []
    for scene in scenes:
        answers.append([])
        for number, slot in enumerate(scene.slots):
            first = n_shared + number * n_slot + len(slot.tokens) - len(slot.answers)
            told = zip(slot.answers, slot.pairs, strict=True)
            every = [_Answer(first + i, target, slot.form, pair) for i, (target, pair) in enumerate(told)]
            answers[-1] += [answer for answer in every if answer.target != UNLEARNED]
    most = max(map(len, answers))
    return [[*row, *[_Answer()] * (most - len(row))] for row in answers]


def packed_logits(model: "HookedAVTransformer", batch: PackedBatch) -> Float[Tensor, "batch answer d_vocab"]:
    """Logits wherever an answer is learned."""
    return packed_pass(model, batch, ())[1]


def packed_pass(
    model: "HookedAVTransformer", batch: PackedBatch, after_blocks: Sequence[int]
) -> tuple[list[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch answer d_vocab"]]:
    """The residual stream after so many blocks (rising numbers), and the logits wherever an answer is learned."""
    resid = model.decoder.embed(batch.input_ids)
    for modality, rows in batch.media.rows(model).items():
        places = batch.input_ids == model.family.placeholder(modality)
        resid = resid.masked_scatter(places[..., None], rows)
    attend = PackedAttend.of(batch)
    found: list[Tensor] = []
    for first, stop in pairwise((0, *after_blocks)):
        resid = model.decoder(resid, batch.position_ids, attend, layers=range(first, stop))
        found.append(resid)
    layers = range(after_blocks[-1] if after_blocks else 0, ALL_LAYERS.stop)
    return found, model.decoder(resid, batch.position_ids, attend, batch.answer_rows, layers=layers)


def packed_loss(logits: Float[Tensor, "batch answer d_vocab"], batch: PackedBatch) -> Float[Tensor, ""]:
    """Mean cross entropy over all answers."""
    return cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=UNLEARNED)


def count_right(logits: Float[Tensor, "batch answer d_vocab"], batch: PackedBatch) -> dict[str, tuple[int, int]]:
    """Right answers and answers of each form of question."""
    right = (logits.argmax(dim=-1) == batch.targets).tolist()
    counts: dict[str, tuple[int, int]] = {}
    for forms, marks in zip(batch.forms, right, strict=True):
        for form, mark in zip(forms, marks, strict=True):
            n_right, n = counts.get(form, (0, 0))
            counts[form] = (n_right + mark, n + 1)
    counts.pop("", None)
    return counts
