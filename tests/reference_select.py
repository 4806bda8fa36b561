"""A reference implementation of `manifests.select`, which handles one recording and one window at a time."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from manifests import schemas
from manifests.duplicates import Member, grouped
from manifests.lake import Lake
from manifests.matches import matches_key
from manifests.selection import Selection
from manifests.view_columns import annotation_columns
from manifests.windows import covered_s, draw_split, union

Row = dict[str, Any]


@dataclass
class Known:
    """What is known of all recordings before one of them is judged."""

    keepers: dict[str, str] = field(default_factory=dict)
    """By recording, or by hash of its samples where nothing was matched: the one that is kept."""
    draws: dict[str, str] = field(default_factory=dict)
    heard: dict[str, Row] | None = None


def reference_select(lake: Lake, selection: Selection) -> dict[str, tuple[list[Row], list[Row]]]:
    """Verdicts and windows of each batch."""
    known = Known() if selection.matches is None else _matched(lake, selection)
    return {batch: _select_batch(lake, selection, batch, known) for batch in lake.batches()}


def _matched(lake: Lake, selection: Selection) -> Known:
    """Groups and passages, step by step of time; first of all recordings, then of those that are kept."""
    assert selection.matches is not None
    known, members, rejected = Known(heard={}), dict[str, Member](), set[str]()
    for batch in lake.batches():
        signal = lake.read(lake.annotation_key("signal", selection.stages["signal"], batch)).to_pylist()
        sizes = {row["recording_id"]: row["size_bytes"] for row in lake.read(lake.recordings_key(batch)).to_pylist()}
        for row in signal:
            if row["pcm_sha256"]:
                duration_s, size = row["duration_s"] or 0.0, sizes.get(row["recording_id"])
                key, bandwidth_hz = row["pcm_sha256"], row["bandwidth_hz"] or 0.0
                rate = size / duration_s if size and duration_s else 0.0
                members[row["recording_id"]] = Member(
                    len(members), row["recording_id"], batch, key, duration_s, bandwidth_hz, rate
                )
    rows = [row for batch in lake.batches() for row in lake.read(matches_key(selection.matches, batch)).to_pylist()]
    links = []
    for (one, other), own in itertools.groupby(rows, key=lambda row: (row["recording_id"], row["other_id"])):
        shares = list(own)
        given = (min(1.0, sum(row[name] for row in shares)) for name in ("share", "other_share"))
        links.append((members[one].number, members[other].number, *given))
    firsts: dict[str, Member] = {}
    for member in members.values():
        first = firsts.setdefault(member.pcm_sha256, member)
        links += [(member.number, first.number, 1.0, 1.0)] if first != member else []
    leader, place = {one: one for one in members}, {one: member.number for one, member in members.items()}
    numbered = {member.number: member for member in members.values()}
    for group in grouped(numbered, [link for link in links if max(link[2:]) >= selection.duplicate_share],
                         selection.duplicate_share):  # fmt: skip
        first = min(group.everyone(), key=lambda one: one.number)
        known.draws[group.best.recording_id] = first.pcm_sha256
        for one in group.everyone():
            leader[one.recording_id], place[one.recording_id] = group.best.recording_id, first.number
            if one != group.best:
                known.keepers[one.recording_id] = group.best.recording_id

    def heard() -> dict[str, Row]:
        found: dict[str, dict[int, list[Any]]] = {one: {} for one in members}
        for row in rows:
            one, other = row["recording_id"], row["other_id"]
            if leader[one] != leader[other]:
                for step in _steps(row["other_start_s"], row["other_end_s"]):
                    found[other].setdefault(step, [{leader[other]}, 1, False])[0].add(leader[one])
        holders = {one: {step: len(cell[0]) for step, cell in cells.items()} for one, cells in found.items()}
        for one, cells in holders.items():
            for step, count in cells.items():
                found[one][step][1] = count
        for row in rows:
            one, other = row["recording_id"], row["other_id"]
            own, others = (_steps(row[f"{name}start_s"], row[f"{name}end_s"]) for name in ("", "other_"))
            for low, high, count in _runs(holders[other], others):
                ends = (own.start + (at - others.start) * len(own) // len(others) for at in (low, high))
                for step in range(*ends):
                    cell = found[one].setdefault(step, [set(), 1, False])
                    cell[1] = max(cell[1], count)
            if leader[one] != leader[other]:
                stands = [(leader[name] in rejected, place[name]) for name in (one, other)]
                behind, steps = (one, own) if stands[0] > stands[1] else (other, others)
                for step in steps:
                    cell = found[behind].setdefault(step, [set(), 1, False])
                    cell[1], cell[2] = max(cell[1], 2), True
        return {one: _told(cells, members[one].duration_s) for one, cells in found.items()}

    known.heard = heard()
    for batch in lake.batches():
        verdicts, _ = _select_batch(lake, selection, batch, known)
        rejected |= {row["recording_id"] for row in verdicts if set(row["reasons"]) - {"duplicate"}}
    for one, told in heard().items():
        known.heard[one]["passages"] = told["passages"]
    return known


def _steps(start_s: float, end_s: float) -> range:
    return range(math.floor(start_s * 4 + 0.5), math.floor(end_s * 4 + 0.5))


def _runs(counts: dict[int, int], steps: range) -> Iterator[tuple[int, int, int]]:
    """Stretches of steps with one count."""
    inside = sorted(step for step in counts if step in steps)
    for (count, _), run in itertools.groupby(enumerate(inside), key=lambda one: (counts[one[1]], one[1] - one[0])):
        own = [step for _, step in run]
        yield own[0], own[-1] + 1, count


def _told(cells: dict[int, list[Any]], duration_s: float) -> Row:
    passages: list[Row] = []
    for step, (_, count, again) in sorted(cells.items()):
        last = passages[-1] if passages else None
        if count > 1 and last and (last["end_s"], last["repeats"], last["repeated"]) == (step / 4, count, again):
            last["end_s"] = (step + 1) / 4
        elif count > 1:
            passages.append({"start_s": step / 4, "end_s": (step + 1) / 4, "repeats": count, "repeated": again})
    repeated_s = sum(again for _, _, again in cells.values()) / 4
    share = min(1.0, round(repeated_s / duration_s, 6)) if duration_s else 0.0
    return {
        "repeated_share": share,
        "repeats": max([1, *(count for _, count, _ in cells.values())]),
        "passages": passages,
    }


NOT_HEARD = {"repeated_share": None, "repeats": None, "passages": None}


def _select_batch(lake: Lake, selection: Selection, batch: str, told: Known) -> tuple[list[Row], list[Row]]:
    recordings = lake.read(lake.recordings_key(batch))
    stages = {name: lake.read(lake.annotation_key(name, mark, batch)) for name, mark in selection.stages.items()}
    known = _join(recordings, stages)
    heard = [NOT_HEARD] * len(known)
    if told.heard is not None:
        ids = known["recording_id"].to_pylist()
        heard = [told.heard.get(one, {"repeated_share": 0.0, "repeats": 1, "passages": []}) for one in ids]
        for column in schemas.REPEATS:
            known = known.append_column(column, pa.array([row[column.name] for row in heard], column.type))
    failures = _failures({"ingest": recordings, **stages})
    verdicts, windows = [], []
    judged = zip(known.to_pylist(), _broken(known, selection.recordings), heard, strict=True)
    for row, broken, repeats in judged:
        keeper = told.keepers.get(row["recording_id"])
        if selection.matches is None and row["pcm_sha256"]:
            keeper = told.keepers.setdefault(row["pcm_sha256"], row["recording_id"])
        duplicate_of = keeper if keeper != row["recording_id"] else None
        failed = failures.get(row["recording_id"], [])
        reasons = failed or broken + (["duplicate"] if duplicate_of else [])
        verdict = "failed" if failed else "rejected" if reasons else "kept"
        row |= repeats | {"drawn_by": told.draws.get(row["recording_id"], row["pcm_sha256"])}
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
                **(NOT_HEARD if failed else repeats),
                "split": cut[0]["split"] if cut else None,
            }
        )
    table = schemas.table(windows, schemas.WINDOWS)
    for window, reasons in zip(windows, _broken(table, selection.windows), strict=True):
        if selection.most_repeats is not None and window["repeats"] > selection.most_repeats:
            reasons += ["repeated"] if window["repeated_share"] > 0.5 else []
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
            "split": draw_split(row["drawn_by"], selection.splits, selection.seed),
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
            **_repeats(row["passages"], start_s, end_s),
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


def _repeats(passages: list[Row] | None, start_s: float, end_s: float) -> Row:
    if passages is None:
        return {"repeated_share": None, "repeats": None}
    inside = [
        (row["repeats"], row["repeated"], min(row["end_s"], end_s) - max(row["start_s"], start_s))
        for row in passages
        if row["start_s"] < end_s and row["end_s"] > start_s
    ]
    counts = {count for count, _, _ in inside}
    length_s = end_s - start_s
    half = [c for c in counts if sum(s for count, _, s in inside if count >= c) >= length_s / 2 - 1e-6]
    again_s = sum(seconds for _, again, seconds in inside if again)
    return {"repeated_share": round(again_s / length_s, 6), "repeats": max(half, default=1)}


def _clipped(rows: list[Row], start_s: float, end_s: float) -> list[tuple[float, float]]:
    inside = [row for row in rows if row["start_s"] < end_s and row["end_s"] > start_s]
    return [(max(row["start_s"], start_s), min(row["end_s"], end_s)) for row in inside]


def _inside_any_s(windows: list[Row]) -> float:
    total = end_s = 0.0
    for window in windows:
        total += window["start_s"] + window["duration_s"] - max(end_s, window["start_s"])
        end_s = window["start_s"] + window["duration_s"]
    return total
