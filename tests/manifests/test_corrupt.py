"""Damaged files are named with what to do, whatever meets them; files that are nobody's are not met at all."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest
from small_runs import encode_dataset

from manifests.choice import choose
from manifests.corrupt import CorruptFileError, schema_of
from manifests.exchange.validate import validate
from manifests.lake import Lake
from manifests.publish import publish
from manifests.select import select
from manifests.selection import Selection
from manifests.sums import summed
from manifests.verify import verify
from manifests.versions import versions
from manifests.views import open_views
from pipelines.commands.cli import main
from pipelines.encoding.plan import Plan
from pipelines.recipes.recipe import EncodeConfig

CONFIG = EncodeConfig(shard_mb=0.5)
"""Of the dataset of `milled`."""
PARQUET = (
    "recordings/batch-000000.parquet",
    "annotations/signal-*/batch-000000.parquet",
    "annotations/vad-*/batch-000000.parquet",
    "selections/s/verdicts-000000.parquet",
    "selections/s/windows-000000.parquet",
    "datasets/set/windows/train-000000.parquet",
    "datasets/set/ledger.parquet",
)
JSON = ("selections/s/selection.json", "selections/s/funnel.json", "datasets/set/plan.json",
        "datasets/set/commits/train/000000.json")  # fmt: skip
FOREIGN = (".DS_Store", "._batch-000000.parquet", ".nfs000000000012345600000001", "Thumbs.db", "x.parquet",
           "batch-000000 (copy).parquet", "batch-1.parquet", "desktop.ini")  # fmt: skip


@pytest.fixture
def lake(milled: Lake, tmp_path: Path) -> Lake:
    """A copy that may be spoiled."""
    return Lake.at(str(shutil.copytree(milled.storage.root, tmp_path / "lake")))


def path_of(lake: Lake, pattern: str) -> Path:
    (path,) = Path(lake.storage.root).glob(pattern)
    return path


def key_of(lake: Lake, pattern: str) -> str:
    return str(path_of(lake, pattern).relative_to(lake.storage.root))


@pytest.mark.parametrize("pattern", PARQUET)
def test_a_flipped_bit_anywhere_in_a_table_is_found_or_changes_nothing(milled: Lake, pattern: str) -> None:
    from manifests.corrupt import parse_parquet

    path, key, chance = path_of(milled, pattern), key_of(milled, pattern), random.Random(pattern)
    data, table = path.read_bytes(), milled.read(key)
    found: list[CorruptFileError] = []
    for _ in range(300):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            assert parse_parquet(key, bytes(flipped)).equals(table)
        except CorruptFileError as error:
            found.append(error)
    assert len(found) > 100
    assert all(str(error).startswith(f"{key}: ") and error.remedy for error in found)
    assert schema_of(key) is not None


def commands(root: str, recording: str) -> list[list[str]]:
    return [
        ["manifest", "stats", root, "--view", "annotations"],
        ["manifest", "head", root, "--view", "shard_windows"],
        ["manifest", "head", root, "--view", "windows", "--columns", "*"],
        ["manifest", "query", root, "SELECT count(*), min(sha256), max(loudness_lufs), any_value(segments), "
         "any_value(verdict) FROM recordings"],
        ["manifest", "query", root, "SELECT * FROM ledger"],
        ["manifest", "show", root, recording],
        ["manifest", "funnel", root],
        ["manifest", "validate", root],
        ["report", root, "--no-audio", "-o", f"{root}.html"],
    ]  # fmt: skip


def outcome(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr of a command; anything but its own exit is raised."""
    monkeypatch.setattr(sys, "argv", ["speechmill", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("pattern", "damage"), [(one, how) for one in PARQUET for how in ("cut", "zeros")] + [(one, "cut") for one in JSON]
)
def test_every_command_that_meets_a_damaged_file_names_it_and_says_what_to_do(
    pattern: str, damage: str, lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = path_of(lake, pattern)
    data, recording = path.read_bytes(), lake.read("recordings/batch-000000.parquet")["recording_id"][1].as_py()
    middle = len(data) // 3
    path.write_bytes(data[:-40] if damage == "cut" else data[:middle] + bytes(64) + data[middle + 64 :])
    met = 0
    for words in commands(lake.storage.root, recording):
        code, told = outcome(words, monkeypatch, capsys)
        assert code in (0, 1, 3), (words, told)
        if code:
            assert path.name in told, (words, told)
            assert "remedy: " in told, (words, told)
            met += 1
    assert met
    assert any(path.name in str(problem) for problem in validate(lake))


def test_what_a_run_reads_is_named_too_and_its_remedies_hold(lake: Lake) -> None:
    for pattern, step in (
        ("annotations/signal-*/batch-000000.parquet", lambda: select(lake, Selection.stored(lake, "s"))),
        ("selections/s/windows-000000.parquet", lambda: Plan(lake, "s", CONFIG)),
        ("selections/s/selection.json", lambda: Selection.stored(lake, "s")),
        ("datasets/set/windows/train-000000.parquet", lambda: publish(lake, "set")),
        ("datasets/set/commits/train/000000.json", lambda: publish(lake, "set")),
    ):
        path, key = path_of(lake, pattern), key_of(lake, pattern)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(CorruptFileError, match=f"^{key}: ") as caught:
            step()
        assert caught.value.remedy
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["gone", "other rows", "flipped"])
def test_the_ledger_is_made_from_commits_or_not_at_all(how: str, lake: Lake, milled: Lake) -> None:
    key = "datasets/set/windows/train-000000.parquet"
    data = lake.storage.read(key)
    if how == "gone":
        lake.storage.delete(key)
    elif how == "other rows":
        lake.write(key, lake.read(key).slice(1))
    else:
        lake.storage.put(key, data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with pytest.raises(CorruptFileError, match=f"^{key}: ") as caught:
        publish(lake, "set")
    assert any(problem.key == key for problem in verify(lake, "set"))
    assert any(problem.key == key for problem in validate(lake))
    # The remedy, word by word.
    assert "delete datasets/set/commits/train/000000.json and run `speechmill encode` again" in caught.value.remedy
    lake.storage.delete("datasets/set/commits/train/000000.json")
    encode_dataset(lake, "set", "s", Selection.stored(lake, "s").stages["signal"], CONFIG)
    assert lake.storage.read(key) == data
    assert lake.storage.read("datasets/set/ledger.parquet") == milled.storage.read("datasets/set/ledger.parquet")


def test_files_that_are_nobodys_are_no_part_of_a_lake(lake: Lake, milled: Lake) -> None:
    def known(lake: Lake) -> list[object]:
        signal = Selection.stored(lake, "s").stages["signal"]
        views = open_views(lake, choose(lake))
        counts = [views.execute(f"SELECT count(*) FROM {view}").fetchall() for view in ("annotations", "recordings",
                  "windows", "shard_windows", "ledger")]  # fmt: skip
        return [
            list(lake.batches()), list(lake.annotated("signal", signal)), choose(lake), counts,
            summed(lake, choose(lake)).parts, publish(lake, "set"),
            select(lake, Selection.stored(lake, "s")).as_dict(), [problem.what for problem in verify(lake, "set")],
        ]  # fmt: skip

    expected = known(Lake.at(str(shutil.copytree(milled.storage.root, Path(lake.storage.root).with_name("same")))))
    root = Path(lake.storage.root)
    folders = [folder for folder in root.rglob("*") if folder.is_dir()]
    for folder in folders:
        if folder.relative_to(root).parts[:3] != ("datasets", "set", "train"):  # readers of shards would meet them
            for name in FOREIGN:
                (folder / name).write_bytes(b"\0\1Mac OS X")
    for part in ("annotations", "selections", "datasets"):
        (root / part / ".snapshot").mkdir()
    found = known(lake)
    foreign = found.pop()
    assert [*found, []] == expected
    assert foreign
    assert {what for what in foreign if "does not belong here" not in what} == set()
    told = validate(lake)
    assert {problem.key for problem in told if problem.key.startswith("recordings/")} == {
        f"recordings/{name}" for name in FOREIGN if name.endswith(".parquet") and not name.startswith(".")
    }


def test_a_lake_of_which_nothing_was_kept_is_in_order(lake: Lake) -> None:
    stored = Selection.stored(lake, "s")
    select(lake, Selection("none", stored.stages, context_s=2, continuation_s=6, recordings={"none": "false"}))
    encode_dataset(lake, "empty", "none", stored.stages["signal"], CONFIG)
    assert (verify(lake, "empty"), validate(lake, deep=True)) == ([], [])
    assert [version.shards for version in versions(lake, "empty")] == [{}]
    (problem,) = verify(lake, "nowhere")
    assert "no shard here" in problem.what


def test_windows_that_were_selected_and_are_in_no_shard_are_named(lake: Lake) -> None:
    for key in list(lake.storage.list("datasets/set/commits")):
        lake.storage.delete(key)
    for problems in (verify(lake, "set"), validate(lake)):
        told = [problem for problem in problems if "selections/s keeps are in no committed shard" in problem.what]
        assert len(told) == 1


def test_a_deep_look_names_recordings_whose_files_hold_other_bytes(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = lake.read("recordings/batch-000000.parquet")
    rows = table.to_pylist()
    copies = []
    for row in rows:
        copies.append(Path(shutil.copy(row["uris"][0], tmp_path)))
        row["uris"] = [str(copies[-1])]
    lake.write("recordings/batch-000000.parquet", table.from_pylist(rows, schema=table.schema))
    words = ["manifest", "validate", lake.storage.root, "--deep", "--json"]
    assert outcome(words, monkeypatch, capsys) == (0, "")
    good = [copy for copy, row in zip(copies, rows, strict=True) if row["status"] == "ok"]
    good[0].write_bytes(good[0].read_bytes()[:-1] + b"x")
    good[1].unlink()
    monkeypatch.setattr(sys, "argv", ["speechmill", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert ended.value.code == 3
    assert [(problem["note"], good[number].name in problem["what"]) for number, problem in enumerate(problems)] == [
        (False, True), (True, True),
    ]  # fmt: skip
    assert validate(lake) == []
