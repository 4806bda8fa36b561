"""One HTTP/1.1 exchange on a connection of its own: each wait ends at a deadline, each byte is paid from an allowance.

The library's http.client knows neither, and after a header line that it does not understand it drops all others
without a word, `Transfer-Encoding` among them: the marks between chunks would be taken for sound.
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
"""What an answer may hold beside its body: interim answers, headers, marks of chunks and trailers. Each byte of the
body allows two more, for servers that send it in tiny chunks."""
LINE_BYTES = 1 << 16
"""Longest line of a status, a header or a mark of a chunk; browsers take 256 kB for all headers together."""
PIECE_BYTES = 1 << 17
SHOWN_BYTES = 80
STATUS = re.compile(rb"HTTP/[0-9](?:\.[0-9])? +([1-9][0-9]{2})(?: (.*))?", re.DOTALL)
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
NO_SUCH_HOST = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
"""What a resolver says for good; all else may pass."""

AddressInfo = tuple[Any, Any, int, str, Any]


class Deadline:
    """A moment until which something is waited for, and `idle_s`, the longest wait in which nothing comes at all."""

    def __init__(self, left_s: float, idle_s: float) -> None:
        self.at, self.idle_s = time.monotonic() + left_s, idle_s

    def wait_s(self) -> float:
        """How long to wait for the next thing. Raises RefusedError where the deadline has passed."""
        left_s = self.at - time.monotonic()
        if left_s <= 0:
            raise RefusedError("too slow", "it takes longer than [storage] http_max_s: leave it out or raise it")
        return min(left_s, self.idle_s)


def resolve(host: str, port: int, deadline: Deadline) -> list[AddressInfo]:
    """The addresses of a host as getaddrinfo gives them. Raises OSError, TimeoutError where the resolver is slow.

    The resolver of the system knows no deadline, so it is asked in a thread that may be left behind.
    """
    future: Future[list[AddressInfo]] = Future()

    def ask() -> None:
        try:
            future.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # raised below, for whoever still waits
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
    """A connection to one address. Raises OSError."""
    family, kind, protocol, _, address = found
    made = socket.socket(family, kind, protocol)
    try:
        made.settimeout(deadline.wait_s())
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


@functools.cache
def tls() -> ssl.SSLContext:
    """Made once, since the certificates of all authorities are read for it."""
    return ssl.create_default_context()


def secured(plain: socket.socket, host: str, deadline: Deadline) -> socket.socket:
    """The connection under TLS. Raises OSError, or RefusedError for no TLS or no valid certificate."""
    try:
        plain.settimeout(deadline.wait_s())
        return tls().wrap_socket(plain, server_hostname=host.removesuffix("."))
    except ssl.SSLCertVerificationError as error:
        raise RefusedError(f"its certificate is not valid: {error.verify_message!r}") from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise  # it hung up, and may not the next time
    except ssl.SSLError as error:
        raise RefusedError(f"no secure connection can be made: {error.reason!r}") from error
    except ValueError as error:  # a host that no certificate can name
        raise RefusedError("its host is no valid name") from error


@dataclass(frozen=True)
class Head:
    """Status line and headers of an answer, names in small letters, a character for each byte."""

    status: int
    reason: str
    fields: dict[str, list[str]]

    def first(self, name: str) -> str:
        return self.fields.get(name, [""])[0]

    @property
    def told(self) -> str:
        """Status and reason for a message: what comes from the server cannot drive a terminal."""
        return f"status {self.status} {self.reason[:SHOWN_BYTES]!r}" if self.reason else f"status {self.status}"

    @property
    def length(self) -> int | None:
        """What `Content-Length` says in bytes, None if nothing that is a number or where chunks say it."""
        if "transfer-encoding" in self.fields:
            return None
        texts = {text.strip() for line in self.fields.get("content-length", []) for text in line.split(",")}
        if len(texts) > 1:
            raise RefusedError("it tells two different sizes")
        return size_of(texts.pop()) if texts else None


def size_of(text: str) -> int | None:
    """A number of bytes in ASCII digits, else None. RefusedError beyond 18 digits, of which no file is."""
    if not re.fullmatch(r"[0-9]+", text):
        return None
    if len(text) > 18:
        raise RefusedError(f"it tells a size of {len(text)} digits")
    return int(text)


class _Wire(io.RawIOBase):
    """What comes over a connection, before a deadline and within `allowance` bytes."""

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
                f"it sends more than {OVERHEAD_BYTES} bytes that are no part of a file", "mend the server"
            )
        return count

    def wait(self) -> None:
        timeout_s = self._deadline.wait_s()
        if timeout_s != self._timeout_s:  # it saves a call to the system for most pieces
            self.connection.settimeout(timeout_s)
            self._timeout_s = timeout_s

    def close(self) -> None:
        self.connection.close()
        super().close()


class Exchange:
    """One request and its answer. Raises OSError for what may pass, RefusedError for an answer that is none of HTTP."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._wire = _Wire(connection, deadline)
        self._reader = io.BufferedReader(self._wire, LINE_BYTES)

    def close(self) -> None:
        self._reader.close()

    def ask(self, target: Target, headers: dict[str, str]) -> Head:
        """Send a GET and read the head of the answer."""
        lines = [f"GET {target.path} HTTP/1.1", f"Host: {target.name}", *(f"{k}: {v}" for k, v in headers.items())]
        self._wire.wait()
        self._wire.connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("ascii"))
        while True:
            line = self._line()
            status = STATUS.fullmatch(line)
            if not status:
                raise RefusedError(
                    f"its answer begins with {line[:SHOWN_BYTES]!r}, which is no HTTP", "mend the server"
                )
            fields = self._fields()
            if int(status[1]) >= 200 or int(status[1]) == 101:  # below are interim answers
                return Head(int(status[1]), (status[2] or b"").decode("latin-1").strip(), fields)

    def body(self, head: Head) -> Iterator[bytes]:
        """The body in pieces. Raises ConnectionError where it is cut short, but for one that tells no length."""
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
        self._wire.allowance += 3 * len(piece)
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
        """Headers up to the empty line. A line that is none is passed over, as browsers do."""
        fields: dict[str, list[str]] = {}
        values: list[str] = []
        while line := self._line():
            text = line.decode("latin-1")
            name, colon, value = text.partition(":")
            if text[0] in " \t" and values:  # it goes on from the line before
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
