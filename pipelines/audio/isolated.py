"""Decoding and probing of untrusted files in a process of their own, which can be ended; see `child.py` for its side.

Each process that decodes keeps one such child, started when it is first needed. A child that exceeds a limit of the
recipe's table [decode] is killed, and one that dies is replaced: either costs a recording at most, never the worker.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import json
import logging
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import manifests
import pipelines
from manifests.storage import StorageConfig, StorageError, retry
from pipelines.audio.blocks import get_block, open_memory
from pipelines.audio.channel import Channel, ClosedError
from pipelines.audio.config import DECODE, DecodeConfig
from pipelines.audio.files import DEFAULT, scheme
from pipelines.errors import DecodeLimitError, DecoderDiedError, OutOfMemoryError, SpeechmillError

BOOT = "import sys; sys.path[:] = sys.argv[4:]; from pipelines.audio.child import main; main(*map(int, sys.argv[1:4]))"
POLL_S = 0.25
"""A child that is silent for so long is looked at."""
SETTLE_S = 1.0
"""How long a child may take to end what nobody waits for any more."""
KEPT = 2
"""Idle children that a process keeps."""

log = logging.getLogger("speechmill.storage")


class _DiedError(Exception):
    """The child is gone. `started` tells whether it ever worked."""

    def __init__(self, how: str, started: bool) -> None:
        super().__init__(how)
        self.started = started


class _OverrunError(Exception):
    """The child has used up its CPU time without an answer."""


class _Child:
    """A process that decodes for this one, for one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        self.memory = open_memory()
        self._ready = False
        self._last_answer: str | None = None
        """The kind of message that ends what was asked; None where nothing is owed."""
        # Requests may be sent at once: they wait in the socket until the process has started.
        self._process = _started(lambda: _start(theirs, self.memory))

    def ask(self, request: dict[str, Any], last_answer: str | None = None) -> None:
        """Send a request, or an order that belongs to it."""
        self._last_answer = last_answer or self._last_answer
        with contextlib.suppress(ClosedError):  # it is dead, as the next answer will tell
            self._channel.send(request)

    def answer(self, cpu_s: float, wall_s: float | None = None) -> dict[str, Any]:
        """The next message. Raises _DiedError, or _OverrunError after so much CPU or wall time without one."""
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
                    raise _OverrunError
                continue
            if "retries" in message:
                retry.count(message["retries"])
            kind = message["kind"]
            if kind == "log":
                log.log(message["level"], "%s", message["message"])
            elif kind == "ready":
                self._ready = True
            else:
                if kind == self._last_answer or (kind == "error" and self._last_answer == "claims"):
                    self._last_answer = None
                return message

    def settle(self) -> bool:
        """Whether it lives and is free for the next file, once it has ended what nobody waits for any more."""
        try:
            while self._last_answer is not None:
                self.answer(SETTLE_S, SETTLE_S)
            return self._channel.receive(0) is None
        except (_DiedError, _OverrunError, ClosedError):
            return False

    def end(self) -> None:
        """Kill it, if need be, and give back what it took."""
        if self.memory < 0:
            return
        self._kill()
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
            return _DiedError(said.rpartition("\n")[2] or f"exit code {code}", False)
        return _DiedError(signal.Signals(-code).name if code < 0 else f"exit code {code}", self._ready)

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
    ours = {str(Path(package.__path__[0]).parent) for package in (pipelines, manifests)}
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
_idle: list[_Child] = []


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


def _take() -> _Child:
    """A child that is free, or a new one."""
    while True:
        try:
            child = _idle.pop()
        except IndexError:
            return _Child()
        if child.settle():
            return child
        child.end()


def _give(child: _Child) -> None:
    if len(_idle) < KEPT:
        _idle.append(child)
    else:
        child.end()


def warm() -> None:
    """Start a child now, where there is none, so that it has started by the time that it is needed."""
    if not _idle:
        _give(_Child())


def _forget() -> None:
    """A forked copy of this process has no threads, and the children are not its own."""
    global _starter, _starting
    _starter, _starting = None, threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_forget)


