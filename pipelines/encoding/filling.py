"""The windows of one shard, encoded as many at a time as the encoder likes and written in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from encoders.base import Encoder, WindowSound
from manifests.shards import ShardWriter, stored_array
from manifests.storage import Storage
from pipelines.encoding.plan import Source
from pipelines.progress.usage import Meter
from runtime.failures import Kind, kind_of

Window = Mapping[str, Any]
"""A row of WINDOWS."""
MOST_WAITING = 256
"""Windows of which nothing has to be encoded that wait with others."""


@dataclass
class Job:
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
    def lacking(self) -> list[Window]:
        """The windows that no shard holds."""
        return [window for window_id, window in self.windows.items() if window_id not in self.held]

    def offer(self, source: Source, row: Mapping[str, Any]) -> None:
        """Take a window from a shard, if it is one of those wanted."""
        window = self.windows.get(row["window_id"])
        if window and all(window[name] == row[name] for name in ("start_s", "duration_s", "tracks")):
            self.held.setdefault(row["window_id"], (source, row))


class _Item(NamedTuple):
    """A window that waits for its turn; without one, the end of the recording at hand."""

    job: Job
    window: Window | None
    sound: WindowSound | Exception | None
    """None where another shard holds the features."""


class ShardFiller:
    """Fills one shard, recording by recording. What turns out not to be the sound that was annotated is taken back."""

    def __init__(
        self,
        storage: Storage,
        encoder: Encoder,
        writer: ShardWriter,
        ended: Callable[[str], None],
        meter: Meter | None = None,
    ) -> None:
        """`ended` is told the id of each recording of which all windows are written."""
        self._meter = meter or Meter("encode")
        self._storage, self._encoder, self._writer, self._ended = storage, encoder, writer, ended
        self._waiting: list[_Item] = []
        self._sounds = 0
        self._at_hand: Job | None = None
        """The recording that the writer has begun with."""
        self.made_s: dict[str, float] = {}
        """Seconds of the windows that were made, by recording."""
        self.errors: dict[str, Exception] = {}
        """The first error of each recording of which a window could not be made."""

    def add(self, job: Job, window: Window, sound: WindowSound | Exception | None) -> None:
        """Add the next window of a recording, or why there is no sound of it; None where another shard holds it."""
        self._waiting.append(_Item(job, window, sound))
        self._sounds += isinstance(sound, WindowSound)
        if self._sounds >= self._encoder.batch or len(self._waiting) >= MOST_WAITING:
            self.flush()

    def end(self, job: Job) -> None:
        """Keep the windows of a recording, all of which were added."""
        self._waiting.append(_Item(job, None, None))
        if not self._sounds:
            self.flush()

    def take_back(self, job: Job) -> None:
        """Forget the windows of the recording whose windows were added last."""
        self._waiting = [item for item in self._waiting if item.job is not job]
        self._sounds = sum(isinstance(item.sound, WindowSound) for item in self._waiting)
        if self._at_hand is job:
            self._writer.take_back()
            self._at_hand = None
        self.made_s.pop(job.recording_id, None)
        self.errors.pop(job.recording_id, None)

    def fail(self, job: Job, error: Exception) -> None:
        """Record that no window of a recording could be made."""
        for window in job.windows.values():
            self.add(job, window, error)
        self.end(job)

    def flush(self) -> None:
        """Encode and write all that waits."""
        waiting, self._waiting, self._sounds = self._waiting, [], 0
        features = iter(self._encode([item.sound for item in waiting if isinstance(item.sound, WindowSound)]))
        for item in waiting:
            if self._at_hand is not item.job:
                self._writer.begin()
                self._at_hand = item.job
                self.made_s[item.job.recording_id] = 0.0
            if item.window is not None:
                self._write(
                    item.job, item.window, next(features) if isinstance(item.sound, WindowSound) else item.sound
                )
                continue
            self._writer.keep()
            self._at_hand = None
            self._ended(item.job.recording_id)

    def _write(self, job: Job, window: Window, made: np.ndarray | Exception | None) -> None:
        try:
            if isinstance(made, Exception):
                raise made
            if made is None:
                source, row = job.held[window["window_id"]]
                if row["status"] != "ok":
                    self._writer.fail(window, row["error"])
                    return
                made = stored_array(self._storage, source.dataset, row)
            self._writer.add(window, job.recording, made, 1 / self._encoder.frame_rate)
            self.made_s[job.recording_id] += window["duration_s"]
        except Exception as error:  # of this window alone
            if kind_of(error) is Kind.RUN:
                raise
            self.errors.setdefault(job.recording_id, error)
            self._writer.fail(window, f"{type(error).__name__}: {error}")

    def _encode(self, sounds: Sequence[WindowSound]) -> list[np.ndarray | Exception]:
        """The features of each window, or why there are none. An error of several is looked for in each alone."""
        if not sounds:
            return []
        try:
            # Another thread may decode meanwhile, and may end at any moment.
            with self._meter.part(self._encoder.name, self._encoder.gpus, alone=True):
                return [*self._encoder.encode(sounds)]
        except Exception as error:
            if kind_of(error) is Kind.RUN:
                raise
            if len(sounds) == 1:
                return [error]
        return [found for sound in sounds for found in self._encode([sound])]
