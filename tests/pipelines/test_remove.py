"""Withdrawal: recordings leave all that a lake holds of them, nothing else changes, and they do not come back."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lakes import rules, write_lake
from small_runs import RECIPE
from small_runs import digests as tree
from test_ingest import sound

from manifests import withdraw
from manifests.exchange.validate import validate
from manifests.lake import Lake
from manifests.pick import Criteria, pick
from manifests.select import select
from manifests.storage.local import LocalStorage
from manifests.withdraw import Redaction
from pipelines.commands.cli import cli
from pipelines.ingest import Ingested, ingest
from pipelines.recipes.recipe import IngestConfig


def row(name: str, pcm: str | None = None) -> dict[str, Any]:
    return {"id": name * 10, "duration_s": 20.0, "speech": [(0.0, 15.0)], "pcm": pcm or name * 10}


BATCHES = [[row("a0"), row("a1")], [row("b0"), row("b1", "a0" * 10), row("b2")], [row("c0"), row("c1")]]
"""b1 holds the samples of a0."""
GONE = ("a0" * 10, "b1" * 10)


def selected(root: Path, batches: list[list[dict[str, Any]]]) -> Lake:
    lake = write_lake(root, batches)
    select(lake, rules())
    return lake


def remove(lake: Lake, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["remove", lake.storage.root, *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def ids(lake: Lake) -> list[str]:
    return [name for _, table in lake.recordings(["recording_id"]) for name in table["recording_id"].to_pylist()]


def test_a_recording_leaves_with_its_copies_and_nothing_else_changes_by_a_byte(tmp_path: Path) -> None:
    lake = selected(tmp_path / "lake", BATCHES)
    found = remove(lake, "a0" * 10, "--reason", "asked by the speaker")
    assert (found["recordings"], found["copies"], found["selections"]) == (2, 1, ["sel"])
    without = [[row for row in batch if row["id"] not in GONE] for batch in BATCHES]
    other = selected(tmp_path / "without", without)
    expected = tree(tmp_path / "without")
    after = tree(tmp_path / "lake")
    assert after.pop("removed/000000.parquet")
    assert after == expected
    assert list(map(str, validate(lake))) == list(map(str, validate(other)))
    told = withdraw.tombstones(lake).to_pylist()
    assert [(row["recording_id"], row["reason"]) for row in told] == [(name, "asked by the speaker") for name in GONE]


def test_copies_can_stay_and_one_of_them_is_selected_then(tmp_path: Path) -> None:
    lake = selected(tmp_path / "lake", BATCHES)
    verdicts = lake.read(lake.verdicts_key("sel", "batch-000001")).to_pylist()
    assert [row["duplicate_of"] for row in verdicts] == [None, GONE[0], None]
    assert remove(lake, "--uri", "a0*", "--keep-copies")["recordings"] == 1
    assert GONE[1] in ids(lake)
    verdicts = lake.read(lake.verdicts_key("sel", "batch-000001")).to_pylist()
    assert [row["duplicate_of"] for row in verdicts] == [None, None, None]
    assert remove(lake, "--uri", "a0*")["recordings"] == 0


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    lake = selected(tmp_path / "lake", BATCHES)
    before = tree(tmp_path / "lake")
    assert remove(lake, "--source", "here", "--dry-run")["recordings"] == 7
    assert tree(tmp_path / "lake") == before


def test_a_selection_of_some_batches_is_made_anew_of_these_alone(tmp_path: Path) -> None:
    lake = selected(tmp_path / "lake", BATCHES[:2])
    more = write_lake(tmp_path / "more", [[], [], BATCHES[2]])
    lake.storage.put("recordings/batch-000002.parquet", more.storage.read("recordings/batch-000002.parquet"))
    remove(lake, "a1" * 10)
    assert [key for key in lake.storage.list("selections/sel") if "verdicts" in key] == [
        f"selections/sel/verdicts-00000{number}.parquet" for number in (0, 1)
    ]


class Killed(BaseException):
    pass


def killing(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """From here on the write of that number is not made, and the process is gone."""
    made = [0]

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def counting(storage: LocalStorage, key: str, *given: Any) -> Any:
            if not key.startswith("runs/2"):  # what this run leaves of itself
                made[0] += 1
                if made[0] == at:
                    raise Killed
            return write(storage, key, *given)

        return counting

    for name in ("put", "put_if_absent", "replace", "delete"):
        monkeypatch.setattr(LocalStorage, name, counted(getattr(LocalStorage, name)))
    return made


@pytest.mark.parametrize(
    "condition", [["--id"], ["--where", "recording_id = 'a0a0a0a0a0a0a0a0a0a0' AND duration_s > 1"]]
)
@pytest.mark.slow
def test_a_withdrawal_that_is_killed_at_any_write_is_finished_by_the_same_command(
    tmp_path: Path, condition: list[str]
) -> None:
    words = [GONE[0]] if condition == ["--id"] else condition
    whole = selected(tmp_path / "whole", BATCHES)
    with pytest.MonkeyPatch.context() as patch:
        made = killing(patch, -1)
        remove(whole, *words)
    writes, expected = made[0], tree(tmp_path / "whole")
    assert writes >= 20
    selected(tmp_path / "made", BATCHES)
    for at in range(1, writes + 1):
        root = tmp_path / "killed"
        shutil.copytree(tmp_path / "made", root)
        lake = Lake.at(str(root))
        with pytest.MonkeyPatch.context() as patch:
            killing(patch, at)
            with pytest.raises(Killed):
                CliRunner().invoke(cli, ["remove", str(root), *words], catch_exceptions=False)
        remove(lake, *words)
        assert tree(root) == expected, f"killed at write {at} of {writes}"
        shutil.rmtree(root)


def test_datasets_lose_recordings_while_the_lake_still_knows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = selected(tmp_path / "lake", BATCHES)
    seen = []

    def drop(given: Lake, criteria: frozenset[str]) -> list[str]:
        seen.append((criteria, set(ids(given)) >= criteria, withdraw.tombstones(given)["recording_id"].to_pylist()))
        return ["set"]

    leaving = withdraw.find(lake, pick(lake, Criteria(ids=(GONE[0],))))
    monkeypatch.setattr(withdraw, "drop_recordings", drop)
    leaving.commit("runs/now")
    assert seen == [(frozenset(GONE), True, list(GONE))]
    assert leaving.datasets == ["set"]


def test_what_was_withdrawn_is_in_no_file_any_more_and_no_ingest_brings_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, other = (
        sound(tmp_path / "in/good.wav"),
        tmp_path / "in/bad one.wav",
        sound(tmp_path / "in/a.wav", level=0.4),
    )
    bad.write_bytes(b"no sound")
    (tmp_path / "in/bad one.wav.bak").write_bytes(b"of another name")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    words = ["ingest", str(tmp_path / "recipe.toml"), "--lake", str(tmp_path / "lake")]
    words += [
        "--in",
        str(good),
        "--in",
        str(bad),
        "--in",
        str(other),
        "--in",
        str(bad) + ".bak",
        "--set",
        "ingest.source=x",
    ]
    monkeypatch.setattr(sys, "argv", ["speechmill", *words])
    assert CliRunner().invoke(cli, words).exit_code == 0
    lake = Lake.at(str(tmp_path / "lake"))
    assert len(ids(lake)) == 4
    given = ["label", str(tmp_path / "lake"), "show=x", "--uri", str(good)]
    monkeypatch.setattr(sys, "argv", ["speechmill", *given])
    assert CliRunner().invoke(cli, given).exit_code == 0
    named = [key for key in lake.storage.list() if holds(lake, key, str(bad))]
    assert any(key.endswith("log.txt") for key in named)
    gone = ["remove", str(tmp_path / "lake"), "--uri", str(good), "--uri", str(bad)]
    monkeypatch.setattr(sys, "argv", ["speechmill", *gone])
    kept = {key: lake.storage.read(key) for key in lake.storage.list() if key.endswith("recipe.json")}
    assert CliRunner().invoke(cli, gone).exit_code == 0
    for key in lake.storage.list():
        for name in (str(good), str(bad)):
            assert not holds(lake, key, name), key
    assert {key: lake.storage.read(key) for key in kept} == kept
    assert any(holds(lake, key, str(other)) for key in lake.storage.list("runs"))
    assert any(
        f"{bad}.bak" in lake.storage.read(key).decode() for key in lake.storage.list("runs") if key.endswith("log.txt")
    )
    assert list(lake.read("labels/000000.parquet")["recording_id"]) == []
    copy = tmp_path / "in/copy.wav"
    shutil.copy(good, copy)
    before = tree(tmp_path / "lake")
    result = ingest(lake, [str(good), str(copy), str(other)], IngestConfig(source="x"))
    assert result == Ingested(names=3, known=1, withdrawn=2)
    assert "2 withdrawn" in str(result)
    assert tree(tmp_path / "lake") == before
    assert not any(holds(lake, key, str(copy)) or holds(lake, key, str(good)) for key in lake.storage.list())


def holds(lake: Lake, key: str, name: str) -> bool:
    """Whether a file names a recording, and not only one whose name begins alike."""
    if key.endswith(".parquet"):
        return name in json.dumps(lake.read(key).to_pylist()).replace(f"{name}.bak", "")
    return name in lake.storage.read(key).decode().replace(f"{name}.bak", "")


def test_parts_of_a_file_that_was_withdrawn_as_a_whole_are_left_out_too(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    good = sound(tmp_path / "good.wav", seconds=4)
    ingest(lake, [str(good)], IngestConfig())
    remove(lake, *ids(lake))
    line = {"audio_filepath": str(good), "offset": 1.0, "duration": 2.0}
    (tmp_path / "m.jsonl").write_text(json.dumps(line) + "\n")
    config = IngestConfig(excerpts=True)
    assert ingest(lake, [str(tmp_path / "m.jsonl")], config) == Ingested(names=1, withdrawn=1)
    other = Lake.at(str(tmp_path / "other"))
    ingest(other, [str(tmp_path / "m.jsonl")], config)
    remove(other, *ids(other))
    assert ingest(other, [str(good)], config).new == 1


def test_an_id_that_no_recording_has_is_told_and_removes_nothing(tmp_path: Path) -> None:
    lake = selected(tmp_path / "lake", BATCHES)
    done = CliRunner().invoke(cli, ["remove", lake.storage.root, "a0a0", "a1" * 10])
    assert "there is no recording a0a0" in str(done.exception)
    assert len(ids(lake)) == 7


def test_a_person_at_a_terminal_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = selected(tmp_path / "lake", BATCHES)
    monkeypatch.setattr("pipelines.commands.curate.at_terminal", lambda: True)
    words = ["remove", lake.storage.root, GONE[0]]
    assert CliRunner().invoke(cli, words, input="n\n").exit_code == 1
    assert len(ids(lake)) == 7
    assert CliRunner().invoke(cli, words, input="y\n").exit_code == 0
    assert len(ids(lake)) == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'/a/b c.wav': broken", "'[withdrawn]': broken"),
        ("/a/b c.wav.bak and /x/a/b c.wav", "/a/b c.wav.bak and /x/a/b c.wav"),
        ('{"in": "/a/b c.wav"}', '{"in": "[withdrawn]"}'),
        ("0011: x; 00112; 0011-000000000", "[withdrawn]: x; 00112; [withdrawn]-000000000"),
        ("'/\\x07.wav'; /\\u0007.wav", "'[withdrawn]'; [withdrawn]"),
    ],
)
def test_a_name_is_taken_out_of_texts_in_every_form_and_others_stay(text: str, expected: str) -> None:
    assert Redaction(["0011"], ["/a/b c.wav", "/\x07.wav"])(text) == expected
