"""Required packages: whether they are installed, and the command that installs them."""

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
    """The command line that installs extras of speechmill.

    If speechmill was installed from a folder, an archive or a repository, the command names that place again, because
    no index has the package.

    Args:
        extras: Names of extras.
        bare: Further packages, which are installed without their dependencies.
    """
    commands = []
    if named := ",".join(sorted(set(extras))):
        option, before, after = _source()
        commands.append(f"pip install {option}'{before}[{named}]{after}'")
    if packages := " ".join(sorted(set(bare))):
        commands.append(f"pip install --no-deps {packages}")
    return " && ".join(commands)


def installed(package: str) -> bool:
    """Whether a package can be found. The package is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that contains it
        return False


def requirements() -> dict[str, list[Requirement]]:
    """The requirements of each extra by its name; those of speechmill itself are under "".

    Requirements that are extras of speechmill themselves are left out.
    """
    from packaging.requirements import Requirement

    declared, extras = _declared()
    by_extra: dict[str, list[Requirement]] = {name: [] for name in ["", *extras]}
    for text in declared:
        needed = Requirement(text)
        if needed.name == NAME:
            continue
        for name, required in by_extra.items():
            always = needed.marker is None or needed.marker.evaluate({"extra": ""})
            if always != bool(name) and (needed.marker is None or needed.marker.evaluate({"extra": name})):
                required.append(needed)
    return by_extra


def _declared() -> tuple[list[str], list[str]]:
    """Requirements with their markers, and the names of extras: of the installed package, or else of the checkout."""
    try:
        package = metadata.distribution(NAME)
        return package.requires or [], package.metadata.get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
        optional = project["optional-dependencies"]
        marked = [f'{text}; extra == "{name}"' for name, texts in optional.items() for text in texts]
        return [*project["dependencies"], *marked], list(optional)


@functools.cache
def _source() -> tuple[str, str, str]:
    """Parts of the command that installs speechmill: the options, the text before the extras, and the text after."""
    checkout = Path(__file__).parents[1]
    try:
        direct_url = metadata.distribution(NAME).read_text("direct_url.json")  # PEP 610
    except metadata.PackageNotFoundError:
        return ("-e ", _folder(checkout), "") if (checkout / "pyproject.toml").is_file() else ("", NAME, "")
    if not direct_url:
        return "", NAME, ""
    source = json.loads(direct_url)
    url = str(source["url"])
    if "dir_info" in source:
        editable = "-e " if source["dir_info"].get("editable") else ""
        return editable, _folder(Path(url2pathname(urlsplit(url).path))), ""
    if version := source.get("vcs_info"):
        url = f"{version['vcs']}+{url}@{version['commit_id']}"
    return "", NAME, f" @ {url}"


def _folder(path: Path) -> str:
    """A folder as pip takes it: '.' for the current folder."""
    return "." if path.resolve() == Path.cwd().resolve() else str(path)
