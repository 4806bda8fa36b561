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
    """A folder on a local or mounted disk: temporary name, fsync, rename, fsync of the folder.

    Temporary files lie under `runs/tmp` of the same file system, so a killed writer never leaves one beside data.
    """

    def __init__(self, root: str | Path) -> None:
        self.path = Path(root).absolute()
        self.root = str(self.path)

    def list(self, prefix: str = "") -> Iterator[str]:
        folder = self._place(prefix) if prefix else self.path
        try:
            with os.scandir(folder) as entries:
                # Names alone are held: entries take six times their memory. A folder sorts as what it stands for,
                # names that go on with '/': the order of an object store.
                # No key has a part that begins with a dot: such files are left by other programs (.DS_Store, .nfs0001).
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
            moved = self._tmp() / _own_name()
            shutil.move(path, moved)
            self.put_file(key, moved)
            return
        self._rename(path, target)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._place(key)
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

    def replace(self, key: str, old: bytes, data: bytes) -> bool:
        target = self._place(key)
        temporary = self._temporary(data)
        try:
            with self._locked():
                try:
                    held = target.read_bytes()
                except FileNotFoundError:
                    return False
                if held != old:
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
        """One process at a time is in here for one folder of lakes; the lock ends with its process."""
        with (self._tmp() / LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:  # some cluster file systems are mounted without locks
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
        except BaseException:  # a full disk or Ctrl-C must not leave half a file; it is raised on
            path.unlink(missing_ok=True)
            raise
        return path

    def _rename(self, path: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        _fsync_folder(target.parent)


def private_folder() -> Path:
    """This user's folder for temporary files of this machine. StorageError where another user has made it."""
    folder = Path(tempfile.gettempdir()) / f"speechmill-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o700)
    status = folder.lstat()  # not through a link: in a folder that all may write, another user may have laid one
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StorageError(f"{folder} is not a folder that this user alone may write", "remove it, or set TMPDIR")
    return folder


def make_scratch(folder: Path) -> Path:
    """A fresh folder under `folder` that `sweep_dead` spares while this process lives."""
    made = folder / _own_name()
    made.mkdir(parents=True)
    return made


def sweep_dead(folder: Path) -> None:
    """Remove the entries of `folder` whose owner is known to be dead, or under which nothing changed for a day.

    Owners are processes that `_own_name` describes; a file that is not named so belongs to another program, and is
    left alone. Several processes may sweep at once.
    """
    for entry in folder.iterdir():
        owner = OWNED.fullmatch(entry.name)
        if owner is None:
            continue
        with contextlib.suppress(FileNotFoundError, PermissionError):  # swept meanwhile; of another user
            if _is_dead(owner) or _last_change(entry) < time.time() - DAY_S:
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()


OWNED = re.compile(
    r"(?P<machine>[0-9a-f]{16})-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<started>[\d.]+)-(?P<random>[0-9a-f]{32})"
)
"""What `_own_name` makes."""
UNKNOWN = "0"
"""Stands for the start of a process of which the system does not tell."""


def owner() -> str:
    """A name of this process, for `is_dead`."""
    return _own_name()


def is_dead(name: str) -> bool:
    """Whether a process that `owner` has named is known to be dead; of a process elsewhere nothing is known."""
    found = OWNED.fullmatch(name)
    return found is not None and _is_dead(found)


def _own_name() -> str:
    """A fresh name that tells which process owns it, where the name of the host and the pid alone would not.

    Two containers may share both of these. The boot of the machine, the namespace of the process ids, the pid and the
    time when that process started are met together once only.
    """
    return f"{_own_prefix(os.getpid())}-{uuid.uuid4().hex}"


@functools.cache
def _own_prefix(pid: int) -> str:
    return f"{_machine()}-{_pid_namespace()}-{pid}-{_started(pid) or UNKNOWN}"


def _is_dead(owner: re.Match[str]) -> bool:
    """Whether the owner was a process that this one can see, and it is gone. Of any other, nothing is known."""
    if (owner["machine"], owner["namespace"]) != (_machine(), str(_pid_namespace())):
        return False
    pid = int(owner["pid"])
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # a living process of another user
        pass
    # Another process may have got its number.
    return UNKNOWN not in (started := [owner["started"], _started(pid) or UNKNOWN]) and started[0] != started[1]


@functools.cache
def _machine() -> str:
    """This boot of this machine; the name of the host where the system does not tell of boots."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = socket.gethostname()
    return hashlib.sha256(boot.encode()).hexdigest()[:16]


def _pid_namespace() -> int:
    """The namespace in which this process and its number lie; 0 where the system has no such."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _started(pid: int) -> str | None:
    """When a process started, in the units of the system; None where the system does not tell."""
    if sys.platform != "linux":
        import psutil

        with contextlib.suppress(psutil.Error):
            return str(psutil.Process(pid).create_time())
        return None
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):  # else this /proc numbers the processes of another namespace
            # Ticks since the boot: psutil's seconds since 1970 move when the clock is set. A name may hold spaces.
            return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    return None


def _last_change(entry: Path) -> float:
    """When anything in a file or folder changed last, seconds since 1970."""
    inside = entry.rglob("*") if entry.is_dir() else ()
    return max(path.lstat().st_mtime for path in (entry, *inside))


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
