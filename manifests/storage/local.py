"""The storage of a local or mounted disk."""

from __future__ import annotations

import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from manifests.storage import Stat

if TYPE_CHECKING:
    import pyarrow.fs

TEMPORARY = "runs/tmp"
DAY_S = 86400.0


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
            with os.scandir(folder) as entries:
                # Names alone are held: entries take six times their memory. A folder sorts as what it stands for,
                # names that go on with '/': the order of an object store.
                names = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            key = f"{prefix}/{name}" if prefix else name
            if not name.endswith("/"):
                yield key
            elif key != f"{TEMPORARY}/":
                yield from self.list(key[:-1])

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def open(self, key: str) -> BinaryIO:
        return (self.path / key).open("rb")

    def stat(self, key: str) -> Stat:
        status = (self.path / key).stat()
        return Stat(status.st_size, status.st_mtime_ns)

    def size(self, key: str) -> int:
        return self.stat(key).size_bytes

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
            moved = self._tmp() / _own_name()
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
        return make_scratch(self._tmp())

    def log(self, key: str) -> TextIO:
        path = self.path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def sweep(self) -> None:
        sweep_dead(self._tmp())

    def filesystem(self) -> pyarrow.fs.FileSystem:
        import pyarrow.fs

        self.path.mkdir(parents=True, exist_ok=True)
        return pyarrow.fs.SubTreeFileSystem(self.root, pyarrow.fs.LocalFileSystem())

    def _tmp(self) -> Path:
        folder = self.path / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _temporary(self, data: bytes) -> Path:
        path = self._tmp() / _own_name()
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


def make_scratch(folder: Path) -> Path:
    """A fresh folder under `folder` that `sweep_dead` spares while this process lives."""
    made = folder / _own_name()
    made.mkdir(parents=True)
    return made


def sweep_dead(folder: Path) -> None:
    """Remove what is named after a process of this machine that is dead, or has not changed for a day."""
    for entry in folder.iterdir():
        host, pid, _ = entry.name.rsplit("-", 2)
        dead = host == socket.gethostname() and not _alive(int(pid))
        if dead or entry.stat().st_mtime < time.time() - DAY_S:  # of another machine nobody here knows
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)


def _own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"


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
