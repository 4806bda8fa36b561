"""Messages between a process and the child process that decodes for it: small JSON objects over a socket."""

from __future__ import annotations

import json
import select
import socket
import threading
from typing import Any

MAX_MESSAGE_BYTES = 1 << 20


class ClosedError(Exception):
    """The process at the other end has ended, or has sent something that is not a message."""


class MessageSocket:
    """Sends and receives JSON objects over a stream socket, one on each line.

    Several threads may send, one receives.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._received = bytearray()
        self._sending = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message. Raises ClosedError if the other process has ended."""
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError as error:
            raise ClosedError from error

    def receive(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """Return the next message, or None if there is none within the timeout. Raises ClosedError."""
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > MAX_MESSAGE_BYTES:
                raise ClosedError("the other process sent something that is not a message")
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
            raise ClosedError("the other process sent something that is not a message") from error
        if not isinstance(message, dict):
            raise ClosedError("the other process sent something that is not a message")
        return message

    def close(self) -> None:
        self._socket.close()
