"""Of every recording the passages that others hold too: how many hold each, and whether it was met before.

Copies count as one recording, which stands where the first of them was met. All of this is worked out in the connection
in which `duplicates.find` left its tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from manifests import schemas
from manifests.duplicates import STEPS_PER_S

AT_ONCE = 20_000
"""Recordings with passages that are written at a time."""
HEARD = pa.schema(
    [
        pa.field("batch", pa.string()),
        *(schemas.VERDICTS.field(name) for name in ("recording_id", "repeated_share", "repeats", "passages")),
    ]
)
"""The table `heard`: a row for each recording that shares sound with one that is no copy of it."""
HELD = (
    "CREATE TABLE held AS WITH placed AS (SELECT s.*, coalesce(a.leader, s.number) AS leader, "
    "coalesce(b.leader, s.other) AS other_leader FROM shared AS s LEFT JOIN standing AS a USING (number) "
    "LEFT JOIN standing AS b ON b.number = s.other), "
    # Two stretches of one recording, or of copies of it, over the same sound count once.
    "fresh AS (SELECT other, leader, other_low, other_high, other_low > coalesce(max(other_high) OVER (PARTITION BY "
    "other, leader ORDER BY other_low, other_high ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), -1) AS fresh "
    "FROM placed WHERE leader <> other_leader), "
    "islands AS (SELECT *, sum(fresh::INTEGER) OVER (PARTITION BY other, leader ORDER BY other_low, other_high "
    "ROWS UNBOUNDED PRECEDING) AS island FROM fresh), "
    "once AS (SELECT other, min(other_low) AS low, max(other_high) AS high FROM islands "
    "GROUP BY other, leader, island), "
    "edges AS (SELECT other, unnest([low, high]) AS edge, unnest([1, -1]) AS change FROM once), "
    "changes AS (SELECT other, edge, sum(change) AS change FROM edges GROUP BY ALL HAVING sum(change) <> 0), "
    "counted AS (SELECT other AS number, edge AS low, lead(edge) OVER later AS high, "
    "1 + sum(change) OVER later AS count FROM changes WINDOW later AS (PARTITION BY other ORDER BY edge)) "
    "SELECT number, low, high, count::INTEGER AS count FROM counted WHERE count > 1"
)
"""By recording, how many recordings hold each stretch of it: itself, and those later ones that were compared to it."""
COUNTED = (
    "CREATE TABLE counted AS SELECT number, low, high, count FROM held UNION ALL "
    "SELECT s.number, s.low + (greatest(h.low, other_low) - other_low) * (s.high - s.low) // (other_high - other_low), "
    "s.low + (least(h.high, other_high) - other_low) * (s.high - s.low) // (other_high - other_low), count "
    "FROM shared AS s JOIN held AS h ON h.number = s.other AND h.low < other_high AND h.high > other_low "
    "WHERE other_high > other_low"
)
"""The same, and what an earlier recording says of the sound that a later one shares with it: of a passage that very
many recordings hold only the first ones are compared to all others, so only there all of them are counted."""
BEFORE = (
    "WITH placed AS (SELECT s.*, coalesce(a.leader, s.number) AS leader, coalesce(b.leader, s.other) AS other_leader, "
    "coalesce(a.place, s.number) AS place, coalesce(b.place, s.other) AS other_place FROM shared AS s "
    "LEFT JOIN standing AS a USING (number) LEFT JOIN standing AS b ON b.number = s.other), "
    "judged AS (SELECT placed.*, l.leader IS NOT NULL AS late, o.leader IS NOT NULL AS other_late FROM placed "
    "LEFT JOIN late AS l ON l.leader = placed.leader LEFT JOIN late AS o ON o.leader = placed.other_leader "
    "WHERE placed.leader <> placed.other_leader), "
    "ordered AS (SELECT *, (late, place) > (other_late, other_place) AS follows FROM judged) "
    "SELECT CASE WHEN follows THEN number ELSE other END AS number, "
    "CASE WHEN follows THEN low ELSE other_low END AS low, CASE WHEN follows THEN high ELSE other_high END AS high, "
    "2 AS count, true AS repeated FROM ordered"
)
"""Of each stretch that two recordings share, where it lies in the one that stands behind the other."""


def find(connection: duckdb.DuckDBPyConnection) -> None:
    """Table `heard` (HEARD): what of each recording others hold, whatever becomes of these by any rule."""
    connection.execute(HELD)
    connection.execute(COUNTED)
    connection.execute("CREATE TABLE late (leader BIGINT)")
    _write(connection, "heard")


def order(connection: duckdb.DuckDBPyConnection, rejected: Iterable[Iterable[str]]) -> None:
    """Change `passages` in `heard` so that recordings that are rejected stand behind all others: what is kept repeats
    none of their sound. `rejected` gives their ids, some at a time."""
    for some in rejected:
        connection.register("rejected", pa.table({"recording_id": pa.array(list(some), pa.string())}))
        connection.execute("INSERT INTO late SELECT samples.rowid FROM rejected JOIN samples USING (recording_id)")
    _write(connection, "ordered")
    connection.execute(
        "CREATE TABLE renewed AS SELECT h.* REPLACE (o.passages AS passages) FROM heard AS h JOIN ordered AS o "
        "USING (recording_id); DROP TABLE heard; ALTER TABLE renewed RENAME TO heard"
    )


def _write(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    connection.register("none", HEARD.empty_table())
    connection.execute(f"CREATE TABLE {table} AS FROM none")
    rows = connection.cursor().execute(
        "SELECT number, batch, recording_id, duration_s, low, high, count, repeated FROM "
        f"(SELECT *, false AS repeated FROM counted UNION ALL ({BEFORE})) JOIN samples ON samples.rowid = number "
        "ORDER BY number"
    )
    streamed = itertools.chain.from_iterable(iter(lambda: rows.fetchmany(10_000), []))
    heard = _heard(streamed)
    while some := list(itertools.islice(heard, AT_ONCE)):
        connection.register("made", schemas.table(some, HEARD))
        connection.execute(f"INSERT INTO {table} FROM made")


def _heard(rows: Iterable[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Rows of HEARD, from stretches of recordings in steps of time, which may lie over one another."""
    for (_, batch, recording_id, duration_s), own in itertools.groupby(rows, key=lambda row: row[:4]):
        stretches = [row[4:] for row in own]
        end = max(high for _, high, _, _ in stretches)
        counts, repeated = np.ones(end + 1, np.int64), np.zeros(end + 1, bool)
        for low, high, count, again in stretches:
            counts[low:high] = np.maximum(counts[low:high], count)
            repeated[low:high] |= again
        edges = np.flatnonzero((np.diff(counts, prepend=1) != 0) | np.diff(repeated, prepend=False))
        passages = [
            {
                "start_s": low / STEPS_PER_S,
                "end_s": high / STEPS_PER_S,
                "repeats": int(counts[low]),
                "repeated": bool(repeated[low]),
            }
            for low, high in itertools.pairwise(edges.tolist())
            if counts[low] > 1
        ]
        repeated_s = np.count_nonzero(repeated) / STEPS_PER_S
        yield {
            "batch": batch,
            "recording_id": recording_id,
            "repeated_share": min(1.0, round(repeated_s / duration_s, 6)) if duration_s else 0.0,
            "repeats": int(counts.max()),
            "passages": passages,
        }
