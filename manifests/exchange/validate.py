"""Validate a lake or foreign manifests: schemas, ids, references, durations, turns, and shards against their commits.

Schemas and columns of ids are compared file by file; the rows of each table are checked by one aggregate query of
DuckDB. Of a shard's files only the sizes are compared; `manifests.verify` recounts a dataset from their bytes.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from manifests import choice, ledger, schemas, views
from manifests.corrupt import CorruptFileError, difference, remedy_of
from manifests.coverage import coverage
from manifests.exchange import checks
from manifests.exchange.relations import Source
from manifests.lake import Lake
from manifests.output import counted
from manifests.schemas.row_checks import RowCheck
from manifests.shards import ShardCommit, committed
from manifests.verify import verify

ENCODE = "run encode again, which makes the shards that have no commit"
MAKE = (
    "run encode again, with --retry-failed for shards that are empty; if it refuses because recordings were added "
    "since, encode under another name"
)
RETRY = "read the errors in their rows; encode with --retry-failed makes their shards again"


@dataclass(frozen=True)
class Problem:
    """A fault of a lake or a manifest.

    `key` names the file or folder, `rows` says how many rows are affected, and `example` is the id of one of them.
    """

    key: str
    what: str
    remedy: str
    rows: int | None = None
    example: str | None = None
    note: bool = False
    """Whether this is only worth knowing, and no fault of the lake."""

    def __str__(self) -> str:
        of = "" if self.rows is None else f" ({counted(self.rows, 'row')}, first {self.example})"
        return f"{'note: ' * self.note}{self.key}: {self.what}{of}; remedy: {self.remedy}"


def validate(lake: Lake, only: str = "", deep: bool = False) -> list[Problem]:
    """Every problem of a lake, or of what lies under the key `only`; `deep` recounts its shards, too."""
    return list(_LakeCheck(lake, only.rstrip("/"), deep).run())


def validate_foreign(source: Source) -> list[Problem]:
    """Every problem of manifests that were loaded together.

    References to recordings are checked if the manifests describe any recording.
    """
    recordings = source.relations["recordings"]
    described = bool(source.value(f"SELECT count(*) FROM {recordings} WHERE duration_s IS NOT NULL"))
    channels = (
        "coalesce(json_extract(r.rest, '$.lhotse.channel_ids')::INTEGER[], list_transform(range(r.channels), "
        "lambda x: x::INTEGER)) AS recording_channels"
    )
    problems: list[Problem] = []
    for table, row_checks in checks.FOREIGN.items():
        id_column = {"recordings": "recording_id", "segments": "segment_id", "windows": "window_id"}[table]
        rows = f"SELECT *, '{table}' AS key FROM {source.relations[table]}"
        if table != "recordings":
            unknown = f"{described} AND r.recording_id IS NULL AND t.recording_id IS NOT NULL AS unknown"
            rows = f"SELECT t.*, r.duration_s AS recording_s, {channels}, {unknown} FROM ({rows}) AS t "
            rows += f"LEFT JOIN {recordings} AS r USING (recording_id)"
        problems += failed_checks(source.connection, rows, id_column, row_checks)
        problems += repeated_ids(source.connection, source.relations[table], id_column, table, checks.CORRECT)
    return problems


def failed_checks(
    connection: duckdb.DuckDBPyConnection, query: str, id_column: str, row_checks: Sequence[RowCheck]
) -> Iterator[Problem]:
    """Apply all checks to the rows of a query in one scan.

    Args:
        connection: Where the query runs.
        query: A SELECT whose column `key` names the file of each row.
        id_column: The column whose least value among bad rows is given as the example.
        row_checks: Each check that any row fails makes one problem.
    """
    columns = ", ".join(
        f"count(*) FILTER ({check.bad}), min({id_column}) FILTER ({check.bad}), "
        f"arg_min(key, {id_column}) FILTER ({check.bad})"
        for check in row_checks
    )
    (row,) = connection.execute(f"SELECT {columns} FROM ({query})").fetchall()
    for index, check in enumerate(row_checks):
        count, example, key = row[3 * index : 3 * index + 3]
        if count:
            yield Problem(key, check.what, check.remedy, count, example)


def repeated_ids(
    connection: duckdb.DuckDBPyConnection, table: str, id_column: str, key: str, remedy: str
) -> Iterator[Problem]:
    """Report ids that more than one row of a table has."""
    query = f"SELECT {id_column} AS id FROM {table} GROUP BY ALL HAVING count(*) > 1"
    ((count, example),) = connection.execute(f"SELECT count(*), min(id) FROM ({query})").fetchall()
    if count:
        yield Problem(key, f"the same {id_column} more than once", remedy, count, example)


class _LakeCheck:
    def __init__(self, lake: Lake, only: str, deep: bool) -> None:
        self.lake, self.only, self.deep = lake, only, deep
        self.connection = views.connect()
        self.root = glob.escape(views.root_of(self.connection, lake))
        self.broken: set[str] = set()
        """Folders with a file that cannot be queried together with the others."""

    def run(self) -> Iterator[Problem]:
        names = {part: choice.folders(self.lake, part) for part in ("annotations", "selections", "datasets")}
        folders = {
            part: [f"{part}/{name}" for name in found if self._wanted(f"{part}/{name}")]
            for part, found in names.items()
        }
        batches = set(self.lake.batches())
        if not batches:
            yield Problem(
                "recordings", "the lake has no recordings", "check the name of the lake, or ingest recordings"
            )
            return
        if self.only and self.only != "recordings" and not any(folders.values()):
            yield Problem(self.only, "nothing of that name in the lake", "name one of its folders")
        # All files are read, because tables are compared with each other; only the requested problems are reported.
        for problem in self._files(
            sorted(batches), {part: [f"{part}/{name}" for name in names[part]] for part in names}
        ):
            if self._wanted(problem.key):
                yield problem
        if self._wanted("recordings") and self._queried("recordings"):
            yield from failed_checks(self.connection, self._rows("recordings"), "recording_id", checks.RECORDINGS)
            yield from repeated_ids(
                self.connection, f"({self._rows('recordings')})", "recording_id", "recordings", checks.INGEST
            )
        self._durations(names["annotations"])
        for folder in folders["annotations"]:
            yield from self._stage(folder)
        for folder in folders["selections"]:
            yield from self._selection(folder)
        for folder in folders["datasets"]:
            yield from self._dataset(folder, names["selections"])

    def _wanted(self, folder: str) -> bool:
        return not self.only or f"{folder}/".startswith(f"{self.only}/") or self.only.startswith(f"{folder}/")

    def _rows(self, folder: str, kind: str = "batch") -> str:
        """A query for the rows of one kind of files in a folder, with the key of each row's file."""
        key = f"concat({views.quoted(folder + '/')}, parse_filename(filename)) AS key"
        files = views.parquet(self._patterns(folder, kind), filename=True)
        return f"SELECT * EXCLUDE (filename), {key} FROM {files}"

    def _patterns(self, folder: str, kind: str) -> list[str]:
        if kind == "shards":
            keys = views.committed_windows(self.lake, folder.split("/")[1])
            return [self.root + glob.escape(key) for key in keys]
        return [f"{self.root}{folder}/{kind}-{views.NUMBER}.parquet"]

    def _queried(self, folder: str, kind: str = "batch") -> bool:
        """Whether a folder has files of this kind, and all of them can be queried."""
        found = (
            self.connection.execute("SELECT 1 FROM glob($1) LIMIT 1", [pattern]).fetchall()
            for pattern in self._patterns(folder, kind)
        )
        return folder not in self.broken and any(found)

    # Files: each can be read, has its schema, and has the recordings of its batch in their order.

    def _files(self, batches: list[str], folders: dict[str, list[str]]) -> Iterator[Problem]:
        for batch in batches:
            recordings, problem = self._read(
                f"recordings/{batch}.parquet", schemas.RECORDINGS, ["recording_id", "status"]
            )
            if recordings is None:
                yield from problem
                continue
            every = recordings["recording_id"]
            read = recordings.filter(pc.equal(recordings["status"], "ok"))["recording_id"]
            expected = [(f"{folder}/{batch}.parquet", self._schema(folder), read) for folder in folders["annotations"]]
            for folder in folders["selections"]:
                number = batch.removeprefix("batch")
                expected.append((f"{folder}/verdicts{number}.parquet", schemas.VERDICTS, every))
                expected.append((f"{folder}/windows{number}.parquet", schemas.WINDOWS, None))
            for key, schema, ids in expected:
                if schema is None:
                    continue
                found, problem = self._read(key, schema, ["recording_id"])
                yield from problem
                if found is not None and ids is not None and not found["recording_id"].equals(ids):
                    what = f"does not have the recordings of {batch} in their order"
                    yield Problem(key, what, checks.ANNOTATE if "annotations" in key else checks.SELECT)
        for folder in folders["annotations"] + folders["selections"]:
            if self._schema(folder) is None and folder.startswith("annotations/"):
                yield Problem(
                    folder, "a stage that this version does not know", "use the version of speechmill that wrote it"
                )
            for key in self.lake.storage.list(folder):
                stem = key.rpartition("/")[2].removesuffix(".parquet")
                if key.endswith(".parquet") and "batch-" + stem.rpartition("-")[2] not in batches:
                    yield Problem(key, "there is no such batch of recordings", "delete it, or restore the batch")
        for key in self.lake.storage.list("recordings"):
            if key.endswith(".parquet") and key.rpartition("/")[2].removesuffix(".parquet") not in batches:
                yield Problem(key, "its name is not that of a batch, so nothing reads it", "move it elsewhere")

    def _schema(self, folder: str) -> pa.Schema | None:
        return schemas.STAGES.get(folder.removeprefix("annotations/").rpartition("-")[0])

    def _read(self, key: str, schema: pa.Schema, columns: list[str]) -> tuple[pa.Table | None, list[Problem]]:
        """Read columns of a file that can be read and has the expected schema; None for any other file.

        A missing file is no problem: its step has not run yet.
        """
        try:
            table = self.lake.read(key)  # all columns, so that the checksum of every page is compared
            if table.schema.equals(schema):
                return table.select(columns), []
            what, remedy = difference(table.schema, schema), remedy_of(key)
        except FileNotFoundError:
            return None, []
        except CorruptFileError as error:
            what, remedy = error.what, error.remedy
        self.broken.add(key.rpartition("/")[0])
        return None, [Problem(key, what, remedy)]

    # Rows: one scan of each table, unless one of its files could not be read.

    def _durations(self, folders: list[str]) -> None:
        """Create the view `durations`: duration and tracks of each recording that was decoded."""
        signal = [f"annotations/{name}" for name in folders if name.startswith("signal-")]
        union = " UNION ALL ".join(
            f"SELECT recording_id, duration_s, tracks FROM ({self._rows(folder)})"
            for folder in signal
            if self._queried(folder)
        )
        if len(signal) > 1:
            union = (
                f"SELECT recording_id, max(duration_s) AS duration_s, max(tracks) AS tracks FROM ({union}) GROUP BY ALL"
            )
        nothing = (
            "SELECT NULL::VARCHAR AS recording_id, NULL::DOUBLE AS duration_s, NULL::INTEGER AS tracks WHERE false"
        )
        self.connection.execute(f"CREATE VIEW durations AS {union or nothing}")

    def _stage(self, folder: str) -> Iterator[Problem]:
        stage = folder.removeprefix("annotations/").rpartition("-")[0]
        if stage not in schemas.STAGES or not self._queried(folder):
            return
        rows = self._rows(folder)
        if stage != "signal":
            rows = f"SELECT s.*, duration_s, tracks FROM ({rows}) AS s LEFT JOIN durations USING (recording_id)"
        yield from failed_checks(self.connection, rows, "recording_id", checks.STAGES[stage])

    def _selection(self, folder: str) -> Iterator[Problem]:
        stored: dict[str, Any] = {}
        funnel: dict[str, Any] = {}
        for name, into, keys in (("selection.json", stored, ["stages"]), ("funnel.json", funnel, ["windows"])):
            try:
                into |= self.lake.read_json(f"{folder}/{name}", *keys)
            except (FileNotFoundError, CorruptFileError) as error:
                yield Problem(f"{folder}/{name}", f"cannot be read: {error}", checks.SELECT)
        for stage, fingerprint in stored.get("stages", {}).items():
            if f"{stage}-{fingerprint}" not in choice.folders(self.lake, "annotations"):
                yield Problem(
                    folder, f"was made from annotations/{stage}-{fingerprint}, which does not exist", checks.SELECT
                )
        if not self._queried(folder, "verdicts"):
            return
        verdicts, windows = self._rows(folder, "verdicts"), self._rows(folder, "windows")
        found = f"SELECT recording_id, count(*) AS found FROM ({windows}) GROUP BY ALL"
        judged = (
            f"SELECT v.*, coalesce(found, 0) AS found FROM ({verdicts}) AS v LEFT JOIN ({found}) USING (recording_id)"
        )
        yield from failed_checks(self.connection, judged, "recording_id", checks.VERDICTS)
        before = "lag(recording_id) OVER () AS previous_id, lag(start_s) OVER () AS previous_s"
        cut = (
            f"SELECT w.*, v.verdict, v.duration_s AS recording_s FROM (SELECT *, {before} FROM ({windows})) AS w "
            f"LEFT JOIN ({verdicts}) AS v USING (recording_id)"
        )
        yield from failed_checks(self.connection, cut, "window_id", checks.WINDOWS)
        for what, query in (
            ("recordings", f"SELECT count(*) FROM ({verdicts})"),
            ("windows", f"SELECT count(*) FROM ({windows})"),
        ):
            ((count,),) = self.connection.execute(query).fetchall()
            if what in funnel and (stated := funnel[what]["in"]["count"]) != count:
                yield Problem(
                    f"{folder}/funnel.json", f"counts {stated:,} {what}, but there are {count:,}", checks.SELECT
                )

    def _dataset(self, folder: str, selections: list[str]) -> Iterator[Problem]:
        storage, name = self.lake.storage, folder.removeprefix("datasets/")
        expected: set[str] = set()
        for shard in committed(storage, name):
            key = f"{folder}/{shard.commit}"
            try:
                commit = ShardCommit.read(storage, key)
            except CorruptFileError as error:
                yield Problem(key, error.what, error.remedy)
                continue
            expected |= {f"{folder}/{file}" for file in shard.parts}
            for file, known in commit.files.items():
                yield from self._size(f"{folder}/{file}", known["size_bytes"], key)
            try:
                ledger.committed_windows(self.lake, name, shard, commit)
            except CorruptFileError as error:
                table, problem = self._read(error.key, schemas.SHARD_WINDOWS, [])
                yield from problem
                if table is not None:  # a missing file was reported with the sizes
                    yield Problem(error.key, error.what, error.remedy)
        for part in choice.folders(self.lake, folder):
            for key in storage.list(f"{folder}/{part}") if part not in ("commits", "versions") else ():
                if key not in expected:
                    yield Problem(
                        key,
                        "is in no commit: left by a killed run, or a stray file that readers take for data",
                        f"{ENCODE}; else move it",
                    )
        yield from self._shard_windows(folder, selections)
        if self.deep:
            for fault in verify(self.lake, name):
                yield Problem(fault.key, fault.what, remedy_of(fault.key), note=fault.note)

    def _size(self, key: str, size_bytes: int, commit: str) -> Iterator[Problem]:
        try:
            stored_bytes = self.lake.storage.size(key)
        except FileNotFoundError:
            yield Problem(key, "missing", f"delete {commit} and run encode again")
            return
        if stored_bytes != size_bytes:
            what = f"{stored_bytes:,} bytes, but its commit says {size_bytes:,}"
            yield Problem(key, what, f"delete {commit} and run encode again")

    def _shard_windows(self, folder: str, selections: list[str]) -> Iterator[Problem]:
        """Check that each kept window is in exactly one shard, and that the ledger counts them all."""
        try:
            name = str(self.lake.read_json(f"{folder}/plan.json", "selection")["selection"])
        except (FileNotFoundError, CorruptFileError) as error:
            yield Problem(f"{folder}/plan.json", f"cannot be read: {error}", ENCODE)
            return
        selection = f"selections/{name}"
        there = name in selections and selection not in self.broken
        if not there:
            yield Problem(f"{folder}/plan.json", f"{selection} is missing or damaged", "restore it, or select again")
        elif not self.deep and f"{folder}/windows" not in self.broken:  # `verify` reports the same
            content = coverage(self.lake, folder.removeprefix("datasets/"), name)
            for part, what, note in content.problems(name):
                yield Problem(f"{folder}/{part}", what, MAKE, note=note)
            for what in content.notes():
                yield Problem(f"{folder}/windows", what, RETRY, note=True)
        if not self._queried(f"{folder}/windows", "shards"):
            return
        rows = self._rows(f"{folder}/windows", "shards")
        joined = f"SELECT *, true AS selected FROM ({rows})"
        if there and self._queried(selection, "windows"):
            kept = f"SELECT window_id, true AS selected FROM ({self._rows(selection, 'windows')}) WHERE kept"
            joined = f"SELECT s.*, selected FROM ({rows}) AS s LEFT JOIN ({kept}) USING (window_id)"
        yield from failed_checks(self.connection, joined, "window_id", checks.SHARD_WINDOWS)
        yield from repeated_ids(
            self.connection, f"({rows})", "window_id", f"{folder}/windows", "encode under another name"
        )
        counts, problem = self._read(f"{folder}/ledger.parquet", schemas.LEDGER, ["patch", "windows"])
        yield from problem
        if counts is None:
            if not problem:
                yield Problem(f"{folder}/ledger.parquet", "missing", ENCODE)
            return
        stated = pc.sum(counts.filter(pc.equal(counts["patch"], 1))["windows"]).as_py() or 0
        ((ok,),) = self.connection.execute(f"SELECT count(*) FROM ({rows}) WHERE status = 'ok'").fetchall()
        if stated != ok:
            yield Problem(f"{folder}/ledger.parquet", f"counts {stated:,} windows, but the shards hold {ok:,}", ENCODE)
