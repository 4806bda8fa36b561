"""Shares of a batch, which several workers annotate, and the rows of a batch that is not finished yet.

Committed files do not depend on either: the file of a batch holds the same rows, whoever made them and when.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from manifests import schemas
from manifests.funnel import credible_s
from manifests.lake import BATCH, Lake
from pipelines.stages.base import Row

SAVE_EVERY_S = 15.0
"""An interrupted worker loses at most this many seconds of work, and the recordings it is processing."""
SHARES_PER_WORKER = 8
"""Shares into which batches are cut if there are too few batches to occupy all workers to the end."""
MIN_SHARE_S = 60.0
"""Seconds of sound in the shortest share. Less is not worth the files of a share."""
UNKNOWN_DURATION_S = 1800.0
"""The duration that is assumed of a recording whose header claims none."""
MAX_CLAIM_S = 1e7
"""A recording whose header claims to be longer than this (months) counts as one that claims no duration."""
NAME = re.compile(r"(?P<batch>.+?)(-share-(?P<number>\d+)-of-(?P<total>\d+))?")
RUN = b"run"
"""The key in the metadata of a file of unfinished rows that names the run which made them."""


@dataclass(frozen=True)
class Share:
    """A unit of annotation: consecutive recordings of a batch, share `number` (from 0) of `total`."""

    batch: str
    number: int = 0
    total: int = 1

    @property
    def name(self) -> str:
        return self.batch if self.total == 1 else f"{self.batch}-share-{self.number}-of-{self.total}"

    @classmethod
    def parse(cls, name: str) -> Share:
        """Return the share that has this name."""
        match = NAME.fullmatch(name)
        assert match is not None
        return cls(match["batch"], int(match["number"] or 0), int(match["total"] or 1))

    def select(self, recordings: pa.Table) -> pa.Table:
        """Return the rows of this share.

        Args:
            recordings: The readable recordings of the whole batch (RECORDINGS).
        """
        numbers = _share_numbers(recordings, self.total)
        return recordings.filter(pa.array((number == self.number for number in numbers), pa.bool_()))


def split_batch(lake: Lake, batch: str, share_s: float) -> list[Share]:
    """Cut a batch into shares of about `share_s` seconds of claimed sound each. None of them is empty."""
    if math.isinf(share_s):
        return [Share(batch)]
    columns = ["status", "claimed_duration_s", "size_bytes"]
    recordings = readable_recordings(lake.read(lake.recordings_key(batch), columns))
    total = max(1, min(len(recordings), math.ceil(sum(_durations_s(recordings)) / share_s)))
    return [Share(batch, number, total) for number in sorted(set(_share_numbers(recordings, total)))] or [Share(batch)]


def share_duration_s(batches: int, total_s: float, workers: int) -> float:
    """Return how long a share must be so that all workers have work; infinite if batches need not be cut.

    Args:
        batches: The number of pending batches.
        total_s: The seconds of sound in all of them.
        workers: The number of workers.
    """
    wanted = SHARES_PER_WORKER * workers
    return math.inf if workers == 1 or batches >= wanted else max(MIN_SHARE_S, total_s / wanted)


def readable_recordings(recordings: pa.Table) -> pa.Table:
    """Return the recordings that ingest could read."""
    return recordings.filter(pc.equal(recordings["status"], "ok"))


def _durations_s(recordings: pa.Table) -> list[float]:
    claimed = credible_s(recordings).to_pylist()
    return [seconds if seconds and 0 < seconds < MAX_CLAIM_S else UNKNOWN_DURATION_S for seconds in claimed]


def _share_numbers(recordings: pa.Table, total: int) -> list[int]:
    """Return the number of the share that each recording is in.

    All sound of the batch is cut into `total` spans of equal length. A recording is in the share in whose span its
    middle lies.
    """
    durations_s = _durations_s(recordings)
    total_s, before_s, numbers = sum(durations_s), 0.0, []
    for seconds in durations_s:
        numbers.append(min(total - 1, int((before_s + seconds / 2) * total / total_s)))
        before_s += seconds
    return numbers


@dataclass(frozen=True)
class UnfinishedRows:
    """Rows of one stage of an unfinished batch, in small files under `runs/pieces/` that survive an interruption."""

    lake: Lake
    stage: str
    fingerprint: str
    batch: str
    run: str = ""
    """The folder under `runs/` of the run that writes rows."""

    @property
    def _prefix(self) -> str:
        return f"runs/pieces/{self.stage}-{self.fingerprint}/{self.batch}"

    def put(self, rows: list[Row]) -> None:
        """Write rows of different recordings to a file."""
        ids = "".join(row["recording_id"] for row in rows)
        name = f"{hashlib.sha256(ids.encode()).hexdigest()[:16]}-{len(rows)}"
        table = schemas.table(rows, schemas.STAGES[self.stage])
        metadata = {**(table.schema.metadata or {}), RUN: self.run.encode()}
        self.lake.write(f"{self._prefix}/{name}.parquet", table.replace_schema_metadata(metadata))

    def rows(self) -> dict[str, Row]:
        """Read all rows, by recording."""
        return {row["recording_id"]: row for table in self._tables() for row in table.to_pylist()}

    def rows_and_own(self) -> tuple[dict[str, Row], set[str]]:
        """Read all rows, by recording, and return also the ids of the recordings whose rows this run has made."""
        rows: dict[str, Row] = {}
        own: set[str] = set()
        for table in self._tables():
            rows |= {row["recording_id"]: row for row in table.to_pylist()}
            if (table.schema.metadata or {}).get(RUN) == self.run.encode():
                own.update(table["recording_id"].to_pylist())
        return rows, own

    def max_count(self) -> int:
        """Return the number of rows by the names of their files; there are fewer if two runs made the same rows."""
        return sum(int(key.removesuffix(".parquet").rpartition("-")[2]) for key in self._keys())

    def clear(self) -> None:
        """Delete all rows."""
        for key in self._keys():
            self.lake.storage.delete(key)

    def _tables(self) -> Iterator[pa.Table]:
        for key in self._keys():
            try:
                yield self.lake.read(key)
            except FileNotFoundError:  # another worker has just joined and committed these rows
                continue

    def _keys(self) -> list[str]:
        return [key for key in self.lake.storage.list(self._prefix) if re.search(r"-\d+\.parquet$", key)]


class PeriodicSaver:
    """Saves the rows that a worker makes every `SAVE_EVERY_S` seconds.

    Use it as a context manager: if something stops the worker, rows that are not saved yet are saved on exit.
    """

    def __init__(self, unfinished: Mapping[str, UnfinishedRows]) -> None:
        """
        Args:
            unfinished: Where rows are saved, by stage.
        """
        self._unfinished = unfinished
        self._rows: dict[str, list[Row]] = defaultdict(list)
        self._saved_at = time.monotonic()

    def add(self, stage: str, row: Row) -> None:
        """Hold a row until rows are saved the next time."""
        self._rows[stage].append(row)

    def save_if_due(self) -> None:
        """Save the rows that are held if `SAVE_EVERY_S` have passed since they were last saved."""
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Save the rows that are held."""
        for stage, rows in self._rows.items():
            self._unfinished[stage].put(rows)
        self.discard()

    def discard(self) -> None:
        """Drop the rows that are held, because they are saved or committed."""
        self._rows.clear()
        self._saved_at = time.monotonic()

    def __enter__(self) -> PeriodicSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with contextlib.suppress(OSError):  # the error that stopped the run is reported, not this one
                self.save()


def delete_leftovers(lake: Lake, fingerprints: Mapping[str, str]) -> None:
    """Delete what killed workers left of batches that are committed: unfinished rows, and marks of shares.

    The next run may cut a batch into other shares, and its workers would never find those marks.

    Args:
        lake: The lake.
        fingerprints: The fingerprint of each stage.
    """
    for stage, fingerprint in fingerprints.items():
        names = {key.split("/")[3] for key in lake.storage.list(f"runs/pieces/{stage}-{fingerprint}")}
        for batch in sorted(name for name in names if BATCH.fullmatch(name)):
            if lake.storage.exists(lake.annotation_key(stage, fingerprint, batch)):
                UnfinishedRows(lake, stage, fingerprint, batch).clear()
    for key in list(lake.storage.list("runs/attempts")):
        share = Share.parse(key.rpartition("/")[2].removesuffix(".json"))
        committed = (lake.storage.exists(lake.annotation_key(*stage, share.batch)) for stage in fingerprints.items())
        if share.total > 1 and all(committed):
            lake.storage.delete(key)
