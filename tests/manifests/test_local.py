"""Local disk: what a killed writer leaves, and who sweeps it."""

import subprocess
import sys
from pathlib import Path

from manifests.storage.local import LocalStorage


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
