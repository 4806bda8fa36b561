"""Annotate: decode each recording once for all stages that its batch lacks, and write a row for each stage.

This code runs in a worker. It is given only the names of batches or of shares of them, and returns only counts.
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
from pipelines.audio.reach import find_unreachable, first_readable
from pipelines.audio.sound import DecodedSound, decode_sound
from pipelines.progress.usage import Meter
from pipelines.progress.watch import UnitResult
from pipelines.stages.base import Row, Stage
from pipelines.units.attempts import Attempt, Attempts
from pipelines.units.pending import (
    Progress,
    Retry,
    SkippedError,
    UncommittedError,
    failed_needs_error,
    has_long_recording,
    stage_fingerprints,
)
from pipelines.units.shares import PeriodicSaver, Share, UnfinishedRows, readable_recordings
from runtime.batches import run_batched
from runtime.failures import Failure, Kind, failed_row, kind_of, to_failure


@dataclass
class _Annotations:
    """The rows of one recording by stage, its seconds of sound, and its failures."""

    rows: dict[str, Row]
    seconds: float
    failures: list[Failure] = field(default_factory=list)


class _StageRows:
    """The rows of one stage of a batch that exist when a worker begins, committed or unfinished, by recording."""

    def __init__(self, unfinished: UnfinishedRows, committed_key: str) -> None:
        self.unfinished = unfinished
        # Unfinished rows are read first, because the worker that commits the batch deletes them afterwards.
        self.rows, self.own = unfinished.rows_and_own()
        """`own` are the ids of recordings whose rows an earlier worker of this run has made before it died."""
        self.is_committed = True
        try:
            committed = unfinished.lake.read(committed_key).to_pylist()
        except FileNotFoundError:
            self.is_committed = False
        else:
            self.rows = {row["recording_id"]: row for row in committed} | self.rows


class Annotator:
    """A worker that runs stages on batches. Its stages are set up once in each process."""

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
        """
        Args:
            lake: The lake.
            stages: The stages to run, in order.
            attempts: The marks of the run.
            earlier: Stages that an earlier group of workers has run.
            piece_s: Piecewise stages leave batches with longer recordings than this to `pipelines.units.pieces`.
            decode: How recordings are decoded.
            unreachable: The recipe's `unreachable`, "stop" or "fail".
            retry: Which failed rows are made again.
        """
        self.lake = lake
        self.stages = stages
        self.piece_s = piece_s
        self.decode = decode
        self.unreachable, self.retry = unreachable, retry
        self.attempts = attempts or Attempts(lake.storage)
        self.fingerprints = stage_fingerprints([*earlier, *stages], decode)
        self.group = " ".join(["annotate", *(stage.name for stage in stages if earlier)])
        """The name of its group of workers in the reported usage."""
        self.own = {stage.name for stage in stages} | (set() if earlier else {"signal"})
        """The stages whose rows it makes."""
        for stage in stages:
            stage.setup()

    def annotate(self, unit: str, progress: Progress = lambda recording_id, seconds, failed: None) -> UnitResult:
        """Make the missing rows of a batch or a share. Commit the batch once the rows of all its shares are there.

        Rows that exist, of a committed or an unfinished batch, are read and not made again. A batch is committed as one
        file for each stage.

        Args:
            unit: The name of a batch or a share.
            progress: Called after each recording.

        Returns:
            The result of the unit. It counts recordings that an earlier worker of this run finished before it died. If
            the bytes of a recording that must be decoded are unreachable, nothing is committed and the result says so,
            unless the recipe counts such recordings as failed.
        """
        lake, result, share = self.lake, UnitResult(unit), Share.parse(unit)
        batch = share.batch
        batch_recordings = readable_recordings(lake.read(lake.recordings_key(batch)))
        recordings = share.select(batch_recordings).to_pylist()
        existing = {name: self._existing(name, batch) for name in self.fingerprints}
        own = set(self.own)
        if has_long_recording(batch_recordings.select(["claimed_duration_s"]).to_pylist(), self.piece_s):
            own -= {stage.name for stage in self.stages if stage.piecewise}
        missing = {row["recording_id"]: self._missing_stages(row["recording_id"], own, existing) for row in recordings}
        missing = {recording_id: stages for recording_id, stages in missing.items() if stages}
        uncommitted = {name for name in own if not existing[name].is_committed}
        files = uncommitted.union(*missing.values())
        if not files:
            return result
        todo = [row for row in recordings if row["recording_id"] in missing]
        if self.unreachable == "stop" and (unreachable := find_unreachable(todo, lake, "signal")):
            return UnitResult(unit, unreachable=unreachable, uncommitted=1)
        rows = {
            name: {row_id: row for row_id, row in stage.rows.items() if name not in missing.get(row_id, ())}
            for name, stage in existing.items()
        }
        finished_before = [row["recording_id"] for row in recordings if row["recording_id"] not in missing]
        self._count_finished(finished_before, own, existing, result)
        max_concurrent = max((stage.at_once for stage in self.stages), default=1)
        saver, meter = PeriodicSaver({name: stage.unfinished for name, stage in existing.items()}), Meter(self.group)
        try:
            with self.attempts.begin(unit, max_concurrent=max_concurrent) as attempt, saver:
                max_concurrent = 1 if attempt.careful else max_concurrent
                decoded = _decode_ahead(todo, lake.config, self.decode, attempt, meter)
                while batch_of_sounds := list(itertools.islice(decoded, max_concurrent)):
                    annotated = self._annotate_together(batch_of_sounds, rows, missing, meter)
                    meter.observe(sum(annotations.seconds for annotations in annotated.values()))
                    for recording_id, annotations in annotated.items():
                        for name in missing[recording_id]:
                            rows[name][recording_id] = annotations.rows[name]
                            saver.add(name, annotations.rows[name])
                        result.recordings += 1
                        result.seconds += annotations.seconds
                        result.failures += annotations.failures
                        progress(recording_id, annotations.seconds, bool(annotations.failures))
                    saver.save_if_due()
                if share.total > 1:
                    saver.save()
                for name in (name for name in self.fingerprints if name in files):
                    ids = batch_recordings["recording_id"].to_pylist()
                    meter.count("written_bytes", self._join(existing[name].unfinished, ids, rows[name]))
                saver.discard()
                result.spent = meter.end()
        except UncommittedError as error:
            return UnitResult(unit, unreachable=[error.failure], uncommitted=1)
        return result

    def _existing(self, stage: str, batch: str) -> _StageRows:
        unfinished = UnfinishedRows(self.lake, stage, self.fingerprints[stage], batch, self.attempts.run)
        return _StageRows(unfinished, self._key(stage, batch))

    def _count_finished(
        self, ids: Sequence[str], own: Collection[str], existing: Mapping[str, _StageRows], result: UnitResult
    ) -> None:
        """Count the recordings that an earlier worker of this run has finished before it died."""
        for recording_id in ids:
            stages = [name for name in self.fingerprints if name in own and recording_id in existing[name].own]
            if not stages:
                continue
            signal = existing["signal"].rows[recording_id]
            result.recordings += 1
            if signal["status"] != "ok":  # all stages have failed with this error
                result.failures.append(to_failure(signal, "signal"))
                continue
            result.seconds += signal["duration_s"]
            rows = {name: existing[name].rows[recording_id] for name in stages}
            result.failures += [to_failure(row, name) for name, row in rows.items() if row["status"] != "ok"]

    def _join(self, unfinished: UnfinishedRows, ids: Sequence[str], own_rows: dict[str, Row]) -> int:
        """Commit a stage of a batch if all its rows are there.

        Args:
            unfinished: The rows of this stage that other workers have saved.
            ids: The ids of all readable recordings of the batch, in order.
            own_rows: The rows that this worker has.

        Returns:
            The number of bytes that were written.
        """
        missing = [recording_id for recording_id in ids if recording_id not in own_rows]
        if missing:
            if unfinished.max_count() < len(missing):
                return 0
            own_rows = unfinished.rows() | own_rows
            if any(recording_id not in own_rows for recording_id in missing):
                return 0  # they are not there yet, or another worker has just joined them
        table = schemas.table([own_rows[recording_id] for recording_id in ids], schemas.STAGES[unfinished.stage])
        written = self.lake.write(self._key(unfinished.stage, unfinished.batch), table)
        unfinished.clear()
        return written

    def _key(self, stage: str, batch: str) -> str:
        return self.lake.annotation_key(stage, self.fingerprints[stage], batch)

    def _missing_stages(self, recording_id: str, own: Collection[str], existing: Mapping[str, _StageRows]) -> list[str]:
        """Return the stages that must make a row of a recording, in order."""
        missing: list[str] = []
        needs = {stage.name: stage.needs for stage in self.stages}
        for name in self.fingerprints:
            row = existing[name].rows.get(recording_id)
            if name in own and (
                row is None or self._is_retried(row, {"signal", *needs.get(name, ())}, missing, existing)
            ):
                missing.append(name)
        return missing

    def _is_retried(
        self, row: Row, needs: set[str], missing: Collection[str], existing: Mapping[str, _StageRows]
    ) -> bool:
        """Return whether an existing row is made again: its stage failed, or a stage that it reads had failed."""
        if self.retry is None or row["status"] == "ok":
            return False
        if self.retry.selects(row) or needs & set(missing):
            return True
        read = [existing[name].rows.get(row["recording_id"]) for name in needs]
        return row["error_type"] == SkippedError.__name__ and all(other and other["status"] == "ok" for other in read)

    def _annotate_together(
        self,
        decoded: Sequence[tuple[Mapping[str, Any], Future[DecodedSound]]],
        rows: Mapping[str, Mapping[str, Row]],
        missing: Mapping[str, Sequence[str]],
        meter: Meter,
    ) -> dict[str, _Annotations]:
        """Run the missing stages of several recordings, whose model calls share batches.

        Args:
            decoded: Rows of RECORDINGS, each with its sound.
            rows: The existing rows by stage and recording.
            missing: The stages that must make a row, by recording.
            meter: Measures what the stages use.
        """
        annotated: dict[str, _Annotations] = {}
        sounds: dict[str, DecodedSound] = {}
        with contextlib.ExitStack() as stack:
            for recording, future in decoded:
                recording_id, error = recording["recording_id"], future.exception()
                meter.count("read_bytes", recording["size_bytes"] or 0)
                if error is None:
                    sound = sounds[recording_id] = stack.enter_context(future.result())
                    signal = {"recording_id": recording_id, "status": "ok", **sound.signal}
                    known = {
                        name: of_stage[recording_id] for name, of_stage in rows.items() if recording_id in of_stage
                    }
                    annotated[recording_id] = _Annotations(known | {"signal": signal}, signal["duration_s"])
                elif not isinstance(error, Exception) or kind_of(error) is Kind.RUN:
                    raise error
                else:
                    row = failed_row(recording_id, error)
                    if self.unreachable == "stop" and kind_of(error) is Kind.UNREACHABLE:
                        raise UncommittedError(to_failure(row, "signal"))
                    annotated[recording_id] = _Annotations(
                        dict.fromkeys(missing[recording_id], row), 0.0, [to_failure(row, "signal")]
                    )
            for stage in self.stages:
                jobs = [
                    partial(self._run, stage, sound, annotated[recording_id].rows)
                    for recording_id, sound in sounds.items()
                    if stage.name in missing[recording_id]
                ]
                batches = [jobs[start : start + stage.at_once] for start in range(0, len(jobs), stage.at_once)]
                with meter.part(stage.name, stage.resources.gpus):
                    stage_rows = [row for batch in batches for row in run_batched(batch)]
                for row in stage_rows:
                    annotations = annotated[row["recording_id"]]
                    annotations.rows[stage.name] = row
                    if row["status"] != "ok":
                        annotations.failures.append(to_failure(row, stage.name))
        return annotated

    def _run(self, stage: Stage, sound: DecodedSound, known: Mapping[str, Row]) -> Row:
        if error := failed_needs_error(stage, known):
            return failed_row(sound.recording_id, error)
        try:
            row = stage.annotate(sound, known)
        except Exception as error:  # whatever a model raises costs one recording, which counts as failed
            if kind_of(error) is Kind.RUN:
                raise
            return failed_row(sound.recording_id, error)
        return {"recording_id": sound.recording_id, "status": "ok", **row}


def _decode_ahead(
    recordings: Sequence[Mapping[str, Any]],
    config: StorageConfig,
    decode: DecodeConfig,
    attempt: Attempt,
    meter: Meter,
) -> Iterator[tuple[Mapping[str, Any], Future[DecodedSound]]]:
    """Yield each recording with its sound, while a thread decodes the next recording."""
    ahead = 0 if attempt.careful else 1
    with ThreadPoolExecutor(1, initializer=meter.exclude_thread) as pool:
        futures = [pool.submit(_decode, row, config, decode, attempt) for row in recordings[:ahead]]
        for index, recording in enumerate(recordings):
            futures += [
                pool.submit(_decode, row, config, decode, attempt)
                for row in recordings[index + ahead : index + ahead + 1]
            ]
            yield recording, futures.pop(0)


def _decode(
    recording: Mapping[str, Any], config: StorageConfig, decode: DecodeConfig, attempt: Attempt
) -> DecodedSound:
    """Decode a recording under the first of its names that holds its bytes."""
    attempt.begin_recording(recording["recording_id"])
    recording_id, size_bytes, sha256 = (recording[name] for name in ("recording_id", "size_bytes", "sha256"))
    return first_readable(
        recording, lambda uri: decode_sound(uri, recording_id, size_bytes, config, sha256, decode), config
    )
