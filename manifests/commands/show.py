"""Finds all rows of a lake about one recording, and prints them on a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from manifests import schemas
from manifests.choice import ChoiceError
from manifests.commands import terminal
from manifests.commands.stats import rows_of
from manifests.commands.targets import Target
from manifests.lake import Lake
from manifests.output import one_line
from manifests.windows import union

SHARED = (
    "SELECT start_s, end_s, other_id AS with_id, other_start_s AS with_start_s, other_end_s AS with_end_s, confidence, "
    "share FROM matches WHERE recording_id = $1 UNION ALL SELECT other_start_s, other_end_s, recording_id, start_s, "
    "end_s, confidence, other_share FROM matches WHERE other_id = $1 ORDER BY start_s, end_s, with_id, with_start_s"
)
"""Stretches that a recording shares, as it has them, with the recording that holds them too and where."""
WIDTH = 62
LISTED = 40


def find_recording(connection: duckdb.DuckDBPyConnection, name: str) -> tuple[str, str]:
    """Find a recording by its id, the start of its id, its URI, the end of its URI, or its file name without suffix.

    Returns its id and the name of its batch. Raises ChoiceError where no recording or several match.
    """
    select = "SELECT recording_id, uris[1], batch FROM batches WHERE"
    found = connection.execute(f"{select} starts_with(recording_id, $1) LIMIT 6", [name]).fetchall()
    if not found:
        ends = "lambda uri: uri = $1 OR ends_with(uri, '/' || $1) OR parse_filename(uri, true) = $1"
        found = connection.execute(f"{select} len(list_filter(uris, {ends})) > 0 LIMIT 6", [name]).fetchall()
    if not found:
        raise ChoiceError(f"no recording {name!r}", "give its id, the start of its id, or its name as it was ingested")
    if len(found) > 1:
        several = "; ".join(f"{row[0]} {row[1]}" for row in found[:5])
        raise ChoiceError(f"{name!r} means several recordings", f"give one of {several}" + " ..." * (len(found) > 5))
    recording_id, _, batch = found[0]
    return recording_id, batch


def recording_rows(target: Target, name: str) -> dict[str, Any]:
    """The rows of one recording by view; its windows also name the shard that holds each."""
    lake, choice = target.lake, target.choice
    if lake is None:
        raise ChoiceError(f"{target.name} is no lake", "name a lake: only there is all of a recording known")
    connection = target.connect(())
    recording_id, batch = find_recording(connection, name)
    keys = {"recording": lake.recordings_key(batch)}
    keys |= {stage: lake.annotation_key(stage, fingerprint, batch) for stage, fingerprint in choice.stages.items()}
    if choice.selection:
        keys["verdict"] = lake.verdicts_key(choice.selection, batch)
    result: dict[str, Any] = {}
    for view, key in keys.items():
        rows = _rows(lake, key, recording_id)
        result[view] = rows[0] if rows else None
    result["windows"] = _rows(lake, lake.windows_key(choice.selection, batch), recording_id) if choice.selection else []
    shards = rows_of(
        connection,
        "SELECT window_id, folder, shard, status, error FROM shard_windows WHERE recording_id = $1",
        [recording_id],
    )
    result["shared"] = rows_of(connection, SHARED, [recording_id])
    by_window = {row["window_id"]: row for row in shards}
    for window in result["windows"]:
        encoded = by_window.get(window["window_id"])
        is_encoded = encoded and encoded["status"] == "ok"
        window["shard"] = f"{encoded['folder']}/{encoded['shard']:06d}" if encoded and is_encoded else None
        window["error"] = encoded and encoded["error"]
    return result


def _rows(lake: Lake, key: str, recording_id: str) -> list[dict[str, Any]]:
    if not lake.storage.exists(key):
        return []
    table = lake.read(key)
    of_recording = table.filter(pc.equal(table["recording_id"], pa.scalar(recording_id)))
    rows: list[dict[str, Any]] = of_recording.to_pylist(maps_as_pydicts="strict")
    return rows


def render(row: Mapping[str, Any]) -> None:
    """Print a recording, as `recording_rows` returns it."""
    recording = row["recording"]
    verdict = row.get("verdict")
    terminal.heading(recording["recording_id"])
    if verdict:
        of = f" of {verdict['duplicate_of']}" if verdict["duplicate_of"] else ""
        why = f": {', '.join(verdict['reasons'])}{of}" if verdict["reasons"] else ""
        terminal.echo(one_line(f"{verdict['verdict']}{why}"))
        if (verdict["repeats"] or 1) > 1:
            repeats = f"its most frequent passage occurs in {verdict['repeats']:,} recordings"
            terminal.echo(f"{repeats}; {verdict['repeated_share']:.1%} of it occur in recordings ingested earlier")
    for number, uri in enumerate(recording["uris"]):
        terminal.pairs({"" if number else "name": uri})
    skip = {"recording_id", "uris", "status"}
    _section("probe", recording, skip)
    for stage, spec in schemas.STAGE_SPECS.items():
        if stage in row:
            _section(stage, row[stage], {*skip, *spec.listed, *spec.bulky})
    _timeline(row)
    language = row.get("language") or {}
    tracks = language.get("track_languages") or []
    if len(tracks) > 1:
        terminal.heading("languages by track")
        shares = [", ".join(f"{code} {share:.2f}" for code, share in one["shares"].items()) for one in tracks]
        rows = [[one["track"], one["speech_s"], text] for one, text in zip(tracks, shares, strict=True)]
        terminal.table(["track", "speech_s", "shares"], rows)
    if language.get("votes"):
        terminal.heading("votes")
        terminal.table(
            ["track", "from", "to", "speech_s", "language", "probability"],
            [
                [vote["track"], terminal.clock(vote["start_s"]), terminal.clock(vote["end_s"]), vote["speech_s"],
                 vote["language"], vote["probability"]]
                for vote in language["votes"][:LISTED]
            ],
        )  # fmt: skip
        _more(language["votes"])
    voices = (row.get("prosody") or {}).get("voices")
    if voices:
        terminal.heading("voices")
        names = [
            "alone_s",
            "pitch_median_hz",
            "pitch_sd_semitones",
            "syllables_per_s",
            "pause_share",
            "loudness_range_lu",
        ]
        labels = ["alone_s", "pitch Hz", "sd semitones", "syllables/s", "pauses", "loudness LU"]
        terminal.table(
            ["track", "speaker", *labels],
            [[voice["track"], voice["speaker"], *(voice[name] for name in names)] for voice in voices[:LISTED]],
        )
        _more(voices)
    if row["shared"]:
        terminal.heading("sound that other recordings hold too")
        terminal.table(
            ["from", "to", "with", "from", "to", "confidence", "share of it"],
            [
                [
                    *(terminal.clock(one[name]) for name in ("start_s", "end_s")),
                    one["with_id"],
                    *(terminal.clock(one[name]) for name in ("with_start_s", "with_end_s")),
                    one["confidence"],
                    one["share"],
                ]
                for one in row["shared"][:LISTED]
            ],
        )
        _more(row["shared"])
    if row["windows"]:
        terminal.heading("windows")
        terminal.table(
            ["window_id", "split", "kept", "shard or reasons", "speech", "speakers", "overlap", "start"],
            [_window(window) for window in row["windows"][:LISTED]],
        )
        _more(row["windows"])


def _window(window: Mapping[str, Any]) -> list[Any]:
    where = window["shard"] or window["error"] or ", ".join(window["reasons"]) or "not encoded"
    measures = [window[name] for name in ("speech_share", "num_speakers", "overlap_share")]
    return [window["window_id"], window["split"], window["kept"], where, *measures, terminal.clock(window["start_s"])]


def _more(rows: Sequence[Any]) -> None:
    if len(rows) > LISTED:
        terminal.echo(f"... {len(rows) - LISTED:,} more: --json has them all")


def _section(name: str, row: Mapping[str, Any] | None, skip: set[str]) -> None:
    """Print the names and values of a row, several in a line where they fit."""
    terminal.heading(name)
    if row is None:
        terminal.echo("  not measured: ingest failed, or the batch is not annotated yet")
        return
    values = [
        (column, terminal.number(value)) for column, value in row.items() if value is not None and column not in skip
    ]
    if row["status"] != "ok":
        values.insert(0, ("status", row["status"]))
    line = ""
    for column, text in values:
        item = f"{column} {text}"
        if line and len(line) + len(item) + 2 > 78:
            terminal.echo(f"  {line}")
            line = ""
        line = f"{line}; {item}" if line else item
    if line:
        terminal.echo(f"  {line}")


def _timeline(row: Mapping[str, Any]) -> None:
    """Print the speech of each track, the turns of each speaker and the windows on one time axis."""
    duration_s = (row.get("signal") or {}).get("duration_s")
    if not duration_s:
        return
    lines: dict[str, str] = {}
    segments = (row.get("vad") or {}).get("segments") or []
    for track, spans in _spans(segments, "track").items():
        lines[f"speech {track}"] = terminal.timeline(spans, duration_s, WIDTH)
    turns = (row.get("diarize") or {}).get("turns") or []
    for speaker, spans in sorted(_spans(turns, "speaker").items()):
        lines[speaker] = terminal.timeline(spans, duration_s, WIDTH)
    if row["windows"]:
        cells = [" "] * WIDTH
        for window in row["windows"]:
            first = int(window["start_s"] / duration_s * WIDTH)
            last = max(first + 1, int((window["start_s"] + window["duration_s"]) / duration_s * WIDTH))
            cells[first:last] = ("k" if window["kept"] else "x") * (min(last, WIDTH) - first)
            cells[first] = "|"
        lines["windows"] = "".join(cells)
    terminal.heading("timeline" + " " * 8 + terminal.ruler(duration_s, WIDTH))
    for name, line in lines.items():
        terminal.echo(f"  {one_line(name)[:13]:<14}{line}")
    if row["windows"]:
        terminal.echo("  | starts a window, k kept, x rejected")


def _spans(rows: Sequence[Mapping[str, Any]], key: str) -> dict[Any, list[tuple[float, float]]]:
    ordered = sorted(rows, key=lambda row: str(row[key]))
    return {
        name: union([(row["start_s"], row["end_s"]) for row in group])
        for name, group in itertools.groupby(ordered, key=lambda row: row[key])
    }
