"""Checks of the rows of a table: SQL conditions by which `manifest validate` finds bad rows."""

from __future__ import annotations

from dataclasses import dataclass

SLACK_S = 0.001
"""Tolerance for a span that ends after its recording, as in lhotse: resampling rounds to whole samples."""
ANNOTATE = "delete the file and annotate again"
"""The remedy for bad rows of a stage."""


@dataclass(frozen=True)
class RowCheck:
    """A check of every row of a table.

    The conditions of every stage can use `duration_s` and `tracks` of the recording.
    """

    bad: str
    """SQL condition that is true for a bad row. A row for which it is null is valid."""
    what: str
    """The error of such a row as a noun phrase, such as "no samples"."""
    remedy: str


def span_outside(spans: str, duration_s: str) -> str:
    """SQL condition: a span in a list column is empty, begins before 0, or ends after the recording.

    Args:
        spans: Name of a column that is a list of structs with `start_s` and `end_s`.
        duration_s: Name of the column that holds the duration in seconds.
    """
    wrong = f"s.start_s < 0 OR s.end_s <= s.start_s OR s.end_s > {duration_s} + {SLACK_S}"
    return f"len(list_filter({spans}, lambda s: {wrong})) > 0"


def unknown_track(spans: str) -> str:
    """SQL condition: an item of a list column is on a track that the recording does not have."""
    return f"len(list_filter({spans}, lambda s: s.track < 0 OR s.track >= tracks)) > 0"
