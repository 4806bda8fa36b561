"""A background thread that does work and hands calls back to the thread that started it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

Emit = Callable[..., None]
"""Called as `emit(function, *arguments)`. It has the call made, now or later, in the thread that makes the calls."""


def call_directly(function: Callable[..., Any], *arguments: Any) -> None:
    """An `Emit` that makes the call at once, in the same thread."""
    function(*arguments)


class _StoppedError(BaseException):
    """Calls are no longer made. A BaseException, so that no `except Exception` takes it for a recording's failure."""


def run_in_background(work: Callable[[Emit], None], max_waiting: int) -> None:
    """Run `work` in a background thread, and make the calls that it emits in this thread, in order.

    Args:
        work: What to do. It gets an `Emit`.
        max_waiting: How many emitted calls may wait to be made; `work` blocks when it emits more.

    Raises:
        BaseException: Whatever `work` raises, after the calls that it emitted before. Also whatever a call raises;
            `work` is then stopped when it emits the next call.
    """
    calls: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]] | BaseException | None] = queue.Queue(max_waiting)
    stopped = threading.Event()

    def emit(function: Callable[..., Any], *arguments: Any) -> None:
        if stopped.is_set():
            raise _StoppedError
        calls.put((function, arguments))

    def run() -> None:
        try:
            work(emit)
        except BaseException as error:  # the waiting thread raises it
            calls.put(error)
        else:
            calls.put(None)

    thread = threading.Thread(target=run, name="background")
    thread.start()
    try:
        while (call := calls.get()) is not None:
            if isinstance(call, BaseException):
                raise call
            function, arguments = call
            function(*arguments)
    finally:
        stopped.set()
        while thread.is_alive():  # it may be blocked on the full queue
            try:
                calls.get(timeout=0.05)
            except queue.Empty:
                continue
        thread.join()
