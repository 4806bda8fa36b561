"""Work in a thread of its own that hands on calls, which this thread makes in their order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

Emit = Callable[..., None]
"""Called as `emit(function, *arguments)`: has the call made."""


def at_once(function: Callable[..., Any], *arguments: Any) -> None:
    """Make a call here and now."""
    function(*arguments)


class _StoppedError(BaseException):
    """Nobody makes the calls any more. No `except Exception` on the way may take it for the fault of a recording."""


def beside(work: Callable[[Emit], None], waiting: int) -> None:
    """Run `work` in another thread, and make the calls that it emits in this one, in order.

    At most `waiting` calls wait at a time. What `work` raises is raised here, after the calls that it has emitted; what
    a call raises is raised here too, and `work` is stopped when it emits the next one.
    """
    calls: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]] | BaseException | None] = queue.Queue(waiting)
    stopped = threading.Event()

    def emit(function: Callable[..., Any], *arguments: Any) -> None:
        if stopped.is_set():
            raise _StoppedError
        calls.put((function, arguments))

    def run() -> None:
        try:
            work(emit)
        except BaseException as error:  # raised by the thread that waits
            calls.put(error)
        else:
            calls.put(None)

    thread = threading.Thread(target=run, name="beside")
    thread.start()
    try:
        while (call := calls.get()) is not None:
            if isinstance(call, BaseException):
                raise call
            function, arguments = call
            function(*arguments)
    finally:
        stopped.set()
        while thread.is_alive():  # it may wait for room in the queue
            try:
                calls.get(timeout=0.05)
            except queue.Empty:
                continue
        thread.join()
