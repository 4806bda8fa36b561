"""What the process that decodes runs: one file after the other, as its parent (`children.py`) asks.

The files are untrusted: this process may hang, crash or be killed, and nothing but the file at hand is lost. It is
started for every process that decodes, so it imports little.
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
from pipelines.audio.messages import Channel, ClosedError
from pipelines.audio.probe import probe
from runtime.errors import DecodeLimitError, OutOfMemoryError, SpeechmillError, UnreadableAudioError

if TYPE_CHECKING:
    from pipelines.audio.partial import RecordingDecoder

PR_SET_PDEATHSIG = 1
LARGE_BYTES = 32 << 20
"""Shared memory beyond this is given back after each file."""


def main(connection: int, memory: int, parent: int) -> NoReturn:
    """Serve the process `parent` over these descriptors until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command that a person sees
    if sys.platform == "linux":  # elsewhere a child that hangs may outlive a parent that was killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stderr.fileno())  # it led to the shared memory, for what is said of a failed start
    os.close(null)
    channel = Channel(socket.socket(fileno=connection))
    storage = logging.getLogger("speechmill.storage")
    storage.addHandler(_Forward(channel))
    storage.setLevel(logging.INFO)
    storage.propagate = False
    try:
        channel.send({"kind": "ready"})
        _Child(channel, memory).serve()
    except ClosedError:  # the parent has gone
        os._exit(0)


