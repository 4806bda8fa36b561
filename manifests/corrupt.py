"""Files of a lake that cannot be read as what they must be: one error that names the file and says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests import schemas

REMEDIES = (
    (
        r"recordings/.*",
        "bring it back from a copy; or delete it and ingest its sound again, which makes a new batch of its recordings",
    ),
    (r"annotations/.*", "delete it and run `speechmill annotate` again, which measures its recordings anew"),
    (r"selections/.*", "delete it and run `speechmill select` again, which writes it anew"),
    (
        r"datasets/(?P<name>[^/]+)/(windows|products)/(?P<folder>.+)-(?P<number>\d+)\.parquet",
        "delete datasets/{name}/commits/{folder}/{number}.json and run `speechmill encode` again, which makes that "
        "shard anew",
    ),
    (
        r"datasets/(?P<name>[^/]+)/(?P<folder>[^/]+)/(cuts|latents)\.(?P<number>\d+)\..*",
        "delete datasets/{name}/commits/{folder}/{number}.json and run `speechmill encode` again, which makes that "
        "shard anew",
    ),
    (r"datasets/[^/]+/commits/.*", "delete it and run `speechmill encode` again, which makes that shard anew"),
    (r"datasets/[^/]+/plan\.json", "delete it and run `speechmill encode` again, which writes it anew"),
    (r"datasets/.*", "run `speechmill encode` again, which writes it anew"),
    (r"matches/.*", "delete it and run `speechmill annotate` again, which makes it anew"),
    (r"runs/.*", "delete it and run the same command again"),
)
"""What to do about a damaged file, by the pattern that its key matches first."""


class CorruptFileError(OSError):
    """A file of the lake that is damaged, or that is missing although another file says that it was written."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """Without `remedy` only where it is unpickled: it follows then."""
        super().__init__(message)
        self.remedy = remedy
        self.key = self.what = ""

    @classmethod
    def of(cls, key: str, what: object) -> CorruptFileError:
        """The error for `key`; of `what` is wrong with it the first line is told."""
        told = (str(what).splitlines() or ["is damaged"])[0]
        made = cls(f"{key}: {told}", remedy_of(key))
        made.key, made.what = key, told
        return made


def remedy_of(key: str) -> str:
    """What brings a damaged or missing file back."""
    for pattern, remedy in REMEDIES:
        if match := re.fullmatch(pattern, key):
            return remedy.format(**match.groupdict())
    return "bring it back from a copy"


def schema_of(key: str) -> pa.Schema | None:
    """The schema of the Parquet files of that kind; None where any is allowed."""
    folder, _, file = key.partition("/")
    if folder == "recordings":
        return schemas.RECORDINGS
    if folder == "labels":
        return schemas.CHANGES
    if folder == "removed":
        return schemas.REMOVED
    if folder == "annotations":
        return schemas.STAGES.get(file.partition("/")[0].rpartition("-")[0])
    name = file.partition("/")[2]
    if folder == "matches":
        return schemas.MATCHES if name.startswith("batch-") else None
    kinds = {
        "selections": {"windows-": schemas.WINDOWS, "verdicts-": schemas.VERDICTS},
        "datasets": {
            "windows/": schemas.SHARD_WINDOWS,
            "products/": schemas.PRODUCTS,
            "ledger.": schemas.LEDGER,
            "shards.": schemas.SHARDS,
        },
    }
    return next((schema for start, schema in kinds.get(folder, {}).items() if name.startswith(start)), None)


def parse_parquet(key: str, data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a file's bytes, each page held against its checksum. Raises CorruptFileError."""
    schema = schema_of(key)
    try:
        # Not read_table: it takes twice as long. One thread: pyarrow 26 may abort a process soon after a threaded read.
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            if schema is not None and not file.schema_arrow.equals(schema):
                raise CorruptFileError.of(key, difference(file.schema_arrow, schema))
            return file.read(None if columns is None else list(columns), use_threads=False)
    except (MemoryError, CorruptFileError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # Thrift's errors arrive as OSError
        raise CorruptFileError.of(key, f"cannot be read: {error}") from error


def parse_json(key: str, data: bytes, names: Sequence[str] = ()) -> dict[str, Any]:
    """The object that a file of JSON holds. Raises CorruptFileError where it is none, or lacks one of `names`."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise CorruptFileError.of(key, f"is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CorruptFileError.of(key, "is not a JSON object")
    for name in names:
        if name not in found:
            raise CorruptFileError.of(key, f"says nothing of {name}")
    return found


def difference(found: pa.Schema, schema: pa.Schema) -> str:
    """The first column in which a file's schema differs from the one that it must have."""
    for column in schema:
        position = found.get_field_index(column.name)
        if position < 0:
            return f"has no column {column.name}"
        if not found.field(position).equals(column):
            return f"column {column.name} is {found.field(position).type}, not {column.type}"
    extra = [name for name in found.names if name not in schema.names]
    return f"has a column {extra[0]} that is not known" if extra else "has its columns in another order"


_opened: ContextVar[Callable[[], object] | None] = ContextVar("opened", default=None)


def opened(read_all: Callable[[], object]) -> None:
    """Remember how every file is read that DuckDB is given from here on."""
    _opened.set(read_all)


def damaged(error: BaseException) -> CorruptFileError | None:
    """The damaged file because of which DuckDB raised `error`, if that is why.

    DuckDB's errors mostly name none, and it does not compare the checksums of pages: the files that it was given last
    are read one by one.
    """
    import duckdb

    mistakes = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.PermissionException)
    read_all = _opened.get()
    if read_all is None or not isinstance(error, duckdb.Error) or isinstance(error, mistakes):
        return None
    try:
        read_all()
    except CorruptFileError as damage:
        return damage
    return None
