"""Ingest: hash files and read their headers, and write new recordings to batches of a limited duration.

Nothing is decoded. The id of a recording is the hash of its bytes, so two files with the same bytes are one recording
with two names.
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
from pipelines.inputs.packing import NAMED, Ingested, Packing
from pipelines.inputs.remembered import ProbeCache, SettledNames
from pipelines.recipes.recipe import IngestConfig
from pipelines.sources import entries
from runtime.credentials import redact_credentials
from runtime.errors import UnreachableAudioError, UnreadableAudioError
from runtime.failures import Kind, failed_row, kind_of

PART_ROWS = 1000
PART_BYTES = 32 << 20
"""Rows are held in memory up to this number of rows, or of bytes of names and hints."""
MAX_ERROR_LETTERS = 2000
HASH_COLUMNS = ("recording_id", "sha256", "size_bytes", "mtime_ns")


def ingest(
    lake: Lake,
    inputs: Iterable[str],
    config: IngestConfig,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
    decode: DecodeConfig = DECODE,
) -> Ingested:
    """Add the recordings that `inputs` name to a lake.

    Recordings that are in the lake are not added again. A killed ingest is completed by the next one. Failed rows of
    files that can be read now are replaced.

    Args:
        lake: The lake.
        inputs: Files, folders, patterns, lists, manifests and archives. See `pipelines.sources`.
        config: The table [ingest] of the recipe.
        on_row: Called with a row of NAMED for each name.
        decode: The limits for reading headers.

    Returns:
        The counts of this ingest.

    Raises:
        InputError: Inputs hold no sound, or cannot be read to their end. Everything else is in the lake by then.
    """
    result, notes = Ingested(), Notes()
    problem: InputError | None = None
    settled = SettledNames.load(lake, config)
    with (
        tempfile.TemporaryDirectory(prefix="speechmill-ingest-") as folder,
        duckdb.connect(f"{folder}/ingest.duckdb") as connection,
        closing(ProbeCache(f"{folder}/seen.sqlite", lake)) as cache,
    ):
        packing = Packing(connection, lake, config, notes)
        if not settled.valid:
            packing.load_known()
        notes.watched = settled.owners() if settled.valid else packing.failed_owners()
        entries_to_probe = settled.unsettled(entries(inputs, lake.config, config, notes), lake.config, on_row)
        try:
            _probe_all(packing, settled, cache, entries_to_probe, on_row, decode)
        except InputError as error:
            problem = error
        if packing.rows or not settled.is_everything_known(notes.finished):
            packing.add(list(settled.repeated_failures.values()))
            packing.load_known()
            packing.commit(result)
            if packing.rows or settled.valid:
                settled.save(packing)
        else:
            result.names = result.known = len(settled.repeated_failures)
        settled.count(result)
    result.left_out = dict(notes.left_out.most_common())
    if problem:
        raise problem
    return result


def probe_entry(entry: Entry, config: StorageConfig = DEFAULT, prober: Prober | None = None) -> dict[str, Any]:
    """Hash a file and read its header.

    Returns:
        A row of NAMED. If anything is wrong with the file, it is a failed row with a remedy.

    Raises:
        Exception: The run cannot go on (`Kind.RUN`), whatever the file is.
    """
    uri = _printable(entry.uri)
    row: dict[str, Any] = {"uri": uri, "status": "ok", "mtime_ns": 0, **_manifest_columns(entry)}
    row["recording_id"] = "u" + hashlib.sha256(uri.encode()).hexdigest()[:19]
    try:
        if uri != entry.uri:
            raise UnreadableAudioError(f"{uri!r}: its name is not UTF-8", "rename the file")
        if entry.error:
            raise entry.error
        prober = prober or Prober(config)
        if _local_path(entry):
            prober.request(uri)  # its header is read while this process hashes it
        row |= entry.hashed or _hash(uri, entry.stat or stat_file(uri, config), config)
        row |= prober.result(uri)
    except Exception as error:
        if kind_of(error) is Kind.RUN:
            raise
        row |= failed_row(row["recording_id"], error)
        row["error"] = _printable(redact_credentials(row["error"]))[:MAX_ERROR_LETTERS]
    return row


def _printable(text: str) -> str:
    """Return text that Parquet can store: surrogates, which stand for bytes that are not UTF-8, become escapes."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogatepass")
    return data.decode("utf-8", "backslashreplace")


