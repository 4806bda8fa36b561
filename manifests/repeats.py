"""Of every recording the passages that others hold too: how many hold each, and whether it was met before.

Copies count as one recording, which stands where the first of them was met. All of this is worked out in the connection
in which `duplicates.find` left its tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import duckdb
import numpy as np
import pyarrow as pa

from manifests import schemas
from manifests.duplicates import STEPS_PER_S
from manifests.spans import Array

AT_ONCE = 100_000
"""Stretches that are read at a time."""
STEPS_AT_ONCE = 4_000_000
"""Steps of time that are counted at a time, unless one recording has more; they take 70 MB."""
HEARD = pa.schema(
    [
        pa.field("batch", pa.string()),
        *(schemas.VERDICTS.field(name) for name in ("recording_id", "repeated_share", "repeats", "passages")),
    ]
)
"""The table `heard`: a row for each recording that shares sound with one that is no copy of it."""
NUMBERED = pa.schema([pa.field("number", pa.int64()), *list(HEARD)[2:]])
"""The same with the numbers of recordings instead of their names."""
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
    connection.register("none", NUMBERED.empty_table())
    connection.execute("CREATE TABLE numbered AS FROM none")
    rows = connection.cursor().sql(
        "SELECT number, duration_s, low, high, count, repeated FROM "
        f"(SELECT *, false AS repeated FROM counted UNION ALL ({BEFORE})) JOIN samples ON samples.rowid = number "
        "ORDER BY number"
    )
    for some in _by_recording(rows.to_arrow_reader(AT_ONCE)):
        connection.register("made", _heard(some))
        connection.execute("INSERT INTO numbered FROM made")
    connection.execute(
        f"CREATE TABLE {table} AS SELECT batch, recording_id, repeated_share, repeats, passages FROM numbered "
        "JOIN samples ON samples.rowid = number; DROP TABLE numbered"
    )


def _by_recording(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows in the order of recordings, regrouped so that all rows of a recording are in one table. A table has at most
    about AT_ONCE rows and, unless it is of one recording, STEPS_AT_ONCE steps."""
    held = pa.table({})
    for part in parts:
        held = pa.concat_tables([held, pa.Table.from_batches([part])]) if len(held) else pa.Table.from_batches([part])
        number = held["number"].to_numpy()
        whole = int(np.searchsorted(number, number[-1]))  # the last recording may have more rows in the next part
        yield from _small_enough(held.slice(0, whole))
        held = held.slice(whole)
    yield from _small_enough(held)


def _small_enough(rows: pa.Table) -> Iterator[pa.Table]:
    if not len(rows):
        return
    begins, lengths = _recordings(rows)
    chunk = np.cumsum(lengths) // STEPS_AT_ONCE
    edges = np.append(begins[np.flatnonzero(np.diff(chunk, prepend=-1))], len(rows))
    yield from (rows.slice(low, high - low) for low, high in itertools.pairwise(edges.tolist()))


def _recordings(rows: pa.Table) -> tuple[Array, Array]:
    """The first row of each recording, and one step more than the last of its passages has."""
    begins = np.flatnonzero(np.diff(rows["number"].to_numpy(), prepend=-1))
    return begins, np.maximum.reduceat(rows["high"].to_numpy().astype(np.int64), begins) + 1


def _heard(rows: pa.Table) -> pa.Table:
    """Rows of NUMBERED, from stretches of recordings in steps of time, which may overlap. The steps of all these
    recordings follow one another in arrays, where each recording ends with a step in which nothing repeats."""
    number, duration_s, low, high, count, repeated = (rows[name].to_numpy() for name in rows.column_names)
    begins, lengths = _recordings(rows)
    starts = np.cumsum(lengths) - lengths
    base = np.repeat(starts, np.diff(begins, append=len(rows)))
    counts, change = np.ones(lengths.sum(), np.int64), np.zeros(lengths.sum(), np.int64)
    order = np.argsort(count, kind="stable")  # larger counts replace smaller ones
    for one_low, one_high, one in zip(
        *((low + base)[order].tolist(), (high + base)[order].tolist(), count[order].tolist()), strict=True
    ):
        counts[one_low:one_high] = one
    np.add.at(change, (low + base)[repeated], 1)
    np.add.at(change, (high + base)[repeated], -1)
    again = np.cumsum(change) > 0
    starting = np.zeros(len(counts), bool)
    starting[starts] = True
    edges = np.flatnonzero(starting | (np.diff(counts, prepend=1) != 0) | np.diff(again, prepend=False))
    chosen = counts[edges] > 1
    first, last = edges[chosen], np.append(edges[1:], len(counts))[chosen]
    owner = np.searchsorted(starts, first, "right") - 1
    passages = pa.StructArray.from_arrays(
        [
            pa.array((first - starts[owner]) / STEPS_PER_S),
            pa.array((last - starts[owner]) / STEPS_PER_S),
            pa.array(counts[first], pa.int32()),
            pa.array(again[first]),
        ],
        fields=list(NUMBERED.field("passages").type.value_type),
    )
    repeated_s = np.add.reduceat(again.astype(np.int64), starts) / STEPS_PER_S
    shares = [
        min(1.0, round(heard_s / length_s, 6)) if length_s else 0.0
        for heard_s, length_s in zip(repeated_s.tolist(), duration_s[begins].tolist(), strict=True)
    ]
    offsets = np.searchsorted(owner, np.arange(len(starts) + 1)).astype(np.int32)
    columns = [number[begins], shares, np.maximum.reduceat(counts, starts).astype(np.int32)]
    return pa.table([*columns, pa.ListArray.from_arrays(offsets, passages, NUMBERED.field("passages").type)], NUMBERED)
