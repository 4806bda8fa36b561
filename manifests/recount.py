"""The recount of a dataset from the bytes of its shards, and how its ledgers and statistics differ from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import safetensors
import safetensors.numpy

from manifests import schemas, shardlist
from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from manifests.ledger import GROUP, PATCHES
from manifests.statistics import Statistics, different, statistics_file
from manifests.versions import Fields, Version

Difference = tuple[str, str]
"""The name of a file in the folder of the dataset, and what is wrong with it."""


@dataclass
class Count:
    """Sums of one group of the ledger, as whole numbers."""

    windows: int = 0
    frames: int = 0
    microseconds: int = 0
    context: list[int] = field(default_factory=lambda: [0] * len(PATCHES))
    continuation: list[int] = field(default_factory=lambda: [0] * len(PATCHES))
    repeated_context: list[int] = field(default_factory=lambda: [0] * len(PATCHES))
    repeated_continuation: list[int] = field(default_factory=lambda: [0] * len(PATCHES))
    matched: bool = False
    """Whether it is known of its windows how much of them repeats."""

    def add(self, row: Mapping[str, Any], tracks: int) -> None:
        """Add a window (a row of SHARD_WINDOWS) whose array has this number of tracks."""
        context, continuation = row["context_frames"], row["continuation_frames"]
        self.windows += 1
        self.frames += tracks * (context + continuation)
        self.microseconds += round(row["duration_s"] * 1e6)
        self.matched |= row["repeated_share"] is not None
        millionths = round((row["repeated_share"] or 0.0) * 1e6)
        for index, k in enumerate(PATCHES):
            for frames, tokens, repeated in (
                (context, self.context, self.repeated_context),
                (continuation, self.continuation, self.repeated_continuation),
            ):
                of_window = tracks * (frames // k)
                tokens[index] += of_window
                repeated[index] += (of_window * millionths + 500_000) // 1_000_000

    def merge(self, other: Count) -> None:
        self.windows += other.windows
        self.frames += other.frames
        self.microseconds += other.microseconds
        self.matched |= other.matched
        for name in schemas.TOKENS:
            part = name.removesuffix("_tokens")
            sums = zip(getattr(self, part), getattr(other, part), strict=True)
            setattr(self, part, [one + two for one, two in sums])

    def tokens(self, index: int) -> dict[str, int | None]:
        """By the columns of the ledger; None for those that repeat where nothing was matched."""
        counts = {name: getattr(self, name.removesuffix("_tokens"))[index] for name in schemas.TOKENS}
        return {name: count if self.matched or "repeated" not in name else None for name, count in counts.items()}


@dataclass
class Recount:
    """The contents of the shards of one version, or of those that it adds to the previous version."""

    counts: dict[tuple[Any, ...], Count] = field(default_factory=dict)
    """Sums by the values of the columns `ledger.GROUP`."""
    statistics: dict[str, Statistics] = field(default_factory=dict)
    """Statistics by split."""
    shards: list[pa.Table] = field(default_factory=list)
    """A row of SHARDS for each shard."""

    def add(self, group: tuple[Any, ...], row: Mapping[str, Any], tracks: int) -> None:
        self.counts.setdefault(group, Count()).add(row, tracks)

    def merge(self, other: Recount) -> None:
        for group, count in other.counts.items():
            self.counts.setdefault(group, Count()).merge(count)
        for split, statistics in other.statistics.items():
            self.statistics.setdefault(split, Statistics()).merge(statistics)
        self.shards += other.shards

    def differences(
        self, lake: Lake, prefix: str, folder: str, encoder: str | None, listed: Fields
    ) -> Iterator[Difference]:
        """Compare the ledger, the statistics and the lists of shards in a folder of a dataset with this recount.

        Args:
            lake: The lake of the dataset.
            prefix: The key of the dataset, `datasets/<name>`.
            folder: The folder of a version, which ends in a slash, or "" for the files of the newest version.
            encoder: Name and fingerprint of the encoder that the ledger must name.
            listed: The shards of the version in the order that the lists must have.
        """
        yield from self._lists(lake, prefix, folder, listed)
        yield from self._ledger(lake, prefix, f"{folder}ledger.parquet", encoder)
        yield from self._statistics(lake, prefix, f"{folder}stats.safetensors")

    def _ledger(self, lake: Lake, prefix: str, name: str, encoder: str | None) -> Iterator[Difference]:
        try:
            table = lake.read(f"{prefix}/{name}")
        except FileNotFoundError:
            yield name, "missing"
            return
        except CorruptFileError as error:
            yield name, f"cannot be read to its end: {error}"
            return
        expected = self._expected(encoder)
        for row in table.to_pylist():
            key = (*(row[column] for column in GROUP), row["encoder"], row["patch"])
            counted = expected.pop(key, None)
            where = f"row {' / '.join(map(str, key))}"
            if counted is None:
                yield name, f"{where}: no window of the shards belongs to it, or it is there twice"
                continue
            hours = counted.pop("hours")
            for column, value in counted.items():
                if row[column] != value:
                    yield name, f"{where}: {column} {row[column]}, but the recount says {value}"
            if not math.isclose(row["hours"], hours, rel_tol=1e-9):
                yield name, f"{where}: hours {row['hours']}, but the recount says {hours}"
        for key in expected:
            yield name, f"row {' / '.join(map(str, key))}: missing"

    def _lists(self, lake: Lake, prefix: str, folder: str, listed: Fields) -> Iterator[Difference]:
        try:
            if lake.read_json(f"{prefix}/{folder}fields.json") != listed:
                yield f"{folder}fields.json", "does not list the shards of this version in their order"
        except FileNotFoundError:
            yield f"{folder}fields.json", "missing"
        except CorruptFileError as error:
            yield f"{folder}fields.json", f"cannot be read to its end: {error}"
        name = f"{folder}shards.parquet"
        try:
            if lake.read(f"{prefix}/{name}") != shardlist.in_order(self.shards, listed):
                yield name, "does not list what the shards of this version hold"
        except FileNotFoundError:
            yield name, "missing"
        except CorruptFileError as error:
            yield name, f"cannot be read to its end: {error}"

    def _expected(self, encoder: str | None) -> dict[tuple[Any, ...], dict[str, Any]]:
        return {
            (*group, encoder, k): {
                "windows": count.windows,
                "hours": count.microseconds / 3.6e9,
                "frames": count.frames,
                **count.tokens(index),
            }
            for group, count in self.counts.items()
            for index, k in enumerate(PATCHES)
        }

    def _statistics(self, lake: Lake, prefix: str, name: str) -> Iterator[Difference]:
        try:
            stored = safetensors.numpy.load(lake.storage.read(f"{prefix}/{name}"))
        except FileNotFoundError:
            yield name, "missing"
            return
        except safetensors.SafetensorError as error:
            yield name, f"cannot be read to its end: {error}"
            return
        counted = safetensors.numpy.load(statistics_file(self.statistics))
        for which in different(stored, counted):
            yield name, f"{which} is not that of the shards"


def by_version(added: Sequence[Recount]) -> Iterator[Recount]:
    """The recount of each version, from the recounts of what each adds to the previous one."""
    whole = Recount()
    for addition in added:
        whole.merge(addition)
        yield whole


def folders(versions: Sequence[Version], index: int) -> list[str]:
    """The folders that hold the ledger and the statistics of a version; those of the newest one are there twice."""
    return [f"{versions[index].folder}/", *([""] if index == len(versions) - 1 else [])]
