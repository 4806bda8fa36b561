"""Windows that are cut out of recordings, and what is known of each window: of many recordings at once, as arrays."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import schemas
from manifests.spans import Array, Spans, flattened, inside_s, joined_by, meeting, numbered, pieces, rounded

if TYPE_CHECKING:
    from manifests.selection import Selection

OF_RECORDING = {
    name: schema.field(name).type
    for schema, names in (
        (schemas.RECORDINGS, ("recording_id", "source", "licence", "labels")),
        (schemas.SIGNAL, ("duration_s", "pcm_sha256", "tracks")),
        (schemas.LANGUAGE, ("language",)),
        (schemas.VAD, ("segments",)),
        (schemas.DIARIZE, ("turns",)),
        (schemas.VERDICTS, ("passages",)),
    )
    for name in names
}
"""Columns of recordings from which windows are cut and measured, with their types."""


@dataclass(frozen=True)
class Cut:
    """The windows of many recordings.

    `windows` has the columns of WINDOWS, in the order of the recordings; `counts` and `covered_s` tell of each
    recording how many windows it has and how many of its seconds lie in any of them.
    """

    windows: pa.Table
    counts: Array
    covered_s: Array


def cut(recordings: pa.Table, selection: Selection, draws: Mapping[str, str] | None = None) -> Cut:
    """Every window of `recordings`, marked as kept: rules for windows are applied later. Columns of OF_RECORDING that
    were not measured may be absent.

    `draws` holds the hashes that draw the splits of recordings, where these are not those of their own samples.
    """
    known = {
        name: recordings[name].combine_chunks() if name in recordings.schema.names else pa.nulls(len(recordings), kind)
        for name, kind in OF_RECORDING.items()
    }
    segments, _ = flattened(known["segments"])
    turns, turn_rows = flattened(known["turns"])
    durations_s, stride_s = known["duration_s"].to_numpy(), selection.stride_s or selection.window_s
    aligned = turns if selection.align == "turns" else None
    counts, starts_s = cut_starts(durations_s, selection.window_s, stride_s, selection.grid_s, aligned)
    rows = np.repeat(np.arange(len(counts)), counts)
    windows = Spans(rows, starts_s, starts_s + selection.window_s)
    drawn = zip(known["recording_id"].to_pylist(), known["pcm_sha256"].to_pylist(), strict=True)
    splits = [draw_split((draws or {}).get(one, key), selection.splits, selection.seed) for one, key in drawn]
    milliseconds = pa.array(np.rint(starts_s * 1000), pa.int64()).cast(pa.string())
    ids = known["recording_id"].take(rows)
    speech_s = inside_s(windows, pieces(segments)[0])
    columns = {
        "window_id": pc.binary_join_element_wise(ids, pc.utf8_lpad(milliseconds, 9, "0"), "-"),
        "recording_id": ids,
        "split": pa.array(splits, pa.string()).take(rows),
        "start_s": starts_s,
        "duration_s": np.full(len(rows), selection.window_s),
        "context_s": np.full(len(rows), selection.context_s),
        **{name: known[name].take(rows) for name in ("tracks", "language", "source", "licence", "labels")},
        "speech_s": rounded(speech_s),
        "speech_share": rounded(speech_s / selection.window_s),
        **_speakers(windows, turns, turn_rows, known["turns"].is_null().to_numpy(zero_copy_only=False)[rows]),
        **_repeats(windows, known["passages"], selection.window_s),
        "kept": np.ones(len(rows), bool),
        "reasons": listed([], np.ones((len(rows), 0), bool)),
    }
    return Cut(pa.table(columns, schema=schemas.WINDOWS), counts, _covered_s(windows, len(counts)))


def cut_starts(
    durations_s: Array, window_s: float, stride_s: float, grid_s: float, turns: Spans | None = None
) -> tuple[Array, Array]:
    """How many windows lie wholly inside each recording, and where they start: multiples of `grid_s`, in seconds.

    Without `turns` the windows tile from 0. With them, each window starts at the last grid point at or before the first
    turn that starts at or after the previous window's end.

    >>> cut_starts(np.array([20.0, 4.0, 8.0]), 8.0, 8.0, 0.1)
    (array([2, 0, 1]), array([0., 8., 0.]))
    >>> turns = Spans(np.zeros(3, int), np.array([1.25, 4.0, 9.5]), np.full(3, 20.0))
    >>> cut_starts(np.array([20.0]), 8.0, 8.0, 0.1, turns)
    (array([2]), array([1.2, 9.5]))
    """
    last = np.floor((durations_s - window_s) / grid_s + 1e-6).astype(np.int64)
    stride = max(1, int(np.ceil(stride_s / grid_s - 1e-6)))  # up, so that rounding never makes windows overlap
    if turns is None:
        counts = np.maximum(last // stride + 1, 0)
        return counts, rounded(stride * numbered(counts) * grid_s)
    steps = np.floor(turns.starts_s / grid_s + 1e-6).astype(np.int64)
    edges = np.searchsorted(turns.rows, np.arange(len(last) + 1))
    chosen = [
        _apart(steps[first:end].tolist(), stride, latest)
        for first, end, latest in zip(edges[:-1], edges[1:], last.tolist(), strict=True)
    ]
    points = np.array([point for of_recording in chosen for point in of_recording], np.int64)
    return np.array([len(of_recording) for of_recording in chosen], np.int64), rounded(points * grid_s)


def _apart(points: list[int], stride: int, latest: int) -> list[int]:
    """The first of the sorted points, the next at least `stride` after it, and so on up to `latest`."""
    chosen: list[int] = []
    index = bisect.bisect_left(points, 0)
    while index < len(points) and points[index] <= latest:
        chosen.append(points[index])
        index = bisect.bisect_left(points, points[index] + stride, index)
    return chosen


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


def _speakers(windows: Spans, turns: Spans, turn_rows: pa.StructArray, unknown: Array) -> dict[str, pa.Array]:
    """Speakers, overlap and turns inside each window; null in the windows that are `unknown`, bool (windows,), since
    their recordings were not diarized."""
    speakers = pc.struct_field(turn_rows, "speaker").dictionary_encode("encode").indices.to_numpy().astype(np.int64)
    # A speaker's own turns may touch or overlap: only different speakers make overlap.
    floor, depth = pieces(joined_by(speakers, turns))
    any_s, overlap_s = inside_s(windows, floor), inside_s(windows, floor.where(depth >= 2))
    window, turn = meeting(windows, turns)
    kinds = speakers.max(initial=0) + 1
    pairs = np.sort(window * kinds + speakers[turn])
    with_speaker = pairs[np.diff(pairs, prepend=-1) > 0] // kinds
    counts = np.bincount(window, minlength=len(windows))
    begun_s = windows.starts_s[window]
    inside = {
        **{field.name: pc.struct_field(turn_rows, field.name).take(turn) for field in schemas.TURN},
        "start_s": pa.array(rounded(np.maximum(turns.starts_s[turn], begun_s) - begun_s)),
        "end_s": pa.array(rounded(np.minimum(turns.ends_s[turn], windows.ends_s[window]) - begun_s)),
    }
    lists = pa.ListArray.from_arrays(
        _offsets(counts),
        pa.StructArray.from_arrays([inside[field.name] for field in schemas.TURN], fields=list(schemas.TURN)),
        pa.list_(schemas.TURN),
        mask=pa.array(unknown),
    )
    share = rounded(np.divide(overlap_s, any_s, out=np.zeros(len(windows)), where=any_s > 0))
    return {
        "num_speakers": pa.array(np.bincount(with_speaker, minlength=len(windows)), pa.int32(), mask=unknown),
        "overlap_share": pa.array(share, mask=unknown),
        "turn_count": pa.array(counts, pa.int32(), mask=unknown),
        "turns": lists,
    }


def _repeats(windows: Spans, passages: pa.ListArray, window_s: float) -> dict[str, pa.Array]:
    """How much of each window was met before, and how many recordings hold at least half of it."""
    spans, passage_rows = flattened(passages)
    again = pc.struct_field(passage_rows, "repeated").to_numpy(zero_copy_only=False).astype(bool)
    share = rounded(inside_s(windows, spans.where(again)) / window_s)
    window, span = meeting(windows, spans)
    inside = np.minimum(spans.ends_s[span], windows.ends_s[window])
    inside = inside - np.maximum(spans.starts_s[span], windows.starts_s[window])
    counts = pc.struct_field(passage_rows, "repeats").to_numpy(zero_copy_only=False).astype(np.int64)[span]
    order = np.lexsort((-counts, window))
    window, counts, inside = window[order], counts[order], inside[order]
    # By the passages that most recordings hold first: the one at which half of the window is reached tells the number.
    total_s = np.cumsum(inside)
    begins = np.searchsorted(window, np.arange(len(windows)))
    before_s = np.concatenate([[0.0], total_s])[begins]
    reached = np.flatnonzero(total_s - before_s[window] >= window_s / 2 - 1e-6)
    half, first = np.unique(window[reached], return_index=True)
    repeats = np.ones(len(windows), np.int64)
    repeats[half] = counts[reached[first]]
    unknown = passages.is_null().to_numpy(zero_copy_only=False)[windows.rows]
    return {
        "repeated_share": pa.array(share, mask=unknown),
        "repeats": pa.array(repeats, pa.int32(), mask=unknown),
    }


def listed(names: Sequence[str], holds: Array) -> pa.ListArray:
    """A list for each row of bool (rows, names): the names that are true in it."""
    broken = pa.array(names, pa.string()).take(np.nonzero(holds)[1])
    return pa.ListArray.from_arrays(_offsets(np.count_nonzero(holds, axis=1)), broken)


def _offsets(counts: Array) -> Array:
    """Where lists of these lengths begin and end in the array of their values."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def _covered_s(windows: Spans, count: int) -> Array:
    """Seconds of each of `count` recordings inside any window; they overlap where the stride is shorter than them."""
    before_s = np.concatenate([[0.0], windows.ends_s[:-1]])[: len(windows)]
    before_s[np.diff(windows.rows, prepend=-1) != 0] = 0.0
    return np.bincount(windows.rows, windows.ends_s - np.maximum(before_s, windows.starts_s), count)


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


def overlaps(speakers: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Stretches in which two or more speakers talk, by the spans of each; those of one speaker may overlap.

    >>> overlaps([[(0.0, 3.0), (6.0, 8.0)], [(2.0, 7.0)]])
    [(2.0, 3.0), (6.0, 7.0)]
    """
    spans = [span for own in speakers for span in union(own)]
    edges = sorted([(end, -1) for _, end in spans] + [(start, 1) for start, _ in spans])
    found: list[tuple[float, float]] = []
    talking, since = 0, 0.0
    for at, change in edges:
        if talking >= 2 and at > since:
            found.append((since, at))
        talking, since = talking + change, at
    return union(found)
