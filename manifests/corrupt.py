"""Damaged files of a lake: one error type, which names the file and how to restore it."""

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
        "restore it from a backup; or delete it and ingest its audio again, which makes a new batch of its recordings",
    ),
    (r"annotations/.*", "delete it and run `speechmill annotate` again, which measures its recordings again"),
    (r"selections/.*", "delete it and run `speechmill select` again, which writes it again"),
    (
        r"datasets/(?P<name>[^/]+)/(windows|products)/(?P<folder>.+)-(?P<number>\d+)\.parquet",
        "delete datasets/{name}/commits/{folder}/{number}.json and run `speechmill encode` again, which makes that "
        "shard again",
    ),
    (
        r"datasets/(?P<name>[^/]+)/(?P<folder>[^/]+)/(cuts|latents)\.(?P<number>\d+)\..*",
        "delete datasets/{name}/commits/{folder}/{number}.json and run `speechmill encode` again, which makes that "
        "shard again",
    ),
    (r"datasets/[^/]+/commits/.*", "delete it and run `speechmill encode` again, which makes that shard again"),
    (r"datasets/[^/]+/plan\.json", "delete it and run `speechmill encode` again, which writes it again"),
    (r"datasets/.*", "run `speechmill encode` again, which writes it again"),
    (r"matches/.*", "delete it and run `speechmill annotate` again, which makes it again"),
    (r"runs/.*", "delete it and run the same command again"),
)
"""How to restore a damaged file, by the first pattern that its key matches."""


class CorruptFileError(OSError):
    """A file of the lake is damaged, or it is missing although another file says that it was written."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """`remedy` is left out only by unpickling, which sets it afterwards."""
        super().__init__(message)
        self.remedy = remedy
        self.key = self.what = ""

    @classmethod
    def of(cls, key: str, what: object) -> CorruptFileError:
        """Make the error for the file `key`; its message has the first line of `what`."""
        first_line = (str(what).splitlines() or ["is damaged"])[0]
        error = cls(f"{key}: {first_line}", remedy_of(key))
        error.key, error.what = key, first_line
        return error


def remedy_of(key: str) -> str:
    """How to restore a damaged or missing file."""
    for pattern, remedy in REMEDIES:
        if match := re.fullmatch(pattern, key):
            return remedy.format(**match.groupdict())
    return "restore it from a backup"


def schema_of(key: str) -> pa.Schema | None:
    """The schema that the Parquet file `key` must have; None if any is allowed."""
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
    """Parse a Parquet file, and compare the checksum of each page. Raises CorruptFileError."""
    schema = schema_of(key)
    try:
        # `read_table` would take twice as long. pyarrow 26 may abort a process soon after a read with several threads.
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            if schema is not None and not file.schema_arrow.equals(schema):
                raise CorruptFileError.of(key, difference(file.schema_arrow, schema))
            return file.read(None if columns is None else list(columns), use_threads=False)
    except (MemoryError, CorruptFileError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # errors of Thrift are raised as OSError
        raise CorruptFileError.of(key, f"cannot be read: {error}") from error


def parse_json(key: str, data: bytes, names: Sequence[str] = ()) -> dict[str, Any]:
    """Parse a JSON object. Raises CorruptFileError for any other content, and if one of `names` is missing."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CorruptFileError.of(key, f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CorruptFileError.of(key, "is not a JSON object")
    for name in names:
        if name not in value:
            raise CorruptFileError.of(key, f"has no key {name!r}")
    return value


def difference(found: pa.Schema, schema: pa.Schema) -> str:
    """Describe the first column in which the schema of a file differs from the one that it must have."""
    for column in schema:
        position = found.get_field_index(column.name)
        if position < 0:
            return f"has no column {column.name}"
        if not found.field(position).equals(column):
            return f"column {column.name} is {found.field(position).type}, not {column.type}"
    extra = [name for name in found.names if name not in schema.names]
    return f"has a column {extra[0]} that is unknown" if extra else "has its columns in another order"


_opened: ContextVar[Callable[[], object] | None] = ContextVar("opened", default=None)


def opened(read_all: Callable[[], object]) -> None:
    """Register the function that reads every file which DuckDB is given from now on; `damaged` calls it."""
    _opened.set(read_all)


def damaged(error: BaseException) -> CorruptFileError | None:
    """The error of the damaged file that made DuckDB raise `error`; None if no file is damaged.

    Most errors of DuckDB name no file, and DuckDB does not compare the checksums of pages. Therefore the registered
    files are read one by one.
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