class _Job:
    """One file in one child; begun again, once, in a fresh child where that one dies."""

    def __init__(self, what: str, path: str, config: StorageConfig, decode: DecodeConfig, last_answer: str) -> None:
        self._path, self._decode, self._last_answer = path, decode, last_answer
        remote = bool(scheme(path))
        self._request = {
            "what": what,
            "path": path,
            "config": _text(config),
            "decode": _text(decode),
            "folder": None if remote or os.path.isabs(path) else os.getcwd(),
            "environment": dict(os.environ) if remote else None,  # it holds what credentials are found by
        }
        self._orders: list[dict[str, Any]] = []
        self._deaths = 0
        self._taken = self._skip = 0
        self._child: _Child | None = _take()
        self._child.ask(self._request, last_answer)

    def order(self, order: dict[str, Any]) -> None:
        """Something that belongs to the request; given again to a fresh child."""
        if self._child is not None:
            self._orders.append(order)
            self._child.ask(order)

    def answer(self, what: str, setting: str, cpu_s: float, proof: bool = False) -> dict[str, Any]:
        """The next message of the child, or what it raised; while it proves, not what decoding raised before.

        Raises DecodeLimitError where `what` uses up `cpu_s`, which `setting` of the recipe gives, DecoderDiedError
        where a second child has died, and OutOfMemoryError where none can be started.
        """
        while True:
            if self._child is None:
                raise SpeechmillError(f"{self._path!r}: its decoding was ended", "open it again")
            try:
                message = self._child.answer(cpu_s)
            except _DiedError as error:
                self._begin_again(error)
                continue
            except _OverrunError:
                self._kill()
                told = f"{self._path!r}: {what} took more than {cpu_s:g} s of CPU time"
                remedy = f"leave it out or convert it with ffmpeg, or raise decode.{setting} in the recipe"
                raise DecodeLimitError(told, remedy) from None
            except BaseException:  # of a child that could not be started, or Ctrl-C
                self._kill()
                raise
            if message["kind"] == "error" and message["proof"] >= proof:
                raise rebuilt(message["error"])
            if message["kind"] == "block" and self._skip:
                self._skip -= 1
                self._child.ask({"order": "taken"})
                continue
            return message

    def block(self, message: dict[str, Any]) -> np.ndarray:
        assert self._child is not None
        try:
            block = get_block(self._child.memory, message["slot"], *message["shape"])
        except ValueError as error:
            self._kill()
            raise DecoderDiedError(f"{self._path!r}: the process that decodes it is out of order: {error}") from None
        self._child.ask({"order": "taken"})
        self._taken += 1
        return block

    def close(self) -> None:
        """Leave the child to others; it ends by itself what it is at."""
        child, self._child = self._child, None
        if child is not None:
            if self._last_answer == "closed":
                child.ask({"order": "close"})
            _give(child)

    def _begin_again(self, death: _DiedError) -> None:
        self._kill()
        self._deaths += 1
        if self._deaths == 2:
            if not death.started:
                raise OutOfMemoryError(f"no process that decodes can be started: {death}") from None
            raise DecoderDiedError(f"{self._path!r}: the process that decodes died at it twice: {death}") from None
        self._skip = self._taken
        self._child = _Child()
        for request in (self._request, *self._orders):
            self._child.ask(request, self._last_answer)

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def __del__(self) -> None:
        if hasattr(self, "_child"):
            self.close()


class IsolatedDecoder:
    """`Decoder` in a process of its own: the same blocks, float32 (channels, samples) at full scale 1. Iterate it once.

    After the first block it has the attributes `sample_rate`, `channels` and `channel_layout`, after the last one all
    that `Decoder.facts` names. Iterating raises what `Decoder` raises, DecodeLimitError and DecoderDiedError, and
    OutOfMemoryError where the machine cannot decode at all.
    """

    def __init__(self, path: str, config: StorageConfig = DEFAULT, decode: DecodeConfig = DECODE) -> None:
        self.path, self.decode = path, decode
        self._facts: dict[str, Any] = {}
        self._job = _Job("decode", path, config, decode, "closed")

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            message = self._job.answer("decoding without any new sound", "stall_s", self.decode.stall_s)
            self._facts |= message.get("facts", {})
            if message["kind"] == "decoded":
                return
            yield self._job.block(message)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_facts"][name]
        except KeyError:
            raise AttributeError(f"{name!r} is not known of a recording before it is decoded") from None

    def prove(self, sha256: str) -> None:
        """Raise ChangedAudioError unless the bytes of the file have this hex digest; reads what decoding did not.

        It may be called after any block, and ends the iteration.
        """
        self._job.order({"order": "prove", "sha256": sha256})
        # No limit: what is left is to read the file to its end. Blocks that were on their way come first.
        while self._job.answer("reading it", "stall_s", math.inf, proof=True)["kind"] != "proved":
            pass

    def close(self) -> None:
        """End the decoding, at any time."""
        self._job.close()


class Probing:
    """`probe` in a process of its own, while this one does something else. Close it, or use it as a context."""

    def __init__(self, path: str, config: StorageConfig = DEFAULT, decode: DecodeConfig = DECODE) -> None:
        self._decode = decode
        self._job = _Job("probe", path, config, decode, "claims")

    def result(self) -> dict[str, Any]:
        """The claims of the header, waited for. Raises what `probe` raises, and as `IsolatedDecoder`."""
        claims: dict[str, Any] = self._job.answer("reading its header", "probe_s", self._decode.probe_s)["claims"]
        return claims

    def close(self) -> None:
        self._job.close()

    def __enter__(self) -> Probing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def probe(path: str, config: StorageConfig = DEFAULT, decode: DecodeConfig = DECODE) -> dict[str, Any]:
    """What `pipelines.audio.probe.probe` finds, found in a process of its own."""
    with Probing(path, config, decode) as probing:
        return probing.result()


_texts: dict[int, tuple[StorageConfig | DecodeConfig, str]] = {}


def _text(config: StorageConfig | DecodeConfig) -> str:
    """Settings as JSON, made once: hashing all of them for a cache would take as long as writing them."""
    known, text = _texts.get(id(config), (None, ""))
    if known is not config:
        if len(_texts) > 8:
            _texts.clear()
        text = json.dumps(vars(config))
        _texts[id(config)] = config, text
    return text


def rebuilt(told: dict[str, Any]) -> Exception:
    """An error of a child: of its own class where that is ours or Python's, else of the nearest base that is."""
    for module, name in told["kinds"]:
        if module.partition(".")[0] in ("pipelines", "manifests"):
            kind = getattr(importlib.import_module(module), name, None)
            if isinstance(kind, type) and issubclass(kind, SpeechmillError | StorageError | OutOfMemoryError):
                error: Exception = kind(told["message"], told["remedy"])
                return error
        elif module == "builtins" and name not in ("Exception", "BaseException"):
            kind = getattr(builtins, name)
            given = (told["errno"], told["strerror"], told["filename"]) if "errno" in told else (told["message"],)
            try:
                error = kind(*given)
            except TypeError:  # UnicodeDecodeError, say, is made of other things than a message
                continue
            if "trace" in told:
                error.add_note(told["trace"])
            return error
    return RuntimeError(f"{told['kinds'][0][1]}: {told['message']}")
