"""Attempts: which recording a worker was at when it died, so that a recording that kills workers is set aside.

The same for every engine: a worker leaves a mark under runs/ while it is at a unit, and takes it away when it ends. One
that finds a mark of its own run takes the place of a worker that died while the driver lived.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from types import TracebackType

from manifests.storage import Storage
from pipelines.errors import SpeechmillError

DEATHS_OF_A_RECORDING = 2
DEATHS_ELSEWHERE = 6


class WorkerDiedError(SpeechmillError):
    """A recording at which workers died again and again."""

    remedy = "convert it with ffmpeg if its codec is unusual; or give workers more memory, and delete this row's file"


class Attempts:
    """The marks of one run, in a folder of its own: those of an interrupted run count for nothing in the next."""

    def __init__(self, storage: Storage, run: str | None = None) -> None:
        """`run` is the run's folder under runs/; without one no death was seen before."""
        self._storage, self._prefix = storage, run or f"runs/{uuid.uuid4().hex}"

    def begin(self, unit: str) -> Attempt:
        return Attempt(self._storage, f"{self._prefix}/attempts/{unit}.json", unit)


class Attempt:
    """One attempt at a unit, as a context. The first writes one mark; those after a death, one for each recording."""

    def __init__(self, storage: Storage, key: str, unit: str) -> None:
        self._storage, self._key, self._unit = storage, key, unit
        self._deaths: Counter[str] = Counter()
        """Deaths by the recording at hand; '' where none was named."""
        try:
            mark = json.loads(storage.read(self._key))
        except FileNotFoundError:
            return
        self._deaths = Counter(mark["deaths"]) + Counter([mark["at"]])

    @property
    def careful(self) -> bool:
        """Whether an earlier attempt died: recordings are then taken strictly one at a time."""
        return bool(self._deaths)

    def at(self, recording_id: str) -> None:
        """Begin with a recording. Raises WorkerDiedError where it has killed its share of workers."""
        if self._deaths[recording_id] >= DEATHS_OF_A_RECORDING:
            raise WorkerDiedError(f"{DEATHS_OF_A_RECORDING} workers died while at it (out of memory, or a crash)")
        if self.careful:
            self._mark(recording_id)

    def _mark(self, recording_id: str) -> None:
        self._storage.put(self._key, json.dumps({"at": recording_id, "deaths": self._deaths}).encode())

    def __enter__(self) -> Attempt:
        if self._deaths[""] >= DEATHS_ELSEWHERE:
            self._storage.delete(self._key)
            what = f"{self._unit}: {DEATHS_ELSEWHERE} workers died on it, at no recording in particular"
            raise SpeechmillError(what, "give workers more memory, then run the same command again")
        self._mark("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._storage.delete(self._key)
