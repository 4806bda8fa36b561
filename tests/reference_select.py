"""A reference implementation of `manifests.select`, which handles one recording and one window at a time."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import pyarrow as pa

from manifests import schemas
from manifests.lake import Lake
from manifests.selection import Selection
from manifests.view_columns import annotation_columns
from manifests.windows import covered_s, draw_split, union

Row = dict[str, Any]


def reference_select(lake: Lake, selection: Selection) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return the verdicts and windows of each batch."""
    keepers: dict[str, str] = {}
    return {batch: _select_batch(lake, selection, batch, keepers) for batch in lake.batches()}


def _select_batch(lake: Lake, selection: Selection, batch: str, keepers: dict[str, str]) -> tuple[list[Row], list[Row]]:
    recordings = lake.read(lake.recordings_key(batch))
    stages = {name: lake.read(lake.annotation_key(name, mark, batch)) for name, mark in selection.stages.items()}
    measured_rows = _join(recordings, stages)
    failures = _failures({"ingest": recordings, **stages})
    verdicts, windows = [], []
    broken_rules = _broken(measured_rows, selection.recordings)
    for row, broken in zip(measured_rows.to_pylist(), broken_rules, strict=True):
        first = keepers.setdefault(row["pcm_sha256"], row["recording_id"]) if row["pcm_sha256"] else None
        duplicate_of = first if first != row["recording_id"] else None
        failed = failures.get(row["recording_id"], [])
        reasons = failed or broken + (["duplicate"] if duplicate_of else [])
        verdict = "failed" if failed else "rejected" if reasons else "kept"
        cut = list(_cut(row, selection)) if verdict == "kept" else []
        duration_s = row["duration_s"] or row["claimed_duration_s"] or 0.0
        covered = min(duration_s, _inside_any_s(cut))
        windows += cut
        verdicts.append(
            {
                "recording_id": row["recording_id"],
                "verdict": verdict,
                "reasons": reasons,
                "duration_s": duration_s,
                "windows": len(cut),
                "windowed_s": covered,
                "remainder_s": duration_s - covered if verdict == "kept" else 0.0,
                "duplicate_of": duplicate_of,
                "split": cut[0]["split"] if cut else None,
            }
        )
    for window, reasons in zip(
        windows, _broken(schemas.table(windows, schemas.WINDOWS), selection.windows), strict=True
    ):
        window |= {"kept": not reasons, "reasons": reasons}
    return verdicts, windows


def _join(recordings: pa.Table, stages: Mapping[str, pa.Table]) -> pa.Table:
    connection = duckdb.connect()
    connection.register("recordings", recordings)
    joins = ""
    for stage, table in stages.items():
        connection.register(f"{stage}_table", table)
        joins += f" LEFT JOIN {stage}_table AS {stage} USING (recording_id)"
    fields = ", ".join(f'{source} AS "{name}"' for name, source in annotation_columns(stages).items())
    numbered = "(SELECT *, row_number() OVER () AS n FROM recordings)"
    return connection.sql(f"SELECT {fields} FROM {numbered} AS r {joins} ORDER BY n").to_arrow_table()


def _failures(tables: Mapping[str, pa.Table]) -> dict[str, list[str]]:
    failures: dict[str, list[str]] = {}
    for stage, table in tables.items():
        for row in table.to_pylist():
            reasons = failures.get(row["recording_id"], [])
            if row["status"] != "ok" and not any(reason.startswith("ingest: ") for reason in reasons):
                failures.setdefault(row["recording_id"], []).append(f"{stage}: {row['error_type']}")
    return failures


def _broken(table: pa.Table, rules: Mapping[str, str]) -> list[list[str]]:
    connection = duckdb.connect()
    connection.register("judged", table)
    broken: list[list[str]] = [[] for _ in range(len(table))]
    for name, rule in rules.items():
        for reasons, (holds,) in zip(
            broken, connection.execute(f"SELECT ({rule}) FROM judged").fetchall(), strict=True
        ):
            if not holds:
                reasons.append(name)
    return broken


def _cut(row: Row, selection: Selection) -> Iterator[Row]:
    turns = row.get("turns")
    by_start = sorted(turns or [], key=lambda turn: turn["start_s"])
    points = [math.floor(turn["start_s"] / selection.grid_s + 1e-6) for turn in by_start]
    for start_s in _starts(row["duration_s"], selection, points if selection.align == "turns" else None):
        end_s = start_s + selection.window_s
        speech_s = covered_s(_clipped(row.get("segments") or [], start_s, end_s))
        yield {
            "window_id": f"{row['recording_id']}-{round(start_s * 1000):09d}",
            "recording_id": row["recording_id"],
            "split": draw_split(row["pcm_sha256"], selection.splits, selection.seed),
            "start_s": start_s,
            "duration_s": selection.window_s,
            "context_s": selection.context_s,
            "tracks": row["tracks"],
            "speech_s": round(speech_s, 6),
            "speech_share": round(speech_s / selection.window_s, 6),
            "language": row.get("language"),
            "source": row["source"],
            "licence": row["licence"],
            "labels": row["labels"],
            "kept": True,
            "reasons": [],
            **_speakers(None if turns is None else by_start, start_s, end_s),
        }


def _starts(duration_s: float, selection: Selection, points: list[int] | None) -> list[float]:
    last = math.floor((duration_s - selection.window_s) / selection.grid_s + 1e-6)
    stride = max(1, math.ceil((selection.stride_s or selection.window_s) / selection.grid_s - 1e-6))
    chosen: list[int] = []
    for point in range(0, last + 1, stride) if points is None else points:
        if (chosen[-1] + stride if chosen else 0) <= point <= last:
            chosen.append(point)
    return [round(point * selection.grid_s, 6) for point in chosen]


def _speakers(turns: list[Row] | None, start_s: float, end_s: float) -> Row:
    if turns is None:
        return dict.fromkeys(("num_speakers", "overlap_share", "turn_count", "turns"))
    inside = [turn for turn in turns if turn["start_s"] < end_s and turn["end_s"] > start_s]
    by_speaker = {
        speaker: [turn for turn in inside if turn["speaker"] == speaker] for speaker in {t["speaker"] for t in inside}
    }
    spans = [span for of_speaker in by_speaker.values() for span in union(_clipped(of_speaker, start_s, end_s))]
    any_s = covered_s(spans)
    turns_inside = [
        turn | {"start_s": round(first - start_s, 6), "end_s": round(last - start_s, 6)}
        for turn, (first, last) in zip(inside, _clipped(inside, start_s, end_s), strict=True)
    ]
    share = round(covered_s(spans, depth=2) / any_s, 6) if any_s else 0.0
    return {"num_speakers": len(by_speaker), "overlap_share": share, "turn_count": len(inside), "turns": turns_inside}


def _clipped(rows: list[Row], start_s: float, end_s: float) -> list[tuple[float, float]]:
    inside = [row for row in rows if row["start_s"] < end_s and row["end_s"] > start_s]
    return [(max(row["start_s"], start_s), min(row["end_s"], end_s)) for row in inside]


def _inside_any_s(windows: list[Row]) -> float:
    total = end_s = 0.0
    for window in windows:
        total += window["start_s"] + window["duration_s"] - max(end_s, window["start_s"])
        end_s = window["start_s"] + window["duration_s"]
    return total
