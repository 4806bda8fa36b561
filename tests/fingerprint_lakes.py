"""Lakes of random fingerprints with planted copies and passages, so that matching can be tested without sound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from manifests import schemas
from manifests.lake import Lake
from manifests.matches import MatchConfig, Matches
from pipelines.matching import Matching
from pipelines.units.engines import Engine, Group

MARK = "f"


@dataclass
class Drawn:
    """Random landmarks of a recording."""

    times_ms: np.ndarray
    bits: np.ndarray

    def changed(self, rng: np.random.Generator, errors: float, speed: float = 1.0, shift_ms: int = 0) -> Drawn:
        """Return the landmarks of a copy: a share of all bits is flipped, and the speed and the start are changed."""
        flips = (rng.random((len(self.bits), 63)) < errors) @ (np.int64(1) << np.arange(63, dtype=np.int64))
        return Drawn((self.times_ms / speed).astype(np.int32) + shift_ms, self.bits ^ flips)

    def part(self, start_ms: int, end_ms: int) -> Drawn:
        inside = (self.times_ms >= start_ms) & (self.times_ms < end_ms)
        return Drawn(self.times_ms[inside] - start_ms, self.bits[inside])

    def with_inside(self, other: Drawn, at_ms: int) -> Drawn:
        """Insert another recording, which shifts what follows."""
        long_ms = int(other.times_ms[-1]) + 160
        before = self.times_ms < at_ms
        times_ms = [self.times_ms[before], other.times_ms + at_ms, self.times_ms[~before] + long_ms]
        return Drawn(np.concatenate(times_ms), np.concatenate([self.bits[before], other.bits, self.bits[~before]]))


def drawn(rng: np.random.Generator, seconds: float) -> Drawn:
    """Draw 6.5 random landmarks per second."""
    times_ms = np.sort(rng.choice(int(seconds * 1000 / 16), int(6.5 * seconds), replace=False)) * 16
    return Drawn(times_ms.astype(np.int32), rng.integers(0, 2**63, len(times_ms), np.int64))


def write_fingerprints(lake: Lake, number: int, recordings: Iterable[tuple[str, Drawn]]) -> str:
    """Write a batch of recordings with these landmarks. Returns its name."""
    batch = f"batch-{number:06d}"
    named = list(recordings)
    rows: list[dict[str, Any]] = [{"recording_id": name, "status": "ok", "uris": [name]} for name, _ in named]
    lake.write(lake.recordings_key(batch), schemas.table(rows, schemas.RECORDINGS))
    lengths = np.cumsum([0, *(len(one.bits) for _, one in named)]).astype(np.int32)
    lists = {
        name: pa.ListArray.from_arrays(lengths, np.concatenate([getattr(one, field) for _, one in named]))
        for name, field in (("times_ms", "times_ms"), ("landmarks", "bits"))
    }
    base = schemas.table([{"recording_id": name, "status": "ok"} for name, _ in named], schemas.FINGERPRINT)
    columns = {name: base[name] for name in base.column_names} | lists
    columns["landmark_count"] = pa.array(np.diff(lengths), pa.int32())
    table = pa.table([columns[name].cast(field.type) if hasattr(columns[name], "cast") else columns[name]
                      for name, field in zip(schemas.FINGERPRINT.names, schemas.FINGERPRINT, strict=True)],
                     schema=schemas.FINGERPRINT)  # fmt: skip
    lake.write(lake.annotation_key("fingerprint", MARK, batch), table)
    return batch


def match(
    lake: Lake, config: MatchConfig | None = None, engine: Engine | None = None, until: str | None = None
) -> Matches:
    """Match what is pending as a run does. `until` names a step before which to stop, as if killed."""
    matches, engine = Matches(lake, MARK, config or MatchConfig()), engine or Engine()
    matching = Matching.of(matches)
    for name, units_of, make in Matching.STEPS:
        if name == until:
            return matches
        if units := units_of(matching):
            list(engine.run(units, [Group(name, Made(make, matching))]))
    matching.delete_hits()
    return matches


@dataclass
class Made:
    """A picklable function that makes a worker."""

    make: Callable[[Matching], Any]
    matching: Matching

    def __call__(self) -> Any:
        return self.make(self.matching)


def found(matches: Matches) -> list[dict[str, Any]]:
    """Return all rows of MATCHES."""
    lake = matches.lake
    return [row for batch in matches.batches() for row in lake.read(matches.key(batch)).to_pylist()]
