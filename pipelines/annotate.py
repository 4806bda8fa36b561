"""Annotate: one decode a recording for all stages that a batch still lacks; one row a recording and stage.

Runs in a worker: only batch names come in and only counts leave.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow.compute as pc

from manifests import schemas
from manifests.fingerprint import fingerprint
from manifests.lake import Lake
from manifests.storage import StorageConfig
from pipelines.attempts import Attempt, Attempts
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.sound import DecodedSound, decode_sound
from pipelines.errors import SpeechmillError
from pipelines.failures import Kind, failed_row, kind_of, to_failure
from pipelines.stages.base import Row, Stage
from pipelines.stages.batches import together
from pipelines.watch import Done, Failure

SIGNAL_VERSION = 3
Progress = Callable[[str, float, bool], None]


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
    ) -> None:
        """What longer recordings than `piece_s` need of stages that work in pieces is left to `pipelines.pieces`."""
        self.lake = lake
        self.stages = stages
        self.piece_s = piece_s
        self.decode = decode
        self.attempts = attempts or Attempts(lake.storage)
        self.marks = fingerprints([*earlier, *stages], decode)
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
        at_once = max((stage.at_once for stage in self.stages), default=1)
        with self.attempts.begin(batch, at_once=at_once) as attempt:
            at_once = 1 if attempt.careful else at_once
            decoded = _decoded(recordings, lake.config, self.decode, attempt)
            while some := list(itertools.islice(decoded, at_once)):
                for recording_id, found in self._annotate_some(some, done, list(rows)).items():
                    for name in rows:
                        rows[name].append(found.rows[name])
                    result.recordings += 1
                    result.seconds += found.seconds
                    result.failures += found.failures
                    progress(recording_id, found.seconds, bool(found.failures))
            for name, made in rows.items():
                lake.write(keys[name], schemas.table(made, schemas.STAGES[name]))
        return result

    def _annotate_some(
        self,
        some: Sequence[tuple[Mapping[str, Any], Future[DecodedSound]]],
        done: Mapping[str, Mapping[str, Row]],
        missing: Sequence[str],
    ) -> dict[str, _Found]:
        """What is found of each recording, with a row of each stage in `missing`."""
        found: dict[str, _Found] = {}
        sounds: dict[str, DecodedSound] = {}
        with contextlib.ExitStack() as stack:
            for recording, decoded in some:
                recording_id, error = recording["recording_id"], decoded.exception()
                if error is None:
                    sound = sounds[recording_id] = stack.enter_context(decoded.result())
                    signal = {"recording_id": recording_id, "status": "ok", **sound.signal}
                    known = {name: table[recording_id] for name, table in done.items()} | {"signal": signal}
                    found[recording_id] = _Found(known, signal["duration_s"])
                elif not isinstance(error, Exception) or kind_of(error) is Kind.RUN:
                    raise error
                else:
                    row = failed_row(recording_id, error)
                    found[recording_id] = _Found(dict.fromkeys(missing, row), 0.0, [to_failure(row, "signal")])
            for stage in self.stages:
                if stage.name not in missing:
                    continue
                jobs = [partial(self._run, stage, sound, found[name].rows) for name, sound in sounds.items()]
                batches = [jobs[start : start + stage.at_once] for start in range(0, len(jobs), stage.at_once)]
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


def _decoded(
    recordings: Sequence[Mapping[str, Any]], config: StorageConfig, decode: DecodeConfig, attempt: Attempt
) -> Iterator[tuple[Mapping[str, Any], Future[DecodedSound]]]:
    """Each recording with its sound, the next one decoding in a thread meanwhile."""
    ahead = 0 if attempt.careful else 1
    with ThreadPoolExecutor(1) as pool:
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
    return first_readable(recording, lambda uri: decode_sound(uri, recording_id, size_bytes, config, sha256, decode))


def first_readable(recording: Mapping[str, Any], decode: Callable[[str], DecodedSound]) -> DecodedSound:
    """The sound under the first of its names that still holds it."""
    *others, last = recording["uris"]
    for uri in others:
        try:
            return decode(uri)
        except SpeechmillError:
            continue  # the same bytes may still lie under another name; the last name's error is told
    return decode(last)
