"""Measures what the work on sound uses: CPU and GPU seconds, bytes, requests and memory.

A worker makes an observation for each recording, and returns a few sums, whatever the number of recordings. Sums of
squares and of products with the duration show how usage varies between recordings.
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
    """The sums of one quantity over all observations."""

    total: float = 0.0
    squared: float = 0.0
    """The sum of squares."""
    with_seconds: float = 0.0
    """The sum of products with the seconds of sound."""


@dataclass
class Usage:
    """Sums over observations. An observation is a recording, or a few that were processed together."""

    observations: int = 0
    seconds: float = 0.0
    """Seconds of sound."""
    seconds_squared: float = 0.0
    of: dict[str, Sums] = field(default_factory=dict)
    """Sums by quantity: `cpu_s` in total, `cpu_s.<part>` and `gpu_s.<part>` of its parts, `read_bytes`,
    `written_bytes`, and `put_requests`, `list_requests`, `get_requests` and `delete_requests` to object stores."""
    peak_memory_bytes: int = 0
    """The most memory that a worker held, together with the processes that decode for it."""
    first_seconds: float = 0.0
    """Seconds of sound in the first observation of each process. It is not an observation above, because libraries and
    models are loaded during it, once, however long the run is. Only its requests and `written_bytes` count above."""
    first_cpu_s: float = 0.0
    """CPU seconds of these first observations."""

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
        """Add amounts that belong to no single recording. They count in the totals only."""
        for name, amount in quantities.items():
            self.of.setdefault(name, Sums()).total += amount

    def merge(self, other: Usage) -> None:
        """Add the sums of another worker."""
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
    def from_json(cls, stored: Mapping[str, Any]) -> Usage:
        return cls(**{**stored, "of": {name: Sums(**sums) for name, sums in stored["of"].items()}})


def merge_usage(whole: dict[str, Usage], more: Mapping[str, Usage]) -> dict[str, Usage]:
    """Add the usage of groups of workers to `whole`, and return it."""
    for group, spent in more.items():
        whole.setdefault(group, Usage()).merge(spent)
    return whole


REQUESTS = "_requests"
"""The end of the names of quantities that count requests."""
_metered: Counter[str] = Counter()
"""What meters have measured in this process, and in the processes that decode for it, since it began."""
_begun: set[str] = set()
"""The groups of workers for which this process has made an observation."""


class Meter:
    """Measures one unit of work in this process, and in the processes that decode for it."""

    def __init__(self, group: str) -> None:
        """
        Args:
            group: The name of the group of workers that does such work.
        """
        self.group, self.spent = group, Usage()
        self._now: Counter[str] = Counter()
        self._excluded: set[int] = set()
        self._before, self._ended_s = _process_usage(), _ended_children_cpu_s()

    def exclude_thread(self) -> None:
        """Exclude the CPU time of the calling thread from all parts, because it works ahead while parts run."""
        self._excluded.add(threading.get_ident())

    @contextmanager
    def part(self, name: str, gpus: float = 0.0, this_thread_only: bool = False) -> Iterator[None]:
        """Measure the CPU and GPU time of a part of the work, until the end of the block.

        Args:
            name: The name of the part.
            gpus: The number of GPUs that the part holds.
            this_thread_only: Whether only the CPU time of this thread counts. Otherwise all threads count except the
                excluded ones, because a model may have its own threads.
        """
        clock = time.thread_time if this_thread_only else self._own_cpu_s
        begun_s, begun_cpu_s = time.perf_counter(), clock()
        try:
            yield
        finally:
            self._now[f"cpu_s.{name}"] += max(0.0, clock() - begun_cpu_s)  # type: ignore[assignment]
            if gpus:
                self._now[f"gpu_s.{name}"] += gpus * (time.perf_counter() - begun_s)  # type: ignore[assignment]

    def count(self, name: str, amount: float) -> None:
        """Add an amount of a quantity, such as bytes, to the current observation."""
        self._now[name] += amount  # type: ignore[assignment]

    def observe(self, seconds: float) -> None:
        """End the current observation, which is of so many seconds of sound."""
        if self.group in _begun:
            self.spent.observe(seconds, self._used())
        else:
            self.spent.observe_first(seconds, self._used())
            _begun.add(self.group)

    def end(self) -> dict[str, Usage]:
        """Return what the unit used in total, by group."""
        self.spent.add(self._used())
        pids = [os.getpid(), *children.child_pids()]
        self.spent.peak_memory_bytes = max(self.spent.peak_memory_bytes, sum(map(_peak_bytes, pids)))
        return {self.group: self.spent}

    def _used(self) -> dict[str, float]:
        """Return what was used since this was last called."""
        now, ended_s = _process_usage(), _ended_children_cpu_s()
        used = {name: amount - self._before.get(name, 0.0) for name, amount in now.items()}
        _metered.update(used)
        used = {**self._now, **used, "cpu_s": used["cpu_s"] + ended_s - self._ended_s}
        self._before, self._ended_s = now, ended_s
        self._now.clear()
        return used

    def _own_cpu_s(self) -> float:
        """Return the CPU seconds of this process without the excluded threads."""
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        excluded_s = 0.0
        for thread in threading.enumerate() if self._excluded and clock_of else ():
            if thread.ident in self._excluded:
                excluded_s += time.clock_gettime(clock_of(thread.ident))  # type: ignore[misc]
        return time.process_time() - excluded_s


class CommandUsage:
    """What a command itself uses, in this process and in those that decode for it, besides what meters measure."""

    def __init__(self) -> None:
        self.of: dict[str, Counter[str]] = {}
        """Quantities by step: `cpu_s`, and requests by kind."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step until the end of the block."""
        before = _unmetered()
        try:
            yield
        finally:
            now = _unmetered()
            self.add(name, {what: max(0.0, amount - before.get(what, 0.0)) for what, amount in now.items()})

    def add(self, name: str, quantities: Mapping[str, float]) -> None:
        """Add what other processes used for a step."""
        self.of.setdefault(name, Counter()).update(quantities)

    def to_json(self) -> dict[str, dict[str, float]]:
        return {name: dict(of) for name, of in self.of.items()}


def run_metered(work: Callable[[Any], Any], unit: Any) -> tuple[Any, dict[str, float]]:
    """Return the result of `work` for a unit, and what it used by quantity."""
    meter = Meter(UNITS)
    result = work(unit)
    return result, {name: sums.total for name, sums in meter.end()[UNITS].of.items()}


UNITS = "units"
"""The group of `run_metered`."""


def _unmetered() -> dict[str, float]:
    """Return what this process used since it began, without what meters measured."""
    return {name: amount - _metered[name] for name, amount in _process_usage().items()}


def _process_usage() -> dict[str, float]:
    """Return the CPU seconds and requests of this process and of those that decode for it, since it began."""
    counted = {f"{kind}{REQUESTS}": float(number) for kind, number in requests.sent().items()}
    return counted | {"cpu_s": time.process_time() + children.cpu_s()}


def _ended_children_cpu_s() -> float:
    """Return the CPU seconds of child processes that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def _peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process, or its present memory if the system does not record the peak."""
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
