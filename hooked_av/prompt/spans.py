"""Spans: names for sets of token positions.

A span is a *set of positions*, not an interval: both model families interleave audio with video. Every media token
also knows its seconds and, for vision, its frame group and grid cell.

Axes: pos (token of one prompt), span (positions of one span, in order).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float64, Int64

from hooked_av.errors import SpanError, SpanNameError, nearest

PositionSet = Iterable[int] | np.ndarray  # positions, in any order

GENERATED = "generated"  # the span of the tokens that the model itself wrote
ALL = "all"  # every token of the prompt, padding left out; always there, and no name for a span of one's own
SPAN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_TERM = re.compile(rf"\s*([|&-]?)\s*({SPAN_NAME.pattern})\s*")


class Span:
    """A named set of token positions, sorted, with set algebra. It is an index wherever positions are one.

    `int(span)` is the position of a span of one token; a longer one raises `SpanError`.

    >>> audio, video = Span("audio", [4, 5, 8]), Span("video", [6, 7])
    >>> (audio | video).positions.tolist()
    [4, 5, 6, 7, 8]
    >>> audio | video
    Span('audio|video', 5 positions: 4-8)
    >>> import torch
    >>> torch.arange(20).view(2, 10)[:, audio].tolist(), int(Span("last", [9]))
    ([[4, 5, 8], [14, 15, 18]], 9)
    """

    __slots__ = ("name", "positions")

    def __init__(self, name: str, positions: PositionSet) -> None:
        self.name = name
        self.positions: Int64[np.ndarray, " span"] = np.unique(_whole_numbers(name, positions))
        self.positions.flags.writeable = False

    def __reduce__(self) -> tuple[type["Span"], tuple[str, np.ndarray]]:
        return Span, (self.name, self.positions)  # a copy of an array alone could be written to

    def __or__(self, other: "Span") -> "Span":
        return Span(f"{self.name}|{other.name}", np.union1d(self.positions, other.positions))

    def __and__(self, other: "Span") -> "Span":
        return Span(f"{self.name}&{other.name}", np.intersect1d(self.positions, other.positions))

    def __sub__(self, other: "Span") -> "Span":
        return Span(f"{self.name}-{other.name}", np.setdiff1d(self.positions, other.positions))

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions.tolist())

    def __getitem__(self, place: SupportsIndex) -> int:
        return int(self.positions[place])  # torch takes what has a length and items as an index

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.positions, dtype=dtype)

    def __int__(self) -> int:
        if len(self) != 1:
            raise SpanError(
                f"span {self.name!r} is not one position",
                expected="a span of one token, such as 'last'",
                got=f"{len(self)} tokens",
                next_step=f"index with the span itself: x[:, spans[{self.name!r}]]; or take one: spans[...][0]",
            )
        return self[0]

    def __contains__(self, position: object) -> bool:
        return position in self.positions

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Span) and np.array_equal(self.positions, other.positions)

    def __hash__(self) -> int:
        return hash(self.positions.tobytes())

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The span as maximal intervals [start, stop).

        >>> Span("audio", [4, 5, 8]).runs
        [(4, 6), (8, 9)]
        """
        if not len(self):
            return []
        cuts = np.flatnonzero(np.diff(self.positions) != 1) + 1
        return [(int(run[0]), int(run[-1]) + 1) for run in np.split(self.positions, cuts)]

    def __repr__(self) -> str:
        shown = [f"{start}-{stop - 1}" if stop - start > 1 else str(start) for start, stop in self.runs[:4]]
        more = ", ..." if len(self.runs) > 4 else ""
        return f"Span({self.name!r}, {len(self)} positions: {', '.join(shown)}{more})"


@dataclass(frozen=True, eq=False)
class TokenPlaces:
    """Where each token sits in the media: one row a token, nan or -1 where it does not apply."""

    seconds: Float64[np.ndarray, "pos 2"]  # [start, stop) in seconds of its own clip
    cells: Int64[np.ndarray, "pos 3"]  # frame group, row, column (merged cells)
    items: Int64[np.ndarray, " pos"]  # number of the media item

    @classmethod
    def nowhere(cls, n_pos: int) -> "TokenPlaces":
        """Places of a prompt without media.

        >>> TokenPlaces.nowhere(2).items.tolist()
        [-1, -1]
        """
        return cls(np.full((n_pos, 2), np.nan), np.full((n_pos, 3), -1), np.full(n_pos, -1))

    def shifted(self, offset: int, n_pos: int) -> "TokenPlaces":
        """The same places in a row of `n_pos` tokens that begins `offset` tokens later (padding)."""
        places = TokenPlaces.nowhere(n_pos)
        stop = offset + len(self.items)
        places.seconds[offset:stop], places.cells[offset:stop] = self.seconds, self.cells
        places.items[offset:stop] = self.items
        return places


