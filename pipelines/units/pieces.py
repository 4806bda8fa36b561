"""Pieces: the chunks of long recordings, which several workers process and the worker that ends last joins.

The result of each chunk is stored as soon as it is there. The row of a recording does not depend on this: a stage that
works in chunks makes its row from the same results, whichever workers computed them.
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
from pipelines.audio.reach import find_unreachable, first_readable
from pipelines.audio.sound import RATE, DecodedSound, decode_span, num_samples_of
from pipelines.progress.usage import Meter
from pipelines.progress.watch import UnitResult
from pipelines.stages.base import Row, Span, Stage
from pipelines.units.attempts import Attempt, Attempts
from pipelines.units.pending import (
    Progress,
    Retry,
    SkippedError,
    UncommittedError,
    batches_to_retry,
    failed_needs_error,
    has_long_recording,
    pending_batches,
)
from pipelines.units.shares import readable_recordings
from runtime.failures import Kind, failed_row, kind_of, to_failure


@dataclass(frozen=True)
class Piece:
    """A unit: piece `number` (from 0) of the `total` equal parts into which the chunks of a batch are divided."""

    batch: str
    number: int
    total: int

    @property
    def name(self) -> str:
        return f"{self.batch}-piece-{self.number}"


@dataclass(frozen=True)
class PendingPieces:
    """Iterates over the pieces of one stage for all batches that lack the stage and hold a long recording.

    With `retry`, it also yields one piece for each such batch that holds a failed row to be made again. It can be
    pickled, and lists batches one by one.
    """

    lake: Lake
    fingerprints: Mapping[str, str]
    """The fingerprint of each stage."""
    stage: str
    needs: tuple[str, ...]
    """The stages that it reads."""
    piece_s: float
    """Recordings that are longer than this, by their headers, are processed in pieces."""
    retry: Retry | None = None

    def batches(self) -> Iterator[str]:
        """Yield the names of these batches, in order, except those that lack a stage which this one reads."""
        fingerprint = {self.stage: self.fingerprints[self.stage]}
        again = batches_to_retry(self.lake, fingerprint, self.retry) if self.retry else iter(())
        for batch, _ in itertools.groupby(heapq.merge(pending_batches(self.lake, fingerprint), again)):
            recordings = self.lake.read(self.lake.recordings_key(batch), ["status", "claimed_duration_s"])
            readable = readable_recordings(recordings).to_pylist()
            is_ready = all(self._is_annotated(name, batch) for name in ("signal", *self.needs))
            if has_long_recording(readable, self.piece_s) and is_ready:
                yield batch

    def __iter__(self) -> Iterator[Piece]:
        for batch in self.batches():
            total = 1 if self._is_annotated(self.stage, batch) else self._count_pieces(batch)
            yield from (Piece(batch, number, total) for number in range(total))

    def _is_annotated(self, stage: str, batch: str) -> bool:
        return self.lake.storage.exists(self.lake.annotation_key(stage, self.fingerprints[stage], batch))

    def _count_pieces(self, batch: str) -> int:
        """Count the pieces of a batch by its longest decoded recording, since what a header claims may be wrong."""
        key = self.lake.annotation_key("signal", self.fingerprints["signal"], batch)
        signal = self.lake.read(key, ["duration_s"])
        return max(1, math.ceil((pc.max(signal["duration_s"]).as_py() or 0.0) / self.piece_s))


@dataclass
class RecordingOutline:
    """The `Outline` of a recording that was decoded before, from its signal row."""

    recording_id: str
    num_samples: int
    tracks: int
    sample_rate: int = RATE


@dataclass
class _Recording:
    """A recording of a batch, with the chunks to process, or with its row if it needs no processing."""

    row: Mapping[str, Any]
    """Its row of RECORDINGS."""
    known: dict[str, Row]
    """Its rows of the stages that this stage reads."""
    final_row: Row | None = None
    """Its row of this stage, if it is there already or if a stage that this stage reads has failed."""
    outline: RecordingOutline | None = None
    chunks: list[Span] = field(default_factory=list)

    @property
    def recording_id(self) -> str:
        return str(self.row["recording_id"])


class PieceWorker:
    """A worker that processes the pieces of one stage."""

    def __init__(
        self,
        lake: Lake,
        stage: Stage,
        fingerprints: Mapping[str, str],
        attempts: Attempts | None = None,
        decode: DecodeConfig = DECODE,
        unreachable: str = "stop",
        retry: Retry | None = None,
    ) -> None:
        """
        Args:
            lake: The lake.
            stage: A piecewise stage whose `setup` was called.
            fingerprints: The fingerprint of each stage.
            attempts: The marks of the run.
            decode: How recordings are decoded.
            unreachable: The recipe's `unreachable`, "stop" or "fail".
            retry: Which failed rows are made again.
        """
        assert stage.piecewise
        self.lake, self.stage, self.fingerprints, self.decode = lake, stage, fingerprints, decode
        self.unreachable, self.retry = unreachable, retry
        self.attempts = attempts or Attempts(lake.storage)

    def process(self, piece: Piece, progress: Progress = lambda recording_id, seconds, failed: None) -> UnitResult:
        """Process the chunks of the piece that are missing, and commit the batch if this was its last missing piece.

        Returns:
            The result of the piece. If the bytes of a recording are unreachable, the piece is left uncommitted and
            the result says so, unless the recipe counts such recordings as failed.
        """
        result = UnitResult(piece.name)
        committed = self._committed_rows(piece.batch)
        if committed is not None and self.retry is None:
            return result
        recordings = list(self._recordings(piece.batch, committed or {}))
        if committed is not None and all(
            recording.final_row is committed.get(recording.recording_id) for recording in recordings
        ):
            return result
        numbered = [(recording, number) for recording in recordings for number in range(len(recording.chunks))]
        first, last = (len(numbered) * edge // piece.total for edge in (piece.number, piece.number + 1))
        chunks = numbered[first:last]
        if self.unreachable == "stop":
            missing = {item.recording_id: item.row for item, number in chunks if not self._results(item).has(number)}
            if unreachable := find_unreachable(missing.values(), self.lake, self.stage.name):
                return UnitResult(piece.name, unreachable=unreachable, uncommitted=1)
        meter = Meter(self.stage.name)
        try:
            with self.attempts.begin(piece.name) as attempt:
                for recording_id, group in itertools.groupby(chunks, key=lambda pair: pair[0].recording_id):
                    pairs = list(group)
                    numbers = [number for _, number in pairs]
                    for seconds in self._process_chunks(pairs[0][0], numbers, attempt, meter):
                        result.seconds += seconds
                        progress(recording_id, seconds, False)
                self._join(piece.batch, recordings, result)
                result.spent = meter.end()
        except UncommittedError as error:
            return UnitResult(piece.name, unreachable=[error.failure], uncommitted=1)
        return result

    def _committed_rows(self, batch: str) -> dict[str, Row] | None:
        """Return the committed rows of the batch, by recording; None if the batch is not committed."""
        try:
            rows = self.lake.read(self._key(batch)).to_pylist()
        except FileNotFoundError:
            return None
        return {row["recording_id"]: row for row in rows}

    def _recordings(self, batch: str, committed: Mapping[str, Row]) -> Iterator[_Recording]:
        tables = {
            name: {row["recording_id"]: row for row in self.lake.read(self._key(batch, name)).to_pylist()}
            for name in {"signal", *self.stage.needs}
        }
        for row in self.lake.read(self.lake.recordings_key(batch)).to_pylist():
            if row["status"] != "ok":
                continue
            known = {name: table[row["recording_id"]] for name, table in tables.items()}
            signal = known["signal"]
            committed_row = committed.get(row["recording_id"])
            if committed_row and not self._is_retried(committed_row):
                yield _Recording(row, known, committed_row)
            elif signal["status"] != "ok":
                yield _Recording(row, known, {name: signal[name] for name in schemas.BASE_NAMES})
            elif error := failed_needs_error(self.stage, known):
                yield _Recording(row, known, failed_row(row["recording_id"], error))
            else:
                outline = RecordingOutline(row["recording_id"], num_samples_of(signal), signal["tracks"])
                yield _Recording(row, known, None, outline, self.stage.chunks(outline, known))

    def _is_retried(self, row: Row) -> bool:
        """Return whether a committed row is made again."""
        skipped = row["error_type"] == SkippedError.__name__
        return self.retry is not None and row["status"] != "ok" and (skipped or self.retry.selects(row))

    def _process_chunks(
        self, recording: _Recording, numbers: Sequence[int], attempt: Attempt, meter: Meter
    ) -> Iterator[float]:
        """Store the results of these chunks of a recording, and yield the seconds of each chunk when it is done."""
        results = self._results(recording)
        missing = []
        for number in numbers:
            if results.has(number):
                yield _duration_s(recording.chunks[number])
            else:
                missing.append(number)
        if not missing:
            return
        edges = [recording.chunks[missing[0]][0], recording.chunks[missing[-1]][1]]
        start, stop = (round(edge * RATE) for edge in edges)
        signal = recording.known["signal"]
        try:
            attempt.begin_recording(f"{recording.recording_id}-{missing[0]}")

            def decode(uri: str) -> DecodedSound:
                size_bytes, sha256, config = recording.row["size_bytes"], recording.row["sha256"], self.lake.config
                return decode_span(uri, size_bytes, signal, start, stop, config, sha256, self.decode)

            with first_readable(recording.row, decode, self.lake.config) as sound:
                for number in missing:
                    attempt.begin_recording(f"{recording.recording_id}-{number}")
                    with meter.part(self.stage.name, self.stage.resources.gpus):
                        chunk_result = self.stage.annotate_chunk(sound, recording.known, recording.chunks[number])
                    results.put(number, chunk_result)
                    meter.observe(_duration_s(recording.chunks[number]))
                    yield _duration_s(recording.chunks[number])
        except Exception as error:  # whatever a model raises costs one recording, as in `Annotator`
            kind = kind_of(error)
            if kind is Kind.RUN:
                raise
            row = failed_row(recording.recording_id, error)
            if kind is Kind.UNREACHABLE and self.unreachable == "stop":
                raise UncommittedError(to_failure(row, self.stage.name)) from error
            results.put_failure(row)

    def _join(self, batch: str, recordings: Sequence[_Recording], result: UnitResult) -> None:
        """Commit the batch, count its recordings and delete the results of its chunks, if all of them are there."""
        try:
            rows = [self._row(recording) for recording in recordings]
        except FileNotFoundError:  # another piece is not done, or another worker has just joined the batch
            return
        self.lake.write(self._key(batch), schemas.table(rows, self.stage.schema))
        for recording, row in zip(recordings, rows, strict=True):
            self._results(recording).clear()
            if not recording.final_row:  # the others were counted before
                result.recordings += 1
                if row["status"] != "ok":
                    result.failures.append(to_failure(row, self.stage.name))

    def _row(self, recording: _Recording) -> Row:
        if recording.final_row:
            return recording.final_row
        assert recording.outline is not None
        results = self._results(recording)
        if failure := results.failure():
            return failure
        chunk_results = [results.get(number) for number in range(len(recording.chunks))]
        try:
            row = self.stage.join(recording.outline, recording.known, chunk_results)
        except Exception as error:  # as above
            if kind_of(error) is Kind.RUN:
                raise
            return failed_row(recording.recording_id, error)
        return {"recording_id": recording.recording_id, "status": "ok", **row}

    def _key(self, batch: str, stage: str | None = None) -> str:
        name = stage or self.stage.name
        return self.lake.annotation_key(name, self.fingerprints[name], batch)

    def _results(self, recording: _Recording) -> ChunkResults:
        stage = f"{self.stage.name}-{self.fingerprints[self.stage.name]}"
        return ChunkResults(self.lake.storage, f"runs/pieces/{stage}/{recording.recording_id}")


def _duration_s(chunk: Span) -> float:
    return chunk[1] - chunk[0]


@dataclass(frozen=True)
class ChunkResults:
    """The results of the chunks of one recording so far, in small JSON files that outlive the death of a worker."""

    storage: Storage
    prefix: str

    def has(self, number: int) -> bool:
        """Return whether the result of a chunk is there."""
        return self.storage.exists(self._key(number))

    def get(self, number: int) -> Row:
        """Read the result of a chunk."""
        result: Row = json.loads(self.storage.read(self._key(number)))
        return result

    def put(self, number: int, result: Row) -> None:
        """Store the JSON-serialisable result of a chunk."""
        # Floats are read back with the same bits, because JSON gets enough digits to tell each from its neighbours.
        self.storage.put(self._key(number), json.dumps(result).encode())

    def put_failure(self, row: Row) -> None:
        """Store the failed row of the recording."""
        self.storage.put(f"{self.prefix}/failed.json", json.dumps(row).encode())

    def failure(self) -> Row | None:
        """Return the failed row of the recording, if there is one."""
        key = f"{self.prefix}/failed.json"
        row: Row | None = json.loads(self.storage.read(key)) if self.storage.exists(key) else None
        return row

    def clear(self) -> None:
        """Delete the results of all chunks."""
        for key in list(self.storage.list(self.prefix)):
            self.storage.delete(key)

    def _key(self, number: int) -> str:
        return f"{self.prefix}/{number:06d}.json"
