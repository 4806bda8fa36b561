"""Collects the hits of each pair of recordings of a batch, aligns their landmarks and writes the batch's matches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from manifests import schemas
from manifests.matches import Matches
from manifests.matches.align import Marks, Stretch, stretches
from manifests.matches.index import COLUMNS, ROW_BITS, flattened, ordinal, read_range
from manifests.spans import Array

HELD = 32
"""Number of batches whose fingerprints are kept in memory; one of 20 hours of sound takes 6 MB."""


@dataclass(frozen=True)
class Fingerprints:
    """The landmarks of the recordings of a batch: those of row r are `edges[r]` to `edges[r + 1]`."""

    ids: Sequence[str]
    edges: Array
    times_ms: Array
    bits: Array

    @classmethod
    def of(cls, table: pa.Table) -> Fingerprints:
        rows, times_ms, bits = flattened(table)
        edges = np.searchsorted(rows, np.arange(len(table) + 1))
        return cls(table["recording_id"].to_pylist(), edges, times_ms, bits)

    def marks(self, row: int) -> Marks:
        part = slice(self.edges[row], self.edges[row + 1])
        return Marks(self.times_ms[part], self.bits[part])


class Crowds:
    """Counts, for each landmark of a batch, the earlier recordings in which it was already found.

    Hits of landmarks that `first` earlier recordings contain are not followed. The bits of a passage that many
    recordings contain differ a little in each, so its landmarks have many keys, and each of these keys leads to other
    recordings. Without this limit, a recording with such a passage would be aligned with hundreds of others.
    """

    def __init__(self, fingerprints: Fingerprints, first: int) -> None:
        self.fingerprints = fingerprints
        self.first = first
        self._found_in = np.zeros(len(fingerprints.times_ms), np.int32)

    def open(self, row: int, times_ms: Array) -> Array:
        """Return which landmarks at these times of a recording fewer than `first` earlier recordings contain, bool."""
        return self._found_in[self._places(row, times_ms)] < self.first

    def add(self, row: int, stretch: Stretch) -> None:
        """Count the landmarks of a stretch."""
        low, high = self._places(row, np.array([stretch.start_ms, stretch.end_ms + 1]))
        self._found_in[low:high] += 1

    def _places(self, row: int, times_ms: Array) -> Array:
        low, high = self.fingerprints.edges[row : row + 2]
        return np.asarray(low + np.searchsorted(self.fingerprints.times_ms[low:high], times_ms))


class Collector:
    """Makes the matches of batches from files of hits, and keeps the fingerprints of the last few batches."""

    def __init__(self, matches: Matches) -> None:
        self.matches = matches
        self._held: OrderedDict[str, Fingerprints] = OrderedDict()

    def commit(self, batch: str, files: Sequence[str]) -> int:
        """Write the matches of a batch and return the number of its recordings; if they exist already, return 0."""
        lake, key = self.matches.lake, self.matches.key(batch)
        if lake.storage.exists(key):
            return 0
        rows = list(self._rows(batch, files))
        lake.write(key, schemas.table(rows, schemas.MATCHES))
        return len(self.fingerprints(batch).ids)

    def _rows(self, batch: str, files: Sequence[str]) -> Iterator[dict[str, Any]]:
        low, high = int(ordinal(batch, 0)), int(ordinal(batch, 0)) + (1 << ROW_BITS)
        tables = [read_range(self.matches.lake, file, "later", low, high) for file in files]
        found = pa.concat_tables(tables) if tables else None
        if found is None or not len(found):
            return
        later, earlier, later_ms, earlier_ms = (found[name].to_numpy() for name in found.column_names)
        # Sorted by the earlier recording, so that fingerprints of each batch are read once.
        order = np.lexsort((earlier_ms, later_ms, later, earlier))
        later, earlier, later_ms, earlier_ms = (values[order] for values in (later, earlier, later_ms, earlier_ms))
        edges = np.flatnonzero(np.append(True, (later[1:] != later[:-1]) | (earlier[1:] != earlier[:-1])))
        rows, crowds = [], Crowds(self.fingerprints(batch), self.matches.config.first)
        for first, last in zip(edges, np.append(edges[1:], len(later)), strict=True):
            row, (other_batch, other_row) = int(later[first] - low), self._place(int(earlier[first]))
            own_ms, other_ms = later_ms[first:last], earlier_ms[first:last]
            open_hits = crowds.open(row, own_ms)
            if np.count_nonzero(open_hits) < self.matches.config.least_hits:
                continue
            own, others = self.fingerprints(batch), self.fingerprints(other_batch)
            one, other = own.marks(row), others.marks(other_row)
            least = self.matches.config.least_hits
            for stretch in stretches(one, other, own_ms[open_hits], other_ms[open_hits], least):
                crowds.add(row, stretch)
                match = {"recording_id": own.ids[row], "other_id": others.ids[other_row]}
                rows.append((row, int(earlier[first]), match | _match_fields(stretch, one, other)))
        yield from (match for _, _, match in sorted(rows, key=lambda found: found[:2]))

    def _place(self, number: int) -> tuple[str, int]:
        return f"batch-{number >> ROW_BITS:06d}", number & ((1 << ROW_BITS) - 1)

    def fingerprints(self, batch: str) -> Fingerprints:
        """The fingerprints of a batch, from memory or else read."""
        if batch not in self._held:
            lake = self.matches.lake
            table = lake.read(lake.annotation_key("fingerprint", self.matches.fingerprints, batch), COLUMNS)
            self._held[batch] = Fingerprints.of(table)
            if len(self._held) > HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(batch)
        return self._held[batch]


def _match_fields(stretch: Stretch, one: Marks, other: Marks) -> dict[str, Any]:
    """The columns of MATCHES for a stretch, apart from the ids of both recordings."""
    spans = (stretch.start_ms, stretch.end_ms), (stretch.other_start_ms, stretch.other_end_ms)
    shares = [
        float(np.diff(np.searchsorted(marks.times_ms, [start, end + 1]))[0] / len(marks))
        for marks, (start, end) in zip((one, other), spans, strict=True)
    ]
    return {
        "start_s": stretch.start_ms / 1000,
        "end_s": stretch.end_ms / 1000,
        "other_start_s": stretch.other_start_ms / 1000,
        "other_end_s": stretch.other_end_ms / 1000,
        "speed": round(stretch.speed, 6),
        "confidence": round(stretch.confidence, 6),
        "evidence": round(stretch.evidence, 3),
        "share": shares[0],
        "other_share": shares[1],
    }
