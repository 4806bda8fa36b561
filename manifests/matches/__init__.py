"""Matches: which recordings share sound, where and how much, found by the landmarks of the stage `fingerprint`.

`matches/<mark>/batch-N.parquet` (schemas.MATCHES) holds what recordings of batch N share with recordings that were met
before them, so that what is there stays as it is when the lake grows. `matches/<mark>/index/` holds the landmarks by
their keys. Recordings count in the order in which they were met: by batch, then by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from manifests.fingerprint import fingerprint
from manifests.lake import Lake

VERSION = 2


@dataclass(frozen=True)
class MatchConfig:
    """What decides which matches are found."""

    key_bits: int = 28
    """Bits of a landmark that make a key, of which each landmark has two. Fewer find shorter and noisier copies, and
    bring more chance meetings to look at: the binary logarithm of the number of landmarks, 6.5 a second, is right, so
    28 up to some 10,000 hours, 32 up to 200,000."""
    least_hits: int = 1
    """Equal keys of two recordings on one diagonal, from which on it is followed: 2 takes less time in a large lake."""
    first: int = 8
    """Of the recordings with one key, so many that were met first are those that all others are compared to."""

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
    """Where the matches of a lake lie."""

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
        """Folder of what is taken away once the matches are there."""
        return f"runs/matching/{self.mark}"

    def key(self, batch: str) -> str:
        return matches_key(self.mark, batch)

    def batches(self) -> Iterator[str]:
        """The batches between which matches are found: all up to the first one that has no fingerprints."""
        there = self.lake.annotated("fingerprint", self.fingerprints)
        for batch in self.lake.batches():
            if next(there, None) != batch:
                return
            yield batch

    def pending(self) -> list[str]:
        """Batches whose matches are not there, in order."""
        done = {key.rpartition("/")[2] for key in self.lake.storage.list(self.prefix)}
        return [batch for batch in self.batches() if f"{batch}.parquet" not in done]


def forget_index(lake: Lake) -> None:
    """Take every index away, which numbers recordings by their batches and rows, before these change."""
    for key in [key for key in lake.storage.list("matches") if "/index/" in key]:
        lake.storage.delete(key)


def matches_key(mark: str, batch: str) -> str:
    return f"matches/{mark}/{batch}.parquet"
