"""Annotate: one decode a recording for all stages that a batch still lacks; one row a recording and stage.

Runs in a worker: only names of batches, or of shares of them, come in, and only counts leave.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from manifests import schemas
from manifests.lake import Lake
from manifests.storage import StorageConfig
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.reach import first_readable, unreachable_among
from pipelines.audio.sound import DecodedSound, decode_sound
from pipelines.progress.usage import Meter
from pipelines.progress.watch import Done
from pipelines.stages.base import Row, Stage
from pipelines.units.attempts import Attempt, Attempts
from pipelines.units.parts import Keeping, KeptRows, Share, readable
from pipelines.units.pending import (
    Progress,
    Retry,
    SkippedError,
    UncommittedError,
    broken_needs,
    fingerprints,
    holds_long,
)
from runtime.batches import together
from runtime.failures import Failure, Kind, failed_row, kind_of, to_failure


@dataclass
class _Found:
    """Of one recording: its rows by stage, its seconds of sound, and what failed."""

    rows: dict[str, Row]
    seconds: float
    failures: list[Failure] = field(default_factory=list)


class Annotator:
    """A worker's stages, set up once a process; those of `earlier` were done by another group of workers."""

    def __init__(
        self,
        lake: Lake,
        stages: Sequence[Stage],
        attempts: Attempts | None = None,
        earlier: Sequence[Stage] = (),
        piece_s: float = math.inf,
        decode: DecodeConfig = DECODE,
        unreachable: str = "stop",
        retry: Retry | None = None,
    ) -> None:
        """What longer recordings than `piece_s` need of stages that work in pieces is left to `pipelines.units.pieces`.

        `unreachable` is that of the recipe. With `retry`, failed rows are made anew.
        """
        self.lake = lake
        self.stages = stages
        self.piece_s = piece_s
        self.decode = decode
        self.unreachable, self.retry = unreachable, retry
        self.attempts = attempts or Attempts(lake.storage)
        self.marks = fingerprints([*earlier, *stages], decode)
        self.group = " ".join(["annotate", *(stage.name for stage in stages if earlier)])
        """What its workers are called where it is told what they spend."""
        self.own = {stage.name for stage in stages} | (set() if earlier else {"signal"})
        for stage in stages:
            stage.setup()

    def annotate(self, unit: str, progress: Progress = lambda recording_id, seconds, failed: None) -> Done:
        """Make the rows that a batch, or the share of it that `unit` names, lacks; commit the batch, one file a stage,
        once the rows of all shares are there.

        Rows that are there are read back, not made again: those of a batch, and those that were kept of an unfinished
        one. Nothing is committed where the bytes of a recording that needs decoding cannot be had, unless the recipe
        has such recordings counted as failed: the result then says so, and the same command does the rest another time.
        """
        lake, result, share = self.lake, Done(unit), Share.named(unit)
        batch = share.batch
        of_batch = readable(lake.read(lake.recordings_key(batch)))
        recordings = share.take(of_batch).to_pylist()
        kept_rows = {name: KeptRows(lake, name, mark, batch) for name, mark in self.marks.items()}
        made = {name: self._made(kept_rows[name]) for name in self.marks}
        own = set(self.own)
        if holds_long(of_batch.select(["claimed_duration_s"]).to_pylist(), self.piece_s):
            own -= {stage.name for stage in self.stages if stage.piecewise}
        lacking = {row["recording_id"]: self._lacking(row["recording_id"], own, made) for row in recordings}
        lacking = {recording_id: stages for recording_id, stages in lacking.items() if stages}
        lacking_files = {name for name in own if not lake.storage.exists(self._key(name, batch))}
        files = lacking_files.union(*lacking.values())
        if not files:
            return result
        todo = [row for row in recordings if row["recording_id"] in lacking]
        if self.unreachable == "stop" and (lost := unreachable_among(todo, lake, "signal")):
            return Done(unit, unreachable=lost, uncommitted=1)
        kept = {
            name: {row_id: row for row_id, row in rows.items() if name not in lacking.get(row_id, ())}
            for name, rows in made.items()
        }
        at_once = max((stage.at_once for stage in self.stages), default=1)
        keeping, meter = Keeping(kept_rows), Meter(self.group)
        try:
            with self.attempts.begin(unit, at_once=at_once) as attempt, keeping:
                at_once = 1 if attempt.careful else at_once
                decoded = _decoded(todo, lake.config, self.decode, attempt, meter)
                while some := list(itertools.islice(decoded, at_once)):
                    made_now = self._annotate_some(some, kept, lacking, meter)
                    meter.observe(sum(found.seconds for found in made_now.values()))
                    for recording_id, found in made_now.items():
                        for name in lacking[recording_id]:
                            kept[name][recording_id] = found.rows[name]
                            keeping.add(name, found.rows[name])
                        result.recordings += 1
                        result.seconds += found.seconds
                        result.failures += found.failures
                        progress(recording_id, found.seconds, bool(found.failures))
                    keeping.keep_sometimes()
                if share.of > 1:
                    keeping.keep()
                for name in (name for name in self.marks if name in files):
                    written = self._join(kept_rows[name], of_batch["recording_id"].to_pylist(), kept[name])
                    meter.count("written_bytes", written)
                keeping.forget()
                result.spent = meter.end()
        except UncommittedError as error:
            return Done(unit, unreachable=[error.failure], uncommitted=1)
        return result

    def _join(self, others: KeptRows, ids: Sequence[str], mine: dict[str, Row]) -> int:
        """Commit a stage of a batch from rows that this worker has and those that others kept, if all are there.

        Returns how many bytes were written."""
        lacking = [recording_id for recording_id in ids if recording_id not in mine]
        if lacking:
            if others.at_most() < len(lacking):
                return 0
            mine = others.rows() | mine
            if any(recording_id not in mine for recording_id in lacking):  # or another worker has just joined them
                return 0
        table = schemas.table([mine[recording_id] for recording_id in ids], schemas.STAGES[others.stage])
        written = self.lake.write(self._key(others.stage, others.batch), table)
        others.clear()
        return written

    def _key(self, stage: str, batch: str) -> str:
        return self.lake.annotation_key(stage, self.marks[stage], batch)

    def _made(self, kept: KeptRows) -> dict[str, Row]:
        """The rows of a stage of a batch that are there, by recording: kept ones, and those that are committed."""
        rows = kept.rows()  # first: who commits a batch forgets them afterwards
        try:
            committed = self.lake.read(self._key(kept.stage, kept.batch)).to_pylist()
        except FileNotFoundError:
            return rows
        return {row["recording_id"]: row for row in committed} | rows

    def _lacking(self, recording_id: str, own: Collection[str], made: Mapping[str, Mapping[str, Row]]) -> list[str]:
        """The stages of which a recording is to have a row made, in order."""
        lacking: list[str] = []
        needs = {stage.name: stage.needs for stage in self.stages}
        for name in self.marks:
            row = made[name].get(recording_id)
            if name in own and (row is None or self._again(row, {"signal", *needs.get(name, ())}, lacking, made)):
                lacking.append(name)
        return lacking

    def _again(
        self, row: Row, needs: set[str], lacking: Collection[str], made: Mapping[str, Mapping[str, Row]]
    ) -> bool:
        """Whether a row that is there is made anew: its stage failed, or a stage that it reads did, until now."""
        if self.retry is None or row["status"] == "ok":
            return False
        if self.retry.wants(row) or needs & set(lacking):
            return True
        read = [made[name].get(row["recording_id"]) for name in needs]
        return row["error_type"] == SkippedError.__name__ and all(other and other["status"] == "ok" for other in read)

    def _annotate_some(
        self,
        some: Sequence[tuple[Mapping[str, Any], Future[DecodedSound]]],
        kept: Mapping[str, Mapping[str, Row]],
        lacking: Mapping[str, Sequence[str]],
        meter: Meter,
    ) -> dict[str, _Found]:
        """What is found of each recording, with a row of each stage that it lacks."""
        found: dict[str, _Found] = {}
        sounds: dict[str, DecodedSound] = {}
        with contextlib.ExitStack() as stack:
            for recording, decoded in some:
                recording_id, error = recording["recording_id"], decoded.exception()
                meter.count("read_bytes", recording["size_bytes"] or 0)
                if error is None:
                    sound = sounds[recording_id] = stack.enter_context(decoded.result())
                    signal = {"recording_id": recording_id, "status": "ok", **sound.signal}
                    known = {name: rows[recording_id] for name, rows in kept.items() if recording_id in rows}
                    found[recording_id] = _Found(known | {"signal": signal}, signal["duration_s"])
                elif not isinstance(error, Exception) or kind_of(error) is Kind.RUN:
                    raise error
                else:
                    row = failed_row(recording_id, error)
                    if self.unreachable == "stop" and kind_of(error) is Kind.UNREACHABLE:
                        raise UncommittedError(to_failure(row, "signal"))
                    found[recording_id] = _Found(
                        dict.fromkeys(lacking[recording_id], row), 0.0, [to_failure(row, "signal")]
                    )
            for stage in self.stages:
                jobs = [
                    partial(self._run, stage, sound, found[recording_id].rows)
                    for recording_id, sound in sounds.items()
                    if stage.name in lacking[recording_id]
                ]
                batches = [jobs[start : start + stage.at_once] for start in range(0, len(jobs), stage.at_once)]
                with meter.part(stage.name, stage.resources.gpus):
                    rows = [row for batch in batches for row in together(batch)]
                for row in rows:
                    of = found[row["recording_id"]]
                    of.rows[stage.name] = row
                    if row["status"] != "ok":
                        of.failures.append(to_failure(row, stage.name))
        return found

    def _run(self, stage: Stage, sound: DecodedSound, known: Mapping[str, Row]) -> Row:
        if broken := broken_needs(stage, known):
            return failed_row(sound.recording_id, broken)
        try:
            row = stage.annotate(sound, known)
        except Exception as error:  # whatever a model throws costs one recording, is counted there, and the run goes on
            if kind_of(error) is Kind.RUN:
                raise
            return failed_row(sound.recording_id, error)
        return {"recording_id": sound.recording_id, "status": "ok", **row}


