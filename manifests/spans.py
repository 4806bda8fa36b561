"""Stretches of time in many recordings at once, as arrays: which of them overlap, and how many lie over one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Spans:
    """Stretches in order of their recordings, then of their starts. `rows` are int64 numbers of recordings; `starts_s`
    and `ends_s` are float64 seconds."""

    rows: Array
    starts_s: Array
    ends_s: Array

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, mask: Array) -> Spans:
        return Spans(self.rows[mask], self.starts_s[mask], self.ends_s[mask])


def flattened(lists: pa.ListArray) -> tuple[Spans, pa.StructArray]:
    """The stretches in a column that has for each recording a list of structs with `start_s` and `end_s`, and these
    structs in the order of the stretches."""
    structs, rows = lists.flatten(), pc.list_parent_indices(lists).to_numpy()
    order = np.argsort(_places(rows, pc.struct_field(structs, "start_s").to_numpy()), kind="stable")
    structs = structs.take(pa.array(order))
    edges = (pc.struct_field(structs, name).to_numpy() for name in ("start_s", "end_s"))
    return Spans(rows[order], *edges), structs


def meeting(windows: Spans, spans: Spans) -> tuple[Array, Array]:
    """Pairs of a window and a span that share more than an edge, by their numbers, in order of windows, then spans."""
    ends = np.maximum.accumulate(_places(spans.rows, spans.ends_s))
    first = np.searchsorted(ends, _places(windows.rows, windows.starts_s), "right")
    last = np.searchsorted(_places(spans.rows, spans.starts_s), _places(windows.rows, windows.ends_s), "left")
    counts = np.maximum(last - first, 0)
    window = np.repeat(np.arange(len(windows)), counts)
    span = first[window] + numbered(counts)
    overlap = spans.ends_s[span] > windows.starts_s[window]
    return window[overlap], span[overlap]


def numbered(counts: Array) -> Array:
    """The members of groups of these sizes, numbered in each group from 0.

    >>> numbered(np.array([2, 0, 3]))
    array([0, 1, 0, 1, 2])
    """
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def inside_s(windows: Spans, spans: Spans) -> Array:
    """Seconds of each window inside `spans`, which do not overlap."""
    window, span = meeting(windows, spans)
    ends_s = np.minimum(spans.ends_s[span], windows.ends_s[window])
    return np.bincount(window, ends_s - np.maximum(spans.starts_s[span], windows.starts_s[window]), len(windows))


def pieces(spans: Spans) -> tuple[Spans, Array]:
    """The time that any span covers, cut wherever one starts or ends, and how many spans lie over each piece."""
    places, depth = _sweep(spans.rows, spans)
    covered = (depth[:-1] > 0) & (places[:-1] != places[1:])
    starts = places[:-1][covered]
    return Spans(starts.real.astype(np.int64), starts.imag, places[1:][covered].imag), depth[:-1][covered]


def joined_by(labels: Array, spans: Spans) -> Spans:
    """The spans with those joined that touch or overlap and have the same recording and label (int64)."""
    kinds = int(labels.max(initial=0)) + 1
    places, depth = _sweep(spans.rows * kinds + labels, spans)
    closing = depth == 0
    opening = np.concatenate([[True], closing[:-1]])[: len(closing)]
    starts = places[opening]
    return Spans(starts.real.astype(np.int64) // kinds, starts.imag, places[closing].imag)


def _sweep(keys: Array, spans: Spans) -> tuple[Array, Array]:
    """Starts and ends of spans in order of key and time, starts before ends, and how many spans are open after each."""
    places = np.concatenate([_places(keys, spans.starts_s), _places(keys, spans.ends_s)])
    order = np.argsort(places, kind="stable")
    return places[order], np.cumsum(np.repeat([1, -1], len(spans))[order])


def _places(keys: Array, times_s: Array) -> Array:
    """Times of many recordings as complex numbers, key + time * i: NumPy orders these by key, then by time."""
    places = np.empty(len(keys), np.complex128)
    places.real, places.imag = keys, times_s
    return places


def rounded(values: Array) -> Array:
    """To 6 decimals as `round` does, by the exact value of a float: NumPy scales first and may miss a tie.

    >>> rounded(np.array([0.1234565, 2.0000005])).tolist() == [round(0.1234565, 6), round(2.0000005, 6)]
    True
    """
    scaled = values * 1e6
    result = np.rint(scaled) / 1e6
    ties = np.abs(scaled - np.floor(scaled) - 0.5) < 1e-3
    result[ties] = [round(value, 6) for value in values[ties].tolist()]
    return result
