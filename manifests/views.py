"""The Parquet files of a lake as SQL views of one DuckDB connection. Files are read in place and streamed.

Two wide views answer most questions: `recordings` has every column of a recording and `windows` every column of a
window and of its recording. The others are narrow: `ingest`, one view for each stage, `annotations` (the columns that
rules can read), `verdicts`, `window_verdicts`, `matches`, `shard_windows`, `ledger` and `batches` (which batch file
holds a recording). All of them always exist; a view is empty if the lake has no such files.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import duckdb
import pyarrow as pa

from manifests import schemas
from manifests.choice import Choice, ChoiceError, choose, folders
from manifests.corrupt import opened
from manifests.install import install
from manifests.lake import Lake
from manifests.shards import committed
from manifests.storage.local import private_folder
from manifests.view_columns import OTHER_PARTS, VERDICT, VIEWS, annotation_columns, recording_columns, window_columns

MEMORY_LIMIT = "700MB"
"""Limit of DuckDB's own buffers, which spill to disk beyond it. The process itself takes about 150 MB more."""

REMOTE = "lake://"

NUMBER = "[0-9]" * 6
"""Glob pattern of the number of a batch. Files with other names are not part of a lake."""

MAX_CACHED_FOOTERS = 2000
"""Largest number of batches whose Parquet footers are kept in memory: 40 kB each, outside DuckDB's memory limit."""

CHECKED = 8
"""Number of batches whose ids are compared before rows are placed side by side."""


def connect() -> duckdb.DuckDBPyConnection:
    """A connection with bounded memory and one thread per core that spills into the system's temporary folder."""
    spill = str(private_folder() / f"duckdb-{os.getpid()}")
    connection = duckdb.connect()
    connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'; SET temp_directory = {quoted(spill)}")
    connection.execute("SET enable_progress_bar = false")
    return connection