def _decoded(
    recordings: Sequence[Mapping[str, Any]],
    config: StorageConfig,
    decode: DecodeConfig,
    attempt: Attempt,
    meter: Meter,
) -> Iterator[tuple[Mapping[str, Any], Future[DecodedSound]]]:
    """Each recording with its sound, the next one decoding in a thread meanwhile."""
    ahead = 0 if attempt.careful else 1
    with ThreadPoolExecutor(1, initializer=meter.aside) as pool:
        jobs = [pool.submit(_decode, row, config, decode, attempt) for row in recordings[:ahead]]
        for index, recording in enumerate(recordings):
            jobs += [
                pool.submit(_decode, row, config, decode, attempt)
                for row in recordings[index + ahead : index + ahead + 1]
            ]
            yield recording, jobs.pop(0)


def _decode(
    recording: Mapping[str, Any], config: StorageConfig, decode: DecodeConfig, attempt: Attempt
) -> DecodedSound:
    """Decode under one of its names, as an attempt allows."""
    attempt.at(recording["recording_id"])
    recording_id, size_bytes, sha256 = (recording[name] for name in ("recording_id", "size_bytes", "sha256"))
    return first_readable(
        recording, lambda uri: decode_sound(uri, recording_id, size_bytes, config, sha256, decode), config
    )
