"""A manifest: questions about media files, one a line (JSONL) or a row (CSV), checked as a whole.

    {"id": "q1", "media": ["film.mp4"], "question": "Which digit is spoken second?", "answer": "six", "task": "auditory"}

| field | what it holds |
|---|---|
| `id` | a text or whole number of its own |
| `media` | a file (film, sound or picture), or a list of files, of `{"file": ..., "start": ..., "stop": ...}` with seconds, and of `{"text": ...}` for words in between; paths are relative to the manifest |
| `question` | what is asked |
| `options` | none, or 2 to 26 different texts |
| `answer`, `alternative` | the right answer and a wrong one to measure it against, where they are known: an option or its letter, or, without options, a text of one token |
| `queried_item` | of several files, the one that the question is about, from 0 (texts between them are not counted) |
| `task`, `group` | what the sample belongs to |

In CSV, lists are JSON, or texts with `|` between them; an empty cell is a field that is not given.
"""  # noqa: E501 - a table

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from math import isfinite
from numbers import Real
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from hooked_av.analyses.cases import Case
from hooked_av.doors import door
from hooked_av.errors import DatasetError, nearest
from hooked_av.media.clip import Clip

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

FIELDS = ("id", "media", "question", "options", "answer", "alternative", "queried_item", "task", "group")
_ITEM_FIELDS = {"file", "start", "stop"}
_MEDIA = 'a file, or a list of files, {"file": ..., "start": ..., "stop": ...} and {"text": ...}'
_LISTS = ("media", "options")
_HALF = re.compile("[\ud800-\udfff]")
_SHOWN_MEDIA, _SHOWN_QUESTION = 40, 60  # characters, by `repr`
_SHOWN, _SHOWN_LENGTH = 8, 250  # faults in a message, and characters of one


@dataclass(frozen=True)
class MediaItem:
    """A film, a sound or a picture, or [start, stop) of it in seconds."""

    file: str
    start: float = 0.0
    stop: float | None = None


@dataclass(frozen=True)
class Sample:
    """One question of a manifest. `media` holds files, and texts between them; files are relative to `folder`."""

    id: str
    media: tuple[MediaItem | str, ...]
    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    alternative: str | None = None
    task: str = ""
    group: str = ""
    folder: Path = Path()
    queried_item: int | None = None

    def __repr__(self) -> str:
        files = ", ".join(item if isinstance(item, str) else item.file for item in self.media)
        known = {name: getattr(self, name) for name in ("options", "answer", "task", "group")}
        said = [f"{name}={value!r}" for name, value in known.items() if value]
        media = [f"media={files[:_SHOWN_MEDIA]!r}"] if files else []
        return f"Sample({', '.join([repr(self.id), repr(self.question[:_SHOWN_QUESTION]), *media, *said])})"

    def clips(self) -> list[Clip | str]:
        """The media, opened, with the texts between them."""
        return [
            item if isinstance(item, str) else Clip.from_file(self.folder / item.file, item.start, item.stop)
            for item in self.media
        ]

    def prepare(self, model: "HookedAVTransformer", **arguments: Any) -> "SampleCase":
        """The prompt, with what is known of its answer: a letter where there are options.

        Args:
            arguments: of `model.prepare`, such as `sampling` and `positions`.

        Errors: those of `model.prepare`; `MediaError` for a file; `InputsError` for an answer of several tokens.

        >>> import hooked_av as av
        >>> case = Sample("q1", (), "Which digit is this?", ("three", "eight"), "eight").prepare(av.random_omni(2))
        >>> case.id, case.answer
        ('q1', 'B')
        """
        answer, alternative = (self._token(text) for text in (self.answer, self.alternative))
        for text in filter(None, (answer, alternative)):
            model.to_single_token(text)  # before any file is opened
        inputs = model.prepare(self.clips(), question=self.question, options=self.options, **arguments)
        more = {"queried_item": self.queried_item, "sample": self, "arguments": arguments}
        return SampleCase(inputs, answer, alternative, self.id, self.task, **more)

    def to_row(self) -> dict[str, Any]:
        """What a manifest says of this sample, without what it leaves open."""
        media = [{"text": item} if isinstance(item, str) else vars(item) for item in self.media]
        row = {name: getattr(self, name) for name in FIELDS} | {"media": media, "options": list(self.options)}
        return {name: value for name, value in row.items() if value not in (None, "", [])}

    def _token(self, answer: str | None) -> str | None:
        if answer is None or not self.options:
            return answer
        letters = _letters(answer, self.options)
        if len(letters) != 1:
            raise DatasetError(
                f"the answer of sample {self.id!r} does not name one option",
                expected=f"one of {list(self.options)}, or its letter",
                got=repr(answer),
                next_step="write the option's text",
            )
        return letters.pop()


@dataclass(frozen=True, eq=False, repr=False)
class SampleCase(Case):
    """The case of a sample, which an analysis can ask for its media again; `arguments` are those of `prepare`."""

    sample: Sample | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@door
