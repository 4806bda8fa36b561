"""SQL of a user: a question over the views of a lake, a condition of a rule, a column. It reads, and it never writes.

DuckDB may write wherever it may read, and since 2.0 a SELECT may hold a COPY or an INSERT (in its WITH clause). Every
piece of SQL that a person or a recipe gives is therefore parsed by DuckDB first, and what the parser found is compared
with what is known to read only. A connection that is also locked (`manifests.views.lock`) keeps it to the lake.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

QUERIES = frozenset(["SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"])
"""What DuckDB's parser calls queries that read. Others are COPY_QUERY_NODE, INSERT_QUERY_NODE, ..."""
TABLE_FUNCTIONS = frozenset([
    "generate_series", "range", "repeat", "repeat_row", "unnest", "glob", "read_parquet", "parquet_scan",
    "parquet_schema", "parquet_metadata", "parquet_file_metadata", "parquet_kv_metadata", "read_text", "read_csv",
    "read_csv_auto", "read_json", "read_json_auto", "read_ndjson", "read_ndjson_auto", "json_each", "json_tree",
    "histogram", "histogram_values", "summary", "pragma_table_info", "pragma_version", "duckdb_columns",
    "duckdb_functions", "duckdb_keywords", "duckdb_tables", "duckdb_types", "duckdb_views",
])  # fmt: skip
"""Functions in FROM that read only and run no SQL of their own, as `query` and `json_execute_serialized_sql` do."""


class NotReadingError(ValueError):
    """SQL that is not one statement that only reads; `remedy` says what to write."""

    remedy = "write one SELECT; -o FILE keeps its result"


def ask(connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
    """The answer to one question, to be fetched. Raises NotReadingError for SQL that may do more than read, and
    duckdb.Error for what is not SQL.
    """
    return connection.execute(read_only(connection, sql), list(values))


def read_only(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """`sql`, once it is known to be one statement that only reads: a SELECT in any form, or EXPLAIN of one.

    Raises as `ask`.
    """
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
    """The statement behind the word EXPLAIN. Options are none, and with ANALYZE it would be run."""
    words = [start for start, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment]
    try:
        return read_only(connection, sql[words[0] + len("EXPLAIN") :])
    except duckdb.ParserException as error:
        raise NotReadingError("EXPLAIN can be asked without ANALYZE and options only, of one SELECT") from error


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a tree of JSON, however deep."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
