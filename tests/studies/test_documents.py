"""What the docs say of these commands: the keys of --json, the lines for three readers, and help of each option."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import lhotse
import pyarrow.parquet
import pytest
import webdataset
from click.testing import CliRunner
from documented_json import documented, held, holds, paths
from forked import speechmill as speechmill_run
from small_runs import make_input, run_words
from synthetic_datasets import add_shards, spread

import manifests.subsets
import speechmill.reader
from manifests.lake import Lake
from pipelines.commands.cli import cli
from studies import planning

STUDIES = Path(__file__).parents[2] / "docs/studies.md"


@pytest.fixture(scope="module")
def milled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `lake`, whose dataset `demo` was milled of four real recordings."""
    folder = tmp_path_factory.mktemp("milled")
    make_input(folder, 4)
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('name = "cheap"', 'name = "demo"'))
    done = speechmill_run(*run_words(folder, folder / "lake"))
    assert done.returncode == 0, done.stderr
    return folder


def test_every_command_prints_the_keys_that_are_documented(milled: Path, tmp_path: Path) -> None:
    root, file = str(milled / "lake"), str(tmp_path / "s.parquet")
    (tmp_path / "drawn/recordings").mkdir(parents=True)
    drawn = Lake.at(str(tmp_path / "drawn"))
    add_shards(drawn, "set", spread(9, 3))
    add_shards(drawn, "set", [[2]], split="test")
    commands = {
        "subset": [["subset", root, "-o", file], ["subset", root, "-o", file, "--budget", "2000", "--by", "source"]],
        "leaks": [["leaks", f"{drawn.storage.root}/datasets/set"]],
        "sample": [["sample"], ["sample", root, "--by", "channels"]],
        "cost": [["cost", root, "--hours", "100"]],
    }
    documents = documented()
    for command, runs in commands.items():
        keys, printed = documents[f"study {command}"], set[str]()
        for words in runs:
            done = CliRunner().invoke(cli, ["study", *words, "--json"])
            assert done.exit_code == (3 if command == "leaks" else 0), done.output
            printed |= set(paths(json.loads(done.stdout)))
        assert not {path for path in printed if not any(holds(key, path) for key in keys)}, command
        assert not {key for key in keys if not any(held(key, path) for path in printed)}, command


def test_the_lines_for_three_readers_give_the_tokens_of_the_budget(
    milled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(milled)
    (command,) = re.findall(r"^speechmill (study subset .* -o small\.parquet)$", STUDIES.read_text(), re.MULTILINE)
    done = CliRunner().invoke(cli, [*command.replace("3e8", "1000").split(), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert 0 <= told["short_by"] < told["next_window_tokens"]
    three, plain = re.findall(r"```python\n(.*?)```", STUDIES.read_text(), re.DOTALL)
    names: dict[str, Any] = {
        "speechmill": speechmill, "manifests": manifests, "webdataset": webdataset, "lhotse": lhotse,
        "pyarrow": pyarrow,
    }  # fmt: skip
    names["dataset"] = str(milled / "lake/datasets/demo")
    exec(three, names)
    reader = speechmill.reader.Reader(names["source"])
    ids = {sample["id"] for sample in reader}
    counts = reader.counts()["demo"]["train"]
    assert counts["context_tokens"] + counts["continuation_tokens"] == told["tokens"]
    assert len(ids) == told["windows"] < len(list(speechmill.reader.Reader(speechmill.reader.Source("lake", "demo"))))
    assert {cut.id for cut in names["cuts"]} == ids
    frames = [one["npy"].shape[0] for one in names["samples"]]
    assert (len(frames), sum(frames)) == (told["windows"], told["frames"])
    exec(plain, names)
    assert {one["__key__"] for one in names["samples"]} == ids


def test_every_option_says_what_it_does() -> None:
    for command in planning.COMMANDS:
        assert command.help
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        assert not [one.opts for one in options if not one.help or not one.help.endswith(".")], command.name
        shown = CliRunner().invoke(cli, ["study", str(command.name), "--help"])
        assert max(map(len, shown.output.splitlines())) <= 80, command.name
