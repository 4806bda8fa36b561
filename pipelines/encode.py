"""Encode: kept windows to features in shards. A shard is the commit; see `plan.py` for which there are."""

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
from pipelines.audio.reach import first_readable, unreachable_among
from pipelines.audio.resample import resampled
from pipelines.audio.sound import TrackStream
from pipelines.encoding.cutting import Shared, cut_windows
from pipelines.encoding.filling import Job, ShardFiller
from pipelines.encoding.plan import Shard, Source, Unit
from pipelines.progress.usage import Meter
from pipelines.progress.watch import Done
from pipelines.recipes.recipe import EncodeConfig
from pipelines.units.attempts import Attempt, Attempts
from pipelines.units.background import Emit, at_once, beside
from runtime.errors import ChangedAudioError, UnreachableAudioError
from runtime.failures import Kind, failed_row, kind_of, to_failure

if TYPE_CHECKING:
    from pipelines.units.pending import Retry

Progress = Callable[[str, float, bool], None]
AHEAD_WINDOWS = 64
"""Windows that are decoded ahead of an encoder on a GPU."""


class Target:
    """A dataset that a worker makes shards of."""

    def __init__(self, dataset: str, config: EncodeConfig, selection: str, signal_mark: str) -> None:
        self.dataset = dataset
        self.encoder = config.load()
        self.encoder.setup()
        self.fingerprints = made_by(config, selection, signal_mark)


@dataclass
class _Making:
    """A shard that is made: of which dataset, what is to be done with each of its recordings, and what does it."""

    target: Target
    shard: Shard
    jobs: dict[str, Job]
    folder: Path
    writer: ShardWriter
    filler: ShardFiller


class _LostError(Exception):
    """The bytes of a recording cannot be had, so that no shard that needs it is committed."""

    def __init__(self, recording_id: str, cause: Exception) -> None:
        super().__init__(recording_id)
        self.recording_id, self.cause = recording_id, cause


class _Tally:
    """Counts what became of the recordings of a unit, each once it has come to its end in all shards."""

    def __init__(self, done: Done, progress: Progress, meter: Meter) -> None:
        self.done, self._progress, self._meter = done, progress, meter
        self.made: list[_Making] = []
        self._ended: Counter[str] = Counter()

    def ended(self, recording_id: str) -> None:
        self._ended[recording_id] += 1
        if self._ended[recording_id] < len(self.made):
            return
        made_s = max(one.filler.made_s[recording_id] for one in self.made)
        errors = [one.filler.errors[recording_id] for one in self.made if recording_id in one.filler.errors]
        if errors:
            self.done.failures.append(to_failure(failed_row(recording_id, errors[0]), "encode"))
        self.done.recordings, self.done.seconds = self.done.recordings + 1, self.done.seconds + made_s
        self._meter.observe(made_s)
        self._progress(recording_id, made_s, bool(errors))


