"""Read and write the tables of rows.py as Parquet and CSV, which lose nothing.

In CSV a list is JSON, every text is quoted, and a missing value is an empty field without quotes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from manifests.exchange.foreign.rows import TABLES, ManifestError, Row, to_json

BATCH_ROWS = 4000
LONGEST_ROW = 1 << 24
"""Bytes of CSV that are parsed at a time, which is the longest possible row."""
GIVE = "give a file that `manifest convert` wrote, or a table with its columns"


def parquet_rows(path: str, file: BinaryIO) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a Parquet file with the name of its table. Raises ManifestError for any other file."""
    try:
        parquet = pq.ParquetFile(file)
        table = _table_of(path, parquet.schema_arrow.names)
        for batch in parquet.iter_batches(BATCH_ROWS, columns=TABLES[table].names, use_threads=False):
            for row in batch.to_pylist():
                yield table, row
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{path} cannot be read as Parquet: {_first_line(error)}", GIVE) from error


def csv_rows(path: str, file: BinaryIO) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a CSV file with the name of its table. Raises ManifestError for any other file."""
    try:
        table = _table_of(path, next(csv.reader([file.readline().decode()]), []))
        file.seek(0)
        lists = [column.name for column in TABLES[table] if pa.types.is_list(column.type)]
        types = {column.name: pa.string() if column.name in lists else column.type for column in TABLES[table]}
        for batch in pacsv.open_csv(file, *_reading(types)):
            for row in batch.select(TABLES[table].names).to_pylist():
                yield table, row | {name: None if row[name] is None else json.loads(row[name]) for name in lists}
    except (pa.ArrowInvalid, ValueError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{path} cannot be read as CSV: {_first_line(error)}", GIVE) from error


def _reading(types: dict[str, pa.DataType]) -> tuple[Any, ...]:
    return (
        pacsv.ReadOptions(use_threads=False, block_size=LONGEST_ROW),
        pacsv.ParseOptions(newlines_in_values=True),
        pacsv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )


def _table_of(path: str, names: list[str]) -> str:
    table = next((table for table, schema in TABLES.items() if set(names) >= set(schema.names)), None)
    if not names:
        raise ManifestError(f"{path} is empty", GIVE)
    if table is None:
        raise ManifestError(f"{path} has the columns {', '.join(sorted(names))}", GIVE)
    return table


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def write_parquet(path: Path, table: str, reader: pa.RecordBatchReader) -> None:
    schema = TABLES[table]
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(schema))


def write_csv(path: Path, table: str, reader: pa.RecordBatchReader) -> None:
    schema = TABLES[table]
    kinds = [pa.string() if pa.types.is_list(column.type) else column.type for column in schema]
    flat = pa.schema(zip(schema.names, kinds, strict=True))
    with pacsv.CSVWriter(path, flat) as writer:
        for batch in reader:
            rows = pa.Table.from_batches([batch]).select(schema.names)
            for index, column in enumerate(schema):
                if pa.types.is_list(column.type):
                    texts = [None if value is None else to_json(value) for value in rows[column.name].to_pylist()]
                    rows = rows.set_column(index, column.name, pa.array(texts, pa.string()))
            writer.write_table(rows.cast(flat))
