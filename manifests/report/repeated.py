"""The passages that most recordings of a lake hold, for the report: where each of them lies, and its sound."""

from __future__ import annotations

from typing import Any

import duckdb

from manifests.choice import Choice
from manifests.lake import Lake
from manifests.look.duplicates import duplicates
from manifests.look.terminal import clock
from manifests.output import counted
from manifests.report.samples import Snippet

SHOWN = 8
"""Passages, and places of each."""


def section(
    lake: Lake, choice: Choice, connection: duckdb.DuckDBPyConnection, snippet: Snippet | None
) -> dict[str, Any]:
    """What the page says of what repeats in a lake that was matched. `snippet` gives the sound."""
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
        "passages": [_told(passage, known, snippet) for passage in found["passages"]],
    }


def _told(passage: dict[str, Any], known: dict[str, dict[str, Any]], snippet: Snippet | None) -> dict[str, Any]:
    row = known[passage["recording_id"]]
    heard = snippet(row, passage["start_s"], False) if snippet else {}
    sound = heard.get("sound", "No sound is in this file.")
    length_s = passage["end_s"] - passage["start_s"]
    if heard.get("excerpt") and heard["excerpt"]["duration_s"] > length_s:
        sound = f"{sound} The passage is the first {length_s:.1f} s of it."
    return {
        "repeats": passage["repeats"],
        "first": _place(passage, known),
        "places": [_place(place, known) for place in passage["places"]],
        "audio": heard.get("audio", ""),
        "sound": sound,
    }


def _place(place: dict[str, Any], known: dict[str, dict[str, Any]]) -> str:
    name = known[place["recording_id"]]["uris"][0].rpartition("/")[2]
    return f"{name} {clock(place['start_s'])} to {clock(place['end_s'])}"
