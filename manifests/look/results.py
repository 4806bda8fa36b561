"""The result of a query as a table, CSV, JSON or Parquet, streamed however many rows it has."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TextIO

import duckdb

from manifests.look import terminal
from manifests.output import one_line, to_json
from manifests.sql import ask, reading
from manifests.views import ChoiceError

SHOWN = 100
BATCH = 10_000


def write(connection: duckdb.DuckDBPyConnection, sql: str, kind: str, output: str | None) -> None:
    """Run one statement that reads and write its rows. Raises NotReadingError for any other statement."""
    if kind == "parquet" and output is None:
        raise ChoiceError("Parquet is not for a terminal", "add -o FILE.parquet")
    if kind == "parquet":
        _parquet(connection.sql(reading(connection, sql)), str(output))
        return
    found = ask(connection, sql)
    with _text(output) as file:
        {"table": _table, "csv": _csv, "json": _json}[kind](found, file)


@contextlib.contextmanager
def _text(output: str | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
    else:
        with open(output, "w", encoding="utf-8", newline="") as file:
            yield file


def _rows(found: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    return itertools.chain.from_iterable(iter(lambda: found.fetchmany(BATCH), []))


def _names(found: duckdb.DuckDBPyConnection) -> list[str]:
    return [column[0] for column in found.description or []]


def _table(found: duckdb.DuckDBPyConnection, file: TextIO) -> None:
    rows = list(itertools.islice(_rows(found), SHOWN + 1))
    terminal.table(_names(found), rows[:SHOWN])
    if len(rows) > SHOWN:
        terminal.echo(f"the first {SHOWN} rows; --format csv, json or parquet has them all")


def _csv(found: duckdb.DuckDBPyConnection, file: TextIO) -> None:
    import csv

    # Data goes into a file or a pipe as it is; only a terminal must not see what it would obey.
    shown: Callable[[Any], Any] = (lambda value: one_line(str(_plain(value)))) if file.isatty() else _plain
    writer = csv.writer(file)
    writer.writerow(map(shown, _names(found)))
    for row in _rows(found):
        writer.writerow(map(shown, row))


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def _json(found: duckdb.DuckDBPyConnection, file: TextIO) -> None:
    names, before = _names(found), "["
    for row in _rows(found):
        text = to_json(dict(zip(names, row, strict=True)))
        file.write(f"{before}\n {text}")
        before = ","
    file.write("[]\n" if before == "[" else "\n]\n")


def _parquet(found: duckdb.DuckDBPyRelation, output: str) -> None:
    import pyarrow.parquet as pq

    reader = found.to_arrow_reader(BATCH)
    file: BinaryIO
    with open(output, "wb") as file, pq.ParquetWriter(file, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
