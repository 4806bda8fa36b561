"""The main program of the child process that decodes files, one after the other, for its parent (`children.py`).

The files are untrusted. This process may hang, crash or be killed, and only the current file is lost. Many such
processes are started, so it imports little.
"""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import mmap
import os
import resource
import signal
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from manifests.storage import StorageConfig, requests, retry
from pipelines.audio.config import DecodeConfig
from pipelines.audio.hashing import check_sha256, sha256_of
from pipelines.audio.messages import ClosedError, MessageSocket
from pipelines.audio.probe import probe
from runtime.errors import DecodeLimitError, OutOfMemoryError, SpeechmillError, UnreadableAudioError

if TYPE_CHECKING:
    from pipelines.audio.partial import RecordingDecoder

PR_SET_PDEATHSIG = 1
LARGE_BYTES = 32 << 20
"""Shared memory that is larger than this is freed after each file."""


def main(connection: int, memory: int, parent: int) -> NoReturn:
    """Serve the requests of the parent process until it ends.

    Args:
        connection: The descriptor of the socket to the parent.
        memory: The descriptor of the shared memory.
        parent: The process id of the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C must end the parent only
    if sys.platform == "linux":  # on other systems, a child that hangs may outlive a killed parent
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    null = os.open(os.devnull, os.O_WRONLY)
    # Until here, stderr led to the shared memory, for the error message of a failed start.
    os.dup2(null, sys.stderr.fileno())
    os.close(null)
    messages = MessageSocket(socket.socket(fileno=connection))
    storage = logging.getLogger("speechmill.storage")
    storage.addHandler(_ForwardLog(messages))
    storage.setLevel(logging.INFO)
    storage.propagate = False
    try:
        messages.send({"kind": "ready"})
        _Child(messages, memory).serve()
    except ClosedError:  # the parent has ended
        os._exit(0)


class _ForwardLog(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, messages: MessageSocket) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._messages.send({"kind": "log", "level": record.levelno, "message": record.getMessage()})
        except ClosedError:
            os._exit(0)


class _Child:
    """Serves requests. A probe has one answer. A decoding ends when the parent orders it."""

    def __init__(self, messages: MessageSocket, memory: int) -> None:
        self._messages, self._memory = messages, memory
        self._inherited = resource.getrlimit(resource.RLIMIT_AS)
        self._environment: dict[str, str] | None = None
        self._reported: dict[str, Counter[str]] = {"retries": Counter(), "requests": Counter()}

    def serve(self) -> NoReturn:
        while True:
            request = self._messages.receive()
            assert request is not None
            self._prepare(request)
            config, limits = _storage_config(request["config"]), _decode_config(request["decode"])
            if request["what"] == "probe":
                try:
                    self._limit_memory(limits)
                    self._send("claims", claims=probe(request["path"], config))
                except Exception as error:  # whatever it is, the parent raises it
                    self._fail(error, request["path"], limits)
            else:
                self._decode(request["path"], config, limits)
                self._send("closed")

    def _prepare(self, request: dict[str, Any]) -> None:
        """Take over the current folder of the parent, and its environment, by which credentials are found."""
        if request["folder"]:
            os.chdir(request["folder"])
        if request["environment"] not in (None, self._environment):
            os.environ.clear()
            os.environ.update(request["environment"])
            self._environment = request["environment"]

    def _limit_memory(self, limits: DecodeConfig) -> None:
        # Never more than the machine has. Otherwise it would be unclear whether the file or the machine is at fault.
        self._limit_bytes = int(min(limits.memory_gb * 1e9, os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE))
        soft, hard = self._inherited
        if soft == resource.RLIM_INFINITY or self._limit_bytes < soft:
            resource.setrlimit(resource.RLIMIT_AS, (self._limit_bytes, hard))

    def _decode(self, path: str, config: StorageConfig, limits: DecodeConfig) -> None:
        """Send the blocks of a recording, and follow orders until the order to close comes."""
        decoder: RecordingDecoder | None = None
        order: dict[str, Any] | None = None
        try:
            try:
                decoder = self._open(path, config, limits)
                order = self._send_blocks(decoder, limits)
            except Exception as error:  # as above
                self._fail(error, path, limits)
            while order is None or order["order"] != "close":
                if order is not None:
                    self._verify(decoder, path, config, limits, order["sha256"])
                order = self._next_order(wait=True)
        finally:
            if decoder is not None:
                decoder.close()
            if os.fstat(self._memory).st_size > LARGE_BYTES:
                os.ftruncate(self._memory, 0)

    def _open(self, path: str, config: StorageConfig, limits: DecodeConfig) -> RecordingDecoder:
        try:  # imported here, because NumPy is not needed to read headers
            from pipelines.audio.blocks import BLOCK_SAMPLES, SLOTS
            from pipelines.audio.partial import open_decoder
        except (ImportError, MemoryError) as error:
            raise OutOfMemoryError(f"the decoder cannot be loaded: {error}") from error
        self._free = SLOTS
        self._limit_memory(limits)
        return open_decoder(path, BLOCK_SAMPLES, config, limits)

    def _send_blocks(self, decoder: RecordingDecoder, limits: DecodeConfig) -> dict[str, Any] | None:
        """Send all blocks and then the facts. If an order of the parent comes before the end, stop and return it."""
        from pipelines.audio.blocks import SLOTS, put_block

        for number, block in enumerate(_bounded(decoder, limits)):
            if (order := self._next_order(wait=self._free == 0)) is not None:
                return order
            put_block(self._memory, number % SLOTS, block)
            facts = {} if number else {"facts": decoder.facts()}
            self._messages.send({"kind": "block", "slot": number % SLOTS, "shape": block.shape, **facts})
            self._free -= 1
        self._send("decoded", facts=decoder.facts())
        return None

    def _next_order(self, wait: bool) -> dict[str, Any] | None:
        """Return the next order of the parent, if there is one. Blocks that the parent has read are counted before."""
        while (message := self._messages.receive(None if wait else 0)) is not None:
            if message["order"] != "taken":
                return message
            self._free += 1
            wait = False
        return None

    def _verify(
        self, decoder: RecordingDecoder | None, path: str, config: StorageConfig, limits: DecodeConfig, sha256: str
    ) -> None:
        try:
            if decoder is not None:
                decoder.verify_sha256(sha256)
            else:  # the file could not be opened, perhaps because it holds other bytes
                check_sha256(path, sha256_of(path, config), sha256)
            self._send("verified")
        except Exception as error:  # as above
            self._fail(error, path, limits, verifying=True)

    def _send(self, kind: str, **what: Any) -> None:
        """Send a message, with the requests and retries of the storage since the last message."""
        for name, counted in (("retries", retry.retries()), ("requests", requests.sent())):
            if counted != self._reported[name]:
                what[name] = dict(counted - self._reported[name])
                self._reported[name] = counted
        self._messages.send({"kind": kind, **what})

    def _fail(self, error: Exception, path: str, limits: DecodeConfig, verifying: bool = False) -> None:
        if isinstance(error, ClosedError):
            raise error
        if _is_out_of_memory(error) and not isinstance(error, OutOfMemoryError):
            if not self._has_machine_memory():
                remedy = "give it more memory, or lower decode.memory_gb: a recording that needs more then fails alone"
                error = OutOfMemoryError(f"{path!r}: the machine has no memory left to decode it", remedy)
            elif isinstance(error, MemoryError | ImportError):
                remedy = "leave it out, or raise decode.memory_gb in the recipe if it is sound"
                error = DecodeLimitError(f"{path!r}: it takes more than {limits.memory_gb:g} GB to decode", remedy)
        self._send("error", error=error_to_json(error), verifying=verifying)

    def _has_machine_memory(self) -> bool:
        """Return whether the machine could give this process all the memory that the recipe allows."""
        resource.setrlimit(resource.RLIMIT_AS, self._inherited)
        try:
            mmap.mmap(-1, max(1, self._limit_bytes - _address_space_bytes()), mmap.MAP_PRIVATE).close()
        except OSError:
            return False
        return True


def _bounded(decoder: RecordingDecoder, limits: DecodeConfig) -> Iterator[Any]:
    """Yield the blocks of a decoder. Raises an error if the recording is too long or has too many channels."""
    from pipelines.audio.blocks import MAX_CHANNELS

    num_samples = 0
    for block in decoder:
        num_samples += block.shape[1]
        if len(block) > MAX_CHANNELS:
            raise UnreadableAudioError(f"{decoder.path!r}: {len(block)} channels; at most {MAX_CHANNELS} are read")
        if num_samples > limits.max_hours * 3600 * decoder.sample_rate:
            what = f"{decoder.path!r}: it is longer than {limits.max_hours:g} hours"
            raise DecodeLimitError(what, "cut it, leave it out, or raise decode.max_hours in the recipe")
        yield block


@functools.lru_cache(maxsize=8)
def _storage_config(text: str) -> StorageConfig:
    return StorageConfig(**_settings(text))


@functools.lru_cache(maxsize=8)
def _decode_config(text: str) -> DecodeConfig:
    return DecodeConfig(**_settings(text))


def _settings(text: str) -> dict[str, Any]:
    """Read settings from JSON, in which tuples are lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}


def _address_space_bytes() -> int:
    """Return the size of the address space of this process; 0 if the system does not report it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except FileNotFoundError:  # no Linux
        return 0


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error means that memory ran out.

    PyAV imports some of its parts when a file needs them. If there is no memory for a library, that is an ImportError.
    """
    while error is not None and not isinstance(error, MemoryError):
        if isinstance(error, ImportError) and "failed to map segment" in str(error):
            return True
        error = error.__cause__
    return error is not None


def error_to_json(error: Exception) -> dict[str, Any]:
    """Return an error as JSON, for `jobs.error_from_json`."""
    stored: dict[str, Any] = {
        "kinds": [[kind.__module__, kind.__qualname__] for kind in type(error).__mro__],
        "message": str(error),
        "remedy": getattr(error, "remedy", ""),
    }
    if isinstance(error, OSError) and isinstance(error.errno, int):
        stored |= {"errno": error.errno, "strerror": str(error.strerror), "filename": _text(error.filename)}
    if not isinstance(error, SpeechmillError | OSError):
        stored["trace"] = traceback.format_exc()[-10_000:]
    return stored


def _text(name: object) -> str | None:
    return None if name is None else os.fsdecode(name) if isinstance(name, bytes) else str(name)
