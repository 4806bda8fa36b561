"""Engines: units flow through groups of workers. What an engine adds is where the workers live, and nothing else.

`run(units, groups, engine)` yields what the last group made of each unit, in any order.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.errors import SpeechmillError

ENGINES = ("local", "ray", "beam")
Worker = Callable[[Any], Any]
UNKNOWN_WORKERS = 64
"""For which work is cut where nobody says how many there are."""


@dataclass(frozen=True)
class Group:
    """Workers of one kind. `make` is called once a process and loads models; it is pickled, as units and results are.

    What a worker makes of a unit is the unit of the next group.
    """

    name: str
    make: Callable[[], Worker]
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Engine:
    """Which engine, how many workers a group, and what the engine itself is told."""

    name: str = "local"
    workers: tuple[int, int] | None = None
    """At least and at most; None leaves it to the engine: one here, on Ray what the cluster holds."""
    ray_address: str | None = None
    """Of a running cluster; None reads RAY_ADDRESS, else starts Ray here."""
    options: tuple[str, ...] = ()
    """Pipeline options for Beam, as on its own command lines."""

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise SpeechmillError(f"no engine {self.name!r}", f"name one of: {', '.join(ENGINES)}")
        if self.ray_address and self.name != "ray":
            raise SpeechmillError(f"a Ray address for the {self.name} engine", "add --engine ray")
        if self.options and self.name != "beam":
            raise SpeechmillError(f"{' '.join(self.options)}: options of Beam", "add --engine beam, or leave them out")

    def run(self, units: Iterable[Any], groups: Sequence[Group]) -> Generator[Any]:
        """Results of the last group, unordered. `units` is iterated once, possibly on a worker, so it is picklable."""
        run: Callable[..., Iterator[Any]] = importlib.import_module(f"pipelines.units.engines.{self.name}").run
        yield from run(units, groups, self)

    def most_workers(self) -> int:
        """Workers that may be at work at once; where a cluster or a runner decides that, many."""
        if self.workers:
            return self.workers[1]
        if not self.is_here():
            return UNKNOWN_WORKERS
        return (os.cpu_count() or 1) if self.name == "ray" else 1

    def is_here(self) -> bool:
        """Whether the workers are processes of this machine."""
        return not (self.ray_address or self.options or (self.name == "ray" and "RAY_ADDRESS" in os.environ))

    def connect(self) -> None:
        """Connect to a Ray cluster that somebody else runs. Raises SpeechmillError where none answers."""
        if self.name == "ray" and not self.is_here():
            importlib.import_module("pipelines.units.engines.ray").connected(self.ray_address)

    def close(self) -> None:
        """Leave the cluster, or end the one that a run started: it serves all runs until then."""
        if self.name == "ray" and "ray" in sys.modules:
            sys.modules["ray"].shutdown()


def chain(groups: Sequence[Group]) -> Worker:
    """A worker of every group in this process, one after the other."""
    workers = [group.make() for group in groups]

    def work(unit: Any) -> Any:
        for worker in workers:
            unit = worker(unit)
        return unit

    return work
