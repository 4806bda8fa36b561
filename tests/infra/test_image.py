"""The container image, which cannot be built here: linted, and each of its steps held against the repository."""

from __future__ import annotations

import re
import subprocess
import tomllib

from tools import INFRA, ROOT, tool

DOCKERFILE = (INFRA / "image" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_linter_finds_nothing() -> None:
    done = subprocess.run([tool("hadolint"), "infra/image/Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_copied_file_is_in_the_repository_and_let_through_to_the_build() -> None:
    lines = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if re.match(r"COPY (?!--from)", line)]
    copied = {name.removeprefix("./") for line in lines for name in line}
    ignored = (INFRA / "image" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
    packages = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.removesuffix("*") for name in packages} <= copied
    assert {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]} <= copied


def test_every_extra_is_the_projects_own() -> None:
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.M)
    assert set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()


def test_versions_agree_with_the_constraints() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    assert f"apache/beam_python3.11_sdk:{pinned['apache-beam']} " in DOCKERFILE
    for name in ("rayjob.yaml", "raycluster.yaml"):
        assert f"rayVersion: {pinned['ray']}\n" in (INFRA / "ray" / name).read_text()


def test_the_image_does_not_run_as_root() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]
    runtime = next(stage for stage in stages if " AS runtime" in stage.splitlines()[0])
    assert re.search(r"^USER 10001$", runtime, re.M)
    built_on_it = [stage for stage in stages if stage.startswith("runtime ")]
    assert len(built_on_it) == 2
    assert not any(re.search(r"^USER", stage, re.M) for stage in built_on_it)
