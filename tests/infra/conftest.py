"""Terraform with a schema in place of the provider, and the server that takes the policies it renders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from servers import S3Server

sys.path.insert(0, str(Path(__file__).parent))

from tools import INFRA, TOOLS, tool


class Terraform:
    """Real Terraform in a copy of infra/terraform."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env

    def __call__(self, root: str, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tool("python"), str(Path(__file__).with_name("terraform_cli.py")), *command],
            cwd=self.folder / root, env=os.environ | self.env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def outputs(self, root: str) -> dict[str, Any]:
        """What `terraform output -json` would print after the last applied run of the root's tests."""
        assert self(root, "init", "-backend=false", "-input=false").returncode == 0
        tested = self(root, "test", "-json", "-verbose")
        assert tested.returncode == 0, tested.stdout
        messages = [json.loads(line) for line in tested.stdout.splitlines() if line.startswith("{")]
        return [message["test_state"]["outputs"] for message in messages if message["type"] == "test_state"][-1]


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terraform]:
    import aws_schema
    import provider

    tool("python")
    folder = tmp_path_factory.mktemp("infra") / "terraform"
    shutil.copytree(INFRA / "terraform", folder, ignore=shutil.ignore_patterns(".terraform*"))
    schemas = aws_schema.schemas(next((TOOLS / "schema").glob("*.whl")), aws_schema.used(folder))
    with provider.serving(schemas) as env:
        yield Terraform(folder, env)


@pytest.fixture(scope="session")
def outputs(terraform: Terraform) -> dict[str, Any]:
    """Outputs of the environment dev, applied with mocks."""
    return terraform.outputs("environments/dev")


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    from servers import s3_server

    with s3_server(tmp_path_factory.mktemp("cloud"), tls=True) as started:
        yield started
