"""Ingest: probe headers and hash bytes, and write what is new as batches of bounded audio hours. Decodes nothing.

The id of a recording is the hash of its bytes: met under two names, it is one recording that remembers both.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from manifests import schemas
from manifests.lake import Lake
from manifests.storage import StorageConfig, StorageError
from manifests.tables import joined, write_parquet_bytes
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.files import DEFAULT, open_file, secretless, stat_file
from pipelines.audio.isolated import Probing
from pipelines.errors import SpeechmillError, UnreadableAudioError
from pipelines.recipe import IngestConfig
from pipelines.sources import Entry, entries, hinted_language

PART_ROWS = 1000
UNKNOWN_DURATION_S = 1800.0
"""What a recording without a claimed duration counts in a batch: the mean of the corpora this is made for."""

MET = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("hint", pa.string()),
        pa.field("mtime_ns", pa.int64()),
        *[column for column in schemas.RECORDINGS if column.name not in ("uris", "hints", "source", "licence")],
    ]
)
NAMES = MET.names


@dataclass
class Ingested:
    """What one ingest did; `met` names = `new` + `known` + `renamed`, where renamed are new names of known bytes."""

    met: int = 0
    new: int = 0
    known: int = 0
    renamed: int = 0
    failed: int = 0
    batches: int = 0


def ingest(
    lake: Lake,
    inputs: Iterable[str],
    config: IngestConfig,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
    decode: DecodeConfig = DECODE,
) -> Ingested:
    """Add what `inputs` name to the lake. Again, it adds only what is new; a killed ingest is finished by the next.

    `progress` is told each name as a row of MET. Raises InputError for inputs that name nothing.
    """
    result = Ingested()
    with (
        tempfile.TemporaryDirectory(prefix="speechmill-ingest-") as folder,
        duckdb.connect(f"{folder}/ingest.duckdb") as connection,
        closing(sqlite3.connect(f"{folder}/seen.sqlite")) as seen,
    ):
        connection.execute("SET threads = 1; SET memory_limit = '300MB'; SET preserve_insertion_order = true")
        number = _load_known(connection, lake)
        _load_seen(seen, lake)
        _meet(connection, seen, lake, entries(inputs, lake.config), result, progress, decode)
        _add_names(connection, lake, result)
        _write_new(connection, lake, config, result, number)
    return result


def look(entry: Entry, config: StorageConfig = DEFAULT, decode: DecodeConfig = DECODE) -> dict[str, Any]:
    """One name as a row of MET: hashed and probed; what cannot be read becomes a failed row with a remedy."""
    # Surrogates stand for bytes of a file name that are not UTF-8; Parquet holds text only.
    uri = secretless(entry.uri).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    row: dict[str, Any] = {"uri": uri, "status": "ok", "mtime_ns": 0}
    row["hint"] = _hint(entry)
    row["recording_id"] = "u" + hashlib.sha256(uri.encode()).hexdigest()[:19]
    try:
        if secretless(entry.uri) != entry.uri:
            row["hint"] = None  # it names the URL again
            what = f"{uri!r}: its URL carries a password or a signature, which a lake would keep"
            raise UnreadableAudioError(what, "name it as s3://bucket/key, or serve it without secrets in the URL")
        if uri != entry.uri:
            raise UnreadableAudioError(f"{uri!r}: its name is not UTF-8", "rename the file")
        stat = entry.stat or stat_file(uri, config)
        with open_file(uri, config) as file, Probing(uri, config, decode) as probing:  # it works while this one hashes
            row |= _hash(file, uri) | {"mtime_ns": stat.mtime_ns}
            row |= probing.result()
    except SpeechmillError as error:
        row |= {"status": "failed", "error_type": type(error).__name__, "error": str(error), "remedy": error.remedy}
    return row


def _hash(file: BinaryIO, uri: str) -> dict[str, Any]:
    try:
        digest = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    except StorageError:
        raise
    except OSError as error:
        raise UnreadableAudioError(f"{uri!r}: {error.strerror}", "check the disk or the server") from error
    return {"recording_id": digest[:20], "sha256": digest, "size_bytes": file.tell()}


def _load_known(connection: duckdb.DuckDBPyConnection, lake: Lake) -> int:
    """Table `known`: every name in the lake. Returns the number of the next batch."""
    number = max((int(batch.removeprefix("batch-")) + 1 for batch in lake.batches()), default=0)
    connection.execute("CREATE TABLE known (batch VARCHAR, recording_id VARCHAR, uri VARCHAR, status VARCHAR)")
    for table in joined(lake.recordings(["recording_id", "uris", "status"])):
        connection.register("part", table)
        connection.execute("INSERT INTO known SELECT batch, recording_id, unnest(uris), status FROM part")
    return number


def _load_seen(seen: sqlite3.Connection, lake: Lake) -> None:
    """Table `seen`: rows of MET of names that earlier runs hashed, each found without reading the others."""
    seen.execute("CREATE TABLE seen (uri, size_bytes, mtime_ns, row)")
    for _, table in lake.read_each(lake.storage.list("runs/ingest"), str):
        hashed = pc.and_not(pc.greater(table["mtime_ns"], 0), pc.starts_with(table["recording_id"], "u"))
        columns = table.filter(hashed).to_pydict()
        rows = map(pickle.dumps, zip(*(columns[name] for name in NAMES), strict=True))
        names = zip(columns["uri"], columns["size_bytes"], columns["mtime_ns"], rows, strict=True)
        seen.executemany("INSERT INTO seen VALUES (?, ?, ?, ?)", names)
    seen.execute("CREATE INDEX seen_names ON seen (uri, size_bytes, mtime_ns)")


def _meet(
    connection: duckdb.DuckDBPyConnection,
    seen: sqlite3.Connection,
    lake: Lake,
    found: Iterable[Entry],
    result: Ingested,
    progress: Callable[[dict[str, Any]], None],
    decode: DecodeConfig,
) -> None:
    """Table `met`: every name of this run, looked at unless an earlier run saw it with the same size and time."""
    connection.register("met_schema", MET.empty_table())
    connection.execute("CREATE TABLE met AS SELECT * FROM met_schema")
    number = sum(1 for _ in lake.storage.list("runs/ingest"))
    part: list[dict[str, Any]] = []
    fresh: list[dict[str, Any]] = []

    def flush() -> None:
        nonlocal number
        if part:
            connection.register("part", schemas.table(part, MET))
            connection.execute("INSERT INTO met SELECT * FROM part")
        if fresh:  # kept at once, so that a killed ingest need not hash again
            lake.write(f"runs/ingest/{number:06d}.parquet", schemas.table(fresh, MET))
            number += 1
        part.clear()
        fresh.clear()

    for entry in found:
        row = _recall(seen, entry, lake.config)
        if row is None:
            row = look(entry, lake.config, decode)
            fresh.append(row)
        part.append(row)
        result.met += 1
        progress(row)
        if len(part) >= PART_ROWS:
            flush()
    flush()


def _recall(seen: sqlite3.Connection, entry: Entry, config: StorageConfig) -> dict[str, Any] | None:
    """The row of MET that an earlier run made of it, where its size and time of change are still the same."""
    if secretless(entry.uri) != entry.uri:
        return None
    try:
        stat = entry.stat or stat_file(entry.uri, config)
        os.fsencode(entry.uri).decode()
    except (SpeechmillError, UnicodeDecodeError):
        return None
    found = seen.execute("SELECT row FROM seen WHERE (uri, size_bytes, mtime_ns) = (?, ?, ?)", (entry.uri, *stat))
    for (row,) in found:
        return dict(zip(NAMES, pickle.loads(row), strict=True)) | {"hint": _hint(entry)}
    return None


def _hint(entry: Entry) -> str | None:
    return json.dumps(entry.hint, ensure_ascii=False, sort_keys=True) if entry.hint else None


def _add_names(connection: duckdb.DuckDBPyConnection, lake: Lake, result: Ingested) -> None:
    """Give known recordings the new names they were met under; drop failures of names that can be read now."""
    result.known = _count(connection, "met SEMI JOIN known USING (recording_id, uri)")
    connection.execute(
        "CREATE TABLE changes AS SELECT DISTINCT k.batch, met.recording_id, met.uri AS added FROM met "
        "JOIN (SELECT DISTINCT batch, recording_id FROM known) AS k ON k.recording_id = met.recording_id "
        "ANTI JOIN known ON known.recording_id = met.recording_id AND known.uri = met.uri "
        "UNION ALL SELECT DISTINCT known.batch, known.recording_id, NULL FROM known JOIN met ON known.uri = met.uri "
        "WHERE starts_with(known.recording_id, 'u') AND known.recording_id <> met.recording_id"
    )
    changed = connection.execute("SELECT batch, recording_id, added FROM changes ORDER BY ALL")
    streamed = itertools.chain.from_iterable(iter(lambda: changed.fetchmany(PART_ROWS), []))
    for batch, changes in itertools.groupby(streamed, key=lambda row: row[0]):
        added: dict[str, set[str]] = defaultdict(set)
        mended: set[str] = set()
        for _, recording_id, uri in changes:
            (added[recording_id] if uri else mended).add(uri or recording_id)
        rows = []
        for row in lake.read(lake.recordings_key(batch)).to_pylist():
            names = added[row["recording_id"]]
            result.renamed += len(names)
            row["uris"] = sorted({*row["uris"], *names})
            if row["recording_id"] not in mended:
                rows.append(row)
        lake.write(lake.recordings_key(batch), schemas.table(rows, schemas.RECORDINGS))


def _write_new(
    connection: duckdb.DuckDBPyConnection, lake: Lake, config: IngestConfig, result: Ingested, number: int
) -> None:
    """Recordings that the lake lacks, in order of their first name, packed into batches from `number` on.

    SpeechmillError where a batch of that number has come into being meanwhile: what it holds is not known here.
    """
    connection.execute(
        "CREATE TABLE fresh AS SELECT recording_id, min(uri) AS first_uri, list_sort(list(DISTINCT uri)) AS uris, "
        "list(DISTINCT hint ORDER BY hint) FILTER (hint IS NOT NULL) AS hints FROM met "
        "ANTI JOIN known USING (recording_id) GROUP BY recording_id"
    )
    reader = connection.sql(
        "SELECT m.* EXCLUDE (uri, hint, mtime_ns, language_hint), f.uris, f.hints FROM fresh AS f "
        "JOIN (FROM met SELECT DISTINCT ON (recording_id, uri) *) AS m "
        "ON m.recording_id = f.recording_id AND m.uri = f.first_uri ORDER BY f.first_uri"
    ).to_arrow_reader(PART_ROWS)
    for rows in _batches(reader, config):
        key = lake.recordings_key(f"batch-{number:06d}")
        if not lake.storage.put_if_absent(key, write_parquet_bytes(schemas.table(rows, schemas.RECORDINGS))):
            what = f"another ingest added {key} meanwhile"
            raise SpeechmillError(what, "wait until it ends, then run the same command again: nothing is lost")
        number += 1
        result.batches += 1
        result.new += sum(len(row["uris"]) for row in rows)
        result.failed += sum(row["status"] != "ok" for row in rows)
    # A name listed twice in one run is one name.
    result.met = _count(connection, "(SELECT DISTINCT recording_id, uri FROM met)")


def _batches(reader: pa.RecordBatchReader, config: IngestConfig) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    held_s = 0.0
    for part in reader:
        for row in part.to_pylist():
            hints = [json.loads(hint) for hint in row["hints"] or []]
            row["hints"] = json.dumps(hints, ensure_ascii=False) if hints else None
            row["language_hint"] = hinted_language(hints)
            row |= {"source": config.source, "licence": config.licence}
            duration_s = row["claimed_duration_s"] or UNKNOWN_DURATION_S
            if held and held_s + duration_s > config.batch_hours * 3600:
                yield held
                held, held_s = [], 0.0
            held.append(row)
            held_s += duration_s
    if held:
        yield held


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return _first(connection.execute(f"SELECT count(*) FROM {table}"))


def _first(cursor: duckdb.DuckDBPyConnection) -> int:
    ((number,),) = cursor.fetchall()
    return int(number)
