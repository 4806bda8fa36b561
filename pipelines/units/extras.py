"""Optional packages: which of them a command needs, and one error that names all of those that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from manifests.install import install, installed
from manifests.storage.s3client import PACKAGES
from pipelines.recipes.recipe import Recipe
from pipelines.units.engines import Engine
from runtime.errors import MissingExtraError
from runtime.models import MODELS


class Need(NamedTuple):
    """A package that `user` imports, with the extra that brings it, or the requirement if no extra does."""

    user: str
    package: str
    extra: str | None = None
    requirement: str | None = None


def check(recipe: Recipe, engine: Engine, places: Iterable[str], measures: bool) -> None:
    """Check that the packages for a recipe, an engine, a lake and its inputs are installed.

    If the stages run on a Ray cluster or a Beam runner, this machine does not need their packages. It always needs the
    packages of the encoders, to know their frames.

    Args:
        recipe: The recipe.
        engine: The engine.
        places: The names of the lake and of inputs.
        measures: Whether the stages of the recipe will run.

    Raises:
        MissingExtraError: Packages are missing. The error names all of them.
    """
    needs = [Need(engine.name, package, engine.name) for package in engine.spec.packages]
    if any(place.lower().startswith("s3://") for place in places):
        needs += [Need("s3", package, "s3") for package in PACKAGES]
    if measures and engine.runs_here():
        needs += _stage_needs(recipe)
    missing = [need for need in needs if not installed(need.package)]
    encoder_errors = [error for config in recipe.targets.values() if (error := config.missing_packages()) is not None]
    if missing or encoder_errors:
        users = [f"{need.user} needs {need.package}" for need in missing]
        extras = [need.extra for need in missing if need.extra]
        requirements = [need.requirement for need in missing if need.requirement]
        for error in encoder_errors:
            users += error.needs
            extras += error.extras
            requirements += error.bare
        what = f"packages are not installed: {', '.join(dict.fromkeys(users))}"
        raise MissingExtraError(what, install(extras, requirements))


def _stage_needs(recipe: Recipe) -> Iterator[Need]:
    """Yield the packages that the stages import, and the packages that contain their weights."""
    for stage in recipe.make_stages():
        for package in stage.packages:
            yield Need(stage.name, package, stage.extra)
        for name in stage.registered():
            if model := MODELS.get(name):
                for package in [model.package, *(part[0] for part in model.parts)]:
                    yield Need(stage.name, package, model.extra, model.requirement)
