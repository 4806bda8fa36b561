"""The benchmark of a GPU runs on a CPU, by tiny models over little sound, so that it cannot rot unseen."""

import re
import subprocess
import sys

import pytest
from test_cli import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_part_of_the_benchmark_runs_and_gives_a_rate() -> None:
    command = [sys.executable, str(ROOT / "tests/bench/bench_gpu.py"), "--device", "cpu", "--tiny", "--here"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1150)
    assert done.returncode == 0, done.stderr
    rates = {
        line[:46].strip(): float(line[46:58].replace(",", "")) for line in done.stdout.splitlines() if "h/h" in line
    }
    for name in ("mimi", "encodec", "dac"):
        for precision in ("float32", "bfloat16"):
            assert rates[f"{name}, {precision}, from memory"] > 0
    for name in ("logmel", "mimi", "encodec", "dac"):
        assert rates[f"{name}, from 1 FLAC files, 1 workers"] > 0
    assert rates["logmel, float64, from memory"] > 0
    assert rates["diarize, 2 processes, start-up apart"] > 0
    for stage in ("diarize", "language, float32"):
        assert rates[f"{stage}, 15 s recordings, 2 at once"] > 0
    assert len(rates) == 14


def test_without_a_gpu_it_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(ROOT / "tests/bench/bench_gpu.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, "no CUDA device here: nothing was measured" in done.stdout) == (0, True)
    assert re.match(r"\S+, Python 3", done.stdout)
