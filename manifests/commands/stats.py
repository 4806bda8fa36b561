"""Counts, hours and distributions of any view, by any columns, computed by SQL aggregates that stream."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow.compute as pc

from manifests import schemas
from manifests.choice import Choice
from manifests.labels import as_sql
from manifests.lake import Lake
from manifests.sql import ask
from manifests.sums import MEASURES, Sum, Sums
from manifests.view_columns import recording_columns, window_columns

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 20
EXACT = 5_000_000
Rows = list[dict[str, Any]]


def rows_of(connection: duckdb.DuckDBPyConnection, query: str, values: Sequence[Any] = ()) -> Rows:
    """The rows of a query as dictionaries, all in memory. Raises as `manifests.sql.ask`."""
    found = ask(connection, query, values)
    names = [column[0] for column in found.description or []]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def columns_of(connection: duckdb.DuckDBPyConnection, view: str) -> dict[str, str]:
    """The types of a view's columns by name."""
    return {row["column_name"]: row["column_type"] for row in rows_of(connection, f"DESCRIBE {view}")}


def hours(columns: dict[str, str]) -> str:
    """SQL for the hours of a group of rows; null for a view without durations."""
    for name in ("duration_s", "claimed_duration_s", "hours"):
        if name in columns:
            return f'sum("{name}")' + (" / 3600" if name.endswith("_s") else "")
    return "NULL::DOUBLE"


def grouped(connection: duckdb.DuckDBPyConnection, view: str, by: Sequence[str], where: str = "true") -> Rows:
    """Count, hours and share of the hours of each group of `by`, most hours first.

    `by` are columns, labels such as `labels.country`, or SQL expressions.
    """
    measure = hours(columns_of(connection, view))
    order = ", ".join(str(number + 1) for number in range(len(by)))
    keys = ", ".join(f'{as_sql(name)} AS "{name.strip(chr(34))}"' for name in by)
    return rows_of(
        connection,
        f"SELECT *, hours / sum(hours) OVER () AS share FROM (SELECT {keys}, count(*) AS count, {measure} AS hours "
        f"FROM {view} WHERE {where} GROUP BY ALL) ORDER BY hours DESC NULLS LAST, count DESC, {order}",
    )


def measures(connection: duckdb.DuckDBPyConnection, view: str, where: str = "true") -> Rows:
    """For each numeric column of a view: how many rows have it, and its lowest, mean and highest value.

    In `windows` these are the columns of the window alone: those of its recording would count once for each window.
    """
    columns = columns_of(connection, view)
    skipped = {"position", *(window_columns(recording_columns()) if view == "windows" else ())}
    numeric = [name for name, kind in columns.items() if _is_number(kind) and name not in skipped]
    if not numeric:
        return []
    (row,) = rows_of(connection, f"SELECT {_described(numeric)}count(*) FROM {view} WHERE {where}")
    return [{"measure": name} | row[name] for name in numeric]


def _described(names: Sequence[str]) -> str:
    """SQL of a struct for each column: how many rows have a value, and its lowest, mean and highest value."""
    return "".join(
        f"""{{'measured': count("{n}"), 'min': min("{n}"), 'mean': avg("{n}")::DOUBLE, 'max': max("{n}")}} AS "{n}", """
        for n in names
    )


def _is_number(kind: str) -> bool:
    return re.fullmatch(r"DOUBLE|FLOAT|U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|DECIMAL\(.*\)", kind) is not None


def histogram(connection: duckdb.DuckDBPyConnection, view: str, column: str, where: str = "true") -> dict[str, Any]:
    """The distribution of a column: quantiles and bins of equal width for a number, else the most frequent values."""
    columns = columns_of(connection, view)
    kind = columns_of(connection, f"(SELECT {column} AS value FROM {view})")["value"]
    measure = hours(columns)
    if not _is_number(kind):
        top = rows_of(
            connection,
            f"SELECT ({column})::VARCHAR AS value, count(*) AS count, {measure} AS hours FROM {view} WHERE {where} "
            f"GROUP BY ALL ORDER BY count DESC, value LIMIT {BINS}",
        )
        return {"column": column, "values": top}
    (summary,) = rows_of(
        connection,
        f"SELECT count(v) AS measured, count(*) - count(v) AS unmeasured, min(v)::DOUBLE AS low, "
        f"max(v)::DOUBLE AS high, avg(v)::DOUBLE AS mean, stddev_samp(v) AS std "
        f"FROM (SELECT {column} AS v FROM {view} WHERE {where})",
    )
    low, high = summary["low"], summary["high"]
    if low is None:
        return {"column": column, **summary, "quantiles": {}, "bins": []}
    width = (high - low) / BINS or 1.0
    found = rows_of(
        connection,
        f"SELECT least({BINS - 1}, floor((({column}) - {low!r}) / {width!r}))::INT AS bin, count(*) AS count, "
        f"{measure} AS hours FROM {view} WHERE {where} AND ({column}) IS NOT NULL GROUP BY ALL ORDER BY ALL",
    )
    by_bin = {row.pop("bin"): row for row in found}
    count = BINS if high > low else 1
    bins = [
        {"from": low + i * width, "to": low + (i + 1) * width, **by_bin.get(i, {"count": 0, "hours": 0.0})}
        for i in range(count)
    ]
    quantiles = _quantiles(connection, view, column, where, summary["measured"])
    return {"column": column, **summary, **quantiles, "bins": bins}


