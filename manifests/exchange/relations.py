"""The input of `convert`: recordings, segments and windows of a lake or of foreign manifests, as DuckDB relations.

Of a lake these are the recordings that could be read; the turns of diarization, or else the segments of voice activity;
and the windows that the selection keeps.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from manifests import views
from manifests.choice import Choice, choose
from manifests.exchange.foreign.load import load
from manifests.exchange.foreign.rows import TABLES, ManifestError
from manifests.lake import Lake
from manifests.shards import committed

BATCH_ROWS = 2000


@dataclass
class Source:
    """Three relations with the columns of foreign/rows.py and a `position` that orders each."""

    connection: duckdb.DuckDBPyConnection
    relations: dict[str, str]
    left_out: Counter[str] = field(default_factory=Counter)
    choice: Choice | None = None
    """The selection and stages of a lake that are read; None for manifests."""

    def count(self, table: str) -> int:
        return int(self.value(f"SELECT count(*) FROM {self.relations[table]}"))

    def value(self, query: str) -> Any:
        (row,) = self.connection.execute(query).fetchall()
        return row[0]

    def rows(self, query: str) -> Iterator[dict[str, Any]]:
        """Stream the rows of a query over `{recordings}`, `{segments}` and `{windows}`."""
        reader = self.connection.sql(query.format(**self.relations)).to_arrow_reader(BATCH_ROWS)
        for batch in reader:
            yield from batch.to_pylist()


def open_foreign(paths: Sequence[str]) -> Source:
    """Load manifests of any known formats together. Raises ManifestError."""
    connection = views.connect()
    return Source(connection, {table: table for table in TABLES}, load(connection, paths))


def open_lake(
    lake: Lake,
    selection: str | None = None,
    dataset: str | None = None,
    stages: Mapping[str, str] | None = None,
) -> Source:
    """Open a lake, with the newest selection if none is named. Raises ChoiceError."""
    choice = choose(lake, selection, dataset, stages)
    connection = views.open_views(lake, choice)
    queries = {
        "recordings": MEASURED if "signal" in choice.stages else CLAIMED,
        "segments": _segments(choice.stages),
        "windows": WINDOWS,
    }
    for table, query in queries.items():
        connection.execute(f"CREATE VIEW exchanged_{table} AS {query}")
    source = Source(connection, {table: f"exchanged_{table}" for table in TABLES}, choice=choice)
    unread = source.value("SELECT count(*) FROM ingest") - source.count("recordings")
    if unread:
        source.left_out["recordings that failed, or that are not annotated yet"] = unread
    return source


def split_key(path: str) -> tuple[str | None, str]:
    """The lake that contains a path, or None, and the key of the path in it. Raises ManifestError."""
    scheme, separator, rest = path.partition("://") if "://" in path else ("", "", os.path.abspath(path))
    parts = rest.rstrip("/").split("/")
    for end in range(len(parts), 0, -1):
        root = scheme + separator + "/".join(parts[:end])
        try:
            is_lake = root and next(Lake.at(root).batches(), None) is not None
        except ValueError as error:
            raise ManifestError(str(error), "name a local path or an s3:// URL") from error
        if is_lake:
            return root, "/".join(parts[end:])
    return None, path


def shard_folders(lake: Lake, dataset: str) -> list[str]:
    """The folders with shards of the dataset in the folder `dataset`, which can be read as foreign manifests."""
    names = sorted({shard.folder for shard in committed(lake.storage, dataset.removeprefix("datasets/"))})
    return [f"{lake.storage.root}/{dataset}/{name}" for name in names]


def _custom(*columns: str) -> str:
    """SQL of `custom`: a JSON object of these columns and of the labels of a recording; NULL if all are null.

    `labels` is an object in it, as in the cuts of shards, so that no label hides another attribute of the same name.
    """
    pairs = ", ".join(f"'{name}', {name}" for name in (*columns, "source", "licence", "labels"))
    return f"nullif(json_merge_patch('{{}}', json_object({pairs}))::VARCHAR, '{{}}') AS custom"


MEASURED = f"""
SELECT row_number() OVER () AS position, recording_id, uris, sample_rate, num_samples, duration_s, channels,
  {_custom("language", "channel_relation")}, NULL::VARCHAR AS rest
FROM annotations WHERE num_samples > 0
"""
CLAIMED = f"""
SELECT row_number() OVER () AS position, recording_id, uris, sample_rate,
  round(claimed_duration_s * sample_rate)::BIGINT AS num_samples, claimed_duration_s AS duration_s, channels,
  {_custom()}, NULL::VARCHAR AS rest
FROM ingest WHERE status = 'ok' AND claimed_duration_s > 0
"""
"""Recordings as their headers describe them, if none was decoded."""


def _segments(stages: Mapping[str, str]) -> str:
    speaker = "span.speaker" if "diarize" in stages else "NULL::VARCHAR"
    spans = "turns" if "diarize" in stages else "segments"
    return f"""
SELECT row_number() OVER () AS position, concat(recording_id, '-', lpad(n::VARCHAR, 6, '0')) AS segment_id,
  recording_id, span.start_s AS start_s, round(span.end_s - span.start_s, 6) AS duration_s,
  CASE channel_relation WHEN 'speakers' THEN [span.track] WHEN 'one_sided' THEN [live_channel] WHEN 'dual_mono' THEN [0]
    ELSE list_transform(range(channels), lambda x: x::INTEGER) END AS channels,
  {speaker} AS speaker, language, NULL::VARCHAR AS text, {_custom()}, NULL::VARCHAR AS rest
FROM (SELECT *, unnest({spans}) AS span, generate_subscripts({spans}, 1) - 1 AS n FROM annotations)
"""


ATTRIBUTES = (
    "context_s", "split", "language", "num_speakers", "speech_share", "overlap_share", "channel_relation",
)  # fmt: skip
# As `manifests.cuts.cut_of` describes the windows of shards.
WINDOWS = f"""
SELECT position, window_id, recording_id, start_s, duration_s, heard AS channels,
  list_filter(list_transform(turns, lambda turn, n: {{
    'segment_id': concat(window_id, '-', n - 1), 'recording_id': recording_id, 'start_s': turn.start_s,
    'duration_s': round(turn.end_s - turn.start_s, 6),
    'channels': CASE WHEN tracks = 1 THEN heard ELSE [turn.track] END,
    'speaker': turn.speaker, 'language': language, 'text': NULL::VARCHAR, 'custom': NULL::VARCHAR, 'rest': NULL::VARCHAR
  }}), lambda segment: segment.duration_s > 0) AS segments,
  {_custom(*ATTRIBUTES)}, NULL::VARCHAR AS rest
FROM (
  SELECT *, CASE WHEN tracks > 1 THEN list_transform(range(tracks), lambda x: x::INTEGER)
    WHEN channel_relation = 'one_sided' THEN [live_channel] ELSE [0] END AS heard
  FROM (SELECT row_number() OVER () AS position, * FROM window_verdicts WHERE kept)
  LEFT JOIN (SELECT recording_id, channel_relation, live_channel FROM annotations) USING (recording_id)
)
"""
