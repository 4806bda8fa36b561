"""Load foreign manifests into three DuckDB tables with the schemas of rows.py: recordings, segments and windows.

Files are streamed: a few thousand rows are in memory at a time, and DuckDB spills to disk.
"""

from __future__ import annotations

import gzip
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import duckdb
import pyarrow as pa

from manifests.exchange.foreign import lhotse, moshi, nemo, rttm, tables, webdataset
from manifests.exchange.foreign.rows import TABLES, ManifestError, Row
from manifests.existing import did_you_mean
from manifests.lake import Lake
from manifests.storage import open_storage

BATCH_ROWS = 4000
JSON_LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
TURNS = (".rttm", ".uem")
TARS = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (*JSON_LINES, *TURNS, *TARS, ".parquet", ".csv")
WRONG = "give Lhotse, NeMo or moshi manifests (.jsonl, .jsonl.gz), .rttm, .uem, .tar, or a folder of them"

IMPLIED = {f"implied_{table}": TABLES[table] for table in ("recordings", "segments")}
Rows = Iterator[tuple[str, Row]]


def load(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> Counter[str]:
    """Create the tables from files, and from files directly in folders; returns how many rows were left out by reason.

    `position` numbers the rows of each table in the order in which they are read. Cuts may repeat recordings and
    segments; the first one of each id is kept. Raises ManifestError, with the line, for anything that is no manifest.
    """
    skipped: Counter[str] = Counter()
    writer = _TableWriter(connection)
    for path in paths:
        for name in _files(path):
            for table, row in read(name, skipped):
                writer.add(table, row)
    writer.finish()
    return skipped


def read(path: str, skipped: Counter[str]) -> Rows:
    """Yield the rows of one file, each with the name of its table."""
    if path.endswith(JSON_LINES):
        yield from _json(path, skipped)
    elif path.endswith(TURNS):
        yield from _lines(path, skipped)
    elif path.endswith(TARS):
        with opened(path) as file:
            try:
                for row in webdataset.window_rows(file):
                    yield "windows", row
            except (tarfile.TarError, EOFError, ValueError) as error:
                raise ManifestError(f"{path} is not a complete tar of samples: {error}", "copy it again") from error
    elif path.endswith((".parquet", ".csv")):
        with opened(path) as file:
            yield from tables.parquet_rows(path, file) if path.endswith(".parquet") else tables.csv_rows(path, file)
    else:
        raise ManifestError(f"{path} is not a manifest of a known format", WRONG)


def json_lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file with their line numbers. Raises ManifestError for any other line."""
    for number, line in text_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ManifestError(f"{path}:{number} is not JSON: {error}", "give one JSON object on each line") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{path}:{number} is not a JSON object", "give one JSON object on each line")
        yield number, row


def text_lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    with opened(path) as file:
        try:
            for number, line in enumerate(file, 1):
                if text := line.decode().strip():
                    yield number, text
        except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise ManifestError(f"{path} cannot be read to its end: {error}", "copy it again") from error


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open a file in any storage; it is decompressed if its name ends in .gz or .tgz."""
    folder, _, name = path.rpartition("/")
    try:
        raw = open_storage(folder or ("/" if path.startswith("/") else ".")).open(name)
    except FileNotFoundError as error:
        raise ManifestError(f"there is no {path!r}", "check the path; a lake has recordings/*.parquet") from error
    with raw as file:
        if path.endswith((".gz", ".tgz")):
            with gzip.open(file) as unpacked:
                yield cast(BinaryIO, unpacked)
        else:
            yield file


def _files(path: str) -> Iterator[str]:
    if path.endswith(SUFFIXES):
        yield path
        return
    if "://" in path:
        names = sorted(key for key in open_storage(path).list() if "/" not in key and key.endswith(SUFFIXES))
    elif os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if name.endswith(SUFFIXES))
    else:
        hint = did_you_mean(Lake.at(path), path)
        raise ManifestError(f"{path!r} is neither a lake nor a manifest of a known format", hint + WRONG)
    if any(name.startswith("cuts.") for name in names):  # Lhotse Shar, whose cuts have more fields than its tars
        names = [name for name in names if not name.endswith(TARS)]
    if not names:
        raise ManifestError(f"{path} contains no manifest", WRONG)
    for name in names:
        yield f"{path.rstrip('/')}/{name}"