def read_manifest(path: str | Path) -> tuple[Sample, ...]:
    """The samples of a manifest (.jsonl or .csv; see the module's docstring). No media file is opened.

    Errors: `DatasetError` that counts the rows that cannot be used, and tells the first of them with their lines.

    >>> from hooked_av.tiny.samples import FOLDER
    >>> sample = read_manifest(FOLDER / "manifest.jsonl")[0]
    >>> sample.id, sample.media[0].file, sample.question, sample.answer
    ('three-and-eight-0', 'three-and-eight.mp4', 'Which digit is shown second?', 'eight')
    """
    path = Path(path)
    try:
        rows = list(_reader(path)(path))
    except UnicodeDecodeError as error:
        raise _bad_rows(path, [f"{error}; save it as UTF-8 text"]) from error
    except (csv.Error, OSError) as error:
        raise _bad_rows(path, [f"{type(error).__name__}: {error}"]) from error
    faults = [f"line {line}: {fault}" for line, row in rows for fault in _faults(row)]
    faults += _repeated(str(row["id"]) for _, row in rows if isinstance(row, dict) and row.get("id") not in (None, ""))
    if faults or not rows:
        raise _bad_rows(path, faults or ["the file holds no row"])
    return tuple(_sample(row, path.parent) for _, row in rows)


