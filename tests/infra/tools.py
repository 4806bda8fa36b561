"""Where the checkers lie; `make test` installs them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
TOOLS = ROOT / ".venv-infra"


def tool(name: str) -> str:
    """Path of an installed checker."""
    path = TOOLS / "bin" / name
    if not path.exists():
        pytest.fail(f"{path} is not installed: run `make infra-tools`")
    return str(path)
