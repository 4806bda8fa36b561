"""`manifest duplicates` tells groups, and passages with how many recordings hold them and where they were met first."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from documented_json import documented, holds, paths
from fingerprint_lakes import drawn, match, write_fingerprints

from manifests import schemas
from manifests.lake import Lake
from manifests.matches import Matches
from manifests.select import select
from manifests.selection import Selection
from pipelines.commands.cli import cli


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """r0 to r9 with one jingle in r2 to r6, of which r1 is a part; r9 is a copy of r8."""
    rng = np.random.default_rng(0)
    made, jingle = [drawn(rng, 30) for _ in range(10)], drawn(rng, 8)
    for number in range(2, 7):
        made[number] = made[number].with_inside(jingle, 10_000)
    made[9] = made[8].changed(rng, 0.05)
    lake = Lake.at(str(tmp_path))
    write_fingerprints(lake, 0, [(f"r{number}", one) for number, one in enumerate(made)])
    rows = [
        {"recording_id": f"r{number}", "status": "ok", "pcm_sha256": str(number), "tracks": 1}
        | {"duration_s": 38.5 if 2 <= number <= 6 else 30.5}
        for number in range(10)
    ]
    lake.write(lake.annotation_key("signal", "s", "batch-000000"), schemas.table(rows, schemas.SIGNAL))
    return lake


def selection(lake: Lake, **settings: Any) -> Selection:
    stages = {"signal": "s", "fingerprint": "f"}
    given: dict[str, Any] = {"name": "s", "context_s": 1, "continuation_s": 3, "matches": Matches(lake, "f").mark}
    return Selection(stages=stages, **(given | settings))


def windows(lake: Lake, name: str = "s") -> list[dict[str, Any]]:
    return lake.read(lake.windows_key(name, "batch-000000")).to_pylist()


def test_groups_and_passages_are_told(lake: Lake) -> None:
    match(lake)
    select(lake, selection(lake))
    done = CliRunner().invoke(cli, ["manifest", "duplicates", lake.storage.root, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["groups"] == [{"kept": "r8", "duplicates": ["r9"]}]
    (passage,) = found["passages"]
    assert (passage["recording_id"], passage["repeats"], found["passage_count"]) == ("r2", 5, 1)
    assert (passage["start_s"], passage["end_s"]) == pytest.approx((10, 18), abs=0.8)
    assert {place["recording_id"] for place in passage["places"]} <= {"r3", "r4", "r5", "r6"}
    assert all(any(holds(key, path) for key in documented()["duplicates"]) for path in paths(found))
    shown = CliRunner().invoke(cli, ["manifest", "duplicates", lake.storage.root])
    assert "1 group of recordings with the same sound, with 1 duplicate" in shown.output
    assert "r2" in shown.output


def test_a_lake_without_matches_is_told_what_it_needs(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path))
    write_fingerprints(lake, 0, [("r0", drawn(np.random.default_rng(0), 5))])
    done = CliRunner().invoke(cli, ["manifest", "duplicates", str(tmp_path)])
    assert done.exit_code == 1
    assert "[annotate.fingerprint]" in done.output


def test_a_passage_of_many_is_kept_at_its_first_place_alone(lake: Lake) -> None:
    match(lake)
    funnel = select(lake, selection(lake, most_repeats=4))
    gone = [row for row in windows(lake) if row["reasons"] == ["repeated"]]
    assert {row["recording_id"] for row in gone} == {"r3", "r4", "r5", "r6"}
    assert all(8 <= row["start_s"] <= 16 and row["repeats"] == 5 for row in gone)
    assert funnel.reasons("windows")["repeated"]["count"] == len(gone)
    first = [row for row in windows(lake) if row["recording_id"] == "r2" and row["start_s"] == 12.0]
    assert [(row["repeats"], row["repeated_share"], row["kept"]) for row in first] == [(5, 0.0, True)]
    select(lake, selection(lake, name="rare", most_repeats=5))
    assert all(row["kept"] for row in windows(lake, "rare"))


def test_where_the_first_place_is_rejected_the_next_one_is_kept(lake: Lake) -> None:
    match(lake)
    select(lake, selection(lake, most_repeats=4, recordings={"other": "recording_id <> 'r2'"}))
    inside = {row["recording_id"]: row["kept"] for row in windows(lake) if row["start_s"] == 12.0}
    assert [inside[f"r{number}"] for number in range(3, 7)] == [True, False, False, False]
    verdicts = lake.read(lake.verdicts_key("s", "batch-000000")).to_pylist()
    assert [row["repeats"] for row in verdicts] == [1, 1, 5, 5, 5, 5, 5, 1, 1, 1]
    assert all(0.15 < row["repeated_share"] < 0.25 for row in verdicts[3:7])


def test_rules_read_what_repeats(lake: Lake) -> None:
    match(lake)
    funnel = select(lake, selection(lake, recordings={"rare": "repeats < 3", "new": "repeated_share < 0.1"}))
    assert {name: row["count"] for name, row in funnel.reasons("recordings").items()} == {
        "rare": 5, "new": 4, "duplicate": 1,
    }  # fmt: skip


def test_show_and_diff_tell_of_shared_sound(lake: Lake) -> None:
    match(lake)
    select(lake, selection(lake))
    select(lake, selection(lake, name="alone", matches=None))
    root, run = lake.storage.root, CliRunner().invoke
    shared = json.loads(run(cli, ["manifest", "show", root, "r4", "--selection", "s", "--json"]).stdout)["shared"]
    assert {row["with_id"] for row in shared} == {"r2", "r3", "r5", "r6"}
    assert all((row["start_s"], row["with_end_s"]) == pytest.approx((10, 18), abs=0.8) for row in shared)
    assert "sound that other recordings hold too" in run(cli, ["manifest", "show", root, "r4"]).stdout
    told = json.loads(
        run(cli, ["manifest", "diff", f"{root}/selections/alone", f"{root}/selections/s", "--json"]).stdout
    )
    repeats = told["repeats"]
    assert (repeats["before"]["groups"], repeats["after"]["groups"], repeats["regrouped"]["count"]) == (0, 1, 1)
    assert repeats["repeats"]["count"] == 10
    assert all(any(holds(key, path) for key in documented()["diff"]) for path in paths(told))


def test_shared_sound_across_splits_is_a_leak_that_groups_close(lake: Lake) -> None:
    """A copy that equal samples do not tell lies in another split; with matches it is in none."""
    match(lake)
    halves = {"train": 0.5, "test": 0.5}

    def leaks(name: str, **settings: Any) -> dict[str, Any]:
        select(lake, selection(lake, name=name, splits=halves, **settings))
        done = CliRunner().invoke(
            cli, ["study", "leaks", f"{lake.storage.root}/selections/{name}", "--share", "0.5", "--json"]
        )
        assert all(
            any(holds(key, path) for key in documented()["study leaks"]) for path in paths(json.loads(done.stdout))
        )
        return json.loads(done.stdout) | {"code": done.exit_code}

    apart = next(seed for seed in range(9) if leaks(f"a{seed}", seed=seed, matches=None)["counts"]["sound"])
    (found,) = leaks("open", seed=apart, matches=None)["leaks"]
    assert (found["kind"], found["recordings"]) == ("sound", ["r8", "r9"])
    closed = leaks("closed", seed=apart)
    assert (closed["code"], closed["counts"]["sound"]) == (0, 0)
