"""Files over HTTP and HTTPS, as hostile input: bounded in size and time, and never from an address of the inside."""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import quote, urljoin, urlsplit

from manifests.storage import Stat, StorageConfig
from manifests.storage.ranged import BLOCK_BYTES, RangedFile, buffered
from manifests.storage.retry import PassingError, PersistentError, persist
from pipelines.errors import UnreadableAudioError

MAX_REDIRECTS = 5
CHUNK_BYTES = 1 << 16
SPOOL_BYTES = 32 << 20
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class _Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def open_http(url: str, config: StorageConfig, block_bytes: int = BLOCK_BYTES) -> tuple[BinaryIO, Stat]:
    """A seekable stream, by range where the server has ranges, else spooled. Raises UnreadableAudioError."""
    return _Remote(url, config).open(block_bytes)


def stat_http(url: str, config: StorageConfig) -> Stat:
    """Size and time of change, without the bytes where the server tells them."""
    return _Remote(url, config).stat()


class _Remote:
    def __init__(self, url: str, config: StorageConfig) -> None:
        self.url, self.config = url, config
        self.limit_bytes = int(config.http_max_gb * 1e9)
        self.deadline = time.monotonic() + config.http_max_s

    def open(self, block_bytes: int = BLOCK_BYTES) -> tuple[BinaryIO, Stat]:
        spool: BinaryIO = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES))  # noqa: SIM115

        def whole(response: http.client.HTTPResponse) -> bytes:
            """All of it, from a server without ranges."""
            spool.seek(0)
            spool.truncate()
            self._copy(response, spool.write, self._length(response))
            return b""

        first = self._get(0, block_bytes, whole)
        stat = Stat(_total(first.headers) or 0, _mtime_ns(first.headers))
        if first.status == 206:

            def fetch(start: int, stop: int) -> bytes:
                return first.body if start == 0 else self._range(start, stop, first)

            return buffered(RangedFile(fetch, stat.size_bytes, block_bytes)), stat
        size = spool.tell()
        spool.seek(0)
        return spool, Stat(size, stat.mtime_ns)

    def stat(self) -> Stat:
        sizes: list[int | None] = []

        def whole(response: http.client.HTTPResponse) -> bytes:
            sizes.append(self._length(response))
            return b""

        first = self._get(0, 1, whole)
        if first.status == 200 and sizes[-1] is None:  # a server that tells nothing
            file, stat = self.open()
            file.close()
            return stat
        return Stat(_total(first.headers) or (sizes or [0])[-1] or 0, _mtime_ns(first.headers))

    def _range(self, start: int, stop: int, first: _Answer) -> bytes:
        answer = self._get(start, stop, None)
        for name in ("ETag", "Last-Modified"):
            if answer.headers[name] != first.headers[name]:
                raise self._error(f"its {name} changed while it was read", "run again")
        return answer.body

    def _get(self, start: int, stop: int, whole: Callable[[http.client.HTTPResponse], bytes] | None) -> _Answer:
        def attempt(number: int) -> _Answer:
            try:
                return self._follow(start, stop, whole)
            except (OSError, http.client.HTTPException) as error:
                raise PassingError(type(error).__name__) from error

        try:
            left_s = self.deadline - time.monotonic()
            return persist(attempt, f"GET {self.url}", min(self.config.retry_s, left_s))
        except PersistentError as error:
            raise self._error(
                str(error).removeprefix(f"GET {self.url}: "), "check the server and the address"
            ) from error

    def _follow(self, start: int, stop: int, whole: Callable[[http.client.HTTPResponse], bytes] | None) -> _Answer:
        """One try, redirects followed; every hop is a connection of its own, and checked as the first."""
        url = self.url
        for _ in range(MAX_REDIRECTS + 1):
            connection = self._connection(url)
            try:
                parts = urlsplit(url)
                path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{parts.query}" if parts.query else "")
                headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
                connection.request("GET", path, headers=headers | {"User-Agent": "speechmill"})
                response = connection.getresponse()
                if response.status in (301, 302, 303, 307, 308):
                    target = urljoin(url, response.headers["Location"] or "")
                    if parts.scheme == "https" and not target.startswith("https:"):
                        raise self._error("it redirects from HTTPS to HTTP", "leave it out")
                    url = target
                    continue
                return self._answer(response, start, stop, whole)
            finally:
                connection.close()
        raise self._error(f"more than {MAX_REDIRECTS} redirects", "name where it lies")

    def _answer(
        self,
        response: http.client.HTTPResponse,
        start: int,
        stop: int,
        whole: Callable[[http.client.HTTPResponse], bytes] | None,
    ) -> _Answer:
        status = response.status
        if status == 206:
            total = _total(response.headers)
            if total is None:
                raise self._error("it does not tell its size", "leave it out")
            self._check(total)
            body = io.BytesIO()
            self._copy(response, body.write, stop - start)
            if body.tell() != min(stop, total) - start:
                raise PassingError("short range")
            return _Answer(status, response.headers, body.getvalue())
        if status == 200 and whole:
            return _Answer(status, response.headers, whole(response))
        if status == 416 and start == 0:  # of an empty file there is no first byte
            return _Answer(status, response.headers, b"")
        if status in (408, 429) or status >= 500:
            after = response.headers["Retry-After"] or ""
            raise PassingError(f"status {status}", float(after) if after.isdigit() else 0.0)
        raise self._error(f"status {status} {response.reason}", "check the address and whether it may be read")

    def _copy(self, response: http.client.HTTPResponse, write: Callable[[bytes], Any], expected: int | None) -> None:
        total = 0
        while chunk := response.read1(CHUNK_BYTES):
            total += len(chunk)
            self._check(total)
            if time.monotonic() > self.deadline:
                raise self._error("too slow", "it takes longer than [storage] http_max_s: leave it out or raise it")
            write(chunk)
        if response.status == 200 and expected is not None and total != expected:
            raise PassingError("body cut short")

    def _length(self, response: http.client.HTTPResponse) -> int | None:
        text = response.headers["Content-Length"] or ""
        if not text.isdigit():
            return None
        self._check(int(text))
        return int(text)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self.limit_bytes:
            raise self._error(f"{size_bytes} bytes", "it is over [storage] http_max_gb: leave it out or raise it")

    def _connection(self, url: str) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise self._error(f"it leads to {url!r}", "only http:// and https:// are followed")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname, parts.port, timeout=self.config.timeout_s)
        connection.sock = self._connect(parts.hostname, connection.port)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(connection.sock, server_hostname=parts.hostname)
        return connection

    def _connect(self, host: str, port: int) -> socket.socket:
        """Connected to an address that was checked itself: a name may resolve to another one the next time."""
        refused, failed = "", OSError(f"{host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            if not self.config.http_private and not is_public(str(address[0])):
                refused = str(address[0])
                continue
            made = socket.socket(family, kind, protocol)
            made.settimeout(self.config.timeout_s)
            try:
                made.connect(address)
            except OSError as error:
                made.close()
                failed = error
                continue
            return made
        if refused:
            what = f"{host} is at {refused}, which is no public address"
            raise self._error(what, "leave it out, or set [storage] http_private = true for lists that you trust")
        raise failed

    def _error(self, what: str, remedy: str) -> UnreadableAudioError:
        return UnreadableAudioError(f"{self.url!r}: {what}", remedy)


def is_public(address: str) -> bool:
    """Whether an IP address is of the open internet, also where IPv6 wraps an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _total(headers: http.client.HTTPMessage) -> int | None:
    match = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", (headers["Content-Range"] or "").strip())
    return int(match[1]) if match else None


def _mtime_ns(headers: http.client.HTTPMessage) -> int:
    try:
        return int(parsedate_to_datetime(headers["Last-Modified"] or "").timestamp()) * 10**9
    except ValueError:
        return 0
