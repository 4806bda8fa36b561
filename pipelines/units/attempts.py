"""Attempts: which recording a worker was at when it died, so that a recording that kills workers is set aside.

The same for every engine: a worker leaves a mark under runs/ while it is at a unit, and takes it away when it ends. A
unit whose mark is found was not ended: it is retried in a subprocess, so that a crash does not kill the worker.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

from manifests.storage import Storage
from pipelines.units.engines import Worker
from pipelines.units.engines.local import alone
from runtime.errors import SpeechmillError

MOST_DEATHS = 6
"""Deaths at a recording after which it is set aside, and at none in particular after which the run stops."""
DEATHS_ALONE = 3
"""Weight of a crash in a subprocess that does one unit alone: a worker may also die of its node or of other units."""


class WorkerDiedError(SpeechmillError):
    """A recording at which workers died again and again."""

    remedy = "give workers more memory, or convert it with ffmpeg if its codec is unusual"
    passing = True


class Attempts:
    """The marks of one run. Those of an interrupted run make the next one careful, but are not counted as deaths."""

    def __init__(self, storage: Storage, run: str | None = None) -> None:
        """`run` is the run's folder under runs/; without one no death was seen before."""
        self._storage, self._run = storage, run or f"runs/{uuid.uuid4().hex}"

    def begin(self, unit: str, died_alone: bool = False, at_once: int = 1) -> Attempt:
        """An attempt at a unit, so many of its recordings at once.

        `died_alone` where a process of its own has just died at it.
        """
        return Attempt(self._storage, self._run, unit, died_alone, at_once)


class Attempt:
    """One attempt at a unit, as a context. The first writes one mark; those after a death, one for each recording."""

    def __init__(self, storage: Storage, run: str, unit: str, died_alone: bool, at_once: int) -> None:
        self._storage, self._run, self._unit = storage, run, unit
        self._key = f"runs/attempts/{unit}.json"
        self._deaths: Counter[str] = Counter()
        """Deaths by the recording at hand; '' where none was named."""
        self.careful = False
        """Whether an earlier attempt did not end: recordings are then taken strictly one at a time, each named."""
        try:
            mark = json.loads(storage.read(self._key))
        except FileNotFoundError:
            return
        self.careful = True
        if mark["run"] == run:
            self._deaths = Counter(mark["deaths"])
            if died_alone:
                self._deaths[mark["at"] or ""] += DEATHS_ALONE
            elif mark["at"] is not None:  # None: left to this process, which has not begun before
                self._deaths[mark["at"]] += 1
        if at_once > 1:  # who shares a model's calls may move last digits: as it was, until a process died of it alone
            self.careful = self._deaths[""] >= DEATHS_ALONE

    def at(self, recording_id: str) -> None:
        """Begin with a recording. Raises WorkerDiedError where it has killed its share of workers."""
        if self._deaths[recording_id] >= MOST_DEATHS:
            raise WorkerDiedError("workers died again and again while at it (out of memory, or a crash)")
        if self.careful:
            self._mark(recording_id)

    def hand_over(self) -> None:
        """Leave the unit to a process of its own, which makes an attempt that counts on from here."""
        self._check()
        self._mark(None)

    def end(self) -> None:
        self._storage.delete(self._key)

    def _mark(self, recording_id: str | None) -> None:
        mark = {"run": self._run, "at": recording_id, "deaths": self._deaths}
        self._storage.put(self._key, json.dumps(mark).encode())

    def _check(self) -> None:
        if self._deaths[""] >= MOST_DEATHS:
            self.end()
            what = f"{self._unit}: workers died on it again and again, and no single recording is to blame"
            raise SpeechmillError(what, "give workers more memory, then run the same command again")

    def __enter__(self) -> Attempt:
        self._check()
        self._mark("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Guarded:
    """A worker that leaves a unit at which one died to a process of its own, and counts the deaths of that."""

    def __init__(self, make: Callable[[], Worker], attempts: Attempts, name: Callable[[Any], str]) -> None:
        """`name` tells the name under which a worker of `make` begins its attempt at a unit."""
        self._make, self._attempts, self._name = make, attempts, name
        self._worker: Worker | None = None

    def __call__(self, unit: Any) -> Any:
        attempt = self._attempts.begin(self._name(unit))
        if not attempt.careful:
            if self._worker is None:
                with attempt:  # loading may kill too
                    self._worker = self._make()
            return self._worker(unit)
        self._worker = None  # models are not held twice
        silent = 0
        while True:
            attempt.hand_over()
            try:
                result = alone(self._make, unit)
            except BrokenProcessPool as error:
                attempt = self._attempts.begin(self._name(unit), died_alone=True)
                silent += not attempt.careful  # it had ended, and could not say how
                if silent == MOST_DEATHS:
                    what = f"{self._name(unit)}: processes died again and again when they had ended it"
                    raise SpeechmillError(what, "give workers more memory, then run the same command again") from error
            else:
                attempt.end()  # of a unit that is done already no attempt is made
                return result
