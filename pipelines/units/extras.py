"""Optional packages: which of them a command needs, and one error that names all that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from manifests.install import install, installed
from manifests.storage.s3client import PACKAGES
from pipelines.recipes.recipe import Recipe
from pipelines.units.engines import Engine
from runtime.errors import MissingExtraError
from runtime.models import MODELS

ENGINES = {"ray": ("ray",), "beam": ("apache_beam",)}
"""Packages of an engine, by its name, which is that of its extra."""


class Need(NamedTuple):
    """A package that `user` imports, and the extra, or the requirement without an extra, that brings it."""

    user: str
    package: str
    extra: str | None = None
    requirement: str | None = None


def check(recipe: Recipe, engine: Engine, places: Iterable[str], measures: bool) -> None:
    """Raise MissingExtraError with every package that is missing for a recipe, an engine, a lake and its inputs.

    `places` are names of the lake and of inputs, `measures` says that the stages of the recipe will run. Where they
    run elsewhere, on a cluster of Ray or a runner of Beam, this machine does without their packages; those of encoders
    it needs in any case, to know their frames.
    """
    needs = [Need(engine.name, package, engine.name) for package in ENGINES.get(engine.name, ())]
    if any(place.lower().startswith("s3://") for place in places):
        needs += [Need("s3", package, "s3") for package in PACKAGES]
    if measures and engine.is_here():
        needs += _of_stages(recipe)
    missing = [need for need in needs if not installed(need.package)]
    lacking = [error for config in recipe.targets.values() if (error := config.lacks()) is not None]
    if missing or lacking:
        told = [f"{need.user} needs {need.package}" for need in missing]
        extras = [need.extra for need in missing if need.extra]
        bare = [need.requirement for need in missing if need.requirement]
        for error in lacking:
            told, extras, bare = [*told, *error.needs], [*extras, *error.extras], [*bare, *error.bare]
        what = f"packages are not installed: {', '.join(dict.fromkeys(told))}"
        raise MissingExtraError(what, install(extras, bare))


def _of_stages(recipe: Recipe) -> Iterator[Need]:
    """All that the stages import, and all that their weights lie in."""
    for stage in recipe.make_stages():
        for package in stage.packages:
            yield Need(stage.name, package, stage.extra)
        for name in stage.registered():
            if model := MODELS.get(name):
                for package in [model.package, *(part[0] for part in model.parts)]:
                    yield Need(stage.name, package, model.extra, model.requirement)
