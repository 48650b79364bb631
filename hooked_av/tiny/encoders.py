"""The first stage of training, and what comes of it: encoders that tell digits apart, and a bank of encoded seconds.

The encoders learn with throw-away classifiers, one a modality, that read the mean row of each second. Both encoders
work second by second (windows of one second of sound, one pair of frames), so the rows of a second do not depend on
what else a clip shows: the second stage can put scenes together from a bank of encoded seconds, and need not encode.

Axes: second; row (encoder rows of one second), d_model; digit (class).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hooked_av.prompt.inputs import merge_features
from hooked_av.tiny.digits import NAMES, Digits
from hooked_av.tiny.scenes import Appearance, Item, Scene, render

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

ROWS = {"audio": 25, "video": 4}  # encoder rows of one second
SECONDS = 3  # of the clips that the encoders learn from
CLIPS_AT_ONCE = 2  # the released audio tower masks all pieces against all others: few clips at once cost less


@dataclass(frozen=True)
class EncoderBatch:
    """Features of a few clips at a time, and the digit of every second."""

    modality: str
    features: tuple[Mapping[str, Tensor], ...]
    digits: Int64[Tensor, " second"]

    def to(self, device: torch.device) -> "EncoderBatch":
        """The same on another device."""
        return EncoderBatch(self.modality, features_to(self.features, device), self.digits.to(device))


def features_to(features: Sequence[Mapping[str, Tensor]], device: torch.device) -> tuple[Mapping[str, Tensor], ...]:
    """Features on another device."""
    return tuple({name: tensor.to(device) for name, tensor in part.items()} for part in features)


def encoder_batch(
    model: "HookedAVTransformer",
    digits: Digits,
    modality: str,
    n_clips: int,
    rng: np.random.Generator,
    look: Appearance,
) -> EncoderBatch:
    """Films or sounds of random digits, through the path that every clip takes. On the CPU, as workers need it."""
    drawn = rng.integers(10, size=(n_clips, SECONDS))
    items = [Item(shown=tuple(row)) if modality == "video" else Item(spoken=tuple(row)) for row in drawn.tolist()]
    clips = [render(Scene((item,)), digits, rng, look) for item in items]
    features = [model.family.prepare(media, question="?").features for media in clips]
    at_once = CLIPS_AT_ONCE if modality == "audio" else n_clips
    chunks = tuple(merge_features(features[i : i + at_once]) for i in range(0, n_clips, at_once))
    return EncoderBatch(modality, chunks, torch.from_numpy(drawn).flatten())


def encode_seconds(model: "HookedAVTransformer", batch: EncoderBatch) -> Float[Tensor, "second row d_model"]:
    """The encoder rows of every second."""
    parts = [model.family.encode(model.encoders, features)[batch.modality] for features in batch.features]
    return torch.cat(parts).unflatten(0, (-1, ROWS[batch.modality]))


class Classifier(nn.Module):
    """Which digit a second holds, from the mean of its rows; thrown away after the first stage."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, len(NAMES))

    def forward(self, seconds: Float[Tensor, "second row d_model"]) -> Float[Tensor, "second digit"]:
        return self.linear(seconds.mean(dim=1))


@dataclass(frozen=True, eq=False)
class Bank:
    """Encoded seconds by modality, sorted by digit."""

    rows: Mapping[str, Float[Tensor, "second row d_model"]]
    digits: Mapping[str, Int64[np.ndarray, " second"]]

    def draw(
        self, modality: str, digits: Sequence[int], rng: np.random.Generator
    ) -> Float[Tensor, "second row d_model"]:
        """A random encoded second for each digit."""
        known = self.digits[modality]
        first, last = np.searchsorted(known, digits), np.searchsorted(known, digits, side="right")
        return self.rows[modality][torch.from_numpy(rng.integers(first, last))]


@torch.no_grad()
def make_bank(model: "HookedAVTransformer", batches: Iterator[EncoderBatch]) -> Bank:
    """Everything that the encoders make of these batches."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ROWS}
    digits: dict[str, list[Tensor]] = {name: [] for name in ROWS}
    for batch in batches:
        rows[batch.modality].append(encode_seconds(model, batch).cpu())
        digits[batch.modality].append(batch.digits.cpu())
    order = {name: torch.cat(digits[name]).argsort(stable=True) for name in ROWS}
    return Bank(
        {name: torch.cat(rows[name])[order[name]] for name in ROWS},
        {name: torch.cat(digits[name])[order[name]].numpy() for name in ROWS},
    )