def _json(path: str, skipped: Counter[str]) -> Rows:
    for number, line in json_lines(path):
        try:
            if moshi.is_recording(line):
                yield "recordings", moshi.recording_row(line)
            elif "audio_filepath" not in line:
                yield from lhotse.read(line)
            elif nemo.is_diarization(line):
                yield "recordings", nemo.recording_row(line)
            else:
                yield "implied_recordings", nemo.recording_row(line)
                yield "segments", nemo.segment_row(line, number)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            what = f"{path}:{number} is not a line of a Lhotse, NeMo or moshi manifest: {problem}"
            keys = "'audio_filepath', 'sources', 'recording_id', 'type', or 'path' and 'duration'"
            raise ManifestError(what, f"give JSON lines with {keys}") from error
        for key in ("rttm_filepath", "uem_filepath"):
            if name := line.get(key):
                for table, row in _lines(os.path.join(os.path.dirname(path), name), skipped):
                    yield table, row | {"recording_id": line["audio_filepath"]}


def _lines(path: str, skipped: Counter[str]) -> Rows:
    """Yield turns of RTTM as segments and regions of UEM as windows, and the recordings that they name."""
    last = None
    for number, line in text_lines(path):
        if line.startswith(";;"):
            continue
        try:
            row = rttm.window_row(line, number) if path.endswith(".uem") else rttm.segment_row(line, number)
        except ValueError as error:
            raise ManifestError(
                f"{path}:{number} is not a line of RTTM or UEM: {error}", "correct or remove it"
            ) from error
        if row is None:
            skipped[f"lines of RTTM of type {line.split()[0]}, which hold no turn"] += 1
            continue
        if row["recording_id"] != last:
            last = row["recording_id"]
            yield "implied_recordings", {"recording_id": last}
        yield "windows" if path.endswith(".uem") else "segments", row


class _TableWriter:
    """Fills the tables batch by batch."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self.rows: dict[str, list[Row]] = {}
        self.position: Counter[str] = Counter()
        for table, schema in (TABLES | IMPLIED).items():
            connection.register("empty_rows", _positioned(schema).empty_table())
            connection.execute(f"CREATE TABLE {table} AS FROM empty_rows")

    def add(self, table: str, row: Row) -> None:
        rows = self.rows.setdefault(table, [])
        row["position"] = self.position[table]
        rows.append(row)
        self.position[table] += 1
        if len(rows) >= BATCH_ROWS:
            self.flush(table)

    def flush(self, table: str) -> None:
        schema = _positioned((TABLES | IMPLIED)[table])
        self.connection.register("new_rows", pa.Table.from_pylist(self.rows.pop(table), schema=schema))
        self.connection.execute(f"INSERT INTO {table} FROM new_rows")

    def finish(self) -> None:
        """Add the recordings and segments that only cuts, utterances or turns name."""
        for table in list(self.rows):
            self.flush(table)
        for table, absent, same in (
            ("recordings", "recording_id NOT IN (SELECT recording_id FROM recordings)", "recording_id"),
            ("segments", "NOT EXISTS (FROM segments)", "segment_id, recording_id, start_s, duration_s"),
        ):
            first = f"position IN (SELECT min(position) FROM implied_{table} GROUP BY {same})"
            taken = f"FROM implied_{table} WHERE {absent} AND {first} ORDER BY position"
            self.connection.execute(f"INSERT INTO {table} {taken}; DROP TABLE implied_{table}")


def _positioned(schema: pa.Schema) -> pa.Schema:
    return schema.append(pa.field("position", pa.int64()))
