"""Ingest: probe headers and hash bytes, and write what is new as batches of bounded audio hours. Decodes nothing.

The id of a recording is the hash of its bytes: met under two names, it is one recording that remembers both.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import pickle
import re
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from manifests import schemas
from manifests.lake import Lake
from manifests.storage import Stat, StorageConfig
from manifests.tables import joined, write_parquet_bytes
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.files import DEFAULT, open_file, scheme, secretless, stat_file
from pipelines.audio.parts import Part, combined_sha256, files_of, id_of
from pipelines.audio.probing import Prober
from pipelines.entry import Entry, InputError, Notes, failed_entry
from pipelines.errors import UnreachableAudioError, UnreadableAudioError
from pipelines.failures import Kind, failed_row, kind_of
from pipelines.recipe import IngestConfig
from pipelines.sources import entries

PART_ROWS = 1000
PART_BYTES = 32 << 20
"""Names and hints are held up to so many rows or bytes."""
MAX_HINTS_BYTES = 16_000_000
"""Hints kept of one recording: further ones, in the order of their text, are left out."""
MAX_BATCH_BYTES = 64_000_000
"""Of the hints in a batch."""
MAX_ERROR_LETTERS = 2000
SEEN = re.compile(r"runs/ingest/\d{6}\.parquet")
UNKNOWN_DURATION_S = 1800.0
"""What a recording without a claimed duration counts in a batch: the mean of the corpora this is made for."""
# A failed row of a list, manifest or archive, of a line, or of a member: group 1 is what was to be read to its end.
OWNER = r"(?si)^(.*?\.(?:tar|jsonl|json|txt|lst)(?:\.gz)?)(?:#.*|:\d+)?$"

UNREAD = "starts_with(recording_id, 'u')"
"""Rows of names whose bytes could not be had."""
ADD_SEEN = "INSERT INTO seen VALUES (?, ?, ?, ?, ?)"
HASHED = ("recording_id", "sha256", "size_bytes", "mtime_ns")
NOT_MET = ("uris", "hints", "source", "licence", "language_hint")
MET = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("hint", pa.string()),
        pa.field("languages", pa.list_(pa.string())),
        pa.field("mtime_ns", pa.int64()),
        *[column for column in schemas.RECORDINGS if column.name not in NOT_MET],
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
    left_out: dict[str, int] = field(default_factory=dict, compare=False)
    """Files and other things below the inputs that were not read, by suffix or reason."""


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
    with (
        tempfile.TemporaryDirectory(prefix="speechmill-ingest-") as folder,
        duckdb.connect(f"{folder}/ingest.duckdb") as connection,
        closing(sqlite3.connect(f"{folder}/seen.sqlite")) as seen,
    ):
        connection.execute("SET threads = 1; SET memory_limit = '300MB'; SET preserve_insertion_order = true")
        connection.execute("CREATE TABLE known (batch VARCHAR, recording_id VARCHAR, uri VARCHAR, status VARCHAR)")
        connection.execute("CREATE TABLE replaced (batch VARCHAR, recording_id VARCHAR, uri VARCHAR, status VARCHAR)")
        number = _load_known(connection, lake)
        _load_seen(seen, lake)
        notes.watched = _failed_owners(connection)
        try:
            _meet(connection, seen, lake, entries(inputs, lake.config, config, notes), config, progress, decode)
        except InputError as error:
            problem = error
        while not _write_new(connection, lake, config, result, number):
            number = _load_known(connection, lake, number)  # another ingest took a number: see what it added
        _add_names(connection, lake, notes, result)
        # A name listed twice in one run is one name.
        result.met = _count(connection, "(SELECT DISTINCT recording_id, uri FROM met)")
        result.known = result.met - result.new - result.renamed
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
        row["error"] = _printable(secretless(row["error"]))[:MAX_ERROR_LETTERS]
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
    return {"hint": entry.hint and entry.hint.text, "languages": entry.hint and entry.hint.languages}


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


def _load_known(connection: duckdb.DuckDBPyConnection, lake: Lake, first: int = 0) -> int:
    """Add the names in batches from number `first` on to the table `known`. Returns the number of the next batch."""
    batches = [batch for batch in lake.batches() if _number(batch) >= first]
    found = lake.read_each(batches, lake.recordings_key, ["recording_id", "uris", "status"])
    for table in joined(found):
        connection.register("part", table)
        connection.execute("INSERT INTO known SELECT batch, recording_id, unnest(uris), status FROM part")
    return max((_number(batch) + 1 for batch in batches), default=first)


def _number(batch: str) -> int:
    return int(batch.removeprefix("batch-"))


def _failed_owners(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """Lists, manifests and archives of which the lake holds failures: of themselves, of their lines or members."""
    owner = "regexp_extract(uri, $owner, 1)"
    found = connection.execute(f"SELECT DISTINCT {owner} FROM known WHERE {UNREAD} AND {owner} <> ''", {"owner": OWNER})
    return {name for (name,) in found.fetchall()}


def _load_seen(seen: sqlite3.Connection, lake: Lake) -> None:
    """Table `seen`: rows of MET of names that earlier runs hashed, each found without reading the others."""
    seen.execute("CREATE TABLE seen (uri, size_bytes, mtime_ns, row, now)")
    for _, table in lake.read_each(_seen_keys(lake), str):
        columns = table.filter(pc.greater(table["mtime_ns"], 0)).to_pydict()  # others cannot be told from changed ones
        rows = map(pickle.dumps, zip(*(columns[name] for name in NAMES), strict=True))
        told = (columns["uri"], columns["size_bytes"], columns["mtime_ns"], rows, itertools.repeat(False))
        seen.executemany(ADD_SEEN, zip(*told, strict=False))
    seen.execute("CREATE INDEX seen_names ON seen (uri, size_bytes, mtime_ns)")


def _seen_keys(lake: Lake) -> Iterator[str]:
    """Files of rows of MET that earlier runs left; other files beside them are nobody's."""
    return (key for key in lake.storage.list("runs/ingest") if SEEN.fullmatch(key))


