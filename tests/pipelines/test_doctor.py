"""`speechmill doctor` says what is there, and what is not with the command that brings it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from documented_json import documented, held, holds, paths

from manifests.install import install, requirements
from manifests.version import version
from pipelines.commands.cli import cli
from runtime.models import MODELS


def doctor(*words: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *words])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What it finds of a folder that is there and one that is not."""
    folder = tmp_path_factory.mktemp("there")
    done = doctor(str(folder), str(folder / "missing"), "--write", "--json")
    assert done.exit_code == 3
    assert not [path for path in folder.rglob("*") if path.is_file()]
    return json.loads(done.stdout)


def test_packages_and_models_are_told_with_versions_and_hashes(found: dict) -> None:
    assert found["speechmill"] == version()
    assert all(package["ok"] for package in found["packages"])
    assert {"av", "duckdb", "pyarrow"} <= {package["name"] for package in found["packages"]}
    assert {"vad", "ray", "s3"} <= {extra["name"] for extra in found["extras"]}
    assert {model["name"]: model["sha256"] for model in found["models"]} == {
        model.name: model.sha256 for model in MODELS.values()
    }
    assert {model["state"] for model in found["models"]} <= {"ok", "later"}
    assert found["machine"]["cores"] >= 1


def test_a_place_that_is_not_there_is_a_problem_with_a_remedy(found: dict) -> None:
    there, missing = found["places"]
    assert there["written"] is True
    assert "may be written" in there["what"]
    assert missing["error"]
    assert missing["remedy"]
    assert [problem.partition(":")[0] for problem in found["problems"]] == [missing["place"]]


def test_json_has_the_documented_keys(found: dict) -> None:
    keys, printed = documented()["doctor"], set(paths(found))
    assert not {path for path in printed if not any(holds(key, path) for key in keys)}
    assert not {key for key in keys if not any(held(key, path) for path in printed)} - {
        "machine.gpus[].*",
        "extras[].missing[]",
    }


def test_a_missing_extra_is_told_with_the_command_that_brings_it_and_is_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib import metadata

    known = metadata.version

    def without(name: str) -> str:
        if name in ("ray", "silero-vad"):
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", without)
    monkeypatch.setattr("manifests.install.installed", lambda package: package != "silero_vad")
    done = doctor()
    assert done.exit_code == 0, done.output
    assert f"lacks ray: {install(['ray'])}" in done.stdout
    assert f"not installed: {install(['vad'])}" in done.stdout


def test_a_package_that_is_too_old_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    known = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "pyarrow" else known(name))
    done = doctor("--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["problems"] == ["pyarrow 0.1, wanted >=20"]


def test_weights_that_are_not_the_pinned_ones_are_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import dataclasses

    other = dataclasses.replace(MODELS["silero-vad"], sha256="0" * 64)
    monkeypatch.setitem(MODELS, "silero-vad", other)
    done = doctor("--json")
    assert done.exit_code == 3
    (problem,) = json.loads(done.stdout)["problems"]
    assert "silero-vad" in problem


def test_secrets_in_the_name_of_a_place_are_not_shown() -> None:
    done = doctor("https://user:hush@example.org/a.wav")
    assert done.exit_code == 3
    assert "hush" not in done.output


def test_a_bucket_is_written_to_and_cleared(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = doctor(f"s3://{bucket}/lake", f"s3://{bucket}-missing/lake", "--write", "--json")
    there, missing = json.loads(done.stdout)["places"]
    assert (there["what"], there["written"], there["error"]) == ("nothing below it", True, None)
    assert missing["error"]


def test_what_an_extra_requires_is_what_pyproject_says() -> None:
    needed = requirements()
    assert {"boto3", "fsspec", "google-crc32c"} == {one.name for one in needed["s3"]}
    assert "boto3" not in {one.name for one in needed[""]}
