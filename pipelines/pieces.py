"""Pieces: a long recording's chunks, heard by several workers, kept as they are heard, joined by whoever ends last.

The row does not depend on it: a stage that hears chunks makes it from the same parts wherever they were heard.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manifests import schemas
from manifests.lake import Lake
from manifests.storage import Storage
from pipelines.annotate import Progress, broken_needs, first_readable, pending, pieces
from pipelines.attempts import Attempt, Attempts
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.sound import RATE, DecodedSound, decode_span, num_samples_of
from pipelines.failures import failed_row, to_failure
from pipelines.stages.base import Row, Span, Stage
from pipelines.watch import Done


@dataclass(frozen=True)
class Piece:
    """A unit: an equal share of the chunks of a batch that holds a long recording."""

    batch: str
    number: int
    of: int

    @property
    def name(self) -> str:
        return f"{self.batch}-piece-{self.number}"


def pending_pieces(lake: Lake, marks: Mapping[str, str], piece_s: float) -> Iterator[Piece]:
    """Pieces of the batches that lack something and hold a long recording: few, whatever the size of the lake."""
    for batch in pending(lake, marks):
        of = pieces(lake.read(lake.recordings_key(batch), ["claimed_duration_s"]).to_pylist(), piece_s)
        if of > 1:
            yield from (Piece(batch, number, of) for number in range(of))


@dataclass
class Outlined:
    """The `Outline` of a recording that was decoded before, from its signal row."""

    recording_id: str
    num_samples: int
    tracks: int
    sample_rate: int = RATE


@dataclass
class _Recording:
    """What is known of a recording, and the chunks to hear; or the row of one of which an earlier stage failed."""

    row: Mapping[str, Any]
    known: dict[str, Row]
    broken: Row | None = None
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
    ) -> None:
        assert stage.piecewise
        self.lake, self.stage, self.marks, self.decode = lake, stage, marks, decode
        self.attempts = attempts or Attempts(lake.storage)

    def hear(self, piece: Piece, progress: Progress = lambda recording_id, seconds, failed: None) -> Done:
        """Hear what of the piece is not kept yet; commit the batch where with it all is there."""
        done = Done(piece.name)
        if self.lake.storage.exists(self._key(piece.batch)):
            return done
        recordings = list(self._recordings(piece.batch))
        numbered = [(item, number) for item in recordings for number in range(len(item.chunks))]
        first, last = (len(numbered) * at // piece.of for at in (piece.number, piece.number + 1))
        with self.attempts.begin(piece.name) as attempt:
            for _, share in itertools.groupby(numbered[first:last], key=lambda pair: pair[0].recording_id):
                taken = list(share)
                for seconds in self._hear(taken[0][0], [number for _, number in taken], attempt):
                    done.seconds += seconds
                    progress(taken[0][0].recording_id, seconds, False)
            self._join(piece.batch, recordings, done)
        return done

    def _recordings(self, batch: str) -> Iterator[_Recording]:
        tables = {
            name: {row["recording_id"]: row for row in self.lake.read(self._key(batch, name)).to_pylist()}
            for name in {"signal", *self.stage.needs}
        }
        for row in self.lake.read(self.lake.recordings_key(batch)).to_pylist():
            if row["status"] == "ok":
                known = {name: table[row["recording_id"]] for name, table in tables.items()}
                signal = known["signal"]
                if signal["status"] != "ok":
                    yield _Recording(row, known, {name: signal[name] for name in schemas.BASE_NAMES})
                elif error := broken_needs(self.stage, known):
                    yield _Recording(row, known, failed_row(row["recording_id"], error))
                else:
                    outline = Outlined(row["recording_id"], num_samples_of(signal), signal["tracks"])
                    yield _Recording(row, known, None, outline, self.stage.chunks(outline, known))

    def _hear(self, recording: _Recording, numbers: Sequence[int], attempt: Attempt) -> Iterator[float]:
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

            with first_readable(recording.row, decode) as sound:
                for number in todo:
                    attempt.at(f"{recording.recording_id}-{number}")
                    kept.put(number, self.stage.hear(sound, recording.chunks[number]))
                    yield _seconds(recording.chunks[number])
        except OSError:  # of the storage or a full disk: no fault of the recording
            raise
        except Exception as error:  # whatever a model throws costs one recording, as in `Annotator`
            kept.fail(failed_row(recording.recording_id, error))

    def _join(self, batch: str, recordings: Sequence[_Recording], done: Done) -> None:
        """Commit the batch, count its recordings and forget its chunks, if all are there."""
        try:
            rows = [self._row(recording) for recording in recordings]
        except FileNotFoundError:  # another piece is not done, or another worker has just joined them
            return
        self.lake.write(self._key(batch), schemas.table(rows, self.stage.schema))
        for recording, row in zip(recordings, rows, strict=True):
            self._kept(recording).clear()
            if not recording.broken:  # those were told by the stage that failed
                done.recordings += 1
                if row["status"] != "ok":
                    done.failures.append(to_failure(row, self.stage.name))

    def _row(self, recording: _Recording) -> Row:
        if recording.broken:
            return recording.broken
        assert recording.outline is not None
        kept = self._kept(recording)
        if failed := kept.failed():
            return failed
        heard = [kept.get(number) for number in range(len(recording.chunks))]
        try:
            row = self.stage.join(recording.outline, recording.known, heard)
        except Exception as error:  # as above
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
