"""Parts of a batch: shares that several workers annotate, and the rows of an unfinished batch, kept as they are made.

What is committed does not depend on them: a batch's file holds the same rows whoever made them, and when.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from manifests import schemas
from manifests.funnel import credible_s
from manifests.lake import BATCH, Lake
from pipelines.stages.base import Row

KEEP_EVERY_S = 15.0
"""An interruption costs a worker at most so many seconds of work, and the recordings at hand."""
SHARES_A_WORKER = 8
"""Shares into which batches are cut where there are too few of them to occupy all workers to the end."""
LEAST_SHARE_S = 60.0
"""Of sound: less is not worth the files of a share."""
UNKNOWN_DURATION_S = 1800.0
"""What a recording that claims no duration counts in a share."""
MOST_S = 1e7
"""Of a recording: a claim of months is none."""
NAME = re.compile(r"(?P<batch>.+?)(-share-(?P<number>\d+)-of-(?P<of>\d+))?")


@dataclass(frozen=True)
class Share:
    """A unit of annotation: recordings of a batch that follow one another, share `number` of `of`."""

    batch: str
    number: int = 0
    of: int = 1

    @property
    def name(self) -> str:
        return self.batch if self.of == 1 else f"{self.batch}-share-{self.number}-of-{self.of}"

    @classmethod
    def named(cls, name: str) -> Share:
        found = NAME.fullmatch(name)
        assert found is not None
        return cls(found["batch"], int(found["number"] or 0), int(found["of"] or 1))

    def take(self, recordings: pa.Table) -> pa.Table:
        """The rows of a batch (RECORDINGS, those that could be read) that are in this share."""
        places = _places(recordings, self.of)
        return recordings.filter(pa.array((place == self.number for place in places), pa.bool_()))


def shares(lake: Lake, batch: str, share_s: float) -> list[Share]:
    """The shares, of about `share_s` seconds of claimed sound each, that a batch is annotated in; none is empty."""
    if math.isinf(share_s):
        return [Share(batch)]
    columns = ["status", "claimed_duration_s", "size_bytes"]
    recordings = readable(lake.read(lake.recordings_key(batch), columns))
    of = max(1, min(len(recordings), math.ceil(sum(_weights_s(recordings)) / share_s)))
    return [Share(batch, number, of) for number in sorted(set(_places(recordings, of)))] or [Share(batch)]


def share_s(batches: int, total_s: float, workers: int) -> float:
    """How long a share is to be so that `workers` all have work, with so many batches of `total_s` seconds in all."""
    wanted = SHARES_A_WORKER * workers
    return math.inf if workers == 1 or batches >= wanted else max(LEAST_SHARE_S, total_s / wanted)


def readable(recordings: pa.Table) -> pa.Table:
    """The recordings that ingest could read."""
    return recordings.filter(pc.equal(recordings["status"], "ok"))


def _weights_s(recordings: pa.Table) -> list[float]:
    claimed = credible_s(recordings).to_pylist()
    return [seconds if seconds and 0 < seconds < MOST_S else UNKNOWN_DURATION_S for seconds in claimed]


def _places(recordings: pa.Table, of: int) -> list[int]:
    """The share of each recording: that in which its middle lies, where all sound is cut into `of` equal stretches."""
    weights_s = _weights_s(recordings)
    total_s, before_s, places = sum(weights_s), 0.0, []
    for seconds in weights_s:
        places.append(min(of - 1, int((before_s + seconds / 2) * of / total_s)))
        before_s += seconds
    return places


@dataclass(frozen=True)
class KeptRows:
    """Rows of one stage of a batch that is not finished, in small files under `runs/` that an interruption leaves."""

    lake: Lake
    stage: str
    mark: str
    batch: str

    @property
    def _prefix(self) -> str:
        return f"runs/pieces/{self.stage}-{self.mark}/{self.batch}"

    def put(self, rows: list[Row]) -> None:
        """Keep rows of different recordings."""
        ids = "".join(row["recording_id"] for row in rows)
        name = f"{hashlib.sha256(ids.encode()).hexdigest()[:16]}-{len(rows)}"
        self.lake.write(f"{self._prefix}/{name}.parquet", schemas.table(rows, schemas.STAGES[self.stage]))

    def rows(self) -> dict[str, Row]:
        """What is kept, by recording. Files that vanish meanwhile were joined and committed by another worker."""
        found: dict[str, Row] = {}
        for key in list(self._keys()):
            try:
                found |= {row["recording_id"]: row for row in self.lake.read(key).to_pylist()}
            except FileNotFoundError:
                continue
        return found

    def at_most(self) -> int:
        """How many rows are kept, by the names of their files; fewer where two runs have kept the same ones."""
        return sum(int(key.removesuffix(".parquet").rpartition("-")[2]) for key in self._keys())

    def clear(self) -> None:
        """Forget all rows."""
        for key in list(self._keys()):
            self.lake.storage.delete(key)

    def _keys(self) -> list[str]:
        return [key for key in self.lake.storage.list(self._prefix) if re.search(r"-\d+\.parquet$", key)]


class Keeping:
    """Keeps the rows that a worker makes every `KEEP_EVERY_S`, and what is left where something stops it: a context."""

    def __init__(self, kept: Mapping[str, KeptRows]) -> None:
        self._kept = kept
        self._rows: dict[str, list[Row]] = defaultdict(list)
        self._since = time.monotonic()

    def add(self, stage: str, row: Row) -> None:
        self._rows[stage].append(row)

    def keep_sometimes(self) -> None:
        """Keep what was added if some time has passed since that was done last."""
        if time.monotonic() - self._since >= KEEP_EVERY_S:
            self.keep()

    def keep(self) -> None:
        for stage, rows in self._rows.items():
            self._kept[stage].put(rows)
        self.forget()

    def forget(self) -> None:
        """Nothing that was added needs to be kept any more."""
        self._rows.clear()
        self._since = time.monotonic()

    def __enter__(self) -> Keeping:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with contextlib.suppress(OSError):  # what stopped the run is told, not this
                self.keep()


def forget_committed(lake: Lake, marks: Mapping[str, str]) -> None:
    """Remove what killed workers left of batches that are committed: rows, and marks of shares.

    The next run may have cut a batch into other shares, whose workers do not know those marks.
    """
    for stage, mark in marks.items():
        names = {key.split("/")[3] for key in lake.storage.list(f"runs/pieces/{stage}-{mark}")}
        for batch in sorted(name for name in names if BATCH.fullmatch(name)):
            if lake.storage.exists(lake.annotation_key(stage, mark, batch)):
                KeptRows(lake, stage, mark, batch).clear()
    for key in list(lake.storage.list("runs/attempts")):
        share = Share.named(key.rpartition("/")[2].removesuffix(".json"))
        committed = (lake.storage.exists(lake.annotation_key(*stage, share.batch)) for stage in marks.items())
        if share.of > 1 and all(committed):
            lake.storage.delete(key)
