"""Workers for tests of engines, importable where those run."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable

from manifests.lake import Lake
from pipelines.annotate import Annotator
from pipelines.progress.watch import UnitResult
from pipelines.stages.vad import Vad, VadConfig
from pipelines.units.attempts import Attempts
from pipelines.units.engines import Engine, Group
from runtime.errors import SpeechmillError
from runtime.failures import Failure


def place() -> Callable[[list[str]], list[str]]:
    """A worker that adds the address of its node."""
    import ray

    return lambda places: [*places, ray.util.get_node_ip_address()]


def picky(bad: str) -> Callable[[UnitResult], UnitResult]:
    """A worker that raises for one unit and has a failed recording in another."""

    def work(unit: UnitResult) -> UnitResult:
        if unit.name == bad:
            raise SpeechmillError(f"{bad} is bad")
        failures = [Failure("x", "vad", "ValueError", "odd")] if unit.recordings == 1 else []
        return UnitResult(unit.name, unit.recordings, unit.seconds, failures)

    return work


def slow() -> Callable[[list[str]], list[str]]:
    """The same, in no hurry."""
    work = place()

    def late(places: list[str]) -> list[str]:
        time.sleep(1)
        return work(places)

    return late


def ending() -> Callable[[int], int]:
    """A worker that dies soon after it has done a unit."""

    def work(unit: int) -> int:
        threading.Timer(0.2, os._exit, [1]).start()
        return unit

    return work


def mute(attempts: Attempts) -> Callable[[str], None]:
    """A worker that dies when it has ended its attempt."""

    def work(unit: str) -> None:
        attempts.begin(unit).end()
        os._exit(1)

    return work


def sharing(lake: Lake) -> Callable[[UnitResult], UnitResult]:
    """A worker that finds voice activity in shares of batches."""
    annotator = Annotator(lake, [Vad(VadConfig())])
    return lambda unit: annotator.annotate(unit.name)


def fatal() -> Callable[[object], object]:
    """A worker that any unit kills."""
    return lambda unit: os._exit(1)


def crowded() -> Callable[[UnitResult], UnitResult]:
    """A worker that raises where it is called while it is at work."""
    at_work = 0

    def work(unit: UnitResult) -> UnitResult:
        nonlocal at_work
        at_work += 1
        time.sleep(0.1)
        at_work -= 1
        if at_work:
            raise SpeechmillError("one at a time")
        return unit

    return work


def hopeless() -> None:
    """A unit that no guard keeps from killing its workers; two deaths are enough here."""
    from pipelines.units.engines import ray

    ray.MAX_DEATHS = 2
    try:
        list(Engine("ray", (1, 1)).run([[]], [Group("fatal", fatal)]))
    except SpeechmillError as error:
        print(f"{error} {error.remedy}")


def stored() -> None:
    """ADDRESS: bytes in all object stores of the cluster while units wait, are under way and come back."""
    import ray

    for done in Engine("ray", (1, 1), sys.argv[1]).run([[]] * 12, [Group("cpu", slow, 1.0, 1.0)]):
        kept = ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]
        print(kept, *done, flush=True)
    ref = ray.put(b"x" * 10_000_000)
    time.sleep(5)  # nodes report what they hold from time to time
    kept = ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]
    print(kept, "control", ref is not None)


def main() -> None:
    """ADDRESS: where eight units were, by a group without and one with a GPU."""
    groups = [Group("cpu", place), Group("gpu", place, 1.0, 1.0)]
    print(json.dumps(list(Engine("ray", None, sys.argv[1]).run([[]] * 8, groups))))


def told() -> None:
    """ADDRESS: where a unit was, or the error and its remedy."""
    try:
        print(list(Engine("ray", None, sys.argv[1]).run([[]], [Group("cpu", place)])))
    except SpeechmillError as error:
        print(f"{error} remedy: {error.remedy}")


def grow() -> None:
    """ADDRESS: where each of many units was, by one worker or two, told as it comes until both nodes were seen."""
    seen = set()
    for (address,) in Engine("ray", (1, 2), sys.argv[1]).run([[]] * 200, [Group("cpu", slow)]):
        print(address, flush=True)
        seen.add(address)
        if len(seen) == 2:
            return
