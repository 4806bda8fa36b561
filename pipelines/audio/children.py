"""The processes that decode for this one: started when first needed, watched, ended and replaced. See `child.py`.

Each process that decodes keeps one such child, and a few where its threads decode side by side.
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
from pipelines.audio.messages import Channel, ClosedError
from runtime.errors import OutOfMemoryError

BOOT = "import sys; sys.path[:] = sys.argv[4:]; from pipelines.audio.child import main; main(*map(int, sys.argv[1:4]))"
POLL_S = 0.25
"""A child that is silent for so long is looked at."""
SETTLE_S = 1.0
"""How long a child may take to end what nobody waits for any more."""
KEPT = 2
"""Idle children that a process keeps."""

log = logging.getLogger("speechmill.storage")


class DiedError(Exception):
    """The child is gone. `started` tells whether it ever worked."""

    def __init__(self, how: str, started: bool) -> None:
        super().__init__(how)
        self.started = started


class OverrunError(Exception):
    """The child has used up its CPU time without an answer."""


class Child:
    """A process that decodes for this one, for one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        self.memory = open_memory()
        self._ready = False
        self._owed: list[tuple[str, ...]] = []
        """Of each request without an end, the kinds of message that end it."""
        # Requests may be sent at once: they wait in the socket until the process has started.
        self._process = _started(lambda: _start(theirs, self.memory))
        _living.add(self)

    def ask(self, request: dict[str, Any], ends: tuple[str, ...] = ()) -> None:
        """Send a request, with the kinds of message that will end it; or an order that belongs to one, without."""
        if ends:
            self._owed.append(ends)
        with contextlib.suppress(ClosedError):  # it is dead, as the next answer will tell
            self._channel.send(request)

    def answer(self, cpu_s: float, wall_s: float | None = None) -> dict[str, Any]:
        """The next message. Raises DiedError, or OverrunError after so much CPU or wall time without one."""
        begun: float | None = None
        silent_s = 0.0
        while True:
            try:
                message = self._channel.receive(POLL_S)
            except ClosedError as error:
                raise self._died() from error
            if message is None:
                silent_s += POLL_S
                used = self._cpu_s()
                begun = used if begun is None else begun
                if used - begun > cpu_s or (wall_s is not None and silent_s >= wall_s):
                    raise OverrunError
                continue
            if not self._is_aside(message):
                return message

    def _is_aside(self, message: dict[str, Any]) -> bool:
        """Whether a message answers nothing. What concerns this process in it is done."""
        if "retries" in message:
            retry.count(message["retries"])
        if "requests" in message:
            requests.count(message["requests"])
        if message["kind"] == "log":
            log.log(message["level"], "%s", message["message"])
        elif message["kind"] == "ready":
            self._ready = True
        elif self._owed and message["kind"] in self._owed[0]:
            del self._owed[0]
        return message["kind"] in ("log", "ready")

    def settle(self) -> bool:
        """Whether it lives and is free for the next file, once it has ended what nobody waits for any more."""
        try:
            while self._owed:
                self.answer(SETTLE_S, SETTLE_S)
            while (message := self._channel.receive(0)) is not None:  # it is dead, or has something aside to tell
                self._is_aside(message)
            return True
        except (DiedError, OverrunError, ClosedError):
            return False

    def end(self) -> None:
        """Kill it, if need be, and give back what it took."""
        if self.memory < 0:
            return
        self._kill()
        _living.discard(self)
        self._channel.close()
        os.close(self.memory)
        self.memory = -1

    def _kill(self) -> int | None:
        """End the process; its exit code, or None where there never was one."""
        if self._process.exception() is not None:
            return None
        process = self._process.result()
        process.kill()
        return process.wait()

    def _died(self) -> Exception:
        """How it died."""
        if error := self._process.exception():
            return error if isinstance(error, Exception) else RuntimeError(str(error))
        process = self._process.result()
        try:
            code = process.wait(timeout=SETTLE_S)  # its end of the socket closes a moment before it can be waited for
        except subprocess.TimeoutExpired:
            code = self._kill() or 0
        if not self._ready and code > 0:
            said = os.pread(self.memory, 1 << 16, 0).decode(errors="replace").strip()
            return DiedError(said.rpartition("\n")[2] or f"exit code {code}", False)
        return DiedError(signal.Signals(-code).name if code < 0 else f"exit code {code}", self._ready)

    @property
    def pid(self) -> int | None:
        """Of its process; None before that has started."""
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
    """The process of a child. Raises OutOfMemoryError where the machine has no more processes or memory."""
    # An installation may find our packages by hooks that `-S`, which starts faster, leaves out: name their folders.
    # A package without __init__.py may have other folders too, such as those of our tests; a module has one.
    ours = {str(Path(module).parents[2]) for module in (__file__, retry.__file__)}
    path = [*sorted(ours), *(os.path.abspath(entry) for entry in sys.path if isinstance(entry, str))]
    words = [sys.executable, "-S", "-c", BOOT, str(theirs.fileno()), str(memory), str(os.getpid()), *path]
    # NumPy's threads would do nothing here, and their stacks count as address space.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with theirs:
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=memory,  # until it has started
                pass_fds=(theirs.fileno(), memory),
                env=environment,
                start_new_session=True,  # Ctrl-C is for the command that a person sees
            )
        except (OSError, MemoryError) as error:
            raise OutOfMemoryError(f"no process that decodes can be started: {error}") from error


class _Starter(threading.Thread):
    """Starts children. It lasts as long as its process: a child is killed when the thread that started it ends."""

    def __init__(self) -> None:
        super().__init__(name="decoder-starter", daemon=True)
        self.wanted: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            future, start = self.wanted.get()
            try:
                future.set_result(start())
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)


_starting = threading.Lock()
_starter: _Starter | None = None
_idle: list[Child] = []
_living: weakref.WeakSet[Child] = weakref.WeakSet()


def _started(start: Callable[[], subprocess.Popen[bytes]]) -> Future[subprocess.Popen[bytes]]:
    global _starter
    with _starting:
        if _starter is None:
            made = _Starter()
            try:
                made.start()
            except RuntimeError as error:
                raise OutOfMemoryError(f"no process that decodes can be started: {error}") from error
            _starter = made
    future: Future[subprocess.Popen[bytes]] = Future()
    _starter.wanted.put((future, start))
    return future


def take() -> Child:
    """A child that is free, or a new one."""
    while True:
        try:
            child = _idle.pop()
        except IndexError:
            return Child()
        if child.settle():
            return child
        child.end()


def give(child: Child) -> None:
    if len(_idle) < KEPT:
        _idle.append(child)
    else:
        child.end()


def warm() -> None:
    """Start a child now, where there is none, so that it has started by the time that it is needed."""
    if not _idle:
        give(Child())


def living() -> list[int]:
    """The ids of the processes that decode for this one."""
    return [pid for child in list(_living) if (pid := child.pid) is not None]


def cpu_s() -> float:
    """CPU seconds of the processes that decode for this one; of those that have ended the system tells."""
    return sum(child._cpu_s() for child in list(_living) if child.pid is not None)


def _forget() -> None:
    """A forked copy of this process has no threads, and the children are not its own."""
    global _starter, _starting
    _starter, _starting = None, threading.Lock()
    _idle.clear()
    _living.clear()


os.register_at_fork(after_in_child=_forget)