class _Forward(logging.Handler):
    """Hands log records to the parent."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._channel.send({"kind": "log", "level": record.levelno, "message": record.getMessage()})
        except ClosedError:
            os._exit(0)


class _Child:
    """Works through requests. Each probe is answered once; of each decoding the parent says when it may end."""

    def __init__(self, channel: Channel, memory: int) -> None:
        self._channel, self._memory = channel, memory
        self._inherited = resource.getrlimit(resource.RLIMIT_AS)
        self._environment: dict[str, str] | None = None
        self._told: dict[str, Counter[str]] = {"retries": Counter(), "requests": Counter()}

    def serve(self) -> NoReturn:
        while True:
            request = self._channel.receive()
            assert request is not None
            self._prepare(request)
            config, limits = _storage_config(request["config"]), _decode_config(request["decode"])
            if request["what"] == "probe":
                try:
                    self._limit_memory(limits)
                    self._tell("claims", claims=probe(request["path"], config))
                except Exception as error:  # whatever it is, the parent raises it
                    self._fail(error, request["path"], limits)
            else:
                self._decode(request["path"], config, limits)
                self._tell("closed")

    def _prepare(self, request: dict[str, Any]) -> None:
        """Stand where the parent stands: its folder, and the variables that tell credentials."""
        if request["folder"]:
            os.chdir(request["folder"])
        if request["environment"] not in (None, self._environment):
            os.environ.clear()
            os.environ.update(request["environment"])
            self._environment = request["environment"]

    def _limit_memory(self, limits: DecodeConfig) -> None:
        # Never more than the machine has: where that is not there, it could not be said whose fault it is.
        self._limit_bytes = int(min(limits.memory_gb * 1e9, os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE))
        soft, hard = self._inherited
        if soft == resource.RLIM_INFINITY or self._limit_bytes < soft:
            resource.setrlimit(resource.RLIMIT_AS, (self._limit_bytes, hard))

    def _decode(self, path: str, config: StorageConfig, limits: DecodeConfig) -> None:
        """Send the blocks of a recording, and serve the orders that follow, until the order to close comes."""
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
                order = self._order(wait=True)
        finally:
            if decoder is not None:
                decoder.close()
            if os.fstat(self._memory).st_size > LARGE_BYTES:
                os.ftruncate(self._memory, 0)

    def _open(self, path: str, config: StorageConfig, limits: DecodeConfig) -> RecordingDecoder:
        try:  # not before: NumPy need not be loaded where headers are all that is read
            from pipelines.audio.blocks import BLOCK_SAMPLES, SLOTS
            from pipelines.audio.partial import open_decoder
        except (ImportError, MemoryError) as error:
            raise OutOfMemoryError(f"what decodes cannot be loaded: {error}") from error
        self._free = SLOTS
        self._limit_memory(limits)
        return open_decoder(path, BLOCK_SAMPLES, config, limits)

    def _send_blocks(self, decoder: RecordingDecoder, limits: DecodeConfig) -> dict[str, Any] | None:
        """All blocks and then the facts; or the order of the parent that came before that."""
        from pipelines.audio.blocks import SLOTS, put_block

        for number, block in enumerate(_bounded(decoder, limits)):
            if (order := self._order(wait=self._free == 0)) is not None:
                return order
            put_block(self._memory, number % SLOTS, block)
            facts = {} if number else {"facts": decoder.facts()}
            self._channel.send({"kind": "block", "slot": number % SLOTS, "shape": block.shape, **facts})
            self._free -= 1
        self._tell("decoded", facts=decoder.facts())
        return None

    def _order(self, wait: bool) -> dict[str, Any] | None:
        """The parent's order, if there is one; blocks that it has taken are counted on the way."""
        while (message := self._channel.receive(None if wait else 0)) is not None:
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
            else:  # it could not be opened as sound; its bytes may be others all the same
                check_sha256(path, sha256_of(path, config), sha256)
            self._tell("proved")
        except Exception as error:  # as above
            self._fail(error, path, limits, proof=True)

    def _tell(self, kind: str, **what: Any) -> None:
        """Send a message, with what the storage was asked, and had to try again, since the last one."""
        for name, counted in (("retries", retry.retries()), ("requests", requests.sent())):
            if counted != self._told[name]:
                what[name] = dict(counted - self._told[name])
                self._told[name] = counted
        self._channel.send({"kind": kind, **what})

    def _fail(self, error: Exception, path: str, limits: DecodeConfig, proof: bool = False) -> None:
        if isinstance(error, ClosedError):
            raise error
        if _is_of_memory(error) and not isinstance(error, OutOfMemoryError):
            if not self._could_give_all():
                remedy = "give it more memory, or lower decode.memory_gb: a recording that needs more then fails alone"
                error = OutOfMemoryError(f"{path!r}: the machine has no memory left to decode it", remedy)
            elif isinstance(error, MemoryError | ImportError):
                remedy = "leave it out, or raise decode.memory_gb in the recipe if it is sound"
                error = DecodeLimitError(f"{path!r}: it takes more than {limits.memory_gb:g} GB to decode", remedy)
        self._tell("error", error=_described(error), proof=proof)

    def _could_give_all(self) -> bool:
        """Whether the machine would have given this process all the memory that the recipe allows it."""
        resource.setrlimit(resource.RLIMIT_AS, self._inherited)
        try:
            mmap.mmap(-1, max(1, self._limit_bytes - _address_space_bytes()), mmap.MAP_PRIVATE).close()
        except OSError:
            return False
        return True


def _bounded(decoder: RecordingDecoder, limits: DecodeConfig) -> Iterator[Any]:
    """Its blocks, until they are more than a recording may have."""
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
    """Settings from JSON, which writes tuples as lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}


def _address_space_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except FileNotFoundError:  # no Linux
        return 0


def _is_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, or this error says in other words that it did.

    PyAV imports parts of itself when a file needs them; a library that finds no room is an ImportError.
    """
    while error is not None and not isinstance(error, MemoryError):
        if isinstance(error, ImportError) and "failed to map segment" in str(error):
            return True
        error = error.__cause__
    return error is not None


def _described(error: Exception) -> dict[str, Any]:
    """An error as JSON, for `jobs.rebuilt`."""
    told: dict[str, Any] = {
        "kinds": [[kind.__module__, kind.__qualname__] for kind in type(error).__mro__],
        "message": str(error),
        "remedy": getattr(error, "remedy", ""),
    }
    if isinstance(error, OSError) and isinstance(error.errno, int):
        told |= {"errno": error.errno, "strerror": str(error.strerror), "filename": _text(error.filename)}
    if not isinstance(error, SpeechmillError | OSError):
        told["trace"] = traceback.format_exc()[-10_000:]
    return told


def _text(name: object) -> str | None:
    return None if name is None else os.fsdecode(name) if isinstance(name, bytes) else str(name)
