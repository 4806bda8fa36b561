"""The report's section on repeated sound: the passages that occur in the most recordings, with places and sound."""

from __future__ import annotations

from typing import Any

import duckdb

from manifests.choice import Choice
from manifests.commands.duplicates import duplicates
from manifests.commands.terminal import clock
from manifests.lake import Lake
from manifests.output import counted
from manifests.report.samples import Snippet

SHOWN = 8
"""Largest number of passages, and of places of each passage."""


def section(
    lake: Lake, choice: Choice, connection: duckdb.DuckDBPyConnection, snippet: Snippet | None
) -> dict[str, Any]:
    """The data of the section, for a lake whose recordings were matched. `snippet` returns the sound."""
    found = duplicates(lake, choice, SHOWN)
    wanted = {one["recording_id"] for passage in found["passages"] for one in (passage, *passage["places"])}
    chosen = connection.sql(
        "FROM annotations WHERE recording_id IN (SELECT unnest($ids))", params={"ids": sorted(wanted)}
    ).to_arrow_table()
    known = {row["recording_id"]: row for row in chosen.to_pylist()}
    return {
        "groups": counted(found["group_count"], "group"),
        "duplicates": counted(found["duplicate_count"], "duplicate"),
        "count": counted(found["passage_count"], "passage"),
        "passages": [_passage(passage, known, snippet) for passage in found["passages"]],
    }


def _passage(passage: dict[str, Any], known: dict[str, dict[str, Any]], snippet: Snippet | None) -> dict[str, Any]:
    row = known[passage["recording_id"]]
    excerpt = snippet(row, passage["start_s"], False) if snippet else {}
    sound = excerpt.get("sound", "This file has no sound of it.")
    length_s = passage["end_s"] - passage["start_s"]
    if excerpt.get("excerpt") and excerpt["excerpt"]["duration_s"] > length_s:
        sound = f"{sound} The passage is its first {length_s:.1f} s."
    return {
        "repeats": passage["repeats"],
        "first": _place(passage, known),
        "places": [_place(place, known) for place in passage["places"]],
        "audio": excerpt.get("audio", ""),
        "sound": sound,
    }


def _place(place: dict[str, Any], known: dict[str, dict[str, Any]]) -> str:
    name = known[place["recording_id"]]["uris"][0].rpartition("/")[2]
    return f"{name} {clock(place['start_s'])} to {clock(place['end_s'])}"
