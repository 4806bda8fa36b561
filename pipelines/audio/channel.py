"""Between a process and the one that decodes for it: small messages over a socket, blocks of sound in shared memory."""

from __future__ import annotations

import json
import os
import select
import socket
import tempfile
import threading
from typing import Any

import numpy as np

MAX_MESSAGE_BYTES = 1 << 20
BLOCK_SAMPLES = 1 << 18
"""Samples of each channel in a block."""
SLOTS = 3
"""Blocks that may be on their way at once."""
MAX_CHANNELS = 64


class ClosedError(Exception):
    """The process at the other end is gone."""


class Channel:
    """JSON objects over a stream socket, one a line. Several threads may send; one receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._received = bytearray()
        self._sending = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Raises ClosedError where nobody listens any more."""
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError as error:
            raise ClosedError from error

    def receive(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """The next message, or None where none comes for so long. Raises ClosedError."""
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > MAX_MESSAGE_BYTES:
                raise ClosedError("the other end sends what is no message")
            if not self._poll.poll(None if timeout_s is None else 1000 * timeout_s):
                return None
            try:
                data = self._socket.recv(1 << 16)
            except OSError as error:
                raise ClosedError from error
            if not data:
                raise ClosedError
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            message = json.loads(line)
        except ValueError as error:
            raise ClosedError("the other end sends what is no message") from error
        if not isinstance(message, dict):
            raise ClosedError("the other end sends what is no message")
        return message

    def close(self) -> None:
        self._socket.close()


def open_memory() -> int:
    """The descriptor of a file without a name, in memory, that two processes share."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("speechmill-blocks")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def put_block(memory: int, slot: int, block: np.ndarray) -> None:
    """Write float32 (channels, samples) to a slot; all blocks of one recording have equally many channels."""
    rows = [np.ascontiguousarray(row).data for row in block]
    written = os.pwritev(memory, rows, _offset(slot, len(block)))
    if written != block.nbytes:
        raise OSError(f"{written} of {block.nbytes} bytes of a block were written to shared memory")


def get_block(memory: int, slot: int, channels: int, samples: int) -> np.ndarray:
    """A copy of what `put_block` wrote."""
    if not (0 <= slot < SLOTS and 0 < channels <= MAX_CHANNELS and 0 < samples <= BLOCK_SAMPLES):
        raise ClosedError(f"no block is slot {slot} with {channels} x {samples} samples")
    block = np.empty((channels, samples), np.float32)
    if os.preadv(memory, [block.data], _offset(slot, channels)) != block.nbytes:
        raise ClosedError("a block is missing in shared memory")
    return block


def _offset(slot: int, channels: int) -> int:
    return slot * channels * BLOCK_SAMPLES * 4