def lock(connection: duckdb.DuckDBPyConnection, folders: Iterable[str]) -> None:
    """Restrict the connection to files inside `folders`, and keep its settings from being changed.

    DuckDB can write wherever it can read, so SQL of users also goes through `manifests.sql`, which allows reading only.
    """
    listed = ", ".join(quoted(folder) for folder in folders)
    connection.execute(f"SET allowed_directories = [{listed}]; SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _read_every_file(lake: Lake, choice: Choice) -> None:
    """Read every file that the views consist of. Raises CorruptFileError."""
    folders = ["recordings", *(f"annotations/{stage}-{fingerprint}" for stage, fingerprint in choice.stages.items())]
    folders += [f"selections/{choice.selection}"] if choice.selection else []
    folders += [f"matches/{fingerprint}"] if (fingerprint := matched_by(lake, choice.selection)) else []
    keys = [key for folder in folders for key in lake.storage.list(folder) if BATCH_FILE.search(key)]
    if choice.dataset:
        ledger = f"datasets/{choice.dataset}/ledger.parquet"
        keys += [*committed_windows(lake, choice.dataset), *([ledger] if lake.storage.exists(ledger) else [])]
    for _ in lake.prefetch(lambda key: lake.read(key).num_rows, keys):
        pass


BATCH_FILE = re.compile(r"/(batch|verdicts|windows)-\d{6}\.parquet$")


def open_views(
    lake: Lake,
    choice: Choice | None = None,
    parts: Iterable[str] | None = None,
    numbers: Sequence[str] | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open a connection that sees the views of the lake and no other file.

    DuckDB reads the files of a local lake itself, and those of any other lake through its storage's filesystem.

    Args:
        lake: The lake to open.
        choice: Which selection, dataset and results of stages to show; the newest if not given.
        parts: What the wide views contain beside the columns of ingest: the names of stages, "verdicts" for the
            verdict of a recording, "windows" for the columns of the recording in `windows`. Everything if not given.
            Each part costs a check of its files and a join; `parts_needed` finds those that a piece of SQL needs.
        numbers: Numbers of the batches to open, such as "000123", with their verdicts and windows; all if not given.
    """
    choice = choice or choose(lake)
    opened(partial(_read_every_file, lake, choice))
    connection = connect()
    folder = root_of(connection, lake)
    base = glob.escape(folder)
    patterns = {"ingest": f"recordings/batch-{NUMBER}.parquet"}
    patterns |= {
        stage: f"annotations/{stage}-{fingerprint}/batch-{NUMBER}.parquet"
        for stage, fingerprint in choice.stages.items()
    }
    if choice.selection:
        stored = {"verdicts": "verdicts", "window_verdicts": "windows"}
        patterns |= {view: f"selections/{choice.selection}/{name}-{NUMBER}.parquet" for view, name in stored.items()}
    if fingerprint := matched_by(lake, choice.selection):
        patterns["matches"] = f"matches/{fingerprint}/batch-{NUMBER}.parquet"
    if choice.dataset:
        patterns |= {"ledger": f"datasets/{choice.dataset}/ledger.parquet"}
    most = MAX_CACHED_FOOTERS
    if len(numbers) <= most if numbers else not _matches(connection, base + patterns["ingest"], most):
        connection.execute("SET parquet_metadata_cache = true")
    files: dict[str, list[str]] = {}
    for name, pattern in patterns.items():
        candidates = dict.fromkeys(base + pattern.replace(NUMBER, number) for number in numbers or [NUMBER])
        if existing := [one for one in candidates if _matches(connection, one)]:
            files[name] = existing
    if choice.dataset and (keys := committed_windows(lake, choice.dataset)):
        files["shard_windows"] = [base + glob.escape(key) for key in keys]
    for name, schema in VIEWS.items():
        source = f"FROM {parquet(files[name])}" if name in files else empty_table_sql(schema)
        if name == "shard_windows":  # their files hold pairs, which more readers know; other views have maps
            source = f"SELECT * REPLACE (map_from_entries(labels) AS labels) FROM ({source})"
        connection.execute(f"CREATE VIEW {name} AS {source}")
    batch = "NULL::VARCHAR AS batch FROM ingest"
    if "ingest" in files:
        batch = f"parse_filename(filename, true) AS batch FROM {parquet(files['ingest'], filename=True)}"
    connection.execute(
        f"CREATE VIEW batches AS SELECT recording_id, uris, source, licence, language_hint, labels, {batch}"
    )
    _create_wide_views(connection, choice, files, {*schemas.STAGES, *OTHER_PARTS} if parts is None else set(parts))
    lock(connection, [folder, base])  # DuckDB checks the pattern and the files that it matches
    return connection


def _create_wide_views(
    connection: duckdb.DuckDBPyConnection, choice: Choice, files: Mapping[str, list[str]], parts: set[str]
) -> None:
    """Create `annotations`, `recordings` and `windows` of these parts; columns of missing stages are null."""
    stages = [stage for stage in schemas.STAGES if stage in parts or stage not in choice.stages]
    aligned = _stages_aligned(connection, files, [stage for stage in stages if stage in files])
    annotations = {name: [source] for name, source in annotation_columns(stages).items()}
    connection.execute(f"CREATE VIEW annotations AS {_side_by_side(files, stages, aligned, annotations)}")
    columns = recording_columns(stages, "verdicts" in parts)
    source = "ingest"
    if "verdicts" in parts:
        join = "LEFT JOIN verdicts USING (recording_id)"
        if _verdicts_aligned(connection, files):
            join = "POSITIONAL JOIN verdicts"
        verdict = ", ".join(f"verdicts.{stored} AS {name}" for name, stored in VERDICT.items())
        source = f"(SELECT ingest.*, {verdict} FROM ingest {join})"
    connection.execute(f"CREATE VIEW recordings AS {_side_by_side(files, stages, aligned, columns, source)}")
    join, added = "", ""
    if "windows" in parts:
        added = "".join(f', r."{stored}" AS "{name}"' for name, stored in window_columns(columns).items())
        join = "LEFT JOIN recordings AS r ON w.recording_id = r.recording_id"
    connection.execute(f"CREATE VIEW windows AS SELECT w.*{added} FROM window_verdicts AS w {join}")


def matched_by(lake: Lake, selection: str | None) -> str | None:
    """Return the fingerprint of the matches of a selection; without these, that of the only matches of the lake."""
    key = f"selections/{selection}/selection.json"
    if selection and lake.storage.exists(key) and (fingerprint := lake.read_json(key).get("matches")):
        return str(fingerprint)
    fingerprints = folders(lake, "matches")
    return fingerprints[0] if len(fingerprints) == 1 else None


def empty_table_sql(schema: pa.Schema) -> str:
    """SQL of a table without rows that has the columns of `schema`."""
    columns = ", ".join(f'NULL::{_sql_type(column.type)} AS "{column.name}"' for column in schema)
    return f"SELECT {columns} WHERE false"


def _sql_type(kind: pa.DataType) -> str:
    # Giving DuckDB an Arrow table instead would make it import pandas, which takes half a second.
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"MAP({_sql_type(kind.key_type)}, {_sql_type(kind.item_type)})"
    if pa.types.is_struct(kind):
        fields = ", ".join(f'"{column.name}" {_sql_type(column.type)}' for column in kind)
        return f"STRUCT({fields})"
    return {"string": "VARCHAR", "int32": "INTEGER", "int64": "BIGINT", "double": "DOUBLE", "bool": "BOOLEAN"}[
        str(kind)
    ]


def committed_windows(lake: Lake, dataset: str) -> list[str]:
    """Keys of the tables of windows of the committed shards; files of a killed run are not among them."""
    prefix = f"datasets/{dataset}/"
    stored = set(lake.storage.list(f"{prefix}windows"))
    return [key for shard in committed(lake.storage, dataset) if (key := prefix + shard.windows) in stored]


def _matches(connection: duckdb.DuckDBPyConnection, pattern: str, more_than: int = 0) -> bool:
    return connection.execute(f"SELECT 1 FROM glob($1) LIMIT 1 OFFSET {more_than}", [pattern]).fetchall() != []


def in_order(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether `recordings` gives readable recordings in the order of their files, which a join by id does not."""
    query = "SELECT contains(sql, 'LEFT JOIN') FROM duckdb_views() WHERE view_name = 'recordings'"
    return connection.execute(query).fetchall() == [(False,)]


def parquet(patterns: Iterable[str], filename: bool = False) -> str:
    """SQL of the table function that reads the files of some patterns, those of each in order of their names."""
    listed = ", ".join(map(quoted, patterns))
    return f"read_parquet([{listed}], hive_partitioning = false, filename = {str(filename).lower()})"


def quoted(text: str) -> str:
    """The text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _side_by_side(
    files: Mapping[str, list[str]],
    stages: list[str],
    aligned: bool,
    columns: Mapping[str, Sequence[str]],
    recordings: str = "ingest",
) -> str:
    """SQL with one row for each recording and these `columns`.

    Where the files are `aligned`, their rows are placed side by side, which takes no memory; else they are
    joined by id.
    """

    def fields(present: list[str]) -> str:
        available = {"r", *present}
        return ", ".join(f'{_first_of(sources, available)} AS "{name}"' for name, sources in columns.items())

    present = [stage for stage in stages if stage in files]
    if not (aligned and present):
        joins = " ".join(f"LEFT JOIN {stage} USING (recording_id)" for stage in present)
        return f"SELECT {fields(present)} FROM {recordings} AS r {joins}"
    joins = " ".join(f"POSITIONAL JOIN {stage}" for stage in present)
    # Stages have no row for a recording that ingest could not read.
    return (
        f"SELECT {fields(present)} FROM (FROM {recordings} WHERE status = 'ok') AS r {joins} "
        f"UNION ALL SELECT {fields([])} FROM {recordings} AS r WHERE status <> 'ok'"
    )


def _first_of(sources: Sequence[str], available: set[str]) -> str:
    """SQL of the first value that is not null, of the sources whose table is available; a typed null without any."""
    usable = [source for source in sources if source.partition(".")[0] in available]
    if not usable:
        stage, _, name = sources[0].partition(".")
        return f"NULL::{_sql_type(schemas.STAGES[stage].field(name.strip(chr(34))).type)}"
    return usable[0] if len(usable) == 1 else f"coalesce({', '.join(usable)})"


def _stages_aligned(connection: duckdb.DuckDBPyConnection, files: Mapping[str, list[str]], stages: list[str]) -> bool:
    """Whether every stage has a row for each readable recording, in the same order. It has not while annotating."""
    if not stages or "ingest" not in files:
        return not stages
    counts = _counts(connection, files["ingest"], "status = 'ok'")
    return all(
        _counts(connection, files[stage]) == counts and _same_ids(connection, files["ingest"], files[stage], counts)
        for stage in stages
    )


def _verdicts_aligned(connection: duckdb.DuckDBPyConnection, files: Mapping[str, list[str]]) -> bool:
    """Whether there is a verdict for each recording, in the same order."""
    if not {"ingest", "verdicts"} <= files.keys():
        return False
    counts = _counts(connection, files["ingest"])
    if _counts(connection, files["verdicts"]) != counts:
        return False
    return _same_ids(connection, files["ingest"], files["verdicts"], counts, "true")


def _counts(connection: duckdb.DuckDBPyConnection, patterns: list[str], where: str = "true") -> list[tuple[str, int]]:
    """Number of each batch and of its rows that meet `where`; batches without such a row are left out."""
    number = "regexp_extract(filename, '([0-9]+).parquet$', 1)"
    query = f"SELECT {number}, count(*) FROM {parquet(patterns, filename=True)} WHERE {where} GROUP BY ALL ORDER BY ALL"
    return connection.execute(query).fetchall()


def _same_ids(
    connection: duckdb.DuckDBPyConnection,
    recordings: list[str],
    other: list[str],
    counts: list[tuple[str, int]],
    where: str = "status = 'ok'",
) -> bool:
    """Whether ids are equal, row by row, in about 8 batches spread over the lake; `manifest validate` compares all."""
    numbers = [number for number, _ in counts[:: max(1, len(counts) // CHECKED)]]
    if not numbers:
        return True
    ones, others = (
        parquet(dict.fromkeys(pattern.replace(NUMBER, number) for pattern in patterns for number in numbers))
        for patterns in (recordings, other)
    )
    different = (
        f"SELECT 1 FROM (FROM {ones} WHERE {where}) AS a POSITIONAL JOIN {others} AS b "
        "WHERE a.recording_id IS DISTINCT FROM b.recording_id LIMIT 1"
    )
    return not connection.execute(different).fetchall()


def root_of(connection: duckdb.DuckDBPyConnection, lake: Lake) -> str:
    """The prefix that turns a key of the lake into a path for DuckDB.

    For a lake in a bucket, this also registers its filesystem with the connection.
    """
    if "://" not in lake.storage.root:
        return lake.storage.root + "/"
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
    except ImportError as error:
        raise ChoiceError(f"{lake.storage.root} is read with fsspec", install(["s3"])) from error

    class LakeFileSystem(ArrowFSWrapper):
        protocol = "lake"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix(REMOTE)

    connection.register_filesystem(LakeFileSystem(lake.storage.filesystem()))
    return REMOTE
