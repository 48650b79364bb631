"""Many questions about one scene in one row: the media are read once, and no question sees another.

    [ system, media, padding | question 1, padding | question 2, padding | ... ]
      n_shared positions       n_slot positions      n_slot positions

Every question stands at the positions that it would have alone, and reads the media and itself only. So a packed row
gives what its prompts give one by one (a test compares them), at a fraction of the cost. What a route cuts
(tiny/routes.py) is cut in every layer.

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
from hooked_av.tiny.architecture import MESSAGE_END
from hooked_av.tiny.drills import Drill
from hooked_av.tiny.questions import DigitPair, Question
from hooked_av.tiny.routes import ASKED, BEHIND, ITEMS, UNCUT, Cuts

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

UNLEARNED = -100
NO_PAIR = (UNLEARNED, UNLEARNED)
BEFORE_ITEMS = -1
END = "end of answer"  # the form of the token behind an answer


@runtime_checkable
class Media(Protocol):
    """Where the encoder rows of a batch come from."""

    def rows(self, model: "HookedAVTransformer") -> Mapping[str, Float[Tensor, "row d_model"]]: ...

    def to(self, device: torch.device) -> "Media": ...


class LearnedToken(NamedTuple):
    """A token to learn (UNLEARNED where it is given), and the two digits that it is made of, or NO_PAIR."""

    target: int = UNLEARNED
    form: str = ""
    pair: DigitPair = NO_PAIR


@dataclass(frozen=True)
class Slot:
    """One question (or drill) of a row: its tokens (the first are what the user asks), what follows the last ones."""

    tokens: tuple[int, ...]
    n_asked: int
    answers: tuple[LearnedToken, ...]


@dataclass(frozen=True)
class PackedScene:
    """The shared part of a row, as `model.prepare` lays it out, and its questions."""

    shared_ids: Int64[Tensor, " pos"]
    shared_positions: Int64[Tensor, "axis=3 pos"]
    items: Int64[Tensor, " pos"]  # the item of each position, or BEFORE_ITEMS
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
    items: Int64[Tensor, "batch shared"]  # the item of each, or BEFORE_ITEMS
    asked: Bool[Tensor, "batch asking"]  # which positions behind the shared part are what a user asks
    marks: Int64[Tensor, "mark batch shared"]
    media: Media
    answer_rows: Int64[Tensor, "batch answer"]
    targets: Int64[Tensor, "batch answer"]
    told_rows: Int64[Tensor, "batch answer"]  # where probes are told the digits that an answer is made of
    pairs: Int64[Tensor, "batch answer pair=2"]
    forms: tuple[tuple[str, ...], ...]
    cuts: Cuts = UNCUT

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
    allowed_shared: Bool[Tensor, "batch 1 shared shared"] | None  # None: everything before

    @classmethod
    def of(cls, batch: PackedBatch) -> "PackedAttend":
        own = torch.ones(batch.n_slot, batch.n_slot, dtype=torch.bool, device=batch.shared.device).tril()
        read = rearrange(_read_by_slots(batch), "b (s q) k -> (b s) 1 q k", q=batch.n_slot)
        own = repeat(own, "q k -> b 1 q k", b=len(read))
        allowed = torch.cat([read, own], dim=-1)
        return cls(n_shared=batch.n_shared, n_slot=batch.n_slot, allowed=allowed, allowed_shared=_read_by_shared(batch))

    def read(self, layer: int, q: Queries, k: Keys, v: Keys) -> Queries:
        shared_q, slot_q = q[:, :, : self.n_shared], self._by_slot(q)
        shared_k, shared_v = k[:, :, : self.n_shared], v[:, :, : self.n_shared]
        causal = self.allowed_shared is None
        shared_z = scaled_dot_product_attention(
            shared_q, shared_k, shared_v, attn_mask=self.allowed_shared, is_causal=causal, enable_gqa=True
        )
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


def _read_by_slots(batch: PackedBatch) -> Bool[Tensor, "batch asking shared"]:
    """What of the shared part the rows behind it read: all of it, but for media where a route cuts them."""
    cut = torch.zeros_like(batch.asked)
    if ASKED in batch.cuts:
        cut |= batch.asked
    if BEHIND in batch.cuts:
        cut |= ~batch.asked
    return batch.shared[:, None] & ~(cut[..., None] & (batch.items != BEFORE_ITEMS)[:, None])


def _read_by_shared(batch: PackedBatch) -> Bool[Tensor, "batch 1 shared shared"] | None:
    """What the shared part reads of itself, where that is not everything before."""
    if ITEMS not in batch.cuts:
        return None
    queries, keys = batch.items[:, :, None], batch.items[:, None]
    own_or_before = (keys == queries) | (keys == BEFORE_ITEMS)
    return own_or_before.tril()[:, None]


def question_slot(model: "HookedAVTransformer", question: Question) -> Slot:
    """A question, its answer token and the end of the answer."""
    tokenizer = model.family.tokenizer
    asked, behind = question_tokens(tokenizer, question.text, question.options)
    target = model.to_single_token(question.target)
    end = LearnedToken(_token(tokenizer, MESSAGE_END), END)
    answer = LearnedToken(target, question.form, question.pair or NO_PAIR)
    return Slot((*asked, *behind, target), len(asked), (answer, end))


def drill_slot(model: "HookedAVTransformer", drill: Drill, cuts: Cuts = UNCUT) -> Slot:
    """A drill: its request and words, of which some are learned.

    The words are the model's answer, or more of what the user says where answers are cut from media: they are there to
    practise looking up.
    """
    tokenizer = model.family.tokenizer
    asked, behind = question_tokens(tokenizer, drill.request, drill.options)
    ids = [_token(tokenizer, word.text) for word in drill.words]
    answers = tuple(
        LearnedToken(token, drill.form, word.pair or NO_PAIR) if word.learned else LearnedToken()
        for token, word in zip(ids, drill.words, strict=True)
    )
    if BEHIND in cuts:
        return Slot((*asked, *ids[:-1]), len(asked) + len(ids) - 1, answers)
    return Slot((*asked, *behind, *ids[:-1]), len(asked), answers)


@lru_cache(maxsize=10_000)
def question_tokens(
    tokenizer: Any, text: str, options: tuple[str, ...] = ()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What follows the media in a prompt, as `model.prepare` writes it: what is asked, and the template behind it."""
    template = prompt_parts(None, [], question_parts(text, options, None), "")
    parts = [part.text for part in template[2:]]  # without system prompt and user header
    ids = tokenizer("".join(parts), add_special_tokens=False)["input_ids"]
    n_asked = ids.index(_token(tokenizer, MESSAGE_END))
    return tuple(ids[:n_asked]), tuple(ids[n_asked:])


