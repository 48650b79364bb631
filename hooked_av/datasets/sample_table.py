"""The table of one sample as a Parquet file, which says whose it is and what made it; all of it has checksums."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hooked_av.analyses.result_files import plain_value
from hooked_av.errors import DatasetError

Table = Any  # a pa.Table; pyarrow has no types
RESULT = b"hooked_av.result"  # settings of the result itself
_MADE_BY, _SAMPLE = b"hooked_av.made_by", b"hooked_av.sample"
_CHECKSUM = b"hooked_av.checksum"  # of what the end of the file says; each page of values has one by Parquet itself


@dataclass(frozen=True)
class SampleTable:
    """Where the table of a sample belongs; `made_by` is a fingerprint of its folder's settings."""

    path: Path
    sample: str
    made_by: bytes

    def write(self, table: Table, path: Path) -> None:
        """Write it under another name first."""
        mine = {_MADE_BY: self.made_by, _SAMPLE: self.sample.encode()}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **mine})
        table = table.replace_schema_metadata({**table.schema.metadata, _CHECKSUM: _checksum(table.schema)})
        pq.write_table(table, path, row_group_size=max(1, len(table)), write_page_checksum=True)

    def fault(self) -> str:
        """What is wrong with the file, as far as its end tells; nothing if it is the table that belongs here."""
        try:
            schema = pq.read_schema(self.path)
        except (OSError, ValueError, pa.ArrowException) as error:
            return f"no whole table ({type(error).__name__}: {error})"
        about = schema.metadata or {}
        if about.get(_MADE_BY) != self.made_by:
            return "not made with the settings of its folder"
        if about.get(_SAMPLE) != self.sample.encode():
            other = about.get(_SAMPLE, b"?").decode(errors="replace")
            return f"the table of sample {other!r} in the place of {self.sample!r}"
        if about.get(_CHECKSUM) != _checksum(schema):
            return "damaged: the names of its columns, or its settings, are not those that were written"
        return ""

    def schema(self) -> Any:
        """Its columns and what it says of itself."""
        return pq.read_schema(self.path)

    def read(self) -> Table:
        """All of it.

        Errors: `DatasetError` for a table that was damaged after it was written.
        """
        try:
            return pq.ParquetFile(self.path, page_checksum_verification=True).read()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise unusable([f"{self.path}: damaged ({type(error).__name__}: {error})"]) from error


def _checksum(schema: Any) -> bytes:
    """Of names, types and all else that a schema says."""
    about = sorted((name, text) for name, text in (schema.metadata or {}).items() if name != _CHECKSUM)
    return sha256(repr([[(field.name, str(field.type)) for field in schema], about]).encode()).hexdigest().encode()


def as_table(frame: pd.DataFrame, settings: Mapping[str, Any]) -> Table:
    """A result's table, with the settings of the result."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return table.replace_schema_metadata({RESULT: json.dumps(dict(settings), default=plain_value).encode()})


def unusable(faults: list[str]) -> DatasetError:
    """The error for files of a folder that are not what they should be: which, and what to do."""
    shown = [fault if len(fault) <= 400 else f"{fault[:400]}..." for fault in faults[:5]]
    more = [f"and {len(faults) - len(shown)} more"] if len(faults) > len(shown) else []
    one = len(faults) == 1
    return DatasetError(
        f"{'a file' if one else f'{len(faults)} files'} of this folder of results cannot be used",
        expected="what a run has written there",
        got="\n    ".join([*shown, *more]),
        next_step=f"delete {'it' if one else 'them'} and run the same again: only what is missing is done anew",
    )
