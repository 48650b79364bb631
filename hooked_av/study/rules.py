"""Rules: how numbers over samples become a verdict, the same for every family, route and model.

Every verdict is "holds", "does not hold" or "cannot be said", with the numbers that it rests on. The margins below are
the only choices in it. Axes: sample; layer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from hooked_av.analyses.bootstrap import bootstrap_interval

Says = Literal["holds", "does not hold", "cannot be said"]
HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be said"

MIN_RIGHT = 30  # samples that the clean model answers rightly, for anything to be said about them
MIN_KNOWN = 0.5  # share of questions that the model knows, guesses taken out
NEEDED = 10.0  # %: a cut matters from here on, beyond its random control
SUFFICES = 90.0  # % of right answers that must stay right
USED = 10.0  # points of accuracy that a needed modality must be worth
CHEAP, DEAR = 2.0, 5.0  # points of accuracy: mean cost of a discard, and what it must stay within for certain
AGREES = 0.9  # correlation of what modalities contribute with what the task needs
MIN_FAMILIES = 4  # points of such a correlation


@dataclass(frozen=True)
class Verdict:
    """What can be said, and why."""

    says: Says
    why: str


@dataclass(frozen=True)
class Estimate:
    """A mean over samples with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Float64[np.ndarray, " sample"]) -> "Estimate":
        """Of one number a sample; what is not known (NaN) is left out.

        >>> Estimate.of(np.array([-40.0, -50.0, -60.0])).mean
        -50.0
        """
        known = values[~np.isnan(values)]
        if not len(known):
            return cls(np.nan, np.nan, np.nan, 0)
        low, high = bootstrap_interval(known)
        return cls(float(known.mean()), float(low), float(high), len(known))

    @classmethod
    def of_counts(cls, values: Float64[np.ndarray, " sample"]) -> "Estimate":
        """Of numbers of -100, 0 and 100. Where no sample differs from the others, none of n was seen to: 3 / n may.

        >>> estimate = Estimate.of_counts(np.zeros(100))
        >>> estimate.low, estimate.high
        (-3.0, 3.0)
        """
        found = cls.of(values)
        if found.n > 1 and found.low == found.high:
            unseen = 300 / found.n  # the rule of three
            return cls(found.mean, found.mean - unseen, found.mean + unseen, found.n)
        return found

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def answers_enough(right: Float64[np.ndarray, " sample"], chance: float) -> Verdict:
    """Whether a family can be asked at all: its right answers must be known, not guessed.

    `chance`: the share that the text of the question alone gives. Of those that are not guessed so, the model must know
    `MIN_KNOWN`, and `MIN_RIGHT` samples must be right.

    >>> print(answers_enough(np.array([1.0, 0.0] * 100), chance=0.5).why)
    it answers 50 % of 200 questions rightly, and the text alone gives 50 %: 0 % are known, at least 50 % must be
    """
    n_right, share = int(right.sum()), float(right.mean())
    known = max(0.0, (share - chance) / (1 - chance))
    said = f"it answers {100 * share:.0f} % of {len(right)} questions rightly, and the text alone gives "
    said += f"{100 * chance:.0f} %"
    if known < MIN_KNOWN:
        return Verdict(UNKNOWN, f"{said}: {100 * known:.0f} % are known, at least {100 * MIN_KNOWN:.0f} % must be")
    if n_right < MIN_RIGHT:
        return Verdict(UNKNOWN, f"{n_right} questions are answered rightly, at least {MIN_RIGHT} must be")
    return Verdict(HOLDS, f"{said}: {100 * known:.0f} % are known")


def needed(change: Float64[np.ndarray, " sample"], control: Float64[np.ndarray, " sample"]) -> Verdict:
    """Does the answer need this route: does the cut take more from its probability than a random cut of the same size?

    The paired difference decides (percent): at least `NEEDED` below zero, with an interval that excludes zero, it
    holds; with an interval that excludes `NEEDED`, it does not.

    >>> needed(np.array([-90.0, -80.0] * 20), np.zeros(40)).says
    'holds'
    """
    few = _too_few(change)
    if few:
        return few
    beyond, cut, random = (Estimate.of(values) for values in (change - control, change, control))
    says = HOLDS if beyond.mean <= -NEEDED and beyond.high < 0 else FAILS if beyond.low > -NEEDED else UNKNOWN
    return Verdict(says, f"cut {cut} %, random cut of its size {random} %, difference {beyond} %")


def suffices(stays: Float64[np.ndarray, " sample"], random: Float64[np.ndarray, " sample"]) -> Verdict:
    """Are these edges enough: do at least `SUFFICES` percent of right answers (1 or 0 each) stay right with them alone?

    >>> suffices(np.ones(200), np.ones(200)).says, suffices(np.zeros(200), np.ones(200)).says
    ('holds', 'does not hold')
    """
    few = _too_few(stays)
    if few:
        return few
    kept = Estimate.of_counts(100 * stays)
    says = HOLDS if kept.low >= SUFFICES else FAILS if kept.high < SUFFICES else UNKNOWN
    kept = Estimate(kept.mean, max(0.0, kept.low), min(100.0, kept.high), kept.n)
    why = f"{kept.mean:.1f} [{kept.low:.1f}, {kept.high:.1f}] % of right answers stay, "
    return Verdict(says, why + f"{100 * float(random.mean()):.1f} % with random edges of the same share")


