"""Pieces: a long recording's chunks, heard by several workers, kept as they are heard, joined by whoever ends last.

The row does not depend on it: a stage that hears chunks makes it from the same parts wherever they were heard.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from manifests import schemas
from manifests.lake import Lake
from manifests.storage import Storage
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.reach import first_readable, unreachable_among
from pipelines.audio.sound import RATE, DecodedSound, decode_span, num_samples_of
from pipelines.progress.usage import Meter
from pipelines.progress.watch import Done
from pipelines.stages.base import Row, Span, Stage
from pipelines.units.attempts import Attempt, Attempts
from pipelines.units.pending import (
    Progress,
    Retry,
    SkippedError,
    UncommittedError,
    broken_needs,
    failed,
    holds_long,
    pending,
)
from runtime.failures import Kind, failed_row, kind_of, to_failure


@dataclass(frozen=True)
class Piece:
    """A unit: an equal share of the chunks of a batch that holds a long recording."""

    batch: str
    number: int
    of: int

    @property
    def name(self) -> str:
        return f"{self.batch}-piece-{self.number}"


@dataclass(frozen=True)
class PendingPieces:
    """Pieces of one stage for the batches that lack it and hold a long recording; picklable, and listed one by one.

    With `retry`, also one piece for each such batch that holds a failed row to be made anew.
    """

    lake: Lake
    marks: Mapping[str, str]
    stage: str
    needs: tuple[str, ...]
    piece_s: float
    retry: Retry | None = None

    def batches(self) -> Iterator[str]:
        """Names of these batches, in order. One that lacks what the stage reads is not among them."""
        of_stage = {self.stage: self.marks[self.stage]}
        again = failed(self.lake, of_stage, self.retry) if self.retry else iter(())
        for batch, _ in itertools.groupby(heapq.merge(pending(self.lake, of_stage), again)):
            recordings = self.lake.read(self.lake.recordings_key(batch), ["status", "claimed_duration_s"])
            read = recordings.filter(pc.equal(recordings["status"], "ok")).to_pylist()
            if holds_long(read, self.piece_s) and all(self._has(name, batch) for name in ("signal", *self.needs)):
                yield batch

    def __iter__(self) -> Iterator[Piece]:
        for batch in self.batches():
            of = 1 if self._has(self.stage, batch) else self._count(batch)
            yield from (Piece(batch, number, of) for number in range(of))

    def _has(self, stage: str, batch: str) -> bool:
        return self.lake.storage.exists(self.lake.annotation_key(stage, self.marks[stage], batch))

    def _count(self, batch: str) -> int:
        """Pieces of a batch by the longest recording that was decoded: what a header claims may be anything."""
        signal = self.lake.read(self.lake.annotation_key("signal", self.marks["signal"], batch), ["duration_s"])
        return max(1, math.ceil((pc.max(signal["duration_s"]).as_py() or 0.0) / self.piece_s))


@dataclass
class Outlined:
    """The `Outline` of a recording that was decoded before, from its signal row."""

    recording_id: str
    num_samples: int
    tracks: int
    sample_rate: int = RATE


@dataclass
class _Recording:
    """What is known of a recording, and the chunks to hear; or its row, where there are none to hear."""

    row: Mapping[str, Any]
    known: dict[str, Row]
    settled: Row | None = None
    """Its row, where it is there already, or where an earlier stage failed."""
    outline: Outlined | None = None
    chunks: list[Span] = field(default_factory=list)

    @property
    def recording_id(self) -> str:
        return str(self.row["recording_id"])


class PieceWorker:
    """A worker for pieces of one stage, set up already."""

    def __init__(
        self,
        lake: Lake,
        stage: Stage,
        marks: Mapping[str, str],
        attempts: Attempts | None = None,
        decode: DecodeConfig = DECODE,
        unreachable: str = "stop",
        retry: Retry | None = None,
    ) -> None:
        """`unreachable` is that of the recipe. With `retry`, failed rows are made anew."""
        assert stage.piecewise
        self.lake, self.stage, self.marks, self.decode = lake, stage, marks, decode
        self.unreachable, self.retry = unreachable, retry
        self.attempts = attempts or Attempts(lake.storage)

    def hear(self, piece: Piece, progress: Progress = lambda recording_id, seconds, failed: None) -> Done:
        """Process the chunks of the piece that are missing; commit the batch if this was its last missing piece.

        Where the bytes of a recording cannot be had, the result says so, and the same command hears the piece another
        time, unless the recipe has such recordings counted as failed.
        """
        done = Done(piece.name)
        made = self._made(piece.batch)
        if made is not None and self.retry is None:
            return done
        recordings = list(self._recordings(piece.batch, made or {}))
        if made is not None and all(recording.settled is made.get(recording.recording_id) for recording in recordings):
            return done
        numbered = [(item, number) for item in recordings for number in range(len(item.chunks))]
        first, last = (len(numbered) * at // piece.of for at in (piece.number, piece.number + 1))
        share = numbered[first:last]
        if self.unreachable == "stop":
            rows = {item.recording_id: item.row for item, number in share if not self._kept(item).has(number)}
            if lost := unreachable_among(rows.values(), self.lake, self.stage.name):
                return Done(piece.name, unreachable=lost, uncommitted=1)
        meter = Meter(self.stage.name)
        try:
            with self.attempts.begin(piece.name) as attempt:
                for _, of_recording in itertools.groupby(share, key=lambda pair: pair[0].recording_id):
                    taken = list(of_recording)
                    for seconds in self._hear(taken[0][0], [number for _, number in taken], attempt, meter):
                        done.seconds += seconds
                        progress(taken[0][0].recording_id, seconds, False)
                self._join(piece.batch, recordings, done)
                done.spent = meter.end()
        except UncommittedError as error:
            return Done(piece.name, unreachable=[error.failure], uncommitted=1)
        return done

    def _made(self, batch: str) -> dict[str, Row] | None:
        """The rows of the batch that are there, but for those to be made anew; None where there are none."""
        try:
            rows = self.lake.read(self._key(batch)).to_pylist()
        except FileNotFoundError:
            return None
        return {row["recording_id"]: row for row in rows}

    def _recordings(self, batch: str, made: Mapping[str, Row]) -> Iterator[_Recording]:
        tables = {
            name: {row["recording_id"]: row for row in self.lake.read(self._key(batch, name)).to_pylist()}
            for name in {"signal", *self.stage.needs}
        }
        for row in self.lake.read(self.lake.recordings_key(batch)).to_pylist():
            if row["status"] == "ok":
                known = {name: table[row["recording_id"]] for name, table in tables.items()}
                signal = known["signal"]
                row_made = made.get(row["recording_id"])
                if row_made and not self._again(row_made):
                    yield _Recording(row, known, row_made)
                elif signal["status"] != "ok":
                    yield _Recording(row, known, {name: signal[name] for name in schemas.BASE_NAMES})
                elif error := broken_needs(self.stage, known):
                    yield _Recording(row, known, failed_row(row["recording_id"], error))
                else:
                    outline = Outlined(row["recording_id"], num_samples_of(signal), signal["tracks"])
                    yield _Recording(row, known, None, outline, self.stage.chunks(outline, known))

    def _again(self, row: Row) -> bool:
        """Whether a row that is there is made anew."""
        skipped = row["error_type"] == SkippedError.__name__
        return self.retry is not None and row["status"] != "ok" and (skipped or self.retry.wants(row))

    def _hear(self, recording: _Recording, numbers: Sequence[int], attempt: Attempt, meter: Meter) -> Iterator[float]:
        """Keep what is heard in these chunks; yields the seconds of each as it is there."""
        kept = self._kept(recording)
        todo = []
        for number in numbers:
            if kept.has(number):
                yield _seconds(recording.chunks[number])
            else:
                todo.append(number)
        if not todo:
            return
        edges = [recording.chunks[todo[0]][0], recording.chunks[todo[-1]][1]]
        start, stop = (round(edge * RATE) for edge in edges)
        signal = recording.known["signal"]
        try:
            attempt.at(f"{recording.recording_id}-{todo[0]}")

            def decode(uri: str) -> DecodedSound:
                size_bytes, sha256, config = recording.row["size_bytes"], recording.row["sha256"], self.lake.config
                return decode_span(uri, size_bytes, signal, start, stop, config, sha256, self.decode)

            with first_readable(recording.row, decode, self.lake.config) as sound:
                for number in todo:
                    attempt.at(f"{recording.recording_id}-{number}")
                    with meter.part(self.stage.name, self.stage.resources.gpus):
                        heard = self.stage.hear(sound, recording.chunks[number])
                    kept.put(number, heard)
                    meter.observe(_seconds(recording.chunks[number]))
                    yield _seconds(recording.chunks[number])
        except Exception as error:  # whatever a model throws costs one recording, as in `Annotator`
            kind = kind_of(error)
            if kind is Kind.RUN:
                raise
            row = failed_row(recording.recording_id, error)
            if kind is Kind.UNREACHABLE and self.unreachable == "stop":
                raise UncommittedError(to_failure(row, self.stage.name)) from error
            kept.fail(row)

    def _join(self, batch: str, recordings: Sequence[_Recording], done: Done) -> None:
        """Commit the batch, count its recordings and forget its chunks, if all are there."""
        try:
            rows = [self._row(recording) for recording in recordings]
        except FileNotFoundError:  # another piece is not done, or another worker has just joined them
            return
        self.lake.write(self._key(batch), schemas.table(rows, self.stage.schema))
        for recording, row in zip(recordings, rows, strict=True):
            self._kept(recording).clear()
            if not recording.settled:  # those were told before
                done.recordings += 1
                if row["status"] != "ok":
                    done.failures.append(to_failure(row, self.stage.name))

    def _row(self, recording: _Recording) -> Row:
        if recording.settled:
            return recording.settled
        assert recording.outline is not None
        kept = self._kept(recording)
        if failed := kept.failed():
            return failed
        heard = [kept.get(number) for number in range(len(recording.chunks))]
        try:
            row = self.stage.join(recording.outline, recording.known, heard)
        except Exception as error:  # as above
            if kind_of(error) is Kind.RUN:
                raise
            return failed_row(recording.recording_id, error)
        return {"recording_id": recording.recording_id, "status": "ok", **row}

    def _key(self, batch: str, stage: str | None = None) -> str:
        name = stage or self.stage.name
        return self.lake.annotation_key(name, self.marks[name], batch)

    def _kept(self, recording: _Recording) -> Kept:
        stage = f"{self.stage.name}-{self.marks[self.stage.name]}"
        return Kept(self.lake.storage, f"runs/pieces/{stage}/{recording.recording_id}")


def _seconds(chunk: Span) -> float:
    return chunk[1] - chunk[0]


@dataclass(frozen=True)
class Kept:
    """What was heard in the chunks of a recording so far: small files that a worker's death leaves behind."""

    storage: Storage
    prefix: str

    def has(self, number: int) -> bool:
        return self.storage.exists(self._key(number))

    def get(self, number: int) -> Row:
        heard: Row = json.loads(self.storage.read(self._key(number)))
        return heard

    def put(self, number: int, heard: Row) -> None:
        # Floats come back with the same bits: JSON holds what tells each from its neighbours.
        self.storage.put(self._key(number), json.dumps(heard).encode())

    def fail(self, row: Row) -> None:
        self.storage.put(f"{self.prefix}/failed.json", json.dumps(row).encode())

    def failed(self) -> Row | None:
        key = f"{self.prefix}/failed.json"
        row: Row | None = json.loads(self.storage.read(key)) if self.storage.exists(key) else None
        return row

    def clear(self) -> None:
        for key in list(self.storage.list(self.prefix)):
            self.storage.delete(key)

    def _key(self, number: int) -> str:
        return f"{self.prefix}/{number:06d}.json"
