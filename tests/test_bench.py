"""Every benchmark runs at a tiny size over the sound of the packages, so that none of them breaks unnoticed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ray_clusters import need_namespaces

BENCH = Path(__file__).parent / "bench"
TINY: dict[str, str] = {
    "accuracy_diarize.py": "--most 1",
    "accuracy_fingerprint.py": "--voices 3 --jingles 2 --simulated 0 --no-chromaprint",
    "accuracy_language.py": "--only 3s",
    "accuracy_phonemes.py": "--recogniser pocketsphinx --vocoder griffin-lim --no-text --longest 5",
    "accuracy_pjsd.py": "--samples 2 --settings 1",
    "accuracy_prosody.py": "--pitches 1",
    "accuracy_turns.py": "--minutes 1",
    "bench_cost.py": "--minutes 3 --times 2",
    "bench_decode.py": "--seconds 2 --repeats 1",
    "bench_encoders.py": "--seconds 1 --only encodec\\ 24\\ kHz",
    "bench_engines.py": "--hours 0.03 --minutes 1",
    "bench_logmel.py": "--seconds 1 --repeats 1",
    "bench_manifest.py": "--recordings 200 --batch 50 --repeats 1 --lhotse 40",
    "bench_path.py": "--minutes 0.5",
    "bench_quality.py": "",
    "bench_reader.py": "--shards 2 --windows 20 --turns 1",
    "bench_s3.py": "--mb 9 --turns 1 --shard-hours 0.05",
    "bench_scale.py": "--recordings 1000",
    "bench_vad.py": "--repeats 1 --rounds 1",
    "fit_channels.py": "",
    "fit_confidence.py": "",
    "judge.py": "OUT --count 1 --minutes 0.5..0.6 --speakers 1 --calls 0 --long 0 --utterances 0 "
    "--side test --bed none",
    "kill_local.py": "1",
    "kill_ray.py": "1",
    "memory_long.py": "--hours 0.02",
    "outage_s3.py": "--down-s 2",
    "peers/bench_vad_ray.py": "2",
    "scale_fingerprint.py": "200 --seconds 5",
}
"""Arguments with which each benchmark is tiny. OUT stands for a folder."""
ELSEWHERE = {
    "bench_gpu.py", "study_slm.py", "peers/curator_vad.py", "analysed.py", "compared.py", "judged.py",
    "peers/chromaprint.py",
}  # fmt: skip
"""The first two have tests of their own, the third needs the environment of NeMo Curator, others are imported."""
SLOW = {
    "accuracy_diarize.py", "accuracy_fingerprint.py", "accuracy_language.py", "accuracy_phonemes.py",
    "accuracy_turns.py", "bench_cost.py", "bench_encoders.py", "bench_engines.py", "bench_manifest.py", "bench_path.py",
    "bench_quality.py", "bench_reader.py", "bench_scale.py", "fit_channels.py", "fit_confidence.py", "judge.py",
    "kill_local.py", "kill_ray.py", "memory_long.py", "outage_s3.py",
}  # fmt: skip
"""Benchmarks whose tiny run takes more than about seven CPU seconds."""
CLUSTERS = {"bench_engines.py", "kill_ray.py"}


def test_every_benchmark_has_a_tiny_run() -> None:
    assert {str(path.relative_to(BENCH)) for path in BENCH.rglob("*.py")} == TINY.keys() | ELSEWHERE


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TINY])
def test_a_benchmark_runs_over_the_sound_of_the_packages(name: str, tmp_path: Path) -> None:
    if name in CLUSTERS:
        need_namespaces()
    words = [str(tmp_path / "out") if word == "OUT" else word for word in shlex.split(TINY[name])]
    environment = os.environ | {
        "SPEECHMILL_TEST_AUDIO": str(tmp_path / "nothing"),
        "PYTHONPATH": str(BENCH.parents[1]),
    }
    if name not in CLUSTERS:  # Ray's sockets need a short path
        environment["TMPDIR"] = str(tmp_path)
    command = [sys.executable, str(BENCH / name), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.search(r"\d", done.stdout) or "not installed" in done.stdout
    assert not re.search(r"\bnan\b", done.stdout), done.stdout
