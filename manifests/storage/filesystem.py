"""S3 as an fsspec filesystem, for Arrow and for readers that take URLs: by range, checked, tried again."""

from __future__ import annotations

import contextlib
import functools
from datetime import UTC, datetime
from typing import Any, BinaryIO

import fsspec

from manifests.storage import Stat, StorageConfig
from manifests.storage.s3 import S3Storage


class S3FileSystem(fsspec.AbstractFileSystem):
    """Reads only. `register()` makes it the one behind s3:// in this process."""

    protocol = "s3"

    def __init__(self, config: StorageConfig | None = None, **named: Any) -> None:
        super().__init__(**named)
        self.config = config or StorageConfig()

    def info(self, path: str, **named: Any) -> dict[str, Any]:
        storage, key = self._at(path)
        with contextlib.suppress(FileNotFoundError):
            if key:
                return self._file(path, storage.stat(key))
        if next(storage.stats(key), None):
            return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **named: Any) -> list[Any]:
        storage, key = self._at(path)
        folder = f"{key}/" if key else ""
        found: dict[str, dict[str, Any]] = {}
        for name, stat in storage.stats(key):
            first, slash, _ = name[len(folder) :].partition("/")
            full = f"{storage.bucket}/{folder}{first}"
            found[full] = {"name": full, "size": 0, "type": "directory"} if slash else self._file(full, stat)
        return list(found.values()) if detail else list(found)

    def _open(self, path: str, mode: str = "rb", **named: Any) -> BinaryIO:
        if mode != "rb":
            raise ValueError(f"{path}: opened for reading only, not {mode!r}")
        storage, key = self._at(path)
        return storage.open(key)

    def _at(self, path: str) -> tuple[S3Storage, str]:
        bucket, _, key = self._strip_protocol(path).partition("/")
        return S3Storage(f"s3://{bucket}", self.config), key

    def _file(self, path: str, stat: Stat) -> dict[str, Any]:
        modified = datetime.fromtimestamp(stat.mtime_ns / 1e9, UTC)
        return {"name": self._strip_protocol(path), "size": stat.size_bytes, "type": "file", "mtime": modified}


def register(config: StorageConfig | None = None) -> None:
    """Put this filesystem behind s3:// URLs in this process."""
    made = S3FileSystem if config is None else functools.partial(S3FileSystem, config)
    fsspec.register_implementation("s3", made, clobber=True)
