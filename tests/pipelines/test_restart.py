"""kill -9 at twenty random moments, each time the same command again: the lake is the uninterrupted one."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_cli import ROOT, digests, speechmill

RECIPE = """
name = "restart"
[ingest]
batch_hours = 0.017
[annotate.vad]
[select]
context_s = 2.0
continuation_s = 6.0
[encode]
shard_mb = 0.3
"""


@pytest.mark.slow
def test_twenty_kills_leave_the_lake_of_an_uninterrupted_run(tmp_path: Path, conversation: Path) -> None:
    speech, rate = soundfile.read(conversation, dtype="int16")
    (tmp_path / "in").mkdir()
    for n in range(8):
        soundfile.write(tmp_path / f"in/{n}.wav", np.roll(speech, n * rate), rate)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    words = ["run", str(tmp_path / "recipe.toml"), "--in", str(tmp_path / "in"), "--lake"]
    assert speechmill(*words, str(tmp_path / "whole")).returncode == 0
    expected = digests(tmp_path / "whole")
    assert len(expected) > 20
    lake = tmp_path / "killed"
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", *words, str(lake)]
    chance = random.Random(7)
    found_at_kill = []
    for _ in range(60):
        # A moment is a number of files in the lake and a little more: seconds would depend on the machine's load.
        files = len(digests(lake)) + chance.randint(0, 5)
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(lake.rglob("*.*"))) < files:
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
