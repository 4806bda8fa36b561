"""The version of speechmill."""

from __future__ import annotations

import functools
import tomllib
from importlib import metadata
from pathlib import Path

NAME = "speechmill"


@functools.cache
def version() -> str:
    """The version of the installed package, or else of the checkout; 'unknown' if neither has one."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        pass
    try:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
        return str(project["version"]) if project["name"] == NAME else "unknown"
    except (OSError, tomllib.TOMLDecodeError, KeyError):
        return "unknown"
