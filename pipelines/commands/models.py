"""`speechmill models`: the registry of models, which of them are installed, and their paths."""

from __future__ import annotations

import sys
from typing import Any

import click

from manifests.commands.cli import JSON
from manifests.output import say, to_json
from runtime.errors import SpeechmillError


@click.group()
def models() -> None:
    """List and check the registry of models, whose weights come with packages and are pinned by sha256."""


@models.command("list")
@JSON
def models_list(as_json: bool) -> None:
    """List every model, whether its package is installed, and what it does."""
    from runtime import models as registry

    rows: list[dict[str, Any]] = []
    for model in registry.MODELS.values():
        row = {"name": model.name, "licence": model.licence, "sha256": model.sha256, "what": model.what}
        try:
            registry.find(model.name)
            rows.append(row | {"installed": True, "remedy": None})
        except SpeechmillError as error:
            rows.append(row | {"installed": False, "remedy": error.remedy})
    if as_json:
        say(to_json({"models": rows}, indent=1))
        return
    for row in rows:
        state = "installed" if row["installed"] else row["remedy"]
        say(f"{row['name']:<26}{row['licence']:<12}{state}\n    {row['what']}")


@models.command("verify")
@JSON
@click.argument("names", nargs=-1, metavar="[NAME]...")
def models_verify(names: tuple[str, ...], as_json: bool) -> None:
    """Compare the hashes of all models, or of the named ones, with the pinned ones; exit code 3 if one differs."""
    from runtime import models as registry

    rows: list[dict[str, Any]] = []
    for name in names or registry.MODELS:
        row: dict[str, Any] = {"name": name, "sha256": registry.get(name).sha256, "error": None, "remedy": None}
        try:
            registry.verified(name)
        except SpeechmillError as error:
            row |= {"error": str(error), "remedy": error.remedy}
        rows.append(row)
        if not as_json:
            state = f"{row['error']}; remedy: {row['remedy']}" if row["error"] else "ok"
            say(f"{name:<26}{row['sha256'][:12]}  {state}")
    if as_json:
        say(to_json({"models": rows}, indent=1))
    if any(row["error"] for row in rows):
        sys.exit(3)


@models.command("where")
@JSON
@click.argument("model")
def models_where(model: str, as_json: bool) -> None:
    """Print the path of MODEL, which is a name of the registry, a local path or a hub id."""
    from runtime import models as registry

    path, identity = registry.resolve(model)
    say(to_json({"model": model, "path": str(path), "identity": identity}, indent=1) if as_json else str(path))