def _manifest_columns(entry: Entry) -> dict[str, Any]:
    """Return the columns of NAMED that a manifest or a sidecar gives."""
    hint = entry.hint
    return {"hint": hint and hint.text, "languages": hint and hint.languages, "labels": hint and hint.labels}


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
    ids = {"recording_id": id_of(uri, sha256), "sha256": sha256}
    return ids | {"size_bytes": size_bytes, "mtime_ns": stat.mtime_ns}


def _probe_all(
    packing: Packing,
    settled: SettledNames,
    cache: ProbeCache,
    entries_to_probe: Iterable[Entry],
    on_row: Callable[[dict[str, Any]], None],
    decode: DecodeConfig,
) -> None:
    """Fill the table `named` with a row for each entry.

    Files that an earlier run has probed, and that have the same size and modification time, are not probed again.
    Failures that the lake holds already go to `settled.repeated_failures` instead.
    """
    lake, config = packing.lake, packing.config
    number = max((int(key[-14:-8]) + 1 for key in ProbeCache.keys(lake)), default=0)
    rows: list[dict[str, Any]] = []
    new_rows: list[dict[str, Any]] = []
    held_bytes = 0

    def flush() -> None:
        nonlocal number, held_bytes
        if rows:
            packing.add(rows)
        if new_rows:  # stored now, so that the next ingest need not hash these files again if this one is killed
            data = write_parquet_bytes(schemas.table(new_rows, NAMED))
            while not lake.storage.put_if_absent(f"runs/ingest/{number:06d}.parquet", data):
                number += 1
            number += 1
        rows.clear()
        new_rows.clear()
        held_bytes = 0

    def add_entry(entry: Entry, prober: Prober) -> dict[str, Any]:
        nonlocal held_bytes
        row, is_new = _cached_or_probed(settled, cache, entry, prober, lake.config)
        if is_new and not packing.is_withdrawn(row):
            new_rows.append(row)
        if settled.repeats_failure(row):
            on_row(row)
            return row
        rows.append(row)
        held_bytes += len(row["uri"]) + len(row["hint"] or "")
        on_row(row)
        if len(rows) >= PART_ROWS or held_bytes >= PART_BYTES:
            flush()
        return row

    try:
        with Prober(lake.config, decode) as prober:
            for entry in prober.prefetch(entries_to_probe, _local_path):
                row = add_entry(entry, prober)
                if config.all_audio_streams and files_of(entry.uri) == (entry.uri,):
                    for stream in range(1, row.get("audio_streams") or 1):
                        add_entry(replace(entry, uri=str(Part(entry.uri, stream))), prober)
    except InputError:
        flush()
        raise
    flush()


def _local_path(entry: Entry) -> str | None:
    """Return the path of an entry on this machine, whose header may be read ahead; None for any other entry."""
    is_local = entry.error is None and not scheme(entry.uri) and _printable(entry.uri) == entry.uri
    return entry.uri if is_local else None


def _cached_or_probed(
    settled: SettledNames, cache: ProbeCache, entry: Entry, prober: Prober, config: StorageConfig
) -> tuple[dict[str, Any], bool]:
    """Return the row of NAMED of an entry, and whether it holds more than the rows of earlier runs."""
    cached: dict[str, Any] = {}
    if entry.error is None:
        try:
            stat = entry.stat or stat_file(entry.uri, config)
            name = _printable(entry.uri)
            cached, of_this_run = (settled if name in settled.failures else cache).find(name, stat)
            if cached and (of_this_run or cached["status"] == "ok"):
                cached.update(_manifest_columns(entry))
                return cached, False
            entry = replace(entry, stat=stat)
        except Exception as error:
            entry = failed_entry(entry.uri, error, entry.hint)
    # A file that was hashed but could not be probed is probed again, because the reason may have been temporary.
    if cached:
        entry = replace(entry, hashed={name: cached[name] for name in HASH_COLUMNS})
    row = probe_entry(entry, config, prober)
    if row["mtime_ns"]:  # a manifest may name the same recording in thousands of lines
        cache.add(row)
    return row, "sha256" in row and not (cached and row["status"] != "ok")