def _quantiles(connection: duckdb.DuckDBPyConnection, view: str, column: str, where: str, count: int) -> dict[str, Any]:
    """Quantiles of a column: exact up to `EXACT` values, which are held in memory, and by t-digest beyond that."""
    function = "quantile_cont" if count <= EXACT else "approx_quantile"
    query = f"SELECT {function}({column}, {list(QUANTILES)!r}) FROM {view} WHERE {where}"
    ((values,),) = ask(connection, query).fetchall()
    named = dict(zip(map(str, QUANTILES), values or [], strict=False))
    return {"quantiles": named, "exact": count <= EXACT}


def summary(connection: duckdb.DuckDBPyConnection, view: str, where: str = "true") -> dict[str, Any]:
    """The number of rows, hours, quantiles of the durations and measures of a view."""
    columns = columns_of(connection, view)
    (total,) = rows_of(connection, f"SELECT count(*) AS count, {hours(columns)} AS hours FROM {view} WHERE {where}")
    result: dict[str, Any] = {"view": view, **total}
    if "duration_s" in columns and total["count"]:
        result |= _quantiles(connection, view, "duration_s", where, total["count"])
    return result | {"measures": measures(connection, view, where)}


def overview(lake: Lake, choice: Choice, sums: Sums) -> dict[str, Any]:
    """Summary of a lake: recordings, stages with their failures, measures, selection and dataset."""
    stages = [
        {"stage": stage, "fingerprint": fingerprint} | _counts(sums, stage)
        for stage, fingerprint in choice.stages.items()
    ]
    claimed, size = (sums.of("recordings")[name] for name in MEASURES["recordings"])
    counts = _counts(sums, "recordings")
    result: dict[str, Any] = {
        "recordings": {
            "count": counts["count"], "unreadable": counts["failed"], "claimed_hours": (claimed.total or 0.0) / 3600,
            "size_bytes": size.total,
        },
        "stages": stages,
        "measures": [
            {"measure": name, "measured": one.count, "min": one.low, "mean": one.total / one.count, "max": one.high}
            for stage in choice.stages for name in MEASURES[stage] if (one := sums.of(stage)[name]).total is not None
        ],
        "failures": _failures(sums, ["recordings", *choice.stages]),
    }  # fmt: skip
    for part in ("sources", "languages"):
        if rows := _shares(part.removesuffix("s"), sums.of(part)):
            result[part] = rows
    if "signal" in choice.stages:
        result["recordings"]["hours"] = sum(row["hours"] or 0.0 for row in result.get("sources", []))
    if choice.selection:
        funnel = lake.read_json(f"selections/{choice.selection}/funnel.json", "recordings", "windows")
        parts = {
            what: {part: funnel[what][part] for part in ("in", "kept", "rejected", "failed")}
            for what in ("recordings", "windows")
        }
        result["selection"] = {"name": choice.selection, **parts}
    if choice.dataset:
        result["dataset"] = {"name": choice.dataset, "splits": _splits(lake, choice.dataset)}
    return result


def _counts(sums: Sums, view: str) -> dict[str, int]:
    failed = sum(one.count for one in sums.of(f"{view} failures").values())
    return {"count": sums.of(view)["status"].count, "failed": failed}


def _failures(sums: Sums, views: Sequence[str]) -> Rows:
    """How many recordings failed in these views by type of error, the most frequent first."""
    rows = [
        {"stage": view.replace("recordings", "ingest"), "error_type": error_type, "count": one.count}
        for view in views
        for error_type, one in sums.of(f"{view} failures").items()
    ]
    return sorted(rows, key=lambda row: (-row["count"], row["stage"], row["error_type"]))


def _shares(what: str, groups: Mapping[str | None, Sum]) -> Rows:
    """Count, hours and share of the hours of each group that is not empty, most hours first."""
    held = [(name, one.count, one.total) for name, one in groups.items() if one.count]
    held.sort(key=lambda row: (row[2] is None, -(row[2] or 0.0), -row[1], str(row[0])))
    whole_s = sum(seconds or 0.0 for _, _, seconds in held)
    return [
        {what: name, "count": count, "hours": seconds and seconds / 3600, "share": seconds and seconds / whole_s}
        for name, count, seconds in held
    ]


def _splits(lake: Lake, dataset: str) -> Rows:
    """Windows, hours, frames, tokens of one frame, and those of them that repeat, by split; empty before the ledger is
    written."""
    key = f"datasets/{dataset}/ledger.parquet"
    if not lake.storage.exists(key):
        return []
    names = ["windows", "hours", "frames", *schemas.TOKENS]
    ledger = lake.read(key, ["split", "patch", *names])
    splits = ledger.filter(pc.equal(ledger["patch"], 1)).group_by("split").aggregate([(name, "sum") for name in names])
    rows = []
    for row in splits.to_pylist():
        sums = {name: row[f"{name}_sum"] for name in ("windows", "hours", "frames")}
        tokens, repeated = row["context_tokens_sum"] + row["continuation_tokens_sum"], None
        if row["repeated_context_tokens_sum"] is not None:
            repeated = row["repeated_context_tokens_sum"] + row["repeated_continuation_tokens_sum"]
        rows.append({"split": row["split"]} | sums | {"tokens": tokens, "repeated_tokens": repeated})
    return sorted(rows, key=lambda row: row["split"])
