"""Verifies that the decoded bytes are those that were ingested, by hashing a file while it is read."""

from __future__ import annotations

import hashlib
import io
from typing import Any, BinaryIO, cast

from manifests.storage import StorageConfig
from pipelines.audio.files import DEFAULT, open_file
from pipelines.audio.parts import combined_sha256, files_of
from runtime.errors import ChangedAudioError

BLOCK_BYTES = 1 << 20


class HashingFile:
    """A seekable stream for FFmpeg that hashes the file while it is read, so that verifying needs no second pass.

    Decoding reads nearly in order, so each byte is hashed when it is first read. Bytes that decoding skipped are read
    when the digest is asked for. It has no `name`, because PyAV would pass it to FFmpeg, which takes some names for
    protocols.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._hashed_bytes = 0
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        start, self._position = self._position, self._position + len(data)
        if start <= self._hashed_bytes < self._position:
            self._sha256.update(memoryview(data)[self._hashed_bytes - start :])
            self._hashed_bytes = self._position
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = self._file.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        return self._position

    def sha256(self) -> str:
        """Return the sha256 of the whole file as hex digits; it reads the bytes that are not hashed yet."""
        self.seek(self._hashed_bytes)
        while self.read(BLOCK_BYTES):
            pass
        return self._sha256.hexdigest()

    def verify_sha256(self, path: str, sha256: str) -> None:
        """Raise ChangedAudioError unless the whole file has this sha256 (hex digits)."""
        check_sha256(path, self.sha256(), sha256)

    def close(self) -> None:
        self._file.close()


def check_sha256(path: str, found: str, sha256: str) -> None:
    """Raise ChangedAudioError unless the sha256 that was found is the one from ingest."""
    if found != sha256:
        what = f"{path!r}: its sha256 is {found[:12]}..., {sha256[:12]}... when it was ingested"
        raise ChangedAudioError(what)


def sha256_of(path: str, config: StorageConfig = DEFAULT) -> str:
    """Return the sha256 of the bytes of a recording as hex digits, whether it is one file or several."""
    digests = []
    for name in files_of(path):
        with open_file(name, config) as file:
            digests.append(hashlib.file_digest(cast(Any, file), "sha256").hexdigest())
    return combined_sha256(digests)
