"""Encode: make features of the kept windows and write them to shards. Each shard is committed at once.

`pipelines.encoding.plan` decides which shards there are.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from encoders.base import WindowSound
from manifests.amend import replace_shard
from manifests.fingerprint import fingerprint
from manifests.lake import Lake
from manifests.shards import ShardCommit, ShardWriter
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.reach import find_unreachable, first_readable
from pipelines.audio.resample import resampled
from pipelines.audio.sound import TrackStream
from pipelines.encoding.cutting import SharedIterator, cut_windows
from pipelines.encoding.filling import RecordingJob, ShardFiller
from pipelines.encoding.planned import Shard, Source, Unit
from pipelines.progress.usage import Meter
from pipelines.progress.watch import UnitResult
from pipelines.recipes.recipe import EncodeConfig
from pipelines.units.attempts import Attempt, Attempts
from pipelines.units.background import Emit, call_directly, run_in_background
from runtime.errors import ChangedAudioError, UnreachableAudioError
from runtime.failures import Kind, failed_row, kind_of, to_failure

if TYPE_CHECKING:
    from pipelines.units.pending import Retry

Progress = Callable[[str, float, bool], None]
AHEAD_WINDOWS = 64
"""Windows that may be decoded ahead of an encoder on a GPU."""


class Target:
    """A dataset that a worker makes shards of, with its encoder."""

    def __init__(self, dataset: str, config: EncodeConfig, selection: str, signal: str) -> None:
        self.dataset = dataset
        self.encoder = config.load()
        self.encoder.setup()
        self.fingerprints = dataset_fingerprints(config, selection, signal)


@dataclass
class _ShardInProgress:
    """A shard that is being made."""

    target: Target
    shard: Shard
    jobs: dict[str, RecordingJob]
    """What to do for each of its recordings."""
    folder: Path
    """Where its files are written before they are put into the lake."""
    writer: ShardWriter
    filler: ShardFiller


class _RecordingUnreachableError(Exception):
    """The bytes of a recording are unreachable, so no shard that needs them is committed."""

    def __init__(self, recording_id: str, cause: Exception) -> None:
        super().__init__(recording_id)
        self.recording_id, self.cause = recording_id, cause


class _UnitProgress:
    """Counts the recordings of a unit, each when it is finished in all shards of the unit."""

    def __init__(self, result: UnitResult, progress: Progress, meter: Meter) -> None:
        self.result, self._progress, self._meter = result, progress, meter
        self.shards: list[_ShardInProgress] = []
        self._finished: Counter[str] = Counter()
        """In how many shards each recording is finished."""

    def finish(self, recording_id: str) -> None:
        """Note that a recording is finished in one more shard."""
        self._finished[recording_id] += 1
        if self._finished[recording_id] < len(self.shards):
            return
        encoded_s = max(shard.filler.encoded_s[recording_id] for shard in self.shards)
        errors = [shard.filler.errors[recording_id] for shard in self.shards if recording_id in shard.filler.errors]
        if errors:
            self.result.failures.append(to_failure(failed_row(recording_id, errors[0]), "encode"))
        self.result.recordings, self.result.seconds = self.result.recordings + 1, self.result.seconds + encoded_s
        self._meter.observe(encoded_s)
        self._progress(recording_id, encoded_s, bool(errors))


class ShardEncoder:
    """A worker that makes shards of one dataset, or of several datasets with different encoders and the same windows.

    It decodes a recording once for all of them.
    """

    def __init__(
        self,
        lake: Lake,
        datasets: Mapping[str, EncodeConfig],
        selection: str,
        signal: str,
        attempts: Attempts | None = None,
        decode: DecodeConfig = DECODE,
        unreachable: str = "stop",
        retry: Retry | None = None,
    ) -> None:
        """
        Args:
            lake: The lake.
            datasets: The settings of the encoder of each dataset, by name.
            selection: The name of the selection.
            signal: The fingerprint of the signal stage.
            attempts: The marks of the run.
            decode: How recordings are decoded.
            unreachable: The recipe's `unreachable`, "stop" or "fail".
            retry: Which windows that failed before are tried again.
        """
        self.decode = decode
        self.attempts = attempts or Attempts(lake.storage)
        self.lake, self.selection, self.signal = lake, selection, signal
        self.unreachable, self.retry = unreachable, retry
        self.targets = {name: Target(name, config, selection, signal) for name, config in datasets.items()}

    def encode(self, unit: Unit, progress: Progress = lambda recording_id, seconds, failed: None) -> UnitResult:
        """Make and commit the shards of a unit. Committed shards are skipped, except those to `remake`.

        Returns:
            The result of the unit. If the bytes of an annotated recording are unreachable, none of the shards is
            committed, and the result says so. The same command makes them another time.
        """
        storage = self.lake.storage
        todo = [
            (self.targets[dataset], shard)
            for dataset, shard in unit.shards
            if shard.remake or not storage.exists(f"datasets/{dataset}/{shard.commit_key}")
        ]
        if not todo:
            return UnitResult(unit.name)
        jobs = {target.dataset: self._load_jobs(target, shard) for target, shard in todo}
        if self.unreachable == "stop":  # checked first, so that hours of encoding are not lost
            every = [job for of_dataset in jobs.values() for job in of_dataset.values()]
            needed = {job.recording_id: job.recording for job in every if job.missing}
            if unreachable := find_unreachable(needed.values(), self.lake, "encode"):
                return UnitResult(unit.name, unreachable=unreachable, uncommitted=1)
        scratch = storage.scratch()
        try:
            with self.attempts.begin(unit.name) as attempt:
                meter = Meter("encode")
                state = _UnitProgress(UnitResult(unit.name), progress, meter)
                for number, (target, shard) in enumerate(todo):
                    (folder := scratch / str(number)).mkdir()
                    writer = ShardWriter(folder, shard.files, target.fingerprints)
                    filler = ShardFiller(storage, target.encoder, writer, state.finish, meter)
                    state.shards.append(_ShardInProgress(target, shard, jobs[target.dataset], folder, writer, filler))
                try:
                    self._encode_recordings(unit.shard.ids, state.shards, attempt, meter)
                except _RecordingUnreachableError as error:
                    failure = to_failure(failed_row(error.recording_id, error.cause), "encode")
                    return UnitResult(unit.name, unreachable=[failure], uncommitted=1)
                for shard_in_progress in state.shards:
                    commit = shard_in_progress.writer.finish()
                    done = shard_in_progress
                    self._commit(done.target.dataset, done.shard, commit, done.folder)
                    meter.count("written_bytes", sum(file["size_bytes"] for file in commit.files.values()))
                state.result.spent = meter.end()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return state.result

    def _encode_recordings(
        self, ids: Sequence[str], shards: list[_ShardInProgress], attempt: Attempt, meter: Meter
    ) -> None:
        """Encode recordings one by one. Raises _RecordingUnreachableError if the bytes of one are unreachable."""

        def work(emit: Emit) -> None:
            for recording_id in ids:
                if any(shard.jobs[recording_id].missing for shard in shards):
                    meter.count("read_bytes", shards[0].jobs[recording_id].recording["size_bytes"] or 0)
                try:
                    self._encode_recording(recording_id, shards, attempt, emit)
                except (UnreachableAudioError, ChangedAudioError) as error:
                    raise _RecordingUnreachableError(recording_id, error) from error

        # A background thread keeps a GPU from waiting for the next windows. Without a GPU it would compete for cores.
        if any(shard.target.encoder.device == "cuda" for shard in shards) and not attempt.careful:
            run_in_background(work, AHEAD_WINDOWS)
        else:
            work(call_directly)
        for shard in shards:
            shard.filler.flush()

    def _commit(self, dataset: str, shard: Shard, commit: ShardCommit, folder: Path) -> None:
        storage = self.lake.storage
        if shard.remake:
            replace_shard(self.lake, dataset, commit, folder)
            return
        for name in commit.files:
            storage.put_file(f"datasets/{dataset}/{name}", folder / name)
        storage.put_if_absent(f"datasets/{dataset}/{shard.commit_key}", commit.to_json().encode())

    def _load_jobs(self, target: Target, shard: Shard) -> dict[str, RecordingJob]:
        """Return what to do for each recording of a shard. Each table of a batch or of a source is read once."""
        by_batch: dict[str, list[str]] = defaultdict(list)
        for planned in shard.recordings:
            by_batch[planned.batch].append(planned.recording_id)
        elsewhere = set(shard.elsewhere)
        jobs: dict[str, RecordingJob] = {}
        for batch, ids in by_batch.items():
            wanted = pa.array(ids)

            def rows(key: str, wanted: pa.Array = wanted) -> list[dict[str, Any]]:
                table = self.lake.read(key)
                selected: list[dict[str, Any]] = table.filter(pc.is_in(table["recording_id"], wanted)).to_pylist()
                return selected

            signal = {row["recording_id"]: row for row in rows(self.lake.annotation_key("signal", self.signal, batch))}
            for row in rows(self.lake.recordings_key(batch)):
                jobs[row["recording_id"]] = RecordingJob(row | signal[row["recording_id"]])
            for row in rows(self.lake.windows_key(self.selection, batch)):
                if row["kept"] and row["window_id"] not in elsewhere:
                    jobs[row["recording_id"]].windows[row["window_id"]] = row
        jobs = {recording_id: jobs[recording_id] for recording_id in shard.ids}
        for source in dict.fromkeys(source for planned in shard.recordings for source in planned.sources):
            for row in self._reusable_windows(source, target.dataset, pa.array(list(jobs))):
                jobs[row["recording_id"]].offer(source, row)
        return jobs

    def _reusable_windows(self, source: Source, dataset: str, wanted: pa.Array) -> list[dict[str, Any]]:
        """Return the windows of these recordings that a committed shard holds, or has recorded as failed."""
        table = self.lake.read(f"datasets/{source.dataset}/{source.files.windows}")
        rows: list[dict[str, Any]] = table.filter(pc.is_in(table["recording_id"], wanted)).to_pylist()
        own = source.dataset == dataset  # in other datasets, windows may have failed for reasons that do not hold here
        return [row for row in rows if row["status"] == "ok" or (own and not self._is_retried(row))]

    def _is_retried(self, row: Mapping[str, Any]) -> bool:
        return self.retry is not None and self.retry.error_type in (None, row["error"].partition(":")[0])

    def _encode_recording(
        self, recording_id: str, shards: list[_ShardInProgress], attempt: Attempt, emit: Emit
    ) -> None:
        """Encode the windows of a recording in order of time, or record why a window could not be encoded.

        Every call of a shard's filler is emitted.

        Raises:
            UnreachableAudioError: The bytes are unreachable, unless the recipe counts such recordings as failed.
            ChangedAudioError: The file holds other bytes than those that were annotated, with the same exception.
            Exception: The machine or the recipe is at fault, not the recording.
        """
        todo = [(shard, shard.jobs[recording_id]) for shard in shards]
        try:
            attempt.begin_recording(recording_id)
            if any(job.missing for _, job in todo):
                recording = todo[0][1].recording
                first_readable(recording, lambda uri: self._encode_file(uri, recording, todo, emit), self.lake.config)
            else:
                self._add_windows(todo, {}, emit)
        except Exception as error:
            unreachable = isinstance(error, UnreachableAudioError | ChangedAudioError)
            if kind_of(error) is Kind.RUN or (unreachable and self.unreachable == "stop"):
                raise
            for shard, job in todo:
                emit(shard.filler.discard, job)
                emit(shard.filler.fail, job, error)
            return
        for shard, job in todo:
            emit(shard.filler.end, job)

    def _encode_file(
        self, uri: str, recording: dict[str, Any], todo: list[tuple[_ShardInProgress, RecordingJob]], emit: Emit
    ) -> None:
        """Encode a recording from the file `uri`. Raises ChangedAudioError unless its bytes are those annotated."""
        with_missing = [(shard, job) for shard, job in todo if job.missing]
        rates = list(dict.fromkeys(shard.target.encoder.sample_rate for shard, _ in with_missing))
        at_rate = {
            rate: [shard for shard, _ in with_missing if shard.target.encoder.sample_rate == rate] for rate in rates
        }
        try:
            with (
                closing(TrackStream(uri, None, recording, self.lake.config, self.decode)) as stream,
                ExitStack() as stack,
            ):
                decoded, sounds = SharedIterator(stream, len(rates)), {}
                for number, rate in enumerate(rates):
                    blocks = resampled(decoded.reader(number), recording["sample_rate"], rate)
                    shared = SharedIterator(stack.enter_context(closing(blocks)), len(at_rate[rate]))
                    for place, shard in enumerate(at_rate[rate]):
                        windows = shard.jobs[recording["recording_id"]].missing
                        cut = cut_windows(shard.target.encoder, shared.reader(place), windows)
                        sounds[shard.target.dataset] = stack.enter_context(closing(cut))
                self._add_windows(todo, sounds, emit)
                stream.verify_sha256(recording["sha256"])
        except Exception:
            for shard, job in todo:  # nothing is kept of these bytes
                emit(shard.filler.discard, job)
            raise

    def _add_windows(
        self,
        todo: list[tuple[_ShardInProgress, RecordingJob]],
        sounds: Mapping[str, Iterator[WindowSound]],
        emit: Emit,
    ) -> None:
        """Add the windows of a recording to each of the shards, in order of time.

        If decoding stops early, no later window can be encoded. Each of them is added with the error.

        Args:
            todo: The shards, with what to do for the recording in each.
            sounds: By dataset, the sound of the windows that no shard holds, in order.
            emit: Makes the calls of the shards' fillers.
        """
        errors: dict[str, Exception] = {}
        for window_id, window in todo[0][1].windows.items():
            for shard, job in todo:
                dataset = shard.target.dataset
                sound: WindowSound | Exception | None = None
                if window_id not in job.held:
                    try:
                        sound = errors.get(dataset) or next(sounds[dataset])
                    except Exception as error:
                        if kind_of(error) is not Kind.RECORDING:
                            raise
                        sound = errors[dataset] = error
                emit(shard.filler.add, job, window, sound)


def dataset_fingerprints(config: EncodeConfig, selection: str, signal: str) -> dict[str, str]:
    """Return what a dataset is made by. It grows as long as this stays the same; otherwise another dataset is made.

    Args:
        config: The settings of its encoder.
        selection: The name of the selection.
        signal: The fingerprint of the signal stage.
    """
    encoder = config.load()
    dtype = {} if config.dtype == "float16" else {"dtype": config.dtype}
    return {
        "encoder": f"{encoder.name}-{encoder.fingerprint}",
        "selection": selection,
        "signal": signal,
        "plan": fingerprint({"shard_mb": config.shard_mb, "seed": config.seed}),
        **dtype,
    }
