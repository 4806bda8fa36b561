"""Leaks: a recording, a name or samples on two sides are found and named, whatever the sides are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from lakes import rules, write_lake
from synthetic_datasets import add_shards

from manifests import schemas
from manifests.lake import Lake
from manifests.select import select
from manifests.subsets import About, prefix
from pipelines.commands.cli import cli
from studies.leaks import leaks, sides

CLEAN = {"recording": 0, "name": 0, "samples": 0, "sound": 0}


def describe(lake: Lake, count: int, names: dict[int, str], samples: dict[int, str]) -> None:
    """Recordings with names and hashes of their own, but for those that are given."""
    rows, signal = [], []
    for number in range(count):
        base = {"recording_id": f"rec{number:04d}", "status": "ok"}
        rows.append(base | {"uris": [names.get(number, f"{number}.wav")]})
        signal.append(base | {"pcm_sha256": samples.get(number, f"pcm{number}")})
    lake.write(lake.recordings_key("batch-000000"), schemas.table(rows, schemas.RECORDINGS))
    lake.write(lake.annotation_key("signal", "s", "batch-000000"), schemas.table(signal, schemas.SIGNAL))


def found(*words: str) -> tuple[int, dict[str, Any]]:
    """What the command ends with and prints."""
    done = CliRunner().invoke(cli, ["study", "leaks", *words, "--json"])
    assert done.exit_code in (0, 3), done.output
    return done.exit_code, json.loads(done.stdout)


def test_what_two_splits_share_is_named_and_what_one_split_holds_twice_is_not(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    add_shards(lake, "set", [range(9), range(9, 18)])  # recordings 0 to 5
    add_shards(lake, "set", [[17, 18, 21, 24]], split="test")  # 5 again, and 6 to 8
    describe(lake, 10, {0: "a.wav", 1: "a.wav", 2: "b.wav", 7: "b.wav"}, {3: "x", 8: "x", 4: "y", 9: "y"})
    code, told = found(f"{lake.storage.root}/datasets/set")
    assert (code, told["counts"], told["unhashed"]) == (3, {"recording": 1, "name": 1, "samples": 1, "sound": 0}, 0)
    assert {(leak["kind"], leak["key"], *leak["recordings"]) for leak in told["leaks"]} == {
        ("recording", "rec0005", "rec0005"),
        ("name", "b.wav", "rec0002", "rec0007"),
        ("samples", "x", "rec0003", "rec0008"),
    }
    assert all(leak["sides"] == ["test", "train"] for leak in told["leaks"])
    assert [side["recordings"] for side in told["sides"]] == [4, 6]
    done = CliRunner().invoke(cli, ["study", "leaks", f"{lake.storage.root}/datasets/set"])
    assert "rec0005 in test and train" in done.stdout
    assert "b.wav in test and train: rec0002, rec0007" in done.stdout
    assert found(f"{lake.storage.root}/datasets/set", "--show", "0")[1]["leaks"] == []


def test_two_datasets_of_two_lakes_and_two_subsets_are_compared(tmp_path: Path) -> None:
    one, other = (Lake.at(str(tmp_path / name)) for name in ("one", "other"))
    add_shards(one, "set", [range(9), range(9, 18)])
    add_shards(other, "set", [range(30, 40)])
    add_shards(other, "set", [[12]], split="test")
    describe(one, 6, {}, {})
    describe(other, 14, {number: f"other/{number}.wav" for number in range(14)}, {11: "pcm2", 4: "pcm4"})
    folders = [f"{lake.storage.root}/datasets/set" for lake in (one, other)]
    code, told = found(*folders)
    # Recording 4 has one hash of its samples, under whatever name; 11 has that of another recording, 2.
    assert (code, told["counts"]) == (3, {"recording": 1, "name": 0, "samples": 1, "sound": 0})
    assert {(leak["key"], tuple(leak["sides"])) for leak in told["leaks"]} == {
        ("rec0004", tuple(folders)), ("pcm2", tuple(folders)),
    }  # fmt: skip
    assert found(folders[0], f"{folders[1]}/train")[1]["counts"] == {
        "recording": 0,
        "name": 0,
        "samples": 1,
        "sound": 0,
    }
    assert found(folders[1])[1]["counts"] == CLEAN
    subsets = [str(tmp_path / f"{name}.parquet") for name in ("small", "large", "test")]
    for path, about in zip(
        subsets,
        (About("set", 1, budget=150), About("set", 1, budget=1100), About("set", 2, ("test",))),
        strict=True,
    ):
        prefix(other if about.splits == ("test",) else one, about).write(path)
    code, told = found(*subsets[:2])
    assert (code, told["counts"]["recording"]) == (3, told["sides"][0]["recordings"])
    assert found(subsets[0], subsets[2])[0] == 0
    assert found(subsets[1], subsets[2])[0] == 3


def test_a_selection_is_checked_before_anything_is_encoded(tmp_path: Path) -> None:
    row = {"duration_s": 20.0, "speech": [(0.0, 19.0)]}
    batches = [[row | {"id": f"{n}-{m}", "pcm": f"pcm{n}-{m}"} for m in range(10)] for n in range(2)]
    lake = write_lake(tmp_path / "lake", batches)
    select(lake, rules(splits={"train": 0.6, "test": 0.4}))
    name = f"{lake.storage.root}/selections/sel"
    assert found(name)[1]["counts"] == CLEAN
    assert [side["name"] for side in found(lake.storage.root)[1]["sides"]] == ["test", "train"]
    splits = [lake.read(lake.verdicts_key("sel", f"batch-00000{n}"))["split"].to_pylist() for n in range(2)]
    planted = [n for n, (one, other) in enumerate(zip(*splits, strict=True)) if one != other]
    assert planted
    keys = [lake.annotation_key("signal", "s", f"batch-00000{n}") for n in range(2)]
    first, second = map(lake.read, keys)
    column = second.schema.get_field_index("pcm_sha256")
    lake.write(keys[1], second.set_column(column, second.schema.field(column), first["pcm_sha256"]))
    code, told = found(name)
    assert (code, told["counts"]) == (3, CLEAN | {"samples": len(planted)})
    assert {tuple(leak["recordings"]) for leak in told["leaks"]} == {(f"0-{n}", f"1-{n}") for n in planted}


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    add_shards(lake, "set", [range(9)])
    describe(lake, 3, {}, {})
    for words, told in (
        ([f"{lake.storage.root}/datasets/set"], "is a single side"),
        ([f"{lake.storage.root}/datasets/set/dev"], "no split 'dev'"),
        ([f"{lake.storage.root}/datasets/other"], "no dataset other"),
        ([f"{lake.storage.root}/selections/other"], "there is no selection other"),
        ([str(tmp_path / "other.parquet")], "there is no file"),
        ([str(tmp_path)], "there is no lake"),
    ):
        done = CliRunner().invoke(cli, ["study", "leaks", *words])
        assert done.exit_code == 1
        assert told in done.output + str(done.exception)


def test_recordings_without_a_hash_of_their_samples_are_counted(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    add_shards(lake, "set", [range(9)])
    add_shards(lake, "set", [[12]], split="test")
    describe(lake, 2, {}, {})
    assert leaks(sides([f"{lake.storage.root}/datasets/set"]), 5)["unhashed"] == 2
