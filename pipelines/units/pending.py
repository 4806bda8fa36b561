"""Which batches, and which rows of them, a run still has to make: what their stages are, and what is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from manifests.fingerprint import fingerprint
from manifests.funnel import credible_s
from manifests.lake import Lake
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.stages.base import Row, Stage
from runtime.errors import SpeechmillError
from runtime.failures import Failure

SIGNAL_VERSION = 3
Progress = Callable[[str, float, bool], None]
"""Is called with the id of each recording, its seconds of sound, and whether anything failed."""


def fingerprints(stages: Sequence[Stage], decode: DecodeConfig = DECODE) -> dict[str, str]:
    """Fingerprint of each stage, 'signal' first; a stage's covers those of the stages it reads."""
    found = {"signal": fingerprint({"stage": "signal", "version": SIGNAL_VERSION, **decode.changes()})}
    for stage in stages:
        found[stage.name] = stage.fingerprint(found)
    return found


def pending(lake: Lake, marks: Mapping[str, str]) -> Iterator[str]:
    """Batches that lack the annotations of some stage, in order: sorted listings walked side by side, none held."""
    listings = [lake.annotated(stage, mark) for stage, mark in marks.items()]
    heads = [next(listing, "") for listing in listings]
    for batch in lake.batches():
        for index, listing in enumerate(listings):
            while heads[index] and heads[index] < batch:
                heads[index] = next(listing, "")
        if any(head != batch for head in heads):
            yield batch


@dataclass(frozen=True)
class Retry:
    """Which failed rows are made anew: those of one type of error, or all of them."""

    error_type: str | None = None

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of a stage is one of them."""
        return bool(row["status"] != "ok") and self.error_type in (None, row["error_type"])


def failed(lake: Lake, marks: Mapping[str, str], retry: Retry) -> Iterator[str]:
    """Batches that hold a row which `retry` wants, or one that may have been skipped because of such a row."""

    def holds(batch: str) -> tuple[str, bool]:
        for stage, mark in marks.items():
            try:
                rows = lake.read(lake.annotation_key(stage, mark, batch), ["status", "error_type"])
            except FileNotFoundError:
                continue
            broken = rows.filter(pc.not_equal(rows["status"], "ok")).to_pylist()
            if any(retry.wants(row) or row["error_type"] == SkippedError.__name__ for row in broken):
                return batch, True
        return batch, False

    return (batch for batch, found in lake.ahead(holds, lake.batches()) if found)


def expected(lake: Lake, batches: Iterable[str]) -> tuple[int, float]:
    """How many batches, and the seconds of sound that their headers claim; beyond a hundred batches by their mean."""
    read_s, read, count = 0.0, 0, 0
    for batch in batches:
        count += 1
        if read < 100:
            claimed = credible_s(lake.read(lake.recordings_key(batch), ["claimed_duration_s", "size_bytes"]))
            read_s += pc.sum(claimed).as_py() or 0.0
            read += 1
    return count, read_s * count / max(1, read)


def grouped(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages that CPUs do, then those that want a GPU or read one that does: they use separate pools of workers."""
    late: list[Stage] = []
    for stage in stages:
        if stage.resources.gpus or {other.name for other in late} & set(stage.needs):
            late.append(stage)
    early = [stage for stage in stages if stage not in late]
    return [early, late] if late else [early]


class SkippedError(SpeechmillError):
    """A stage was not run on a recording, because one that it reads has failed there."""

    remedy = "see the reason given there"


def holds_long(recordings: Iterable[Mapping[str, Any]], piece_s: float) -> bool:
    """Whether a recording (RECORDINGS rows) claims to be longer than `piece_s`."""
    return any((row["claimed_duration_s"] or 0.0) > piece_s for row in recordings)


def broken_needs(stage: Stage, known: Mapping[str, Row]) -> SpeechmillError | None:
    """Why a stage cannot be run: one that it reads has failed."""
    broken = [name for name in stage.needs if known[name]["status"] != "ok"]
    if not broken:
        return None
    return SkippedError(f"{stage.name} reads {', '.join(broken)}, which failed")


class UncommittedError(Exception):
    """A batch cannot be committed, since the bytes of a recording in it cannot be had at present."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure
