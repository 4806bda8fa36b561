"""A run that goes on: new recordings are milled as they come, rounds without any do nothing, Ctrl-C ends it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import make_input
from test_cli import ROOT
from test_ingest import sound
from test_restart import INTERRUPTIBLE


@pytest.mark.slow
def test_a_watching_run_mills_what_comes_and_rests_otherwise(tmp_path: Path) -> None:
    make_input(tmp_path, 1)
    late = sound(tmp_path / "late.wav", seconds=30)  # without speech, so that the dataset stays as it is
    words = ["run", str(tmp_path / "recipe.toml"), "--in", str(tmp_path / "in"), "--lake"]
    lake, told = tmp_path / "lake", tmp_path / "told.txt"
    command = [sys.executable, "-c", INTERRUPTIBLE, *words, str(lake), "--watch", "0.5"]
    command += ["--set", "select.recordings.speech=speech_share > 0.1"]
    with told.open("w") as file:
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment)

    def rounds() -> list[str]:
        return [line for line in told.read_text().splitlines() if line.startswith("ingest: ")]

    def wait_for(count: int) -> None:
        while len(rounds()) < count:
            assert process.poll() is None, told.read_text()
            time.sleep(0.02)

    wait_for(3)
    assert rounds()[1].startswith("ingest: 1 name: 0 new, 0 new names of known bytes, 1 known")
    assert told.read_text().count("annotate: ") == 1  # there was nothing to do in the second round
    shutil.move(late, tmp_path / "in/01.wav")
    wait_for(len(rounds()) + 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) in (0, 130)  # between two rounds, or within one
    assert "Traceback" not in told.read_text()
    assert told.read_text().count("annotate: ") == 2
    assert len(list(lake.glob("annotations/vad-*/*.parquet"))) == 2
    (summary,) = lake.glob("runs/*/summary.json")
    assert json.loads(summary.read_text())["outcome"] in ("done", "interrupted")
