"""Versions of a dataset. Version N holds the first so many shards of each folder: growth adds shards and moves none.

What is corrected later, a label or a recording that was withdrawn, is corrected in the shards, and so in every version.
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
    """What a version holds: the record that is written after everything else of it."""

    version: int
    selection: str
    """The selection whose windows it holds,"""
    selected: str | None
    """and the hash of these windows as they were when it was made; None where that is not known."""
    shards: dict[str, int]
    """How many shards of each folder: those numbered 0 to that number less 1."""
    windows: int
    hours: float
    frames: int
    described_sha256: str
    """Of the records of all these shards, the patch size and the models, and for the newest version of the recipe: what
    was written about the version holds as long as they are the same."""

    @property
    def folder(self) -> str:
        """Where its ledger, its statistics and its card lie in the folder of the dataset."""
        return f"versions/{self.version:06d}"

    def write(self, lake: Lake, dataset: str) -> None:
        lake.storage.put(f"datasets/{dataset}/{self.folder}/version.json", pretty(asdict(self)).encode())


def versions(lake: Lake, dataset: str) -> list[Version]:
    """All versions of a dataset, oldest first. Raises CorruptFileError."""
    found = []
    prefix = f"datasets/{dataset}/"
    for key in lake.storage.list(f"{prefix}versions"):
        if VERSION.fullmatch(key.removeprefix(prefix)):
            try:
                found.append(Version(**lake.read_json(key)))
            except TypeError as error:
                raise CorruptFileError.of(key, f"is no record of a version: {error}") from error
    return sorted(found, key=lambda version: version.version)


def committed_numbers(lake: Lake, dataset: str) -> dict[str, set[int]]:
    """The numbers of the committed shards of each folder."""
    numbers: dict[str, set[int]] = {}
    for files in committed(lake.storage, dataset):
        numbers.setdefault(files.folder, set()).add(files.shard)
    return numbers


def generation(shards: Sequence[Mapping[str, int]], files: ShardFiles) -> int | None:
    """The first of some versions, given by their shards, that holds a shard; None if none does."""
    return next((index for index, ends in enumerate(shards) if files.shard < ends.get(files.folder, 0)), None)


def fields(history: Sequence[Mapping[str, int]]) -> Fields:
    """Of each folder the files of the shards of the last of these versions, as `CutSet.from_shar` takes them.

    Paths are relative to the dataset's folder. An object store cannot be globbed by readers: they are told all names.
    Any prefix of the lists is a fair sample of the version: see `in_fair_order`.
    """
    listed: Fields = {}
    for folder in sorted(history[-1]) if history else ():
        ends = [shards.get(folder, 0) for shards in history]
        counts = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
        files = [ShardFiles(folder, number) for number in in_fair_order(counts)]
        listed[folder] = {"cuts": [one.cuts for one in files], "latents": [one.latents for one in files]}
    return listed


def in_fair_order(counts: Sequence[int]) -> Iterator[int]:
    """Numbers of shards, of which each generation added so many, with all generations spread evenly over the list.

    In any prefix, each generation has its share of that many shards to within one. Within a generation shards keep
    their order. This is the chairman assignment of R. Tijdeman (Discrete Mathematics 32, 1980), whose bound is
    1 - 1 / (2 n - 2) for n generations.

    >>> list(in_fair_order([6, 2, 1]))
    [0, 1, 6, 2, 3, 8, 4, 7, 5]
    """
    begins = {index: sum(counts[:index]) for index, count in enumerate(counts) if count}
    total, parts = sum(counts), max(1, 2 * len(begins) - 2)

    def release(index: int, before: int) -> tuple[int, int, int]:
        """The place from which on a generation may give its next shard, after so many."""
        return -(-(before * parts + 1) * total // (counts[index] * parts)), index, before

    early = [release(index, 0) for index in begins]
    heapq.heapify(early)
    due: list[tuple[float, int, int]] = []  # those that may be given now, the most urgent first
    for place in range(1, total + 1):
        while early and early[0][0] <= place:
            _, index, before = heapq.heappop(early)
            heapq.heappush(due, (((before + 1) * parts - 1) * total / (counts[index] * parts), index, before))
        _, index, before = heapq.heappop(due)
        yield begins[index] + before
        if before + 1 < counts[index]:
            heapq.heappush(early, release(index, before + 1))
