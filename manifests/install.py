"""Packages: what is required, whether it is there, and the command that installs it, wherever speechmill came from."""

from __future__ import annotations

import functools
import importlib.util
import json
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from manifests.version import NAME

if TYPE_CHECKING:
    from packaging.requirements import Requirement


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


def requirements() -> dict[str, list[Requirement]]:
    """What each extra of speechmill requires, by its name; what is always required is under ''.

    Extras that an extra names are left out: they are told themselves.
    """
    from packaging.requirements import Requirement

    written, extras = _declared()
    found: dict[str, list[Requirement]] = {name: [] for name in ["", *extras]}
    for text in written:
        needed = Requirement(text)
        if needed.name == NAME:
            continue
        for name, of_extra in found.items():
            always = needed.marker is None or needed.marker.evaluate({"extra": ""})
            if always != bool(name) and (needed.marker is None or needed.marker.evaluate({"extra": name})):
                of_extra.append(needed)
    return found


def _declared() -> tuple[list[str], list[str]]:
    """Requirements with their markers, and names of extras: of the installed package, else of the checkout."""
    try:
        found = metadata.distribution(NAME)
        return found.requires or [], found.metadata.get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
        optional = project["optional-dependencies"]
        marked = [f'{text}; extra == "{name}"' for name, of_extra in optional.items() for text in of_extra]
        return [*project["dependencies"], *marked], list(optional)


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
