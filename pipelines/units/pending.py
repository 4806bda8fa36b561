"""Which batches, and which rows of them, a run still has to make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from manifests import fingerprint as hashing
from manifests.funnel import credible_s
from manifests.lake import Lake
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.stages.base import Row, Stage
from runtime.errors import SpeechmillError
from runtime.failures import Failure

SIGNAL_VERSION = 3
MAX_BATCHES_READ = 100
"""Batches that `estimate_work` reads; it extrapolates to the others."""
Progress = Callable[[str, float, bool], None]
"""Called with the id of each recording, its seconds of sound, and whether anything failed."""


def stage_fingerprints(stages: Sequence[Stage], decode: DecodeConfig = DECODE) -> dict[str, str]:
    """Return the fingerprint of each stage, 'signal' first. It covers the fingerprints of the stages it reads."""
    fingerprints = {"signal": hashing.fingerprint({"stage": "signal", "version": SIGNAL_VERSION, **decode.changes()})}
    for stage in stages:
        fingerprints[stage.name] = stage.fingerprint(fingerprints)
    return fingerprints


def pending_batches(lake: Lake, fingerprints: Mapping[str, str]) -> Iterator[str]:
    """Yield the batches that lack the annotations of some stage, in order.

    It merges sorted listings, so that memory does not grow with the number of batches.
    """
    listings = [lake.annotated(stage, fingerprint) for stage, fingerprint in fingerprints.items()]
    heads = [next(listing, "") for listing in listings]
    for batch in lake.batches():
        for index, listing in enumerate(listings):
            while heads[index] and heads[index] < batch:
                heads[index] = next(listing, "")
        if any(head != batch for head in heads):
            yield batch


@dataclass(frozen=True)
class Retry:
    """Which failed rows are made again: those with one type of error, or all of them."""

    error_type: str | None = None

    def selects(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row of a stage is made again."""
        return bool(row["status"] != "ok") and self.error_type in (None, row["error_type"])


def batches_to_retry(lake: Lake, fingerprints: Mapping[str, str], retry: Retry) -> Iterator[str]:
    """Yield the batches with a row that `retry` selects, or one that may have been skipped because of such a row."""

    def check(batch: str) -> tuple[str, bool]:
        for stage, fingerprint in fingerprints.items():
            try:
                rows = lake.read(lake.annotation_key(stage, fingerprint, batch), ["status", "error_type"])
            except FileNotFoundError:
                continue
            failed = rows.filter(pc.not_equal(rows["status"], "ok")).to_pylist()
            if any(retry.selects(row) or row["error_type"] == SkippedError.__name__ for row in failed):
                return batch, True
        return batch, False

    return (batch for batch, selected in lake.prefetch(check, lake.batches()) if selected)


def estimate_work(lake: Lake, batches: Iterable[str]) -> tuple[int, float]:
    """Count batches and estimate their sound.

    Returns:
        The number of batches, and the seconds of sound that their headers claim. Beyond `MAX_BATCHES_READ` batches,
        the mean of those that were read is taken for the others.
    """
    read_s, read, count = 0.0, 0, 0
    for batch in batches:
        count += 1
        if read < MAX_BATCHES_READ:
            claimed = credible_s(lake.read(lake.recordings_key(batch), ["claimed_duration_s", "size_bytes"]))
            read_s += pc.sum(claimed).as_py() or 0.0
            read += 1
    return count, read_s * count / max(1, read)


def group_by_device(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Group stages that share a pool of workers.

    The first group has the stages that run on CPUs. The second has those that want a GPU, or read a stage that does.
    """
    on_gpu: list[Stage] = []
    for stage in stages:
        if stage.resources.gpus or {other.name for other in on_gpu} & set(stage.needs):
            on_gpu.append(stage)
    on_cpu = [stage for stage in stages if stage not in on_gpu]
    return [on_cpu, on_gpu] if on_gpu else [on_cpu]


class SkippedError(SpeechmillError):
    """A stage did not run on a recording, because a stage that it reads failed on that recording."""

    remedy = "see the reason given there"


def has_long_recording(recordings: Iterable[Mapping[str, Any]], piece_s: float) -> bool:
    """Return whether the header of some recording (rows of RECORDINGS) claims more than `piece_s` seconds."""
    return any((row["claimed_duration_s"] or 0.0) > piece_s for row in recordings)


def failed_needs_error(stage: Stage, rows: Mapping[str, Row]) -> SpeechmillError | None:
    """Return the error of a stage that cannot run because a stage that it reads has failed; None if it can run.

    Args:
        stage: The stage.
        rows: The rows of one recording, by stage.
    """
    failed = [name for name in stage.needs if rows[name]["status"] != "ok"]
    if not failed:
        return None
    return SkippedError(f"{stage.name} reads {', '.join(failed)}, which failed")


class UncommittedError(Exception):
    """A batch cannot be committed, because the bytes of one of its recordings are unreachable at present."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure
