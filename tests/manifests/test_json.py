"""docs/json.md says what each command prints with --json: no key more and none less."""

import json
import shutil
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from documented_json import documented, held, holds, paths
from lakes import write_lake

from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection
from pipelines.commands.cli import cli


@pytest.fixture
def looked_at(milled: Lake, tmp_path: Path) -> Lake:
    """A lake with two selections, of which the newer keeps nothing."""
    lake = Lake.at(str(shutil.copytree(milled.storage.root, tmp_path / "lake")))
    marks = Selection.stored(lake, "s").stages
    rules = {"never": "duration_s > 99"}
    settings = {"context_s": 2, "continuation_s": 6, "windows": {"speech": "speech_share > 0.5"}}
    select(lake, Selection("strict", marks, recordings=rules, **settings))
    return lake


OF_A_MATCHED_LAKE = {
    "show": {"shared[].*"},
    "diff": {"repeats.regrouped.examples[].*", "repeats.repeats.examples[].*"},
}
"""Keys by command that test_look_duplicates.py sees printed."""


def test_every_command_prints_the_keys_that_are_documented(
    looked_at: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    root, set_of = looked_at.storage.root, ["--dataset", "set"]
    other = write_lake(tmp_path / "other", [[{"id": "a", "duration_s": 20.0}]])
    player = tmp_path / "aplay"
    player.write_text("#!/bin/sh\n")
    player.chmod(player.stat().st_mode | stat.S_IXUSR)
    commands: dict[str, list[list[str]]] = {
        "selections": [[root]],
        "head": [[root, *set_of]],
        "query": [[root, *set_of, "SELECT window_id, turns FROM windows"]],
        "show": [[root, "one", *set_of]],
        "stats": [
            [root, *set_of], [root, "--by", "source"], [root, "--histogram", "duration_s", "--histogram", "source"],
            [root, *set_of, "--view", "windows"],
        ],
        "funnel": [[root, "--selection", "strict"], [root, *set_of]],
        "what-if": [[root, "--selection", "strict", "--drop", "never", "--rule", "long: duration_s > 9"]],
        "diff": [
            [root, str(other.storage.root)], [f"{root}/selections/s", f"{root}/selections/strict"],
            [f"{root}/selections/strict", f"{root}/selections/s"],
        ],
        "clip": [[root, "one", "1", "2", "-o", str(tmp_path / "x.wav")]],
        "play": [[root, "one", "1", "2"]],
        "spectrogram": [[root, "one", "1", "2"], [root, "one", "1", "2", "-o", str(tmp_path / "x.png")]],
        "convert": [[root, *set_of, "--to", "moshi", "-o", str(tmp_path / "x.jsonl")]],
        "validate": [[f"{root}/selections/nothing"]],
    }  # fmt: skip
    documents = {
        name: keys for name, keys in documented().items() if not name.startswith(("study ", "recipe ", "doctor"))
    }
    documents["show"] |= {"language.*", "quality.*"}
    choices = documents.pop("choice")
    del documents["duplicates"]  # test_look_duplicates.py has a lake that was matched
    manifest = cli.commands["manifest"].commands  # type: ignore[attr-defined]
    assert documents.keys() == commands.keys() == manifest.keys() - {"duplicates"}
    monkeypatch.setenv("PATH", str(tmp_path))
    for command, runs in commands.items():
        printed: set[str] = set()
        for words in runs:
            done = CliRunner().invoke(cli, ["manifest", command, *words, "--json"])
            assert done.exit_code == (3 if command == "validate" else 0), done.output
            found = json.loads(done.stdout)
            printed |= set(paths(found))
            if command not in ("selections", "diff", "validate"):
                assert set(found["choice"]) == {key.partition(".")[0] for key in choices}
        keys = documents[command]
        unknown = {path for path in printed if not any(holds(key, path) for key in keys)}
        assert not unknown, (command, unknown)
        optional = OF_A_MATCHED_LAKE.get(command, set())
        optional = optional | ({"language.*", "quality.*"} if command == "show" else set())
        missing = {key for key in keys - optional if not any(held(key, path) for path in printed)}
        assert not missing, (command, missing)
