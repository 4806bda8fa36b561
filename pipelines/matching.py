"""Matching: which recordings share sound, as units over an engine: files of the index, ranges of keys, then batches.

What the first two leave is told by their files, so a killed run goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.lake import Lake
from manifests.matches import Matches
from manifests.matches.collect import Collector
from manifests.matches.index import build, number_of, read_range, segment_key, segments
from manifests.matches.join import hits, ranges
from pipelines.progress.watch import Done

POSTINGS = 20_000_000
"""In a range of keys: about 1.5 GB while they are joined."""
KINDS = ("keys", "crowded", "left_out")


@dataclass(frozen=True)
class Matching:
    """What is to be matched: batches whose matches are not there, against all that come before them."""

    STEPS: ClassVar[
        Sequence[tuple[str, Callable[[Matching], list[Done]], Callable[[Matching], Callable[[Done], Done]]]]
    ]
    """Name, units and worker of each step, one after the other."""
    matches: Matches
    batches: tuple[str, ...]
    pending: tuple[str, ...]

    @classmethod
    def of(cls, matches: Matches) -> Matching:
        return cls(matches, tuple(matches.batches()), tuple(matches.pending()))

    @property
    def folder(self) -> str:
        """Of the hits: named after what is new, so that hits of another round are not taken for them."""
        return f"{self.matches.scratch}/{number_of(self.batches[-1]):06d}-{len(self.batches)}"

    def index(self) -> list[Done]:
        """Units of the first step: files of the index that are not there. Those that others replace are taken away."""
        wanted = {segment_key(self.matches, of_file): of_file for of_file in segments(self.batches)}
        there = set(self.matches.lake.storage.list(f"{self.matches.prefix}/index"))
        for key in there - wanted.keys():
            self.matches.lake.storage.delete(key)
        return [Done(of_file[0]) for key, of_file in wanted.items() if key not in there]

    def joins(self) -> list[Done]:
        """Units of the second step, once the index is whole: ranges of keys that hold so many postings."""
        postings = sum(self._postings(segment_key(self.matches, of_file)) for of_file in segments(self.batches))
        count = max(1, math.ceil(postings / POSTINGS))
        return [Done(f"{number}-of-{count}") for number in range(count)]

    def _postings(self, key: str) -> int:
        with self.matches.lake.storage.filesystem().open_input_file(key) as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    def collects(self) -> list[Done]:
        """Units of the third step: batches that follow one another, as many as a file of the index holds."""
        return [Done(of_file[0]) for of_file in segments(self.pending)]

    def files(self) -> list[str]:
        """The files of hits."""
        return sorted(self.matches.lake.storage.list(self.folder))

    def forget(self) -> None:
        """Take away what is needed no longer."""
        for key in list(self.matches.lake.storage.list(self.matches.scratch)):
            self.matches.lake.storage.delete(key)

    def told(self) -> str:
        """What was met while keys were compared, for people."""
        counts = self.counts()
        return (
            f"of {counts['keys']:,} keys {counts['crowded']:,} are in more recordings than all others are compared to: "
            f"{counts['left_out']:,} pairs of recordings were not compared by one"
        )

    def counts(self) -> dict[str, int]:
        """What was met while keys were compared, by KINDS."""
        found = dict.fromkeys(KINDS, 0)
        for key in self.files():
            with self.matches.lake.storage.filesystem().open_input_file(key) as file:
                told = pq.read_schema(file).metadata or {}
            for kind in KINDS:
                found[kind] += int(told.get(kind.encode(), 0))
        return found


def indexer(matching: Matching) -> Callable[[Done], Done]:
    """A worker that writes files of the index."""
    matches, lake = matching.matches, matching.matches.lake

    def work(unit: Done) -> Done:
        (of_file,) = [of_file for of_file in segments(matching.batches) if of_file[0] == unit.unit]
        lake.write(segment_key(matches, of_file), build(matches, of_file))
        return Done(unit.unit)

    return work


def joiner(matching: Matching) -> Callable[[Done], Done]:
    """A worker that writes the hits of ranges of keys."""
    matches, lake = matching.matches, matching.matches.lake
    new = [number_of(batch) for batch in matching.pending]

    def work(unit: Done) -> Done:
        key = f"{matching.folder}/{unit.unit}.parquet"
        if lake.storage.exists(key):
            return Done(unit.unit)
        number, count = map(int, unit.unit.split("-of-"))
        low, high = ranges(count)[number]
        read = partial(_postings_of, lake, low, high)
        tables = list(lake.ahead(read, [segment_key(matches, of_file) for of_file in segments(matching.batches)]))
        found = hits(pa.concat_tables(tables), matches.config.first, new)
        told = {kind: str(getattr(found, kind)) for kind in KINDS}
        lake.write(key, found.table.replace_schema_metadata(told))
        return Done(unit.unit)

    return work


def _postings_of(lake: Lake, low: int, high: int, key: str) -> pa.Table:
    return read_range(lake, key, "key", low, high)


def collector(matching: Matching) -> Callable[[Done], Done]:
    """A worker that commits the matches of batches."""
    collecting, files = Collector(matching.matches), matching.files()
    units = {of_file[0]: of_file for of_file in segments(matching.pending)}

    def work(unit: Done) -> Done:
        return Done(unit.unit, sum(collecting.commit(batch, files) for batch in units[unit.unit]))

    return work


Matching.STEPS = (
    ("index", Matching.index, indexer),
    ("join", Matching.joins, joiner),
    ("match", Matching.collects, collector),
)
