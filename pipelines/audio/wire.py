"""One HTTP/1.1 request and its answer on a new connection, with a deadline and a limit of bytes.

Python's http.client has neither. Also, after a header line that it does not understand, it drops all later lines
without an error. Without `Transfer-Encoding`, the sizes between chunks would be taken for sound.
"""

from __future__ import annotations

import functools
import io
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from pipelines.audio.address import RefusedError, Target

OVERHEAD_BYTES = 1 << 19
"""Bytes that an answer may have besides its body: interim answers, headers, sizes of chunks and trailers. Each byte of
the body allows two more, for servers that send tiny chunks."""
LINE_BYTES = 1 << 16
"""The longest line of a status, a header or the size of a chunk. Browsers accept 256 kB for all headers together."""
PIECE_BYTES = 1 << 17
SHOWN_BYTES = 80
STATUS = re.compile(rb"HTTP/[0-9](?:\.[0-9])? +([1-9][0-9]{2})(?: (.*))?", re.DOTALL)
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
NO_SUCH_HOST = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
"""Permanent errors of a resolver. All others may be temporary."""

AddressInfo = tuple[Any, Any, int, str, Any]


class Deadline:
    """A deadline of an exchange, and `idle_s`, the longest time to wait for the next data."""

    def __init__(self, left_s: float, idle_s: float) -> None:
        self.at, self.idle_s = time.monotonic() + left_s, idle_s

    def wait_s(self) -> float:
        """Return how long to wait for the next data. Raises RefusedError after the deadline."""
        left_s = self.at - time.monotonic()
        if left_s <= 0:
            raise RefusedError("too slow", "it takes longer than [storage] http_max_s: leave it out or raise it")
        return min(left_s, self.idle_s)


