"""Reads files over HTTP and HTTPS as untrusted input: with limits of size and time, and from public addresses only.

Whatever goes wrong with a URL or its server becomes an UnreachableAudioError of that URL, in `_Remote._get` only.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from contextlib import closing, suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from io import SEEK_END
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from manifests.storage import Stat, StorageConfig
from manifests.storage.ranged import BLOCK_BYTES, RangedFile, buffered
from manifests.storage.retry import PersistentError, TransientError, persist
from pipelines.audio.address import RefusedError, Target, is_public, parse_url, redirected
from pipelines.audio.wire import Deadline, Exchange, Head, connect, resolve, size_of, wrap_tls
from runtime.credentials import redact_credentials
from runtime.errors import UnreachableAudioError
from runtime.failures import Kind, kind_of

SPOOL_BYTES = 32 << 20
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"User-Agent": "speechmill", "Accept": "*/*", "Accept-Encoding": "identity"}
CONTENT_RANGE = re.compile(r"bytes (?:([0-9]+)-([0-9]+)|\*)/([0-9]+|\*)", re.IGNORECASE)
LONGEST_DATE = 64
"""Characters of a date. All forms that HTTP allows are shorter."""
MAX_NS = 2**63 - 1


def open_http(url: str, config: StorageConfig, block_bytes: int = BLOCK_BYTES) -> tuple[BinaryIO, Stat]:
    """Open a seekable stream. It reads ranges if the server supports them; otherwise the file is downloaded first.

    Args:
        url: The URL.
        config: How storage is accessed.
        block_bytes: The size of a range.

    Returns:
        The stream, and the size and modification time of the file.

    Raises:
        UnreachableAudioError: The file is unreachable. Reading from the stream raises it, too.
    """
    return _Remote(url, config).open(block_bytes)


def stat_http(url: str, config: StorageConfig) -> Stat:
    """Return the size and modification time. The file is read if the server does not report its size.

    Raises:
        UnreachableAudioError: The file is unreachable.
    """
    return _Remote(url, config).stat()


class _OtherFileError(Exception):
    """An answer that is not a part of the same file: it is of another version, or not a range."""


class _Answer(NamedTuple):
    head: Head
    total: int | None
    """The size of the whole file in bytes, if the answer has it."""
    data: bytes = b""
    """The requested part."""
    whole: bool = False
    """Whether the answer is the whole file instead."""

    @property
    def version(self) -> tuple[int | None, str, str]:
        """A value that is equal in all answers while the file is unchanged."""
        return self.total, self.head.first("etag"), self.head.first("last-modified")


class _Remote:
    """The file behind a URL, for one reader. `left_s` is how long it may still wait for servers."""

    def __init__(self, url: str, config: StorageConfig) -> None:
        self.url, self.config = url, config
        self.limit_bytes = int(config.http_max_gb * 1e9)
        self.left_s = config.http_max_s

    def open(self, block_bytes: int) -> tuple[BinaryIO, Stat]:
        spool = _spool()
        try:
            first = self._get(0, block_bytes, spool)
        except _OtherFileError:
            first = self._get(0, None, spool)
        if first.total is not None and not first.whole:
            return buffered(_Parts(self, first, first.total, block_bytes)), Stat(first.total, _mtime_ns(first.head))
        size = spool.tell()
        spool.seek(0)
        return spool, Stat(size, _mtime_ns(first.head))

    def stat(self) -> Stat:
        try:
            first = self._get(0, 1, None)
            if first.total is not None:
                return Stat(first.total, _mtime_ns(first.head))
        except _OtherFileError:
            pass  # the size is known when the file was read
        file, stat = self.open(BLOCK_BYTES)
        file.close()
        return stat

    def part(self, start: int, stop: int, first: _Answer) -> bytes:
        """Read the bytes [start, stop). Raises _OtherFileError if the file has changed since the answer `first`."""
        parts = [first.data[start:stop]] if start < len(first.data) else []
        while (at := start + sum(map(len, parts))) < stop:  # a server may send less than was requested
            answer = self._get(at, stop, None)
            if answer.whole or answer.version != first.version:
                raise _OtherFileError
            parts.append(answer.data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def whole(self) -> BinaryIO:
        """Download the whole file in one answer."""
        spool = _spool()
        self._get(0, None, spool)
        return spool

    def error(self, what: str, remedy: str) -> UnreachableAudioError:
        return UnreachableAudioError(f"{redact_credentials(self.url)!r}: {what}", remedy)

    def _get(self, start: int, stop: int | None, spool: BinaryIO | None) -> _Answer:
        """Request bytes [start, stop), or the whole file without `stop`. Failed requests are retried until a deadline.

        A whole file is written to `spool`.

        Raises:
            _OtherFileError: The answer is not such a part.
            UnreachableAudioError: All tries have failed, or the URL is refused.
        """
        deadline = Deadline(self.left_s, self.config.timeout_s)
        what = f"GET {redact_credentials(self.url)!r}"

        def attempt(number: int) -> _Answer:
            try:
                return self._follow(start, stop, spool, deadline)
            except OSError as error:
                if kind_of(error) is Kind.RUN:  # this machine has run out of something
                    raise
                deadline.wait_s()  # raises RefusedError if there is no time for another try
                cause = str(error) if type(error) is ConnectionError else type(error).__name__
                raise TransientError(cause) from error

        began = time.monotonic()
        try:
            return persist(attempt, what, min(self.config.retry_s, self.left_s))
        except PersistentError as error:
            raise self.error(str(error).removeprefix(f"{what}: "), "check the server and the address") from error
        except RefusedError as error:
            raise self.error(str(error), error.remedy) from error
        finally:
            self.left_s -= time.monotonic() - began

    def _follow(self, start: int, stop: int | None, spool: BinaryIO | None, deadline: Deadline) -> _Answer:
        """Make one try, and follow redirects. Each of them is a new connection, with the same checks as the first."""
        headers = HEADERS if stop is None else HEADERS | {"Range": f"bytes={start}-{stop - 1}"}
        target = parse_url(self.url)
        visited = {target}
        while True:
            with closing(self._connect(target, deadline)) as exchange:
                head = exchange.ask(target, headers)
                if head.status not in REDIRECTS:
                    return self._answer(exchange, head, start, stop, spool)
            if not (location := head.first("location")):
                raise RefusedError("it redirects to nowhere")
            target = redirected(target, location)
            if target in visited:
                raise RefusedError("its redirects lead in a circle")
            visited.add(target)
            if len(visited) > self.config.http_redirects + 1:
                what = f"more than {self.config.http_redirects} redirects"
                raise RefusedError(what, "raise [storage] http_redirects, or name where it lies")

    def _connect(self, target: Target, deadline: Deadline) -> Exchange:
        """Connect to a host. The address that is connected to is the one that was checked, not resolved again."""
        refused, failed = "", OSError("no address")
        for found in resolve(target.host, target.port, deadline):
            if not self.config.http_private and not is_public(str(found[4][0])):
                refused = str(found[4][0])
                continue
            try:
                connection = connect(found, deadline)
            except OSError as error:
                refused, failed = "", error
                continue
            if target.scheme == "https":
                connection = wrap_tls(connection, target.host, deadline)
            return Exchange(connection, deadline)
        if refused:
            what = f"{target.host} is at {refused}, which is no public address"
            raise RefusedError(what, "leave it out, or set [storage] http_private = true for lists that you trust")
        raise failed

    def _answer(self, exchange: Exchange, head: Head, start: int, stop: int | None, spool: BinaryIO | None) -> _Answer:
        status = head.status
        if status == 206 and stop is not None:
            return self._part(exchange, head, start, stop)
        begin, end, total = _content_range(head)
        if status == 200 or (status == 206 and begin == 0 and end is not None and total == end + 1):
            self._check(head.length or 0)
            return _Answer(head, self._copy(exchange, head, spool) if spool else head.length, whole=True)
        if status == 416 and stop is not None:
            if start or total != 0:
                raise _OtherFileError
            return _Answer(head, 0)  # an empty file has no first byte
        if status in (408, 429) or status >= 500:
            after = head.first("retry-after")
            raise TransientError(f"status {status}", float(after) if re.fullmatch(r"[0-9]{1,9}", after) else 0.0)
        raise RefusedError(head.description, "check the address and whether it may be read")

    def _part(self, exchange: Exchange, head: Head, start: int, stop: int) -> _Answer:
        begin, end, total = _content_range(head)
        if begin is not None and total is None:
            raise RefusedError("it does not tell its size", "leave it out")
        if begin != start or end is None or total is None or not begin <= end < total:
            raise _OtherFileError
        self._check(total)
        pieces: list[bytes] = []
        missing = min(stop, end + 1) - start
        body = exchange.body(head)
        while missing > 0:  # stop when the requested bytes are there
            if not (piece := next(body, b"")):
                raise ConnectionError("body cut short")
            pieces.append(piece[:missing])
            missing -= len(piece)
        return _Answer(head, total, b"".join(pieces))

    def _copy(self, exchange: Exchange, head: Head, spool: BinaryIO) -> int:
        spool.seek(0)
        spool.truncate()
        for piece in exchange.body(head):
            spool.write(piece)
            self._check(spool.tell())
        return spool.tell()

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self.limit_bytes:
            what = f"{size_bytes} bytes"
            raise RefusedError(what, "it is over [storage] http_max_gb: leave it out or raise it")


class _Parts(RangedFile):
    """Reads a file by ranges while all answers have the same version, and then from one download of the whole file.

    So mirrors behind one name may have different values of `ETag` and date if their bytes are equal. A checksum of each
    part that was read is kept to compare them.

    Raises:
        UnreachableAudioError: While reading, if the file has changed.
    """

    def __init__(self, remote: _Remote, first: _Answer, size: int, block_bytes: int) -> None:
        super().__init__(self._take, size, block_bytes)
        self._remote, self._first = remote, first
        self._spool: BinaryIO | None = None
        self._checksums: dict[int, tuple[int, bytes]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        super().close()
        if self._spool:
            self._spool.close()

    def _take(self, start: int, stop: int) -> bytes:
        data = None
        if self._spool is None:
            with suppress(_OtherFileError):  # the download shows whether the bytes are different
                data = self._remote.part(start, stop, self._first)
        with self._lock:
            if data is None and self._spool is None:
                self._spool = self._whole()
            if self._spool:
                self._spool.seek(start)
                data = self._spool.read(stop - start)
            assert data is not None
            self._compare(start, data)
        return data

    def _whole(self) -> BinaryIO:
        spool = self._remote.whole()
        if (size := spool.seek(0, SEEK_END)) != self.size:
            raise self._remote.error(f"{self.size} bytes became {size} while it was read", "run again")
        for start in self._checksums:
            spool.seek(start)
            self._compare(start, spool.read(self._block_bytes))
        return spool

    def _compare(self, start: int, data: bytes) -> None:
        checksum = _checksum(data)
        if self._checksums.setdefault(start, checksum) != checksum:
            raise self._remote.error("its bytes changed while it was read", "run again")


def _spool() -> BinaryIO:
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES))


def _content_range(head: Head) -> tuple[int | None, int | None, int | None]:
    """Return the first and last byte of a part and the size of the whole file; None for each that is unknown."""
    match = CONTENT_RANGE.fullmatch(head.first("content-range"))
    first, last, total = (size_of(text or "") for text in match.groups()) if match else (None, None, None)
    return first, last, total


def _checksum(data: bytes) -> tuple[int, bytes]:
    """Return the sum of the 64-bit words, and the remaining bytes.

    It differs for files with different sound, and costs a tenth of a hash. Whoever reads the file hashes all of it.
    """
    words = len(data) // 8
    return int(np.frombuffer(data, np.uint64, words).sum(dtype=np.uint64)), data[8 * words :]


def _mtime_ns(head: Head) -> int:
    """Return `Last-Modified` in nanoseconds since 1970, as a 64-bit integer; 0 if it is missing or not a date."""
    try:
        date = parsedate_to_datetime(head.first("last-modified")[:LONGEST_DATE])
        date = date if date.tzinfo else date.replace(tzinfo=UTC)  # not the zone of this machine
        ns = int(date.timestamp()) * 10**9
    except (ValueError, OverflowError):
        return 0
    return ns if 0 < ns <= MAX_NS else 0
