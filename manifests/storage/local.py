"""The storage of a local or mounted disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from manifests.storage import Stat, StorageError, checked_key

if TYPE_CHECKING:
    import pyarrow.fs

TEMPORARY = "runs/tmp"
LOCK = "lock"
DAY_S = 86400.0


class LocalStorage:
    """A folder on a local or mounted disk.

    A file is written under a temporary name and renamed; file and folder are synchronised with the disk. Temporary
    files are under `runs/tmp` in the same file system, so a killed writer never leaves one among the data.
    """

    def __init__(self, root: str | Path) -> None:
        self.path = Path(root).absolute()
        self.root = str(self.path)

    def list(self, prefix: str = "") -> Iterator[str]:
        folder = self._place(prefix) if prefix else self.path
        try:
            with os.scandir(folder) as entries:
                # Only names are held, because entries take six times their memory. A folder sorts with a '/' at its
                # end, which gives the order of an object store. Names that begin with a dot are no keys: they are
                # files of other programs (.DS_Store, .nfs0001).
                names = sorted(entry.name + "/" * entry.is_dir() for entry in entries if entry.name[0] != ".")
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            key = f"{prefix}/{name}" if prefix else name
            if not name.endswith("/"):
                yield key
            elif key != f"{TEMPORARY}/":
                yield from self.list(key[:-1])

    def read(self, key: str) -> bytes:
        return self._place(key).read_bytes()

    def open(self, key: str) -> BinaryIO:
        return self._place(key).open("rb")

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        with self._place(key).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), stop - start, start)

    def stat(self, key: str) -> Stat:
        status = self._place(key).stat()
        return Stat(status.st_size, status.st_mtime_ns)

    def size(self, key: str) -> int:
        return self.stat(key).size_bytes

    def exists(self, key: str) -> bool:
        return self._place(key).is_file()

    def put(self, key: str, data: bytes) -> None:
        target = self._place(key)
        temporary = self._temporary(data)
        try:
            self._rename(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def put_file(self, key: str, path: Path) -> None:
        target = self._place(key)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        if path.stat().st_dev != self._tmp().stat().st_dev:
            copy = self._tmp() / _own_name()
            shutil.move(path, copy)
            self.put_file(key, copy)
            return
        self._rename(path, target)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._place(key)
        if target.exists():
            return False
        temporary = self._temporary(data)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(temporary, target)  # fails if the name exists; nothing else creates a whole file atomically
            _fsync_folder(target.parent)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def replace(self, key: str, old: bytes, data: bytes) -> bool:
        target = self._place(key)
        temporary = self._temporary(data)
        try:
            with self._locked():
                try:
                    current = target.read_bytes()
                except FileNotFoundError:
                    return False
                if current != old:
                    return False
                self._rename(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def delete(self, key: str) -> None:
        self._place(key).unlink(missing_ok=True)

    def scratch(self) -> Path:
        return make_scratch(self._tmp())

    def log(self, key: str) -> TextIO:
        path = self._place(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def sweep(self) -> None:
        sweep_dead(self._tmp())

    def filesystem(self) -> pyarrow.fs.FileSystem:
        import pyarrow.fs

        return pyarrow.fs.SubTreeFileSystem(self.root, pyarrow.fs.LocalFileSystem())

    def _place(self, key: str) -> Path:
        return self.path / checked_key(key)

    def _tmp(self) -> Path:
        folder = self.path / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the lake, which one process at a time can have; it ends with the process."""
        with (self._tmp() / LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:  # some cluster file systems have no locks
                if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                    raise
            yield

    def _temporary(self, data: bytes) -> Path:
        path = self._tmp() / _own_name()
        try:
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # neither a full disk nor Ctrl-C may leave half a file
            path.unlink(missing_ok=True)
            raise
        return path

    def _rename(self, path: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        _fsync_folder(target.parent)


def private_folder() -> Path:
    """The folder of this user for temporary files on this machine. Raises StorageError if another user has made it."""
    folder = Path(tempfile.gettempdir()) / f"speechmill-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o700)
    status = (
        folder.lstat()
    )  # links are not followed: in a folder that everybody can write, another user may have made one
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StorageError(f"{folder} is not a folder that only this user can write", "remove it, or set TMPDIR")
    return folder


def make_scratch(folder: Path) -> Path:
    """Make a folder under `folder` that `sweep_dead` keeps while this process lives."""
    scratch = folder / _own_name()
    scratch.mkdir(parents=True)
    return scratch


def sweep_dead(folder: Path) -> None:
    """Remove the entries of `folder` whose process is known to be dead, or in which nothing changed for a day.

    The name of an entry identifies its process (`_own_name`). Entries with other names belong to other programs and
    stay. Several processes may do this at the same time.
    """
    for entry in folder.iterdir():
        owner = OWNED.fullmatch(entry.name)
        if owner is None:
            continue
        with contextlib.suppress(FileNotFoundError, PermissionError):  # gone already; of another user
            if _is_dead(owner) or _last_change(entry) < time.time() - DAY_S:
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()


OWNED = re.compile(
    r"(?P<machine>[0-9a-f]{16})-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<started>[\d.]+)-(?P<random>[0-9a-f]{32})"
)
"""The names that `_own_name` makes."""
UNKNOWN = "0"
"""The start time of a process if the system does not report it."""


def owner() -> str:
    """A name that identifies this process, for `is_dead`."""
    return _own_name()


def is_dead(name: str) -> bool:
    """Whether the process of a name by `owner` is known to be dead; False for processes on other machines."""
    match = OWNED.fullmatch(name)
    return match is not None and _is_dead(match)


def _own_name() -> str:
    """A new name that identifies this process uniquely.

    A host name and a pid do not, because two containers may share both. The boot id of the machine, the namespace of
    process ids, the pid and the start time of the process together are unique.
    """
    return f"{_own_prefix(os.getpid())}-{uuid.uuid4().hex}"


@functools.cache
def _own_prefix(pid: int) -> str:
    return f"{_machine()}-{_pid_namespace()}-{pid}-{_started(pid) or UNKNOWN}"


def _is_dead(owner: re.Match[str]) -> bool:
    """Whether the owner is gone; False for a process that this one could not see, because nothing is known of it."""
    if (owner["machine"], owner["namespace"]) != (_machine(), str(_pid_namespace())):
        return False
    pid = int(owner["pid"])
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # a living process of another user
        pass
    # Another process may have got the same pid.
    return UNKNOWN not in (started := [owner["started"], _started(pid) or UNKNOWN]) and started[0] != started[1]


@functools.cache
def _machine() -> str:
    """Hash of the boot id of this machine, or of the host name if the system has no boot id."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = socket.gethostname()
    return hashlib.sha256(boot.encode()).hexdigest()[:16]


def _pid_namespace() -> int:
    """The namespace of process ids of this process; 0 if the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _started(pid: int) -> str | None:
    """When a process started, in units of the system; None if the system does not report it."""
    if sys.platform != "linux":
        import psutil

        with contextlib.suppress(psutil.Error):
            return str(psutil.Process(pid).create_time())
        return None
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):  # otherwise /proc has the pids of another namespace
            # Ticks since the boot, because the times of psutil change when the clock is set. A name may have spaces.
            return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    return None


def _last_change(entry: Path) -> float:
    """The last change of a file, or of anything in a folder, in seconds since 1970."""
    inside = entry.rglob("*") if entry.is_dir() else ()
    return max(path.lstat().st_mtime for path in (entry, *inside))


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
