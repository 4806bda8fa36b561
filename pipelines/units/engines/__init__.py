"""Engines: they run units of work through groups of workers, on this machine, a Ray cluster or a Beam runner.

The module of an engine has one function, `run(units, groups, engine)`. It yields the result of the last group for each
unit, in any order. Everything else is the same for all engines.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from runtime.errors import SpeechmillError

Worker = Callable[[Any], Any]
UNKNOWN_WORKERS = 64
"""The number of workers that is assumed if a cluster decides how many there are."""


class EngineSpec(NamedTuple):
    """What the rest of the code needs to know of an engine before it runs."""

    module: str
    """The module with its function `run`."""
    packages: tuple[str, ...] = ()
    """The packages that it imports. Its name is the name of the extra that brings them."""
    uses_cluster: bool = False
    """Whether it uses a Ray cluster, which has an address, and by default has as many workers as the cluster holds."""
    takes_options: bool = False
    """Whether it takes options of its own runner."""
    yields_each: bool = True
    """Whether it yields a result for each unit. Otherwise it yields one sum of all results."""


ENGINES = {
    "local": EngineSpec("pipelines.units.engines.local"),
    "ray": EngineSpec("pipelines.units.engines.ray", ("ray",), uses_cluster=True),
    "beam": EngineSpec("pipelines.units.engines.beam", ("apache_beam",), takes_options=True, yields_each=False),
}
"""All engines, by name."""


@dataclass(frozen=True)
class Group:
    """Workers of one kind. The result of a worker is the unit of the next group.

    `make` makes a worker. It is called once in each process and loads models. It is pickled, as units and results are.
    """

    name: str
    make: Callable[[], Worker]
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Engine:
    """Which engine runs the units, with how many workers in each group.

    Raises:
        SpeechmillError: There is no such engine, or it does not take these settings.
    """

    name: str = "local"
    workers: tuple[int, int] | None = None
    """The least and the most workers of a group. None leaves it to the engine: one worker here, on Ray as many as the
    cluster holds."""
    ray_address: str | None = None
    """The address of a running Ray cluster. Without one, RAY_ADDRESS is read, or else Ray is started here."""
    options: tuple[str, ...] = ()
    """Pipeline options for Beam, as on its own command lines."""

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise SpeechmillError(f"no engine {self.name!r}", f"name one of: {', '.join(ENGINES)}")
        if self.ray_address and not self.spec.uses_cluster:
            raise SpeechmillError(f"a Ray address was given to the engine {self.name}", "add --engine ray")
        if self.options and not self.spec.takes_options:
            raise SpeechmillError(
                f"{' '.join(self.options)}: these are options of Beam", "add --engine beam, or leave them out"
            )

    @property
    def spec(self) -> EngineSpec:
        return ENGINES[self.name]

    def run(self, units: Iterable[Any], groups: Sequence[Group]) -> Generator[Any]:
        """Yield the results of the last group, in any order.

        Args:
            units: Iterated once, possibly on a worker, so it must be picklable.
            groups: The groups that each unit passes through, in order.
        """
        run: Callable[..., Iterator[Any]] = importlib.import_module(self.spec.module).run
        yield from run(units, groups, self)

    def max_workers(self) -> int:
        """Return how many workers may run at the same time; `UNKNOWN_WORKERS` if a cluster decides that."""
        if self.workers:
            return self.workers[1]
        if not self.runs_here():
            return UNKNOWN_WORKERS
        return (os.cpu_count() or 1) if self.spec.uses_cluster else 1

    def runs_here(self) -> bool:
        """Return whether the workers are processes of this machine."""
        has_cluster = self.spec.uses_cluster and "RAY_ADDRESS" in os.environ
        return not (self.ray_address or self.options or has_cluster)

    def connect(self) -> None:
        """Connect to a running Ray cluster, if one is used. Raises SpeechmillError if it does not answer."""
        if self.spec.uses_cluster and not self.runs_here():
            importlib.import_module(self.spec.module).connect(self.ray_address)

    def close(self) -> None:
        """Disconnect from the Ray cluster, or end the one that was started here. All runs until then share it."""
        if self.spec.uses_cluster and "ray" in sys.modules:
            sys.modules["ray"].shutdown()


def chain(groups: Sequence[Group]) -> Worker:
    """Return a worker that passes a unit through a worker of every group, all in this process."""
    workers = [group.make() for group in groups]

    def work(unit: Any) -> Any:
        for worker in workers:
            unit = worker(unit)
        return unit

    return work
