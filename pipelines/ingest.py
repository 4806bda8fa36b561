"""Ingest: probe headers and hash bytes, and write what is new as batches of bounded audio hours. Decodes nothing.

The id of a recording is the hash of its bytes: met under two names, it is one recording that remembers both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import duckdb
import pyarrow as pa

from manifests import schemas
from manifests.lake import Lake
from manifests.storage import StorageConfig, StorageError
from pipelines.audio.files import DEFAULT, open_file, secretless, stat_file
from pipelines.audio.probe import probe
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
) -> Ingested:
    """Add what `inputs` name to the lake. Again, it adds only what is new; a killed ingest is finished by the next.

    `progress` is told each name as a row of MET. Raises InputError for inputs that name nothing.
    """
    result = Ingested()
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1; SET preserve_insertion_order = true")
        _load_known(connection, lake)
        _meet(connection, lake, entries(inputs, lake.config), result, progress)
        _add_names(connection, lake, result)
        _write_new(connection, lake, config, result)
    return result


def look(entry: Entry, config: StorageConfig = DEFAULT) -> dict[str, Any]:
    """One name as a row of MET: hashed and probed; what cannot be read becomes a failed row with a remedy."""
    # Surrogates stand for bytes of a file name that are not UTF-8; Parquet holds text only.
    uri = secretless(entry.uri).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    row: dict[str, Any] = {"uri": uri, "status": "ok", "mtime_ns": 0}
    row["hint"] = json.dumps(entry.hint, ensure_ascii=False, sort_keys=True) if entry.hint else None
    row["recording_id"] = "u" + hashlib.sha256(uri.encode()).hexdigest()[:19]
    try:
        if secretless(entry.uri) != entry.uri:
            row["hint"] = None  # it names the URL again
            what = f"{uri!r}: its URL carries a password or a signature, which a lake would keep"
            raise UnreadableAudioError(what, "name it as s3://bucket/key, or serve it without secrets in the URL")
        if uri != entry.uri:
            raise UnreadableAudioError(f"{uri!r}: its name is not UTF-8", "rename the file")
        stat = entry.stat or stat_file(uri, config)
        with open_file(uri, config) as file:
            row |= _hash(file, uri) | {"mtime_ns": stat.mtime_ns}
        row |= probe(uri, config)
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


def _load_known(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    """Tables `known` (every name in the lake) and `seen` (names with size and time of change, from earlier runs)."""
    connection.execute("CREATE TABLE known (batch VARCHAR, recording_id VARCHAR, uri VARCHAR, status VARCHAR)")
    for batch, table in lake.recordings(["recording_id", "uris", "status"]):
        connection.register("batch_rows", table)
        connection.execute("INSERT INTO known SELECT ?, recording_id, unnest(uris), status FROM batch_rows", [batch])
    connection.register("met_schema", MET.empty_table())
    connection.execute("CREATE TABLE seen AS SELECT * FROM met_schema")
    for key in lake.storage.list("runs/ingest"):
        connection.register("part", lake.read(key))
        connection.execute("INSERT INTO seen SELECT * FROM part")
    connection.execute("CREATE INDEX seen_uri ON seen (uri)")


def _meet(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    found: Iterator[Entry],
    result: Ingested,
    progress: Callable[[dict[str, Any]], None],
) -> None:
    """Table `met`: every name of this run, looked at unless an earlier run saw it with the same size and time."""
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
        row = _recall(connection, entry, lake.config)
        if row is None:
            row = look(entry, lake.config)
            fresh.append(row)
        part.append(row)
        result.met += 1
        progress(row)
        if len(part) >= PART_ROWS:
            flush()
    flush()


def _recall(connection: duckdb.DuckDBPyConnection, entry: Entry, config: StorageConfig) -> dict[str, Any] | None:
    if secretless(entry.uri) != entry.uri:
        return None
    try:
        stat = entry.stat or stat_file(entry.uri, config)
        os.fsencode(entry.uri).decode()
    except (SpeechmillError, UnicodeDecodeError):
        return None
    query = (
        "SELECT * FROM seen WHERE uri = ? AND size_bytes = ? AND mtime_ns = ? AND mtime_ns > 0 "
        "AND NOT starts_with(recording_id, 'u')"
    )
    rows = connection.execute(f"{query} LIMIT 1", [entry.uri, *stat])
    names = [column[0] for column in rows.description or []]
    found = rows.fetchall()
    if not found:
        return None
    hint = json.dumps(entry.hint, ensure_ascii=False, sort_keys=True) if entry.hint else None
    return dict(zip(names, found[0], strict=True)) | {"hint": hint}


def _add_names(connection: duckdb.DuckDBPyConnection, lake: Lake, result: Ingested) -> None:
    """Give known recordings the new names they were met under; drop failures of names that can be read now."""
    result.known = _count(connection, "met SEMI JOIN known USING (recording_id, uri)")
    changed = (
        "SELECT DISTINCT batch FROM known JOIN met USING (recording_id) WHERE NOT EXISTS "
        "(FROM known AS k WHERE k.recording_id = met.recording_id AND k.uri = met.uri) "
        "UNION SELECT DISTINCT batch FROM known JOIN met USING (uri) "
        "WHERE starts_with(known.recording_id, 'u') AND known.recording_id <> met.recording_id ORDER BY 1"
    )
    for (batch,) in connection.execute(changed).fetchall():
        key = lake.recordings_key(batch)
        rows = []
        for row in lake.read(key).to_pylist():
            names = connection.execute("SELECT uri FROM met WHERE recording_id = ?", [row["recording_id"]]).fetchall()
            added = {uri for (uri,) in names} - set(row["uris"])
            result.renamed += len(added)
            row["uris"] = sorted({*row["uris"], *added})
            readable = "SELECT count(*) FROM met WHERE list_contains(?, uri) AND recording_id <> ?"
            mended = row["recording_id"].startswith("u") and _first(
                connection.execute(readable, [row["uris"], row["recording_id"]])
            )
            if not mended:
                rows.append(row)
        lake.write(key, schemas.table(rows, schemas.RECORDINGS))


def _write_new(connection: duckdb.DuckDBPyConnection, lake: Lake, config: IngestConfig, result: Ingested) -> None:
    """Recordings that the lake lacks, in order of their first name, packed into batches."""
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
    number = max((int(batch.removeprefix("batch-")) + 1 for batch in lake.batches()), default=0)
    for rows in _batches(reader, config):
        lake.write(lake.recordings_key(f"batch-{number:06d}"), schemas.table(rows, schemas.RECORDINGS))
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
