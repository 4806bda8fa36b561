"""The bytes of a recording, wherever they lie: on disk, in S3, behind HTTP(S), or as a member of a tar archive there.

A member is named `ARCHIVE.tar#NAME:OFFSET+SIZE`, so that it is read by range without looking for it.
"""

from __future__ import annotations

import io
import os
import re
import stat
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import parse_qsl, urlsplit

from manifests.storage import DeniedError, Stat, StorageConfig
from manifests.storage.ranged import BLOCK_BYTES
from manifests.storage.s3 import S3Storage
from manifests.storage.s3client import MissingError
from pipelines.errors import UnreachableAudioError, UnreadableAudioError

DEFAULT = StorageConfig()
MEMBER = re.compile(r"(?P<archive>.+\.tar)#(?P<name>.+):(?P<offset>\d+)\+(?P<size>\d+)")
SECRETS = re.compile(r"(?i)(.*-)?(signature|sig|security-token|token|access_token|api_?key|password|secret|credential)")


class Member(NamedTuple):
    """Where a member of a tar archive lies."""

    archive: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}#{self.name}:{self.offset}+{self.size}"

    @classmethod
    def parse(cls, uri: str) -> Member | None:
        match = MEMBER.fullmatch(uri)
        return cls(match["archive"], match["name"], int(match["offset"]), int(match["size"])) if match else None


def scheme(uri: str) -> str:
    """'s3', 'http', 'https', ..., or '' for a path."""
    found, separator, _ = uri.partition("://")
    return found.lower() if separator else ""


def open_file(uri: str, config: StorageConfig = DEFAULT, block_bytes: int = BLOCK_BYTES) -> BinaryIO:
    """A seekable stream of it, from afar in blocks. UnreadableAudioError tells what is wrong with this one file,
    StorageError with the storage behind it.
    """
    if member := Member.parse(uri):
        return io.BufferedReader(cast(Any, _Section(open_file(member.archive, config), member.offset, member.size)))
    if scheme(uri) == "s3":
        bucket, key = split_s3(uri)
        return _told(uri, lambda: S3Storage(bucket, config).open(key, block_bytes))
    if scheme(uri) in ("http", "https"):
        from pipelines.audio.http import open_http

        return open_http(uri, config, block_bytes)[0]
    _told(uri, lambda: _check_regular(uri))
    return _told(uri, lambda: open(uri, "rb"))


def stat_file(uri: str, config: StorageConfig = DEFAULT) -> Stat:
    """Its size and time of change; raises as `open_file`."""
    if member := Member.parse(uri):
        return Stat(member.size, stat_file(member.archive, config).mtime_ns)
    if scheme(uri) == "s3":
        bucket, key = split_s3(uri)
        return _told(uri, lambda: S3Storage(bucket, config).stat(key))
    if scheme(uri) in ("http", "https"):
        from pipelines.audio.http import stat_http

        return stat_http(uri, config)
    status = _told(uri, lambda: os.stat(uri))
    return Stat(status.st_size, status.st_mtime_ns)


def split_s3(uri: str) -> tuple[str, str]:
    """'s3://bucket' and the key."""
    bucket, _, key = uri[len("s3://") :].partition("/")
    return f"s3://{bucket}", key


def secretless(text: str) -> str:
    """A URI or a word of a command, or as much as can be shown where it carries a password or a signature."""
    before, found, url = text.partition("https://")
    if not found:
        before, found, url = text.partition("http://")
    if not found:
        return text
    parts = urlsplit(shown := found + url)
    if "@" in parts.netloc:
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if any(SECRETS.fullmatch(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        shown = urlsplit(shown)._replace(query="", fragment="").geturl()
    return before + shown


def _check_regular(path: str) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UnreadableAudioError(f"{path!r}: not a regular file", "give a file, not a pipe or a device")


def _told(uri: str, action: Any) -> Any:
    """What an operating system or a bucket says of one file, with a remedy."""
    try:
        return action()
    except MissingError as error:
        raise UnreachableAudioError(f"{uri!r}: {error.strerror}", "check the name or ingest again") from error
    except DeniedError as error:
        raise UnreachableAudioError(f"{uri!r}: {error}", error.remedy) from error
    except PermissionError as error:
        raise UnreachableAudioError(f"{uri!r}: no permission to read it", "grant read permission") from error
    except FileNotFoundError as error:
        raise UnreachableAudioError(f"{uri!r}: there is no such file", "check the name or ingest again") from error
    except OSError as error:
        if hasattr(error, "remedy"):  # a storage that fails is no fault of this file
            raise
        raise UnreachableAudioError(f"{uri!r}: {error.strerror}", "check the name and the disk") from error


class _Section(io.RawIOBase):
    """Bytes [offset, offset + size) of a seekable stream, which it closes."""

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
