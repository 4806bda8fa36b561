"""Files over HTTP and HTTPS, as hostile input: bounded in size and time, and never from an address of the inside.

Whatever a URL or its server provokes becomes the UnreachableAudioError of that URL, in `_Remote._get` alone.
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
from manifests.storage.retry import PassingError, PersistentError, persist
from pipelines.audio.address import RefusedError, Target, is_public, redirected, target_of
from pipelines.audio.wire import Deadline, Exchange, Head, connect, resolve, secured, size_of
from runtime.credentials import redact_credentials
from runtime.errors import UnreachableAudioError
from runtime.failures import Kind, kind_of

SPOOL_BYTES = 32 << 20
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"User-Agent": "speechmill", "Accept": "*/*", "Accept-Encoding": "identity"}
CONTENT_RANGE = re.compile(r"bytes (?:([0-9]+)-([0-9]+)|\*)/([0-9]+|\*)", re.IGNORECASE)
LONGEST_DATE = 64
"""Characters of a date; all forms that HTTP knows are shorter."""
MAX_NS = 2**63 - 1


def open_http(url: str, config: StorageConfig, block_bytes: int = BLOCK_BYTES) -> tuple[BinaryIO, Stat]:
    """A seekable stream, by range where the server has ranges, else spooled. It and its reads raise
    UnreachableAudioError.
    """
    return _Remote(url, config).open(block_bytes)


def stat_http(url: str, config: StorageConfig) -> Stat:
    """Size and time of change, without the bytes where the server tells them. Raises UnreachableAudioError."""
    return _Remote(url, config).stat()


class _OtherFileError(Exception):
    """An answer that is no part of the file that was begun: another version of it, or none by range after all."""


class _Answer(NamedTuple):
    head: Head
    total: int | None
    """Size of the whole file in bytes, where the answer tells it."""
    data: bytes = b""
    """The part that was asked for."""
    whole: bool = False
    """Whether the answer is the whole file instead."""

    @property
    def version(self) -> tuple[int | None, str, str]:
        """Equal in all answers for as long as the file is the same."""
        return self.total, self.head.first("etag"), self.head.first("last-modified")


class _Remote:
    """The file behind a URL, for one reader. `left_s` is how long its servers may still be waited for."""

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
            pass  # its size shows when it is read
        file, stat = self.open(BLOCK_BYTES)
        file.close()
        return stat

    def part(self, start: int, stop: int, first: _Answer) -> bytes:
        """Bytes [start, stop) of the file that begins with `first`. Raises _OtherFileError if it changed."""
        parts = [first.data[start:stop]] if start < len(first.data) else []
        while (at := start + sum(map(len, parts))) < stop:  # a server may send less than it was asked for
            answer = self._get(at, stop, None)
            if answer.whole or answer.version != first.version:
                raise _OtherFileError
            parts.append(answer.data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def whole(self) -> BinaryIO:
        """All of it, from one answer."""
        spool = _spool()
        self._get(0, None, spool)
        return spool

    def error(self, what: str, remedy: str) -> UnreachableAudioError:
        return UnreachableAudioError(f"{redact_credentials(self.url)!r}: {what}", remedy)

    def _get(self, start: int, stop: int | None, spool: BinaryIO | None) -> _Answer:
        """Bytes [start, stop), or the whole file without `stop`, tried until they come or time is up.

        A whole file goes to `spool`. Raises _OtherFileError for an answer that is no such part.
        """
        deadline = Deadline(self.left_s, self.config.timeout_s)
        what = f"GET {redact_credentials(self.url)!r}"

        def attempt(number: int) -> _Answer:
            try:
                return self._follow(start, stop, spool, deadline)
            except OSError as error:
                if kind_of(error) is Kind.RUN:  # this machine is out of something
                    raise
                deadline.wait_s()  # raises where no time is left for another try
                cause = str(error) if type(error) is ConnectionError else type(error).__name__
                raise PassingError(cause) from error

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
        """One try, redirects followed; every hop is a connection of its own, and checked as the first."""
        headers = HEADERS if stop is None else HEADERS | {"Range": f"bytes={start}-{stop - 1}"}
        target = target_of(self.url)
        met = {target}
        while True:
            with closing(self._reach(target, deadline)) as exchange:
                head = exchange.ask(target, headers)
                if head.status not in REDIRECTS:
                    return self._answer(exchange, head, start, stop, spool)
            if not (location := head.first("location")):
                raise RefusedError("it redirects to nowhere")
            target = redirected(target, location)
            if target in met:
                raise RefusedError("its redirects lead in a circle")
            met.add(target)
            if len(met) > self.config.http_redirects + 1:
                what = f"more than {self.config.http_redirects} redirects"
                raise RefusedError(what, "raise [storage] http_redirects, or name where it lies")

    def _reach(self, target: Target, deadline: Deadline) -> Exchange:
        """Connected to an address that was checked itself: a name may resolve to another one the next time."""
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
                connection = secured(connection, target.host, deadline)
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
            return _Answer(head, 0)  # of an empty file there is no first byte
        if status in (408, 429) or status >= 500:
            after = head.first("retry-after")
            raise PassingError(f"status {status}", float(after) if re.fullmatch(r"[0-9]{1,9}", after) else 0.0)
        raise RefusedError(head.told, "check the address and whether it may be read")

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
        while missing > 0:  # what was not asked for is not waited for
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
    """By range for as long as all answers are of one version; from then on from one answer with the whole file.

    So mirrors behind one name may each have their own `ETag` and date, as long as their bytes are equal: of each part
    that was read a checksum is kept. Raises UnreachableAudioError where the file is not the same any more.
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
            with suppress(_OtherFileError):  # the whole file shows whether it is another one
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
    """First and last byte of a part and the size of the whole file, None for each that is not told."""
    match = CONTENT_RANGE.fullmatch(head.first("content-range"))
    first, last, total = (size_of(text or "") for text in match.groups()) if match else (None, None, None)
    return first, last, total


def _checksum(data: bytes) -> tuple[int, bytes]:
    """The sum of its 64-bit words and what is left over. It tells files of different sound apart, which is all that is
    asked here, and costs a tenth of what a hash would: the hash of the whole file is taken by whoever reads it.
    """
    words = len(data) // 8
    return int(np.frombuffer(data, np.uint64, words).sum(dtype=np.uint64)), data[8 * words :]


def _mtime_ns(head: Head) -> int:
    """`Last-Modified` in nanoseconds since 1970, as 64 bits hold them; 0 for none and for what is no date."""
    try:
        date = parsedate_to_datetime(head.first("last-modified")[:LONGEST_DATE])
        date = date if date.tzinfo else date.replace(tzinfo=UTC)  # else it would be of this machine's zone
        ns = int(date.timestamp()) * 10**9
    except (ValueError, OverflowError):
        return 0
    return ns if 0 < ns <= MAX_NS else 0
