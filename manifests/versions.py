"""Versions of a dataset. A version holds the first shards of each folder, and a later one more of them: none is moved.

Later corrections, of a label or by withdrawing a recording, change the shards, and so every version that holds them.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from manifests.corrupt import CorruptFileError
from manifests.fingerprint import pretty
from manifests.lake import Lake
from manifests.shards import ShardFiles, committed

VERSION = re.compile(r"versions/(\d{6,})/version\.json")
Fields = dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class Version:
    """The record of a version, which is written after all its other files."""

    version: int
    selection: str
    """The selection whose windows it holds."""
    selected: str | None
    """The hash of the windows of the selection when the version was made; None if it is unknown."""
    shards: dict[str, int]
    """The number of shards of each folder; they are numbered from 0."""
    windows: int
    hours: float
    frames: int
    described_sha256: str
    """The hash of everything that the files of the version depend on: the commit records of its shards, the patch size,
    the models and, for the newest version, the recipe. While it is the same, the files are up to date."""

    @property
    def folder(self) -> str:
        """The folder of its ledger, statistics and card, within the folder of the dataset."""
        return f"versions/{self.version:06d}"

    def write(self, lake: Lake, dataset: str) -> None:
        lake.storage.put(f"datasets/{dataset}/{self.folder}/version.json", pretty(asdict(self)).encode())


def versions(lake: Lake, dataset: str) -> list[Version]:
    """All versions of a dataset, oldest first. Raises CorruptFileError."""
    records = []
    prefix = f"datasets/{dataset}/"
    for key in lake.storage.list(f"{prefix}versions"):
        if VERSION.fullmatch(key.removeprefix(prefix)):
            try:
                records.append(Version(**lake.read_json(key)))
            except TypeError as error:
                raise CorruptFileError.of(key, f"is no record of a version: {error}") from error
    return sorted(records, key=lambda version: version.version)


def committed_numbers(lake: Lake, dataset: str) -> dict[str, set[int]]:
    """The numbers of the committed shards of each folder."""
    numbers: dict[str, set[int]] = {}
    for files in committed(lake.storage, dataset):
        numbers.setdefault(files.folder, set()).add(files.shard)
    return numbers


def generation(shards: Sequence[Mapping[str, int]], files: ShardFiles) -> int | None:
    """The index of the first version that holds a shard, from the shards of all versions; None if none does."""
    return next((index for index, ends in enumerate(shards) if files.shard < ends.get(files.folder, 0)), None)


def fields(history: Sequence[Mapping[str, int]]) -> Fields:
    """The files of each folder of the newest of these versions, as `CutSet.from_shar` takes them.

    Paths are relative to the folder of the dataset. They are listed because readers cannot glob an object store. Any
    prefix of the lists is a fair sample of the version; see `in_fair_order`.
    """
    listed: Fields = {}
    for folder in sorted(history[-1]) if history else ():
        ends = [shards.get(folder, 0) for shards in history]
        counts = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
        files = [ShardFiles(folder, number) for number in in_fair_order(counts)]
        listed[folder] = {"cuts": [shard.cuts for shard in files], "latents": [shard.latents for shard in files]}
    return listed


def in_fair_order(counts: Sequence[int]) -> Iterator[int]:
    """Yield the numbers of all shards such that the generations are spread evenly; `counts` are the shards of each.

    In any prefix, each generation has its share of that many shards to within one. Within a generation shards keep
    their order. This is the chairman assignment of R. Tijdeman (Discrete Mathematics 32, 1980), whose bound is
    1 - 1 / (2 n - 2) for n generations.

    >>> list(in_fair_order([6, 2, 1]))
    [0, 1, 6, 2, 3, 8, 4, 7, 5]
    """
    begins = {index: sum(counts[:index]) for index, count in enumerate(counts) if count}
    total, parts = sum(counts), max(1, 2 * len(begins) - 2)

    def release(index: int, before: int) -> tuple[int, int, int]:
        """The first position at which a generation may give its next shard, after `before` of them."""
        return -(-(before * parts + 1) * total // (counts[index] * parts)), index, before

    early = [release(index, 0) for index in begins]
    heapq.heapify(early)
    due: list[tuple[float, int, int]] = []  # shards that may be given now, the most urgent first
    for place in range(1, total + 1):
        while early and early[0][0] <= place:
            _, index, before = heapq.heappop(early)
            heapq.heappush(due, (((before + 1) * parts - 1) * total / (counts[index] * parts), index, before))
        _, index, before = heapq.heappop(due)
        yield begins[index] + before
        if before + 1 < counts[index]:
            heapq.heappush(early, release(index, before + 1))
