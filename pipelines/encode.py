"""Encode: kept windows to features in shards. A shard is the commit; see `plan.py` for which there are."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import encoders
from encoders.base import WindowSound
from manifests.amend import replace_shard
from manifests.fingerprint import fingerprint
from manifests.lake import Lake
from manifests.shards import ShardCommit, ShardFiles, ShardWriter, stored_array
from pipelines.attempts import Attempt, Attempts
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.reach import first_readable, unreachable_among
from pipelines.audio.sound import TrackStream
from pipelines.failures import Kind, failed_row, kind_of, to_failure
from pipelines.plan import Shard, Source
from pipelines.recipe import EncodeConfig
from pipelines.watch import Done
from runtime.errors import ChangedAudioError, UnreachableAudioError

if TYPE_CHECKING:
    from pipelines.annotate import Retry

Progress = Callable[[str, float, bool], None]
Window = Mapping[str, Any]
"""A row of WINDOWS."""


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
        retry: Retry | None = None,
    ) -> None:
        """`unreachable` is that of the recipe; windows that failed before as `retry` says are tried again."""
        self.decode = decode
        self.attempts = attempts or Attempts(lake.storage)
        self.lake, self.dataset, self.selection, self.signal_mark = lake, dataset, selection, signal_mark
        self.unreachable, self.retry = unreachable, retry
        self.prefix = f"datasets/{dataset}"
        self.encoder = encoders.load(config.encoder, config.settings)
        self.fingerprints = made_by(config, selection, signal_mark)

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
            needed = (job.recording for job in known.values() if job.lacks_features)
            if lost := unreachable_among(needed, self.lake, "encode"):
                return Done(shard.name, unreachable=lost, uncommitted=1)
        folder = storage.scratch()
        try:
            with self.attempts.begin(shard.name) as attempt:
                writer = ShardWriter(folder, shard.split, shard.number, self.fingerprints)
                for job in known.values():
                    try:
                        made_s, error = self._encode_recording(job, writer, attempt)
                    except (UnreachableAudioError, ChangedAudioError) as lost_error:
                        failure = to_failure(failed_row(job.recording_id, lost_error), "encode")
                        return Done(shard.name, unreachable=[failure], uncommitted=1)
                    if error:
                        done.failures.append(to_failure(failed_row(job.recording_id, error), "encode"))
                    done.recordings, done.seconds = done.recordings + 1, done.seconds + made_s
                    progress(job.recording_id, made_s, error is not None)
                self._commit(shard, writer.finish(), folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return done

    def _commit(self, shard: Shard, commit: ShardCommit, folder: Path) -> None:
        storage = self.lake.storage
        if shard.again:
            replace_shard(self.lake, self.dataset, commit, folder)
            return
        for name in commit.files:
            storage.put_file(f"{self.prefix}/{name}", folder / name)
        storage.put_if_absent(f"{self.prefix}/{shard.commit_key}", commit.to_json().encode())

    def _look_up(self, shard: Shard) -> dict[str, _Job]:
        """What is to be done with each recording; the tables of a batch, and of a source, are read once."""
        by_batch: dict[str, list[str]] = defaultdict(list)
        for planned in shard.recordings:
            by_batch[planned.batch].append(planned.recording_id)
        elsewhere = set(shard.elsewhere)
        known: dict[str, _Job] = {}
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
                known[row["recording_id"]] = _Job(row | signal[row["recording_id"]])
            for row in rows(self.lake.windows_key(self.selection, batch)):
                if row["kept"] and row["window_id"] not in elsewhere:
                    known[row["recording_id"]].windows[row["window_id"]] = row
        jobs = {planned.recording_id: known[planned.recording_id] for planned in shard.recordings}
        for source in dict.fromkeys(source for planned in shard.recordings for source in planned.sources):
            for row in self._held_by(source, pa.array(list(jobs))):
                jobs[row["recording_id"]].offer(source, row)
        return jobs

    def _held_by(self, source: Source, wanted: pa.Array) -> list[dict[str, Any]]:
        """The windows of these recordings that a committed shard can give, or of which it says that they failed."""
        files = ShardFiles(source.split, source.number)
        table = self.lake.read(f"datasets/{source.dataset}/{files.windows}")
        rows: list[dict[str, Any]] = table.filter(pc.is_in(table["recording_id"], wanted)).to_pylist()
        own = source.dataset == self.dataset  # others may have failed for reasons that do not hold here
        return [row for row in rows if row["status"] == "ok" or (own and not self._is_tried_again(row))]

    def _is_tried_again(self, row: Mapping[str, Any]) -> bool:
        return self.retry is not None and self.retry.error_type in (None, row["error"].partition(":")[0])

    def _encode_recording(self, job: _Job, writer: ShardWriter, attempt: Attempt) -> tuple[float, Exception | None]:
        """Encode the windows of a recording in order of time, or record why one could not be made.

        Returns the seconds of the windows that were made, and the first error. Raises UnreachableAudioError or
        ChangedAudioError, and takes all of its windows back, where the bytes that were annotated cannot be had, unless
        the recipe has them counted as failed; and whatever is no recording's fault.
        """
        try:
            attempt.at(job.recording_id)
            if not job.lacks_features:
                with writer.recording():
                    return self._add_windows(job, iter(()), writer)
            return first_readable(job.recording, lambda uri: self._encode_file(uri, job, writer), self.lake.config)
        except Exception as error:
            lost = isinstance(error, UnreachableAudioError | ChangedAudioError)
            if kind_of(error) is Kind.RUN or (lost and self.unreachable == "stop"):
                raise
            with writer.recording():
                _fail(writer, job.windows.values(), error)
            return 0.0, error

    def _encode_file(self, uri: str, job: _Job, writer: ShardWriter) -> tuple[float, Exception | None]:
        """As `_encode_recording`, under one of its names; ChangedAudioError unless its bytes are those annotated."""
        given = uri, self.encoder.sample_rate, job.recording, self.lake.config, self.decode
        lacking = [window for window_id, window in job.windows.items() if window_id not in job.held]
        with (
            writer.recording(),
            closing(TrackStream(*given)) as stream,
            closing(self._windows_of(iter(stream), lacking)) as sounds,
        ):
            result = self._add_windows(job, sounds, writer)
            stream.prove(job.recording["sha256"])
        return result

    def _add_windows(
        self, job: _Job, sounds: Iterator[WindowSound], writer: ShardWriter
    ) -> tuple[float, Exception | None]:
        """Add the windows of a recording: those that other shards hold as they are, the others of their `sounds`."""
        made_s, errors, rate = 0.0, list[Exception](), self.encoder.frame_rate
        ended: Exception | None = None
        for window_id, window in job.windows.items():
            try:
                if window_id in job.held:
                    source, row = job.held[window_id]
                    if row["status"] != "ok":
                        writer.fail(window, row["error"])
                        continue
                    features = stored_array(self.lake.storage, source.dataset, row)
                elif ended is not None:
                    raise ended
                else:
                    try:
                        sound = next(sounds)
                    except Exception as error:  # decoding goes no further: no later window can be made
                        ended = error
                        raise
                    (features,) = self.encoder.encode([sound])
                writer.add(window, job.recording, features, 1 / rate)
                made_s += window["duration_s"]
            except Exception as error:  # of this window alone
                if kind_of(error) is not Kind.RECORDING:
                    raise
                errors.append(error)
                _fail(writer, [window], error)
        return made_s, errors[0] if errors else None

    def _windows_of(self, blocks: Iterator[np.ndarray], windows: Sequence[Window]) -> Generator[WindowSound]:
        """Each window with the sound around it that the encoder wants."""
        encoder = self.encoder
        held = next(blocks)
        offset = 0  # of held's first sample in the recording
        for window in windows:
            start = round(window["start_s"] * encoder.sample_rate)
            count = round(window["duration_s"] * encoder.frame_rate) * encoder.hop_samples
            # The recipe was refused otherwise: `check_grid`.
            assert start % encoder.hop_samples == 0, f"window {window['window_id']} starts between two frames"
            first, last = max(0, start - encoder.look_back_samples), start + count + encoder.look_ahead_samples
            while offset + held.shape[1] < last and (block := next(blocks, None)) is not None:
                passed = min(first - offset, held.shape[1])
                held = np.concatenate([held[:, passed:], block], axis=1)
                offset += passed
            sound = held[:, first - offset : last - offset]
            # What the selection rounds may reach a few samples past the end.
            lacking = max(0, start + count - first - sound.shape[1])
            yield WindowSound(np.pad(sound, ((0, 0), (0, lacking))), start - first, count // encoder.hop_samples)


def _fail(writer: ShardWriter, windows: Iterable[Window], error: Exception) -> None:
    for window in windows:
        writer.fail(window, f"{type(error).__name__}: {error}")


@dataclass
class _Job:
    """What is to be made of one recording: its RECORDINGS and SIGNAL columns, its windows, and what is held of them."""

    recording: dict[str, Any]
    windows: dict[str, Window] = field(default_factory=dict)
    """By id, in order of time."""
    held: dict[str, tuple[Source, Mapping[str, Any]]] = field(default_factory=dict)
    """By window, a shard that holds its features, and the row of SHARD_WINDOWS that says where."""

    @property
    def recording_id(self) -> str:
        return str(self.recording["recording_id"])

    @property
    def lacks_features(self) -> bool:
        return len(self.held) < len(self.windows)

    def offer(self, source: Source, row: Mapping[str, Any]) -> None:
        """Take a window from a shard, if it is one of those wanted."""
        window = self.windows.get(row["window_id"])
        if window and all(window[name] == row[name] for name in ("start_s", "duration_s", "tracks")):
            self.held.setdefault(row["window_id"], (source, row))


def made_by(config: EncodeConfig, selection: str, signal_mark: str) -> dict[str, str]:
    """What a dataset is made by: while all of it is the same, the dataset grows; otherwise there is another one."""
    encoder = encoders.load(config.encoder, config.settings)
    return {
        "encoder": f"{encoder.name}-{encoder.fingerprint}",
        "selection": selection,
        "signal": signal_mark,
        "plan": fingerprint({"shard_mb": config.shard_mb, "seed": config.seed}),
    }
