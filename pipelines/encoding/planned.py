"""The shards that a plan consists of, and the units in which they are encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from manifests.fingerprint import fingerprint
from manifests.shards import ShardFiles

Base = Mapping[str, frozenset[int]]
"""The numbers of the shards that a dataset has, by folder."""


class Source(NamedTuple):
    """A committed shard that holds features of windows, so that these need not be encoded again."""

    dataset: str
    folder: str
    number: int

    @property
    def files(self) -> ShardFiles:
        return ShardFiles(self.folder, self.number)


class Planned(NamedTuple):
    """A recording in a shard."""

    recording_id: str
    batch: str
    sources: tuple[Source, ...] = ()
    """Committed shards that hold features of it."""


@dataclass(frozen=True)
class Shard:
    """A shard to make."""

    folder: str
    number: int
    recordings: tuple[Planned, ...]
    seconds: float
    """Seconds of sound in its windows."""
    elsewhere: tuple[str, ...] = ()
    """Ids of kept windows of these recordings that are in other shards of the dataset."""
    remake: bool = False
    """Whether it is made again although it is committed."""

    @property
    def name(self) -> str:
        return f"{self.folder}-{self.number:06d}"

    @property
    def place(self) -> tuple[bool, str, int]:
        """Its place in the order of a plan. Shards that are made again come first."""
        return not self.remake, self.folder, self.number

    @property
    def ids(self) -> list[str]:
        """The ids of its recordings."""
        return [planned.recording_id for planned in self.recordings]

    def has_same_windows(self, other: Shard) -> bool:
        """Return whether a shard of another dataset has the same number and the same windows."""
        return (self.place, self.elsewhere, self.ids) == (other.place, other.elsewhere, other.ids)

    @property
    def files(self) -> ShardFiles:
        return ShardFiles(self.folder, self.number)

    @property
    def commit_key(self) -> str:
        return self.files.commit


@dataclass(frozen=True)
class Unit:
    """A unit of encoding: shards of several datasets with the same windows, or a single shard."""

    shards: tuple[tuple[str, Shard], ...]
    """The shards, each with the name of its dataset."""
    several: bool = False
    """Whether the run makes several datasets. Their shards may have equal names but different recordings."""

    @property
    def shard(self) -> Shard:
        """The first shard. Its recordings and windows are those of all."""
        return self.shards[0][1]

    @property
    def name(self) -> str:
        """The name of the shard. If there are several datasets, it ends with a hash of the recordings."""
        return f"{self.shard.name}-{fingerprint(self.shard.ids)[:6]}" if self.several else self.shard.name


def units(planned: Mapping[str, Iterable[Shard]]) -> Iterator[Unit]:
    """Group the planned shards of several datasets into units of shards with the same windows."""
    several = len(planned) > 1
    rest = {dataset: iter(shards) for dataset, shards in planned.items()}
    heads = {dataset: shard for dataset, shards in rest.items() if (shard := next(shards, None))}
    while heads:
        first = min(heads.values(), key=lambda shard: shard.place)
        same = {dataset: shard for dataset, shard in heads.items() if shard.has_same_windows(first)}
        yield Unit(tuple(same.items()), several)
        for dataset in same:
            if (shard := next(rest[dataset], None)) is None:
                del heads[dataset]
            else:
                heads[dataset] = shard


def ranges(base: Base) -> dict[str, list[list[int]]]:
    """Return the numbers of a base as lists of ranges [first, last], for JSON. See `from_ranges`."""
    listed: dict[str, list[list[int]]] = {}
    for folder, numbers in sorted(base.items()):
        runs = listed.setdefault(folder, [])
        for number in sorted(numbers):
            if runs and runs[-1][1] == number - 1:
                runs[-1][1] = number
            else:
                runs.append([number, number])
    return listed


def from_ranges(listed: Mapping[str, list[list[int]]]) -> Base:
    """Return the base that `ranges` has listed."""
    return {
        folder: frozenset(number for first, last in runs for number in range(first, last + 1))
        for folder, runs in listed.items()
    }
