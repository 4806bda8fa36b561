"""SQL that people and recipes give: it reads what it is meant to read, and whatever might write is refused."""

import hashlib
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner
from lakes import rules, write_lake

from manifests.choice import choose
from manifests.commands.what_if import what_if
from manifests.lake import Lake
from manifests.report.report import Report
from manifests.rules import RuleError
from manifests.select import select
from manifests.sql import NotReadingError, ask
from manifests.views import open_views
from pipelines.commands.cli import cli

BATCHES = [[{"id": "a1", "duration_s": 41.0, "speech": [(0, 9), (10, 12), (20, 40)]}, {"id": "a2", "duration_s": 30.0}]]
COPY = "COPY (SELECT 1 AS x) TO 'LAKE/recordings/batch-000000.parquet'"
WRITING = [
    COPY,
    f"EXPLAIN ANALYZE {COPY}",
    f"explain analyse {COPY}",
    f"EXPLAIN (ANALYZE) {COPY}",
    f"EXPLAIN (ANALYZE, FORMAT json) {COPY}",
    f"/* c */ EXPLAIN -- c\n ANALYZE {COPY}",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
    f"WITH a AS ({COPY}) SELECT * FROM a",
    f"EXPLAIN WITH a AS ({COPY}) SELECT * FROM a",
    f"(WITH a AS ({COPY}) SELECT * FROM a)",
    f"WITH b AS (WITH a AS ({COPY}) FROM a) FROM b",
    f"WITH RECURSIVE b AS (SELECT 1 UNION ALL (WITH a AS ({COPY}) FROM a)) FROM b",
    f"SELECT (WITH a AS ({COPY}) SELECT count(*) FROM a)",
    f"DESCRIBE WITH a AS ({COPY}) SELECT * FROM a",
    f"SUMMARIZE WITH a AS ({COPY}) SELECT * FROM a",
    f"SELECT 1; {COPY}",
    f"{COPY}; SELECT 1",
    f"PREPARE p AS {COPY}",
    "EXECUTE p",
    "WITH a AS (INSERT INTO t VALUES (1) RETURNING *) FROM a",
    "WITH a AS (DELETE FROM t RETURNING *) FROM a",
    "EXPORT DATABASE 'LAKE/exported'",
    "IMPORT DATABASE 'LAKE/exported'",
    "PRAGMA import_database('LAKE/exported')",
    "ATTACH 'LAKE/new.duckdb'",
    "CREATE TABLE t AS SELECT 1",
    "CREATE MACRO m() AS TABLE SELECT 1",
    "INSERT INTO recordings SELECT * FROM recordings",
    "UPDATE recordings SET status = 'ok'",
    "DELETE FROM recordings",
    "CALL enable_logging(storage='file', storage_path='LAKE/log')",
    "FROM enable_logging(storage='file', storage_path='LAKE/log')",
    "FROM enable_profiling(format='json', save_location='LAKE/profile')",
    "FROM checkpoint()",
    "FROM query('SELECT 1')",
    f"FROM query('FROM (WITH a AS ({COPY.replace(chr(39), chr(39) * 2)}) FROM a)')",
    "FROM query_table('recordings')",
    "SET memory_limit = '1GB'",
    "RESET memory_limit",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CHECKPOINT",
    "VACUUM",
    "PRAGMA version",
    "",
    ";",
]
READING = [
    "SELECT count(*) FROM recordings",
    "SELECT 1;",
    "FROM recordings SELECT recording_id ORDER BY 1 DESC",
    "TABLE recordings",
    "VALUES (1), (2)",
    "SHOW TABLES",
    "DESCRIBE annotations",
    "SUMMARIZE recordings",
    "EXPLAIN SELECT * FROM recordings",
    "explain\n-- why\nFROM recordings",
    "WITH a AS (SELECT 1 AS x) SELECT * FROM a UNION ALL SELECT 2",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) FROM n",
    "SELECT status, count(*) FROM recordings GROUP BY ALL HAVING count(*) > 0",
    "FROM (PIVOT recordings ON status IN ('ok') USING count(*))",
    "SELECT unnest(uris) FROM recordings",
    "SELECT * FROM range(3)",
    "SELECT 'COPY; EXPLAIN ANALYZE' -- COPY\n",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_lake(tmp_path_factory.mktemp("lakes") / "lake", BATCHES)
    select(made, rules())
    return Path(made.storage.root)


