"""Annotate: one decode a recording for all stages that a batch still lacks; one row a recording and stage.

Runs in a worker: only batch names come in and only counts leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow.compute as pc

from manifests import schemas
from manifests.fingerprint import fingerprint
from manifests.lake import Lake
from manifests.storage import StorageConfig, StorageError
from pipelines.attempts import Attempt, Attempts
from pipelines.audio.sound import DecodedSound, decode_sound
from pipelines.errors import SpeechmillError
from pipelines.stages.base import Row, Stage
from pipelines.watch import Done, Failure

SIGNAL_VERSION = 2
Progress = Callable[[str, float, bool], None]


def fingerprints(stages: Sequence[Stage]) -> dict[str, str]:
    """Fingerprint of each stage, 'signal' first; a stage's covers those of the stages it reads."""
    found = {"signal": fingerprint({"stage": "signal", "version": SIGNAL_VERSION})}
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


def expected(lake: Lake, batches: Iterable[str]) -> tuple[int, float]:
    """How many batches, and the seconds of sound that their headers claim; beyond a hundred batches by their mean."""
    read_s, read, count = 0.0, 0, 0
    for batch in batches:
        count += 1
        if read < 100:
            claimed = lake.read(lake.recordings_key(batch), ["claimed_duration_s"])["claimed_duration_s"]
            read_s += pc.sum(claimed).as_py() or 0.0
            read += 1
    return count, read_s * count / max(1, read)