@lru_cache(maxsize=1_000)
def _token(tokenizer: Any, word: str) -> int:
    (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]  # every word of the task is one (a test says so)
    return token


class _Row(NamedTuple):
    """Where a row answers, and what; where probes are told of it. The defaults fill up rows with fewer answers."""

    at: int = 0
    told_at: int = 0
    answer: LearnedToken = LearnedToken()


def collate(scenes: Sequence[PackedScene], media: Media, cuts: Cuts = UNCUT) -> PackedBatch:
    """One batch of packed scenes; a row with fewer questions than others ends in empty slots."""
    n_shared = max(len(scene.shared_ids) for scene in scenes)
    n_slot = max(len(slot.tokens) for scene in scenes for slot in scene.slots)
    n_pos = n_shared + n_slot * max(len(scene.slots) for scene in scenes)
    ids = torch.zeros(len(scenes), n_pos, dtype=torch.int64)
    positions = torch.full((3, len(scenes), n_pos), PAD_POSITION_ID)
    shared, asked = torch.zeros(len(scenes), n_shared, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    items = torch.full((len(scenes), n_shared), BEFORE_ITEMS)
    marks = torch.full((len(scenes[0].marks), len(scenes), n_shared), UNLEARNED)
    for row, scene in enumerate(scenes):
        length = len(scene.shared_ids)
        ids[row, :length], shared[row, :length], items[row, :length] = scene.shared_ids, True, scene.items
        positions[:, row, :length], marks[:, row, :length] = scene.shared_positions, scene.marks
        begin = int(scene.shared_positions[0, -1]) + 1
        for number, slot in enumerate(scene.slots):
            first = n_shared + number * n_slot
            at = slice(first, first + len(slot.tokens))
            ids[row, at] = torch.tensor(slot.tokens)
            positions[:, row, at] = begin + torch.arange(len(slot.tokens))
            asked[row, first : first + slot.n_asked] = True
    rows = _rows(scenes, n_shared, n_slot, cuts)
    return PackedBatch(
        ids, positions, n_shared, n_slot, shared, items, asked[:, n_shared:], marks, media,
        torch.tensor([[answer.at for answer in row] for row in rows]),
        torch.tensor([[answer.answer.target for answer in row] for row in rows]),
        torch.tensor([[answer.told_at for answer in row] for row in rows]),
        torch.tensor([[answer.answer.pair for answer in row] for row in rows]),
        tuple(tuple(answer.answer.form for answer in row) for row in rows),
        cuts,
    )  # fmt: skip


def _rows(scenes: Sequence[PackedScene], n_shared: int, n_slot: int, cuts: Cuts) -> list[list[_Row]]:
    """What is learned in each row, filled up to the same number."""
    rows: list[list[_Row]] = []
    for scene in scenes:
        rows.append([])
        for number, slot in enumerate(scene.slots):
            begin = n_shared + number * n_slot
            first = begin + len(slot.tokens) - len(slot.answers)
            latest = begin + slot.n_asked - 1 if BEHIND in cuts else n_shared + (number + 1) * n_slot
            every = [_Row(first + i, min(first + i, latest), answer) for i, answer in enumerate(slot.answers)]
            rows[-1] += [row for row in every if row.answer.target != UNLEARNED]
    most = max(map(len, rows))
    return [[*row, *[_Row()] * (most - len(row))] for row in rows]


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
