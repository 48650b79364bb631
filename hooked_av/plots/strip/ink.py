"""A planned strip in ink: outlines by colour for the picture, and the same units as data for the page's script.

Nothing is told apart by colour alone: spans differ in hatch and name, negative heat is striped.
Axes: layer, unit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import wrap
from typing import Any

import numpy as np
from jaxtyping import Float16

from hooked_av.plots.heat import N_SHADES, Heat, packed, shade_colour, shade_numbers
from hooked_av.plots.strip.lanes import LEFT, WIDTH, Lane, StripPlan, Unit, own_spans
from hooked_av.plots.strip.segments import segments
from hooked_av.plots.style import LOOKS, look_of
from hooked_av.plots.text import shortened, visible
from hooked_av.prompt.inputs import AVInputs

TOP = 10.0  # of the first lane, below the legend
OWN = "#4D4D4D"  # a span that the user added
LINE = 15.0  # of the legend and the notes
_HATCHES = {
    "/": "M-1,7 L7,-1 M-1,1 L1,-1 M5,7 L7,5",
    "\\": "M-1,-1 L7,7 M5,-1 L7,1 M-1,5 L1,7",
    "|": "M3,0 V6",
    "x": "M-1,7 L7,-1 M-1,-1 L7,7",
    "+": "M3,0 V6 M0,3 H6",
}  # on tiles of 6 x 6


@dataclass(frozen=True, eq=False)
class Ink:
    """What the templates draw."""

    plan: StripPlan
    heat: Heat | None
    shares: Float16[np.ndarray, " unit"] | None  # of the layer shown first
    layer: int
    own: frozenset[str]  # spans that the user added

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Names in the legend and their fills; `{uid}` stands for the strip's own."""
        spans = [unit.span for lane in self.plan.lanes for unit in lane.units]
        names = dict.fromkeys(_kind(span) for span in spans if span not in ("…", "padding"))
        told_apart = [name for name in names if name in LOOKS]
        rest = ["text"] if len(told_apart) < len(names) else []
        return {name: self.fill(name) for name in [*told_apart, *rest]}

    @cached_property
    def tops(self) -> list[float]:
        """Where each lane begins."""
        tops, top = [], TOP + LINE * (len(self.legend) + (self.heat is not None))
        for lane in self.plan.lanes:
            tops.append(top)
            top += lane.height + lane.gap
        return [*tops, top]

    @property
    def height(self) -> float:
        return self.tops[-1] + LINE * len(self.notes) + 6

    @property
    def width(self) -> float:
        return WIDTH

    @property
    def left(self) -> float:
        return LEFT

    @cached_property
    def legend(self) -> list[list[tuple[float, str, str]]]:
        """(left, name, fill) of each kind, by line."""
        lines: list[list[tuple[float, str, str]]] = [[]]
        x = LEFT
        for name, fill in self.kinds.items():
            width = 30 + 6.2 * len(name)
            if x + width > WIDTH and lines[-1]:
                lines.append([])
                x = LEFT
            lines[-1].append((x, name, fill))
            x += width
        return lines

    @cached_property
    def scale(self) -> list[tuple[float, str]]:
        """(left, fill) of each shade of the heat's legend."""
        lowest = 0 if self.heat is None or not self.heat.has_negatives else -N_SHADES
        return [(LEFT + 14.0 * i, shade_fill(n)) for i, n in enumerate(range(lowest, N_SHADES + 1))]

    @property
    def scale_words(self) -> str:
        """The ends of the heat's scale."""
        if self.heat is None:
            return ""
        return f"{f'−{self.heat.peak:.3g}' if self.heat.has_negatives else 0} to {self.heat.peak:.3g}"

    @property
    def short_label(self) -> str:
        return "" if self.heat is None else shortened(self.heat.label, 90)

    @property
    def layer_words(self) -> str:
        heat = self.heat
        return "" if heat is None or not heat.has_layers else f"layer {self.layer} of 0–{len(heat.values) - 1}"

    @cached_property
    def notes(self) -> list[str]:
        notes = list(self.plan.notes)
        if self.heat is not None and any(len(unit.positions) > 1 for lane in self.plan.lanes for unit in lane.units):
            notes.append("The heat of tokens drawn as one is their mean.")
        return wrap(" ".join(notes), 140)

    @property
    def describe(self) -> str:
        """The picture in words."""
        lanes = ", ".join(lane.name for lane in self.plan.lanes if lane.name)
        heat = f" Heat: {self.heat.label}, {self.scale_words} {self.layer_words}".rstrip() + "." if self.heat else ""
        return f"Lanes: {lanes}.{heat} {' '.join(self.plan.notes)}".strip()

    def fill(self, span: str) -> str:
        """Colour of a span, or the address of its pattern."""
        if span in self.own:
            return OWN
        if span == "padding":
            return "#FFFFFF"
        look = look_of(span)
        return f"url(#{{uid}}{_pattern_name(span)})" if look.hatch else look.colour

    @property
    def patterns(self) -> Iterator[tuple[str, str, str]]:
        """(name, colour, lines) of the patterns of this strip."""
        for name, look in LOOKS.items():
            if look.hatch:
                yield f"-{name}", look.colour, _HATCHES[look.hatch[0]]
        if self.heat is not None and self.heat.has_negatives:
            for number in range(1, N_SHADES + 1):
                yield f"-n{number}", shade_colour(-number), "M0,3 H6"

    def paths(self) -> Iterator[list[tuple[str, str]]]:
        """(fill, outlines) of each lane's units: in shades of the heat if there is one, else in colours of spans."""
        at = 0
        for lane in self.plan.lanes:
            fills = [self.fill(unit.span) for unit in lane.units]
            if self.shares is not None:
                fills = [shade_fill(n) for n in shade_numbers(self.shares[at : at + len(lane.units)])]
            yield _by_fill(lane.units, fills)
            at += len(lane.units)

    def drawn(self, pictures: list[list[str]]) -> Iterator[tuple[Lane, list[tuple[str, str]], float, list[str]]]:
        """Each lane with the outlines of its units, its top, and its pictures."""
        yield from zip(self.plan.lanes, self.paths(), self.tops, pictures, strict=False)

    def edge(self, lane: Lane) -> float:
        """Width of the white lines between units: none where they would hide the units."""
        smallest = min(min(unit.width, unit.height) for unit in lane.units)
        return round(min(1.0, 0.12 * smallest), 2)

    def break_width(self, lane: Lane) -> float:
        """Width of the white lines between frame groups."""
        return round(min(3.0, 0.1 * float(np.diff([LEFT, *lane.breaks]).min())), 2)

    def stripes(self, lane: Lane) -> list[tuple[str, str]]:
        """(fill, outlines) of the spans of a lane that carries heat."""
        return _by_fill(lane.stripes, [self.fill(unit.span) for unit in lane.stripes])

    def data(self, inputs: AVInputs, texts: Sequence[str], pooled: Any, uid: str) -> dict[str, Any]:
        """What the script needs: the units of each lane, what each is, and the heat of all layers."""
        index = _Index(inputs, texts)
        lanes = [
            {
                "name": lane.name,
                "top": round(top, 1),
                "reach": lane.reach,
                "boxes": packed(np.array([_tenths(unit) for unit in lane.units], dtype=np.uint16)),
                "units": [index.entry(unit) for unit in lane.units],
            }
            for lane, top in zip(self.plan.lanes, self.tops, strict=False)
            if lane.units
        ]
        data: dict[str, Any] = {"lanes": lanes, **index.tables}
        if self.heat is not None and pooled is not None:
            numbers = [None, *range(-N_SHADES, N_SHADES + 1)]
            fills = {str(n): shade_fill(n).replace("{uid}", uid) for n in numbers}
            data["heat"] = {"values": packed(pooled), "layers": len(pooled), "peak": self.heat.peak, "fills": fills,
                            "label": self.heat.label, "layered": self.heat.has_layers}  # fmt: skip
        return data


