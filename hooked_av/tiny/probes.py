"""Probes: throw-away classifiers inside the decoder, as the encoders have theirs. Training has them, the model has not.

After the first blocks, every media token must know its own digit (in the words' own directions), the digit of the other
stream in its second, and its place; every word of an option must know its letter. Joint questions look these up in one
step; without probes they stood at chance. Some blocks later, the row that answers must know both digits of which its
answer is made (or, where that row never reads media, the end of the question): whether two digits are the same says too
little of them to learn where to look.

Axes: batch pos answer; mark (what is told of a media token), pair (of digits), d_model; choice (classes of a probe).
"""

from collections.abc import Iterator, Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize, rms_norm

from hooked_av.tiny.digits import NAMES
from hooked_av.tiny.encoders import ROWS
from hooked_av.tiny.packing import UNLEARNED, PackedBatch
from hooked_av.tiny.questions import MAX_LENGTH
from hooked_av.tiny.scenes import Item, Scene

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

AFTER_BLOCKS = (3, 5)
OWN, OTHER, PLACE = MARKS = range(3)


class Probes(nn.Module):
    """What the residual stream after the first blocks must tell of media tokens and of the words of options."""

    def __init__(self, model: "HookedAVTransformer") -> None:
        super().__init__()
        d_model = model.cfg.d_model
        self.other, self.place, self.letter = (nn.Linear(d_model, n) for n in (len(NAMES), MAX_LENGTH, MAX_LENGTH))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("words", torch.tensor([model.to_single_token(f" {name}") for name in NAMES]))
        self.letters = tuple(model.to_single_token(letter) for letter in ascii_uppercase[:MAX_LENGTH])
        self.dot = model.to_single_token(".")
        self.pair = nn.Linear(d_model, 2 * len(NAMES))

    def forward(
        self, model: "HookedAVTransformer", resids: Sequence[Float[Tensor, "batch pos d_model"]], batch: PackedBatch
    ) -> Float[Tensor, ""]:
        """The summed cross entropies, from the residual streams after `AFTER_BLOCKS`."""
        early, late = (rms_norm(resid, resid.shape[-1:]) for resid in resids)
        answering = late[torch.arange(len(late), device=late.device)[:, None], batch.told_rows]
        directions = normalize(model.decoder.embed(self.words), dim=-1)
        shared, asked = early[:, : batch.n_shared], early[:, batch.n_shared :]
        own, other, place = batch.marks.unbind()
        letter = self._option_letters(batch.input_ids[:, batch.n_shared :])
        digits = self.pair(answering).unflatten(-1, (2, -1)).flatten(1, 2)  # the two of an answer side by side
        losses = [
            _loss(self.scale * linear(shared, directions), own),
            _loss(self.other(shared), other),
            _loss(self.place(shared), place),
            _loss(self.letter(asked), letter),
            _loss(digits, batch.pairs.flatten(1)),
        ]
        return torch.stack(losses).sum()

    def _option_letters(self, asked: Int64[Tensor, "batch pos"]) -> Int64[Tensor, "batch pos"]:
        """The letter of each option at the first word of its text: "B. six"."""
        found = torch.full_like(asked, UNLEARNED)
        for number, letter in enumerate(self.letters):
            begins = (asked[:, :-2] == letter) & (asked[:, 1:-1] == self.dot)
            found[:, 2:].masked_fill_(begins, number)
        return found


def _loss(choices: Float[Tensor, "batch pos choice"], wanted: Int64[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """The mean over what is marked (0 if nothing is), without asking the device how much that is."""
    total = cross_entropy(choices.flatten(0, 1), wanted.flatten(), ignore_index=UNLEARNED, reduction="sum")
    return total / (wanted != UNLEARNED).sum().clamp(min=1)


def marks_of(scene: Scene, ids: Int64[Tensor, " pos"], model: "HookedAVTransformer") -> Int64[Tensor, "mark=3 pos"]:
    """What is told of every media token of a prompt: its digit, the other stream's beside it, its place."""
    marks = torch.full((len(MARKS), len(ids)), UNLEARNED)
    for modality, rows in {**ROWS, "image": ROWS["video"]}.items():
        told = [mark for number, item in enumerate(scene.items) for mark in _told(item, number, scene, modality)]
        places = (ids == model.family.placeholder(modality)).nonzero().flatten()
        if told:
            marks[:, places] = torch.tensor(told).T.repeat_interleave(rows, dim=1)
    return marks


def _told(item: Item, number: int, scene: Scene, modality: str) -> Iterator[tuple[int, int, int]]:
    """The marks of each second of an item, in one modality."""
    own, other = (item.spoken, item.shown) if modality == "audio" else (item.shown, item.spoken)
    if modality != "audio" and item.is_still != (modality == "image"):
        return
    for second, digit in enumerate(own):
        # a film's tokens come before the sound of their second, and cannot know it
        beside = other[second] if modality == "audio" and other else UNLEARNED
        yield digit, beside, second if len(scene.items) == 1 else number
