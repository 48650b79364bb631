"""A folder of results that survives `kill -9`: one small Parquet file a sample, which appears whole or not at all.

    settings.json            what made the results, and the ids of all samples; never changed once there is a result
    samples/000012.parquet   the table of the sample with this place in the manifest (from 0); it says whose it is
    failed/000007.json       why a sample has none; delete it, and the next run tries again
    results.parquet          made by `merge`: all tables, one row group a sample
    failed.csv               made by `merge`: all failures, with their reasons

A file is written under another name and renamed when it is complete, so several runs can share a folder. Ids are in
no file name: they may be anything.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hooked_av.datasets.sample_table import RESULT, SampleTable, Table, unusable
from hooked_av.datasets.settings_file import (
    FAILED_FOLDER,
    SETTINGS,
    check_settings,
    holds_results,
    not_ours,
    plain,
    read_settings,
    settled,
)
from hooked_av.datasets.whole_files import appearing, writing
from hooked_av.errors import DatasetError
from hooked_av.whole_files import parts_left

RESULTS, FAILED, SAMPLES_FOLDER = "results.parquet", "failed.csv", "samples"
_RUN = b"hooked_av.settings"
_SHOWN = 10


@dataclass(frozen=True)
class Failure:
    """A sample without results, and why."""

    sample: str
    task: str
    group: str
    kind: str  # the error's type
    reason: str
    trace: str = ""  # of an error that is not one of ours


@dataclass(frozen=True)
class ResultsFolder:
    """A folder whose settings are known to fit."""

    path: Path
    settings: Mapping[str, Any]

    @classmethod
    def begin(cls, path: str | Path, settings: Mapping[str, Any]) -> "ResultsFolder":
        """The folder for these settings, made if it is not there.

        Errors: `DatasetError` that names each difference, if it holds results of other settings.
        """
        found = cls(Path(path), settled(Path(path), settings))
        for folder in (SAMPLES_FOLDER, FAILED_FOLDER):
            with writing(found.path / folder):
                (found.path / folder).mkdir(exist_ok=True)
        return found

    @classmethod
    def find(cls, path: str | Path, settings: Mapping[str, Any]) -> "ResultsFolder | None":
        """The folder, if it holds results of these settings; None where it can be begun. Nothing is made or changed.

        Errors: those of `begin`, and `DatasetError` that names the files that are not what they should be.
        """
        check_settings(Path(path), plain(settings))
        if not (Path(path) / SETTINGS).exists() or not holds_results(Path(path)):
            return None
        found = cls.read(path)
        found.check()
        return found

    @classmethod
    def read(cls, path: str | Path) -> "ResultsFolder":
        """A folder that is there.

        Errors: `DatasetError` for any other folder.
        """
        settings = read_settings(Path(path))
        ids = settings.get("samples")
        if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            raise not_ours(Path(path), f"a {SETTINGS} without the ids of its samples: one of a study, or damaged")
        return cls(Path(path), settings)

    def check(self) -> None:
        """Whether every table is whole, in its place, and made with the settings of the folder.

        Errors: `DatasetError` that names the files.
        """
        tables = ((path, self._table(place).fault()) for place, path in self._files(SAMPLES_FOLDER, ".parquet").items())
        faults = [f"{path}: {fault}" for path, fault in tables if fault]
        if faults:
            raise unusable(faults)

    def finished(self) -> set[int]:
        """Places of the samples that have results."""
        return set(self._files(SAMPLES_FOLDER, ".parquet"))

    def failures(self) -> dict[int, Failure]:
        """Places and reasons of the samples that failed, and have not succeeded since.

        Errors: `DatasetError` that names the files that cannot be read.
        """
        finished = self.finished()
        files = {place: path for place, path in self._files(FAILED_FOLDER, ".json").items() if place not in finished}
        read = {place: self._failure(place, path) for place, path in files.items()}
        faults = [f"{files[place]}: {found}" for place, found in read.items() if isinstance(found, str)]
        if faults:
            raise unusable(faults)
        return {place: found for place, found in read.items() if isinstance(found, Failure)}

    def keep(self, place: int, table: Table) -> None:
        """Store a sample's table."""
        mine = self._table(place)
        with appearing(mine.path) as part:
            mine.write(table, part)

    def fail(self, place: int, failure: Failure) -> None:
        """Store why a sample has no results."""
        text = json.dumps(vars(failure), ensure_ascii=False)
        with appearing(self.path / FAILED_FOLDER / f"{place:06d}.json") as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")  # JSON writes halves of characters so

    def merge(self, allow_missing: bool) -> Path:
        """See `datasets.merge`."""
        self.check()
        finished, failures, ids = self.finished(), self.failures(), self.settings["samples"]
        missing = [name for place, name in enumerate(ids) if place not in finished and place not in failures]
        if (missing and not allow_missing) or not finished:
            raise _missing(self.path, missing, len(finished), len(failures))
        with appearing(self.path / RESULTS) as part:
            self._join([self._table(place) for place in sorted(finished)], part)
        self._list(failures.values())
        with writing(self.path / SAMPLES_FOLDER):
            for place in finished:  # what runs that were killed have left behind
                for left in parts_left(self._table(place).path):
                    left.unlink(missing_ok=True)
        return self.path / RESULTS

    def _list(self, failures: Iterable[Failure]) -> None:
        """All failures, without their traces."""
        columns = [field.name for field in fields(Failure) if field.name != "trace"]
        with (
            appearing(self.path / FAILED) as part,
            part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows(map(vars, failures))

    def _join(self, tables: list[SampleTable], target: Path) -> None:
        """One row group a sample, one table in memory at a time."""
        schemas = [table.schema() for table in tables]
        try:
            joint = pa.unify_schemas([schema.remove_metadata() for schema in schemas], promote_options="permissive")
        except pa.ArrowException as error:
            raise _unlike(self.path, error) from error
        made_by = {_RUN: self.settings, RESULT: _shared(json.loads(schema.metadata[RESULT]) for schema in schemas)}
        joint = joint.with_metadata({name: json.dumps(settings).encode() for name, settings in made_by.items()})
        with pq.ParquetWriter(target, joint) as writer:
            for one in tables:
                table = one.read()
                columns = [_column(table, field).cast(field.type) for field in joint]
                writer.write_table(pa.Table.from_arrays(columns, schema=joint), row_group_size=max(1, len(table)))

    def _files(self, folder: str, suffix: str) -> dict[int, Path]:
        """Files by the place of their sample, in order.

        Errors: `DatasetError` for names that are no sample's, and for folders in the place of files.
        """
        paths = sorted(path for path in (self.path / folder).glob(f"*{suffix}") if not path.name.startswith("."))
        known = {f"{place:06d}{suffix}": place for place in range(len(self.settings["samples"]))}
        wrong = [path for path in paths if path.name not in known or not path.is_file()]
        if wrong:
            of = f"no place among the {len(known)} samples of this folder"
            raise unusable([f"{path}: {'a folder' if path.is_dir() else of}" for path in wrong])
        return {known[path.name]: path for path in paths}

    def _failure(self, place: int, path: Path) -> Failure | str:
        """A failure, or what is wrong with its file."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            return f"{type(error).__name__}: {error}"
        known, needed = ({field.name for field in fields(Failure)[:n]} for n in (None, -1))
        if (
            not isinstance(found, dict)
            or not needed <= found.keys() <= known
            or set(map(type, found.values())) != {str}
        ):
            return "not what a run has written"
        mine = self.settings["samples"][place]
        return (
            Failure(**found) if found["sample"] == mine else f"of sample {found['sample']!r} in the place of {mine!r}"
        )

    def _table(self, place: int) -> SampleTable:
        path = self.path / SAMPLES_FOLDER / f"{place:06d}.parquet"
        return SampleTable(path, self.settings["samples"][place], self._mark)

    @cached_property
    def _mark(self) -> bytes:
        """A fingerprint of the folder's settings."""
        return sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16].encode()


def read_merged(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table that `merge` made, and the settings that all results in it share.

    Errors: `DatasetError` for any other file.
    """
    path = Path(path)
    try:
        table = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise _not_merged(path, f"{type(error).__name__}: {error}") from error
    if not {_RUN, RESULT} <= (table.schema.metadata or {}).keys():
        raise _not_merged(path, "a table without the settings of its results")
    return table.replace_schema_metadata().to_pandas(), json.loads(table.schema.metadata[RESULT])


def _shared(settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of them say alike."""
    first, *others = settings
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _not_merged(path: Path, got: str) -> DatasetError:
    return DatasetError(
        f"no merged table: {path}",
        expected="the results.parquet that av.datasets.merge has made",
        got=got,
        next_step="av.datasets.merge(folder) returns its path",
    )


def _unlike(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"the tables in {path / SAMPLES_FOLDER} cannot be joined",
        expected="the same kind of value in a column of every sample",
        got=f"{type(error).__name__}: {error}",
        next_step="let the analysis give every column one type, and run it into another folder",
    )


def _missing(path: Path, missing: list[str], n_finished: int, n_failed: int) -> DatasetError:
    shown = ", ".join(name[:80] for name in missing[:_SHOWN])
    shown += f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
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