def grouped(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages that CPUs do, then those that want a GPU or read one that does: workers of the two live apart."""
    late: list[Stage] = []
    for stage in stages:
        if stage.resources.gpus or {other.name for other in late} & set(stage.needs):
            late.append(stage)
    early = [stage for stage in stages if stage not in late]
    return [early, late] if late else [early]


class Annotator:
    """A worker's stages, set up once a process; those of `earlier` were done by another group of workers."""

    def __init__(
        self,
        lake: Lake,
        stages: Sequence[Stage],
        attempts: Attempts | None = None,
        earlier: Sequence[Stage] = (),
        piece_s: float = math.inf,
    ) -> None:
        """What longer recordings than `piece_s` need of stages that work in pieces is left to `pipelines.pieces`."""
        self.lake = lake
        self.stages = stages
        self.piece_s = piece_s
        self.attempts = attempts or Attempts(lake.storage)
        self.marks = fingerprints([*earlier, *stages])
        for stage in stages:
            stage.setup()

    def annotate(self, batch: str, progress: Progress = lambda recording_id, seconds, failed: None) -> Done:
        """Commit what `batch` lacks, one file a stage. Done stages are read back, not run again."""
        lake, result = self.lake, Done(batch)
        keys = {name: lake.annotation_key(name, mark, batch) for name, mark in self.marks.items()}
        done = {
            name: {row["recording_id"]: row for row in lake.read(key).to_pylist()}
            for name, key in keys.items()
            if lake.storage.exists(key)
        }
        rows: dict[str, list[Row]] = {name: [] for name in keys if name not in done}
        if not rows:
            return result
        recordings = [row for row in lake.read(lake.recordings_key(batch)).to_pylist() if row["status"] == "ok"]
        if pieces(recordings, self.piece_s) > 1:
            for stage in self.stages:
                if stage.piecewise:
                    rows.pop(stage.name, None)
            if not rows:
                return result
        with self.attempts.begin(batch) as attempt:
            for recording, decoded in _decoded(recordings, lake.config, attempt):
                known = {name: table[recording["recording_id"]] for name, table in done.items()}
                seconds, failures = self._annotate_one(recording["recording_id"], decoded, known, rows)
                result.recordings += 1
                result.seconds += seconds
                result.failures += failures
                progress(recording["recording_id"], seconds, bool(failures))
            for name, made in rows.items():
                lake.write(keys[name], schemas.table(made, schemas.STAGES[name]))
        return result

    def _annotate_one(
        self, recording_id: str, decoded: Future[DecodedSound], known: dict[str, Row], rows: dict[str, list[Row]]
    ) -> tuple[float, list[Failure]]:
        """Add a row to every table of `rows`; returns the seconds of sound and what failed."""
        error = decoded.exception()
        if error is not None:
            if not isinstance(error, Exception) or isinstance(error, StorageError):
                raise error  # a storage that does not answer is no fault of the recording
            for name in rows:
                rows[name].append(failed_row(recording_id, error))
            return 0.0, [told(failed_row(recording_id, error), "signal")]
        failures: list[Failure] = []
        with decoded.result() as sound:
            signal = {"recording_id": recording_id, "status": "ok", **sound.signal}
            known["signal"] = signal
            if "signal" in rows:
                rows["signal"].append(signal)
            for stage in self.stages:
                if stage.name not in rows:
                    continue
                row = self._run(stage, sound, known)
                known[stage.name] = row
                rows[stage.name].append(row)
                if row["status"] != "ok":
                    failures.append(told(row, stage.name))
        return float(signal["duration_s"]), failures

    def _run(self, stage: Stage, sound: DecodedSound, known: Mapping[str, Row]) -> Row:
        if broken := broken_needs(stage, known):
            return failed_row(sound.recording_id, broken)
        try:
            row = stage.annotate(sound, known)
        except Exception as error:  # whatever a model throws costs one recording, is counted there, and the run goes on
            return failed_row(sound.recording_id, error)
        return {"recording_id": sound.recording_id, "status": "ok", **row}


def pieces(recordings: Iterable[Mapping[str, Any]], piece_s: float) -> int:
    """Pieces of a batch, by the longest duration that its RECORDINGS rows claim; 1 where none is above `piece_s`."""
    longest_s = max((row["claimed_duration_s"] or 0.0 for row in recordings), default=0.0)
    return max(1, math.ceil(longest_s / piece_s))


def broken_needs(stage: Stage, known: Mapping[str, Row]) -> SpeechmillError | None:
    """Why a stage cannot be run: one that it reads has failed."""
    broken = [name for name in stage.needs if known[name]["status"] != "ok"]
    if not broken:
        return None
    return SpeechmillError(f"{stage.name} reads {', '.join(broken)}, which failed", "see the reason given there")


def failed_row(recording_id: str, error: Exception) -> Row:
    """The failed row of a recording: type, message and remedy."""
    remedy = error.remedy if isinstance(error, SpeechmillError) else "report it with this message and the recording"
    return {
        "recording_id": recording_id,
        "status": "failed",
        "error_type": type(error).__name__,
        "error": str(error),
        "remedy": remedy,
    }


def told(row: Mapping[str, Any], stage: str) -> Failure:
    """A failed row as a worker tells it."""
    return Failure(row["recording_id"], stage, row["error_type"], row["error"], row["remedy"] or "")


def _decoded(
    recordings: Sequence[Mapping[str, Any]], config: StorageConfig, attempt: Attempt
) -> Iterator[tuple[Mapping[str, Any], Future[DecodedSound]]]:
    """Each recording with its sound, the next one decoding in a thread meanwhile: never more than two are held."""
    ahead = 0 if attempt.careful else 1
    with ThreadPoolExecutor(1) as pool:
        jobs = [pool.submit(_decode, row, config, attempt) for row in recordings[:ahead]]
        for index, recording in enumerate(recordings):
            jobs += [
                pool.submit(_decode, row, config, attempt) for row in recordings[index + ahead : index + ahead + 1]
            ]
            yield recording, jobs.pop(0)


def _decode(recording: Mapping[str, Any], config: StorageConfig, attempt: Attempt) -> DecodedSound:
    """Decode under one of its names, as an attempt allows."""
    attempt.at(recording["recording_id"])
    recording_id, size_bytes = recording["recording_id"], recording["size_bytes"]
    return first_readable(recording, lambda uri: decode_sound(uri, recording_id, size_bytes, config))


def first_readable(recording: Mapping[str, Any], decode: Callable[[str], DecodedSound]) -> DecodedSound:
    """The sound under the first of its names that still holds it."""
    *others, last = recording["uris"]
    for uri in others:
        try:
            return decode(uri)
        except SpeechmillError:
            continue  # the same bytes may still lie under another name; the last name's error is told
    return decode(last)
