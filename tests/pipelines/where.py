"""Workers for tests of engines, importable where those run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from pipelines.engines import Engine, Group
from pipelines.errors import SpeechmillError
from pipelines.watch import Done, Failure


def place() -> Callable[[list[str]], list[str]]:
    """A worker that adds the address of its node."""
    import ray

    return lambda places: [*places, ray.util.get_node_ip_address()]


def picky(bad: str) -> Callable[[Done], Done]:
    """A worker that raises for one unit and has a failed recording in another."""

    def work(unit: Done) -> Done:
        if unit.unit == bad:
            raise SpeechmillError(f"{bad} is bad")
        failures = [Failure("x", "vad", "ValueError", "odd")] if unit.recordings == 1 else []
        return Done(unit.unit, unit.recordings, unit.seconds, failures)

    return work


def slow() -> Callable[[list[str]], list[str]]:
    """The same, in no hurry."""
    work = place()

    def late(places: list[str]) -> list[str]:
        time.sleep(1)
        return work(places)

    return late


def main() -> None:
    """ADDRESS: where eight units were, by a group without and one with a GPU."""
    groups = [Group("cpu", place), Group("gpu", place, 1.0, 1.0)]
    print(json.dumps(list(Engine("ray", None, sys.argv[1]).run([[]] * 8, groups))))


def grow() -> None:
    """ADDRESS: where each of many units was, by one worker or two, told as it comes until both nodes were seen."""
    seen = set()
    for (address,) in Engine("ray", (1, 2), sys.argv[1]).run([[]] * 200, [Group("cpu", slow)]):
        print(address, flush=True)
        seen.add(address)
        if len(seen) == 2:
            return
