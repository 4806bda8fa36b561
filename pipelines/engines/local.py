"""The local engine: a worker a process, models loaded once in each, results as they come."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from pipelines.errors import SpeechmillError

_work: Callable[[Any], Any] | None = None


def run(units: Iterable[Any], make_worker: Callable[[], Callable[[Any], Any]], workers: int) -> Iterator[Any]:
    """Results of `make_worker()(unit)` for every unit, unordered; at most two units a worker are in flight.

    One worker runs in this process. `make_worker` and units are pickled for more. SpeechmillError where a worker dies.
    """
    if workers == 1:
        yield from map(make_worker(), units)
        return
    source = iter(units)
    # Not fork: the models' threads and locks do not survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _set_up, (make_worker,)) as pool:
        running: set[Future[Any]] = set()
        try:
            while running := running | {pool.submit(_run, unit) for unit in islice(source, 2 * workers - len(running))}:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            remedy = "run the same command again: what is committed stays; use fewer --workers if memory ran out"
            raise SpeechmillError("a worker process died (killed, out of memory or crashed)", remedy) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _set_up(make_worker: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    _work = make_worker()


def _run(unit: Any) -> Any:
    assert _work is not None
    return _work(unit)
