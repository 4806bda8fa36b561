"""The result of a query, written as a table, CSV, JSON or Parquet. Rows are streamed, so that any number fits."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import duckdb

from manifests.choice import ChoiceError
from manifests.commands import render, terminal
from manifests.commands.targets import Target
from manifests.output import one_line, to_json
from manifests.sql import ask, read_only
from manifests.whole import whole, whole_text

SHOWN = 100
BATCH = 10_000


def write(target: Target, parts: Iterable[str], sql: str, kind: str, output: str | None) -> None:
    """Run one statement over the views of a target, and write its rows to `output` or standard output.

    Raises NotReadingError for a statement that does not only read.
    """
    if kind == "parquet" and output is None:
        raise ChoiceError("Parquet is not for a terminal", "add -o FILE.parquet")
    connection = target.connect(parts)
    if kind == "parquet":
        _parquet(connection.sql(read_only(connection, sql)), Path(str(output)))
        return
    found = ask(connection, sql)
    with whole_text(Path(output)) if output else nullcontext(sys.stdout) as file:
        if kind == "json":
            _json(found, target, file)
        elif kind == "csv":
            _csv(found, file)
        else:
            _table(found, target, file)


def _rows(found: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    return itertools.chain.from_iterable(iter(lambda: found.fetchmany(BATCH), []))


def _names(found: duckdb.DuckDBPyConnection) -> list[str]:
    return [column[0] for column in found.description or []]


def _table(found: duckdb.DuckDBPyConnection, target: Target, file: IO[str]) -> None:
    rows = list(itertools.islice(_rows(found), SHOWN + 1))
    with contextlib.redirect_stdout(file):
        render.print_choice(target)
        terminal.table(_names(found), rows[:SHOWN])
        if len(rows) > SHOWN:
            terminal.echo(f"the first {SHOWN} rows; --format csv, json or parquet has them all")


def _csv(found: duckdb.DuckDBPyConnection, file: IO[str]) -> None:
    import csv

    # A file or a pipe gets the data unchanged; a terminal would obey control characters in it.
    shown: Callable[[Any], Any] = (lambda value: one_line(str(_plain(value)))) if file.isatty() else _plain
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(shown, _names(found)))
    for row in _rows(found):
        writer.writerow(map(shown, row))


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def _json(found: duckdb.DuckDBPyConnection, target: Target, file: IO[str]) -> None:
    """Write one object with the choice and the rows, one line for each row."""
    names, before = _names(found), ""
    file.write(f'{{"choice": {to_json(target.described)}, "rows": [')
    for row in _rows(found):
        file.write(f"{before}\n {to_json(dict(zip(names, row, strict=True)))}")
        before = ","
    file.write("\n]}\n" if before else "]}\n")


def _parquet(found: duckdb.DuckDBPyRelation, output: Path) -> None:
    import pyarrow.parquet as pq

    reader = found.to_arrow_reader(BATCH)
    with whole(output) as unfinished, pq.ParquetWriter(unfinished, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
