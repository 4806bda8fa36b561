"""Rules: SQL conditions over the columns of recordings and of windows, and which of these conditions do not hold."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import numpy as np
import pyarrow as pa

from manifests import schemas
from manifests.selection import Selection
from manifests.spans import Array
from manifests.sql import NotReadingError, read_only
from manifests.view_columns import annotation_columns
from manifests.windows import listed


class RuleError(ValueError):
    """A rule that DuckDB does not understand."""


def check_rules(connection: duckdb.DuckDBPyConnection, selection: Selection) -> None:
    """Try every rule on empty tables, so that a misspelt column is told before work begins. Raises RuleError."""
    empty = {stage: schemas.judged(stage).empty_table() for stage in selection.stages}
    known = join_columns(schemas.RECORDINGS.empty_table(), empty)
    if selection.matches is not None:
        for column in schemas.REPEATS:
            known = known.append_column(column, pa.nulls(0, column.type))
    for rules, table in ((selection.recordings, known), (selection.windows, schemas.WINDOWS.empty_table())):
        for name, condition in rules.items():
            try:
                read_only(connection, f"SELECT {_broken(condition)}")
                broken_rules(connection, table, {name: condition})
            except (duckdb.Error, NotReadingError) as error:
                columns = ", ".join(table.schema.names)
                what = str(error).partition("\n\nLINE")[0].replace("\n", "; ")
                raise RuleError(f"rule {name} = {condition!r}: {what}; the columns are {columns}") from error


def join_columns(recordings: pa.Table, stages: Mapping[str, pa.Table]) -> pa.Table:
    """One row a recording with the columns of all stages, whose rows are in the order of the recordings.

    What signal counted wins over what a header claimed. Columns that no rule reads may be absent.
    """
    tables = {"r": recordings, **stages}
    sources = {name: source.replace('"', "").split(".") for name, source in annotation_columns(stages).items()}
    there = {stage: set(table.schema.names) for stage, table in tables.items()}
    found = {name: source for name, source in sources.items() if source[1] in there[source[0]]}
    return pa.table({name: tables[stage][column] for name, (stage, column) in found.items()})


def broken_rules(connection: duckdb.DuckDBPyConnection, table: pa.Table, rules: Mapping[str, str]) -> Array:
    """bool (rows, rules): which rules do not hold; a rule over a missing (null) value does not."""
    if not rules:
        return np.zeros((len(table), 0), bool)
    connection.register("judged", table)
    broken = (f"{_broken(condition)} AS r{n}" for n, condition in enumerate(rules.values()))
    return np.column_stack(list(connection.execute(f"SELECT {', '.join(broken)} FROM judged").fetchnumpy().values()))


def _broken(condition: str) -> str:
    """SQL of whether a rule does not hold."""
    return f"NOT coalesce(({condition}), false)"


def judge_windows(connection: duckdb.DuckDBPyConnection, windows: pa.Table, rules: Mapping[str, str]) -> pa.Table:
    """Windows (WINDOWS schema) with `kept` and `reasons` by these rules."""
    broken = broken_rules(connection, windows, rules)
    for name, values in {"kept": ~broken.any(axis=1), "reasons": listed(list(rules), broken)}.items():
        index = windows.schema.get_field_index(name)
        windows = windows.set_column(index, windows.schema.field(index), pa.array(values))
    return windows
