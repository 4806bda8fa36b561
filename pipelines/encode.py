"""Encode: kept windows to features in shards. The plan is a pure function of the selection; a shard is the commit."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import encoders
from manifests import schemas
from manifests.fingerprint import canonical, fingerprint, pretty
from manifests.lake import Lake
from manifests.shards import ShardWriter
from manifests.tables import joined
from pipelines.attempts import Attempt, Attempts
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.sound import TrackStream, present
from pipelines.errors import RecipeError, SpeechmillError
from pipelines.failures import failed_row, to_failure
from pipelines.recipe import EncodeConfig
from pipelines.watch import Done

Progress = Callable[[str, float, bool], None]


@dataclass(frozen=True)
class Shard:
    """A unit of encoding: which recordings, in order, and the batch that holds each."""

    split: str
    number: int
    recordings: tuple[tuple[str, str], ...]
    seconds: float
    """Of sound in its windows."""

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}"

    @property
    def commit_key(self) -> str:
        return f"commits/{self.split}/{self.number:06d}.json"


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
    ) -> None:
        self.decode = decode
        self.attempts = attempts or Attempts(lake.storage)
        self.lake, self.selection, self.signal_mark = lake, selection, signal_mark
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
        """Make and commit one shard; nothing is done where its commit record is already there."""
        storage = self.lake.storage
        done = Done(shard.name)
        if storage.exists(f"{self.prefix}/{shard.commit_key}"):
            return done
        folder = storage.scratch()
        try:
            with self.attempts.begin(shard.name) as attempt:
                self._make(
                    shard, ShardWriter(folder, shard.split, shard.number, self.fingerprints), attempt, done, progress
                )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return done

    def _make(self, shard: Shard, writer: ShardWriter, attempt: Attempt, done: Done, progress: Progress) -> None:
        storage = self.lake.storage
        rows: list[dict[str, Any]] = []
        known = self._look_up(shard)
        for recording_id, _ in shard.recordings:
            windows, recording = known[recording_id]
            made, error = self._encode_recording(windows, recording, writer, attempt)
            rows += [self._row(window, shard, error if index >= made else None) for index, window in enumerate(windows)]
            writer.failed += len(windows) - made
            if error:
                done.failures.append(to_failure(failed_row(recording_id, error), "encode"))
            seconds = sum(window["duration_s"] for window in windows[:made])
            done.recordings, done.seconds = done.recordings + 1, done.seconds + seconds
            progress(recording_id, seconds, error is not None)
        commit = writer.finish()
        for path in (writer.tar_path, writer.cuts_path):
            storage.put_file(f"{self.prefix}/{shard.split}/{path.name}", path)
        windows_key = f"{self.prefix}/windows/{shard.name}.parquet"
        self.lake.write(windows_key, schemas.table(rows, schemas.SHARD_WINDOWS))
        storage.put_if_absent(f"{self.prefix}/{shard.commit_key}", commit.to_json().encode())

    def _look_up(self, shard: Shard) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
        """Kept windows, and RECORDINGS and SIGNAL columns, of each recording; the tables of a batch are read once."""
        by_batch: dict[str, list[str]] = defaultdict(list)
        for recording_id, batch in shard.recordings:
            by_batch[batch].append(recording_id)
        known: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {}
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
        self, windows: list[dict[str, Any]], recording: Mapping[str, Any], writer: ShardWriter, attempt: Attempt
    ) -> tuple[int, Exception | None]:
        """Encode the windows in order of time; returns how many were made, and why it went no further."""
        made, config = 0, self.lake.config
        try:
            attempt.at(recording["recording_id"])
            uri = present(recording, config)
            with closing(TrackStream(uri, self.encoder.sample_rate, recording, config, self.decode)) as stream:
                for window, sound in zip(windows, self._windows_of(iter(stream), windows), strict=True):
                    (features,) = self.encoder.encode([sound])
                    writer.add(window, recording, features, 1 / self.encoder.frame_rate)
                    made += 1
        except (SpeechmillError, ValueError) as error:  # told in the row of every window that was not made
            return made, error
        return made, None

    def _windows_of(self, blocks: Iterator[np.ndarray], windows: list[dict[str, Any]]) -> Iterator[np.ndarray]:
        """float32 (tracks, context + N + context) of each window, with real sound around it, zeros past the ends."""
        encoder = self.encoder
        held = next(blocks)
        offset = 0  # of held's first sample in the recording
        for window in windows:
            start = round(window["start_s"] * encoder.sample_rate)
            count = round(window["duration_s"] * encoder.frame_rate) * encoder.hop_samples
            if start % encoder.hop_samples:
                what = f"window {window['window_id']} starts between two frames of {encoder.name}"
                raise RecipeError(what, f"make select.grid_s a multiple of {1 / encoder.frame_rate} s")
            first, last = start - encoder.context_samples, start + count + encoder.context_samples
            while offset + held.shape[1] < last and (block := next(blocks, None)) is not None:
                passed = min(max(0, first - offset), held.shape[1])
                held = np.concatenate([held[:, passed:], block], axis=1)
                offset += passed
            piece = held[:, max(0, first - offset) : last - offset]
            before = max(0, -first)
            yield np.pad(piece, ((0, 0), (before, last - first - before - piece.shape[1])))

    def _row(self, window: Mapping[str, Any], shard: Shard, error: Exception | None) -> dict[str, Any]:
        rate = self.encoder.frame_rate
        context = round(window["context_s"] * rate)
        same = ("window_id", "recording_id", "split", "start_s", "duration_s", "tracks", "language")
        row = {name: window[name] for name in (*same, "num_speakers", "source", "licence")}
        return row | {
            "shard": shard.number,
            "status": "failed" if error else "ok",
            "error": f"{type(error).__name__}: {error}" if error else None,
            "context_frames": 0 if error else context,
            "continuation_frames": 0 if error else round(window["duration_s"] * rate) - context,
        }
