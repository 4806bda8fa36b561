"""Which selection, dataset and stages a command looks at: it is said and can be chosen, and no measure is lost."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from lakes import STAGES, rules, write_lake

from manifests import schemas
from manifests.choice import ChoiceError, choose, selections_of
from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection
from pipelines.commands.cli import cli

MARKS = STAGES | {"quality": "q"}


def named(name: str, stages: dict[str, str], **changes: Any) -> Selection:
    return Selection(**{**vars(rules(**changes)), "name": name, "stages": stages})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A selection that read the quality of its recordings, and a newer one that did not; a dataset of the first."""
    made = write_lake(tmp_path / "lake", [[{"id": f"r{n}", "duration_s": 20.0, "speech": [(0, 19)]} for n in range(3)]])
    write_quality(made, "q", 3.5)
    rule = {"clean": "dnsmos_ovrl > 3"}
    select(made, named("clean-000000000001", MARKS, recordings=rule))
    select(made, named("plain-000000000002", STAGES))
    made.storage.put("datasets/clean/plan.json", b'{"selection": "clean-000000000001"}')
    age(made, "selections/clean-000000000001/selection.json", 100)
    return made


def write_quality(lake: Lake, mark: str, score: float) -> None:
    rows = [{"recording_id": f"r{n}", "status": "ok", "dnsmos_ovrl": score} for n in range(3)]
    lake.write(lake.annotation_key("quality", mark, "batch-000000"), schemas.table(rows, schemas.STAGES["quality"]))


def age(lake: Lake, key: str, seconds: float) -> None:
    path = Path(lake.storage.root, key)
    os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def run(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, list(words))
    assert done.exit_code == code, done.output
    return done


def told(*words: str) -> Any:
    return json.loads(run("manifest", *words, "--json").output)


def test_what_another_selection_read_is_found_and_the_header_says_whose_it_is(lake: Lake) -> None:
    root = str(lake.storage.root)
    (found,) = told("stats", root, "--histogram", "dnsmos_ovrl")["histograms"]
    assert found["measured"] == 3
    assert [row["measure"] for row in told("stats", root)["overview"]["measures"]].count("dnsmos_ovrl") == 1
    for words in (
        ["stats"],
        ["head"],
        ["show", "r1"],
        ["funnel"],
        ["what-if", "--drop", "long"],
        ["query", "SELECT 1"],
    ):
        text = run("manifest", words[0], root, *words[1:]).stdout
        lines = text.splitlines()
        assert lines[:3] == [
            "selection plain-000000000002, the newest of 2, no dataset of it",
            "stages signal s, vad v, diarize d",
            "besides quality q, read by the selection clean-000000000001",
        ]
    assert run("manifest", "funnel", root, "--selection", "clean-000000000001").stdout.splitlines()[:2] == [
        "selection clean-000000000001; dataset clean", "stages signal s, vad v, diarize d, quality q",
    ]  # fmt: skip
    assert told("funnel", root)["choice"] == {
        "selection": "plain-000000000002", "dataset": None, "stages": MARKS,
        "other_stages": {"quality": "clean-000000000001"},
    }  # fmt: skip


def test_a_rule_over_a_stage_that_the_selection_did_not_read_names_one_that_did(lake: Lake) -> None:
    done = run("manifest", "what-if", str(lake.storage.root), "--rule", "dnsmos_ovrl > 3", code=1)
    assert "stage quality measures, and the selection plain-000000000002 did not read" in done.output
    assert "--selection clean-000000000001" in done.output


def test_of_a_stage_with_several_settings_the_newest_selection_decides_and_else_nothing_is_guessed(lake: Lake) -> None:
    write_quality(lake, "p", 1.0)
    assert choose(lake).stages["quality"] == "q"
    select(lake, named("dirty-000000000003", STAGES | {"quality": "p"}))
    age(lake, "selections/dirty-000000000003/selection.json", 50)
    assert (choose(lake).stages["quality"], choose(lake).others) == ("p", {"quality": "dirty-000000000003"})
    for name in ("clean-000000000001", "dirty-000000000003"):
        lake.storage.delete(f"selections/{name}/funnel.json")
    chosen = choose(lake)
    assert "quality" not in chosen.stages
    assert chosen.several == {"quality": ["p", "q"]}
    text = run("manifest", "stats", str(lake.storage.root)).output
    assert "not quality, which was measured with several settings: p, q; --stage quality=p looks at the first" in text
    assert choose(lake, stages={"quality": "p"}).own["quality"] == "p"


def test_selections_are_listed_with_what_each_keeps_and_what_is_made_of_it(lake: Lake) -> None:
    lake.storage.put("selections/cut-short/selection.json", b'{"stages": {"signal": "s"}}')
    rows = {row["selection"]: row for row in told("selections", str(lake.storage.root))["selections"]}
    clean = rows["clean-000000000001"]
    assert (clean["recipe"], clean["default"], clean["datasets"]) == ("clean", False, ["clean"])
    assert (clean["recordings"], clean["windows"], clean["stages"]) == (3, 6, MARKS)
    assert rows["plain-000000000002"]["default"]
    assert (rows["cut-short"]["recordings"], rows["cut-short"]["default"]) == (None, False)
    text = run("manifest", "selections", str(lake.storage.root)).output
    assert "selecting did not come to its end" in text
    assert "recipe clean; datasets: clean" in text
    assert [row["selection"] for row in selections_of(lake)][-1] == "clean-000000000001"
    assert "there is no lake" in run("manifest", "selections", str(lake.storage.root) + "x", code=1).output


def test_a_dataset_names_its_selection_and_a_selection_that_is_gone_is_told(lake: Lake) -> None:
    assert choose(lake, dataset="clean").selection == "clean-000000000001"
    both = choose(lake, "plain-000000000002", "clean")
    assert both.made_of == "clean-000000000001"
    words = ["--selection", "plain-000000000002", "--dataset", "clean"]
    text = run("manifest", "head", str(lake.storage.root), *words).output
    assert "dataset clean, which was made of the selection clean-000000000001" in text
    lake.storage.put("datasets/old/plan.json", b'{"selection": "gone-000000000009"}')
    with pytest.raises(ChoiceError, match="made from the selection gone-000000000009, which is not in the lake"):
        choose(lake, dataset="old")


def test_every_command_over_a_lake_takes_the_same_choice() -> None:
    choice = {"--selection", "--dataset", "--stage"}
    manifest = cli.commands["manifest"].commands  # type: ignore[attr-defined]
    commands = {name: command for name, command in manifest.items() if name not in ("selections", "validate")}
    for name, command in {**commands, "report": cli.commands["report"]}.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert choice <= options, name


def test_a_choice_that_says_nothing_or_contradicts_the_path_is_refused(lake: Lake) -> None:
    root = lake.storage.root
    batch = f"{root}/recordings/batch-000000.parquet"
    assert "is not a lake" in run("manifest", "head", batch, "--selection", "x", code=1).output
    words = [f"{root}/selections/clean-000000000001", "--selection", "plain-000000000002"]
    assert "name one of them" in run("manifest", "stats", *words, code=1).output
