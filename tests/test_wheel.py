"""The wheel brings all that commands read, and works away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipelines.recipes import recipe

ROOT = Path(__file__).parents[1]
PACKAGES = ("encoders", "manifests", "pipelines", "runtime", "speechmill", "studies")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, since setuptools writes into the folder that it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    words = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment with the wheel, and with what it depends on as it lies in this one."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin/python"
    words = ["--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder that a .pth file names is searched last, and .pth files in it, as that of the checkout, are not read.
    (packages / "theirs.pth").write_text(sysconfig.get_paths()["purelib"])
    return folder / "bin"


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - inside == set()
    assert {f"{name}/py.typed" for name in PACKAGES} <= inside
    assert {name.partition("/")[0] for name in inside if ".dist-info" not in name} == set(PACKAGES)


def test_commands_work_away_from_the_checkout(commands: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def speechmill(*words: str) -> str:
        line = [str(commands / "speechmill"), *words]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert speechmill("--version").strip().endswith(f" {version}")
    assert "annotate" in speechmill("--help")
    listed = json.loads(speechmill("recipe", "list", "--json"))["recipes"]
    assert [row["name"] for row in listed] == recipe.shipped()
    speechmill("recipe", "init", "mine.toml", "--like", "demo")
    assert "is right" in speechmill("recipe", "check", "mine.toml")
    where = [str(commands / "python"), "-c", "import pipelines; print(pipelines.__path__[0])"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(commands.parent)
