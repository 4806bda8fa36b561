"""What the work on sound takes: CPU and GPU seconds by part, bytes and memory, with the sums that tell how these vary.

A worker observes recording by recording; what leaves it is a few sums, whatever the number of recordings.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from manifests.storage import requests
from pipelines.audio import children


@dataclass
class Sums:
    """Of one quantity over all observations."""

    total: float = 0.0
    squared: float = 0.0
    with_seconds: float = 0.0
    """Of its products with the seconds of sound."""


@dataclass
class Spent:
    """Sums over observations, each of a recording or a few that were worked on together."""

    observations: int = 0
    seconds: float = 0.0
    """Of sound, and"""
    seconds_squared: float = 0.0
    of: dict[str, Sums] = field(default_factory=dict)
    """By quantity: `cpu_s` in all, `cpu_s.<part>` and `gpu_s.<part>` of parts of it, `read_bytes`, `written_bytes`, and
    `put_requests`, `list_requests`, `get_requests` and `delete_requests` to object stores."""
    peak_memory_bytes: int = 0
    """The most that a worker held, with the processes that decode for it."""
    first_seconds: float = 0.0
    """Of sound in the first observation of each process, which is no observation above: libraries and models get ready
    during it, once however long the run is. `written_bytes` and requests alone are of these seconds, too; and"""
    first_cpu_s: float = 0.0
    """the CPU seconds of these."""

    def observe(self, seconds: float, quantities: dict[str, float]) -> None:
        """Add an observation."""
        self.observations += 1
        self.seconds += seconds
        self.seconds_squared += seconds * seconds
        for name, amount in quantities.items():
            sums = self.of.setdefault(name, Sums())
            sums.total += amount
            sums.squared += amount * amount
            sums.with_seconds += amount * seconds

    def observe_first(self, seconds: float, quantities: dict[str, float]) -> None:
        """Add the first observation of a process."""
        self.first_seconds += seconds
        self.first_cpu_s += quantities["cpu_s"]
        self.add({name: amount for name, amount in quantities.items() if name.endswith(REQUESTS)})

    def add(self, quantities: dict[str, float]) -> None:
        """Add amounts that belong to no recording in particular: they count in totals, and vary with nothing."""
        for name, amount in quantities.items():
            self.of.setdefault(name, Sums()).total += amount

    def merge(self, other: Spent) -> None:
        self.observations += other.observations
        self.seconds += other.seconds
        self.seconds_squared += other.seconds_squared
        self.first_seconds += other.first_seconds
        self.first_cpu_s += other.first_cpu_s
        self.peak_memory_bytes = max(self.peak_memory_bytes, other.peak_memory_bytes)
        for name, sums in other.of.items():
            into = self.of.setdefault(name, Sums())
            into.total += sums.total
            into.squared += sums.squared
            into.with_seconds += sums.with_seconds

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Spent:
        return cls(**{**told, "of": {name: Sums(**sums) for name, sums in told["of"].items()}})


def merge_groups(whole: dict[str, Spent], more: Mapping[str, Spent]) -> dict[str, Spent]:
    """Add what groups of workers have spent to `whole`, which is returned."""
    for group, spent in more.items():
        whole.setdefault(group, Spent()).merge(spent)
    return whole


REQUESTS = "_requests"
_metered: Counter[str] = Counter()
"""What meters have measured in this process, and the processes that decode for it, since it began."""
_begun: set[str] = set()
"""The groups of workers of which this process has ended an observation."""


class Meter:
    """Measures one unit of work in this process, and in those that decode for it."""

    def __init__(self, group: str) -> None:
        """`group` is what the workers that do such work are called."""
        self.group, self.spent = group, Spent()
        self._now: Counter[str] = Counter()
        self._aside: set[int] = set()
        self._here, self._ended_s = _here(), _ended_s()

    def aside(self) -> None:
        """Count the CPU time of this thread in no part: it works ahead while parts run in others, and outlives them."""
        self._aside.add(threading.get_ident())

    @contextmanager
    def part(self, name: str, gpus: float = 0.0, alone: bool = False) -> Iterator[None]:
        """Count the CPU time of this process until the end of the block, and the time in which so many GPUs are held.

        All threads count but those aside, as a model may have threads of its own; or this thread `alone`.
        """
        clock = time.thread_time if alone else self._own_cpu_s
        begun_s, begun_cpu_s = time.perf_counter(), clock()
        try:
            yield
        finally:
            self._now[f"cpu_s.{name}"] += max(0.0, clock() - begun_cpu_s)  # type: ignore[assignment]
            if gpus:
                self._now[f"gpu_s.{name}"] += gpus * (time.perf_counter() - begun_s)  # type: ignore[assignment]

    def count(self, name: str, amount: float) -> None:
        """Count an amount of a quantity, such as bytes, for the recordings at hand."""
        self._now[name] += amount  # type: ignore[assignment]

    def observe(self, seconds: float) -> None:
        """End with the recordings at hand, which are so many seconds of sound."""
        if self.group in _begun:
            self.spent.observe(seconds, self._taken())
        else:
            self.spent.observe_first(seconds, self._taken())
            _begun.add(self.group)

    def end(self) -> dict[str, Spent]:
        """What was spent in all, by the group."""
        self.spent.add(self._taken())
        pids = [os.getpid(), *children.living()]
        self.spent.peak_memory_bytes = max(self.spent.peak_memory_bytes, sum(map(_peak_bytes, pids)))
        return {self.group: self.spent}

    def _taken(self) -> dict[str, float]:
        now, ended_s = _here(), _ended_s()
        taken = {name: amount - self._here.get(name, 0.0) for name, amount in now.items()}
        _metered.update(taken)
        taken = {**self._now, **taken, "cpu_s": taken["cpu_s"] + ended_s - self._ended_s}
        self._here, self._ended_s = now, ended_s
        self._now.clear()
        return taken

    def _own_cpu_s(self) -> float:
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        aside = 0.0
        for thread in threading.enumerate() if self._aside and clock_of else ():
            if thread.ident in self._aside:
                aside += time.clock_gettime(clock_of(thread.ident))  # type: ignore[misc]
        return time.process_time() - aside


class Own:
    """What a command takes in this process, and in those that decode for it, beside the work that meters measure."""

    def __init__(self) -> None:
        self.of: dict[str, Counter[str]] = {}
        """By step: `cpu_s`, and requests by kind."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count until the end of the block for a step."""
        before = _unmetered()
        try:
            yield
        finally:
            now = _unmetered()
            self.add(name, {what: max(0.0, amount - before.get(what, 0.0)) for what, amount in now.items()})

    def add(self, name: str, quantities: Mapping[str, float]) -> None:
        """Add what was taken elsewhere for a step."""
        self.of.setdefault(name, Counter()).update(quantities)

    def to_json(self) -> dict[str, dict[str, float]]:
        return {name: dict(of) for name, of in self.of.items()}


def metered(work: Callable[[Any], Any], unit: Any) -> tuple[Any, dict[str, float]]:
    """What `work` makes of a unit, and what it took in all."""
    meter = Meter(UNITS)
    made = work(unit)
    return made, {name: sums.total for name, sums in meter.end()[UNITS].of.items()}


UNITS = "units"


def _unmetered() -> dict[str, float]:
    return {name: amount - _metered[name] for name, amount in _here().items()}


def _here() -> dict[str, float]:
    """CPU seconds of this process and of those that decode for it, and their requests, since it began."""
    counted = {f"{kind}{REQUESTS}": float(number) for kind, number in requests.sent().items()}
    return counted | {"cpu_s": time.process_time() + children.cpu_s()}


def _ended_s() -> float:
    """CPU seconds of children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def _peak_bytes(pid: int) -> int:
    """Most resident memory that a process ever held; what it holds now where the system does not tell that."""
    import psutil

    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
