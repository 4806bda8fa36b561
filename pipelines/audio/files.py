"""Opens the files of recordings: on disk, in S3, behind HTTP(S), or a member of a tar archive in one of these places.

A member is named `ARCHIVE.tar#NAME:OFFSET+SIZE`, so that it is read by range without searching the archive.
"""

from __future__ import annotations

import functools
import io
import os
import re
import stat
from typing import Any, BinaryIO, NamedTuple, cast

from manifests.storage import DeniedError, Stat, StorageConfig
from manifests.storage.ranged import BLOCK_BYTES
from manifests.storage.s3 import S3Storage
from manifests.storage.s3client import MissingBucketError, MissingError
from pipelines.audio.parts import Part, files_of
from runtime.errors import UnreachableAudioError, UnreadableAudioError
from runtime.failures import Kind, kind_of

DEFAULT = StorageConfig()
# The archive is the shortest match, because whoever packed the archive has chosen the names of its members.
MEMBER = re.compile(r"(?s)(?P<archive>.+?\.(?i:tar))#(?P<name>.+):(?P<offset>\d{1,20})\+(?P<size>\d{1,20})")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
MAX_KEY_BYTES = 1024


class Member(NamedTuple):
    """The place of a member in a tar archive."""

    archive: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}#{self.name}:{self.offset}+{self.size}"

    @classmethod
    def parse(cls, uri: str) -> Member | None:
        """Return the member that has this name; None if it is not the name of a member."""
        match = MEMBER.fullmatch(uri)
        return cls(match["archive"], match["name"], int(match["offset"]), int(match["size"])) if match else None


def scheme(uri: str) -> str:
    """Return the scheme of a name: 's3', 'http', 'https', ..., or '' for a path."""
    found, separator, _ = uri.partition("://")
    return found.lower() if separator else ""


def open_file(uri: str, config: StorageConfig = DEFAULT, block_bytes: int = BLOCK_BYTES) -> BinaryIO:
    """Open a seekable stream of the bytes of a file. A remote file is read in blocks of `block_bytes`.

    Raises:
        UnreadableAudioError: This one file is unreachable or has an impossible name.
        StorageError: The storage behind it fails.
    """
    if part := Part.parse(uri):
        return open_file(part.file, config, block_bytes)
    if member := Member.parse(uri):
        return _open_member(uri, member, config)
    if scheme(uri) == "s3":
        bucket, key = _split_object(uri)
        return _with_remedy(uri, lambda: S3Storage(bucket, config).open(key, block_bytes))
    if scheme(uri) in ("http", "https"):
        from pipelines.audio.http import open_http

        return cast(BinaryIO, _with_remedy(uri, lambda: open_http(uri, config, block_bytes)[0]))
    _with_remedy(uri, lambda: _check_regular(uri))
    return _with_remedy(uri, lambda: open(uri, "rb"))


def stat_file(uri: str, config: StorageConfig = DEFAULT) -> Stat:
    """Return the size and modification time of a file; of several files, the sum and the latest.

    Raises as `open_file`.
    """
    if len(files := files_of(uri)) > 1:
        stats = [stat_file(file, config) for file in files]
        return Stat(sum(found.size_bytes for found in stats), max(found.mtime_ns for found in stats))
    if part := Part.parse(uri):
        return stat_file(part.file, config)
    if member := Member.parse(uri):
        archive = stat_file(member.archive, config)
        _check_inside(uri, member, archive.size_bytes)
        return Stat(member.size, archive.mtime_ns)
    if scheme(uri) == "s3":
        bucket, key = _split_object(uri)
        return _with_remedy(uri, lambda: S3Storage(bucket, config).stat(key))
    if scheme(uri) in ("http", "https"):
        from pipelines.audio.http import stat_http

        return cast(Stat, _with_remedy(uri, lambda: stat_http(uri, config)))
    status = _with_remedy(uri, lambda: os.stat(uri))
    return Stat(status.st_size, status.st_mtime_ns)


def split_s3(uri: str) -> tuple[str, str]:
    """Split a name into 's3://bucket' and the key. Raises UnreadableAudioError if the bucket's name is impossible."""
    bucket, _, key = uri[len("s3://") :].partition("/")
    if not BUCKET.fullmatch(bucket) or ".." in bucket:
        raise UnreadableAudioError(f"{uri!r}: {bucket!r} is no name of a bucket", "name it s3://bucket/key")
    return f"s3://{bucket}", key


def _split_object(uri: str) -> tuple[str, str]:
    """Split a name into 's3://bucket' and the key. Raises UnreadableAudioError if there can be no such object."""
    bucket, key = split_s3(uri)
    if not key or key.startswith("/") or key.endswith("/") or "\0" in key:
        raise UnreadableAudioError(f"{uri!r}: {key!r} is no key of a recording", "name it s3://bucket/key")
    if len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise UnreadableAudioError(f"{uri!r}: its key is longer than {MAX_KEY_BYTES} bytes", "correct the name")
    return bucket, key


def _check_regular(path: str) -> None:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_dev in _kernel_devices():
        raise UnreadableAudioError(f"{path!r}: not a regular file", "give a file, not a pipe or a device")


@functools.cache
def _kernel_devices() -> frozenset[int]:
    """Return the devices of /proc and /sys. Reading a file there may hang, although it claims to be a regular file."""
    return frozenset(os.stat(folder).st_dev for folder in ("/proc", "/sys") if os.path.ismount(folder))


def _open_member(uri: str, member: Member, config: StorageConfig) -> BinaryIO:
    file = open_file(member.archive, config)
    try:
        _check_inside(uri, member, file.seek(0, os.SEEK_END))
    except UnreadableAudioError:
        file.close()
        raise
    return io.BufferedReader(cast(Any, _Section(file, member.offset, member.size)))


def _check_inside(uri: str, member: Member, archive_bytes: int) -> None:
    if member.offset + member.size > archive_bytes:
        what = f"{uri!r}: it ends beyond the {archive_bytes} bytes of its archive, which is cut short or was replaced"
        raise UnreadableAudioError(what, "fetch or pack the archive again, then ingest again")


def _with_remedy(uri: str, action: Any) -> Any:
    """Call `action`, and turn errors of the operating system or of a bucket into errors with a remedy."""
    try:
        return action()
    except MissingError as error:
        raise UnreachableAudioError(f"{uri!r}: {error.strerror}", "check the name or ingest again") from error
    except (DeniedError, MissingBucketError) as error:
        raise UnreachableAudioError(f"{uri!r}: {error}", error.remedy) from error
    except PermissionError as error:
        raise UnreachableAudioError(f"{uri!r}: no permission to read it", "grant read permission") from error
    except FileNotFoundError as error:
        raise UnreachableAudioError(f"{uri!r}: there is no such file", "check the name or ingest again") from error
    except OSError as error:
        if kind_of(error) is Kind.RUN:  # the storage or the machine fails, not this file
            raise
        raise UnreachableAudioError(f"{uri!r}: {error.strerror}", "check the name and the disk") from error
    except ValueError as error:  # a NUL, half of a pair of surrogates, or a URL with an impossible host or port
        raise UnreadableAudioError(f"{uri!r}: nothing can have this name ({error})", "correct the name") from error


class _Section(io.RawIOBase):
    """A view of the bytes [offset, offset + size) of a seekable stream. Closing it closes the stream."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._offset + self._position)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