def _meet(
    connection: duckdb.DuckDBPyConnection,
    seen: sqlite3.Connection,
    lake: Lake,
    found: Iterable[Entry],
    config: IngestConfig,
    progress: Callable[[dict[str, Any]], None],
    decode: DecodeConfig,
) -> None:
    """Table `met`: every name of this run, looked at unless an earlier run saw it with the same size and time."""
    connection.register("met_schema", MET.empty_table())
    connection.execute("CREATE TABLE met AS SELECT * FROM met_schema")
    number = max((int(key[-14:-8]) + 1 for key in _seen_keys(lake)), default=0)
    part: list[dict[str, Any]] = []
    fresh: list[dict[str, Any]] = []
    held_bytes = 0

    def flush() -> None:
        nonlocal number, held_bytes
        if part:
            connection.register("part", schemas.table(part, MET))
            connection.execute("INSERT INTO met SELECT * FROM part")
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
        row, is_new = _row(seen, entry, prober, lake.config)
        if is_new:
            fresh.append(row)
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


def _row(seen: sqlite3.Connection, entry: Entry, prober: Prober, config: StorageConfig) -> tuple[dict[str, Any], bool]:
    """The row of MET of an entry, and whether it tells more than what earlier runs kept."""
    recalled: dict[str, Any] = {}
    if entry.error is None:
        try:
            stat = entry.stat or stat_file(entry.uri, config)
            recalled, of_this_run = _recall(seen, entry.uri, stat)
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
        values = tuple(row.get(name) for name in NAMES)
        seen.execute(ADD_SEEN, (row["uri"], row["size_bytes"], row["mtime_ns"], pickle.dumps(values), True))
    return row, "sha256" in row and not (recalled and row["status"] != "ok")


