"""Local disk: what a killed writer leaves, who sweeps it, and what of others is left alone."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from manifests.storage import StorageError
from manifests.storage.local import DAY_S, LocalStorage, private_folder

ROOT = Path(__file__).parents[2]
WAITING = (
    "import sys\n"
    "from manifests.storage.local import LocalStorage\n"
    "storage = LocalStorage(sys.argv[1])\n"
    "(storage.scratch() / 'half').write_bytes(b'?')\n"
    "print('made', flush=True)\n"
    "sys.stdin.read()\n"
)


def left_in(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "runs/tmp").iterdir())


def test_a_killed_writer_leaves_the_old_bytes_and_its_litter_is_swept(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("k", b"old")
    script = (
        "import os, signal, sys\n"
        "from manifests.storage.local import LocalStorage\n"
        "storage = LocalStorage(sys.argv[1])\n"
        "storage._rename = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage.put('k', b'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert storage.read("k") == b"old"
    assert len(list((tmp_path / "runs/tmp").iterdir())) == 1
    storage.sweep()
    assert list((tmp_path / "runs/tmp").iterdir()) == []


def test_scratch_of_a_living_process_in_another_namespace_of_processes_is_left_alone(tmp_path: Path) -> None:
    """Two containers on one machine, of one name: the pid of one is another process, or none, in the other."""
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("no right to make a namespace of processes")
    script = [sys.executable, "-c", WAITING, str(tmp_path)]
    with subprocess.Popen([*apart, *script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == b"made\n"
        LocalStorage(tmp_path).sweep()
        assert len(left_in(tmp_path)) == 1
        sweep = "import sys; from manifests.storage.local import LocalStorage; LocalStorage(sys.argv[1]).sweep()"
        kept = LocalStorage(tmp_path).scratch()
        subprocess.run([*apart, sys.executable, "-c", sweep, str(tmp_path)], cwd=ROOT, check=True)
        assert len(left_in(tmp_path)) == 2
        kept.rmdir()
        inside.communicate(b"")
    LocalStorage(tmp_path).sweep()
    assert len(left_in(tmp_path)) == 1  # it may live elsewhere, for all that is known here


def test_scratch_of_another_boot_or_machine_is_left_alone_for_a_day(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    machine, rest = storage.scratch().name.split("-", 1)
    other = tmp_path / "runs/tmp" / f"{'0' * len(machine)}-{rest}"
    other.mkdir()
    (other / "inner").mkdir()
    (other / "inner/half").write_bytes(b"?")
    storage.sweep()
    assert other.exists()
    long_ago = time.time() - 2 * DAY_S
    for path in (other / "inner", other):
        os.utime(path, (long_ago, long_ago))
    storage.sweep()
    assert other.exists()  # a file in it is still written
    os.utime(other / "inner/half", (long_ago, long_ago))
    storage.sweep()
    assert not other.exists()


def test_a_dead_process_whose_number_another_has_got_is_swept(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    machine, namespace, pid, started, _ = storage.scratch().name.split("-")
    earlier = f"{machine}-{namespace}-{pid}-{int(started) - 1}-{uuid.uuid4().hex}"
    (tmp_path / "runs/tmp" / earlier).mkdir()
    storage.sweep()
    assert earlier not in left_in(tmp_path)
    assert len(left_in(tmp_path)) == 1


@pytest.mark.parametrize(
    "name",
    [".DS_Store", ".nfs0000000001", "Thumbs.db", "a", "a-b", "host-12-x", "host-9-" + "0" * 32, "v-w-x-y-z"],
)
def test_files_of_other_programs_neither_stop_a_sweep_nor_are_removed(tmp_path: Path, name: str) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("recordings/batch-000000.parquet", b"x")
    for folder in ("runs/tmp", "recordings", "."):
        (tmp_path / folder / name).write_bytes(b"of others")
        os.utime(tmp_path / folder / name, (0, 0))
    storage.sweep()
    assert (tmp_path / "runs/tmp" / name).exists()


def test_hidden_files_are_no_keys(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("recordings/batch-000000.parquet", b"x")
    (tmp_path / "recordings/._batch-000000.parquet").write_bytes(b"of a Mac")
    (tmp_path / ".snapshots").mkdir()
    (tmp_path / ".snapshots/x").write_bytes(b"of a server")
    assert list(storage.list()) == ["recordings/batch-000000.parquet"]


def test_the_folder_for_temporary_files_is_this_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert private_folder().stat().st_mode & 0o777 == 0o700
    private_folder().rmdir()
    (tmp_path / "of another").mkdir()
    (tmp_path / f"speechmill-{os.getuid()}").symlink_to(tmp_path / "of another")
    with pytest.raises(StorageError, match="only this user can write") as caught:
        private_folder()
    assert "TMPDIR" in caught.value.remedy
