"""Starts, watches, ends and replaces the child processes that decode for this process. See `child.py`.

A process has one such child, or a few if several of its threads decode at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from manifests.storage import requests, retry
from pipelines.audio.blocks import open_memory
from pipelines.audio.messages import ClosedError, MessageSocket
from runtime.errors import OutOfMemoryError

BOOT = "import sys; sys.path[:] = sys.argv[4:]; from pipelines.audio.child import main; main(*map(int, sys.argv[1:4]))"
POLL_S = 0.25
"""After so much time without a message, the CPU time of a child is checked."""
SETTLE_S = 1.0
"""How long a child may take to end a request that was abandoned."""
MAX_IDLE = 2
"""Idle children that a process keeps."""

log = logging.getLogger("speechmill.storage")


class DiedError(Exception):
    """The child has died. `started` is whether it had started to work."""

    def __init__(self, how: str, started: bool) -> None:
        super().__init__(how)
        self.started = started


class OverrunError(Exception):
    """The child has used up its CPU time without sending a message."""


class Child:
    """A child process that decodes for one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._messages = MessageSocket(ours)
        self.memory = open_memory()
        self._ready = False
        self._open_requests: list[tuple[str, ...]] = []
        """For each request that has not ended, the kinds of message that end it."""
        # Requests may be sent before the process has started: they wait in the socket.
        self._process = _start_in_thread(lambda: _start(theirs, self.memory))
        _living.add(self)

    def send(self, request: dict[str, Any], ends: tuple[str, ...] = ()) -> None:
        """Send a request, or an order that belongs to a request.

        Args:
            request: The message.
            ends: For a request, the kinds of message that will end it.
        """
        if ends:
            self._open_requests.append(ends)
        with contextlib.suppress(ClosedError):  # it is dead, and the next call of `next_message` raises that
            self._messages.send(request)

    def next_message(self, cpu_s: float, wall_s: float | None = None) -> dict[str, Any]:
        """Wait for the next message.

        Args:
            cpu_s: How much CPU time the child may use before it sends one.
            wall_s: How long to wait at most.

        Raises:
            DiedError: The child has died.
            OverrunError: No message has come within these times.
        """
        begun: float | None = None
        silent_s = 0.0
        while True:
            try:
                message = self._messages.receive(POLL_S)
            except ClosedError as error:
                raise self._died() from error
            if message is None:
                silent_s += POLL_S
                used = self._cpu_s()
                begun = used if begun is None else begun
                if used - begun > cpu_s or (wall_s is not None and silent_s >= wall_s):
                    raise OverrunError
                continue
            if not self._is_handled(message):
                return message

    def _is_handled(self, message: dict[str, Any]) -> bool:
        """Apply the counts and log records in a message. Return whether it has no other content."""
        if "retries" in message:
            retry.count(message["retries"])
        if "requests" in message:
            requests.count(message["requests"])
        if message["kind"] == "log":
            log.log(message["level"], "%s", message["message"])
        elif message["kind"] == "ready":
            self._ready = True
        elif self._open_requests and message["kind"] in self._open_requests[0]:
            del self._open_requests[0]
        return message["kind"] in ("log", "ready")

    def is_reusable(self) -> bool:
        """Wait for abandoned requests to end, and return whether the child is alive and ready for the next file."""
        try:
            while self._open_requests:
                self.next_message(SETTLE_S, SETTLE_S)
            while (message := self._messages.receive(0)) is not None:  # log records
                self._is_handled(message)
            return True
        except (DiedError, OverrunError, ClosedError):
            return False

    def end(self) -> None:
        """Kill the process if it runs, and release its resources."""
        if self.memory < 0:
            return
        self._kill()
        _living.discard(self)
        self._messages.close()
        os.close(self.memory)
        self.memory = -1

    def _kill(self) -> int | None:
        """Kill the process and return its exit code; None if it was never started."""
        if self._process.exception() is not None:
            return None
        process = self._process.result()
        process.kill()
        return process.wait()

    def _died(self) -> Exception:
        """Return the error that says how it died."""
        if error := self._process.exception():
            return error if isinstance(error, Exception) else RuntimeError(str(error))
        process = self._process.result()
        try:
            code = process.wait(timeout=SETTLE_S)  # its socket closes a moment before its exit code is there
        except subprocess.TimeoutExpired:
            code = self._kill() or 0
        if not self._ready and code > 0:
            output = os.pread(self.memory, 1 << 16, 0).decode(errors="replace").strip()
            return DiedError(output.rpartition("\n")[2] or f"exit code {code}", False)
        return DiedError(signal.Signals(-code).name if code < 0 else f"exit code {code}", self._ready)

    @property
    def pid(self) -> int | None:
        """The id of its process; None before the process has started."""
        started = self._process.done() and self._process.exception() is None
        return self._process.result().pid if started else None

    def _cpu_s(self) -> float:
        import psutil

        try:
            used = psutil.Process(self._process.result().pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(used.user + used.system)


def _start(theirs: socket.socket, memory: int) -> subprocess.Popen[bytes]:
    """Start the process of a child. Raises OutOfMemoryError if the machine has no more processes or memory."""
    # With `-S` Python starts faster, but skips the hooks by which an installation may find our packages. So the folders
    # of the packages are passed. They are found by modules, because a package without __init__.py may have several
    # folders, such as those of our tests.
    package_folders = {str(Path(module).parents[2]) for module in (__file__, retry.__file__)}
    path = [*sorted(package_folders), *(os.path.abspath(entry) for entry in sys.path if isinstance(entry, str))]
    words = [sys.executable, "-S", "-c", BOOT, str(theirs.fileno()), str(memory), str(os.getpid()), *path]
    # NumPy's threads have no work here, and their stacks count as address space.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with theirs:
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=memory,  # for the error message of a failed start
                pass_fds=(theirs.fileno(), memory),
                env=environment,
                start_new_session=True,  # Ctrl-C must reach only the command itself
            )
        except (OSError, MemoryError) as error:
            raise OutOfMemoryError(f"no process that decodes can be started: {error}") from error


