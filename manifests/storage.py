"""Where a lake lives: a small interface to named bytes. Keys are '/'-separated and relative to the lake's root.

Writes are atomic: a key holds either nothing, the old bytes or the new ones, whatever is killed when.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TextIO

if TYPE_CHECKING:
    import pyarrow.fs

TEMPORARY = "runs/tmp"


class Storage(Protocol):
    """Named bytes. Missing keys raise FileNotFoundError."""

    root: str

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys under the folder `prefix`, in order, without loading them all."""
        ...

    def read(self, key: str) -> bytes: ...
    def open(self, key: str) -> BinaryIO: ...
    def size(self, key: str) -> int: ...
    def exists(self, key: str) -> bool: ...
    def put(self, key: str, data: bytes) -> None: ...
    def put_file(self, key: str, path: Path) -> None:
        """Put a local file, which is consumed."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Put and return True, or leave what is there and return False."""
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

    def filesystem(self) -> pyarrow.fs.FileSystem:
        """The storage for readers of Parquet: paths are keys."""
        ...


class LocalStorage:
    """A folder on a local or mounted disk: temporary name, fsync, rename, fsync of the folder.

    Temporary files lie under `runs/tmp` of the same file system, so a killed writer never leaves one beside data.
    """

    def __init__(self, root: str | Path) -> None:
        self.path = Path(root).absolute()
        self.root = str(self.path)

    def list(self, prefix: str = "") -> Iterator[str]:
        folder = self.path / prefix
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            key = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_dir():
                if key != TEMPORARY:
                    yield from self.list(key)
            else:
                yield key

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def open(self, key: str) -> BinaryIO:
        return (self.path / key).open("rb")

    def size(self, key: str) -> int:
        return (self.path / key).stat().st_size

    def exists(self, key: str) -> bool:
        return (self.path / key).is_file()

    def put(self, key: str, data: bytes) -> None:
        temporary = self._temporary(data)
        try:
            self._rename(temporary, key)
        finally:
            temporary.unlink(missing_ok=True)

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        if path.stat().st_dev != self._tmp().stat().st_dev:
            moved = self._tmp() / uuid.uuid4().hex
            shutil.move(path, moved)
            self.put_file(key, moved)
            return
        self._rename(path, key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self.path / key
        if target.exists():
            return False
        temporary = self._temporary(data)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(temporary, target)  # fails where the name exists: the only atomic create-with-content there is
            _fsync_folder(target.parent)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def delete(self, key: str) -> None:
        (self.path / key).unlink(missing_ok=True)

    def scratch(self) -> Path:
        folder = self._tmp() / f"{os.getpid()}-{uuid.uuid4().hex}"
        folder.mkdir()
        return folder

    def log(self, key: str) -> TextIO:
        path = self.path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def filesystem(self) -> pyarrow.fs.FileSystem:
        import pyarrow.fs

        return pyarrow.fs.SubTreeFileSystem(self.root, pyarrow.fs.LocalFileSystem())

    def sweep(self, older_than_s: float = 0.0) -> None:
        """Remove what killed writers left under `runs/tmp`."""
        limit = time.time() - older_than_s
        for entry in self._tmp().iterdir():
            owner = entry.name.split("-")[0]
            if entry.stat().st_mtime > limit or (owner.isdigit() and _alive(int(owner))):
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)

    def _tmp(self) -> Path:
        folder = self.path / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _temporary(self, data: bytes) -> Path:
        path = self._tmp() / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # a full disk or Ctrl-C must not leave half a file; it is raised on
            path.unlink(missing_ok=True)
            raise
        return path

    def _rename(self, path: Path, key: str) -> None:
        target = self.path / key
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        _fsync_folder(target.parent)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_storage(root: str) -> Storage:
    """The storage behind a lake's name."""
    if "://" in root:
        raise ValueError(f"{root}: only local folders can hold a lake in this version; remedy: give a folder")
    return LocalStorage(root)
