"""S3 as an fsspec file system, for Arrow and for readers that take URLs.

It reads by ranges, compares checksums and retries, as `S3Storage` does.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol, cast

import fsspec
import pyarrow.fs

from manifests.storage import Stat, StorageConfig, open_storage


class Bucket(Protocol):
    """The methods of `manifests.storage.s3.S3Storage` that this module uses."""

    bucket: str

    def stat(self, key: str) -> Stat: ...
    def stats(self, prefix: str, deep: bool) -> Iterator[tuple[str, Stat]]: ...
    def open(self, key: str) -> BinaryIO: ...


class S3FileSystem(fsspec.AbstractFileSystem):
    """A read-only file system. `register()` makes it the one for s3:// URLs in this process."""

    protocol = "s3"

    def __init__(self, config: StorageConfig | None = None, **named: Any) -> None:
        super().__init__(**named)
        self.config = config or StorageConfig()

    def info(self, path: str, **named: Any) -> dict[str, Any]:
        storage, key = self._at(path)
        with contextlib.suppress(FileNotFoundError):
            if key:
                return self._entry(self._strip_protocol(path), storage.stat(key))
        if self.isdir(path):
            return self._entry(self._strip_protocol(path) + "/", Stat(0, 0))
        raise FileNotFoundError(path)

    def isdir(self, path: str) -> bool:
        storage, key = self._at(path)
        return next(storage.stats(key, deep=False), None) is not None

    def ls(self, path: str, detail: bool = True, **named: Any) -> list[Any]:
        storage, key = self._at(path)
        entries = [self._entry(f"{storage.bucket}/{name}", stat) for name, stat in storage.stats(key, deep=False)]
        return entries if detail else [entry["name"] for entry in entries]

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **named: Any) -> Any:
        if maxdepth != 1:
            return super().find(path, maxdepth, withdirs, **named)
        # fsspec would ask for each folder and then for its entries; one list request answers both.
        entries = {entry["name"]: entry for entry in self.ls(path) if withdirs or entry["type"] == "file"}
        return entries if named.get("detail") else list(entries)

    def _open(self, path: str, mode: str = "rb", **named: Any) -> BinaryIO:
        if mode != "rb":
            raise ValueError(f"{path}: this file system only reads, so the mode cannot be {mode!r}")
        storage, key = self._at(path)
        return storage.open(key)

    def _at(self, path: str) -> tuple[Bucket, str]:
        bucket, _, key = self._strip_protocol(path).partition("/")
        return cast(Bucket, open_storage(f"s3://{bucket}", self.config)), key

    def _entry(self, name: str, stat: Stat) -> dict[str, Any]:
        if name.endswith("/"):
            return {"name": name[:-1], "size": 0, "type": "directory"}
        modified = datetime.fromtimestamp(stat.mtime_ns / 1e9, UTC)
        return {"name": name, "size": stat.size_bytes, "type": "file", "mtime": modified}


class Handler(pyarrow.fs.FSSpecHandler):
    """Arrow's handler, except that it lists a folder by one request.

    Arrow's own asks whether the folder exists, then whether any entry exists, then for the entries. If another process
    makes the folder between the first two requests, it raises NotADirectoryError.
    """

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        folder = selector.base_dir.strip("/")
        entries = self.fs.find(folder, maxdepth=None if selector.recursive else 1, withdirs=True, detail=True)
        if not entries and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        return [self._create_file_info(path, info) for path, info in entries.items() if path != folder]


def register(config: StorageConfig | None = None) -> None:
    """Use this file system for s3:// URLs in this process."""
    factory = S3FileSystem if config is None else functools.partial(S3FileSystem, config)
    fsspec.register_implementation("s3", factory, clobber=True)
