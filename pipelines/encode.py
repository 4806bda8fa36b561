"""Encode: kept windows to features in shards. The plan is a pure function of the selection; a shard is the commit."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import encoders
from manifests.fingerprint import canonical, fingerprint, pretty
from manifests.lake import Lake
from manifests.shards import ShardCommit, ShardFiles, ShardWriter
from manifests.tables import joined
from pipelines.attempts import Attempt, Attempts
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.reach import first_readable, unreachable_among
from pipelines.audio.sound import TrackStream
from pipelines.errors import ChangedAudioError, RecipeError, UnreachableAudioError
from pipelines.failures import Kind, failed_row, kind_of, to_failure
from pipelines.recipe import EncodeConfig
from pipelines.watch import Done

Progress = Callable[[str, float, bool], None]
Window = Mapping[str, Any]
"""A row of WINDOWS."""


@dataclass(frozen=True)
class Shard:
    """A unit of encoding: which recordings, in order, and the batch that holds each."""

    split: str
    number: int
    recordings: tuple[tuple[str, str], ...]
    seconds: float
    """Of sound in its windows."""
    again: bool = False
    """Whether it is to be made anew although it is committed."""

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}"

    @property
    def commit_key(self) -> str:
        return ShardFiles(self.split, self.number).commit


class Plan:
    """Shards of whole recordings in the order of their seeded hash, so that any prefix is a fair sample.

    A recording is never cut between shards; one larger than `shard_mb` has a shard to itself. Iterate it as often as
    needed: the order lies in a temporary file, so memory stays flat whatever the number of recordings.
    """

    def __init__(self, lake: Lake, selection: str, config: EncodeConfig) -> None:
        self._given = lake, selection, config
        encoder = encoders.load(config.encoder, config.settings)
        self._shard_seconds = config.shard_mb * 1e6 / (encoder.frame_rate * encoder.dim * 2)
        self._folder = tempfile.TemporaryDirectory(prefix="speechmill-plan-")
        self._connection = duckdb.connect(f"{self._folder.name}/plan.duckdb")
        self._connection.execute("SET threads = 1; SET memory_limit = '100MB'")
        self._connection.execute(
            "CREATE TABLE kept (split VARCHAR, place UBIGINT, recording_id VARCHAR, batch UINTEGER, seconds DOUBLE, "
            "size_s DOUBLE)"
        )
        columns = ["recording_id", "split", "kept", "duration_s", "tracks"]
        for table in joined(lake.read_each(lake.batches(), partial(lake.windows_key, selection), columns)):
            self._connection.register("cut", table)
            self._connection.execute(
                "INSERT INTO kept SELECT split, ('0x' || left(sha256(concat($seed, ':', recording_id)), 16))::UBIGINT, "
                "recording_id, batch[7:]::UINTEGER, sum(duration_s), sum(duration_s * tracks) "
                "FROM cut WHERE kept GROUP BY split, recording_id, batch",
                {"seed": str(config.seed)},
            )
        self._connection.execute("CREATE TABLE planned AS FROM kept ORDER BY split, place, recording_id")
        self._connection.execute("DROP TABLE kept")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what it was made from: it is planned again, to the same shards, where an engine iterates it."""
        return Plan, self._given

    def __iter__(self) -> Iterator[Shard]:
        rows = self._connection.cursor().execute("FROM planned")
        streamed = itertools.chain.from_iterable(iter(lambda: rows.fetchmany(10_000), []))
        for split, of_split in itertools.groupby(streamed, key=lambda row: row[0]):
            held: list[tuple[str, str]] = []
            held_s, seconds_held, number = 0.0, 0.0, 0
            for _, _, recording_id, batch, seconds, size_s in of_split:
                if held and held_s + size_s > self._shard_seconds:
                    yield Shard(split, number, tuple(held), seconds_held)
                    number, held, held_s, seconds_held = number + 1, [], 0.0, 0.0
                held.append((recording_id, f"batch-{batch:06d}"))
                held_s += size_s
                seconds_held += seconds
            yield Shard(split, number, tuple(held), seconds_held)