class _Index:
    """Entries of units, with what repeats kept in tables."""

    def __init__(self, inputs: AVInputs, texts: Sequence[str]) -> None:
        self.ids = inputs.input_ids[0].tolist()
        self.texts = texts
        self.places = inputs.spans.places
        self.names = [segment.span for segment in segments(inputs) for _ in range(segment.start, segment.stop)]
        for name in own_spans(inputs):
            for position in inputs.spans[name]:
                self.names[position] += f", {name}"
        self.tables: dict[str, list[Any]] = {"spans": [], "ids": [], "seconds": [], "texts": []}
        self._rows: dict[tuple[str, Any], int] = {}

    def entry(self, unit: Unit) -> list[Any]:
        """[positions, row of ids, of spans, of seconds or -1, of texts or -1, cell]; without an empty end."""
        first = unit.positions[0]
        ids, names = {self.ids[p] for p in unit.positions}, {self.names[p] for p in unit.positions}
        entry = [
            _runs(unit.positions),
            self._row("ids", ids.pop() if len(ids) == 1 else f"{len(ids)} different"),
            self._row("spans", names.pop() if len(names) == 1 else " and ".join(sorted(names)[:3])),
            self._row("seconds", _range_of(self.places.seconds[unit.positions])),
            -1,
            _cells_of(self.places.cells[unit.positions]),
        ]
        if len(unit.positions) == 1 and self.places.items[first] < 0:
            entry[4] = self._row("texts", visible(self.texts[int(first)]))
        return entry

    def _row(self, table: str, value: Any) -> int:
        if value == "":
            return -1
        if (table, value) not in self._rows:
            self._rows[table, value] = len(self.tables[table])
            self.tables[table].append(value)
        return self._rows[table, value]


