"""Merging: small neighbours become one batch, as if they had been ingested so; gaps in the numbers harm nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lakes import rules, write_lake
from small_runs import digests as tree
from test_ingest import sound
from test_remove import Killed, killing

from manifests import merge as merging
from manifests.exchange.validate import validate
from manifests.lake import Lake
from manifests.select import select
from manifests.sums import summed
from manifests.views import choose, open_views
from pipelines.commands.cli import cli
from pipelines.ingest import Ingested, ingest
from pipelines.recipes.recipe import IngestConfig


def row(name: str, pcm: str | None = None) -> dict[str, Any]:
    return {"id": name * 10, "duration_s": 20.0, "speech": [(0.0, 15.0)], "pcm": pcm or name * 10}


BATCHES = [[row(f"{batch}{n}") for n in range(2)] for batch in range(5)]
BATCHES[3][0]["pcm"] = "00" * 10
BATCHES[2][0]["ingest_error"] = "UnreadableAudioError"
HOURS = "0.024"
"""Four recordings of 20 s fit, six do not."""


def joined(root: Path, groups: list[list[int]]) -> Lake:
    """A lake that was written with these batches joined, under the number of the first of each."""
    lake = write_lake(root, [[row for number in group for row in BATCHES[number]] for group in groups])
    for number, group in reversed(list(enumerate(groups))):
        for key in [key for key in lake.storage.list() if key.endswith(f"{number:06d}.parquet")]:
            lake.storage.path.joinpath(key).rename(lake.storage.path / f"{key[:-14]}{group[0]:06d}.parquet")
    select(lake, rules())
    return lake


def selected(root: Path) -> Lake:
    lake = write_lake(root, BATCHES)
    select(lake, rules())
    return lake


def merge(lake: Lake, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["merge", lake.storage.root, "--json", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_small_neighbours_become_one_batch_as_if_they_had_been_ingested_so(tmp_path: Path) -> None:
    lake = selected(tmp_path / "lake")
    assert merge(lake, "--hours", HOURS, "--dry-run")["joined"] == 4
    assert len(list(lake.batches())) == 5
    found = merge(lake, "--hours", HOURS)
    assert (found["joined"], found["to"], found["unlike"], found["selections"]) == (4, 2, [], ["sel"])
    joined(tmp_path / "joined", [[0, 1], [2, 3], [4]])
    assert tree(tmp_path / "lake") == tree(tmp_path / "joined")
    assert merge(lake, "--hours", HOURS)["joined"] == 0
    assert merge(lake)["joined"] == 3
    joined(tmp_path / "all", [[0, 1, 2, 3, 4]])
    assert tree(tmp_path / "lake") == tree(tmp_path / "all")


def test_neighbours_that_are_not_annotated_or_selected_alike_are_said_and_left(tmp_path: Path) -> None:
    lake = selected(tmp_path / "lake")
    lake.storage.delete("annotations/diarize-d/batch-000002.parquet")
    lake.storage.delete("selections/sel/verdicts-000004.parquet")
    found = merge(lake, "--dry-run")
    assert (found["joined"], found["to"]) == (2, 1)
    assert found["unlike"] == ["batch-000002", "batch-000003", "batch-000004"]
    done = CliRunner().invoke(cli, ["merge", lake.storage.root, "--dry-run"])
    assert "left apart, since they are not annotated and selected like the batch before: batch-000002" in done.stdout


def test_gaps_in_the_numbers_harm_nothing(tmp_path: Path) -> None:
    lake = selected(tmp_path / "lake")
    before = [str(problem).replace("000001", "000000") for problem in validate(lake)]
    query = "SELECT recording_id, verdict, speech_share FROM recordings ORDER BY ALL"
    views, sums = open_views(lake).execute(query).fetchall(), summed(lake, choose(lake)).parts
    merge(lake, "--hours", HOURS)
    assert [batch[-1] for batch in lake.batches()] == ["0", "2", "4"]
    assert len(validate(lake)) == len(before)
    assert open_views(lake).execute(query).fetchall() == views
    assert summed(lake, choose(lake)).parts == sums
    funnel = lake.storage.read("selections/sel/funnel.json")
    select(lake, rules())
    assert lake.storage.read("selections/sel/funnel.json") == funnel
    new = sound(tmp_path / "new.wav")
    assert ingest(lake, [str(new)], IngestConfig()) == Ingested(names=1, new=1, batches=1)
    assert [batch[-1] for batch in lake.batches()] == ["0", "2", "4", "5"]


@pytest.mark.slow
def test_a_merge_that_is_killed_at_any_write_is_finished_by_whoever_comes_next(tmp_path: Path) -> None:
    whole = selected(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        made = killing(patch, -1)
        merge(whole, "--hours", HOURS)
    writes, expected = made[0], tree(tmp_path / "whole")
    assert writes > 25
    selected(tmp_path / "made")
    for at in range(1, writes + 1):
        root = tmp_path / "killed"
        shutil.copytree(tmp_path / "made", root)
        lake = Lake.at(str(root))
        with pytest.MonkeyPatch.context() as patch:
            killing(patch, at)
            with pytest.raises(Killed):
                CliRunner().invoke(cli, ["merge", str(root), "--hours", HOURS], catch_exceptions=False)
        if at % 2 and merging.is_begun(lake):  # another command finishes it before it does anything
            words = ["label", str(root), "show=x", "--id", "nobody"]
            assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
        else:
            merge(lake, "--hours", HOURS)
        assert tree(root) == expected, f"killed at write {at} of {writes}"
        assert not merging.is_begun(lake)
        shutil.rmtree(root)
