"""Drills: many short questions in one row of text. Training has them, prompts do not.

    Which digits do you see and hear?  second see TWO  first hear NINE  second hear SIX  ...

Words in capitals are learned, the others are given. A drill practises one step of what the questions need (finding a
place by its name, finding a digit's place, telling whether two digits are the same, from an answer to its letter), and
gives ten times as much to learn from as a question. Questions alone stood still for thousands of steps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import NamedTuple, TypeVar

import numpy as np

from hooked_av.tiny.digits import NAMES
from hooked_av.tiny.questions import MAX_LENGTH, N_OPTIONS, NUMBERS, ORDINALS, YES_NO, DigitPair, Stream
from hooked_av.tiny.scenes import Scene

T = TypeVar("T")
Query = tuple["Word", ...]
VERBS: Mapping[Stream, str] = {"shown": " see", "spoken": " hear"}
MAX_QUERIES = 10  # of a drill, so that its row is not much longer than a question's
SPELLED_SHARE = 0.4  # of what is asked for a letter, or compared: the digit is given too
COPIED = (6, 15)  # words
COPY_REQUEST = "Describe the clip."
_VOCABULARY = (*(f" {word}" for word in (*NAMES, *ORDINALS, *YES_NO)), *VERBS.values(), *ascii_uppercase[:MAX_LENGTH])


class Word(NamedTuple):
    """A token's text, whether it is learned, and the two digits that it is made of, if it is made of two.

    Words that are given begin with a space.
    """

    text: str
    learned: bool = False
    pair: DigitPair | None = None


@dataclass(frozen=True)
class Drill:
    """A request, and the words that follow it."""

    form: str
    request: str
    words: tuple[Word, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScenePlaces:
    """A scene as named places (seconds of a clip, or items), with the digit of each stream there, if any."""

    names: tuple[str, ...]
    digits: Mapping[Stream, tuple[int | None, ...]]
    is_clip: bool

    @classmethod
    def of(cls, scene: Scene) -> "ScenePlaces":
        if len(scene.items) == 1:
            clip = scene.clip
            return cls(ORDINALS[: clip.seconds], {"shown": clip.shown, "spoken": clip.spoken}, True)
        digits: dict[Stream, tuple[int | None, ...]] = {
            stream: tuple(next(iter(getattr(i, stream)), None) for i in scene.items) for stream in VERBS
        }
        return cls(NUMBERS[1 : len(scene.items) + 1], digits, False)

    def known(self, stream: Stream) -> Iterator[tuple[int, int]]:
        """Places that have a digit in a stream, and the digit."""
        return ((place, digit) for place, digit in enumerate(self.digits[stream]) if digit is not None)

    def once(self, stream: Stream) -> Iterator[tuple[int, int]]:
        """The same for digits that no other place has."""
        return ((place, digit) for place, digit in self.known(stream) if self.digits[stream].count(digit) == 1)


def draw_drills(scene: Scene, rng: np.random.Generator) -> list[Drill]:
    """All drills that fit a scene, with their queries in random order."""
    places = ScenePlaces.of(scene)
    drills = [_drill(form, queries(places, rng), rng) for form, queries in (_CLIP if places.is_clip else _ITEMS)]
    drills.append(_drill("drill, count", _counts(scene, rng), rng))
    return [*filter(None, drills), *_letters(places, rng), copied(rng)]


def copied(rng: np.random.Generator) -> Drill:
    """Words, and the same words again: the second time they are learned, but for the first."""
    n = int(rng.integers(*COPIED, endpoint=True))
    words = [str(word) for word in rng.choice(_VOCABULARY, n, replace=False)]
    return Drill("drill, copy", COPY_REQUEST, (*map(Word, words), *(Word(w, i > 0) for i, w in enumerate(words))))


def _drill(form: str, queries: Sequence[Query], rng: np.random.Generator) -> Drill | None:
    chosen = _shuffled(queries, rng)[:MAX_QUERIES]
    return Drill(form, REQUESTS[form], tuple(word for query in chosen for word in query)) if chosen else None


def _lookups(places: ScenePlaces, rng: np.random.Generator) -> list[Query]:
    """second see -> TWO"""
    return [(*asked, Word(NAMES[digit], True)) for asked, digit in _looks(places)]


def _looks(places: ScenePlaces) -> list[tuple[Query, int]]:
    return [
        ((Word(f" {places.names[place]}"), Word(verb)), digit)
        for stream, verb in VERBS.items()
        for place, digit in places.known(stream)
    ]


def _whereabouts(places: ScenePlaces, rng: np.random.Generator) -> list[Query]:
    """see two -> SECOND; of items, what the answer to "which item" is"""
    space = " " if places.is_clip else ""
    return [
        (Word(verb), Word(f" {NAMES[digit]}"), Word(f"{space}{places.names[place]}", True))
        for stream, verb in VERBS.items()
        for place, digit in places.once(stream)
        if places.is_clip or len(list(places.known(stream))) > 1
    ]


def _beside(places: ScenePlaces, rng: np.random.Generator) -> list[Query]:
    """see two hear -> SIX"""
    streams: tuple[tuple[Stream, Stream], ...] = (("shown", "spoken"), ("spoken", "shown"))
    return [
        (Word(VERBS[key]), Word(f" {NAMES[digit]}"), Word(VERBS[value]), Word(NAMES[other], True))
        for key, value in streams
        for place, digit in places.once(key)
        if (other := places.digits[value][place]) is not None
    ]


def _sums(places: ScenePlaces, rng: np.random.Generator) -> list[Query]:
    """second -> EIGHT"""
    pairs = zip(places.names, places.digits["shown"], places.digits["spoken"], strict=True)
    return [
        (Word(f" {name}"), Word(NUMBERS[shown + spoken], True, (shown, spoken)))
        for name, shown, spoken in pairs
        if shown is not None and spoken is not None
    ]


def _same(places: ScenePlaces, rng: np.random.Generator) -> list[Query]:
    """first see (two) second hear (six) -> NO: is the first shown digit the second spoken one?"""
    spoken = list(places.known("spoken"))
    pairs = [((a, b), (x, y)) for a, x in places.known("shown") for b, y in spoken]
    return [
        (*_look(places, a, "shown", rng), *_look(places, b, "spoken", rng), _yes_or_no(digits))
        for (a, b), digits in _balanced(pairs, rng)
    ]


def _items_same(places: ScenePlaces, rng: np.random.Generator) -> list[Query]:
    """one see (two) three see (two) -> YES"""
    found: list[Query] = []
    for stream in VERBS:
        known = list(places.known(stream))
        pairs = [((a, b), (x, y)) for a, x in known for b, y in known if a < b]
        found += [
            (*_look(places, a, stream, rng), *_look(places, b, stream, rng), _yes_or_no(digits))
            for (a, b), digits in _balanced(pairs, rng)
        ]
    return found


def _look(places: ScenePlaces, place: int, stream: Stream, rng: np.random.Generator) -> Query:
    """A place and a verb, as when the digit there is asked for; sometimes the digit is given.

    What is compared stands then at the verb, or at the digit, and words that are given are easy to compare.
    """
    digit = places.digits[stream][place]
    spelled = [Word(f" {NAMES[digit]}")] if digit is not None and rng.random() < SPELLED_SHARE else []
    return (Word(f" {places.names[place]}"), Word(VERBS[stream]), *spelled)


def _yes_or_no(digits: DigitPair) -> Word:
    return Word(YES_NO[0 if digits[0] == digits[1] else 1], True, digits)


def _balanced(
    pairs: Sequence[tuple[tuple[int, int], DigitPair]], rng: np.random.Generator
) -> list[tuple[tuple[int, int], DigitPair]]:
    """Places and their digits: as many that are the same as not."""
    same, other = ([row for row in pairs if (row[1][0] == row[1][1]) == wanted] for wanted in (True, False))
    n = min(len(same), len(other), MAX_QUERIES // 2)
    return [*_shuffled(same, rng)[:n], *_shuffled(other, rng)[:n]]


def _counts(scene: Scene, rng: np.random.Generator) -> list[Query]:
    """see two -> THREE: of the digit that the scene was made to count, of another, and of one that is not there"""
    if scene.counted is None:
        return []
    found: list[Query] = []
    for (stream, verb), counted in zip(VERBS.items(), scene.counted, strict=True):
        row: tuple[int, ...] = getattr(scene.clip, stream)
        there, absent = (
            _shuffled(sorted({*row} - {counted}), rng),
            _shuffled(sorted({*range(10)} - {*row, counted}), rng),
        )
        for digit in (counted, *there[:1], *absent[:1]):
            found.append((Word(verb), Word(f" {NAMES[digit]}"), Word(NUMBERS[row.count(digit)], True)))
    return found


def _letters(places: ScenePlaces, rng: np.random.Generator) -> list[Drill]:
    """second see (two) -> B, where the prompt has digits as options"""
    looks = _shuffled(_looks(places), rng)
    n = int(rng.integers(*N_OPTIONS, endpoint=True))
    there = _shuffled(sorted({digit for _, digit in looks}), rng)
    absent = _shuffled(sorted({*range(10)} - {*there}), rng)
    options = _shuffled([*there, *absent][:n], rng)
    words: list[Word] = []
    for asked, digit in [look for look in looks if look[1] in options][:MAX_QUERIES]:
        spelled = [Word(f" {NAMES[digit]}")] if rng.random() < SPELLED_SHARE else []
        words += [*asked, *spelled, Word(ascii_uppercase[options.index(digit)], True)]
    form = "drill, letters" if places.is_clip else "drill, item letters"
    return [Drill(form, REQUESTS[form], tuple(words), tuple(NAMES[digit] for digit in options))]


def _shuffled(several: Sequence[T], rng: np.random.Generator) -> list[T]:
    return [several[i] for i in rng.permutation(len(several))]


MakeQueries = Callable[[ScenePlaces, np.random.Generator], Sequence[Query]]
_CLIP: Sequence[tuple[str, MakeQueries]] = (
    ("drill, lookup", _lookups),
    ("drill, place", _whereabouts),
    ("drill, beside", _beside),
    ("drill, sum", _sums),
    ("drill, same", _same),
)
_ITEMS: Sequence[tuple[str, MakeQueries]] = (
    ("drill, item lookup", _lookups),
    ("drill, which item", _whereabouts),
    ("drill, items same", _items_same),
)
REQUESTS: Mapping[str, str] = {
    "drill, lookup": "Which digits do you see and hear?",
    "drill, place": "When do you see and hear it?",
    "drill, beside": "Which digits are shown and spoken?",
    "drill, sum": "What is the sum of the shown and spoken digits?",
    "drill, same": "Is the shown digit the same as the spoken?",
    "drill, count": "How often is the digit shown and spoken?",
    "drill, letters": "Which digit do you see and hear?",
    "drill, item lookup": "What is shown and spoken in item?",
    "drill, which item": "Which item shows and speaks?",
    "drill, items same": "Do item and item show and speak the same digit?",
    "drill, item letters": "Which digit do you see and hear in item?",
}
