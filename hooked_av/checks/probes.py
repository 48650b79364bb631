"""Tutorial 08: labels of rows, labels that mean nothing, a steering vector, and where probe and steering part."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from hooked_av.checks.judgement import Judgement, exercise, first_mistake, shape_of
from hooked_av.hooks.cache import FlatRows
from hooked_av.prompt.inputs import AVInputs
from hooked_av.tiny.digits import NAMES
from hooked_av.tiny.labelled import TinySample

READS, MOVES_NOTHING = 0.9, 0.1
N_SEEDS = 5


@exercise
def labels_of_rows(
    labels_of: Callable[..., Any], table: FlatRows, batch: AVInputs, samples: Sequence[TinySample]
) -> Judgement:
    """Has each row of sound the digit that is spoken there?"""
    got = labels_of(table, batch, samples)
    places = [*zip(table.sample.tolist(), table.position.tolist(), strict=True)]
    seconds = [int(batch.row_spans[n].places.seconds[p, 0]) for n, p in places]
    spoken, shown = ([getattr(samples[n], what)[s] for (n, _), s in zip(places, seconds, strict=True)]
                     for what in ("spoken", "shown"))  # fmt: skip
    if not isinstance(got, Sequence | Tensor) or len(got) != len(spoken):
        size = len(got) if isinstance(got, Sequence | Tensor) else type(got).__name__
        return Judgement(False, f"one label a row: {len(spoken)} of them, not {size}")
    said = [*map(int, got)]
    return first_mistake(
        (said == shown, "these digits are shown there; the rows are of sound"),
        (said == [NAMES.index(samples[n].answer) for n, _ in places], "the answer is the digit of one second only"),
        (said == [samples[n].spoken[0] for n, _ in places], "that is the first second's digit, for all rows of a clip"),
        (said == seconds, "these are the seconds; the digit is samples[n].spoken[second]"),
        (
            said != spoken,
            f"{sum(a != b for a, b in zip(said, spoken, strict=True))} rows have another digit than theirs",
        ),
    ) or Judgement(True, f"{len(spoken)} rows of {len(samples)} clips, each with its digit")


@exercise
def shuffled_words(
    shuffled: Callable[..., Any], labels: Int64[Tensor, " row"], words: Int64[Tensor, " row"]
) -> Judgement:
    """Do words change their labels among each other, and keep one label for all of their rows?"""
    got, again, *others = (shuffled(labels.clone(), words, seed) for seed in (0, *range(N_SEEDS)))
    if not isinstance(got, Tensor) or got.shape != labels.shape:
        return Judgement(False, f"one label a row: {list(labels.shape)}, not {shape_of(got)}")
    groups = [words == word for word in words.unique()]
    first = torch.stack([group.int().argmax() for group in groups])  # the first row of each word
    return first_mistake(
        (torch.equal(got, labels), "these are the true labels"),
        (
            any(len(got[group].unique()) > 1 for group in groups),
            "rows of one word have several labels: copies contradict each other, and the control is too easy to beat",
        ),
        (not torch.equal(got, again), "another order for the same seed: nobody could repeat it"),
        (all(torch.equal(got, other) for other in others), "the same for every seed"),
        (
            not torch.equal(got[first].sort().values, labels[first].sort().values),
            "some digits are now more frequent than before: shuffle the labels that there are",
        ),
    ) or Judgement(True, f"{len(groups)} words, and a label for each that means nothing")


@exercise
def steering_vector(steering: Callable[..., Any]) -> Judgement:
    """Does a vector lead from the rows of one digit to those of another?"""
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(40, 6, generator=generator), torch.arange(40) % 4
    here, there = 1, 3
    got = steering(rows, labels, here, there)
    start, goal = (rows[labels == digit] for digit in (here, there))
    if not isinstance(got, Tensor) or got.shape != rows.shape[1:]:
        return Judgement(
            False, f"one vector of {list(rows.shape[1:])} is asked for, not {shape_of(got)}: the mean goes over rows"
        )
    return first_mistake(
        (_same(got, start.mean(0) - goal.mean(0)), "it leads back: from there to here"),
        (_same(got, goal.mean(0)), "that is where the other digit is; a way begins where this one is: subtract it"),
        (_same(got, goal.mean(0) - rows.mean(0)), "that way begins at the mean of all digits, not at this one"),
        (_same(got, goal.sum(0) - start.sum(0)), "sums grow with the number of rows: take means"),
        (not _same(got, goal.mean(0) - start.mean(0)), "not the mean of one minus the mean of the other"),
    ) or Judgement(True, "from the mean of one digit to the mean of the other")


@exercise
def where_they_part(layer: int, known: Sequence[float], moved: Sequence[float]) -> Judgement:
    """From which layer on is the digit known, and steering in vain?"""
    if layer not in range(len(known)):
        return Judgement(False, f"a layer is asked for: 0 to {len(known) - 1}")
    parted = [n for n, (read, move) in enumerate(zip(known, moved, strict=True))
              if read >= READS and move <= MOVES_NOTHING]  # fmt: skip
    return first_mistake(
        (moved[layer] > MOVES_NOTHING, f"after layer {layer} steering still moves {moved[layer]:.0%} of the answers"),
        (known[layer] < READS, f"after layer {layer} the probe reads only {known[layer]:.0%}"),
        (layer != parted[0], f"true, but not only from there on: after layer {parted[0]} it is so already"),
    ) or Judgement(True, f"after layer {layer}: read {known[layer]:.0%}, moved {moved[layer]:.0%}")


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5)
