"""Ingest: probe headers and hash bytes, and write what is new as batches of bounded audio hours. Decodes nothing.

The id of a recording is the hash of its bytes: met under two names, it is one recording that remembers both.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

import duckdb

from manifests import schemas
from manifests.lake import Lake
from manifests.storage import Stat, StorageConfig
from manifests.tables import write_parquet_bytes
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.files import DEFAULT, open_file, scheme, stat_file
from pipelines.audio.parts import Part, combined_sha256, files_of, id_of
from pipelines.audio.probing import Prober
from pipelines.inputs.entry import Entry, InputError, Notes, failed_entry
from pipelines.inputs.packing import MET, Ingested, Packing
from pipelines.inputs.remembered import Remembered, Seen
from pipelines.recipes.recipe import IngestConfig
from pipelines.sources import entries
from runtime.credentials import redact_credentials
from runtime.errors import UnreachableAudioError, UnreadableAudioError
from runtime.failures import Kind, failed_row, kind_of

PART_ROWS = 1000
PART_BYTES = 32 << 20
"""Names and hints are held up to so many rows or bytes."""
MAX_ERROR_LETTERS = 2000
HASHED = ("recording_id", "sha256", "size_bytes", "mtime_ns")


def ingest(
    lake: Lake,
    inputs: Iterable[str],
    config: IngestConfig,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
    decode: DecodeConfig = DECODE,
) -> Ingested:
    """Add what `inputs` name to the lake. Again, it adds only what is new; a killed ingest is finished by the next.

    What failed before and can be read now is put right. `progress` is told each name as a row of MET. Raises
    InputError for inputs that hold no sound or cannot be read to their end, once everything else is in the lake.
    """
    result, notes = Ingested(), Notes()
    problem: InputError | None = None
    memory = Remembered.load(lake, config)
    with (
        tempfile.TemporaryDirectory(prefix="speechmill-ingest-") as folder,
        duckdb.connect(f"{folder}/ingest.duckdb") as connection,
        closing(Seen(f"{folder}/seen.sqlite", lake)) as seen,
    ):
        packing = Packing(connection, lake, config, notes)
        if not memory.valid:
            packing.load_known()
        notes.watched = memory.owners() if memory.valid else packing.failed_owners()
        named = memory.unsettled(entries(inputs, lake.config, config, notes), lake.config, progress)
        try:
            _meet(packing, memory, seen, named, progress, decode)
        except InputError as error:
            problem = error
        if packing.rows or not memory.is_all(notes.finished):
            packing.add(list(memory.still.values()))
            packing.load_known()
            packing.commit(result)
            if packing.rows or memory.valid:
                memory.save(packing)
        else:
            result.met = result.known = len(memory.still)
        memory.count(result)
    result.left_out = dict(notes.left_out.most_common())
    if problem:
        raise problem
    return result


def look(entry: Entry, config: StorageConfig = DEFAULT, prober: Prober | None = None) -> dict[str, Any]:
    """One name as a row of MET: hashed and probed. Whatever is wrong with it makes a failed row with a remedy.

    Raises what is the run's own failure (see `failures.Kind`).
    """
    uri = _printable(entry.uri)
    row: dict[str, Any] = {"uri": uri, "status": "ok", "mtime_ns": 0, **_said(entry)}
    row["recording_id"] = "u" + hashlib.sha256(uri.encode()).hexdigest()[:19]
    try:
        if uri != entry.uri:
            raise UnreadableAudioError(f"{uri!r}: its name is not UTF-8", "rename the file")
        if entry.error:
            raise entry.error
        prober = prober or Prober(config)
        if _local(entry):
            prober.begin(uri)  # it works while this process hashes
        row |= entry.hashed or _hash(uri, entry.stat or stat_file(uri, config), config)
        row |= prober.result(uri)
    except Exception as error:
        if kind_of(error) is Kind.RUN:
            raise
        row |= failed_row(row["recording_id"], error)
        row["error"] = _printable(redact_credentials(row["error"]))[:MAX_ERROR_LETTERS]
    return row


def _printable(text: str) -> str:
    """Text that Parquet can hold: surrogates that stand for bytes which are not UTF-8 become escapes."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogatepass")
    return data.decode("utf-8", "backslashreplace")