class ShardEncoder:
    """A worker that makes shards of one dataset."""

    def __init__(
        self,
        lake: Lake,
        dataset: str,
        selection: str,
        signal_mark: str,
        config: EncodeConfig,
        attempts: Attempts | None = None,
        decode: DecodeConfig = DECODE,
        unreachable: str = "stop",
    ) -> None:
        """`unreachable` is that of the recipe."""
        self.decode = decode
        self.attempts = attempts or Attempts(lake.storage)
        self.lake, self.selection, self.signal_mark = lake, selection, signal_mark
        self.unreachable = unreachable
        self.prefix = f"datasets/{dataset}"
        self.encoder = encoders.load(config.encoder, config.settings)
        self.fingerprints = {"encoder": f"{self.encoder.name}-{self.encoder.fingerprint}", "selection": selection}
        self.fingerprints["plan"] = fingerprint({"shard_mb": config.shard_mb, "seed": config.seed})

    def check_dataset(self, shards: Iterable[Shard]) -> None:
        """Refuse a dataset of this name that other settings or other recordings made. Raises RecipeError."""
        planned = hashlib.sha256()
        for shard in shards:
            planned.update(canonical([shard.split, shard.number, shard.recordings]).encode())
        text = pretty(self.fingerprints | {"shards": planned.hexdigest()[:12]})
        key = f"{self.prefix}/plan.json"
        if not self.lake.storage.put_if_absent(key, text.encode()) and self.lake.storage.read(key) != text.encode():
            raise RecipeError(
                f"{self.prefix} was made from other recordings or by another selection or encoder",
                "give the recipe another name, or delete that folder to make it again",
            )

    def encode(self, shard: Shard, progress: Progress = lambda recording_id, seconds, failed: None) -> Done:
        """Make and commit one shard; nothing is done where its commit record is already there, unless `shard.again`.

        A shard is committed whole or not at all. It is not committed where the bytes of a recording that was annotated
        cannot be had: the result then says so, and the same command makes that shard another time.
        """
        storage = self.lake.storage
        done = Done(shard.name)
        if storage.exists(f"{self.prefix}/{shard.commit_key}") and not shard.again:
            return done
        known = self._look_up(shard)
        if self.unreachable == "stop":  # known at once, and not after hours of encoding
            lost = unreachable_among((recording for _, recording in known.values()), self.lake, "encode")
            if lost:
                return Done(shard.name, unreachable=lost, uncommitted=1)
        folder = storage.scratch()
        try:
            with self.attempts.begin(shard.name) as attempt:
                writer = ShardWriter(folder, shard.split, shard.number, self.fingerprints)
                for recording_id, _ in shard.recordings:
                    windows, recording = known[recording_id]
                    try:
                        made_s, error = self._encode_recording(windows, recording, writer, attempt)
                    except (UnreachableAudioError, ChangedAudioError) as lost_error:
                        failure = to_failure(failed_row(recording_id, lost_error), "encode")
                        return Done(shard.name, unreachable=[failure], uncommitted=1)
                    if error:
                        done.failures.append(to_failure(failed_row(recording_id, error), "encode"))
                    done.recordings, done.seconds = done.recordings + 1, done.seconds + made_s
                    progress(recording_id, made_s, error is not None)
                self._commit(shard, writer.finish(), folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return done

    def _commit(self, shard: Shard, commit: ShardCommit, folder: Path) -> None:
        storage = self.lake.storage
        if shard.again:  # first, so that whatever is killed from here on, the shard is made another time
            storage.delete(f"{self.prefix}/{shard.commit_key}")
        for name in commit.files:
            storage.put_file(f"{self.prefix}/{name}", folder / name)
        storage.put_if_absent(f"{self.prefix}/{shard.commit_key}", commit.to_json().encode())

    def _look_up(self, shard: Shard) -> dict[str, tuple[list[Window], dict[str, Any]]]:
        """Kept windows, and RECORDINGS and SIGNAL columns, of each recording; the tables of a batch are read once."""
        by_batch: dict[str, list[str]] = defaultdict(list)
        for recording_id, batch in shard.recordings:
            by_batch[batch].append(recording_id)
        known: dict[str, tuple[list[Window], dict[str, Any]]] = {}
        for batch, ids in by_batch.items():
            wanted = pa.array(ids)

            def rows(key: str, wanted: pa.Array = wanted) -> list[dict[str, Any]]:
                table = self.lake.read(key)
                found: list[dict[str, Any]] = table.filter(pc.is_in(table["recording_id"], wanted)).to_pylist()
                return found

            signal = {
                row["recording_id"]: row for row in rows(self.lake.annotation_key("signal", self.signal_mark, batch))
            }
            for row in rows(self.lake.recordings_key(batch)):
                known[row["recording_id"]] = ([], row | signal[row["recording_id"]])
            for row in rows(self.lake.windows_key(self.selection, batch)):
                if row["kept"]:
                    known[row["recording_id"]][0].append(row)
        return known

    def _encode_recording(
        self, windows: Sequence[Window], recording: Mapping[str, Any], writer: ShardWriter, attempt: Attempt
    ) -> tuple[float, Exception | None]:
        """Encode the windows of a recording in order of time, or record why one could not be made.

        Returns the seconds of the windows that were made, and the first error. Raises UnreachableAudioError or
        ChangedAudioError, and takes all of its windows back, where the bytes that were annotated cannot be had, unless
        the recipe has them counted as failed; and whatever is no recording's fault.
        """
        try:
            attempt.at(recording["recording_id"])
            return first_readable(
                recording, lambda uri: self._encode_file(uri, windows, recording, writer), self.lake.config
            )
        except Exception as error:
            lost = isinstance(error, UnreachableAudioError | ChangedAudioError)
            if kind_of(error) is Kind.RUN or (lost and self.unreachable == "stop"):
                raise
            with writer.recording():
                _fail(writer, windows, error)
            return 0.0, error

    def _encode_file(
        self, uri: str, windows: Sequence[Window], recording: Mapping[str, Any], writer: ShardWriter
    ) -> tuple[float, Exception | None]:
        """As `_encode_recording`, under one of its names; ChangedAudioError unless its bytes are those annotated."""
        made_s, errors = 0.0, list[Exception]()
        rate = self.encoder.frame_rate
        with (
            writer.recording(),
            closing(TrackStream(uri, self.encoder.sample_rate, recording, self.lake.config, self.decode)) as stream,
            closing(self._windows_of(iter(stream), windows)) as sounds,
        ):
            for number, window in enumerate(windows):
                try:
                    sound = next(sounds)
                except Exception as error:  # decoding goes no further: no later window can be made
                    if kind_of(error) is not Kind.RECORDING:
                        raise
                    errors.append(error)
                    _fail(writer, windows[number:], error)
                    break
                try:
                    (features,) = self.encoder.encode([sound])
                    writer.add(window, recording, features, 1 / rate)
                    made_s += window["duration_s"]
                except Exception as error:  # of this window alone
                    if kind_of(error) is not Kind.RECORDING:
                        raise
                    errors.append(error)
                    _fail(writer, [window], error)
            stream.prove(recording["sha256"])
        return made_s, errors[0] if errors else None

    def _windows_of(self, blocks: Iterator[np.ndarray], windows: Sequence[Window]) -> Generator[np.ndarray]:
        """float32 (tracks, context + N + context) of each window, with real sound around it, zeros past the ends."""
        encoder = self.encoder
        held = next(blocks)
        offset = 0  # of held's first sample in the recording
        for window in windows:
            start = round(window["start_s"] * encoder.sample_rate)
            count = round(window["duration_s"] * encoder.frame_rate) * encoder.hop_samples
            # The recipe was refused otherwise: `check_grid`.
            assert start % encoder.hop_samples == 0, f"window {window['window_id']} starts between two frames"
            first, last = start - encoder.context_samples, start + count + encoder.context_samples
            while offset + held.shape[1] < last and (block := next(blocks, None)) is not None:
                passed = min(max(0, first - offset), held.shape[1])
                held = np.concatenate([held[:, passed:], block], axis=1)
                offset += passed
            piece = held[:, max(0, first - offset) : last - offset]
            before = max(0, -first)
            yield np.pad(piece, ((0, 0), (before, last - first - before - piece.shape[1])))


def _fail(writer: ShardWriter, windows: Iterable[Window], error: Exception) -> None:
    for window in windows:
        writer.fail(window, f"{type(error).__name__}: {error}")