def resolve(host: str, port: int, deadline: Deadline) -> list[AddressInfo]:
    """Return the addresses of a host as getaddrinfo does.

    The resolver of the system has no deadline, so it runs in a thread that may be abandoned.

    Raises:
        RefusedError: There is no such host.
        OSError: The resolver fails; TimeoutError if it is slow.
    """
    future: Future[list[AddressInfo]] = Future()

    def ask() -> None:
        try:
            future.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # it is raised below if the caller still waits
            future.set_exception(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        return future.result(deadline.wait_s())
    except UnicodeError as error:
        raise RefusedError("its host is no valid name") from error
    except socket.gaierror as error:
        if error.errno in NO_SUCH_HOST:
            raise RefusedError(f"there is no host {host!r}", "check the address and the resolver of names") from error
        raise


def connect(found: AddressInfo, deadline: Deadline) -> socket.socket:
    """Connect to one address. Raises OSError."""
    family, kind, protocol, _, address = found
    connection = socket.socket(family, kind, protocol)
    try:
        connection.settimeout(deadline.wait_s())
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return the TLS context. It is made once, because it reads the certificates of all authorities."""
    return ssl.create_default_context()


def wrap_tls(plain: socket.socket, host: str, deadline: Deadline) -> socket.socket:
    """Return the connection with TLS. Raises OSError; RefusedError if there is no TLS or no valid certificate."""
    try:
        plain.settimeout(deadline.wait_s())
        return tls_context().wrap_socket(plain, server_hostname=host.removesuffix("."))
    except ssl.SSLCertVerificationError as error:
        raise RefusedError(f"its certificate is not valid: {error.verify_message!r}") from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise  # the server closed the connection, which may be temporary
    except ssl.SSLError as error:
        raise RefusedError(f"no secure connection can be made: {error.reason!r}") from error
    except ValueError as error:  # no certificate can be for such a host
        raise RefusedError("its host is no valid name") from error


@dataclass(frozen=True)
class Head:
    """The status line and the headers of an answer. Names are in lower case; each character is a byte."""

    status: int
    reason: str
    fields: dict[str, list[str]]

    def first(self, name: str) -> str:
        """Return the first header with this name; '' if there is none."""
        return self.fields.get(name, [""])[0]

    @property
    def description(self) -> str:
        """Status and reason for a message, without control characters from the server."""
        return f"status {self.status} {self.reason[:SHOWN_BYTES]!r}" if self.reason else f"status {self.status}"

    @property
    def length(self) -> int | None:
        """The bytes of `Content-Length`; None if it is not a number, or if the answer is chunked."""
        if "transfer-encoding" in self.fields:
            return None
        texts = {text.strip() for line in self.fields.get("content-length", []) for text in line.split(",")}
        if len(texts) > 1:
            raise RefusedError("it tells two different sizes")
        return size_of(texts.pop()) if texts else None


def size_of(text: str) -> int | None:
    """Parse a number of bytes in ASCII digits; None for other text. Raises RefusedError beyond 18 digits."""
    if not re.fullmatch(r"[0-9]+", text):
        return None
    if len(text) > 18:
        raise RefusedError(f"it tells a size of {len(text)} digits")
    return int(text)


class _LimitedStream(io.RawIOBase):
    """Reads from a connection until a deadline, and at most `allowance` bytes."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self.connection, self.allowance = connection, OVERHEAD_BYTES
        self._deadline, self._timeout_s = deadline, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.wait()
        count = self.connection.recv_into(buffer)
        self.allowance -= count
        if self.allowance < 0:
            raise RefusedError(
                f"it sends more than {OVERHEAD_BYTES} bytes that are not part of a file", "fix the server"
            )
        return count

    def wait(self) -> None:
        timeout_s = self._deadline.wait_s()
        if timeout_s != self._timeout_s:  # this saves a system call for most pieces
            self.connection.settimeout(timeout_s)
            self._timeout_s = timeout_s

    def close(self) -> None:
        self.connection.close()
        super().close()


class Exchange:
    """One request and its answer.

    Raises:
        OSError: From all methods, for failures that may be temporary.
        RefusedError: From all methods, if the answer is not HTTP.
    """

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._stream = _LimitedStream(connection, deadline)
        self._reader = io.BufferedReader(self._stream, LINE_BYTES)

    def close(self) -> None:
        self._reader.close()

    def ask(self, target: Target, headers: dict[str, str]) -> Head:
        """Send a GET request, and return the head of the answer."""
        lines = [f"GET {target.path} HTTP/1.1", f"Host: {target.name}", *(f"{k}: {v}" for k, v in headers.items())]
        self._stream.wait()
        self._stream.connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("ascii"))
        while True:
            line = self._line()
            status = STATUS.fullmatch(line)
            if not status:
                raise RefusedError(
                    f"its answer begins with {line[:SHOWN_BYTES]!r}, which is not HTTP", "fix the server"
                )
            fields = self._fields()
            if int(status[1]) >= 200 or int(status[1]) == 101:  # lower numbers are interim answers
                return Head(int(status[1]), (status[2] or b"").decode("latin-1").strip(), fields)

    def body(self, head: Head) -> Iterator[bytes]:
        """Yield the body in pieces.

        Raises ConnectionError if it is cut short, which shows only if its length is known.
        """
        coding = ", ".join(head.fields.get("transfer-encoding", [])).lower().strip()
        if coding == "chunked":
            yield from self._chunks()
        elif coding not in ("", "identity"):
            raise RefusedError(f"it sends with the transfer encoding {coding[:SHOWN_BYTES]!r}")
        elif (length := head.length) is not None:
            yield from self._exactly(length)
        else:
            while piece := self._piece(PIECE_BYTES):
                yield piece

    def _piece(self, limit: int) -> bytes:
        piece = self._reader.read1(min(limit, PIECE_BYTES))
        self._stream.allowance += 3 * len(piece)
        return piece

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._piece(size)
            if not piece:
                raise ConnectionError("body cut short")
            size -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line = self._line()
            match = CHUNK.fullmatch(line)
            if not match:
                raise RefusedError(f"a chunk of its body begins with {line[:SHOWN_BYTES]!r}")
            size = int(match[1], 16)
            if not size:
                self._fields()  # trailers
                return
            yield from self._exactly(size)
            if self._line():
                raise RefusedError("a chunk of its body is longer than it says")

    def _fields(self) -> dict[str, list[str]]:
        """Read headers up to the empty line. Lines that are not headers are skipped, as in browsers."""
        fields: dict[str, list[str]] = {}
        values: list[str] = []
        while line := self._line():
            text = line.decode("latin-1")
            name, colon, value = text.partition(":")
            if text[0] in " \t" and values:  # it continues the line before
                values[-1] += f" {text.strip()}"
            elif colon:
                values = fields.setdefault(name.strip().lower(), [])
                values.append(value.strip())
        return fields

    def _line(self) -> bytes:
        line = self._reader.readline(LINE_BYTES)
        if line.endswith(b"\n"):
            return line.rstrip(b"\r\n")
        if len(line) == LINE_BYTES:
            raise RefusedError(f"a line of its answer is longer than {LINE_BYTES} bytes")
        raise ConnectionError("answer cut short")