class ShardEncoder:
    """A worker that makes shards of one dataset, or of several by different encoders over the same windows.

    A recording is decoded once for all of them.
    """

    def __init__(
        self,
        lake: Lake,
        datasets: Mapping[str, EncodeConfig],
        selection: str,
        signal_mark: str,
        attempts: Attempts | None = None,
        decode: DecodeConfig = DECODE,
        unreachable: str = "stop",
        retry: Retry | None = None,
    ) -> None:
        """`unreachable` is that of the recipe; windows that failed before as `retry` says are tried again."""
        self.decode = decode
        self.attempts = attempts or Attempts(lake.storage)
        self.lake, self.selection, self.signal_mark = lake, selection, signal_mark
        self.unreachable, self.retry = unreachable, retry
        self.targets = {name: Target(name, config, selection, signal_mark) for name, config in datasets.items()}

    def encode(self, unit: Unit, progress: Progress = lambda recording_id, seconds, failed: None) -> Done:
        """Make and commit the shards of a unit; of one that is committed nothing is done, unless it is made `again`.

        A shard is committed whole or not at all. It is not committed where the bytes of a recording that was annotated
        cannot be had: the result then says so, and the same command makes that shard another time.
        """
        storage = self.lake.storage
        todo = [
            (self.targets[dataset], shard)
            for dataset, shard in unit.shards
            if shard.again or not storage.exists(f"datasets/{dataset}/{shard.commit_key}")
        ]
        if not todo:
            return Done(unit.name)
        known = {target.dataset: self._look_up(target, shard) for target, shard in todo}
        if self.unreachable == "stop":  # known at once, and not after hours of encoding
            jobs = [job for of_dataset in known.values() for job in of_dataset.values()]
            needed = {job.recording_id: job.recording for job in jobs if job.lacking}
            if lost := unreachable_among(needed.values(), self.lake, "encode"):
                return Done(unit.name, unreachable=lost, uncommitted=1)
        folder = storage.scratch()
        try:
            with self.attempts.begin(unit.name) as attempt:
                meter = Meter("encode")
                tally = _Tally(Done(unit.name), progress, meter)
                for number, (target, shard) in enumerate(todo):
                    (own := folder / str(number)).mkdir()
                    writer = ShardWriter(own, shard.files, target.fingerprints)
                    filler = ShardFiller(storage, target.encoder, writer, tally.ended, meter)
                    tally.made.append(_Making(target, shard, known[target.dataset], own, writer, filler))
                try:
                    self._encode_recordings(unit.shard.ids, tally.made, attempt, meter)
                except _LostError as error:
                    failure = to_failure(failed_row(error.recording_id, error.cause), "encode")
                    return Done(unit.name, unreachable=[failure], uncommitted=1)
                for one in tally.made:
                    commit = one.writer.finish()
                    self._commit(one.target.dataset, one.shard, commit, one.folder)
                    meter.count("written_bytes", sum(file["size_bytes"] for file in commit.files.values()))
                tally.done.spent = meter.end()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return tally.done

    def _encode_recordings(self, ids: Sequence[str], made: list[_Making], attempt: Attempt, meter: Meter) -> None:
        """Encode recordings one after another; raises _LostError where the bytes of one cannot be had."""

        def work(emit: Emit) -> None:
            for recording_id in ids:
                if any(job.lacking for job in (one.jobs[recording_id] for one in made)):
                    meter.count("read_bytes", made[0].jobs[recording_id].recording["size_bytes"] or 0)
                try:
                    self._encode_recording(recording_id, made, attempt, emit)
                except (UnreachableAudioError, ChangedAudioError) as error:
                    raise _LostError(recording_id, error) from error

        # A GPU must not wait until the next windows are decoded; a core has no time for both.
        if any(one.target.encoder.device == "cuda" for one in made) and not attempt.careful:
            beside(work, AHEAD_WINDOWS)
        else:
            work(at_once)
        for one in made:
            one.filler.flush()

    def _commit(self, dataset: str, shard: Shard, commit: ShardCommit, folder: Path) -> None:
        storage = self.lake.storage
        if shard.again:
            replace_shard(self.lake, dataset, commit, folder)
            return
        for name in commit.files:
            storage.put_file(f"datasets/{dataset}/{name}", folder / name)
        storage.put_if_absent(f"datasets/{dataset}/{shard.commit_key}", commit.to_json().encode())

    def _look_up(self, target: Target, shard: Shard) -> dict[str, Job]:
        """What is to be done with each recording; the tables of a batch, and of a source, are read once."""
        by_batch: dict[str, list[str]] = defaultdict(list)
        for planned in shard.recordings:
            by_batch[planned.batch].append(planned.recording_id)
        elsewhere = set(shard.elsewhere)
        known: dict[str, Job] = {}
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
                known[row["recording_id"]] = Job(row | signal[row["recording_id"]])
            for row in rows(self.lake.windows_key(self.selection, batch)):
                if row["kept"] and row["window_id"] not in elsewhere:
                    known[row["recording_id"]].windows[row["window_id"]] = row
        jobs = {recording_id: known[recording_id] for recording_id in shard.ids}
        for source in dict.fromkeys(source for planned in shard.recordings for source in planned.sources):
            for row in self._held_by(source, target.dataset, pa.array(list(jobs))):
                jobs[row["recording_id"]].offer(source, row)
        return jobs

    def _held_by(self, source: Source, dataset: str, wanted: pa.Array) -> list[dict[str, Any]]:
        """The windows of these recordings that a committed shard can give, or of which it says that they failed."""
        table = self.lake.read(f"datasets/{source.dataset}/{source.files.windows}")
        rows: list[dict[str, Any]] = table.filter(pc.is_in(table["recording_id"], wanted)).to_pylist()
        own = source.dataset == dataset  # others may have failed for reasons that do not hold here
        return [row for row in rows if row["status"] == "ok" or (own and not self._is_tried_again(row))]

    def _is_tried_again(self, row: Mapping[str, Any]) -> bool:
        return self.retry is not None and self.retry.error_type in (None, row["error"].partition(":")[0])

    def _encode_recording(self, recording_id: str, made: list[_Making], attempt: Attempt, emit: Emit) -> None:
        """Encode the windows of a recording in order of time, or record why one could not be made.

        Whatever is done with a shard is emitted.

        Raises UnreachableAudioError or ChangedAudioError where the bytes that were annotated cannot be had, unless the
        recipe has them counted as failed; and whatever is the fault of the machine or the recipe.
        """
        todo = [(one, one.jobs[recording_id]) for one in made]
        try:
            attempt.at(recording_id)
            if any(job.lacking for _, job in todo):
                recording = todo[0][1].recording
                first_readable(recording, lambda uri: self._encode_file(uri, recording, todo, emit), self.lake.config)
            else:
                self._add_windows(todo, {}, emit)
        except Exception as error:
            lost = isinstance(error, UnreachableAudioError | ChangedAudioError)
            if kind_of(error) is Kind.RUN or (lost and self.unreachable == "stop"):
                raise
            for one, job in todo:
                emit(one.filler.take_back, job)
                emit(one.filler.fail, job, error)
            return
        for one, job in todo:
            emit(one.filler.end, job)

    def _encode_file(self, uri: str, recording: dict[str, Any], todo: list[tuple[_Making, Job]], emit: Emit) -> None:
        """As `_encode_recording`, under one of its names; ChangedAudioError unless its bytes are those annotated."""
        lacking = [(one, job) for one, job in todo if job.lacking]
        rates = list(dict.fromkeys(one.target.encoder.sample_rate for one, _ in lacking))
        at_rate = {rate: [one for one, _ in lacking if one.target.encoder.sample_rate == rate] for rate in rates}
        try:
            with (
                closing(TrackStream(uri, None, recording, self.lake.config, self.decode)) as stream,
                ExitStack() as stack,
            ):
                decoded, sounds = Shared(stream, len(rates)), {}
                for number, rate in enumerate(rates):
                    blocks = resampled(decoded.reader(number), recording["sample_rate"], rate)
                    shared = Shared(stack.enter_context(closing(blocks)), len(at_rate[rate]))
                    for place, one in enumerate(at_rate[rate]):
                        windows = one.jobs[recording["recording_id"]].lacking
                        cut = cut_windows(one.target.encoder, shared.reader(place), windows)
                        sounds[one.target.dataset] = stack.enter_context(closing(cut))
                self._add_windows(todo, sounds, emit)
                stream.prove(recording["sha256"])
        except Exception:  # of these bytes nothing is kept; raised on
            for one, job in todo:
                emit(one.filler.take_back, job)
            raise

    def _add_windows(
        self, todo: list[tuple[_Making, Job]], sounds: Mapping[str, Iterator[WindowSound]], emit: Emit
    ) -> None:
        """Add the windows of a recording, in order of time, to each of the shards.

        `sounds` has those that no shard holds, in order, by dataset. Where decoding goes no further, no later window
        can be made, and each is added with the error that says so.
        """
        ended: dict[str, Exception] = {}
        for window_id, window in todo[0][1].windows.items():
            for one, job in todo:
                dataset = one.target.dataset
                sound: WindowSound | Exception | None = None
                if window_id not in job.held:
                    try:
                        sound = ended.get(dataset) or next(sounds[dataset])
                    except Exception as error:
                        if kind_of(error) is not Kind.RECORDING:
                            raise
                        sound = ended[dataset] = error
                emit(one.filler.add, job, window, sound)


def made_by(config: EncodeConfig, selection: str, signal_mark: str) -> dict[str, str]:
    """What a dataset is made by: while all of it is the same, the dataset grows; otherwise there is another one."""
    encoder = config.load()
    return {
        "encoder": f"{encoder.name}-{encoder.fingerprint}",
        "selection": selection,
        "signal": signal_mark,
        "plan": fingerprint({"shard_mb": config.shard_mb, "seed": config.seed}),
    }
