"""Matches: which recordings share sound, where and how much, found by the landmarks of the stage `fingerprint`.

`matches/<mark>/batch-N.parquet` (schemas.MATCHES) has a row for each stretch of sound that a recording of batch N
shares with an earlier recording. Recordings are ordered by batch, then by row. Since each is compared to earlier ones
alone, no file changes when the lake grows. `matches/<mark>/index/` holds all landmarks, sorted by their keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from manifests.fingerprint import fingerprint
from manifests.lake import Lake

VERSION = 3


@dataclass(frozen=True)
class MatchConfig:
    """What decides which matches are found."""

    key_bits: int = 22
    """Bits in a key. Each landmark has two keys, and two recordings are compared where they have a key in common. Fewer
    bits find shorter and noisier copies, but more recordings then have a key in common by chance. A landmark is
    compared to at most 256 recordings with its key, so 2^`key_bits` should be at least a hundredth of the number of
    landmarks, 6.5 a second: 22 up to 20,000 hours, 26 up to 300,000, 30 up to 5 million."""
    least_hits: int = 1
    """Keys that two recordings must have in common, in the same order and at about the same distance, to be looked at.
    2 takes less time in a large lake and finds less of short and noisy excerpts."""
    first: int = 8
    """Where many recordings have one key, all are compared to this many of the earliest, and to no others."""

    def __post_init__(self) -> None:
        if not 16 <= self.key_bits <= 56:
            raise ValueError(f"key_bits must be 16 to 56, not {self.key_bits}")
        for name in ("first", "least_hits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def mark(self, fingerprints: str) -> str:
        """Fingerprint of matches between recordings whose own fingerprints have this mark."""
        return fingerprint({"version": VERSION, "fingerprint": fingerprints, **asdict(self)})


@dataclass(frozen=True)
class Matches:
    """The matches of a lake under one configuration: where their files are, and which are missing."""

    lake: Lake
    fingerprints: str
    """Fingerprint of the stage `fingerprint`."""
    config: MatchConfig = field(default_factory=MatchConfig)

    @property
    def mark(self) -> str:
        return self.config.mark(self.fingerprints)

    @property
    def prefix(self) -> str:
        return f"matches/{self.mark}"

    @property
    def scratch(self) -> str:
        """The folder of intermediate files, which are deleted once the matches are written."""
        return f"runs/matching/{self.mark}"

    def key(self, batch: str) -> str:
        return matches_key(self.mark, batch)

    def batches(self) -> Iterator[str]:
        """The batches between which matches are found, in order: all before the first one that has no fingerprints."""
        there = self.lake.annotated("fingerprint", self.fingerprints)
        for batch in self.lake.batches():
            if next(there, None) != batch:
                return
            yield batch

    def pending(self) -> list[str]:
        """The batches whose matches are missing, in order."""
        done = {key.rpartition("/")[2] for key in self.lake.storage.list(self.prefix)}
        return [batch for batch in self.batches() if f"{batch}.parquet" not in done]


def forget_index(lake: Lake) -> None:
    """Delete every index. It numbers recordings by batch and row, and is wrong once rows or batches are removed."""
    for key in [key for key in lake.storage.list("matches") if "/index/" in key]:
        lake.storage.delete(key)


def matches_key(mark: str, batch: str) -> str:
    return f"matches/{mark}/{batch}.parquet"
