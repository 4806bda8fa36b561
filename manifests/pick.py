"""Pick recordings of a lake by id, name, source, an SQL condition, or the rows of a file."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.choice import choose
from manifests.lake import Lake
from manifests.sql import read_only
from manifests.view_columns import parts_needed
from manifests.views import open_views

KEYS = ("recording_id", "uri", "pattern")
"""Columns by which a file can name recordings."""
ROWS = 10_000
"""Rows of a file that are held in memory at a time."""
Row = dict[str, Any]


class PickError(ValueError):
    """The request does not name recordings; `remedy` says how to name them."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True)
class Criteria:
    """A request for recordings: they must meet all criteria, and of several ids or patterns any one."""

    ids: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    """Names, or patterns in which `*` stands for any characters, including '/'."""
    source: str | None = None
    where: str | None = None
    """An SQL condition over the view `recordings`."""
    file: str | None = None
    """A CSV, JSON Lines or Parquet file with one of the columns KEYS."""

    def __bool__(self) -> bool:
        return any(vars(self).values())


def pick(lake: Lake, criteria: Criteria) -> duckdb.DuckDBPyConnection:
    """Find the requested recordings.

    Returns:
        A connection with the views of the lake and three tables: `picked` (recording_id) has the recordings; `labelled`
        (recording_id, name, value) has the values that the file gives them in its other columns; and `unmatched` (key)
        has the keys in the file that name no recording.

    Raises:
        PickError: Nothing is requested, the lake has no recordings, or the file cannot be read. `where` raises the
            errors of `manifests.sql.ask`.
    """
    if not criteria:
        raise PickError("no recordings are named", "name some: ID, --uri, --source, --where or --from")
    if next(lake.batches(), None) is None:
        raise PickError(f"there are no recordings in {lake.storage.root}", "check the name of the lake")
    connection = open_views(lake, choose(lake), parts_needed(f"{criteria.where} recordings") if criteria.where else ())
    _load(connection, criteria.file)
    conditions = ["true"]
    values: dict[str, Any] = {}
    if criteria.ids:
        conditions.append("recording_id IN (SELECT unnest($ids))")
        values["ids"] = list(criteria.ids)
    if criteria.uris:
        conditions.append(
            "len(list_filter(uris, lambda u: len(list_filter($uris, lambda p: u = p OR u GLOB p)) > 0)) > 0"
        )
        values["uris"] = list(criteria.uris)
    if criteria.source is not None:
        conditions.append("source = $source")
        values["source"] = criteria.source
    if criteria.where:
        conditions.append(
            f"recording_id IN ({read_only(connection, f'SELECT recording_id FROM recordings WHERE {criteria.where}')})"
        )
    if criteria.file:
        conditions.append("recording_id IN (SELECT recording_id FROM matched)")
    connection.execute(
        f"CREATE TABLE picked AS SELECT DISTINCT recording_id FROM batches WHERE {' AND '.join(conditions)}", values
    )
    return connection


def _load(connection: duckdb.DuckDBPyConnection, file: str | None) -> None:
    """Create the tables `matched`, `labelled` and `unmatched` from a file; they are empty without one."""
    connection.execute("CREATE TABLE rows_of_file (line BIGINT, kind VARCHAR, key VARCHAR)")
    connection.execute("CREATE TABLE cells (line BIGINT, name VARCHAR, value VARCHAR)")
    numbered = enumerate(_rows(file), 1) if file else iter(())
    while chunk := list(itertools.islice(numbered, ROWS)):
        keys = [(line, *_key_of(row, f"{file}, row {line}")) for line, row in chunk]
        cells = [
            (line, name, text) for line, row in chunk for name, value in row.items()
            if name not in KEYS and (text := _text(value))
        ]  # fmt: skip
        for table, columns, rows in (
            ("rows_of_file", ("line", "kind", "key"), keys),
            ("cells", ("line", "name", "value"), cells),
        ):
            kinds = [pa.int64(), pa.string(), pa.string()]
            arrays = [pa.array([row[n] for row in rows], kind) for n, kind in enumerate(kinds)]
            connection.register("part", pa.table(arrays, names=list(columns)))
            connection.execute(f"INSERT INTO {table} FROM part")
    named = "(SELECT recording_id, unnest(uris) AS uri FROM batches)"
    connection.execute(
        "CREATE TABLE matched AS "
        "SELECT line, recording_id FROM rows_of_file JOIN batches ON recording_id = key WHERE kind = 'recording_id' "
        f"UNION SELECT line, recording_id FROM rows_of_file JOIN {named} ON uri = key WHERE kind = 'uri' "
        f"UNION SELECT line, recording_id FROM rows_of_file JOIN {named} ON uri GLOB key WHERE kind = 'pattern'"
    )
    connection.execute(
        "CREATE TABLE labelled AS SELECT DISTINCT recording_id, name, value FROM matched JOIN cells USING (line)"
    )
    connection.execute("CREATE TABLE unmatched AS SELECT key FROM rows_of_file ANTI JOIN matched USING (line)")


def _key_of(row: Row, where: str) -> tuple[str, str]:
    keys = [(kind, _text(row[kind])) for kind in KEYS if kind in row]
    if len(keys) != 1 or not keys[0][1]:
        raise PickError(
            f"{where} does not name a recording",
            f"give each row one of the columns {', '.join(KEYS)}, and a value in it",
        )
    return keys[0]


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return (value or "").strip()
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def _rows(file: str) -> Iterator[Row]:
    """Yield the rows of a file by the names of its columns. Raises PickError if it cannot be read."""
    remedy = "give CSV with a header line (.csv), one JSON object on each line (.jsonl) or Parquet (.parquet)"
    try:
        if file.endswith(".parquet"):
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(ROWS):
                    yield from batch.to_pylist()
        elif file.endswith((".csv", ".jsonl")):
            with open(file, encoding="utf-8-sig", newline="") as lines:
                yield from csv.DictReader(lines, restkey="") if file.endswith(".csv") else _objects(lines)
        else:
            raise PickError(f"{file} does not end in .csv, .jsonl or .parquet", remedy)
    except (pa.ArrowException, ValueError, csv.Error) as error:
        if isinstance(error, PickError):
            raise
        raise PickError(f"{file} cannot be read: {error}", remedy) from error


def _objects(lines: Iterable[str]) -> Iterator[Row]:
    for line in lines:
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{line.strip()!r:.100} is not a JSON object")
            yield row