def used(drop: Float64[np.ndarray, " sample"], by_the_task: bool) -> Verdict:
    """Does a modality contribute as the task needs it?

    `drop`: 1 where its loss takes a right answer, -1 where it gives one.

    >>> used(np.ones(100), by_the_task=True).says, used(np.ones(100), by_the_task=False).says
    ('holds', 'does not hold')
    """
    few = _too_few(drop)
    if few:
        return few
    lost = Estimate.of_counts(100 * drop)
    is_used, is_not = lost.mean >= USED and lost.low > 0, lost.high < USED
    says = UNKNOWN if not (is_used or is_not) else HOLDS if is_used == by_the_task else FAILS
    return Verdict(says, f"accuracy falls by {lost} points, the task {'needs' if by_the_task else 'does not need'} it")


def in_proportion(reliance: Sequence[float], contribution: Sequence[float]) -> Verdict:
    """Over families: does the index of contribution (attention cut) go with that of reliance (media taken away)?

    >>> in_proportion([1, 0.1, 0, -1], [0.9, 0.2, 0, -1]).says
    'holds'
    """
    pairs = np.array([reliance, contribution], dtype=float)
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    n = pairs.shape[1]
    if n < MIN_FAMILIES or (np.ptp(pairs, axis=1) == 0).any():
        return Verdict(UNKNOWN, f"{n} families have both indexes, at least {MIN_FAMILIES} that differ are needed")
    r = float(np.corrcoef(pairs)[0, 1])
    return Verdict(HOLDS if r >= AGREES else FAILS, f"correlation {r:+.2f} over {n} families, at least {AGREES} holds")


def free_from(change: Float64[np.ndarray, "layer sample"]) -> tuple[int | None, Verdict]:
    """The first layer from which on the tokens can be dropped: there and later, that costs less than `CHEAP` points.

    `change`: 1 where dropping gains a right answer, -1 where it loses one. The interval must stay within `DEAR`.

    >>> costs = np.zeros((4, 200))
    >>> costs[:2] = -1
    >>> free_from(costs)[0]
    2
    """
    few = _too_few(change[0])
    if few:
        return None, few
    found = [Estimate.of_counts(100 * row) for row in change]
    cheap = [one.mean > -CHEAP and one.low > -DEAR for one in found]
    layer = len(cheap)
    while layer and cheap[layer - 1]:
        layer -= 1
    last = found[-1]
    if layer < len(found):
        before = f"; before layer {layer - 1} {found[layer - 1]}" if layer else ""
        return layer, Verdict(HOLDS, f"accuracy {found[layer]} points when dropped before layer {layer}{before}")
    says = FAILS if last.mean <= -CHEAP and last.high < 0 else UNKNOWN
    return None, Verdict(says, f"accuracy {last} points when dropped before the last layer")


def negated(verdict: Verdict) -> Verdict:
    """That it is not so."""
    says: dict[Says, Says] = {HOLDS: FAILS, FAILS: HOLDS, UNKNOWN: UNKNOWN}
    return Verdict(says[verdict.says], verdict.why)


def all_of(parts: Iterable[tuple[str, Verdict]]) -> Verdict:
    """That all of it is so: one that is not decides; otherwise one that cannot be said leaves the whole open.

    >>> all_of([("a", Verdict("holds", "")), ("b", Verdict("does not hold", ""))]).says
    'does not hold'
    """
    parts = list(parts)
    says = {verdict.says for _, verdict in parts}
    return _joint(parts, FAILS if FAILS in says else UNKNOWN if UNKNOWN in says or not parts else HOLDS)


def unless_either(verdict: Verdict, ways: Sequence[tuple[str, Verdict]]) -> Verdict:
    """A verdict that rests on what is needed, unless each of several ways is enough.

    Of two ways that are there, each enough, neither is needed: a cut of one shows nothing, and says nothing of absence.

    >>> enough = Verdict("holds", "100 % stay")
    >>> unless_either(Verdict("does not hold", ""), [("a", enough), ("b", enough)]).says
    'cannot be said'
    """
    if any(one.says != HOLDS for _, one in ways):
        return verdict
    whole = all_of(ways)
    return Verdict(UNKNOWN, f"each way alone is enough, so that no cut of one shows which is taken ({whole.why})")


def _joint(parts: Sequence[tuple[str, Verdict]], says: Says) -> Verdict:
    """A verdict that the parts with the same one decide; what all of them say alike is said once."""
    by_why: dict[str, list[str]] = {}
    for name, verdict in parts:
        if verdict.says == says:
            by_why.setdefault(verdict.why, []).append(name)
    return Verdict(says, "; ".join(f"{', '.join(names)}: {why}" for why, names in by_why.items()))


def _too_few(values: Float64[np.ndarray, " sample"]) -> Verdict | None:
    n = int((~np.isnan(values)).sum())
    return Verdict(UNKNOWN, f"{n} samples, at least {MIN_RIGHT} are needed") if n < MIN_RIGHT else None
