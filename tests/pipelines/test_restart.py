"""kill -9 at twenty random moments, each time the same command again: the lake is the uninterrupted one."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_cli import digests, speechmill

ROOT = Path(__file__).parents[2]
SETTINGS = ["--set", "encode.shard_mb=0.3", "--set", "ingest.batch_hours=0.017"]


@pytest.mark.slow
def test_twenty_kills_leave_the_lake_of_an_uninterrupted_run(tmp_path: Path, conversation: Path) -> None:
    speech, rate = soundfile.read(conversation, dtype="int16")
    (tmp_path / "in").mkdir()
    for n in range(8):
        soundfile.write(tmp_path / f"in/{n}.wav", np.roll(speech, n * rate), rate)
    words = ["run", "demo", "--in", str(tmp_path / "in"), *SETTINGS, "--lake"]
    begun = time.monotonic()
    assert speechmill(*words, str(tmp_path / "whole")).returncode == 0
    whole_s = time.monotonic() - begun
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", *words, str(tmp_path / "killed")]
    moments = random.Random(7)
    kills, states = 0, set()
    for _ in range(20):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.3, 1.0) * whole_s)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        states.add(len(digests(tmp_path / "killed")))
        if kills % 4 == 0:  # a lake that is already finished shows little: begin again
            subprocess.run(["rm", "-rf", str(tmp_path / "killed")], check=True)
    assert kills >= 10
    assert len(states) > 2
    assert speechmill(*words, str(tmp_path / "killed")).returncode == 0
    expected = digests(tmp_path / "whole")
    assert len(expected) > 20
    assert digests(tmp_path / "killed") == expected
    assert list((tmp_path / "killed/runs/tmp").iterdir()) == []
