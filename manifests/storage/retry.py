"""Trying again: what failed for a passing reason is repeated, ever more slowly, until it works or a deadline passes."""

from __future__ import annotations

import logging
import multiprocessing.util
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

from manifests.storage import StorageError

Result = TypeVar("Result")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 20.0
TELL_AFTER_S = 5.0
"""A request that fails for longer than this is told as a warning, since a person may be waiting."""
TELL_EVERY_S = 10.0
"""Of many that fail together, a warning is told only this often."""

log = logging.getLogger("speechmill.storage")
_causes: Counter[str] = Counter()
_lock = threading.Lock()
_resume_at = 0.0
_told_at = -TELL_EVERY_S


class PassingError(Exception):
    """A failure that may not happen again. `cause` is counted; the server may ask for a pause of `after_s`.

    Where it is too busy, all requests of this process pause.
    """

    def __init__(self, cause: str, after_s: float = 0.0, busy: bool = False) -> None:
        super().__init__(cause)
        self.cause, self.after_s, self.busy = cause, after_s, busy


class PersistentError(StorageError):
    """Passing failures that did not pass before the deadline."""


def retries() -> Counter[str]:
    """How often this process has tried again, by cause."""
    with _lock:
        return _causes.copy()


def count(causes: Mapping[str, int]) -> None:
    """Count tries, by cause, that a process made on behalf of this one."""
    with _lock:
        if not _causes:  # not atexit, which worker processes skip
            multiprocessing.util.Finalize(None, _tell, exitpriority=10)
        _causes.update(causes)


def _tell() -> None:
    counted = retries()
    told = ", ".join(f"{number} {cause}" for cause, number in counted.most_common())
    log.warning("storage: %d requests were tried again (%s)", counted.total(), told)


def persist(attempt: Callable[[int], Result], what: str, limit_s: float) -> Result:
    """`attempt(n)`, n = 0, 1, ..., repeated while it raises PassingError; PersistentError after `limit_s`.

    Pauses double from 0.1 s to 20 s, each drawn from the upper half (so that workers that failed together do not come
    back together).
    """
    global _resume_at, _told_at
    started = time.monotonic()
    number = 0
    while True:
        time.sleep(max(0.0, _resume_at - time.monotonic()))
        try:
            return attempt(number)
        except PassingError as error:
            longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**number)
            pause = max(error.after_s, random.uniform(longest / 2, longest))
            failing_s = time.monotonic() - started
            if failing_s + pause > limit_s:
                told = f"{what}: {error.cause}, {number + 1} times in {failing_s:.0f} s"
                remedy = "check the server and the network, then run the same command again to resume"
                raise PersistentError(told, remedy) from error
            count({error.cause: 1})
            with _lock:
                if error.busy:
                    _resume_at = max(_resume_at, time.monotonic() + pause)
                now = time.monotonic()
                waited_for = failing_s + pause > TELL_AFTER_S and now - _told_at >= TELL_EVERY_S
                _told_at = now if waited_for else _told_at
            level = logging.WARNING if waited_for else logging.DEBUG
            told = f"{error.cause}; next try in {pause:.1f} s, {failing_s:.0f} s of {limit_s:.0f} s gone"
            log.log(level, "%s: %s", what, told)
            time.sleep(pause)
            number += 1
