"""The version, installed or not."""

import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNINSTALLED = """
import sys
from importlib import metadata
class Hidden(metadata.DistributionFinder):
    def find_distributions(self, context=metadata.DistributionFinder.Context()):
        return ()
real = metadata.distribution
def distribution(name):
    if name == "speechmill":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.distribution = distribution
"""


def test_it_is_that_of_the_package() -> None:
    from manifests.version import version

    assert version() == metadata.version("speechmill")


def test_a_checkout_that_is_not_installed_knows_its_own(tmp_path: Path) -> None:
    expected = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    script = f"{UNINSTALLED}\nfrom pipelines.commands.cli import main\nsys.argv = ['speechmill', '--version']\nmain()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"speechmill, version {expected}\n", done.stderr


def test_without_a_project_file_it_is_unknown(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests", ignore=shutil.ignore_patterns("__pycache__"))
    script = f"{UNINSTALLED}\nfrom manifests.version import version\nprint(version())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout == "unknown\n", done.stderr
