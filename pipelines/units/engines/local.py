"""The local engine: each worker is a process of this machine, and loads its models once."""

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
"""Workers that may die one after the other without a finished unit in between."""
_groups: Sequence[Group] = ()
"""In a worker process: the groups of its workers."""
_work: Worker | None = None
"""In a worker process: its workers, once their models are loaded."""


def run(units: Iterable[Any], groups: Sequence[Group], engine: Engine) -> Iterator[Any]:
    """Yield the results of the units. See `Engine.run`.

    A single worker runs in this process. If there are more and one dies, it is replaced and its unit is begun again.

    Raises:
        SpeechmillError: Workers keep crashing.
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
            start(_start_process(groups), unit)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                pool, unit = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    deaths += 1
                    if deaths == MAX_DEATHS:
                        raise _too_many_deaths() from error
                    start(_start_process(groups), unit)
                    continue
                deaths = 0
                for following in islice(source, 1):
                    try:
                        start(pool, following)
                    except BrokenProcessPool:  # it was killed after it returned its result
                        start(_start_process(groups), following)
                yield result
    except BaseException:  # Ctrl-C, too: a unit may last an hour, and the next run begins it again
        _terminate_processes()
        raise
    finally:
        for pool, _ in running.values():
            pool.shutdown(wait=True, cancel_futures=True)


def run_isolated(make: Callable[[], Worker], unit: Any) -> Any:
    """Run a unit in a new process, which makes its own worker. Raises BrokenProcessPool if the process dies."""
    with _start_process([Group("isolated", make)]) as pool:
        try:
            return _submit(pool, unit).result()
        except KeyboardInterrupt:
            _terminate_processes()
            raise


class SubprocessWorker:
    """A worker that runs in a subprocess, which is replaced if it dies. For runners that hang when a worker dies."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._groups = [Group("subprocess", make)]
        self._pool = _start_process(self._groups)

    def __call__(self, unit: Any) -> Any:
        for _ in range(MAX_DEATHS):
            try:
                return _submit(self._pool, unit).result()
            except BrokenProcessPool:
                self._pool = _start_process(self._groups)
        raise _too_many_deaths()


def _too_many_deaths() -> SpeechmillError:
    what = f"{MAX_DEATHS} worker processes died one after the other (killed, out of memory or crashed)"
    return SpeechmillError(what, "use fewer --workers if memory ran out, then run the same command again")


def _start_process(groups: Sequence[Group]) -> ProcessPoolExecutor:
    """Start a pool of one process. In a larger pool, the death of one process ends all of them."""
    # Not fork, because the threads and locks of models do not survive it.
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _initialize, (groups,))


def _submit(pool: ProcessPoolExecutor, unit: Any) -> Future[Any]:
    # Only the driver handles Ctrl-C. Workers inherit the blocked signal, and are terminated without tracebacks.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.submit(_run_unit, unit)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _terminate_processes() -> None:
    for process in multiprocessing.active_children():
        process.terminate()


def _initialize(groups: Sequence[Group]) -> None:
    global _groups
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _groups = groups


def _exit_with_parent() -> None:
    """Exit as soon as the driver is dead.

    A driver that is killed closes no queue. Its workers would wait for ever, or work on units that the next run begins.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_unit(unit: Any) -> Any:
    global _work
    if _work is None:  # not in `_initialize`, whose errors do not reach the driver
        _work = chain(_groups)
    return _work(unit)
