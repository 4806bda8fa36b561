"""Fills a shard: encodes its windows in batches, across recordings, and writes them in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from encoders.base import Encoder, WindowSound
from manifests.shards import ShardWriter, stored_window
from manifests.storage import Storage
from manifests.stored import Stored
from pipelines.encoding.planned import Source
from pipelines.progress.usage import Meter
from runtime.failures import Kind, kind_of

Window = Mapping[str, Any]
"""A row of WINDOWS."""
MAX_WAITING = 256
"""Windows that may wait to be written. It matters where most of them need no encoding, so that no batch gets full."""


@dataclass
class RecordingJob:
    """The windows of one recording that a shard must hold."""

    recording: dict[str, Any]
    """The RECORDINGS and SIGNAL columns of the recording."""
    windows: dict[str, Window] = field(default_factory=dict)
    """The windows by id, in order of time."""
    held: dict[str, tuple[Source, Mapping[str, Any]]] = field(default_factory=dict)
    """Windows whose features a committed shard holds: that shard, and the row of SHARD_WINDOWS with their place."""

    @property
    def recording_id(self) -> str:
        return str(self.recording["recording_id"])

    @property
    def missing(self) -> list[Window]:
        """The windows whose features no shard holds."""
        return [window for window_id, window in self.windows.items() if window_id not in self.held]

    def offer(self, source: Source, row: Mapping[str, Any]) -> None:
        """Use the features of a window in a committed shard, if this shard must hold the same window."""
        window = self.windows.get(row["window_id"])
        if window and all(window[name] == row[name] for name in ("start_s", "duration_s", "tracks")):
            self.held.setdefault(row["window_id"], (source, row))


class _Item(NamedTuple):
    """A window that waits to be written. Without a window, it is the end of a recording."""

    job: RecordingJob
    window: Window | None
    sound: WindowSound | Exception | None
    """The error if there is no sound; None if another shard holds the features."""


class ShardFiller:
    """Fills one shard, recording by recording. A recording is discarded if its bytes are not those annotated."""

    def __init__(
        self,
        storage: Storage,
        encoder: Encoder,
        writer: ShardWriter,
        on_written: Callable[[str], None],
        meter: Meter | None = None,
    ) -> None:
        """
        Args:
            storage: The storage of the lake.
            encoder: The encoder of the shard's dataset.
            writer: Writes the shard.
            on_written: Called with the id of a recording when all its windows are written.
            meter: Measures the encoder.
        """
        self._meter = meter or Meter("encode")
        self._storage, self._encoder, self._writer, self._on_written = storage, encoder, writer, on_written
        self._waiting: list[_Item] = []
        self._sounds = 0
        self._current: RecordingJob | None = None
        """The recording that the writer is writing."""
        self.encoded_s: dict[str, float] = {}
        """Seconds of the windows that have features, by recording."""
        self.errors: dict[str, Exception] = {}
        """The first error of each recording with a window that could not be encoded."""

    def add(self, job: RecordingJob, window: Window, sound: WindowSound | Exception | None) -> None:
        """Add the next window of a recording.

        Args:
            job: The recording.
            window: The window.
            sound: Its sound, or the error if there is none, or None if another shard holds its features.
        """
        self._waiting.append(_Item(job, window, sound))
        self._sounds += isinstance(sound, WindowSound)
        if self._sounds >= self._encoder.batch or len(self._waiting) >= MAX_WAITING:
            self.flush()

    def end(self, job: RecordingJob) -> None:
        """Note that all windows of a recording were added, so that they are kept."""
        self._waiting.append(_Item(job, None, None))
        if not self._sounds:
            self.flush()

    def discard(self, job: RecordingJob) -> None:
        """Discard the windows of the recording whose windows were added last."""
        self._waiting = [item for item in self._waiting if item.job is not job]
        self._sounds = sum(isinstance(item.sound, WindowSound) for item in self._waiting)
        if self._current is job:
            self._writer.take_back()
            self._current = None
        self.encoded_s.pop(job.recording_id, None)
        self.errors.pop(job.recording_id, None)

    def fail(self, job: RecordingJob, error: Exception) -> None:
        """Record that no window of a recording could be encoded."""
        for window in job.windows.values():
            self.add(job, window, error)
        self.end(job)

    def flush(self) -> None:
        """Encode and write all waiting windows."""
        waiting, self._waiting, self._sounds = self._waiting, [], 0
        features = iter(self._encode([item.sound for item in waiting if isinstance(item.sound, WindowSound)]))
        for item in waiting:
            if self._current is not item.job:
                self._writer.begin()
                self._current = item.job
                self.encoded_s[item.job.recording_id] = 0.0
            if item.window is not None:
                self._write(
                    item.job, item.window, next(features) if isinstance(item.sound, WindowSound) else item.sound
                )
                continue
            self._writer.keep()
            self._current = None
            self._on_written(item.job.recording_id)

    def _write(self, job: RecordingJob, window: Window, features: np.ndarray | Stored | Exception | None) -> None:
        try:
            if isinstance(features, Exception):
                raise features
            if features is None:
                source, row = job.held[window["window_id"]]
                if row["status"] != "ok":
                    self._writer.fail(window, row["error"])
                    return
                features = stored_window(self._storage, source.dataset, row)
            self._writer.add(window, job.recording, features, 1 / self._encoder.frame_rate)
            self.encoded_s[job.recording_id] += window["duration_s"]
        except Exception as error:  # it fails this window only
            if kind_of(error) is Kind.RUN:
                raise
            self.errors.setdefault(job.recording_id, error)
            self._writer.fail(window, f"{type(error).__name__}: {error}")

    def _encode(self, sounds: Sequence[WindowSound]) -> list[np.ndarray | Exception]:
        """Return the features of each window, or its error.

        If a batch fails, its windows are encoded one by one, to find those that fail.
        """
        if not sounds:
            return []
        try:
            # Only this thread is measured, because another thread may be decoding.
            with self._meter.part(self._encoder.name, self._encoder.gpus, this_thread_only=True):
                return [*self._encoder.encode(sounds)]
        except Exception as error:
            if kind_of(error) is Kind.RUN:
                raise
            if len(sounds) == 1:
                return [error]
        return [features for sound in sounds for features in self._encode([sound])]
