"""What stands where on a token strip: lanes of units, in pixels of a page 960 wide, before heat and ink.

A unit is a token, or several that could not be seen apart, pooled. Nothing is left out in silence: what is pooled or
not drawn is a note.
Axes: pos (token of one prompt).
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64, UInt8
from matplotlib.ticker import MaxNLocator

from hooked_av.errors import MediaError
from hooked_av.media.clip import Clip
from hooked_av.plots.strip.segments import MEDIA, Cell, Segment, lane_cells, segments
from hooked_av.plots.strip.time import arrangement, envelope, group_starts, lane_end, shown_frames, thumbnail
from hooked_av.plots.text import shortened, visible
from hooked_av.prompt.inputs import AVInputs

WIDTH, LEFT, RIGHT = 960.0, 124.0, 12.0
LANE = WIDTH - LEFT - RIGHT
MAX_ITEMS, MAX_OWN_SPANS, MAX_BOXES, MAX_COLUMNS = 8, 8, 240, 412
SMALLEST = 2.0  # pixels; tokens narrower than this are pooled
_THUMB, _SHARPNESS = 64, 1.5  # height of a frame, and its rows of pixels for each of these
_ENVELOPE_BINS = 500
_LETTER = 6.1  # width of a letter of the token texts


@dataclass(frozen=True, eq=False)
class Unit:
    """The rectangle of one token, or of several pooled; pixels from the left of the page and the top of its lane."""

    positions: Int64[np.ndarray, " some"]
    span: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Words:
    """A line of text; `y` is its baseline, from the top of its lane."""

    x: float
    y: float
    text: str
    style: str = "small"  # small, bold, mono, faint
    anchor: str = "start"


@dataclass(frozen=True, eq=False)
class Shot:
    """A picture; pixels of the page."""

    pixels: UInt8[np.ndarray, "row column 3"]
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, eq=False)
class Lane:
    """One row of the strip."""

    name: str
    height: float
    detail: tuple[str, ...] = ()
    gap: float = 6.0  # below it
    span: str = ""  # what its units are, where they are all the same
    units: Sequence[Unit] = ()
    stripes: Sequence[Unit] = ()  # their spans in colour, where the units carry heat
    words: Sequence[Words] = ()
    shots: Sequence[Shot] = ()
    wave: Sequence[tuple[float, float]] = ()  # outline
    ticks: Sequence[float] = ()
    breaks: Sequence[float] = ()  # between frame groups
    reach: float = 0.0  # how far above a unit the pointer still means it
    clear: bool = False  # units are outlines over a picture


@dataclass
class StripPlan:
    """All lanes, top to bottom, and what has to be said about them."""

    lanes: list[Lane] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_strip(inputs: AVInputs, str_tokens: Sequence[str], *, hot: bool, max_units: int) -> StripPlan:
    """The lanes of one prompt; `hot` leaves room for heat beside the colours of spans.

    >>> import torch
    >>> inputs = AVInputs.from_tokens(torch.tensor([[5, 6, 7]]))
    >>> [lane.name for lane in plan_strip(inputs, ["a", "b", "c"], hot=False, max_units=5000).lanes]
    ['prompt to scale', 'prompt in order']
    """
    order, plan = segments(inputs), StripPlan()
    n_columns, n_boxes = min(MAX_COLUMNS, max_units // 4), min(MAX_BOXES, max_units // 5)
    _plan_items(plan, inputs, max_units - n_columns - n_boxes)
    plan.lanes.append(_scale_lane(plan, order, inputs.n_pos, n_columns, hot))
    plan.lanes += _own_spans(plan, inputs)
    plan.lanes.append(_order_lane(plan, order, str_tokens, n_boxes, hot))
    return plan


# ---- In time ---------------------------------------------------------------------------------------------------------


def _plan_items(plan: StripPlan, inputs: AVInputs, max_units: int) -> None:
    n_items = int(inputs.spans.places.items.max(initial=-1)) + 1
    if n_items > MAX_ITEMS:
        plan.notes.append(f"Only the first {MAX_ITEMS} of {n_items} media items are drawn in time.")
    found = [lane_cells(inputs, item) for item in range(min(n_items, MAX_ITEMS))]
    n_tokens = sum(len(cells) for lanes in found for cells in lanes.values())
    share = min(1.0, max_units / max(1, n_tokens))
    clips = inputs.clips[0] if inputs.clips else ()
    for item, cells in enumerate(found):
        clip = clips[item] if item < len(clips) else None
        plan.lanes.append(_heading(item, clip, n_items))
        plan.lanes += _item_lanes(plan, item, clip, cells, share, inputs)


def _heading(item: int, clip: Clip | None, n_items: int) -> Lane:
    what = "media" if clip is None else repr(clip).removeprefix("Clip(").removesuffix(")")
    text = f"item {item}: {what}" if n_items > 1 else what
    return Lane("", 12, gap=4, words=[Words(LEFT, 10, text, "faint")])


def _item_lanes(
    plan: StripPlan, item: int, clip: Clip | None, cells: dict[str, list[Cell]], share: float, inputs: AVInputs
) -> Iterator[Lane]:
    end = lane_end(clip, cells)
    if clip is not None and "video" in cells:
        yield _frames_lane(plan, clip, cells["video"], end)
    if clip is not None and "audio" in cells:
        yield _wave_lane(clip, end)
    for modality, lane in cells.items():
        still = modality == "image"
        scale, height = _still_size(lane) if still else (LANE / end, _height(modality, lane))
        units, pooled = _pooled(lane, inputs, modality, scale, height, max(1, int(share * len(lane))))
        if pooled:
            plan.notes.append(f"{modality} tokens of item {item}: up to {pooled} neighbours are drawn as one.")
        shots = _still(plan, clip, scale, height, lane) if still and clip is not None else []
        breaks = [LEFT + second * scale for second in sorted(group_starts(lane).values())[1:]]
        yield Lane(f"{modality} tokens", height, _lane_detail(lane, pooled), span=modality, units=units, shots=shots,
                   clear=bool(shots), gap=18.0 if still else 6.0, breaks=breaks)  # fmt: skip
    if "image" not in cells:
        yield _time_axis(end)


def _lane_detail(cells: list[Cell], pooled: int) -> tuple[str, ...]:
    return (*arrangement(cells).split("\n"), *([f"{pooled} drawn as one"] if pooled else []))


def _height(modality: str, cells: list[Cell]) -> float:
    return 26.0 if modality == "audio" else float(np.clip(9 / cells[0].height, 44, 108))


def _still_size(cells: list[Cell]) -> tuple[float, float]:
    """Pixels a column and pixels of height of a picture: square cells, no wider than the lane."""
    n_rows = round(1 / cells[0].height)
    side = min(150 / n_rows, LANE / (len(cells) / n_rows))
    return side, side * n_rows


def _frames_lane(plan: StripPlan, clip: Clip, cells: list[Cell], end: float) -> Lane:
    full = _THUMB * clip.width / clip.height  # pixels of the page
    shots = []
    try:
        for start, scale, pixels in shown_frames(clip, cells, end, full * end / LANE, round(_THUMB * _SHARPNESS)):
            left, top = LEFT + start / end * LANE, _THUMB * (1 - scale) / 2
            shots.append(Shot(pixels, left, top, scale * full, scale * _THUMB))
    except MediaError as error:  # the film may have been moved since; the tokens are still worth showing
        plan.notes.append(f"The frames cannot be shown: {error.what}.")
    return Lane("frames", _THUMB, (f"{len(shots)} shown",), shots=shots)


def _still(plan: StripPlan, clip: Clip, side: float, height: float, cells: list[Cell]) -> list[Shot]:
    try:
        pixels = thumbnail(clip.read_frames([0])[0], round(height * _SHARPNESS))
    except MediaError as error:
        plan.notes.append(f"The picture cannot be shown: {error.what}.")
        return []
    return [Shot(pixels, LEFT, 0, side * round(len(cells) * cells[0].height), height)]


def _wave_lane(clip: Clip, end: float) -> Lane:
    waveform = clip.waveform
    seconds, low, high = envelope(waveform, _ENVELOPE_BINS)
    peak, height = max(1e-4, float(np.abs(waveform).max())), 40.0
    x = LEFT + seconds / end * LANE
    upper, lower = (height / 2 * (1 - side / peak) for side in (high, low))
    outline = [*zip(x, upper, strict=True), *zip(x[::-1], lower[::-1], strict=True)]
    return Lane("sound", height, (f"peak {peak:.2g}",), wave=[(float(a), float(b)) for a, b in outline])


def _time_axis(end: float) -> Lane:
    marks = [tick for tick in MaxNLocator(nbins=10, steps=[1, 2, 5, 10]).tick_values(0, end) if 0 <= tick <= end]
    places = [LEFT + float(tick) / end * LANE for tick in marks]
    words = [Words(x, 16, f"{tick:g}", "faint", "middle") for x, tick in zip(places, marks, strict=True)]
    label = Words(LEFT - 8, 16, "seconds", "faint", "end")
    return Lane("", 18, gap=14, ticks=places, words=[*words, label])


def _pooled(
    cells: list[Cell], inputs: AVInputs, span: str, scale: float, height: float, limit: int
) -> tuple[list[Unit], int]:
    """Units of a lane, at most about `limit` and none too small to see, and the most tokens that one of them holds."""
    where = inputs.spans.places.cells[[cell.position for cell in cells]]
    if cells[0].group < 0:  # sound: neighbours in time
        step = max(-(-len(cells) // limit), int(np.ceil(SMALLEST / (scale * cells[0].width))))
        keys = [(number // step,) for number in range(len(cells))]
    else:
        keys = _blocks(where, scale * cells[0].width, height * cells[0].height, limit)
    together: dict[tuple[int, ...], list[Cell]] = {}
    for key, cell in zip(keys, cells, strict=True):
        together.setdefault(key, []).append(cell)
    units = [_around(some, span, scale, height) for some in together.values()]
    most = max(len(some) for some in together.values())
    return units, most if most > 1 else 0


def _blocks(where: Int64[np.ndarray, "pos 3"], width: float, height: float, limit: int) -> list[tuple[int, int, int]]:
    """The same key for cells of one block: squares inside a frame group; whole groups only where that is not enough."""
    n_groups, n_rows, n_columns = (int(n) + 1 for n in where.max(axis=0))
    side = max(1, int(np.ceil(SMALLEST / height)))
    wide = max(1, int(np.ceil(SMALLEST / width)))
    while n_groups * -(-n_rows // side) * -(-n_columns // max(side, wide)) > limit and side < max(n_rows, n_columns):
        side += 1
    wide = max(side, wide)
    groups = max(1, -(-n_groups * -(-n_rows // side) * -(-n_columns // wide) // limit), -(-wide // n_columns))
    return [(int(g) // groups, int(r) // side, int(c) // wide) for g, r, c in where]


def _around(cells: list[Cell], span: str, scale: float, height: float) -> Unit:
    """The rectangle around cells."""
    left, right = min(c.left for c in cells), max(c.left + c.width for c in cells)
    bottom, top = min(c.bottom for c in cells), max(c.bottom + c.height for c in cells)
    positions = np.array([cell.position for cell in cells])
    return Unit(
        positions, span, LEFT + left * scale, (1 - top) * height, (right - left) * scale, (top - bottom) * height
    )


# ---- In order --------------------------------------------------------------------------------------------------------


def _scale_lane(plan: StripPlan, order: list[Segment], n_pos: int, max_columns: int, hot: bool) -> Lane:
    """All positions side by side; neighbours of the same span share a column where there are more than columns."""
    step = -(-n_pos // max_columns)
    if step > 1:
        plan.notes.append(f"Prompt to scale: up to {step} neighbours are drawn as one.")
    if len(order) > max_columns // 2:  # more changes of span than can be seen: columns do not stop at them
        order = [_mixed(order, start, min(n_pos, start + step)) for start in range(0, n_pos, step)]
    parts = [(s.span, a, min(s.stop, a + step)) for s in order for a in range(s.start, s.stop, step)]
    pixels, band = LANE / n_pos, 14.0
    units = [Unit(np.arange(a, b), span, LEFT + a * pixels, band * hot, (b - a) * pixels, band) for span, a, b in parts]
    stripes = [
        Unit(np.arange(s.start, s.stop), s.span, LEFT + s.start * pixels, 0, (s.stop - s.start) * pixels, band - 2)
        for s in order
    ]
    ends = [Words(LEFT, band * (1 + hot) + 10, "0", "faint"),
            Words(LEFT + LANE, band * (1 + hot) + 10, str(n_pos - 1), "faint", "end")]  # fmt: skip
    return Lane("prompt to scale", band * (1 + hot), (f"{n_pos} tokens",), units=units, stripes=stripes if hot else [],
                words=ends, reach=band * hot, gap=16)  # fmt: skip


def _mixed(order: list[Segment], start: int, stop: int) -> Segment:
    """[start, stop) under the name that most of its tokens have."""
    shares = {}
    for segment in order:
        shared = min(stop, segment.stop) - max(start, segment.start)
        if shared > 0:
            shares[segment.span] = shares.get(segment.span, 0) + shared
    return Segment(max(shares, key=shares.__getitem__), start, stop)


def own_spans(inputs: AVInputs) -> list[str]:
    """Names of the spans that no part of the layout has: those that a user added, and the audio that is padding."""
    built_in = {*MEDIA, "av", "text", "last", "boundary", "question", "options", "instruction", "answer_prefix",
                "system", "assistant", "user"}  # fmt: skip
    return [n for n in inputs.spans if n not in built_in and not n.startswith(("option_", "item"))]


def _own_spans(plan: StripPlan, inputs: AVInputs) -> Iterator[Lane]:
    names = own_spans(inputs)
    if len(names) > MAX_OWN_SPANS:
        plan.notes.append(f"Only {MAX_OWN_SPANS} of {len(names)} further spans are drawn: not {names[MAX_OWN_SPANS:]}.")
    pixels = LANE / inputs.n_pos
    for number, name in enumerate(names[:MAX_OWN_SPANS]):
        runs = inputs.spans[name].runs
        bars = [Unit(np.arange(a, b), name, LEFT + a * pixels, 2, max(1.5, (b - a) * pixels), 8) for a, b in runs]
        last = number + 1 == len(names[:MAX_OWN_SPANS])
        yield Lane(shortened(name, 18), 11, stripes=bars, gap=14 if last else 3)


def _order_lane(plan: StripPlan, order: list[Segment], str_tokens: Sequence[str], max_boxes: int, hot: bool) -> Lane:
    """One box a text token with its text, one box a run of media tokens, line by line."""
    boxes = [box for segment in order for box in _boxes(segment)]
    if len(boxes) > max_boxes:
        boxes = _elided(boxes, max_boxes, plan)
    band, line = 9.0, 47.0 + 9 * hot
    units, stripes, words = [], [], []
    x, y, name_ends = LEFT, 0.0, LEFT
    before = ""
    for box in boxes:
        text = _box_text(box, str_tokens)
        width = max(8 + _LETTER * _columns(text), 8 + 5.5 * len(box.positions))
        named = box.span != before
        x = max(x, name_ends) if named else x
        if x + width > LEFT + LANE and x > LEFT:
            x, y, named = LEFT, y + line, True
        if named:
            words.append(Words(x, y + 9, box.span, "bold"))
            name_ends = x + 6.2 * len(box.span) + 8
        words += [Words(x + 3, y + 22, text, "mono"), Words(x + 3, y + 44 + 9 * hot, box.positions, "faint")]
        here = Unit(np.arange(box.start, box.stop), box.span, x, y + 26, width - 2, 7.0)
        stripes += [here] if hot else []
        units.append(Unit(here.positions, box.span, x, y + 34, width - 2, band) if hot else here)
        x, before = x + width + 1, box.span
    detail = ("one box a text token", *(["runs of media in one"] if any(_is_media(s.span) for s in order) else []))
    return Lane("prompt in order", y + line, detail, units=units, stripes=stripes, words=words, reach=24.0 + 8 * hot)


def _boxes(segment: Segment) -> list[Segment]:
    if _is_media(segment.span) or segment.span == "padding":
        return [segment]
    return [Segment(segment.span, at, at + 1) for at in range(segment.start, segment.stop)]


def _is_media(span: str) -> bool:
    return span.rpartition(".")[2] in MEDIA


def _elided(boxes: list[Segment], max_boxes: int, plan: StripPlan) -> list[Segment]:
    """Beginning and end, with all that lies between them in one box."""
    half = (max_boxes - 1) // 2
    head, tail = boxes[:half], boxes[-half:]
    plan.notes.append(f"Prompt in order: positions {head[-1].stop} to {tail[0].start - 1} are one box.")
    return [*head, Segment("…", head[-1].stop, tail[0].start), *tail]


def _box_text(box: Segment, str_tokens: Sequence[str]) -> str:
    n_tokens = box.stop - box.start
    alone = n_tokens == 1 and not _is_media(box.span)
    return (
        shortened(visible(str_tokens[box.start]), 22) if alone else f"{n_tokens} tokens" if n_tokens > 1 else "1 token"
    )


def _columns(text: str) -> int:
    """Widths of a letter that the text takes: two for the wide characters of East Asia."""
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)
