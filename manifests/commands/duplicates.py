"""What repeats in a lake: groups of recordings with the same sound, and passages by how many recordings hold them."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from manifests.choice import Choice, ChoiceError
from manifests.commands import terminal
from manifests.commands.stats import rows_of
from manifests.lake import Lake
from manifests.output import counted
from manifests.selection import Selection
from manifests.views import open_views

EXAMPLES = 3
"""Largest number of other places that are printed for a passage."""
LEAST_S = 2.0
"""Shorter stretches are left out, because the ends of a passage are not known more exactly."""
GROUPS = (
    "SELECT duplicate_of AS kept, list(recording_id ORDER BY recording_id) AS duplicates FROM verdicts "
    "WHERE duplicate_of IS NOT NULL GROUP BY ALL ORDER BY len(duplicates) DESC, kept LIMIT $1"
)
FIRST = "SELECT recording_id, passages FROM verdicts WHERE duplicate_of IS NULL AND len(passages) > 0"
"""Recordings with passages, without copies, which count as one with the recording that is kept of them."""
PLACES = (
    "SELECT other_id AS recording_id, start_s AS low, end_s AS high, other_start_s AS start_s, other_end_s AS end_s, "
    "confidence FROM matches WHERE recording_id = $1 UNION ALL SELECT recording_id, other_start_s, other_end_s, "
    "start_s, end_s, confidence FROM matches WHERE other_id = $1"
)
"""Sound that a recording has in common with others: `low` to `high` in it, and its place in the other recording."""


def duplicates(lake: Lake, choice: Choice, show: int) -> dict[str, Any]:
    """Return the `show` largest groups and most frequent passages. Raises ChoiceError if nothing was matched."""
    selection = None if choice.selection is None else Selection.stored(lake, choice.selection)
    if selection is None or selection.matches is None:
        what = f"{lake.storage.root} has no selection with matches of recordings"
        raise ChoiceError(what, "annotate with a recipe that has [annotate.fingerprint], and select with it")
    with open_views(lake, choice, ()) as connection:
        ((groups, copies),) = connection.execute(
            "SELECT count(DISTINCT duplicate_of), count(duplicate_of) FROM verdicts"
        ).fetchall()
        count = 0
        frequent: list[dict[str, Any]] = []
        for passage in _passages(connection):
            count += 1
            frequent.append(passage)
            if len(frequent) > 100 * show + 10_000:
                frequent = _most_frequent(frequent, show)
        frequent = _most_frequent(frequent, show)
        for passage in frequent:
            passage["places"] = _places(connection, passage)
        largest = rows_of(connection, GROUPS, [show])
    return {
        "choice": choice.as_dict(),
        "matches": selection.matches,
        "group_count": groups,
        "duplicate_count": copies,
        "groups": largest,
        "passage_count": count,
        "passages": frequent,
    }


def _most_frequent(passages: Sequence[dict[str, Any]], show: int) -> list[dict[str, Any]]:
    """Return the `show` passages that occur in the most recordings, and of equal ones the longest."""

    def order(one: dict[str, Any]) -> tuple[Any, ...]:
        return -one["repeats"], one["start_s"] - one["end_s"], one["recording_id"], one["start_s"]

    return heapq.nsmallest(show, passages, key=order)


def _passages(connection: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
    """Yield every passage with its place in the recording that was ingested first."""
    for batch in connection.sql(FIRST).to_arrow_reader(10_000):
        for row in batch.to_pylist():
            first = [one for one in row["passages"] if not one["repeated"]]
            if not first:
                continue
            begins = [
                not before or before["end_s"] < one["start_s"]
                for before, one in zip([None, *first[:-1]], first, strict=True)
            ]
            numbered = zip(itertools.accumulate(begins), first, strict=True)
            for _, stretch in itertools.groupby(numbered, key=lambda one: one[0]):
                for start_s, end_s, repeats in cores([one for _, one in stretch]):
                    place = {"recording_id": row["recording_id"], "start_s": start_s, "end_s": end_s}
                    yield place | {"repeats": repeats}


def cores(pieces: Sequence[dict[str, Any]]) -> Iterator[tuple[float, float, int]]:
    """Start, end and number of recordings of each passage in pieces that follow one another without a gap.

    A passage is the part that occurs in more than half of the recordings of its most frequent piece. A longer passage
    around it, and places where some recordings cut it, are therefore not part of it.

    >>> ends = [(0.0, 8.0, 2), (8.0, 8.25, 30), (8.25, 18.0, 40), (18.0, 18.5, 3), (18.5, 30.0, 2)]
    >>> list(cores([{"start_s": start, "end_s": end, "repeats": count} for start, end, count in ends]))
    [(8.0, 18.0, 40), (0.0, 8.0, 2), (18.0, 30.0, 3)]
    """
    left = [(0, len(pieces))]
    while left:
        begin, end = left.pop()
        if begin == end or pieces[end - 1]["end_s"] - pieces[begin]["start_s"] < LEAST_S:
            continue
        peak = max(range(begin, end), key=lambda place: pieces[place]["repeats"])
        most = pieces[peak]["repeats"]
        low, high = peak, peak + 1
        while low > begin and 2 * pieces[low - 1]["repeats"] > most:
            low -= 1
        while high < end and 2 * pieces[high]["repeats"] > most:
            high += 1
        if pieces[high - 1]["end_s"] - pieces[low]["start_s"] >= LEAST_S:
            yield pieces[low]["start_s"], pieces[high - 1]["end_s"], most
        left += [(high, end), (begin, low)]


def _places(connection: duckdb.DuckDBPyConnection, passage: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a few other recordings that contain most of a passage, with its place in each."""
    found: dict[str, dict[str, Any]] = {}
    rows = rows_of(connection, PLACES, [passage["recording_id"]])
    for row in sorted(rows, key=lambda row: (-row["confidence"], row["recording_id"], row["start_s"])):
        low, high = max(row["low"], passage["start_s"]), min(row["high"], passage["end_s"])
        if 2 * (high - low) < passage["end_s"] - passage["start_s"]:
            continue
        rate = (row["end_s"] - row["start_s"]) / (row["high"] - row["low"])
        start_s, end_s = (round(row["start_s"] + (at - row["low"]) * rate, 3) for at in (low, high))
        place = {"recording_id": row["recording_id"], "start_s": start_s, "end_s": end_s}
        found.setdefault(row["recording_id"], place | {"confidence": row["confidence"]})
    copies = connection.execute(
        "SELECT recording_id FROM verdicts WHERE duplicate_of IS NOT NULL AND recording_id IN (SELECT unnest($1))",
        [list(found)],
    ).fetchall()
    ids = [one for one in found if (one,) not in copies]
    return [found[one] for one in ids[:EXAMPLES]]


def render(found: dict[str, Any]) -> None:
    """Print the document of `duplicates`."""
    duplicates = counted(found["duplicate_count"], "duplicate")
    terminal.echo(f"{counted(found['group_count'], 'group')} of recordings with the same sound, with {duplicates}")
    if found["groups"]:
        rows = [[group["kept"], len(group["duplicates"]), group["duplicates"][0]] for group in found["groups"]]
        terminal.table(["kept recording_id", "duplicates", "example"], rows)
    terminal.echo(f"apart from these, {counted(found['passage_count'], 'passage')} in several recordings")
    if found["passages"]:
        rows = [[one["repeats"], *_place(one), *_place(next(iter(one["places"]), None))] for one in found["passages"]]
        terminal.table(["recordings", "ingested first", "from", "to", "example", "from", "to"], rows)


def _place(place: dict[str, Any] | None) -> list[Any]:
    if place is None:
        return [None, None, None]
    return [place["recording_id"], terminal.clock(place["start_s"]), terminal.clock(place["end_s"])]