def _whole_numbers(name: str, positions: PositionSet) -> Int64[np.ndarray, " position"]:
    """Positions as integers; a mask or fractions would be read as something else, so they are refused."""
    given = np.asarray(positions if isinstance(positions, np.ndarray) else list(positions))
    if given.ndim != 1 or (given.size and not np.issubdtype(given.dtype, np.integer)):
        raise SpanError(
            f"span {name!r} needs token positions",
            expected="whole numbers in one row",
            got=f"{given.dtype} {list(given.shape)}",
            next_step="turn a mask into positions first: mask.nonzero()[0]",
        )
    return given.astype(np.int64)


class Spans(Mapping[str, Span]):
    """All spans of one prompt, by name.

    `spans["audio"]` is a `Span`; `spans.resolve("audio|video")` reads set algebra from text (`|`, `&`, `-`, left to
    right). `between`, `frame` and `region` find media tokens by time and place. `spans.audio` is short for
    `spans["audio"]`, where no method has the name. "all" is every token of the prompt, padding left out: it is always
    there, and not listed.

    Errors: `SpanError` for a name that is not there, positions out of range, and anything empty.

    >>> spans = Spans(10, {"audio": [4, 5, 8], "question": [9]})
    >>> spans["audio"]
    Span('audio', 3 positions: 4-5, 8)
    >>> spans.resolve("audio|question").positions.tolist()
    [4, 5, 8, 9]
    >>> spans.audio == spans["audio"], len(spans["all"])
    (True, 10)
    """

    def __init__(
        self,
        n_pos: int,
        positions: Mapping[str, PositionSet],
        places: TokenPlaces | None = None,
        extent: range | None = None,
    ) -> None:
        self.n_pos = n_pos
        self.extent = range(n_pos) if extent is None else extent  # the tokens of the prompt; the others are padding
        self.places = places if places is not None else TokenPlaces.nowhere(n_pos)
        if len(self.places.items) != n_pos:
            raise SpanError(
                "token places do not cover the prompt",
                expected=f"{n_pos} rows",
                got=len(self.places.items),
                next_step="build places with one row per token",
            )
        self._spans = {name: self._checked(name, where) for name, where in positions.items()}

    def _checked(self, name: str, positions: PositionSet) -> Span:
        if not SPAN_NAME.fullmatch(name):
            raise SpanError(
                "a span needs a plain name", expected=SPAN_NAME.pattern, got=repr(name), next_step="rename the span"
            )
        if name == ALL:
            raise SpanError(
                f"{ALL!r} is every token of the prompt already",
                expected="another name for a span of your own",
                got=repr(name),
                next_step=f"rename the span; spans[{ALL!r}] needs no one to add it",
            )
        return self._within(Span(name, positions))

    def _within(self, span: Span) -> Span:
        """The span, if it has positions and all are of this prompt."""
        if not len(span):
            raise SpanError(
                f"{span.name!r} selects no token",
                expected="at least one position",
                got="none",
                next_step="print inputs.spans to see which tokens there are",
            )
        if span.positions[0] < 0 or span.positions[-1] >= self.n_pos:
            raise SpanError(
                f"span {span.name!r} leaves the prompt",
                expected=f"positions 0 to {self.n_pos - 1}",
                got=f"{span.positions[0]} to {span.positions[-1]}",
                next_step="give positions of this prompt, counted from 0; spans of another prompt do not carry over",
            )
        return span

    def __getitem__(self, name: str) -> Span:
        if name == ALL:
            return Span(ALL, self.extent)
        if name not in self._spans:
            raise self._unknown(name, SpanError)
        return self._spans[name]

    def __getattr__(self, name: str) -> Span:
        if name.startswith("_"):  # what Python, pickle and notebooks ask every object for
            raise AttributeError(name)
        if name not in self:
            raise self._unknown(name, SpanNameError)
        return self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._spans, ALL]

    def _ipython_key_completions_(self) -> list[str]:
        return [*self._spans, ALL]

    def _unknown(self, name: str, kind: type[SpanError]) -> SpanError:
        return kind(
            f"this prompt has no span {name!r}",
            expected=nearest(name, [*self._spans, ALL]),
            got=repr(name),
            next_step="see list(inputs.spans), or add your own with inputs.with_span(name, positions)",
        )

    def __contains__(self, name: object) -> bool:
        return name in self._spans or name == ALL

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def __repr__(self) -> str:
        lines = "\n".join(f"  {span!r}" for span in self._spans.values())
        return f"Spans of {self.n_pos} positions:\n{lines}"

    def resolve(self, selector: "str | Span | PositionSet") -> Span:
        """The span that a selector means: a name, algebra such as `"av - boundary"`, a `Span`, or positions.

        >>> Spans(9, {"user": range(2, 8), "video": [3, 4]}).resolve("user - video").positions.tolist()
        [2, 5, 6, 7]
        """
        if not isinstance(selector, str):
            span = selector if isinstance(selector, Span) else Span("positions", selector)
            return self._within(span)
        terms = list(_TERM.finditer(selector))
        whole = "".join(term.group() for term in terms) == selector
        if not terms or not whole or terms[0].group(1) or not all(term.group(1) for term in terms[1:]):
            raise SpanError(
                "cannot read this span selector",
                expected="names joined by |, & or -, such as 'audio|video'",
                got=repr(selector),
                next_step="write a span name or set algebra over names",
            )
        span = self[terms[0].group(2)]
        for term in terms[1:]:
            span = _ALGEBRA[term.group(1)](span, self[term.group(2)])
        return self._within(span)

    def with_span(self, name: str, positions: "str | Span | PositionSet") -> "Spans":
        """These spans and one more (or one replaced).

        >>> list(Spans(4, {"text": [0, 1]}).with_span("mine", [3]))
        ['text', 'mine']
        """
        span = self._checked(name, self.resolve(positions))
        return Spans(self.n_pos, {**self._spans, name: span}, self.places, self.extent)

    def with_extent(self, extent: range) -> "Spans":
        """The same spans where the prompt's tokens are known to be these, and all others padding.

        >>> Spans(6, {"text": [3]}).with_extent(range(2, 6))["all"]
        Span('all', 4 positions: 2-5)
        """
        return self if extent == self.extent else Spans(self.n_pos, self._spans, self.places, extent)

    def between(self, start_seconds: float, stop_seconds: float) -> Span:
        """Media tokens whose time overlaps [start_seconds, stop_seconds) of their own clip.

        With several clips in a prompt intersect with one: `spans.between(2, 4) & spans["item1"]`.
        """
        seconds = self.places.seconds
        with np.errstate(invalid="ignore"):
            inside = (seconds[:, 0] < stop_seconds) & (seconds[:, 1] > start_seconds)
        return self._where(inside, f"seconds {start_seconds:g} to {stop_seconds:g}")

    def frame(self, group: int) -> Span:
        """Vision tokens of one frame group, counted from 0 (the encoder joins two frames into one group).

        With several clips in a prompt intersect with one, as for `between`.
        """
        return self._where(self._cells([group], 0), f"frame group {group}")

    def region(self, rows: Iterable[int], cols: Iterable[int]) -> Span:
        """Vision tokens in these rows and columns of the grid, counted from 0, in every frame group (of every clip)."""
        return self._where(self._cells(rows, 1) & self._cells(cols, 2), "this grid region")

    def _cells(self, wanted: Iterable[int], axis: int) -> np.ndarray:
        """Tokens whose frame group, row or column is one of these; -1 marks tokens that have none."""
        return np.isin(self.places.cells[:, axis], [number for number in wanted if number >= 0])

    def _where(self, mask: np.ndarray, meaning: str) -> Span:
        return self._within(Span(meaning, np.flatnonzero(mask)))

    def without_padding(self) -> "Spans":
        """The same spans of the prompt alone.

        >>> Spans(4, {"text": [0, 1]}).shifted(3, 7).without_padding()["text"]
        Span('text', 2 positions: 0-1)
        """
        own, places = slice(self.extent.start, self.extent.stop), self.places
        moved = {name: span.positions - own.start for name, span in self._spans.items()}
        alone = TokenPlaces(places.seconds[own], places.cells[own], places.items[own])
        return Spans(len(self.extent), moved, alone)

    def continued(self, n_new: int) -> "Spans":
        """The same spans in a row with `n_new` generated tokens behind it: the span "generated".

        >>> Spans(4, {"text": [0, 1]}).continued(2)["generated"]
        Span('generated', 2 positions: 4-5)
        """
        so_far = self._spans.get(GENERATED, ())  # a prompt may hold an answer, and go on
        total = self.n_pos + n_new
        longer = self.shifted(0, total).with_extent(range(self.extent.start, total))
        return longer.with_span(GENERATED, [*so_far, *range(self.n_pos, total)])

    def shifted(self, offset: int, n_pos: int) -> "Spans":
        """The same spans in a row of `n_pos` tokens that begins `offset` tokens later (padding)."""
        moved = {name: (span.positions + offset) for name, span in self._spans.items()}
        extent = range(self.extent.start + offset, self.extent.stop + offset)
        return Spans(n_pos, moved, self.places.shifted(offset, n_pos), extent)


_ALGEBRA = {"|": Span.__or__, "&": Span.__and__, "-": Span.__sub__}
