"""The local engine: a worker a process, models loaded once in each, results as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from pipelines.units.engines import Engine, Group, Worker, chain
from runtime.errors import SpeechmillError

MAX_DEATHS = 20
"""Workers that may die one after the other without any unit done in between."""
_groups: Sequence[Group] = ()
_work: Worker | None = None


def run(units: Iterable[Any], groups: Sequence[Group], engine: Engine) -> Iterator[Any]:
    """One worker runs in this process. Of more, one that dies is replaced, and its unit is begun again.

    Raises SpeechmillError if workers keep crashing.
    """
    _, workers = engine.workers or (1, 1)
    if workers == 1:
        yield from map(chain(groups), units)
        return
    source = iter(units)
    running: dict[Future[Any], tuple[ProcessPoolExecutor, Any]] = {}
    deaths = 0

    def start(pool: ProcessPoolExecutor, unit: Any) -> None:
        running[_submit(pool, unit)] = (pool, unit)

    try:
        for unit in islice(source, workers):
            start(_process(groups), unit)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                pool, unit = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    deaths += 1
                    if deaths == MAX_DEATHS:
                        raise _dying() from error
                    start(_process(groups), unit)
                    continue
                deaths = 0
                for following in islice(source, 1):
                    try:
                        start(pool, following)
                    except BrokenProcessPool:  # killed when it had just ended
                        start(_process(groups), following)
                yield result
    except BaseException:  # Ctrl-C too: a unit may last an hour, and is begun again by the next run
        _terminate()
        raise
    finally:
        for pool, _ in running.values():
            pool.shutdown(wait=True, cancel_futures=True)


def alone(make: Callable[[], Worker], unit: Any) -> Any:
    """What a worker makes of a unit in a process of its own. Raises BrokenProcessPool where that dies."""
    with _process([Group("alone", make)]) as pool:
        try:
            return _submit(pool, unit).result()
        except KeyboardInterrupt:
            _terminate()
            raise


class Apart:
    """A worker in a process of its own, replaced where it dies: for a runner that does not survive that itself."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._groups = [Group("apart", make)]
        self._pool = _process(self._groups)

    def __call__(self, unit: Any) -> Any:
        for _ in range(MAX_DEATHS):
            try:
                return _submit(self._pool, unit).result()
            except BrokenProcessPool:
                self._pool = _process(self._groups)
        raise _dying()


def _dying() -> SpeechmillError:
    what = f"{MAX_DEATHS} worker processes died one after the other (killed, out of memory or crashed)"
    return SpeechmillError(what, "use fewer --workers if memory ran out, then run the same command again")


def _process(groups: Sequence[Group]) -> ProcessPoolExecutor:
    """A pool of one process: in a larger one a death takes the other processes along."""
    # Not fork: the models' threads and locks do not survive it.
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _set_up, (groups,))


def _submit(pool: ProcessPoolExecutor, unit: Any) -> Future[Any]:
    # Ctrl-C is for the driver alone: workers inherit that it is blocked, and are terminated without tracebacks.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.submit(_run, unit)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _terminate() -> None:
    for process in multiprocessing.active_children():
        process.terminate()


def _set_up(groups: Sequence[Group]) -> None:
    global _groups
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _groups = groups


def _die_with_parent() -> None:
    """A killed driver closes no queue: its workers would wait for ever, and go on with what the next run begins."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(unit: Any) -> Any:
    global _work
    if _work is None:  # not in `_set_up`: what is raised there reaches nobody
        _work = chain(_groups)
    return _work(unit)
