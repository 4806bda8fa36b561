"""Annotate: one decode a recording for all stages that a batch still lacks; one row a recording and stage.

Runs in a worker: only batch names come in and only counts leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from manifests import schemas
from manifests.fingerprint import fingerprint
from manifests.lake import Lake
from pipelines.audio.sound import DecodedSound, decode_sound
from pipelines.errors import SpeechmillError
from pipelines.stages.base import Row, Stage

SIGNAL_VERSION = 1
Progress = Callable[[str, float, bool], None]


@dataclass
class Annotated:
    """What annotating one batch did."""

    batch: str
    recordings: int = 0
    failed: int = 0
    seconds: float = 0.0
    stages: list[str] = field(default_factory=list)


def fingerprints(stages: Sequence[Stage]) -> dict[str, str]:
    """Fingerprint of each stage, 'signal' first; a stage's covers those of the stages it reads."""
    found = {"signal": fingerprint({"stage": "signal", "version": SIGNAL_VERSION})}
    for stage in stages:
        found[stage.name] = stage.fingerprint(found)
    return found


def pending(lake: Lake, marks: Mapping[str, str]) -> Iterator[str]:
    """Batches that lack the annotations of some stage, in order, streamed."""
    for batch in lake.batches():
        if not all(lake.storage.exists(lake.annotation_key(stage, mark, batch)) for stage, mark in marks.items()):
            yield batch


class Annotator:
    """A worker's stages, set up once a process."""

    def __init__(self, lake: Lake, stages: Sequence[Stage]) -> None:
        self.lake = lake
        self.stages = stages
        self.marks = fingerprints(stages)
        for stage in stages:
            stage.setup()

    def annotate(self, batch: str, progress: Progress = lambda recording_id, seconds, failed: None) -> Annotated:
        """Commit what `batch` lacks, one file a stage. Done stages are read back, not run again."""
        lake, result = self.lake, Annotated(batch)
        keys = {name: lake.annotation_key(name, mark, batch) for name, mark in self.marks.items()}
        done = {
            name: {row["recording_id"]: row for row in lake.read(key).to_pylist()}
            for name, key in keys.items()
            if lake.storage.exists(key)
        }
        rows: dict[str, list[Row]] = {name: [] for name in keys if name not in done}
        result.stages = list(rows)
        if not rows:
            return result
        recordings = [row for row in lake.read(lake.recordings_key(batch)).to_pylist() if row["status"] == "ok"]
        for recording, decoded in _decoded(recordings):
            known = {name: table[recording["recording_id"]] for name, table in done.items()}
            seconds, failed = self._annotate_one(recording["recording_id"], decoded, known, rows)
            result.recordings += 1
            result.seconds += seconds
            result.failed += failed
            progress(recording["recording_id"], seconds, failed)
        for name, made in rows.items():
            lake.write(keys[name], schemas.table(made, schemas.STAGES[name]))
        return result

    def _annotate_one(
        self, recording_id: str, decoded: Future[DecodedSound], known: dict[str, Row], rows: dict[str, list[Row]]
    ) -> tuple[float, bool]:
        """Add a row to every table of `rows`; returns the seconds of sound and whether anything failed."""
        error = decoded.exception()
        if error is not None:
            if not isinstance(error, Exception):
                raise error
            for name in rows:
                rows[name].append(failure(recording_id, error))
            return 0.0, True
        failed = False
        with decoded.result() as sound:
            signal = {"recording_id": recording_id, "status": "ok", **sound.signal}
            known["signal"] = signal
            if "signal" in rows:
                rows["signal"].append(signal)
            for stage in self.stages:
                if stage.name in known:
                    continue
                row = self._run(stage, sound, known)
                known[stage.name] = row
                rows[stage.name].append(row)
                failed |= row["status"] != "ok"
        return float(signal["duration_s"]), failed

    def _run(self, stage: Stage, sound: DecodedSound, known: Mapping[str, Row]) -> Row:
        broken = [name for name in stage.needs if known[name]["status"] != "ok"]
        if broken:
            what = SpeechmillError(
                f"{stage.name} reads {', '.join(broken)}, which failed", "see the reason given there"
            )
            return failure(sound.recording_id, what)
        try:
            row = stage.annotate(sound, known)
        except Exception as error:  # whatever a model throws costs one recording, is counted there, and the run goes on
            return failure(sound.recording_id, error)
        return {"recording_id": sound.recording_id, "status": "ok", **row}


def failure(recording_id: str, error: Exception) -> Row:
    """The failed row of a recording: type, message and remedy."""
    remedy = error.remedy if isinstance(error, SpeechmillError) else "report it with this message and the recording"
    return {
        "recording_id": recording_id,
        "status": "failed",
        "error_type": type(error).__name__,
        "error": str(error),
        "remedy": remedy,
    }


def _decoded(recordings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Future[DecodedSound]]]:
    """Each recording with its sound, the next one decoding in a thread meanwhile: never more than two are held."""
    with ThreadPoolExecutor(1) as pool:
        jobs = [pool.submit(_decode, row) for row in recordings[:1]]
        for index, recording in enumerate(recordings):
            jobs += [pool.submit(_decode, row) for row in recordings[index + 1 : index + 2]]
            yield recording, jobs.pop(0)


def _decode(recording: Mapping[str, Any]) -> DecodedSound:
    """Decode under the first of its names that still holds the bytes."""
    *others, last = recording["uris"]
    for uri in others:
        try:
            return decode_sound(uri, recording["recording_id"], recording["size_bytes"])
        except SpeechmillError:
            continue  # the same bytes may still lie under another name; the last name's error is told
    return decode_sound(last, recording["recording_id"], recording["size_bytes"])
