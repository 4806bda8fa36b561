"""Checks that SQL of users (queries, conditions of rules, columns) only reads.

DuckDB can write wherever it can read, and since 2.0 a SELECT can contain a COPY or an INSERT in its WITH clause. DuckDB
therefore parses every piece of SQL that a user or a recipe gives, and only nodes of the parse tree that are known to
read are allowed. A locked connection (`manifests.views.lock`) also limits it to the files of the lake.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

QUERIES = frozenset(["SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"])
"""Types of the nodes of DuckDB's parse tree that only read. Others are COPY_QUERY_NODE, INSERT_QUERY_NODE, ..."""
TABLE_FUNCTIONS = frozenset([
    "generate_series", "range", "repeat", "repeat_row", "unnest", "glob", "read_parquet", "parquet_scan",
    "parquet_schema", "parquet_metadata", "parquet_file_metadata", "parquet_kv_metadata", "read_text", "read_csv",
    "read_csv_auto", "read_json", "read_json_auto", "read_ndjson", "read_ndjson_auto", "json_each", "json_tree",
    "histogram", "histogram_values", "summary", "pragma_table_info", "pragma_version", "duckdb_columns",
    "duckdb_functions", "duckdb_keywords", "duckdb_tables", "duckdb_types", "duckdb_views",
])  # fmt: skip
"""Table functions that only read. `query` and `json_execute_serialized_sql`, which run SQL, are not among them."""


class NotReadingError(ValueError):
    """The SQL is not one statement that only reads; `remedy` says what to write."""

    remedy = "write one SELECT; -o FILE keeps its result"


def ask(connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
    """Run one query; fetch its rows from the returned connection.

    Raises NotReadingError for SQL that may do more than read, and duckdb.Error for wrong SQL.
    """
    return connection.execute(read_only(connection, sql), list(values))


def read_only(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Return `sql` if it is one statement that only reads: a SELECT in any form, or EXPLAIN of one. Raises as `ask`."""
    statements = connection.extract_statements(sql)
    kinds = [statement.type for statement in statements]
    if kinds == [duckdb.StatementType.EXPLAIN]:
        return f"EXPLAIN {_explained(connection, sql)}"
    if kinds != [duckdb.StatementType.SELECT]:
        raise NotReadingError("only one statement that reads can be asked")
    ((text,),) = connection.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()
    try:
        tree = json.loads(text)
    except RecursionError as error:
        raise NotReadingError("this statement is nested too deeply to be checked") from error
    if tree["error"]:
        raise NotReadingError(f"this statement cannot be checked: {tree['error_message']}")
    for node in _nodes(tree):
        if "cte_map" in node and node["type"] not in QUERIES:
            raise NotReadingError(f"only statements that read can be asked, and this one holds a {node['type']}")
        if node.get("type") == "TABLE_FUNCTION" and node["function"]["function_name"].lower() not in TABLE_FUNCTIONS:
            raise NotReadingError(f"the function {node['function']['function_name']} cannot be used in FROM here")
    return sql


def _explained(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Check and return the statement after EXPLAIN. Options are refused: ANALYZE would run the statement."""
    words = [start for start, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment]
    try:
        return read_only(connection, sql[words[0] + len("EXPLAIN") :])
    except duckdb.ParserException as error:
        raise NotReadingError("EXPLAIN can be asked without ANALYZE and options only, of one SELECT") from error


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects of a JSON tree, at any depth. A recursive function would exceed the stack."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