def shade_fill(number: int | None) -> str:
    """Colour of a shade, or the address of its striped pattern."""
    return shade_colour(number) if number is None or number >= 0 else f"url(#{{uid}}-n{-number})"


def _kind(span: str) -> str:
    name = span.rpartition(".")[2]
    return "options" if name.startswith("option") else name


def _pattern_name(span: str) -> str:
    return f"-{_kind(span)}"


def _by_fill(units: Sequence[Unit], fills: Sequence[str]) -> list[tuple[str, str]]:
    """One path for all units of a fill."""
    found: dict[str, list[str]] = {}
    for unit, fill in zip(units, fills, strict=True):
        x, y, width, height = (n / 10 for n in _tenths(unit))
        found.setdefault(fill, []).append(f"M{x:g} {y:g}h{width:g}v{height:g}h-{width:g}z")
    return [(fill, "".join(parts)) for fill, parts in found.items()]


def _tenths(unit: Unit) -> tuple[int, int, int, int]:
    """Left, top, width and height in tenths of a pixel: as the page carries them."""
    left, top = round(10 * unit.left), round(10 * unit.top)
    right, bottom = round(10 * (unit.left + unit.width)), round(10 * (unit.top + unit.height))
    return left, top, max(1, right - left), max(1, bottom - top)


def _runs(positions: np.ndarray) -> str:
    """Positions as "16", "16-19", "16-17,44-45"."""
    cuts = np.flatnonzero(np.diff(positions) != 1) + 1
    runs = [(int(run[0]), int(run[-1])) for run in np.split(positions, cuts)]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _range_of(seconds: np.ndarray) -> str:
    known = seconds[~np.isnan(seconds).any(axis=1)]
    return f"{known[:, 0].min():.2f}–{known[:, 1].max():.2f}" if len(known) else ""


def _cells_of(cells: np.ndarray) -> str:
    """Group, row, column as "0 3 12", "0 2-3 4-5"; empty for what has none."""
    known = cells[cells[:, 0] >= 0]
    if not len(known):
        return ""
    low, high = known.min(axis=0).tolist(), known.max(axis=0).tolist()
    return " ".join(str(a) if a == b else f"{a}–{b}" for a, b in zip(low, high, strict=True))
