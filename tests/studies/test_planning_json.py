"""docs/json.md says what these commands print with --json: no key more and none less; each option says what it does."""

from __future__ import annotations

import json
from pathlib import Path

import click
from click.testing import CliRunner
from documents import documented, held, holds, paths
from forked import speechmill
from millings import given, make_input
from synthetic import add_shards, spread

from manifests.lake import Lake
from pipelines.cli import cli
from studies import planning


def test_every_command_prints_the_keys_that_are_documented(tmp_path: Path) -> None:
    make_input(tmp_path, 4)
    root = str(tmp_path / "lake")
    assert speechmill(*given(tmp_path, tmp_path / "lake")).returncode == 0
    lake = Lake.at(str(tmp_path / "drawn"))
    (tmp_path / "drawn/recordings").mkdir(parents=True)
    add_shards(lake, "set", spread(9, 3))
    add_shards(lake, "set", [[2]], split="test")
    drawn, file = f"{lake.storage.root}/datasets/set", str(tmp_path / "s.parquet")
    commands = {
        "subset": [["subset", root, "-o", file], ["subset", root, "-o", file, "--budget", "2000", "--by", "source"]],
        "leaks": [["leaks", drawn]],
        "sample": [["sample"], ["sample", root, "--by", "channels"]],
        "cost": [["cost", root, "--hours", "100"]],
    }
    documents = documented(studies=True)
    for command, runs in commands.items():
        keys, printed = documents[f"study {command}"], set[str]()
        for words in runs:
            done = CliRunner().invoke(cli, ["study", *words, "--json"])
            assert done.exit_code == (3 if command == "leaks" else 0), done.output
            printed |= set(paths(json.loads(done.stdout)))
        assert not {path for path in printed if not any(holds(key, path) for key in keys)}, command
        assert not {key for key in keys if not any(held(key, path) for path in printed)}, command


def test_every_option_says_what_it_does() -> None:
    for command in planning.COMMANDS:
        assert command.help
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        assert not [one.opts for one in options if not one.help or not one.help.endswith(".")], command.name
        shown = CliRunner().invoke(cli, ["study", str(command.name), "--help"])
        assert max(map(len, shown.output.splitlines())) <= 80, command.name
