"""Rules as movable thresholds, and the sample of recordings and windows to which the page applies them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from manifests.sql import NotReadingError, ask

MAX_RECORDINGS = 10_000
MAX_WINDOWS = 40_000

COMPARISON = re.compile(
    r"\s*(?P<expression>\S.*?)\s*(?P<op>>=|<=|>|<)\s*(?P<value>[-+]?\d+(\.\d+)?(e[-+]?\d+)?)\s*", re.DOTALL | re.I
)
NUMBERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}


@dataclass(frozen=True)
class Threshold:
    """A rule of the form `expression op value` over `level`, 'recordings' or 'windows'."""

    level: str
    name: str
    expression: str
    op: str
    value: float


def thresholds(
    connection: duckdb.DuckDBPyConnection, level: str, view: str, rules: Mapping[str, str]
) -> list[Threshold]:
    """The rules that compare a number over the columns of `view` with a constant; other rules cannot be moved.

    `a > 1 AND b < 2` is not such a rule: the text before its last comparison is a condition and not a number.
    """
    found = []
    for name, condition in rules.items():
        parts = COMPARISON.fullmatch(condition)
        if parts and is_number(connection, parts["expression"], view):
            found.append(Threshold(level, name, parts["expression"], parts["op"], float(parts["value"])))
    return found


def is_number(connection: duckdb.DuckDBPyConnection, expression: str, view: str) -> bool:
    """Whether `expression` is a number over the columns of `view`."""
    try:
        ((_, kind, *_),) = ask(connection, f"DESCRIBE SELECT ({expression}) FROM {view}").fetchall()
    except (duckdb.Error, NotReadingError):
        return False
    return kind in NUMBERS or kind.startswith(("FLOAT", "DOUBLE", "DECIMAL"))


def sample(
    connection: duckdb.DuckDBPyConnection,
    recordings: Mapping[str, str],
    windows: Mapping[str, str] | None,
    max_recordings: int = MAX_RECORDINGS,
    max_windows: int = MAX_WINDOWS,
) -> dict[str, Any]:
    """Samples of recordings and windows for the page, as base64 columns of little-endian float64, as DuckDB compares.

    Reads the tables `facts` and, if `windows` is given, `window_facts`; both arguments map names of columns to columns
    of these tables. Recordings are drawn by the hash of their id, and windows together with all others of their
    recording. `exact` is true where a sample has every row of its table.
    """
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE sampled AS SELECT *, row_number() OVER () - 1 AS position FROM "
        f"(FROM facts ORDER BY hash(recording_id), recording_id LIMIT {max_recordings})"
    )
    levels = {"recordings": _level(connection, "facts", "sampled", recordings)}
    if windows is not None:
        # Windows of the first recordings of the sample, as many recordings as fit with all their windows.
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE sampled_windows AS WITH counts AS (SELECT position, count(*) AS n "
            "FROM window_facts JOIN sampled USING (recording_id) GROUP BY position), "
            "summed AS (SELECT position, sum(n) OVER (ORDER BY position) AS total FROM counts) "
            "SELECT w.*, position FROM window_facts AS w JOIN sampled USING (recording_id) "
            f"JOIN summed USING (position) WHERE total <= {max_windows} ORDER BY position, window_id"
        )
        level = _level(connection, "window_facts", "sampled_windows", windows)
        parents = _column(connection, "sampled_windows", "position")
        levels["windows"] = level | {"parent": _packed(parents.astype("<u4"))}
    return levels


def _level(connection: duckdb.DuckDBPyConnection, whole: str, part: str, columns: Mapping[str, str]) -> dict[str, Any]:
    ((count, hours),) = connection.execute(
        f"SELECT count(*), coalesce(sum(duration_s), 0) / 3600 FROM {whole}"
    ).fetchall()
    duration = _column(connection, part, "duration_s")
    return {
        "exact": len(duration) == count,
        "count": count,
        "sampled": len(duration),
        "hours": hours,
        "duration": _packed(duration.astype("<f8")),
        "fixed": _packed(_column(connection, part, "fixed").astype("u1")),
        "columns": {name: _packed(_column(connection, part, column).astype("<f8")) for name, column in columns.items()},
    }


def _column(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> np.ndarray:
    """One column as float64. A null becomes NaN, with which every comparison is false."""
    fetched = connection.execute(f"SELECT {column}::DOUBLE AS v FROM {table} ORDER BY position").fetchnumpy()["v"]
    return np.ma.filled(np.ma.asarray(fetched, np.float64), np.nan)


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()
