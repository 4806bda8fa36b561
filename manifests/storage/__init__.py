"""Where a lake lives: a small interface to named bytes. Keys are '/'-separated and relative to the lake's root.

Writes are atomic: a key holds either nothing, the old bytes or the new ones, whatever is killed when.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, TextIO
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import pyarrow.fs


class StorageError(OSError):
    """A storage that does not answer or refuses: no fault of one file, so a run stops. `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """Without `remedy` only where it is unpickled: it follows then."""
        super().__init__(message)
        self.remedy = remedy


class DeniedError(StorageError, PermissionError):
    """What these credentials may not do."""


def checked_key(key: str) -> str:
    """`key`, if it lies below the root of every storage. StorageError for any other, so that nothing leaves a lake.

    >>> checked_key("recordings/batch-000000.parquet")
    'recordings/batch-000000.parquet'
    """
    if "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
        remedy = "correct the name that it is made of, in the recipe or in the lake's JSON files"
        raise StorageError(
            f"{key!r:.200} is not a key of a lake: it is empty, absolute or has an empty part or dots", remedy
        )
    return key


class Stat(NamedTuple):
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class StorageConfig:
    """The table `[storage]` of a recipe. Credentials are never in it: they come from the usual AWS configuration."""

    endpoint_url: str | None = None
    """URL of an S3-compatible server; else AWS_ENDPOINT_URL_S3, the profile's, or Amazon's."""
    region: str | None = None
    """Region of the buckets; else AWS_REGION or the profile's."""
    profile: str | None = None
    """Profile of ~/.aws/config; else AWS_PROFILE, variables, a role of the machine or pod."""
    anonymous: bool = False
    """Send unsigned requests, for public buckets."""
    request_payer: bool = False
    """Pay for what is read from buckets whose owner does not."""
    encryption: str | None = None
    """'AES256' or 'aws:kms' at rest; the bucket's default if not given."""
    kms_key_id: str | None = None
    """Key for 'aws:kms'."""
    bucket_key: bool = False
    """Encrypt for 'aws:kms' under a key of the bucket, which asks KMS less often; else as the bucket is set."""
    retry_s: float = 600.0
    """Transient failures of a request are retried for this long."""
    timeout_s: float = 30.0
    """A connection on which nothing moves for this long is given up, and the request tried again."""
    concurrency: int = 8
    """Requests in flight for one object."""
    check_room: bool = True
    """Whether a step ends before it begins where what it would write clearly does not fit on the disk."""
    http_private: bool = False
    """Whether HTTP inputs may lie at loopback, link-local and private addresses. Otherwise each address that a name or
    a redirect leads to must be of the public internet; metadata services of clouds are refused also where they look
    so."""
    http_max_gb: float = 8.0
    """Largest file taken over HTTP, in 10^9 bytes. Beside the file an answer may hold 512 KiB and twice its size:
    headers, interim answers, marks of chunks and trailers. A line of them has at most 64 KiB."""
    http_max_s: float = 3600.0
    """Longest time in which servers are waited for while one file is read over HTTP: over all requests, tries,
    redirects, look-ups of names, handshakes, headers and bodies. The time that the reader takes does not count."""
    http_redirects: int = 20
    """Redirects that are followed from one URL, as browsers do; never from https:// to http://, nor in a circle."""

    def __post_init__(self) -> None:
        if self.endpoint_url and "@" in urlsplit(self.endpoint_url).netloc:  # and it must not be shown either
            raise ValueError("endpoint_url must not hold a user or a password: give AWS_ACCESS_KEY_ID or a profile")
        if self.encryption not in (None, "AES256", "aws:kms"):
            raise ValueError(f"encryption must be 'AES256' or 'aws:kms', not {self.encryption!r}")
        if (self.kms_key_id or self.bucket_key) and self.encryption != "aws:kms":
            raise ValueError("kms_key_id and bucket_key must be with encryption = 'aws:kms'")
        limits = (self.retry_s, self.timeout_s, self.http_max_gb, self.http_max_s)
        if not all(0 < limit < math.inf for limit in limits) or self.concurrency < 1:
            raise ValueError("retry_s, timeout_s, http_max_gb, http_max_s and concurrency must be finite and above 0")
        if self.concurrency > 1000:
            raise ValueError("concurrency must be at most 1000: that many parts of an object are held in memory")
        if self.http_redirects < 0:
            raise ValueError("http_redirects must be 0 or more")


_default: ContextVar[StorageConfig] = ContextVar("storage", default=StorageConfig())  # noqa: B039 (it is frozen)


def default_config() -> StorageConfig:
    """How storages are reached where nobody says otherwise."""
    return _default.get()


@contextmanager
def reached_by(config: StorageConfig) -> Iterator[None]:
    """`config` is the default within: for commands that look at a lake without a recipe of their own."""
    token = _default.set(config)
    try:
        yield
    finally:
        _default.reset(token)


class Storage(Protocol):
    """Named bytes. Missing keys raise FileNotFoundError; errors that affect the whole storage raise StorageError."""

    root: str

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys under the folder `prefix`, in the order of their UTF-8 bytes, without loading them all."""
        ...

    def read(self, key: str) -> bytes: ...
    def open(self, key: str) -> BinaryIO:
        """A seekable stream, read by range in bounded memory."""
        ...

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, by one request; fewer where the file ends before."""
        ...

    def stat(self, key: str) -> Stat: ...
    def size(self, key: str) -> int: ...
    def exists(self, key: str) -> bool: ...
    def put(self, key: str, data: bytes) -> None: ...
    def put_file(self, key: str, path: Path) -> None:
        """Put a local file, which is consumed."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put and return True, or leave what is there and return False."""
        ...

    def replace(self, key: str, old: bytes, data: bytes) -> bool:
        """Put where the key holds just the bytes `old`, and return True; else leave what is there and return False.

        Of several writers that have read the same bytes, one replaces them; the others read again.
        """
        ...

    def delete(self, key: str) -> None:
        """Delete; a missing key is not an error."""
        ...

    def scratch(self) -> Path:
        """A fresh local folder for files on their way into the storage."""
        ...

    def log(self, key: str) -> TextIO:
        """A text file to write to as things happen, to be closed at the end; it is never read back by a run."""
        ...

    def sweep(self) -> None:
        """Remove what writers that died left unfinished."""
        ...

    def filesystem(self) -> pyarrow.fs.FileSystem:
        """The storage for readers of Parquet: paths are keys."""
        ...


def open_storage(root: str, config: StorageConfig | None = None) -> Storage:
    """The storage behind a lake's name: a folder or s3://bucket/prefix. ValueError for any other scheme."""
    if root.startswith("s3://"):
        from manifests.storage.s3 import S3Storage

        return S3Storage(root, config or default_config())
    if "://" in root:
        raise ValueError(f"{root}: a lake lies in a local folder or at s3://bucket/prefix")
    from manifests.storage.local import LocalStorage

    return LocalStorage(root)
