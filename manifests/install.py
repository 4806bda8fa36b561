"""Optional packages: whether one is there, and the command that installs it, however speechmill was installed."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from manifests.version import NAME


def install(extras: Iterable[str] = (), bare: Iterable[str] = ()) -> str:
    """The command line that brings extras of speechmill, and packages `bare`, without their dependencies.

    Where speechmill was installed from a folder, an archive or a repository, pip has to be told that place again:
    no index holds it under its name.
    """
    commands = []
    if named := ",".join(sorted(set(extras))):
        option, before, after = _source()
        commands.append(f"pip install {option}'{before}[{named}]{after}'")
    if alone := " ".join(sorted(set(bare))):
        commands.append(f"pip install --no-deps {alone}")
    return " && ".join(commands)


def installed(package: str) -> bool:
    """Whether a package can be found; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of what it lies in
        return False


@functools.cache
def _source() -> tuple[str, str, str]:
    """What stands before the quote, before the extras and after them in the command that installs speechmill again."""
    checkout = Path(__file__).parents[1]
    try:
        written = metadata.distribution(NAME).read_text("direct_url.json")  # PEP 610
    except metadata.PackageNotFoundError:
        return ("-e ", _folder(checkout), "") if (checkout / "pyproject.toml").is_file() else ("", NAME, "")
    if not written:
        return "", NAME, ""
    source = json.loads(written)
    url = str(source["url"])
    if "dir_info" in source:
        editable = "-e " if source["dir_info"].get("editable") else ""
        return editable, _folder(Path(url2pathname(urlsplit(url).path))), ""
    if version := source.get("vcs_info"):
        url = f"{version['vcs']}+{url}@{version['commit_id']}"
    return "", NAME, f" @ {url}"


def _folder(path: Path) -> str:
    """A folder as pip takes it: '.' where the command is given inside it."""
    return "." if path.resolve() == Path.cwd().resolve() else str(path)
