"""Matching: finds which recordings share sound, in three steps whose units an engine spreads over workers.

The units are files of the index, ranges of keys, and batches. The file that a unit writes says that it is done, so a
run that was killed goes on with the units whose files are missing.
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
from manifests.matches.index import build, number_of, ranges, read_range, segment_key, segments
from manifests.matches.join import hits
from pipelines.progress.watch import UnitResult

POSTINGS, MOST_POSTINGS = 2_000_000, 20_000_000
"""Least and largest number of postings in a range of keys, about. Joining 2 million takes 250 MB of memory."""
OF_FILE = 1 << 16
"""Postings of each file of the index in a range, if that is more: fewer could not be read from it at once."""
KINDS = ("keys", "crowded", "left_out")
"""The counts of `manifests.matches.join.Hits` that are kept in the metadata of files of hits."""


@dataclass(frozen=True)
class Matching:
    """The work of one round: `pending` batches, whose matches are to be found, are compared to all earlier batches."""

    STEPS: ClassVar[
        Sequence[tuple[str, Callable[[Matching], list[str]], Callable[[Matching], Callable[[str], UnitResult]]]]
    ]
    """Of each step in order: its name, the function that lists its units, and the one that makes its worker."""
    matches: Matches
    batches: tuple[str, ...]
    pending: tuple[str, ...]

    @classmethod
    def of(cls, matches: Matches) -> Matching:
        return cls(matches, tuple(matches.batches()), tuple(matches.pending()))

    @property
    def folder(self) -> str:
        """The folder of this round's hits. Its name has the last batch and the number of batches, so that hits which a
        killed run left are used again only if no batches have been added since."""
        return f"{self.matches.scratch}/{number_of(self.batches[-1]):06d}-{len(self.batches)}"

    def index(self) -> list[str]:
        """Units of the first step: the files of the index that are missing. Files that are out of date are deleted."""
        wanted = {segment_key(self.matches, of_file): of_file for of_file in segments(self.batches)}
        there = set(self.matches.lake.storage.list(f"{self.matches.prefix}/index"))
        for key in there - wanted.keys():
            self.matches.lake.storage.delete(key)
        return [of_file[0] for key, of_file in wanted.items() if key not in there]

    def joins(self) -> list[str]:
        """Units of the second step, which needs the whole index: ranges of keys."""
        files = [segment_key(self.matches, of_file) for of_file in segments(self.batches)]
        in_range = max(POSTINGS, min(MOST_POSTINGS, OF_FILE * len(files)))
        count = max(1, math.ceil(sum(map(self._postings, files)) / in_range))
        return [f"{number}-of-{count}" for number in range(count)]

    def _postings(self, key: str) -> int:
        with self.matches.lake.storage.filesystem().open_input_file(key) as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    def collects(self) -> list[str]:
        """Units of the third step: pending batches, grouped as they are in files of the index."""
        return [of_file[0] for of_file in segments(self.pending)]

    def files(self) -> list[str]:
        """The files of hits that the second step wrote."""
        return sorted(self.matches.lake.storage.list(self.folder))

    def delete_hits(self) -> None:
        """Delete the hits, which nothing needs once all matches are written."""
        for key in list(self.matches.lake.storage.list(self.matches.scratch)):
            self.matches.lake.storage.delete(key)

    def describe(self) -> str:
        """A sentence for the log that says how many pairs of recordings were not compared."""
        counts = self.counts()
        return (
            f"{counts['crowded']:,} of {counts['keys']:,} keys are in too many recordings to compare each with each: "
            f"{counts['left_out']:,} times two recordings with the same key were not compared by it"
        )

    def counts(self) -> dict[str, int]:
        """The counts named by KINDS, summed over all files of hits."""
        found = dict.fromkeys(KINDS, 0)
        for key in self.files():
            with self.matches.lake.storage.filesystem().open_input_file(key) as file:
                metadata = pq.read_schema(file).metadata or {}
            for kind in KINDS:
                found[kind] += int(metadata.get(kind.encode(), 0))
        return found


def indexer(matching: Matching) -> Callable[[str], UnitResult]:
    """A worker of the first step: it writes files of the index."""
    matches, lake = matching.matches, matching.matches.lake

    def work(unit: str) -> UnitResult:
        (of_file,) = [of_file for of_file in segments(matching.batches) if of_file[0] == unit]
        lake.write(segment_key(matches, of_file), build(matches, of_file))
        return UnitResult(unit)

    return work


def joiner(matching: Matching) -> Callable[[str], UnitResult]:
    """A worker of the second step: it writes the hits of ranges of keys."""
    matches, lake = matching.matches, matching.matches.lake
    new = [number_of(batch) for batch in matching.pending]

    def work(unit: str) -> UnitResult:
        key = f"{matching.folder}/{unit}.parquet"
        if lake.storage.exists(key):
            return UnitResult(unit)
        number, count = map(int, unit.split("-of-"))
        config = matches.config
        low, high = ranges(count, config.key_bits)[number]
        read = partial(_postings_of, lake, low, high)
        tables = list(lake.prefetch(read, [segment_key(matches, of_file) for of_file in segments(matching.batches)]))
        found = hits(pa.concat_tables(tables), config.key_bits, config.first, new)
        counts = {kind: str(getattr(found, kind)) for kind in KINDS}
        lake.write(key, found.table.replace_schema_metadata(counts))
        return UnitResult(unit)

    return work


def _postings_of(lake: Lake, low: int, high: int, key: str) -> pa.Table:
    return read_range(lake, key, "code", low, high)


def collector(matching: Matching) -> Callable[[str], UnitResult]:
    """A worker of the third step: it writes the matches of batches."""
    collecting, files = Collector(matching.matches), matching.files()
    units = {of_file[0]: of_file for of_file in segments(matching.pending)}

    def work(unit: str) -> UnitResult:
        return UnitResult(unit, sum(collecting.commit(batch, files) for batch in units[unit]))

    return work


Matching.STEPS = (
    ("index", Matching.index, indexer),
    ("join", Matching.joins, joiner),
    ("match", Matching.collects, collector),
)
