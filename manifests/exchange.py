"""What `convert` reads: recordings, segments and windows of a lake or of foreign manifests, as relations of DuckDB.

A lake's recordings are those that were read, its segments the turns of diarization (else the stretches of voice
activity), its windows those that the selection keeps.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from manifests import views
from manifests.foreign.load import load
from manifests.foreign.rows import TABLES
from manifests.lake import Lake

BATCH_ROWS = 2000


@dataclass
class Source:
    """Three relations with the columns of manifests/foreign/rows.py and a `position` that orders each."""

    connection: duckdb.DuckDBPyConnection
    relations: dict[str, str]
    left_out: Counter[str] = field(default_factory=Counter)

    def count(self, table: str) -> int:
        return int(self.value(f"SELECT count(*) FROM {self.relations[table]}"))

    def value(self, query: str) -> Any:
        (row,) = self.connection.execute(query).fetchall()
        return row[0]

    def rows(self, query: str) -> Iterator[dict[str, Any]]:
        """Rows of a query over `{recordings}`, `{segments}` and `{windows}`, streamed."""
        reader = self.connection.sql(query.format(**self.relations)).to_arrow_reader(BATCH_ROWS)
        for batch in reader:
            yield from batch.to_pylist()


def open_foreign(paths: Sequence[str]) -> Source:
    """Manifests of any known format together. Raises ManifestError."""
    connection = views.connect()
    return Source(connection, {table: table for table in TABLES}, load(connection, paths))


def open_lake(lake: Lake, selection: str | None = None) -> Source:
    """A lake, with the newest selection if none is named. Raises views.ChoiceError."""
    connection = views.open_views(lake, views.choose(lake, selection))
    known = set(connection.sql("FROM annotations").columns)
    for table, query in (("recordings", _recordings(known)), ("segments", _segments(known)), ("windows", WINDOWS)):
        connection.execute(f"CREATE VIEW exchanged_{table} AS {query}")
    source = Source(connection, {table: f"exchanged_{table}" for table in TABLES})
    unread = source.value("SELECT count(*) FROM recordings") - source.count("recordings")
    if unread:
        source.left_out["recordings that failed, or whose length nothing tells yet (annotate them)"] = unread
    return source


def split_key(path: str) -> tuple[str | None, str]:
    """The lake that holds a path, None if none does, and the key of the path in it."""
    parts = path.rstrip("/").split("/")
    for end in range(len(parts), 0, -1):
        root = "/".join(parts[:end]) or "/"
        if views.folders(Lake.at(root), "recordings")
    return None, path


def _recordings(known: set[str]) -> str:
    samples, duration = "round(claimed_duration_s * sample_rate)::BIGINT", "claimed_duration_s"
    if "num_samples" in known:
        samples, duration = f"coalesce(num_samples, {samples})", f"coalesce(duration_s, {duration})"
    named = [name for name in ("source", "licence", "language", "channel_relation") if name in known]
    custom = ", ".join(f"'{name}', {name}" for name in named)
    return (
        f"SELECT row_number() OVER () AS position, recording_id, uris, sample_rate, {samples} AS num_samples, "
        f"{duration} AS duration_s, channels, json_merge_patch('{{}}', json_object({custom}))::VARCHAR AS custom, "
        f"NULL::VARCHAR AS rest FROM annotations WHERE sample_rate > 0 AND channels > 0 AND {duration} > 0"
    )


NO_SPANS = "[{'speaker': '', 'track': 0, 'start_s': 0.0, 'end_s': 0.0}][:0]"


def _segments(known: set[str]) -> str:
    spans = "turns" if "turns" in known else "segments" if "segments" in known else NO_SPANS
    channels = {
        "speakers": "[span.track]",
        "one_sided": "[live_channel]",
        "dual_mono": "[0]",
    }
    cases = " ".join(f"WHEN channel_relation = '{relation}' THEN {value}" for relation, value in channels.items())
    heard = "list_transform(range(channels), lambda x: x::INTEGER)"
    return (
        "SELECT row_number() OVER () AS position, concat(recording_id, '-', lpad(n::VARCHAR, 6, '0')) AS segment_id, "
        "recording_id, span.start_s AS start_s, round(span.end_s - span.start_s, 6) AS duration_s, "
        f"{f'CASE {cases} ELSE {heard} END' if 'channel_relation' in known else heard} AS channels, "
        f"{'span.speaker' if spans != 'segments' else 'NULL::VARCHAR'} AS speaker, "
        f"{'language' if 'language' in known else 'NULL::VARCHAR'} AS language, "
        "NULL::VARCHAR AS text, NULL::VARCHAR AS custom, NULL::VARCHAR AS rest "
        f"FROM (SELECT *, unnest({spans}) AS span, generate_subscripts({spans}, 1) - 1 AS n FROM annotations)"
    )


# As `manifests.shards.cut_of` describes the windows of shards.
WINDOWS = """
SELECT row_number() OVER () AS position, window_id, recording_id, start_s, duration_s,
  list_transform(range(tracks), lambda x: x::INTEGER) AS channels,
  list_filter(list_transform(turns, lambda turn, n: {
    'segment_id': concat(window_id, '-', n - 1), 'recording_id': recording_id, 'start_s': turn.start_s,
    'duration_s': round(turn.end_s - turn.start_s, 6), 'channels': [turn.track], 'speaker': turn.speaker,
    'language': language, 'text': NULL::VARCHAR, 'custom': NULL::VARCHAR, 'rest': NULL::VARCHAR
  }), lambda segment: segment.duration_s > 0) AS segments,
  json_merge_patch('{}', json_object('context_s', context_s, 'split', split, 'source', source, 'licence', licence,
    'language', language, 'num_speakers', num_speakers, 'speech_share', speech_share, 'overlap_share', overlap_share
  ))::VARCHAR AS custom, NULL::VARCHAR AS rest
FROM windows WHERE kept
"""