def checked_samples(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Samples that were not read from a file, held to what a manifest may say.

    Errors: `DatasetError` for what no row may hold, ids that are not unique, and no sample.
    """
    samples = tuple(samples)
    faults = [f"sample {n}: {fault}" for n, sample in enumerate(samples) for fault in _faults(sample.to_row())]
    faults += _repeated(sample.id for sample in samples)
    if faults or not samples:
        raise _bad_rows("the samples", faults or ["no sample"])
    return samples


def manifest_hash(samples: tuple[Sample, ...]) -> str:
    """A fingerprint of what a manifest says, whether it is said in JSONL or in CSV; media files are not read."""
    rows = [sample.to_row() for sample in samples]
    return sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


class _Fault(str):
    """What is wrong with a row or cell that could not even be read, in place of its value."""


# ---- Files to rows ---------------------------------------------------------------------------------------------------


def _reader(path: Path) -> Callable[[Path], Iterator[tuple[int, Any]]]:
    """What reads the rows of this file, if it is there."""
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows}
    try:
        is_file, is_there = path.is_file(), path.exists()
    except (OSError, ValueError):  # a name that no file can have
        is_file = is_there = False
    if not is_file or path.suffix.lower() not in readers:
        raise DatasetError(
            f"no such manifest: {_cut(str(path))}",
            expected="a file name.jsonl or name.csv",
            got="no file" if not is_there else "a folder" if path.is_dir() else path.suffix or "no suffix",
            next_step=f"check the path (now in {Path.cwd()})",
        )
    return readers[path.suffix.lower()]


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        raise _bad_rows(
            path, ["the file is one list: write one object a line, without brackets and commas around them"]
        )
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _from_json(line)


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        wrong = [_unknown(name) for name in header if name not in FIELDS]
        if wrong or len(set(header)) < len(header):
            raise _bad_rows(path, [f"line 1: {fault}" for fault in wrong or [f"a column stands twice: {header}"]])
        line = reader.line_num
        for cells in reader:
            if cells:
                fits = len(cells) == len(header)
                wrong = _Fault(f"expected {len(header)} cells, got {len(cells)}; quote cells that hold commas")
                yield line + 1, _csv_row(header, cells) if fits else wrong
            line = reader.line_num


def _csv_row(header: list[str], cells: list[str]) -> dict[str, Any]:
    given = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    return {name: _csv_list(cell) if name in _LISTS else _csv_number(name, cell) for name, cell in given.items()}


def _csv_number(name: str, cell: str) -> str | int:
    """A cell that is a whole number, where one belongs; a table that was written with pandas says "1.0"."""
    number = cell.removesuffix(".0")
    return int(number) if name == "queried_item" and number.isdecimal() else cell


def _csv_list(cell: str) -> Any:
    return _from_json(cell) if cell.startswith("[") else [text.strip() for text in cell.split("|")]


def _from_json(text: str) -> Any:
    """The value, or what is wrong with the text."""
    try:
        return json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return _Fault(f"expected JSON, got {text[:60]!r} ({error})")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON itself takes the last of equal names, and drops what the others say."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
        raise ValueError(f"{twice[0]!r} stands twice in one object")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


# ---- Rows to samples -------------------------------------------------------------------------------------------------


def _sample(row: Mapping[str, Any], folder: Path) -> Sample:
    """A sample from a row without faults."""
    texts = {name: row[name] for name in ("question", "answer", "alternative", "task", "group") if row.get(name)}
    media = tuple(_item(item) for item in _media(row))
    more = {"options": tuple(_list(row, "options")), "queried_item": row.get("queried_item")}
    return Sample(id=str(row["id"]), media=media, folder=folder, **more, **texts)


def _item(item: Any) -> MediaItem | str:
    if isinstance(item, str):
        return MediaItem(item)
    if "text" in item:
        return item["text"]
    stop = item.get("stop")
    return MediaItem(item["file"], float(item.get("start") or 0.0), None if stop is None else float(stop))


def _list(row: Mapping[str, Any], field: str) -> Any:
    """What a row says in this field; an empty list if it says nothing."""
    return [] if row.get(field) in (None, "") else row[field]


def _media(row: Mapping[str, Any]) -> Any:
    media = _list(row, "media")
    single = isinstance(media, (str, dict)) and not isinstance(media, _Fault)
    return [media] if single else media


def _faults(row: Any) -> Iterator[str]:
    """Everything that is wrong with a row: what, what was expected, what was got or what to do."""
    if not isinstance(row, dict):
        yield row if isinstance(row, _Fault) else f"expected an object with {', '.join(FIELDS)}, got {row!r}"
        return
    if _HALF.search("".join(_texts(row))):
        yield 'half of a character (a surrogate such as "\\ud800") in a text: write whole characters, as UTF-8'
    yield from (_unknown(name) for name in row if name not in FIELDS)
    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, (str, int)) or not str(name).strip():
        yield f"id: expected a text or whole number, got {name!r}; give every row an id"
    if not _is_text(row.get("question")):
        yield f"question: expected a text, got {row.get('question')!r}; say what is asked"
    for name in ("answer", "alternative", "task", "group"):
        if not isinstance(row.get(name), (str, type(None))):
            yield f"{name}: expected a text, got {row[name]!r}; put it in quotes"
    yield from _media_faults(_media(row))
    yield from _queried_faults(row.get("queried_item"), _media(row))
    yield from _option_faults(row, _list(row, "options"))


def _media_faults(media: Any) -> Iterator[str]:
    if not isinstance(media, list):
        yield f"media: {media if isinstance(media, _Fault) else f'expected {_MEDIA}, got {media!r}'}"
        return
    for number, item in enumerate(media):
        fault = _item_fault(item)
        if fault:
            yield f"media, item {number}: {fault}"


def _queried_faults(queried: Any, media: Any) -> Iterator[str]:
    listed = media if isinstance(media, list) else []
    files = [item for item in listed if not (isinstance(item, dict) and "text" in item)]
    is_number = isinstance(queried, int) and not isinstance(queried, bool)
    if queried is not None and not (is_number and 0 <= queried < len(files)):
        yield f"queried_item: expected a whole number below {len(files)} (the files in media), got {queried!r}"


def _item_fault(item: Any) -> str:
    if isinstance(item, dict) and set(item) == {"text"}:
        item = item["text"]
    if isinstance(item, str) and item.strip() and "\0" not in item:
        return ""
    if (
        not isinstance(item, dict)
        or not set(item) <= _ITEM_FIELDS
        or not _is_text(item.get("file"))
        or "\0" in item["file"]
    ):
        return f"expected {_MEDIA}, got {item!r}"
    start, stop = item.get("start", 0.0), item.get("stop")
    if not _is_number(start) or not start >= 0 or (stop is not None and not (_is_number(stop) and stop > start)):
        return f"expected seconds with 0 <= start < stop, got start={start!r}, stop={stop!r}; no stop means the end"
    return ""


def _option_faults(row: Mapping[str, Any], options: Any) -> Iterator[str]:
    if not isinstance(options, list) or not all(map(_is_text, options)):
        wrong = f"expected a list of texts, got {options!r}; put numbers in quotes"
        yield f"options: {options if isinstance(options, _Fault) else wrong}"
        return
    if options and not 2 <= len(set(options)) == len(options) <= len(ascii_uppercase):
        yield f"options: expected none, or 2 to 26 different texts, got {options!r}"
        return
    for name in ("answer", "alternative"):
        if options and _is_text(row.get(name)) and len(_letters(row[name], options)) != 1:
            yield f"{name}: expected one of {options}, or its letter, got {row[name]!r}; write the option's text"


def _letters(answer: str, options: Any) -> set[str]:
    """The letters of the options that an answer can mean: one if it is an option or a letter, two if it is both."""
    letters = dict(zip(ascii_uppercase, options, strict=False))
    return {letter for letter, option in letters.items() if answer in (letter, option)}


def _repeated(ids: Iterable[str]) -> list[str]:
    counts = Counter(ids)
    return [f"id {name!r} stands {n} times: expected an id of its own" for name, n in counts.items() if n > 1]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _texts(value: Any) -> Iterator[str]:
    """All texts in a row, and the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts(item)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."


def _unknown(name: str) -> str:
    return f"unknown field {name!r}: expected {nearest(name, FIELDS)}; what you want to keep can go into task or group"


def _bad_rows(path: Path | str, faults: list[str]) -> DatasetError:
    more = [f"and {len(faults) - _SHOWN:,} more"] if len(faults) > _SHOWN else []
    return DatasetError(
        f"{path} cannot be used",
        expected=f"rows with {', '.join(FIELDS)}",
        got="\n    ".join([f"{len(faults):,} fault{'s' * (len(faults) != 1)}", *map(_cut, faults[:_SHOWN]), *more]),
        next_step="mend or remove these rows; nothing has been run",
    )
