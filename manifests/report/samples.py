"""The recordings that can be browsed in a report: a fair sample, with all measures of each recording as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from manifests.report.figures import COLORS, PALETTE
from manifests.report.measures import NO_UNIT, recording_measures
from manifests.report.thresholds import Threshold
from manifests.windows import overlaps

Row = dict[str, Any]
Span = tuple[float, float]
Snippet = Callable[[Mapping[str, Any], float, bool], Row]
"""A function that returns the sound of a recording for the page.

Its arguments are a row of the view `annotations`, the start of the excerpt in seconds, and whether the recording has a
kept window. It returns keys of the page's sample (`audio`, `excerpt`, `sound`, `decoded`, `decoded_label`) and `mel`,
the ticks of the picture. `sound` has the error of a recording that cannot be read."""

MAX_SPEAKERS = 8


@dataclass
class SampledRecordings:
    """Samples in the order in which they were drawn from `total` recordings."""

    total: int
    samples: list[Row] = field(default_factory=list)
    mel: Row = field(default_factory=dict)
    sound: str = ""

    @property
    def verdicts(self) -> set[str]:
        return {sample["verdict"] for sample in self.samples}


def sample_recordings(
    connection: duckdb.DuckDBPyConnection, rules: Sequence[Threshold], count: int, snippet: Snippet | None
) -> SampledRecordings:
    """Draw up to `count` recordings of the table `facts`, from each combination of verdict and reasons in turn.

    About half are kept recordings. Within a combination they are ordered by the hash of their id, so that any number
    of them is a fair sample.
    """
    ((total,),) = connection.execute("SELECT count(*) FROM facts").fetchall()
    found = SampledRecordings(
        total, sound="" if snippet else "This file has no sound, because it was made with --no-audio."
    )
    drawn = connection.execute(
        "WITH ranked AS (SELECT recording_id, verdict, reasons, "
        "row_number() OVER (PARTITION BY verdict, reasons ORDER BY hash(recording_id), recording_id) AS rank "
        "FROM facts), "
        "strata AS (SELECT count(DISTINCT (verdict, reasons)) AS n FROM facts) "
        "SELECT recording_id, verdict, reasons FROM ranked, strata "
        "ORDER BY rank / CASE WHEN verdict = 'kept' THEN greatest(1, n - 1) ELSE 1 END, verdict, reasons LIMIT $1",
        [count],
    ).fetchall()
    ids = [row[0] for row in drawn]
    known = _by_id(connection, "annotations", ids)
    windows = _by_id(connection, "window_verdicts", ids)
    failures = _by_id(connection, "failures", ids)
    for recording_id, verdict, reasons in drawn:
        (row,) = known[recording_id]
        own = sorted(windows.get(recording_id, []), key=lambda window: window["start_s"])
        sample = _described(row, verdict, reasons, own, failures.get(recording_id, []), rules)
        if snippet:
            sample |= snippet(row, _best_start_s(row, own), any(window["kept"] for window in own))
            found.mel = sample.pop("mel", found.mel)
        found.samples.append(sample)
    return found


def _by_id(connection: duckdb.DuckDBPyConnection, view: str, ids: list[str]) -> dict[str, list[Row]]:
    chosen = connection.sql(f"FROM {view} WHERE recording_id IN (SELECT unnest($ids))", params={"ids": ids})
    rows: dict[str, list[Row]] = {}
    for row in chosen.to_arrow_table().to_pylist():
        rows.setdefault(row["recording_id"], []).append(row)
    return rows


def _best_start_s(row: Row, windows: list[Row]) -> float:
    """The start of an excerpt: that of the first kept window, else 1 s before the first speech, else 0."""
    kept = [window["start_s"] for window in windows if window["kept"]]
    speech = [segment["start_s"] - 1.0 for segment in row.get("segments") or []]
    return max(0.0, float(min(kept or speech or [0.0])))


def _described(
    row: Row, verdict: str, reasons: list[str], windows: list[Row], failures: list[Row], rules: Sequence[Threshold]
) -> Row:
    duration_s = row.get("duration_s") or row["claimed_duration_s"] or 0.0
    name = row["uris"][0].rpartition("/")[2]
    lanes = list(_lanes(row, windows))
    words = [*row["uris"], row["recording_id"], verdict, *reasons, row["source"], row["licence"], row.get("language")]
    problems = "; ".join(f"{failure['step']}: {failure['error']}; remedy: {failure['remedy']}" for failure in failures)
    return {
        "id": row["recording_id"],
        "name": name,
        "names": row["uris"],
        "verdict": verdict,
        "reasons": reasons,
        "language": row.get("language"),
        "length": f"{duration_s / 60:.1f} min" if duration_s >= 100 else f"{duration_s:.1f} s",
        "duration_s": duration_s,
        "search": " ".join(str(word) for word in words if word).lower(),
        "values": _values(row, reasons, rules),
        "lanes": lanes,
        "label": f"Timeline of {name}: " + ", ".join(f"{lane['name']} {len(lane['spans'])} spans" for lane in lanes),
        "sound": problems or "This file has no sound of this recording.",
    }


def _values(row: Row, reasons: list[str], rules: Sequence[Threshold]) -> list[tuple[str, str, bool]]:
    """(name, value with its unit, whether a rule over it fails) for every measure of a recording that is not null."""
    broken = {rule.expression for rule in rules if rule.level == "recordings" and rule.name in reasons}
    values = []
    for name, measure in recording_measures().items():
        value = row.get(name)
        if value is None:
            continue
        if pa.types.is_map(measure.kind):
            known = [(key, part) for key, part in value if part is not None]
            if not known:
                continue
            value = ", ".join(f"{key} {part if isinstance(part, str) else f'{part:.3g}'}" for key, part in known)
        unit = "" if measure.unit == NO_UNIT else measure.unit
        if isinstance(value, float):
            value = f"{value:.4g}"
        elif isinstance(value, int):
            value, unit = f"{value:,}", f"{unit}s" if value != 1 and unit in ("sample", "byte", "bit") else unit
        values.append((name, f"{value} {unit}".strip(), name in broken))
    shown = {name for name, *_ in values}
    return values + [(expression, "breaks its rule", True) for expression in sorted(broken - shown)]


def _lanes(row: Row, windows: list[Row]) -> list[Row]:
    """The lanes of the timeline: speech by track, turns by speaker, overlap, votes on language, windows."""
    lanes: list[Row] = []

    def add(name: str, spans: Sequence[Span], color: str, **more: Any) -> None:
        if spans:
            rounded = [(round(start, 2), round(end, 2)) for start, end in spans]
            lanes.append({"name": name, "spans": rounded, "color": color} | more)

    segments, turns = row.get("segments") or [], row.get("turns") or []
    tracks = sorted({segment["track"] for segment in segments})
    for track in tracks:
        spans = [(s["start_s"], s["end_s"]) for s in segments if s["track"] == track]
        add(f"speech {track}" if len(tracks) > 1 else "speech", spans, "#8a93a0")
    spoken: dict[str, list[Span]] = {}
    for turn in turns:
        spoken.setdefault(turn["speaker"], []).append((turn["start_s"], turn["end_s"]))
    by_time = sorted(spoken, key=lambda speaker: (-sum(end - start for start, end in spoken[speaker]), speaker))
    for number, speaker in enumerate(sorted(by_time[:MAX_SPEAKERS])):
        add(speaker, spoken[speaker], PALETTE[number])
    rest = [span for speaker in by_time[MAX_SPEAKERS:] for span in spoken[speaker]]
    add(f"{len(by_time) - MAX_SPEAKERS} others", rest, PALETTE[-1])
    add("overlap", overlaps(list(spoken.values())), "#d6453d")
    votes = row.get("votes") or []
    languages = sorted({vote["language"] for vote in votes})
    add(
        "language",
        [(vote["start_s"], vote["end_s"]) for vote in votes],
        "",
        colors=[PALETTE[(languages.index(vote["language"]) + 2) % len(PALETTE)] for vote in votes],
        texts=[vote["language"] for vote in votes],
        hover=[
            f"{vote['language']} with {vote['probability']:.0%}, for {vote['speech_s']:.1f} s of speech"
            for vote in votes
        ],
    )
    add(
        "windows",
        [(window["start_s"], window["start_s"] + window["duration_s"]) for window in windows],
        "",
        colors=[COLORS["kept" if window["kept"] else "rejected"] for window in windows],
        texts=["" if window["kept"] else "✗" for window in windows],
        hover=["kept" if window["kept"] else f"rejected: {', '.join(window['reasons'])}" for window in windows],
    )
    return lanes
