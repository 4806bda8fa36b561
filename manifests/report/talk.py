"""The report's charts of turn-taking and prosody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from manifests.report import figures
from manifests.report.figures import COLORS

MOST = 10_000
"""Largest number of recordings in a chart. If there are more, this number is drawn by the hash of their ids."""
OFFSETS_S = (-3.0, 5.0, 0.1)
"""First edge, last edge and width of the bars of floor transfer offsets, in seconds."""
RANKS = ("most talkative", "second", "third", "fourth", "fifth", "all others")


Chart = tuple[str, str, str, dict[str, Any]]


def charts(connection: duckdb.DuckDBPyConnection, stages: Mapping[str, str]) -> Iterator[Chart]:
    """Id, title, note and figure of each chart, for the stages that ran. Reads the table `facts`."""
    if "diarize" in stages:
        yield from _turn_taking(connection)
    if "prosody" in stages:
        yield from _prosody(connection)


def _turn_taking(connection: duckdb.DuckDBPyConnection) -> Iterator[Chart]:
    counts, drawn = histogram(connection, "unnest(offsets_s)", "diarize", OFFSETS_S)
    if counts:
        edges = edges_of(OFFSETS_S)
        title = "Floor transfer offsets"
        note = (
            "Time from the end of a speaker's turn to the beginning of the next speaker's turn. Gaps are right of the "
            f"line, and overlaps are left of it. The outermost bars include all values beyond them. {drawn}"
        )
        yield "talk-offsets", title, note, figures.counted(edges, counts, title, "offset, s", "floor transfers")
    rows = _shares(connection)
    if rows:
        title = "Speaking time of each speaker"
        note = (
            "Mean share of the speaking time that each speaker has, from the most talkative speaker down, by the "
            "number of speakers."
        )
        most = max(sum(part > 0 for part in parts) for *_, parts in rows)
        shown = [(group, count, parts[:most]) for group, count, parts in rows]
        yield "talk-shares", title, note, figures.shares(shown, RANKS[:most], title)


def _prosody(connection: duckdb.DuckDBPyConnection) -> Iterator[Chart]:
    charts = (
        ("pitch_median_hz", "Pitch", "Median pitch of each speaker.", "Hz", (50.0, 400.0, 10.0)),
        ("pitch_sd_semitones", "Variability of the pitch", "Standard deviation of each speaker's pitch.", "semitones",
         (0.0, 8.0, 0.25)),
        ("syllables_per_s", "Speaking rate", "Syllable nuclei per second of speech of each speaker.", "1/s",
         (0.0, 8.0, 0.2)),
        ("pause_share", "Pauses", "Share of pauses in the time of each speaker.", "share", (0.0, 0.6, 0.02)),
    )  # fmt: skip
    for name, title, note, unit, bars in charts:
        counts, drawn = histogram(connection, f"unnest(voices).{name}", "prosody", bars)
        if counts:
            note = f"{note} The outermost bars include all values beyond them. {drawn}"
            yield f"talk-{name}", title, note, figures.counted(edges_of(bars), counts, title, unit, "speakers")


def edges_of(bars: tuple[float, float, float]) -> list[float]:
    """The edges of the bars that (first edge, last edge, width) describe."""
    low, high, width = bars
    return [round(low + number * width, 6) for number in range(round((high - low) / width) + 1)]


def histogram(
    connection: duckdb.DuckDBPyConnection, expression: str, view: str, bars: tuple[float, float, float]
) -> tuple[dict[str, list[int]], str]:
    """Counts by verdict and bar of a list of numbers per recording, and a sentence on the recordings drawn."""
    low, high, width = bars
    count = round((high - low) / width)
    rows = connection.execute(
        f"WITH drawn AS (SELECT recording_id, {expression} AS value FROM "
        f"(FROM {view} WHERE status = 'ok' ORDER BY hash(recording_id), recording_id LIMIT {MOST})) "
        f"SELECT verdict, least(greatest(floor((value - $1) / $2), 0), {count - 1})::INTEGER AS bar, count(*) "
        "FROM drawn JOIN facts USING (recording_id) WHERE value IS NOT NULL GROUP BY ALL ORDER BY ALL",
        [low, width],
    ).fetchall()
    found: dict[str, list[int]] = {}
    for verdict in sorted({verdict for verdict, *_ in rows}, key=list(COLORS).index):
        found[verdict] = [0] * count
    for verdict, bar, number in rows:
        found[verdict][bar] = number
    ((total,),) = connection.execute(f"SELECT count(*) FROM {view} WHERE status = 'ok'").fetchall()
    return found, f"Drawn at random: {MOST:,} of {total:,} recordings." if total > MOST else ""


def _shares(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, int, list[float]]]:
    """For each number of speakers: its name, the number of recordings, and the mean share of each rank of RANKS."""
    ranks = len(RANKS)
    rows = connection.execute(
        "WITH spoken AS (SELECT num_speakers, list_reverse_sort(map_values(speaker_s)) AS seconds FROM "
        f"(FROM diarize WHERE num_speakers > 1 ORDER BY hash(recording_id), recording_id LIMIT {MOST})), "
        f"shares AS (SELECT least(num_speakers, {ranks}) AS speakers, unnest(seconds) / list_sum(seconds) AS share, "
        f"least(generate_subscripts(seconds, 1), {ranks}) AS rank FROM spoken WHERE list_sum(seconds) > 0) "
        "SELECT speakers, rank, sum(share) FROM shares GROUP BY speakers, rank ORDER BY speakers, rank"
    ).fetchall()
    sums: dict[int, list[float]] = {}
    for speakers, rank, share in rows:
        sums.setdefault(speakers, [0.0] * ranks)[rank - 1] = share
    found = []
    for speakers, parts in sums.items():
        count = round(sum(parts))  # the shares of each recording sum to 1
        found.append((f"{speakers} or more" if speakers == ranks else str(speakers), count, [p / count for p in parts]))
    return found
