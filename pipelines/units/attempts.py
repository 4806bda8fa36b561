"""Attempts: which recording a worker was processing when it died, so that a recording that kills workers is set aside.

This works the same for every engine. A worker writes a mark under `runs/attempts/` when it begins a unit and deletes it
when it ends. A mark that is still there means that the last attempt did not end. The unit is then retried in a
subprocess, so that a crash does not kill the worker.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from operator import attrgetter
from types import TracebackType
from typing import Any

from manifests.storage import Storage
from pipelines.units.engines import Worker
from pipelines.units.engines.local import run_isolated
from runtime.errors import SpeechmillError

MAX_DEATHS_PER_UNIT = 6
"""Deaths during one recording after which it is set aside, and deaths during none after which the run stops."""
ISOLATED_DEATH_WEIGHT = 3
"""How many deaths the crash of an isolated subprocess counts as. A worker may also die because its node was lost or
because of other units; a subprocess that does this unit alone does not."""


class WorkerDiedError(SpeechmillError):
    """Workers died repeatedly while they processed this recording."""

    remedy = "give workers more memory, or convert it with ffmpeg if its codec is unusual"
    transient = True


class Attempts:
    """The marks of one run. Marks of an interrupted run make the next run careful, but are not counted as deaths."""

    def __init__(self, storage: Storage, run: str | None = None) -> None:
        """
        Args:
            storage: The storage of the lake.
            run: The folder of the run under `runs/`. Without one, no earlier death is known.
        """
        self._storage = storage
        self.run = run or f"runs/{uuid.uuid4().hex}"

    def begin(self, unit: str, died_isolated: bool = False, max_concurrent: int = 1) -> Attempt:
        """Make an attempt at a unit.

        Args:
            unit: The name of the unit.
            died_isolated: Whether an isolated subprocess has just died during this unit.
            max_concurrent: How many recordings of the unit are processed at the same time.
        """
        return Attempt(self._storage, self.run, unit, died_isolated, max_concurrent)


@dataclass
class _Mark:
    """The content of `runs/attempts/<unit>.json`: what the last attempt at a unit was doing."""

    run: str
    deaths: Counter[str]
    """Deaths so far, by the recording that was being processed; '' where none was."""
    recording_id: str = ""
    """The recording that is being processed; '' while none is."""
    handed_over: bool = False
    """Whether the unit was handed to a subprocess that has not begun it yet."""

    @classmethod
    def from_json(cls, text: bytes) -> _Mark:
        stored = json.loads(text)
        # In the file, "at" is null where the unit was handed over.
        return cls(stored["run"], Counter(stored["deaths"]), stored["at"] or "", stored["at"] is None)

    def to_json(self) -> bytes:
        at = None if self.handed_over else self.recording_id
        return json.dumps({"run": self.run, "at": at, "deaths": self.deaths}).encode()


class Attempt:
    """One attempt at a unit. Use it as a context manager.

    A first attempt writes one mark. An attempt after a death writes a mark for each recording.
    """

    def __init__(self, storage: Storage, run: str, unit: str, died_isolated: bool, max_concurrent: int) -> None:
        self._storage, self._run, self._unit = storage, run, unit
        self._key = f"runs/attempts/{unit}.json"
        self._deaths: Counter[str] = Counter()
        self.careful = False
        """Whether an earlier attempt did not end. Recordings are then processed one at a time, each with a mark."""
        try:
            mark = _Mark.from_json(storage.read(self._key))
        except FileNotFoundError:
            return
        self.careful = True
        if mark.run == run:
            self._deaths = mark.deaths
            if died_isolated:
                self._deaths[mark.recording_id] += ISOLATED_DEATH_WEIGHT
            elif not mark.handed_over:  # a unit that was handed to this process was not begun before
                self._deaths[mark.recording_id] += 1
        # Batching the model calls of several recordings may change last digits. So it stays as it was until an isolated
        # subprocess has died without naming a recording.
        if max_concurrent > 1:
            self.careful = self._deaths[""] >= ISOLATED_DEATH_WEIGHT

    def begin_recording(self, recording_id: str) -> None:
        """Note that a recording is being processed.

        Raises:
            WorkerDiedError: Too many workers have died during this recording.
        """
        if self._deaths[recording_id] >= MAX_DEATHS_PER_UNIT:
            raise WorkerDiedError("workers died again and again while at it (out of memory, or a crash)")
        if self.careful:
            self._write_mark(recording_id)

    def hand_over(self) -> None:
        """Leave the unit to a subprocess, whose attempt continues the count of deaths."""
        self._check()
        self._write_mark("", handed_over=True)

    def end(self) -> None:
        """Delete the mark."""
        self._storage.delete(self._key)

    def _write_mark(self, recording_id: str, handed_over: bool = False) -> None:
        self._storage.put(self._key, _Mark(self._run, self._deaths, recording_id, handed_over).to_json())

    def _check(self) -> None:
        if self._deaths[""] >= MAX_DEATHS_PER_UNIT:
            self.end()
            what = f"{self._unit}: workers died repeatedly, at no single recording identified"
            raise SpeechmillError(what, "give workers more memory, then run the same command again")

    def __enter__(self) -> Attempt:
        self._check()
        self._write_mark("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class CrashGuard:
    """A worker that runs a unit in a subprocess if an earlier worker died during it, and counts further deaths."""

    def __init__(
        self, make: Callable[[], Worker], attempts: Attempts, name: Callable[[Any], str] = attrgetter("name")
    ) -> None:
        """
        Args:
            make: Makes the worker.
            attempts: The marks of the run.
            name: Returns the name under which the worker begins its attempt at a unit.
        """
        self._make, self._attempts, self._name = make, attempts, name
        self._worker: Worker | None = None

    def __call__(self, unit: Any) -> Any:
        attempt = self._attempts.begin(self._name(unit))
        if not attempt.careful:
            if self._worker is None:
                with attempt:  # loading models may kill the process, too
                    self._worker = self._make()
            return self._worker(unit)
        self._worker = None  # so that models are not held in memory twice
        unmarked_deaths = 0
        while True:
            attempt.hand_over()
            try:
                result = run_isolated(self._make, unit)
            except BrokenProcessPool as error:
                attempt = self._attempts.begin(self._name(unit), died_isolated=True)
                # Without a mark the subprocess had ended the unit, but died before it returned the result.
                unmarked_deaths += not attempt.careful
                if unmarked_deaths == MAX_DEATHS_PER_UNIT:
                    what = f"{self._name(unit)}: processes died repeatedly after they had ended it"
                    raise SpeechmillError(what, "give workers more memory, then run the same command again") from error
            else:
                attempt.end()  # the worker makes no attempt at a unit that is already done
                return result
