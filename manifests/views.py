"""The Parquet files of a lake as SQL views of one DuckDB connection, read where they lie and streamed.

`recordings`, one view a stage, `annotations` (recordings with all stages), `judged` (those with their verdicts),
`verdicts`, `windows`, `matches`, `shard_windows`, `ledger` and `batches` are always there, empty if the lake has none.
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

MEMORY_LIMIT = "700MB"
"""Of DuckDB's own buffers, which spill to disk beyond it; the process takes about 150 MB more."""

REMOTE = "lake://"

NUMBER = "[0-9]" * 6
"""In a pattern of names: the number of a batch. Files of other names are no part of a lake."""

CACHED = 2000
"""Batches up to which footers are kept in memory, 40 kB each, which no limit of DuckDB's counts."""

CHECKED = 8
"""Batches whose ids are compared before rows are put side by side."""


def connect() -> duckdb.DuckDBPyConnection:
    """A connection with bounded memory and all threads that spills into the system's temporary folder."""
    spill = str(private_folder() / f"duckdb-{os.getpid()}")
    connection = duckdb.connect()
    connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'; SET temp_directory = {quoted(spill)}")
    connection.execute("SET enable_progress_bar = false")
    return connection


def lock(connection: duckdb.DuckDBPyConnection, folders: Iterable[str]) -> None:
    """From here on SQL of this connection reaches no file outside `folders` and changes no setting.

    DuckDB can write where it can read: SQL that is not ours goes through `manifests.sql`, which lets it read only.
    """
    listed = ", ".join(quoted(folder) for folder in folders)
    connection.execute(f"SET allowed_directories = [{listed}]; SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _read_all(lake: Lake, choice: Choice) -> None:
    """Read every file that views are made of. Raises CorruptFileError."""
    folders = ["recordings", *(f"annotations/{stage}-{mark}" for stage, mark in choice.stages.items())]
    folders += [f"selections/{choice.selection}"] if choice.selection else []
    folders += [f"matches/{mark}"] if (mark := matched_by(lake, choice.selection)) else []
    keys = [key for folder in folders for key in lake.storage.list(folder) if BATCH_FILE.search(key)]
    if choice.dataset:
        ledger = f"datasets/{choice.dataset}/ledger.parquet"
        keys += [*committed_windows(lake, choice.dataset), *([ledger] if lake.storage.exists(ledger) else [])]
    for _ in lake.ahead(lambda key: lake.read(key).num_rows, keys):
        pass


BATCH_FILE = re.compile(r"/(batch|verdicts|windows)-\d{6}\.parquet$")


def open_views(
    lake: Lake,
    choice: Choice | None = None,
    stages: Iterable[str] | None = None,
    numbers: Sequence[str] | None = None,
) -> duckdb.DuckDBPyConnection:
    """A connection that sees the lake and nothing else.

    `stages` bounds what `annotations` joins, all if not given; `judged` is there if "verdicts" is among them. `numbers`
    bounds what is opened to some batches ("000123") and the verdicts and windows of these.

    A local lake is read by DuckDB itself, any other through its storage's filesystem.
    """
    choice = choice or choose(lake)
    opened(partial(_read_all, lake, choice))
    connection = connect()
    folder = root_of(connection, lake)
    base = glob.escape(folder)
    patterns = {"recordings": f"recordings/batch-{NUMBER}.parquet"}
    patterns |= {stage: f"annotations/{stage}-{mark}/batch-{NUMBER}.parquet" for stage, mark in choice.stages.items()}
    if choice.selection:
        patterns |= {name: f"selections/{choice.selection}/{name}-{NUMBER}.parquet" for name in ("verdicts", "windows")}
    if mark := matched_by(lake, choice.selection):
        patterns["matches"] = f"matches/{mark}/batch-{NUMBER}.parquet"
    if choice.dataset:
        patterns |= {"ledger": f"datasets/{choice.dataset}/ledger.parquet"}
    if len(numbers) <= CACHED if numbers else not _matches(connection, base + patterns["recordings"], CACHED):
        connection.execute("SET parquet_metadata_cache = true")
    made: dict[str, list[str]] = {}
    for name, pattern in patterns.items():
        some = dict.fromkeys(base + pattern.replace(NUMBER, number) for number in numbers or [NUMBER])
        if found := [one for one in some if _matches(connection, one)]:
            made[name] = found
    if choice.dataset and (keys := committed_windows(lake, choice.dataset)):
        made["shard_windows"] = [base + glob.escape(key) for key in keys]
    for name, schema in VIEWS.items():
        source = f"FROM {parquet(made[name])}" if name in made else nothing(schema)
        if name == "shard_windows":  # their files hold pairs, which more readers know; a map is what other views have
            source = f"SELECT * REPLACE (map_from_entries(labels) AS labels) FROM ({source})"
        connection.execute(f"CREATE VIEW {name} AS {source}")
    batch = "NULL::VARCHAR AS batch FROM recordings"
    if "recordings" in made:
        batch = f"parse_filename(filename, true) AS batch FROM {parquet(made['recordings'], filename=True)}"
    connection.execute(
        f"CREATE VIEW batches AS SELECT recording_id, uris, source, licence, language_hint, labels, {batch}"
    )
    wanted = {*schemas.STAGES, "verdicts"} if stages is None else set(stages)
    joined = [stage for stage in schemas.STAGES if stage in wanted or stage not in choice.stages]
    zipped = _aligned(connection, made, [stage for stage in joined if stage in made])
    connection.execute(f"CREATE VIEW annotations AS {_annotations(made, joined, zipped)}")
    if "verdicts" in wanted:
        join = "POSITIONAL JOIN verdicts" if _follow(connection, made) else "LEFT JOIN verdicts USING (recording_id)"
        source = f"(SELECT recordings.*, {', '.join(VERDICT.values())} FROM recordings {join})"
        connection.execute(f"CREATE VIEW judged AS {_annotations(made, joined, zipped, source, VERDICT)}")
    lock(connection, [folder, base])  # DuckDB checks the pattern and the files that it matches
    return connection


def matched_by(lake: Lake, selection: str | None) -> str | None:
    """The fingerprint of the matches that a selection was made by, else of the only ones that there are."""
    key = f"selections/{selection}/selection.json"
    if selection and lake.storage.exists(key) and (mark := lake.read_json(key).get("matches")):
        return str(mark)
    marks = folders(lake, "matches")
    return marks[0] if len(marks) == 1 else None


VERDICT = {
    name: f"verdicts.{name.removeprefix('verdict_')} AS {name}"
    for name in (
        *("verdict", "reasons", "duplicate_of", "repeated_share", "repeats", "passages"),
        *("verdict_duration_s", "windows", "windowed_s", "remainder_s"),
    )
}
"""What `judged` adds to `annotations`: the duration by which a recording was counted is 0 where nothing was decoded."""

VIEWS = {
    "recordings": schemas.RECORDINGS,
    **schemas.STAGES,
    "verdicts": schemas.VERDICTS,
    "windows": schemas.WINDOWS,
    "matches": schemas.MATCHES,
    "shard_windows": schemas.SHARD_WINDOWS,
    "ledger": schemas.LEDGER,
}


def nothing(schema: pa.Schema) -> str:
    """SQL of no rows with the columns of `schema`."""
    columns = ", ".join(f'NULL::{_sql_type(column.type)} AS "{column.name}"' for column in schema)
    return f"SELECT {columns} WHERE false"


def _sql_type(kind: pa.DataType) -> str:
    # DuckDB imports pandas, half a second, before it takes an Arrow table.
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
    """Keys of the tables of windows of the committed shards: what a killed run left, or somebody put there, is none."""
    prefix = f"datasets/{dataset}/"
    there = set(lake.storage.list(f"{prefix}windows"))
    return [key for shard in committed(lake.storage, dataset) if (key := prefix + shard.windows) in there]


def _matches(connection: duckdb.DuckDBPyConnection, pattern: str, more_than: int = 0) -> bool:
    return connection.execute(f"SELECT 1 FROM glob($1) LIMIT 1 OFFSET {more_than}", [pattern]).fetchall() != []


def in_order(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the recordings that were read come out of `judged` in the order of their files: not so where it joins."""
    query = "SELECT contains(sql, 'LEFT JOIN') FROM duckdb_views() WHERE view_name = 'judged'"
    return connection.execute(query).fetchall() == [(False,)]


def parquet(patterns: Iterable[str], filename: bool = False) -> str:
    """The table function that reads the files of some patterns, those of each in order of their names."""
    listed = ", ".join(map(quoted, patterns))
    return f"read_parquet([{listed}], hive_partitioning = false, filename = {str(filename).lower()})"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def measured(stages: Iterable[str]) -> dict[str, str]:
    """Columns of a recording with its stages, by name, as SQL over `r` (recordings) and the stages' own names.

    What signal counted wins over what a header claimed. `select` judges recordings by these.
    """
    common = set(schemas.BASE_NAMES)
    columns = {name: f'r."{name}"' for name in schemas.RECORDINGS.names if name not in common - {"recording_id"}}
    for stage in stages:
        columns |= {name: f'{stage}."{name}"' for name in schemas.STAGES[stage].names if name not in common}
    return columns


def _annotations(
    made: Mapping[str, list[str]],
    stages: list[str],
    zipped: bool,
    recordings: str = "recordings",
    more: Iterable[str] = (),
) -> str:
    """One row a recording: rows put side by side, which takes no memory, where they are `zipped`, else joined by id."""

    def fields(there: list[str]) -> str:
        columns = {}
        for name, source in measured(stages).items():
            stage = source.partition(".")[0]
            kind = schemas.STAGES[stage].field(name).type if stage not in ("r", *there) else None
            columns[name] = source if kind is None else f"NULL::{_sql_type(kind)}"
        columns |= {name: f"r.{name}" for name in more}
        return ", ".join(f'{source} AS "{name}"' for name, source in columns.items())

    there = [stage for stage in stages if stage in made]
    if not zipped:
        joins = " ".join(f"LEFT JOIN {stage} USING (recording_id)" for stage in there)
        return f"SELECT {fields(there)} FROM {recordings} AS r {joins}"
    beside = " ".join(f"POSITIONAL JOIN {stage}" for stage in there)
    # A recording that ingest could not read never reached a stage.
    return (
        f"SELECT {fields(there)} FROM (FROM {recordings} WHERE status = 'ok') AS r {beside} "
        f"UNION ALL SELECT {fields([])} FROM {recordings} AS r WHERE status <> 'ok'"
    )


def _aligned(connection: duckdb.DuckDBPyConnection, made: Mapping[str, list[str]], stages: list[str]) -> bool:
    """Whether every stage has a row for each recording that was read, in order; not so while annotating goes on."""
    if not stages or "recordings" not in made:
        return not stages
    read = _counts(connection, made["recordings"], "status = 'ok'")
    return all(
        _counts(connection, made[stage]) == read and _same_ids(connection, made["recordings"], made[stage], read)
        for stage in stages
    )


def _follow(connection: duckdb.DuckDBPyConnection, made: Mapping[str, list[str]]) -> bool:
    """Whether there is a verdict for each recording, in order."""
    if not {"recordings", "verdicts"} <= made.keys():
        return False
    counts = _counts(connection, made["recordings"])
    if _counts(connection, made["verdicts"]) != counts:
        return False
    return _same_ids(connection, made["recordings"], made["verdicts"], counts, "true")


def _counts(connection: duckdb.DuckDBPyConnection, patterns: list[str], which: str = "true") -> list[tuple[str, int]]:
    """Number and rows of each batch, but for those without a row."""
    number = "regexp_extract(filename, '([0-9]+).parquet$', 1)"
    query = f"SELECT {number}, count(*) FROM {parquet(patterns, filename=True)} WHERE {which} GROUP BY ALL ORDER BY ALL"
    return connection.execute(query).fetchall()


def _same_ids(
    connection: duckdb.DuckDBPyConnection,
    recordings: list[str],
    other: list[str],
    counts: list[tuple[str, int]],
    which: str = "status = 'ok'",
) -> bool:
    """Whether ids are equal, row by row, in some batches spread over the lake; `manifest validate` compares all."""
    numbers = [number for number, _ in counts[:: max(1, len(counts) // CHECKED)]]
    if not numbers:
        return True
    ones, others = (
        parquet(dict.fromkeys(pattern.replace(NUMBER, number) for pattern in patterns for number in numbers))
        for patterns in (recordings, other)
    )
    wrong = (
        f"SELECT 1 FROM (FROM {ones} WHERE {which}) AS a POSITIONAL JOIN {others} AS b "
        "WHERE a.recording_id IS DISTINCT FROM b.recording_id LIMIT 1"
    )
    return not connection.execute(wrong).fetchall()


def root_of(connection: duckdb.DuckDBPyConnection, lake: Lake) -> str:
    """What to put before a key so that DuckDB finds it; the connection learns to read other storage than local."""
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


EVERYTHING = re.compile(
    r"(?<!\()(?<!\(\s)\*\s*(,|\)|FROM|EXCLUDE|REPLACE|RENAME|$)|^\s*(FROM|SHOW|DESCRIBE|SUMMARIZE|EXPLAIN)|\bCOLUMNS\s*\(",
    re.IGNORECASE,
)
"""SQL that may ask for any column: a star that is not count(*), and statements about a whole view."""


def stages_of(sql: str) -> set[str]:
    """The stages whose own columns, or whose names, occur in a piece of SQL, all of them where it says `*`; "verdicts"
    where it names `judged`.

    >>> sorted(stages_of("SELECT language, count(*), sum(duration_s) FROM annotations GROUP BY ALL"))
    ['language', 'signal']
    """
    if EVERYTHING.search(sql):
        return {*schemas.STAGES, "verdicts"}
    words = set(re.findall(r"\w+", sql.lower()))
    own = {stage: set(schema.names) - set(schemas.BASE_NAMES) for stage, schema in schemas.STAGES.items()}
    stages = {stage for stage in own if stage in words or own[stage] & words}
    return stages | ({"verdicts"} if "judged" in words else set())