def digests(root: Path) -> dict[Path, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def executed_serialized(root: Path) -> str:
    """A statement that writes, as DuckDB's parsed form inside a string: the function in FROM would run it."""
    sql = f"WITH a AS ({COPY}) SELECT * FROM a".replace("LAKE", str(root))
    ((tree,),) = duckdb.connect().execute("SELECT json_serialize_sql($1)", [sql]).fetchall()
    return f"FROM json_execute_serialized_sql('{tree.replace(chr(39), chr(39) * 2)}')"


@pytest.mark.parametrize("sql", READING)
def test_what_reads_is_answered(root: Path, sql: str) -> None:
    connection = open_views(Lake.at(str(root)))
    assert ask(connection, sql).fetchall()


@pytest.mark.parametrize("sql", WRITING)
def test_what_may_write_is_refused_and_nothing_is_written(root: Path, sql: str) -> None:
    before = digests(root)
    connection = open_views(Lake.at(str(root)))
    with pytest.raises((NotReadingError, duckdb.Error)):
        ask(connection, sql.replace("LAKE", str(root)))
    assert digests(root) == before


def test_a_statement_in_parsed_form_is_not_run_either(root: Path) -> None:
    before = digests(root)
    for sql in (executed_serialized(root), f"FROM ({executed_serialized(root)})"):
        with pytest.raises(NotReadingError, match="json_execute_serialized_sql"):
            ask(open_views(Lake.at(str(root))), sql)
    assert digests(root) == before


@pytest.mark.parametrize(
    "words",
    [
        ["query", "LAKE", f"EXPLAIN ANALYZE {COPY}"],
        ["query", "LAKE", f"WITH a AS ({COPY}) SELECT * FROM a"],
        ["query", "LAKE", f"WITH a AS ({COPY}) SELECT * FROM a", "--format", "parquet", "-o", "OUT"],
        ["head", "LAKE", "--where", f"true; {COPY}; SELECT 1 WHERE true"],
        ["head", "LAKE", "--columns", f"1; {COPY}; SELECT 1"],
        ["head", "LAKE", "--view", f"recordings; {COPY}; FROM recordings"],
        ["stats", "LAKE", "--view", "annotations", "--where", f"true; {COPY}; SELECT 1"],
        ["stats", "LAKE", "--view", "recordings", "--by", f"status FROM recordings); {COPY}; SELECT (1"],
        ["stats", "LAKE", "--histogram", f"1 AS value FROM recordings); {COPY}; SELECT (1"],
        ["what-if", "LAKE", "--rule", f"true), false); {COPY}; SELECT coalesce((true"],
        ["what-if", "LAKE", "--window-rule", f"true), false); {COPY}; SELECT coalesce((true"],
    ],
)  # fmt: skip
def test_no_option_of_a_command_writes(root: Path, tmp_path: Path, words: list[str]) -> None:
    before = digests(root)
    words = [word.replace("LAKE", str(root)).replace("OUT", str(tmp_path / "out")) for word in words]
    done = CliRunner().invoke(cli, ["manifest", *words])
    assert done.exit_code == 1
    assert "error: " in done.output
    assert "remedy: " in done.output
    assert digests(root) == before


def test_rules_of_a_recipe_and_of_a_stored_selection_write_nothing(root: Path) -> None:
    lake, before = Lake.at(str(root)), digests(root)
    rule = f"true), false) AS r0; {COPY}; SELECT coalesce((true".replace("LAKE", str(root))
    for level in ("recordings", "windows"):
        with pytest.raises(RuleError):
            select(lake, rules(**{level: {"rule": rule}}))
    with pytest.raises(RuleError):
        what_if(lake, choose(lake), rules(), rules(recordings={"rule": rule}))
    assert digests(root) == before


def test_a_report_of_a_lake_whose_rules_write_writes_nothing(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", BATCHES)
    select(lake, rules())
    rule = f"1) FROM annotations; {COPY}; SELECT (1 > 0".replace("LAKE", lake.storage.root)
    stored = tmp_path / "lake/selections/sel/selection.json"
    stored.write_text(stored.read_text().replace("duration_s >= 10", rule))
    before = digests(tmp_path)
    Report(lake, choose(lake)).build(1, None)
    assert digests(tmp_path) == before
