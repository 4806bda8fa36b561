"""Retries: a transient failure is retried with exponential back-off until it succeeds or a deadline passes."""

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
WARN_AFTER_S = 5.0
"""A request that fails for longer than this is logged as a warning, because a person may be waiting."""
WARN_EVERY_S = 10.0
"""Shortest time between two such warnings, since many requests may fail together."""

log = logging.getLogger("speechmill.storage")
_causes: Counter[str] = Counter()
_lock = threading.Lock()
_resume_at = 0.0
_warned_at = -WARN_EVERY_S


class TransientError(Exception):
    """A transient failure, which `persist` retries.

    Args:
        cause: A short description, by which retries are counted.
        after_s: The pause that the server asks for, in seconds.
        busy: Whether the server is overloaded; then all requests of this process pause.
    """

    def __init__(self, cause: str, after_s: float = 0.0, busy: bool = False) -> None:
        super().__init__(cause)
        self.cause, self.after_s, self.busy = cause, after_s, busy


class PersistentError(StorageError):
    """Transient failures that lasted until the deadline."""


def retries() -> Counter[str]:
    """How often this process has retried, by cause."""
    with _lock:
        return _causes.copy()


def count(causes: Mapping[str, int]) -> None:
    """Add retries by cause that this process, or another one for it, has made."""
    with _lock:
        if not _causes:  # worker processes skip atexit
            multiprocessing.util.Finalize(None, _log_retries, exitpriority=10)
        _causes.update(causes)


def _log_retries() -> None:
    counted = retries()
    causes = ", ".join(f"{number} {cause}" for cause, number in counted.most_common())
    log.warning("storage: %d requests were tried again (%s)", counted.total(), causes)


def persist(attempt: Callable[[int], Result], what: str, limit_s: float) -> Result:
    """Call `attempt(0)`, `attempt(1)`, ... until one does not raise TransientError.

    Pauses double from 0.1 s to 20 s. Each is drawn from the upper half of that, so that workers that failed together
    do not retry together.

    Args:
        attempt: The request; its argument is the number of failed tries.
        what: The request in words, for messages.
        limit_s: The deadline in seconds.

    Raises:
        PersistentError: The failures lasted until the deadline.
    """
    global _resume_at, _warned_at
    started = time.monotonic()
    number = 0
    while True:
        time.sleep(max(0.0, _resume_at - time.monotonic()))
        try:
            return attempt(number)
        except TransientError as error:
            longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**number)
            pause = max(error.after_s, random.uniform(longest / 2, longest))
            failing_s = time.monotonic() - started
            if failing_s + pause > limit_s:
                message = f"{what}: {error.cause}, {number + 1} times in {failing_s:.0f} s"
                remedy = "check the server and the network, then run the same command again to resume"
                raise PersistentError(message, remedy) from error
            count({error.cause: 1})
            with _lock:
                if error.busy:
                    _resume_at = max(_resume_at, time.monotonic() + pause)
                now = time.monotonic()
                warn = failing_s + pause > WARN_AFTER_S and now - _warned_at >= WARN_EVERY_S
                _warned_at = now if warn else _warned_at
            level = logging.WARNING if warn else logging.DEBUG
            progress = f"{error.cause}; next try in {pause:.1f} s, {failing_s:.0f} s of {limit_s:.0f} s gone"
            log.log(level, "%s: %s", what, progress)
            time.sleep(pause)
            number += 1
