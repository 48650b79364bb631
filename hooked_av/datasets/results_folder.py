"""A folder of results that survives `kill -9`: one small Parquet file a sample, which appears whole or not at all.

    settings.json            what made the results, and the ids of all samples; never changed once it is there
    samples/000012.parquet   the table of the sample with this place in the manifest (from 0)
    failed/000007.json       why a sample has none; delete it, and the next run tries again
    results.parquet          made by `merge`: all tables, one row group a sample
    failed.csv               made by `merge`: all failures, with their reasons

A file is written under another name and renamed when it is complete, so several runs can share a folder.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hooked_av.analyses.results import plain_value
from hooked_av.errors import DatasetError

SETTINGS, RESULTS, FAILED = "settings.json", "results.parquet", "failed.csv"
SAMPLES_FOLDER, FAILED_FOLDER = "samples", "failed"
_MADE_BY, _RUN, _RESULT = b"hooked_av.made_by", b"hooked_av.settings", b"hooked_av.result"
_SHOWN = 10


@dataclass(frozen=True)
class Failure:
    """A sample without results, and why."""

    sample: str
    task: str
    group: str
    kind: str  # the error's type
    reason: str


@dataclass(frozen=True)
class ResultsFolder:
    """A folder whose settings are known to fit."""

    path: Path
    settings: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path, settings: Mapping[str, Any]) -> "ResultsFolder":
        """The folder for these settings, made if it is not there.

        Errors: `DatasetError` that names each difference, if it was begun with other settings.
        """
        found = cls(Path(path), settled(path, settings))
        for folder in (SAMPLES_FOLDER, FAILED_FOLDER):
            (found.path / folder).mkdir(exist_ok=True)
        return found

    @classmethod
    def read(cls, path: str | Path) -> "ResultsFolder":
        """A folder that is there.

        Errors: `DatasetError` for any other folder.
        """
        path = Path(path)
        if not (path / SETTINGS).is_file():
            raise _not_ours(path, "no settings.json" if path.exists() else "nothing there")
        return cls(path, json.loads((path / SETTINGS).read_text(encoding="utf-8")))

    def finished(self) -> set[int]:
        """Places of the samples that have results."""
        return {int(path.stem) for path in (self.path / SAMPLES_FOLDER).glob("[0-9]*.parquet")}

    def failures(self) -> dict[int, Failure]:
        """Places and reasons of the samples that failed, and have not succeeded since."""
        places = {int(path.stem): path for path in (self.path / FAILED_FOLDER).glob("[0-9]*.json")}
        return {
            place: Failure(**json.loads(places[place].read_text(encoding="utf-8")))
            for place in sorted(places.keys() - self.finished())
        }

    def keep(self, place: int, frame: pd.DataFrame, settings: Mapping[str, Any]) -> None:
        """Store a sample's table; `settings` are those of its own result."""
        table = pa.Table.from_pandas(frame, preserve_index=False)
        result = json.dumps(dict(settings), default=plain_value).encode()
        table = table.replace_schema_metadata({_MADE_BY: self._mark(), _RESULT: result})
        with _appearing(self._sample(place)) as part:
            pq.write_table(table, part, row_group_size=len(table))

    def fail(self, place: int, failure: Failure) -> None:
        """Store why a sample has no results."""
        with _appearing(self.path / FAILED_FOLDER / f"{place:06d}.json") as part:
            part.write_text(json.dumps(vars(failure), ensure_ascii=False), encoding="utf-8")

    def merge(self, allow_missing: bool) -> Path:
        """See `datasets.merge`."""
        finished, failures, ids = self.finished(), self.failures(), self.settings["samples"]
        missing = [name for place, name in enumerate(ids) if place not in finished and place not in failures]
        if (missing and not allow_missing) or not finished:
            raise _missing(self.path, missing, len(finished), len(failures))
        paths = [self._sample(place) for place in sorted(finished)]
        with _appearing(self.path / RESULTS) as part:
            self._join(paths, part)
        with _appearing(self.path / FAILED) as part:
            pd.DataFrame(map(vars, failures.values()), columns=list(Failure.__annotations__)).to_csv(part, index=False)
        for place in finished:  # what runs that were killed have left behind
            for left in (self.path / SAMPLES_FOLDER).glob(f".{place:06d}.*.part"):
                left.unlink(missing_ok=True)
        return self.path / RESULTS

    def _join(self, paths: list[Path], target: Path) -> None:
        """One row group a sample, one table in memory at a time."""
        schemas = [pq.read_schema(path) for path in paths]
        for path, schema in zip(paths, schemas, strict=True):
            if (schema.metadata or {}).get(_MADE_BY) != self._mark():
                raise DatasetError(
                    f"{path} was not made with the settings of its folder",
                    expected=f"a table made with {self.path / SETTINGS}",
                    got="a table of another run",
                    next_step="remove it, and run its sample again",
                )
        joint = pa.unify_schemas([schema.remove_metadata() for schema in schemas], promote_options="permissive")
        made_by = {_RUN: self.settings, _RESULT: _shared(json.loads(schema.metadata[_RESULT]) for schema in schemas)}
        joint = joint.with_metadata({name: json.dumps(settings).encode() for name, settings in made_by.items()})
        with pq.ParquetWriter(target, joint) as writer:
            for path in paths:
                table = pq.read_table(path)
                columns = [_column(table, field).cast(field.type) for field in joint]
                writer.write_table(pa.Table.from_arrays(columns, schema=joint), row_group_size=len(table))

    def _sample(self, place: int) -> Path:
        return self.path / SAMPLES_FOLDER / f"{place:06d}.parquet"

    def _mark(self) -> bytes:
        """A fingerprint of the folder's settings."""
        return sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16].encode()


