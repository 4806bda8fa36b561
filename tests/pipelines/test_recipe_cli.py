"""`speechmill recipe`: what is shipped, a recipe of one's own, what is wrong with it, and all keys."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from documented_json import documented, held, holds, paths

from pipelines.commands.cli import cli
from pipelines.recipes import recipe as recipes
from pipelines.recipes.keys import encoder_keys, keys
from runtime.errors import SpeechmillError


def recipe(*words: str) -> Result:
    return CliRunner().invoke(cli, ["recipe", *words])


def printed(*words: str) -> dict:
    done = recipe(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_every_shipped_recipe_is_listed_with_what_it_is_for() -> None:
    document = printed("list")
    listed, found = documented()["recipe list"], set(paths(document))
    assert not {path for path in found if not any(holds(key, path) for key in listed)}
    assert not {key for key in listed if not any(held(key, path) for path in found)}
    rows = document["recipes"]
    assert [row["name"] for row in rows] == recipes.shipped()
    for row in rows:
        assert row["what"].endswith("."), row["name"]
        assert row["name"] in recipe("list").stdout
    (demo,) = (row for row in rows if row["name"] == "demo")
    assert demo["stages"] == ["signal", "vad", "diarize", "language", "quality", "fingerprint"]
    assert demo["encoders"] == ["logmel"]


@pytest.mark.parametrize("name", recipes.shipped())
def test_a_recipe_that_init_writes_is_the_shipped_one_under_its_own_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / "first-try.toml"
    assert recipe("init", str(file), "--like", name).exit_code == 0
    assert recipes.load(str(file)).name == "first-try"
    text = tomllib.loads(recipe("show", name).stdout)
    assert tomllib.loads(file.read_text()) == text | {"name": "first-try"}
    assert printed("show", name)["recipe"] == text


def test_init_replaces_nothing_and_refuses_names_that_no_dataset_can_have(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert recipe("init", str(file)).exit_code == 0
    for words, told in [
        ([str(file)], "already exists"),
        ([str(tmp_path / "a b.toml")], "the recipe's name"),
        ([str(tmp_path / "mine")], "does not end with .toml"),
        ([str(tmp_path / "other.toml"), "--like", "podcats"], "no shipped recipe 'podcats'"),
    ]:
        done = recipe("init", *words)
        assert isinstance(done.exception, SpeechmillError)
        assert told in str(done.exception)
        assert done.exception.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_check_says_what_a_recipe_does_and_what_is_wrong_with_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    recipe("init", str(file), "--like", "demo")
    told = printed("check", str(file))["recipe"]
    assert told["recording_rules"][:2] == ["speech", "language_known"]
    assert told["missing"] is None
    assert "recipe 'mine' is right" in recipe("check", str(file)).stdout
    for override, wrong in [
        ("select.continuation=3", "unknown key 'continuation'"),
        ("decode.max_hours=x", "max_hours"),
    ]:
        done = recipe("check", str(file), "--set", override)
        assert isinstance(done.exception, SpeechmillError)
        assert wrong in str(done.exception)


def test_check_tells_of_packages_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.units.extras.installed", lambda package: package != "silero_vad")
    done = recipe("check", "demo", "--json")
    assert done.exit_code == 1
    assert "silero_vad" in json.loads(done.stdout)["recipe"]["missing"]["error"]


def test_keys_lists_every_key_of_every_shipped_recipe() -> None:
    known = {key.path for key in keys()}
    found = printed("keys")
    assert {f"{key['table']}.{key['name']}".lstrip(".") for key in found["keys"]} == known
    assert found["encoders"].keys() == encoder_keys().keys()
    for name in recipes.shipped():
        told = recipes.load(name).resolved
        for table in ("ingest", "decode", "select"):
            assert {f"{table}.{key}" for key in told.get(table, {})} <= known
        for stage, settings in told["annotate"].items():
            if isinstance(settings, dict):
                assert {f"annotate.{stage}.{key}" for key in settings} <= known


def test_a_default_is_what_a_recipe_without_the_key_has() -> None:
    """Each default, written into a recipe, leaves it as it is."""
    lines = [
        f"{key.path} = {key.default}" for key in keys() if key.default is not None and key.path != "encode.settings"
    ]
    plain = 'name = "x"\n' + "".join(f"annotate.{stage}.enabled = true\n" for stage in recipes.STAGES)
    written, without = (recipes.parse(tomllib.loads(text)) for text in ('name = "x"\n' + "\n".join(lines), plain))
    for part in ("ingest", "decode", "stages", "select", "encode", "storage", "piece_hours", "max_failed_share"):
        assert getattr(written, part) == getattr(without, part), part


def test_a_table_or_an_encoder_can_be_asked_for_alone() -> None:
    assert {key["table"] for key in printed("keys", "annotate.vad")["keys"]} == {"annotate.vad"}
    assert printed("keys", "logmel")["encoders"].keys() == {"logmel"}
    assert "num_mels" in recipe("keys", "logmel").stdout
    done = recipe("keys", "anotate")
    assert "no table 'anotate'" in str(done.exception)