def _recall(seen: sqlite3.Connection, uri: str, stat: Stat) -> tuple[dict[str, Any], bool]:
    """The newest row of MET of a name, if its size and time of change are the same, and whether this run made it."""
    newest = "SELECT row, now FROM seen WHERE (uri, size_bytes, mtime_ns) = (?, ?, ?) ORDER BY rowid DESC LIMIT 1"
    for row, now in seen.execute(newest, (uri, *stat)):
        return dict(zip(NAMES, pickle.loads(row), strict=True)), bool(now)
    return {}, False


def _add_names(connection: duckdb.DuckDBPyConnection, lake: Lake, notes: Notes, result: Ingested) -> None:
    """Give known recordings the new names they were met under, and drop failures that hold no more.

    A failure holds no more where its name or its bytes can be read now (they are in the lake as another row), or
    where it is of a list or archive that was read to its end without naming it again.
    """
    connection.execute("CREATE TABLE finished (owner VARCHAR)")
    connection.executemany("INSERT INTO finished VALUES (?)", [[name] for name in sorted(notes.finished)] or [[None]])
    connection.execute(
        "CREATE TABLE changes AS SELECT DISTINCT k.batch, met.recording_id, met.uri AS added FROM met "
        "JOIN (SELECT DISTINCT batch, recording_id FROM known) AS k ON k.recording_id = met.recording_id "
        "ANTI JOIN known ON known.recording_id = met.recording_id AND known.uri = met.uri "
        "UNION ALL SELECT DISTINCT known.batch, known.recording_id, NULL FROM known JOIN met ON known.uri = met.uri "
        f"WHERE starts_with(known.recording_id, 'u') AND known.recording_id <> met.recording_id "
        "UNION ALL SELECT DISTINCT batch, recording_id, NULL FROM replaced "
        # An ingest that was killed between writing a recording anew and dropping its failure.
        "UNION ALL SELECT DISTINCT batch, recording_id, NULL FROM (FROM known WHERE status <> 'ok') "
        "SEMI JOIN (FROM known WHERE status = 'ok') AS ok USING (recording_id) "
        f"UNION ALL SELECT DISTINCT batch, recording_id, NULL FROM (FROM known WHERE {UNREAD}) AS k "
        "SEMI JOIN finished ON finished.owner = regexp_extract(k.uri, $owner, 1) "
        "ANTI JOIN met ON met.uri = k.uri",
        {"owner": OWNER},
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
            if row["recording_id"] in mended:
                continue
            names = added[row["recording_id"]]
            result.renamed += len(names)
            rows.append(row | {"uris": sorted({*row["uris"], *names})})
        lake.write(lake.recordings_key(batch), schemas.table(rows, schemas.RECORDINGS))


def _write_new(
    connection: duckdb.DuckDBPyConnection, lake: Lake, config: IngestConfig, result: Ingested, number: int
) -> bool:
    """Recordings that the lake lacks, in order of their first name, packed into batches from `number` on.

    So are recordings of which the lake has only failures, and which can be read now; `replaced` holds their old rows.
    False where another ingest has written a batch of that number: what it holds must be known first.
    """
    _set_replaced(connection)
    _bound_hints(connection)
    connection.execute(
        "CREATE OR REPLACE TABLE fresh AS SELECT recording_id, min(uri) AS first_uri, max(status) AS best, "
        "list_sort(list(DISTINCT uri)) AS uris, list_sort(list_distinct(flatten(list(languages)))) AS languages, "
        "list(DISTINCT hint ORDER BY hint) FILTER (hint IS NOT NULL) AS hints FROM met "
        "ANTI JOIN known USING (recording_id) GROUP BY recording_id"
    )
    reader = connection.sql(
        "SELECT m.* EXCLUDE (uri, hint, mtime_ns, languages), f.uris, f.hints, f.languages, r.uris AS old_uris "
        "FROM fresh AS f JOIN (FROM met SELECT DISTINCT ON (recording_id, status) *) AS m "
        "ON m.recording_id = f.recording_id AND m.status = f.best "
        "LEFT JOIN (SELECT recording_id, list(uri) AS uris FROM replaced GROUP BY recording_id) AS r "
        "ON r.recording_id = f.recording_id ORDER BY f.first_uri"
    ).to_arrow_reader(PART_ROWS)
    for rows, names in _batches(reader, config):
        key = lake.recordings_key(f"batch-{number:06d}")
        if not lake.storage.put_if_absent(key, write_parquet_bytes(schemas.table(rows, schemas.RECORDINGS))):
            return False
        number += 1
        result.batches += 1
        result.new += names
        result.failed += sum(row["status"] != "ok" for row in rows)
    return True


def _set_replaced(connection: duckdb.DuckDBPyConnection) -> None:
    """Move from `known` to `replaced` the failures of bytes that can be read now and are nowhere readable yet."""
    connection.execute(
        "CREATE OR REPLACE TABLE mended AS SELECT DISTINCT recording_id FROM (FROM known WHERE status <> 'ok') "
        "SEMI JOIN (FROM met WHERE status = 'ok') AS m USING (recording_id) "
        "ANTI JOIN (FROM known WHERE status = 'ok') AS k USING (recording_id)"
    )
    connection.execute("INSERT INTO replaced FROM known SEMI JOIN mended USING (recording_id)")
    connection.execute("DELETE FROM known WHERE recording_id IN (FROM mended)")


def _bound_hints(connection: duckdb.DuckDBPyConnection) -> None:
    """Leave out what of the hints of one recording is beyond MAX_HINTS_BYTES."""
    connection.execute(
        "CREATE OR REPLACE TABLE heavy AS SELECT recording_id FROM met WHERE hint IS NOT NULL "
        f"GROUP BY recording_id HAVING sum(strlen(hint)) > {MAX_HINTS_BYTES}"
    )
    connection.execute(
        "UPDATE met SET hint = NULL WHERE rowid IN (SELECT row FROM (SELECT rowid AS row, "
        "sum(strlen(hint)) OVER (PARTITION BY recording_id ORDER BY hint, rowid) AS bytes "
        f"FROM met SEMI JOIN heavy USING (recording_id) WHERE hint IS NOT NULL) WHERE bytes > {MAX_HINTS_BYTES})"
    )


def _batches(reader: pa.RecordBatchReader, config: IngestConfig) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The rows of each batch, and how many names were met of them."""
    held: list[dict[str, Any]] = []
    held_s, held_bytes, names = 0.0, 0, 0
    for part in reader:
        for row in part.to_pylist():
            hints, languages, old_uris = row.pop("hints"), row.pop("languages"), row.pop("old_uris")
            met = len(row["uris"])
            if old_uris:
                row["uris"] = sorted({*row["uris"], *old_uris})
            row["hints"] = f"[{', '.join(hints)}]" if hints else None  # each is a JSON object already
            row["language_hint"] = languages[0] if languages and len(languages) == 1 else None
            row |= {"source": config.source, "licence": config.licence}
            duration_s, size = _counted_s(row["claimed_duration_s"]), len(row["hints"] or "")
            if held and (held_s + duration_s > config.batch_hours * 3600 or held_bytes + size > MAX_BATCH_BYTES):
                yield held, names
                held, held_s, held_bytes, names = [], 0.0, 0, 0
            held.append(row)
            held_s, held_bytes, names = held_s + duration_s, held_bytes + size, names + met
    if held:
        yield held, names


def _counted_s(claimed_s: float | None) -> float:
    """What a recording counts in a batch; a claim that cannot be true is none."""
    return claimed_s if claimed_s and math.isfinite(claimed_s) and claimed_s > 0 else UNKNOWN_DURATION_S


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    ((number,),) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(number)
