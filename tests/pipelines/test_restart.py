"""kill -9 at twenty random moments, Ctrl-C, a full disk: the same command again makes the uninterrupted lake."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from forked import speechmill, start
from test_cli import digests

RECIPE = """
name = "restart"
[ingest]
batch_hours = 0.008
[annotate.vad]
[select]
context_s = 2.0
continuation_s = 6.0
[encode]
shard_mb = 0.3
"""

# Where SIGINT is ignored, as under nohup or in the background, a process inherits that, and Ctrl-C does nothing.
INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from pipelines.commands.cli import main; main()"
)


@pytest.fixture
def words(tmp_path: Path, conversation: Path) -> list[str]:
    """A run over eight recordings in many small batches and shards; the lake's folder comes next."""
    speech, rate = soundfile.read(conversation, dtype="int16")
    (tmp_path / "in").mkdir()
    for n in range(8):
        soundfile.write(tmp_path / f"in/{n}.wav", np.roll(speech, n * rate), rate)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return ["run", str(tmp_path / "recipe.toml"), "--in", str(tmp_path / "in"), "--lake"]


@pytest.fixture
def expected(tmp_path: Path, words: list[str]) -> dict[str, str]:
    """The lake of an uninterrupted run."""
    assert speechmill(*words, str(tmp_path / "whole")).returncode == 0
    found = digests(tmp_path / "whole")
    assert len(found) > 20
    return found


def count(lake: Path) -> int:
    """Files outside `runs/`, where every run leaves some at once; folders may vanish under a walk."""
    folders = ((Path(folder).relative_to(lake), names) for folder, _, names in os.walk(lake))
    return sum(len(names) for folder, names in folders if folder.parts[:1] != ("runs",))


@pytest.mark.slow
def test_twenty_kills_leave_the_lake_of_an_uninterrupted_run(
    tmp_path: Path, words: list[str], expected: dict[str, str]
) -> None:
    lake = tmp_path / "killed"
    chance = random.Random(7)
    found_at_kill = []
    for _ in range(60):
        # A moment is a number of files in the lake and a little more: seconds would depend on the machine's load.
        files = len(digests(lake)) + chance.randint(0, 5)
        process = start(*words, str(lake))
        while process.poll() is None and count(lake) < files:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            found_at_kill.append(len(digests(lake)))
        else:  # it was finished: begin a new one
            assert digests(lake) == expected
            shutil.rmtree(lake)
        if len(found_at_kill) == 20:
            break
    assert len(found_at_kill) == 20
    assert len(set(found_at_kill)) > 4
    assert speechmill(*words, str(lake)).returncode == 0
    assert digests(lake) == expected
    assert list((lake / "runs/tmp").iterdir()) == []


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_is_told_without_a_traceback_and_the_same_command_goes_on(
    tmp_path: Path, words: list[str], expected: dict[str, str], workers: int
) -> None:
    lake = tmp_path / "lake"
    process = start(*words, str(lake), "--workers", str(workers), interruptible=True)
    while process.poll() is None and not list(lake.glob("annotations/vad-*/*.parquet")):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1]
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130, told
    assert told.splitlines()[-1] == "interrupted: run the same command again to resume"
    assert "Traceback" not in told
    (summary,) = lake.glob("runs/*/summary.json")
    assert json.loads(summary.read_text())["outcome"] == "interrupted"
    assert digests(lake) != expected
    assert speechmill(*words, str(lake)).returncode == 0
    assert digests(lake) == expected


def test_a_full_disk_is_told_and_the_same_command_goes_on(
    tmp_path: Path, words: list[str], expected: dict[str, str]
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        refused = speechmill(*words, str(small / "lake"))
        assert (refused.returncode, "are free on the disk" in refused.stderr) == (1, True), refused.stderr
        full = speechmill(*words, str(small / "lake"), "--set", "storage.check_room=false")
        assert (full.returncode, "Traceback" in full.stderr) == (1, False), full.stderr
        assert "No space left on device" in full.stderr
        assert "free some space" in full.stderr
        left = digests(small / "lake")
        assert left.items() <= expected.items()
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        assert speechmill(*words, str(small / "lake")).returncode == 0
        assert digests(small / "lake") == expected
    finally:
        subprocess.run(["umount", str(small)], check=True)
