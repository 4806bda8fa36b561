"""The storage of a lake: an interface to files by key. Keys are '/'-separated paths relative to the root of the lake.

Writes are atomic: if a process is killed at any moment, a key has either no file, the old bytes or the new ones.
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
    """A storage does not answer, or refuses. This affects all files, so a run stops; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """`remedy` is left out only by unpickling, which sets it afterwards."""
        super().__init__(message)
        self.remedy = remedy


class DeniedError(StorageError, PermissionError):
    """The credentials do not permit a request."""


def checked_key(key: str) -> str:
    """Return `key` if it is below the root of a storage; otherwise raise StorageError, so that no file leaves a lake.

    >>> checked_key("recordings/batch-000000.parquet")
    'recordings/batch-000000.parquet'
    """
    if "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
        remedy = "correct the name from which it was made, in the recipe or in the lake's JSON files"
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
    """URL of an S3-compatible server. By default AWS_ENDPOINT_URL_S3, that of the profile, or Amazon's."""
    region: str | None = None
    """Region of the buckets. By default AWS_REGION or that of the profile."""
    profile: str | None = None
    """Profile of ~/.aws/config. By default AWS_PROFILE, AWS variables, or a role of the machine or pod."""
    anonymous: bool = False
    """Send unsigned requests, for public buckets."""
    request_payer: bool = False
    """Pay for requests to buckets whose owner does not pay for them (requester pays)."""
    encryption: str | None = None
    """Encryption at rest, 'AES256' or 'aws:kms'. By default that of the bucket."""
    kms_key_id: str | None = None
    """Key for 'aws:kms'."""
    bucket_key: bool = False
    """Use an S3 Bucket Key with 'aws:kms', which needs fewer requests to KMS. By default as the bucket says."""
    retry_s: float = 600.0
    """Transient failures of a request are retried for this long."""
    timeout_s: float = 30.0
    """A connection that transfers nothing for this long is closed, and the request is retried."""
    concurrency: int = 8
    """Concurrent requests for one object."""
    check_room: bool = True
    """Whether a step refuses to start if its results clearly do not fit on the disk."""
    http_private: bool = False
    """Whether HTTP inputs may be at loopback, link-local and private addresses. Otherwise every address to which a name
    or a redirect leads must be a public one; metadata services of clouds are refused even at public addresses."""
    http_max_gb: float = 8.0
    """Largest file that is read over HTTP, in 10^9 bytes. Headers, interim responses, chunk marks and trailers may take
    512 KiB and twice the size of the file in addition; one line of them may have 64 KiB."""
    http_max_s: float = 3600.0
    """Longest total waiting time for servers while one file is read over HTTP: all requests, retries, redirects, DNS
    lookups, handshakes, headers and bodies. The time that the reader takes does not count."""
    http_redirects: int = 20
    """Largest number of redirects from one URL. Redirects from https:// to http:// and circular ones are refused."""

    def __post_init__(self) -> None:
        if self.endpoint_url and "@" in urlsplit(self.endpoint_url).netloc:  # the message must not show it
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
    """The configuration of storages that are opened without one."""
    return _default.get()


@contextmanager
def use_storage_config(config: StorageConfig) -> Iterator[None]:
    """Make `config` the default within a context, for commands that read a lake without a recipe."""
    token = _default.set(config)
    try:
        yield
    finally:
        _default.reset(token)


class Storage(Protocol):
    """Files by key. Missing keys raise FileNotFoundError; errors that affect the whole storage raise StorageError."""

    root: str

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys under the folder `prefix`, in the order of their UTF-8 bytes, without loading them all."""
        ...

    def read(self, key: str) -> bytes:
        """Read a whole file. Raises FileNotFoundError, and StorageError if the storage cannot be used."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Open a seekable stream, which is read by ranges in bounded memory."""
        ...

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Read the bytes from `start` up to `stop` by one request; fewer if the file ends before."""
        ...

    def stat(self, key: str) -> Stat:
        """The size of a file and the time of its last change. Raises FileNotFoundError."""
        ...

    def size(self, key: str) -> int:
        """The size of a file in bytes. Raises FileNotFoundError."""
        ...

    def exists(self, key: str) -> bool: ...
    def put(self, key: str, data: bytes) -> None:
        """Write a file, or replace it."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Move a local file into the storage."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a file unless the key has one; returns whether it was written."""
        ...

    def replace(self, key: str, old: bytes, data: bytes) -> bool:
        """Replace a file whose bytes are exactly `old`; returns whether it was replaced.

        Of several writers that have read the same bytes, one succeeds, and the others have to read the file again.
        """
        ...

    def delete(self, key: str) -> None:
        """Delete a file; a missing key is not an error."""
        ...

    def scratch(self) -> Path:
        """Make a new local folder for files that will be moved into the storage."""
        ...

    def log(self, key: str) -> TextIO:
        """Open a log file for writing. The caller closes it at the end, and no run reads it."""
        ...

    def sweep(self) -> None:
        """Remove unfinished files of writers that died."""
        ...

    def filesystem(self) -> pyarrow.fs.FileSystem:
        """The storage as a file system for readers of Parquet; paths are keys."""
        ...


def open_storage(root: str, config: StorageConfig | None = None) -> Storage:
    """Open the storage at a folder or at s3://bucket/prefix. Raises ValueError for any other scheme."""
    if root.startswith("s3://"):
        from manifests.storage.s3 import S3Storage

        return S3Storage(root, config or default_config())
    if "://" in root:
        raise ValueError(f"{root}: a lake must be in a local folder or at s3://bucket/prefix")
    from manifests.storage.local import LocalStorage

    return LocalStorage(root)
