"""Windows cut out of a recording, and what is known of each: pure functions of one recording's rows."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]


def cut_starts(
    duration_s: float, window_s: float, stride_s: float, grid_s: float, turn_starts_s: Sequence[float] | None = None
) -> list[float]:
    """Starts in seconds, multiples of `grid_s`, of windows that lie wholly inside the recording.

    Without `turn_starts_s` the windows tile from 0. With them, each window starts at the last grid point at or before
    the first turn that starts at or after the previous window's end.

    >>> cut_starts(20.0, 8.0, 8.0, 0.1)
    [0.0, 8.0]
    >>> cut_starts(20.0, 8.0, 8.0, 0.1, [1.25, 4.0, 9.5])
    [1.2, 9.5]
    """
    last = int(np.floor((duration_s - window_s) / grid_s + 1e-6))
    stride = max(1, int(np.ceil(stride_s / grid_s - 1e-6)))  # up, so that rounding never makes windows overlap
    if turn_starts_s is None:
        points = list(range(0, last + 1, stride))
    else:
        points, position = [], 0
        for start_s in sorted(turn_starts_s):
            point = int(np.floor(start_s / grid_s + 1e-6))
            if position <= point <= last:
                points.append(point)
                position = point + stride
    return [round(point * grid_s, 6) for point in points]


def draw_split(key: str, splits: Mapping[str, float], seed: int) -> str:
    """The split of a duplicate group: its seeded hash, uniform on [0, 1), against the cumulated shares."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    edge = 0.0
    for name, share in splits.items():
        edge += share
        if position < edge:
            return name
    return [name for name, share in splits.items() if share > 0][-1]


def covered_s(spans: Sequence[tuple[float, float]], depth: int = 1) -> float:
    """Seconds that at least `depth` of the spans cover.

    >>> covered_s([(0.0, 2.0), (1.0, 3.0)]), covered_s([(0.0, 2.0), (1.0, 3.0)], depth=2)
    (3.0, 1.0)
    """
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    total, open_spans = 0.0, 0
    for (at, step), (following, _) in itertools.pairwise(edges):
        open_spans += step
        if open_spans >= depth:
            total += following - at
    return total


class Timeline:
    """Rows with `start_s` and `end_s`, found by time: a window of a long recording looks at its own few only."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = sorted(rows, key=lambda row: row["start_s"])
        self._starts = [row["start_s"] for row in self._rows]
        self._ends = list(itertools.accumulate((row["end_s"] for row in self._rows), max))

    def between(self, start_s: float, end_s: float) -> list[Row]:
        """Rows in order of start, among them all that meet the stretch.

        >>> Timeline([{"start_s": 5.0, "end_s": 6.0}, {"start_s": 0.0, "end_s": 2.0}]).between(1.0, 3.0)
        [{'start_s': 0.0, 'end_s': 2.0}]
        """
        return self._rows[bisect.bisect_right(self._ends, start_s) : bisect.bisect_left(self._starts, end_s)]


def measure(start_s: float, window_s: float, segments: Sequence[Row], turns: Sequence[Row] | None) -> dict[str, Any]:
    """Speech, speakers, overlap and turns inside one window; speakers are null where nobody diarized."""
    end_s = start_s + window_s
    speech_s = covered_s([_clip(row, start_s, end_s) for row in segments if _meets(row, start_s, end_s)])
    row: dict[str, Any] = {"speech_s": round(speech_s, 6), "speech_share": round(speech_s / window_s, 6)}
    if turns is None:
        return row | {"num_speakers": None, "overlap_share": None, "turn_count": None, "turns": None}
    inside = [turn for turn in turns if _meets(turn, start_s, end_s)]
    spoken: dict[str, list[tuple[float, float]]] = {}
    for turn in inside:
        spoken.setdefault(turn["speaker"], []).append(_clip(turn, start_s, end_s))
    # A speaker's own turns may touch or overlap: only different speakers make overlap.
    merged = [span for spans in spoken.values() for span in union(spans)]
    any_s = covered_s(merged)
    return row | {
        "num_speakers": len(spoken),
        "overlap_share": round(covered_s(merged, depth=2) / any_s, 6) if any_s else 0.0,
        "turn_count": len(inside),
        "turns": [_relative(turn, start_s, end_s) for turn in inside],
    }


def _meets(row: Row, start_s: float, end_s: float) -> bool:
    return bool(row["start_s"] < end_s and row["end_s"] > start_s)


def _clip(row: Row, start_s: float, end_s: float) -> tuple[float, float]:
    return max(row["start_s"], start_s), min(row["end_s"], end_s)


def _relative(turn: Row, start_s: float, end_s: float) -> dict[str, Any]:
    first, last = _clip(turn, start_s, end_s)
    return {
        "speaker": turn["speaker"],
        "track": turn["track"],
        "start_s": round(first - start_s, 6),
        "end_s": round(last - start_s, 6),
    }


def union(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans in order, those that touch or overlap joined.

    >>> union([(2.0, 3.0), (0.0, 1.0), (0.5, 2.0)])
    [(0.0, 3.0)]
    """
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
