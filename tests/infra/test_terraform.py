"""The modules as real Terraform sees them, with a schema in place of the provider (see provider.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOTS = ["environments/dev", "environments/prod", "environments/onpremises", "modules/stack"]


def test_everything_is_formatted(terraform: Any) -> None:
    done = terraform(".", "fmt", "-check", "-recursive", "-diff")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("root", ROOTS)
def test_a_root_is_valid_and_its_tests_pass(terraform: Any, root: str) -> None:
    for command in (["init", "-backend=false", "-input=false"], ["validate"], ["test", "-no-color"]):
        done = terraform(root, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout
    assert "Success! 0 passed" not in done.stdout


@pytest.mark.parametrize(
    ("file", "right", "wrong", "said"),
    [
        ("modules/bucket/main.tf", "block_public_acls ", "block_public_acl ", "Unsupported argument"),
        ("modules/bucket/main.tf", "noncurrent_version_expiration {", "noncurrent_expiration {", "Unsupported block"),
        ("modules/storage/main.tf", "_in_days = 30", '_in_days = "month"', "Incorrect attribute value type"),
        ("modules/budget/main.tf", '  budget_type  = "COST"\n', "", "Missing required argument"),
        ("modules/stack/main.tf", "module.registry.arn", "module.registry.url_of_arn", "Unsupported attribute"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(terraform: Any, file: str, right: str, wrong: str, said: str) -> None:
    path: Path = terraform.folder / file
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    try:
        assert terraform("environments/dev", "init", "-backend=false", "-input=false").returncode == 0
        done = terraform("environments/dev", "validate", "-no-color")
    finally:
        path.write_text(text)
    assert done.returncode == 1
    assert said in done.stdout + done.stderr


def test_the_outputs_make_the_storage_part_of_a_recipe(outputs: dict[str, Any]) -> None:
    from pipelines.commands.config import storage_table

    assert storage_table(json.dumps(outputs), "outputs.json") == (
        "[storage]\n"
        "# speechmill run RECIPE --in s3://speechmill-dev-raw-000000000000/ --lake s3://speechmill-dev-lake-000000000000/lake\n"
        'region = "us-east-1"\n'
        'encryption = "aws:kms"\n'
        'kms_key_id = "arn:aws:kms:us-east-1:000000000000:key/22222222-2222-2222-2222-222222222222"\n'
    )