def read_merged(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table that `merge` made, and the settings that all results in it share.

    Errors: `DatasetError` for any other file.
    """
    path = Path(path)
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _not_merged(path, f"{type(error).__name__}: {error}") from error
    if _RESULT not in (table.schema.metadata or {}):
        raise _not_merged(path, "a table without the settings of its results")
    return table.replace_schema_metadata().to_pandas(), json.loads(table.schema.metadata[_RESULT])


def _shared(settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of them say alike."""
    first, *others = settings
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def settled(path: str | Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A folder for results of these settings, made if it is not there; what its settings.json says.

    Errors: `DatasetError` that names each difference, if it was begun with other settings.
    """
    path, settings = Path(path), json.loads(json.dumps(settings, default=plain_value))
    if path.exists() and not path.is_dir():
        raise _not_ours(path, "a file")
    path.mkdir(parents=True, exist_ok=True)
    if any(path.glob("[!.]*")) and not (path / SETTINGS).exists():  # in this order: another run may begin it now
        raise _not_ours(path, "a folder with other things in it")
    _settle(path / SETTINGS, settings)
    begun = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    _check_same(path, begun, settings)
    return begun


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A name to write to; when the block ends well, the file stands under `path`, complete and on the disk."""
    part = path.with_name(f".{path.stem}.{uuid4().hex}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _settle(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings, unless they are there: of several runs that begin at once, one writes them."""
    part = path.with_name(f".{path.stem}.{uuid4().hex}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(settings, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # unlike a rename, it fails where the name is taken
    except FileExistsError:
        pass
    except OSError:  # a disk without hard links: there, two runs that begin in the same instant do not see each other
        if not path.exists():
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _check_same(path: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    begun, now = _flat(begun), _flat(now)
    differ = [name for name in {**begun, **now} if begun.get(name) != now.get(name)]
    if not differ:
        return
    named = [name for name in differ if name != "samples"] or differ  # other ids make another manifest anyway
    raise DatasetError(
        f"{path} was begun with other settings",
        expected=", ".join(f"{name}={begun.get(name)!r}" for name in named),
        got=", ".join(f"{name}={now.get(name)!r}" for name in named),
        next_step="take another folder for these settings; to begin anew, remove this one",
    )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of the analysis and of the prompts as `arguments.width`, each by itself."""
    nested = [name for name, value in settings.items() if isinstance(value, dict)]
    inner = {f"{name}.{key}": value for name in nested for key, value in settings[name].items()}
    return {name: value for name, value in settings.items() if name not in nested} | inner


def _not_ours(path: Path, got: str) -> DatasetError:
    return DatasetError(
        f"no folder of results: {path}",
        expected="a folder of earlier results, or a new one",
        got=got,
        next_step="check the path",
    )


def _not_merged(path: Path, got: str) -> DatasetError:
    return DatasetError(
        f"no merged table: {path}",
        expected="the results.parquet that av.datasets.merge has made",
        got=got,
        next_step="av.datasets.merge(folder) returns its path",
    )


def _missing(path: Path, missing: list[str], n_finished: int, n_failed: int) -> DatasetError:
    shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
    return DatasetError(
        f"{path} is not complete" if missing else f"{path} holds no results",
        expected="results, or a failure, for every sample",
        got=f"{n_finished} finished, {n_failed} failed, {len(missing)} missing{': ' * bool(missing)}{shown}",
        next_step="run the shards that are missing (or merge what there is with allow_missing)",
    )


def _column(table: Any, field: Any) -> Any:  # of pyarrow, which has no types
    """A sample's column; nulls where only other samples have it."""
    if field.name in table.column_names:
        return table[field.name]
    return pa.chunked_array([pa.nulls(len(table), field.type)])
