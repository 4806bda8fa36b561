"""Terraform's outputs become a recipe's table [storage]."""

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.commands.cli import cli
from pipelines.commands.config import storage_table, with_table
from pipelines.recipes import recipe
from runtime.errors import SpeechmillError

STORAGE = {
    "lake": "s3://lake/lake",
    "raw": "s3://raw",
    "endpoint_url": "https://store.example.org",
    "region": "us-east-1",
    "request_payer": True,
    "kms_key_id": None,
}
OUTPUTS = json.dumps({"storage": {"sensitive": False, "value": STORAGE}, "policies": {"value": {}}})


def test_the_table_holds_what_is_set_and_names_where_things_are(tmp_path: Path) -> None:
    (tmp_path / "outputs.json").write_text(OUTPUTS)
    done = CliRunner().invoke(cli, ["config", "from-terraform", str(tmp_path / "outputs.json")])
    assert done.exit_code == 0
    assert tomllib.loads(done.output) == {
        "storage": {"endpoint_url": "https://store.example.org", "region": "us-east-1", "request_payer": True}
    }
    assert "# speechmill run RECIPE --in s3://raw/ --lake s3://lake/lake\n" in done.output


@pytest.mark.parametrize("name", recipe.shipped())
def test_a_recipe_gets_the_table_once_and_keeps_the_rest(tmp_path: Path, name: str) -> None:
    (tmp_path / "outputs.json").write_text(OUTPUTS)
    before = Path(recipe.__file__).with_name(f"{name}.toml")
    copied = tmp_path / "mine.toml"
    copied.write_text(before.read_text())
    for _ in range(2):
        words = ["config", "from-terraform", str(tmp_path / "outputs.json"), "--recipe", str(copied)]
        assert CliRunner().invoke(cli, words).exit_code == 0
    assert recipe.load(str(copied)).storage.region == "us-east-1"
    after = copied.read_text()
    assert after.startswith(before.read_text().rstrip())
    assert after.count("[storage]") == 1
    table = tomllib.loads(after).pop("storage")
    assert tomllib.loads(after) == {**tomllib.loads(before.read_text()), "storage": table}


def test_a_table_in_the_middle_is_replaced_in_its_place() -> None:
    text = 'name = "a"\n\n[storage]\nregion = "eu-west-1"\nprofile = "old"\n\n[encode]\npatch = 2\n'
    assert with_table(text, '[storage]\nregion = "us-east-1"\n') == (
        'name = "a"\n\n[storage]\nregion = "us-east-1"\n\n[encode]\npatch = 2\n'
    )


@pytest.mark.parametrize(
    "text", ["", "{}", '{"storage": {"value": {"region": "us-east-1"}}}', '{"storage": null}', "[]"]
)
def test_what_terraform_did_not_print_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(SpeechmillError, match=r"outputs\.json holds no output named storage") as error:
        storage_table(text, "outputs.json")
    assert "terraform output -json" in error.value.remedy
