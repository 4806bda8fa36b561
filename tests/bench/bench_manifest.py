"""`speechmill manifest` on a synthetic lake of 10 million recordings and 50 million windows: time and peak memory.

Each question is asked in a process of its own and, beside it, as the same SQL in DuckDB alone over the same files.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from manifests import schemas
from manifests.fingerprint import pretty
from manifests.lake import Lake

MARKS = {stage: f"{number:012x}" for number, stage in enumerate(schemas.STAGES)}
RULES = {"long": "duration_s >= 60", "speech": "speech_share >= 0.3", "clean": "dnsmos_ovrl >= 1.5"}
WINDOW_RULES = {"speech": "speech_share >= 0.25", "together": "num_speakers >= 2"}

# One row a recording, every value drawn from the hash h of its number; numbers are rounded as measures are.
FACTS = """
CREATE OR REPLACE TABLE facts AS
SELECT *, ['en', 'de', 'es', 'fr', 'pt', 'zh'][1 + least(5, (h // 7 % 10)::BIGINT)] AS lang, 3 + (h // 11 % 9)::INT AS n,
  round(0.2 + (h // 13 % 750) / 1000.0, 3) AS share, round(1 + (h // 17 % 350) / 100.0, 2) AS mos,
  round(n * 40 + (h // 19 % 4000) / 100.0, 2) AS seconds, h // 23 % 200 = 0 AS broken,
  ['radio', 'phone', 'podcast', 'meeting', 'video'][1 + (h // 29 % 5)::BIGINT] AS src
FROM (SELECT i, hash(i) AS h, sha256(i::VARCHAR) AS sha, substr(sha, 1, 20) AS id FROM range({first}, {last}) AS t(i))
"""
SPAN = "{{'track': 0, 'start_s': {0}, 'end_s': {1}}}"
TURN = "{{'speaker': 'SPEAKER_0{2}', 'track': 0, 'start_s': {0}, 'end_s': {1}}}"
OK = "id AS recording_id, CASE WHEN broken THEN 'failed' ELSE 'ok' END AS status, CASE WHEN broken THEN 'UnreadableAudioError' END AS error_type"
NULLED = "CASE WHEN NOT broken THEN {} END AS {}"


def _columns(**values: str) -> str:
    return ", ".join(NULLED.format(value, name) for name, value in values.items())


TABLES = {
    "recordings": "id AS recording_id, ['/data/' || src || '/' || i || '.opus'] AS uris, sha AS sha256, "
    "(seconds * 4000)::BIGINT AS size_bytes, 'ogg' AS container, 'opus' AS codec, 48000 AS sample_rate, "
    "1 AS channels, 'mono' AS channel_layout, seconds AS claimed_duration_s, src AS source, "
    "'CC BY 4.0' AS licence, 'ok' AS status",
    "signal": OK + ", " + _columns(
        sample_rate="48000", num_samples="(seconds * 48000)::BIGINT", duration_s="seconds", channels="1",
        pcm_sha256="sha256(sha)", decode_errors="0", loudness_lufs="round(-40 + h // 31 % 300 / 10.0, 1)",
        peak_dbfs="round(-20 + h // 37 % 200 / 10.0, 1)", rms_dbfs="round(-50 + h // 41 % 300 / 10.0, 1)",
        dc_offset="0.0", clipped_share="0.0", digital_silence_share="0.0",
        bandwidth_hz="4000.0 + 100 * (h // 43 % 160)", channel_relation="'mono'", live_channel="0", tracks="1"),
    "vad": OK + ", " + _columns(
        segments=f"[{SPAN.format('1.0', 'round(seconds * share / 2, 2)')}, "
        f"{SPAN.format('round(seconds / 2, 2)', 'round(seconds / 2 * (1 + share), 2)')}]",
        speech_s="round(seconds * share, 2)", speech_share="share", speech_per_track_s="[round(seconds * share, 2)]"),
    "diarize": OK + ", " + _columns(
        turns=f"[{TURN.format('1.0', 'round(seconds * share / 2, 2)', 0)}, "
        f"{TURN.format('round(seconds / 2, 2)', 'round(seconds / 2 * (1 + share), 2)', 1)}]",
        method="'pipeline'", num_speakers="2", overlap_s="0.0", overlap_share="0.0", turn_count="2",
        turns_per_min="round(120 / seconds, 3)", longest_monologue_s="round(seconds * share / 2, 2)"),
    "language": OK + ", " + _columns(
        language="lang", language_confidence="round(0.5 + h // 47 % 500 / 1000.0, 3)",
        language_shares="MAP {lang: 1.0}"),
    "quality": OK + ", " + _columns(
        dnsmos_sig="mos", dnsmos_bak="mos", dnsmos_ovrl="mos", dnsmos_p808="mos", dnsmos_windows="n",
        snr_db="round(h // 53 % 400 / 10.0, 1)", music_likelihood="round(h // 59 % 1000 / 1000.0, 3)"),
}  # fmt: skip

JUDGED = """
CREATE OR REPLACE TABLE judged AS SELECT *, CASE WHEN broken THEN 'failed' WHEN len(reasons) > 0 THEN 'rejected'
  ELSE 'kept' END AS verdict, CASE WHEN verdict = 'kept' THEN n ELSE 0 END AS windows
FROM (SELECT *, CASE WHEN broken THEN [{failures}] ELSE list_filter([
  CASE WHEN seconds < 60 THEN 'long' END, CASE WHEN share < 0.3 THEN 'speech' END, CASE WHEN mos < 1.5 THEN 'clean' END
], lambda x: x IS NOT NULL) END AS reasons FROM facts)
"""
VERDICTS = (
    "id AS recording_id, verdict, reasons, CASE WHEN broken THEN 0 ELSE seconds END AS duration_s, windows, "
    "windows * 40.0 AS windowed_s, CASE WHEN verdict = 'kept' THEN seconds - n * 40.0 ELSE 0 END AS remainder_s, "
    "CASE WHEN verdict = 'kept' THEN 'train' END AS split"
)
WINDOWS = """
SELECT id || '-' || lpad((k * 40000)::VARCHAR, 9, '0') AS window_id, id AS recording_id, 'train' AS split,
  k * 40.0 AS start_s, 40.0 AS duration_s, 10.0 AS context_s, 1 AS tracks, 40.0 * s AS speech_s, s AS speech_share,
  spoken AS num_speakers, 0.0 AS overlap_share, 1 AS turn_count, lang AS language, src AS source,
  'CC BY 4.0' AS licence, [] AS turns, len(reasons) = 0 AS kept, reasons
FROM (SELECT *, list_filter([CASE WHEN s < 0.25 THEN 'speech' END, CASE WHEN spoken < 2 THEN 'together' END],
  lambda x: x IS NOT NULL) AS reasons
  FROM (SELECT * EXCLUDE (reasons), round((share + (h // (61 + k) % 100) / 100.0) / 2, 3) AS s,
    1 + (h // (67 + k) % 4 > 0)::INT AS spoken
    FROM (SELECT *, unnest(range(windows)) AS k FROM judged)))
"""


def write(lake: Lake, recordings: int, batch: int) -> None:
    """The lake, batch by batch, in the schemas of a real one; memory does not grow with its size."""
    connection = duckdb.connect()
    connection.execute("SET threads = 1; SET memory_limit = '2GB'")
    failures = ", ".join(f"'{stage}: UnreadableAudioError'" for stage in MARKS)
    for number, first in enumerate(range(0, recordings, batch)):
        connection.execute(FACTS.format(first=first, last=min(first + batch, recordings)))
        connection.execute(JUDGED.format(failures=failures))
        name = f"batch-{number:06d}"
        for table, columns in TABLES.items():
            schema = schemas.STAGES.get(table, schemas.RECORDINGS)
            key = lake.annotation_key(table, MARKS[table], name) if table in MARKS else lake.recordings_key(name)
            put(lake, key, connection, f"SELECT {columns} FROM facts", schema)
        put(lake, lake.verdicts_key("bench", name), connection, f"SELECT {VERDICTS} FROM judged", schemas.VERDICTS)
        put(lake, lake.windows_key("bench", name), connection, WINDOWS, schemas.WINDOWS)
    selection = {
        "name": "bench", "stages": MARKS, "context_s": 10.0, "continuation_s": 30.0, "recordings": RULES,
        "windows": WINDOW_RULES,
    }  # fmt: skip
    lake.storage.put("selections/bench/selection.json", pretty(selection).encode())


def put(lake: Lake, key: str, connection: duckdb.DuckDBPyConnection, query: str, schema: object) -> None:
    table = connection.sql(query).to_arrow_table()
    lacking = [schema.field(name) for name in schema.names if name not in table.column_names]
    for field in lacking:
        import pyarrow as pa

        table = table.append_column(field.name, pa.nulls(len(table), field.type))
    lake.write(key, table.select(schema.names).cast(schema))
