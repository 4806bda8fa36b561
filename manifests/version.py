"""The version of speechmill, however it came here."""

from __future__ import annotations

import functools
import tomllib
from importlib import metadata
from pathlib import Path

NAME = "speechmill"


@functools.cache
def version() -> str:
    """Of the installed package, else of the checkout that this file is part of; 'unknown' where neither says."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        pass
    try:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
        return str(project["version"]) if project["name"] == NAME else "unknown"
    except (OSError, tomllib.TOMLDecodeError, KeyError):
        return "unknown"
