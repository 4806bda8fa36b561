"""A dry run tells what would be done, how long and how large, and writes nothing."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from lakes import write_lake

from manifests.fingerprint import pretty
from manifests.lake import Lake
from pipelines.commands.cli import cli
from pipelines.commands.dry_run import DryRun
from pipelines.recipes import recipe
from pipelines.units.engines import Engine

VAD = ("annotate={vad={}}", "select.recordings={}", "select.windows={}")


def told(*words: str) -> dict:
    done = CliRunner().invoke(cli, [*words, "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_dry_run_over_a_new_lake_reads_headers_and_makes_nothing(tmp_path: Path, conversation: Path) -> None:
    (tmp_path / "text.wav").write_text("not sound")
    inputs = ["--in", str(conversation), "--in", str(tmp_path / "text.wav")]
    found = told("run", "demo", *inputs, "--lake", str(tmp_path / "lake"))
    assert [found["ingest"][name] for name in ("names", "new", "known", "unreadable", "headers")] == [2, 2, 0, 1, 1]
    assert found["ingest"]["new_hours"] == pytest.approx(30 / 3600, rel=0.01)
    assert found["annotate"]["hours"] == found["ingest"]["new_hours"] == found["encode"]["hours"]
    assert found["annotate"]["seconds"] == pytest.approx(3, rel=0.01)  # a tenth of it by the numbers of docs/studies.md
    assert "docs/studies.md" in found["annotate"]["basis"]
    assert found["encode"]["size_bytes"] == pytest.approx(30 * 80 * 80 * 2, rel=0.01)
    assert (found["encode"]["shards"], found["encode"]["held_hours"], found["dry_run"]) == (1, 0.0, True)
    assert [path.name for path in tmp_path.iterdir()] == ["text.wav"]


def test_what_is_pending_and_the_rate_of_a_lake_are_its_own(tmp_path: Path) -> None:
    batches = [[{"id": f"{n}" * 20, "duration_s": 1800.0}] for n in range(4)]
    lake, loaded = write_lake(tmp_path, batches), recipe.load("demo", VAD)
    for run, hours, wall_s, table in (
        ("a", 1.0, 900.0, "annotate"),
        ("b", 3.0, 700.0, "annotate"),
        ("c", 9.0, 1.0, "x"),
    ):
        step = {"hours": hours, "wall_s": wall_s}
        lake.storage.put(f"runs/{run}/summary.json", pretty({"steps": {"annotate": step}}).encode())
        lake.storage.put(f"runs/{run}/recipe.json", pretty({table: loaded.resolved["annotate"]}).encode())
    before = sorted(lake.storage.list())
    found = DryRun(loaded, lake, Engine()).steps(["annotate", "encode"], [])
    assert (found["annotate"]["batches"], found["annotate"]["hours"]) == (4, 2.0)
    assert (found["annotate"]["seconds"], found["annotate"]["basis"]) == (800.0, "this lake's own runs")
    assert "at most" in found["encode"]["text"]
    assert sorted(lake.storage.list()) == before


def test_known_names_are_not_new(tmp_path: Path, conversation: Path) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    words = ["ingest", "demo", "--in", str(conversation), "--lake", lake.storage.root]
    assert CliRunner().invoke(cli, words).exit_code == 0
    totals = DryRun(recipe.load("demo"), lake, Engine()).count_inputs([str(conversation)])
    assert (totals.names, totals.new, totals.known, totals.new_hours) == (1, 0, 1, 0.0)


def test_a_dry_run_tells_every_mistake_of_the_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["encode", "demo", "--lake", str(tmp_path / "no"), "--dry-run"])
    assert "there is no lake at" in str(done.exception)