class _Starter(threading.Thread):
    """Starts children.

    It runs as long as its process, because a child is killed when the thread that started it ends.
    """

    def __init__(self) -> None:
        super().__init__(name="decoder-starter", daemon=True)
        self.wanted: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            future, start = self.wanted.get()
            try:
                future.set_result(start())
            except BaseException as error:  # raised when the result is read
                future.set_exception(error)


_starting = threading.Lock()
_starter: _Starter | None = None
_idle: list[Child] = []
_living: weakref.WeakSet[Child] = weakref.WeakSet()


def _start_in_thread(start: Callable[[], subprocess.Popen[bytes]]) -> Future[subprocess.Popen[bytes]]:
    global _starter
    with _starting:
        if _starter is None:
            starter = _Starter()
            try:
                starter.start()
            except RuntimeError as error:
                raise OutOfMemoryError(f"no process that decodes can be started: {error}") from error
            _starter = starter
    future: Future[subprocess.Popen[bytes]] = Future()
    _starter.wanted.put((future, start))
    return future


def acquire() -> Child:
    """Return an idle child, or a new one."""
    while True:
        try:
            child = _idle.pop()
        except IndexError:
            return Child()
        if child.is_reusable():
            return child
        child.end()


def release(child: Child) -> None:
    """Keep a child for later, or end it if there are enough idle children."""
    if len(_idle) < MAX_IDLE:
        _idle.append(child)
    else:
        child.end()


def prestart() -> None:
    """Start a child if there is none, so that it is ready when it is needed."""
    if not _idle:
        release(Child())


def child_pids() -> list[int]:
    """Return the ids of the processes that decode for this process."""
    return [pid for child in list(_living) if (pid := child.pid) is not None]


def cpu_s() -> float:
    """Return the CPU seconds of the running processes that decode for this process."""
    return sum(child._cpu_s() for child in list(_living) if child.pid is not None)


def _reset_after_fork() -> None:
    """Forget thread and children: a forked copy of this process has no threads, and the children are not its own."""
    global _starter, _starting
    _starter, _starting = None, threading.Lock()
    _idle.clear()
    _living.clear()


os.register_at_fork(after_in_child=_reset_after_fork)
