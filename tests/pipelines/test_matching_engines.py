"""Matches, and the selection that reads them, have the same bytes from any engine, whatever step was killed."""

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
from forked import speechmill
from ray_clusters import alone, need_namespaces
from small_runs import digests, make_input, run_words

STEPS = {
    "index": "matches/*/index/*.parquet",
    "join": "runs/matching/*/*/*.parquet",
    "match": "matches/*/batch-*.parquet",
}
"""The files that each step of matching leaves, one for each of its units or more."""
DRIVER = """
import os, signal, sys, threading, time
from pathlib import Path
from pipelines import matching
from pipelines.commands.cli import main

matching.POSTINGS, matching.OF_FILE = 1000, 1  # so that keys are joined in several units
lake, files = Path(sys.argv.pop(1)), sys.argv.pop(1)

def kill_when_there():
    while not any(lake.glob(files)):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

if files:
    threading.Thread(target=kill_when_there, daemon=True).start()
sys.exit(main())
"""
ENGINES = {"local": ["--workers", "2"], "ray": ["--engine", "ray"], "beam": ["--engine", "beam", "--workers", "2"]}


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with twelve copies of a conversation that begin elsewhere, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("matched")
    make_input(folder, 12)
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[annotate.vad]", "[annotate.vad]\n[annotate.fingerprint]"))
    done = speechmill(*run_words(folder, folder / "whole"))
    assert done.returncode == 0, done.stderr
    expected = digests(folder / "whole")
    assert sum("/batch-" in name for name in expected if name.startswith("matches/")) == 12
    (funnel,) = (folder / "whole").glob("selections/*/funnel.json")
    assert json.loads(funnel.read_text())["recordings"]["reasons"]["duplicate"]["count"] == 11
    return folder, expected


def mill(folder: Path, lake: Path, engine: str, killed_in: str | None = None) -> None:
    """Run to the end, or until the run ends itself by kill -9 when a step of matching has left its first file."""
    words = [sys.executable, "-c", DRIVER, str(lake), STEPS[killed_in] if killed_in else ""]
    # The shell is the first process of the namespace: that one cannot kill itself.
    done = alone("sh", "-c", '"$@"; exit $?', "sh", *words, *run_words(folder, lake, *ENGINES[engine]))
    assert done.returncode == (128 + signal.SIGKILL if killed_in else 0), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_any_engine_makes_the_matches_and_the_selection_of_one_process(
    engine: str, matched: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    need_namespaces()
    folder, expected = matched
    mill(folder, tmp_path / "lake", engine)
    assert digests(tmp_path / "lake") == expected


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_kill_9_in_each_step_of_matching_costs_no_byte(
    engine: str, matched: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    need_namespaces()
    folder, expected = matched
    lake = tmp_path / "lake"
    shutil.copytree(folder / "whole", lake)
    for name in ("matches", "selections", "datasets"):
        shutil.rmtree(lake / name)
    for step in STEPS:
        mill(folder, lake, engine, step)
        assert not list(lake.glob("selections/*/funnel.json"))
    mill(folder, lake, engine)
    assert digests(lake) == expected
