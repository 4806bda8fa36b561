"""Hostile inputs become rows: those that broke a rule once, and many more drawn from a fixed seed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from fuzz import sounds
from fuzz.corpus import CORPUS, MEMBER
from fuzz.edits import edited
from fuzz.hunt import keep
from fuzz.oracle import Verdict
from fuzz.plans import AT_ONCE
from fuzz.scenes import tar
from fuzz.worker import Worker

pytestmark = pytest.mark.fuzz
PLANS = 30
"""Of each target: about a minute in all."""
SEED = 20261127


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


@pytest.mark.parametrize("name", CORPUS)
def test_what_broke_a_rule_once_becomes_rows(worker: Worker, name: str) -> None:
    verdict = worker.judge(*CORPUS[name])
    assert verdict.problem is None, f"{verdict.problem}\n{verdict.detail}"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of computing, which on a machine that is busy otherwise takes many
def test_hostile_inputs_of_a_fixed_seed_become_rows(tmp_path: Path) -> None:
    # In a process of its own: Hypothesis also draws constants of the modules that are loaded, which differ by test run.
    command = [sys.executable, "-m", "fuzz", "--plans", str(PLANS), "--seed", str(SEED), "--finds", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_name_that_gets_lost_is_noticed(worker: Worker) -> None:
    plan = {"lines": [(b'{"audio_filepath": "<n>.wav"}', 2)], "edits": [], "gzip": None}
    assert worker.judge("manifests", plan).problem == "names are lost or made up"


def test_an_input_that_takes_too_long_is_ended_and_the_next_one_is_judged() -> None:
    made = Worker(limit_s=0.5)
    try:
        drip = (b"HTTP/1.1 200 OK", [(b"X", b"x" * 100)], b"", (1, 0.05, 0))
        assert made.judge("answers", {"answers": [drip] * 6}).problem == "it takes too long"
        made.limit_s = 30.0
        assert made.judge("answers", {"answers": [(b"HTTP/1.1 404 x", [], b"", AT_ONCE)]}).problem is None
    finally:
        made.close()


def test_a_find_is_kept_with_its_files_and_can_be_judged_again(tmp_path: Path) -> None:
    target, plan = CORPUS["a wrong checksum"]
    kept = keep(target, plan, Verdict("names are lost or made up", "3 given, 1 met"), tmp_path)
    assert (kept / "files" / "calls.tar").read_bytes() == tar(plan["members"])
    assert "3 given" in (kept / "told.txt").read_text()
    assert ast.literal_eval((kept / "plan.txt").read_text()) == (target, plan)


def test_archives_and_sounds_are_whole_before_they_are_damaged() -> None:
    with tarfile.open(fileobj=BytesIO(tar([(*MEMBER, {}), (b"0", b"b.json", b"{}", {})]))) as archive:
        assert archive.getnames() == ["a0.wav", "b.json"]
    for name in ("ogg_vorbis", "ogg_opus"):
        assert edited(sounds.sound(name), [("ogg_checksums",)]) == sounds.sound(name)
    assert all(sounds.fields(name) for name in sounds.NAMES)
