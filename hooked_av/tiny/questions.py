"""Questions of the tiny-av task, each answered by one token, and the scenes they are asked about.

No question can be answered from its text: digits are uniform and independent of what is asked, yes and no are equally
frequent, counts and letters are uniform. Where that needs a special scene (equal digits for "the same?", repeated
digits for "how often?"), the scene has a kind of its own, and only fitting families are asked about it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from string import ascii_uppercase
from typing import Literal

import numpy as np

from hooked_av.tiny.digits import NAMES
from hooked_av.tiny.scenes import Item, Scene

ORDINALS = ("first", "second", "third", "fourth")
NUMBERS = (*NAMES, "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen")
MIN_LENGTH, MAX_LENGTH = 2, 4  # seconds of a clip, or items of a prompt
MAX_COUNT = 3
N_OPTIONS = (2, 4)


YES_NO = ("yes", "no")
SUMS = tuple(NUMBERS[a + b] for a in range(10) for b in range(10))  # each as often as it is likely

Slots = Mapping[str, str]
DigitPair = tuple[int, int]
Asked = tuple[
    Slots, str, DigitPair | None
]  # what fills the phrasing, the answer, the two digits it is made of (if two)
Stream = Literal["shown", "spoken"]


@dataclass(frozen=True)
class Question:
    """What is asked, the one right answer, and the modalities that hold it."""

    family: str
    text: str
    answer: str
    needs: tuple[str, ...]
    options: tuple[str, ...] = ()
    pair: DigitPair | None = None  # the two digits that the answer is made of, if it is made of two

    @property
    def form(self) -> str:
        """The family, and whether the prompt has lettered options."""
        return f"{self.family}, options" if self.options else self.family

    @property
    def target(self) -> str:
        """The answer token: a word, or the letter of the right option."""
        return target_of(self.answer, self.options)


def target_of(answer: str, options: Sequence[str]) -> str:
    """The token that answers a prompt: a word, or the letter of the right option.

    >>> target_of("six", ()), target_of("six", ("two", "six"))
    ('six', 'B')
    """
    return ascii_uppercase[options.index(answer)] if options else answer


# ---- Scenes ----------------------------------------------------------------------------------------------------------


def _free_clip(rng: np.random.Generator, n: int) -> Scene:
    return Scene((Item(_digits(rng, n), _digits(rng, n)),))


def _paired_clip(rng: np.random.Generator, n: int) -> Scene:
    """Some spoken digits are equal to some shown ones."""
    item = _free_clip(rng, n).clip
    spoken = list(item.spoken)
    for second in rng.permutation(len(spoken))[: rng.integers(1, len(spoken), endpoint=True)]:
        spoken[second] = int(rng.choice(item.shown))
    return Scene((replace(item, spoken=tuple(spoken)),))


def _repeating_clip(rng: np.random.Generator, n: int) -> Scene:
    """One digit is shown, and one spoken, a number of times that is uniform from 0 to 3."""
    counted = (int(rng.integers(10)), int(rng.integers(10)))
    shown, spoken = (_repeating(digit, n, rng) for digit in counted)
    return Scene((Item(shown, spoken),), counted)


def _repeating(repeated: int, n: int, rng: np.random.Generator) -> tuple[int, ...]:
    count = int(rng.integers(0, min(n, MAX_COUNT), endpoint=True))
    others = [digit for digit in range(10) if digit != repeated]
    row = [repeated] * count + rng.choice(others, n - count).tolist()
    return tuple(int(row[i]) for i in rng.permutation(n))


def _items(rng: np.random.Generator, n: int) -> Scene:
    kinds = rng.choice(3, n, p=(0.6, 0.2, 0.2))
    return Scene(tuple(_item(rng, int(kind)) for kind in kinds))


def _item(rng: np.random.Generator, kind: int) -> Item:
    shown, spoken = _digits(rng, 1), _digits(rng, 1)
    return (Item(shown, spoken), Item(shown, is_still=True), Item(spoken=spoken))[kind]


def _paired_items(rng: np.random.Generator, n: int) -> Scene:
    """Two of the items that speak, and two that show, have the same digit."""
    scene = _items(rng, max(n, 3))
    for stream in ("shown", "spoken"):
        having = [i for i, item in enumerate(scene.items) if getattr(item, stream)]
        if len(having) >= 2:
            one, other = rng.choice(having, 2, replace=False)
            same = getattr(scene.items[one], stream)
            items = [replace(item, **{stream: same}) if i == other else item for i, item in enumerate(scene.items)]
            scene = Scene(tuple(items))
    return scene


def _digits(rng: np.random.Generator, n: int) -> tuple[int, ...]:
    return tuple(rng.integers(10, size=n).tolist())


SCENES: Mapping[str, Callable[[np.random.Generator, int], Scene]] = {
    "free": _free_clip,
    "paired": _paired_clip,
    "repeating": _repeating_clip,
    "items": _items,
    "paired items": _paired_items,
}


# ---- What can be asked -----------------------------------------------------------------------------------------------


def _digit_at(stream: Stream, scene: Scene, rng: np.random.Generator) -> Asked | None:
    at = int(rng.integers(scene.clip.seconds))
    return _at(at), NAMES[getattr(scene.clip, stream)[at]], None


def _compared(scene: Scene, rng: np.random.Generator) -> Asked | None:
    shown, spoken = np.array(scene.clip.shown), np.array(scene.clip.spoken)
    found = _same_or_not(shown[:, None] == spoken, rng)
    if found is None:
        return None
    nth, mth, answer = found
    return {"nth": ORDINALS[nth], "mth": ORDINALS[mth]}, answer, (int(shown[nth]), int(spoken[mth]))


def _bound(stream: Stream, scene: Scene, rng: np.random.Generator) -> Asked | None:
    """The digit of one stream beside a digit of the other that occurs once."""
    shown, spoken = scene.clip.shown, scene.clip.spoken
    keys, values = (spoken, shown) if stream == "shown" else (shown, spoken)
    once = [at for at, key in enumerate(keys) if keys.count(key) == 1]
    if not once:
        return None
    at = int(rng.choice(once))
    return {"key": NAMES[keys[at]]}, NAMES[values[at]], None


def _added(scene: Scene, rng: np.random.Generator) -> Asked | None:
    at = int(rng.integers(scene.clip.seconds))
    shown, spoken = scene.clip.shown[at], scene.clip.spoken[at]
    return _at(at), NUMBERS[shown + spoken], (shown, spoken)


def _counted(stream: Stream, scene: Scene, rng: np.random.Generator) -> Asked | None:
    if scene.counted is None:
        return None
    digit = scene.counted[stream == "spoken"]
    return {"key": NAMES[digit]}, NUMBERS[getattr(scene.clip, stream).count(digit)], None


def _item_with(stream: Stream, scene: Scene, rng: np.random.Generator) -> Asked | None:
    """The item that has a digit which no other item has."""
    rows = [getattr(item, stream) for item in scene.items]
    once = [at for at, row in enumerate(rows) if row and rows.count(row) == 1]
    if not once or sum(map(bool, rows)) < 2:
        return None
    at = int(rng.choice(once))
    return {"key": NAMES[rows[at][0]]}, NUMBERS[at + 1], None


def _digit_of_item(stream: Stream, scene: Scene, rng: np.random.Generator) -> Asked | None:
    rows = [getattr(item, stream) for item in scene.items]
    having = [at for at, row in enumerate(rows) if row]
    if not having:
        return None
    at = int(rng.choice(having))
    return {"n": NUMBERS[at + 1]}, NAMES[rows[at][0]], None


def _items_compared(stream: Stream, scene: Scene, rng: np.random.Generator) -> Asked | None:
    rows = [getattr(item, stream) for item in scene.items]
    having = [at for at, row in enumerate(rows) if row]
    pairs = [(a, b) for a in having for b in having if a < b]
    found = _same_or_not(np.array([[rows[a] == rows[b] for a, b in pairs]], dtype=bool), rng)
    if found is None:
        return None
    n, m = pairs[found[1]]
    return {"n": NUMBERS[n + 1], "m": NUMBERS[m + 1]}, found[2], (rows[n][0], rows[m][0])


def _at(second: int) -> Slots:
    return {"nth": ORDINALS[second], "n": NUMBERS[second + 1]}


def _same_or_not(same: np.ndarray, rng: np.random.Generator) -> tuple[int, int, str] | None:
    """A place of equal digits, or one of different digits, each with probability one half."""
    if same.all() or not same.any():
        return None
    answer = bool(rng.random() < 0.5)
    places = np.argwhere(same == answer)
    row, col = places[rng.integers(len(places))].tolist()
    return row, col, YES_NO[0 if answer else 1]


# ---- Families --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuestionFamily:
    """One kind of question: the scenes it is asked about, what holds the answer, and how it is put."""

    scenes: tuple[str, ...]
    needs: tuple[str, ...]
    ask: Callable[[Scene, np.random.Generator], Asked | None]  # None: this scene has no such question
    phrasings: tuple[str, ...]
    pool: Callable[[Scene], Sequence[str]] = lambda scene: NAMES  # the answers that this scene could have had


FAMILIES: Mapping[str, QuestionFamily] = {
    "visual": QuestionFamily(
        ("free", "paired", "repeating"), ("video",), partial(_digit_at, "shown"),
        ("Which digit is shown {nth}?", "What is the {nth} shown digit?", "Which digit do you see in second {n}?"),
    ),
    "auditory": QuestionFamily(
        ("free", "paired", "repeating"), ("audio",), partial(_digit_at, "spoken"),
        ("Which digit is spoken {nth}?", "What is the {nth} spoken digit?", "Which digit do you hear in second {n}?"),
    ),
    "comparison": QuestionFamily(
        ("paired",), ("audio", "video"), _compared,
        (
            "Is the {nth} shown digit the same as the {mth} spoken?",
            "Does the {nth} shown digit equal the {mth} spoken digit?",
        ),
        lambda scene: YES_NO,
    ),
    "binding, shown": QuestionFamily(
        ("free",), ("audio", "video"), partial(_bound, "shown"),
        ("Which digit is shown when {key} is spoken?", "Which digit do you see when you hear {key}?"),
    ),
    "binding, spoken": QuestionFamily(
        ("free",), ("audio", "video"), partial(_bound, "spoken"),
        ("Which digit is spoken when {key} is shown?", "Which digit do you hear when you see {key}?"),
    ),
    "arithmetic": QuestionFamily(
        ("free",), ("audio", "video"), _added,
        (
            "What is the shown digit plus the spoken digit in second {n}?",
            "What is the sum of the {nth} shown and spoken digits?",
        ),
        lambda scene: SUMS,
    ),
    "counting, spoken": QuestionFamily(
        ("repeating",), ("audio",), partial(_counted, "spoken"),
        ("How often is {key} spoken?", "How many times do you hear {key}?"),
        lambda scene: NUMBERS[: min(scene.clip.seconds, MAX_COUNT) + 1],
    ),
    "counting, shown": QuestionFamily(
        ("repeating",), ("video",), partial(_counted, "shown"),
        ("How often is {key} shown?", "How many times do you see {key}?"),
        lambda scene: NUMBERS[: min(scene.clip.seconds, MAX_COUNT) + 1],
    ),
    "which item speaks": QuestionFamily(
        ("items",), ("audio",), partial(_item_with, "spoken"),
        ("Which item speaks {key}?", "In which item do you hear {key}?"),
        lambda scene: NUMBERS[1 : len(scene.items) + 1],
    ),
    "which item shows": QuestionFamily(
        ("items",), ("video",), partial(_item_with, "shown"),
        ("Which item shows {key}?", "In which item do you see {key}?"),
        lambda scene: NUMBERS[1 : len(scene.items) + 1],
    ),
    "spoken in item": QuestionFamily(
        ("items",), ("audio",), partial(_digit_of_item, "spoken"),
        ("What is spoken in item {n}?", "Which digit do you hear in item {n}?"),
    ),
    "shown in item": QuestionFamily(
        ("items",), ("video",), partial(_digit_of_item, "shown"),
        ("What is shown in item {n}?", "Which digit do you see in item {n}?"),
    ),
    "items speak the same": QuestionFamily(
        ("paired items",), ("audio",), partial(_items_compared, "spoken"),
        ("Do item {n} and item {m} speak the same digit?", "Is the same digit spoken in item {n} and item {m}?"),
        lambda scene: YES_NO,
    ),
    "items show the same": QuestionFamily(
        ("paired items",), ("video",), partial(_items_compared, "shown"),
        ("Do item {n} and item {m} show the same digit?", "Is the same digit shown in item {n} and item {m}?"),
        lambda scene: YES_NO,
    ),
}  # fmt: skip


def draw_length(rng: np.random.Generator) -> int:
    """How many seconds (or items) a scene has."""
    return int(rng.integers(MIN_LENGTH, MAX_LENGTH, endpoint=True))


def draw_scene(kind: str, rng: np.random.Generator, n: int | None = None) -> Scene:
    """A random scene of a kind, of `n` seconds or items (None: of some)."""
    return SCENES[kind](rng, draw_length(rng) if n is None else n)


def ask(name: str, scene: Scene, rng: np.random.Generator, *, options: bool) -> Question | None:
    """A random question of a family about a scene; None if the scene has no such question."""
    family = FAMILIES[name]
    asked = family.ask(scene, rng)
    if asked is None:
        return None
    slots, answer, pair = asked
    text = family.phrasings[int(rng.integers(len(family.phrasings)))].format(**slots)
    choices = _options(answer, family.pool(scene), rng) if options else ()
    return Question(name, text, answer, family.needs, choices, pair)


def _options(answer: str, pool: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """The answer among others that were as likely, in random order."""
    n = min(int(rng.integers(*N_OPTIONS, endpoint=True)), len(set(pool)))
    chosen = [answer]
    while len(chosen) < n:
        other = pool[int(rng.integers(len(pool)))]
        chosen += [] if other in chosen else [other]
    return tuple(chosen[i] for i in rng.permutation(n))
