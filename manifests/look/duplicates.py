"""What repeats in a lake: groups of recordings with the same sound, and passages by how often they occur."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

import duckdb

from manifests.choice import Choice, ChoiceError, folders
from manifests.lake import Lake
from manifests.look import terminal
from manifests.matches import matches_key
from manifests.selection import Selection
from manifests.tables import joined

EXAMPLES = 3
"""Of the places of a passage."""
BETWEEN = (
    "CREATE TABLE between_groups AS SELECT m.* FROM matches AS m LEFT JOIN verdicts AS a USING (recording_id) "
    "LEFT JOIN verdicts AS b ON b.recording_id = other_id "
    "WHERE coalesce(a.duplicate_of, m.recording_id) <> coalesce(b.duplicate_of, m.other_id)"
)
FIRSTS = (
    "SELECT m.* FROM between_groups AS m ANTI JOIN between_groups AS n ON n.recording_id = m.other_id "
    "AND n.start_s < m.other_end_s AND n.end_s > m.other_start_s"
)
"""Those whose other side lies where the sound was met first."""
PASSAGES = (
    "SELECT other_id, min(other_start_s) AS start_s, max(other_end_s) AS end_s, count(DISTINCT recording_id) + 1 AS n, "
    "list(struct_pack(recording_id, start_s := m_start, end_s := m_end, confidence) ORDER BY confidence DESC, "
    "recording_id, m_start) AS places FROM (SELECT *, sum(fresh) OVER (PARTITION BY other_id ORDER BY other_start_s, "
    "other_end_s, recording_id, m_start) AS island FROM (SELECT other_id, other_start_s, other_end_s, recording_id, "
    "start_s AS m_start, end_s AS m_end, confidence, CASE WHEN other_start_s < max(other_end_s) OVER (PARTITION BY "
    "other_id ORDER BY other_start_s, other_end_s, recording_id, start_s ROWS BETWEEN UNBOUNDED PRECEDING AND 1 "
    f"PRECEDING) THEN 0 ELSE 1 END AS fresh FROM ({FIRSTS}))) GROUP BY other_id, island"
)


def duplicates(lake: Lake, choice: Choice, show: int) -> dict[str, Any]:
    """Groups and passages, the largest and the most frequent `show` of each. ChoiceError where nothing was matched."""
    selection = None if choice.selection is None else Selection.stored(lake, choice.selection)
    mark = selection.matches if selection else None
    if mark is None:
        marks = folders(lake, "matches")
        if len(marks) != 1:
            what = f"{lake.storage.root} has no matches that were selected by"
            remedy = "annotate with a recipe that has [annotate.fingerprint], and select with it"
            raise ChoiceError(what, remedy if not marks else f"{remedy}; there are {', '.join(marks)}")
        (mark,) = marks
    with (
        tempfile.TemporaryDirectory(prefix="speechmill-duplicates-") as folder,
        duckdb.connect(f"{folder}/d") as connection,
    ):
        connection.execute("SET threads = 1; SET memory_limit = '500MB'")
        _read(connection, lake, mark, choice.selection)
        ((groups, copies),) = connection.execute(
            "SELECT count(DISTINCT duplicate_of), count(duplicate_of) FROM verdicts"
        ).fetchall()
        largest = connection.execute(
            "SELECT duplicate_of, list(recording_id ORDER BY recording_id) AS copies FROM verdicts "
            "WHERE duplicate_of IS NOT NULL GROUP BY ALL ORDER BY len(copies) DESC, duplicate_of LIMIT ?", [show]
        ).fetchall()  # fmt: skip
        connection.execute(BETWEEN)
        connection.execute(f"CREATE TABLE passages AS {PASSAGES}")
        ((passages,),) = connection.execute("SELECT count(*) FROM passages").fetchall()
        frequent = connection.execute(
            f"SELECT other_id, start_s, end_s, n, places[:{EXAMPLES}] FROM passages "
            "ORDER BY n DESC, end_s - start_s DESC, other_id, start_s LIMIT ?", [show]
        ).fetchall()  # fmt: skip
    return {
        "choice": choice.as_dict(),
        "matches": mark,
        "group_count": groups,
        "duplicate_count": copies,
        "groups": [{"kept": kept, "duplicates": others} for kept, others in largest],
        "passage_count": passages,
        "passages": [
            {"recording_id": first, "start_s": start_s, "end_s": end_s, "repeats": count, "places": places}
            for first, start_s, end_s, count, places in frequent
        ],
    }


def _read(connection: duckdb.DuckDBPyConnection, lake: Lake, mark: str, selection: str | None) -> None:
    """Tables `matches`, and `verdicts` of the selection, empty without one."""
    connection.execute(
        "CREATE TABLE matches (recording_id VARCHAR, other_id VARCHAR, start_s DOUBLE, end_s DOUBLE, "
        "other_start_s DOUBLE, other_end_s DOUBLE, confidence DOUBLE); "
        "CREATE TABLE verdicts (recording_id VARCHAR, duplicate_of VARCHAR)"
    )
    columns = ["recording_id", "other_id", "start_s", "end_s", "other_start_s", "other_end_s", "confidence"]
    batches = list(lake.matched(mark))
    for part in joined(lake.read_each(batches, partial(matches_key, mark), columns)):
        connection.register("part", part.drop_columns("batch"))
        connection.execute("INSERT INTO matches FROM part")
    if selection is not None:
        told = lake.read_each(batches, partial(lake.verdicts_key, selection), ["recording_id", "duplicate_of"])
        for part in joined(told):
            connection.register("part", part.drop_columns("batch"))
            connection.execute("INSERT INTO verdicts FROM part")


def render(found: dict[str, Any]) -> None:
    """What repeats, for people."""
    terminal.echo(f"{found['group_count']:,} groups of the same sound, {found['duplicate_count']:,} duplicates in them")
    if found["groups"]:
        rows = [[group["kept"], len(group["duplicates"]), group["duplicates"][0]] for group in found["groups"]]
        terminal.table(["kept recording_id", "duplicates", "example"], rows)
    terminal.echo(f"{found['passage_count']:,} passages that several recordings hold, apart from these")
    if found["passages"]:
        rows = [
            [one["repeats"], one["recording_id"], one["start_s"], one["end_s"], *_place(one["places"][0])]
            for one in found["passages"]
        ]
        names = ["recordings", "first recording_id", "start_s", "end_s", "example", "its start_s", "its end_s"]
        terminal.table(names, rows)


def _place(place: dict[str, Any]) -> list[Any]:
    return [place["recording_id"], place["start_s"], place["end_s"]]