def _said(entry: Entry) -> dict[str, Any]:
    """The columns of MET that hold what was said of a name where it was met."""
    said = entry.hint
    return {"hint": said and said.text, "languages": said and said.languages, "labels": said and said.labels}


def _hash(uri: str, stat: Stat, config: StorageConfig) -> dict[str, Any]:
    digests, size_bytes = [], 0
    for name in files_of(uri):
        with open_file(name, config) as file:
            try:
                digests.append(hashlib.file_digest(cast(Any, file), "sha256").hexdigest())
            except OSError as error:
                if kind_of(error) is Kind.RUN:
                    raise
                raise UnreachableAudioError(f"{uri!r}: {error.strerror}", "check the disk or the server") from error
            size_bytes += file.tell()
    sha256 = combined_sha256(digests)
    found = {"recording_id": id_of(uri, sha256), "sha256": sha256}
    return found | {"size_bytes": size_bytes, "mtime_ns": stat.mtime_ns}


def _meet(
    packing: Packing,
    memory: Remembered,
    seen: Seen,
    found: Iterable[Entry],
    progress: Callable[[dict[str, Any]], None],
    decode: DecodeConfig,
) -> None:
    """Table `met`: every name that is found, looked at unless an earlier run saw it with the same size and time.

    Failures that are known and hold still are in `memory.still` instead.
    """
    lake, config = packing.lake, packing.config
    number = max((int(key[-14:-8]) + 1 for key in Seen.keys(lake)), default=0)
    part: list[dict[str, Any]] = []
    fresh: list[dict[str, Any]] = []
    held_bytes = 0

    def flush() -> None:
        nonlocal number, held_bytes
        if part:
            packing.add(part)
        if fresh:  # kept at once, so that a killed ingest need not hash again
            data = write_parquet_bytes(schemas.table(fresh, MET))
            while not lake.storage.put_if_absent(f"runs/ingest/{number:06d}.parquet", data):
                number += 1
            number += 1
        part.clear()
        fresh.clear()
        held_bytes = 0

    def meet(entry: Entry, prober: Prober) -> dict[str, Any]:
        nonlocal held_bytes
        row, is_new = _row(memory, seen, entry, prober, lake.config)
        if is_new and not packing.is_withdrawn(row):
            fresh.append(row)
        if memory.fails_as_before(row):
            progress(row)
            return row
        part.append(row)
        held_bytes += len(row["uri"]) + len(row["hint"] or "")
        progress(row)
        if len(part) >= PART_ROWS or held_bytes >= PART_BYTES:
            flush()
        return row

    try:
        with Prober(lake.config, decode) as prober:
            for entry in prober.ahead(found, _local):
                row = meet(entry, prober)
                if config.all_audio_streams and files_of(entry.uri) == (entry.uri,):
                    for stream in range(1, row.get("audio_streams") or 1):
                        meet(replace(entry, uri=str(Part(entry.uri, stream))), prober)
    except InputError:
        flush()
        raise
    flush()


def _local(entry: Entry) -> str | None:
    """The file of this machine that an entry names, whose header may be read ahead."""
    is_local = entry.error is None and not scheme(entry.uri) and _printable(entry.uri) == entry.uri
    return entry.uri if is_local else None


def _row(
    memory: Remembered, seen: Seen, entry: Entry, prober: Prober, config: StorageConfig
) -> tuple[dict[str, Any], bool]:
    """The row of MET of an entry, and whether it tells more than what earlier runs kept."""
    recalled: dict[str, Any] = {}
    if entry.error is None:
        try:
            stat = entry.stat or stat_file(entry.uri, config)
            name = _printable(entry.uri)
            recalled, of_this_run = (memory if name in memory.failures else seen).recall(name, stat)
            if recalled and (of_this_run or recalled["status"] == "ok"):
                recalled.update(_said(entry))
                return recalled, False
            entry = replace(entry, stat=stat)
        except Exception as error:
            entry = failed_entry(entry.uri, error, entry.hint)
    # What was hashed, but could not be probed, is probed again: that may have failed for a reason of that day.
    if recalled:
        entry = replace(entry, hashed={name: recalled[name] for name in HASHED})
    row = look(entry, config, prober)
    if row["mtime_ns"]:  # a manifest may name a recording in thousands of lines
        seen.add(row)
    return row, "sha256" in row and not (recalled and row["status"] != "ok")
