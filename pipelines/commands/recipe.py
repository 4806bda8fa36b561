"""`speechmill recipe`: lists, shows, checks and starts recipes, and lists every key of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from manifests.commands.options import JSON
from manifests.names import checked_name
from manifests.output import say, to_json
from runtime.errors import MissingExtraError, SpeechmillError, UnknownRecipeError

if TYPE_CHECKING:
    from pipelines.recipes.recipe import Recipe

OWN_NAME = re.compile(r"^name *=.*$", re.MULTILINE)
HEAD = """\
# Begun as a copy of the shipped recipe `{like}`. `speechmill recipe keys` lists every key that may stand here, and
# `speechmill recipe check {file}` says whether all is right.
"""


def complete_key(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A shell completion of the keys for `--set`, each with its equals sign."""
    from pipelines.recipes.keys import keys

    return [CompletionItem(f"{key.path}=", help=key.meaning) for key in keys() if key.path.startswith(incomplete)]


SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", shell_complete=complete_key,
    help="Override a value of the recipe.",
)  # fmt: skip


@click.group("recipe")
def recipe_group() -> None:
    """List, show, check and start recipes: the files that define a run."""


@recipe_group.command("list")
@JSON
def recipe_list(as_json: bool) -> None:
    """List the shipped recipes, with the purpose of each."""
    from pipelines.recipes import recipe as recipes

    rows = [_described(name) for name in recipes.shipped()]
    if as_json:
        say(to_json({"recipes": rows}, indent=1))
        return
    for row in rows:
        say(f"{row['name']:<14}{', '.join(row['stages'])}; {', '.join(row['encoders'])}\n    {row['what']}")


@recipe_group.command("show")
@JSON
@click.argument("recipe")
def recipe_show(recipe: str, as_json: bool) -> None:
    """Print RECIPE, a shipped name or a TOML file, unchanged; --json prints its tables."""
    from pipelines.recipes import recipe as recipes

    loaded = recipes.load(recipe)
    if as_json:
        say(to_json({"recipe": loaded.resolved}, indent=1))
        return
    say(_path(recipe).read_text(), end="")


@recipe_group.command("check")
@SET
@JSON
@click.argument("file")
def recipe_check(file: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print what FILE does, or what is wrong with it: keys, types, rules, encoders, packages.

    The exit code is 1 where a run would fail at once.
    """
    from pipelines.recipes import recipe as recipes
    from pipelines.units import extras
    from pipelines.units.engines import Engine

    loaded = recipes.load(file, overrides)
    described = _described(file, loaded)
    try:
        extras.check(loaded, Engine("local"), [], measures=True)
        described["missing"] = None
    except MissingExtraError as error:
        if not as_json:
            raise
        described["missing"] = {"error": str(error), "remedy": error.remedy}
    if as_json:
        say(to_json({"recipe": described}, indent=1))
    else:
        say(f"{file}: recipe {loaded.name!r} is right")
        for key in ("stages", "encoders", "recording_rules", "window_rules"):
            say(f"{key.replace('_', ' '):<17}{', '.join(described[key]) or 'none'}")
        window = f"{loaded.select.context_s:g} s of context and {loaded.select.continuation_s:g} s of continuation"
        say(f"{'windows':<17}{window}")
    if described["missing"]:
        raise SystemExit(1)


@recipe_group.command("init")
@click.option("--like", default="podcast", show_default=True, metavar="NAME", help="The shipped recipe to begin with.")
@click.argument("file", type=click.Path(path_type=Path))
def recipe_init(file: Path, like: str) -> None:
    """Write a copy of a shipped recipe to FILE, to be changed. The name of the file becomes that of the recipe."""
    from pipelines.recipes import recipe as recipes

    path = recipes.path_of(like)
    if path is None:
        raise UnknownRecipeError(f"no shipped recipe {like!r}", f"name one of: {', '.join(recipes.shipped())}")
    if file.suffix != ".toml":
        raise SpeechmillError(f"{file} does not end with .toml", f"name it {file.stem}.toml")
    try:
        checked_name(file.stem, "the recipe's name")
    except ValueError as error:
        raise SpeechmillError(str(error), "give the file such a name before .toml") from error
    text = OWN_NAME.sub(f'name = "{file.stem}"', path.read_text(), count=1)
    try:
        with file.open("x") as out:
            out.write(HEAD.format(like=like, file=file) + text)
    except FileExistsError as error:
        raise SpeechmillError(f"{file} already exists", "choose another name, or move it away") from error
    say(f"{file}: a copy of {like}; next: speechmill recipe check {file}")


@recipe_group.command("keys")
@JSON
@click.argument("table", required=False, default="", metavar="[TABLE]")
def recipe_keys(table: str, as_json: bool) -> None:
    """List every key of recipes, or those of TABLE, with type, default, unit and meaning."""
    from pipelines.recipes.keys import encoder_keys, keys

    found = [key for key in keys() if not table or table in (key.table, key.path) or key.table.startswith(f"{table}.")]
    settings = encoder_keys() if not found or not table or table == "encode" else {}
    if not found and table not in settings:
        known = ", ".join(sorted({key.table for key in keys()} - {""} | settings.keys()))
        raise SpeechmillError(f"no table {table!r} in recipes, and no encoder of that name", f"name one of: {known}")
    settings = {table: settings[table]} if table in settings else settings
    if as_json:
        rows = [key._asdict() for key in found]
        of_encoders = {name: [key._asdict() for key in of] for name, of in settings.items()}
        say(to_json({"keys": rows, "encoders": of_encoders}, indent=1))
        return
    for encoder, of in {"": found, **settings}.items():
        for key in of:
            default = "no default" if key.default is None else f"default {key.default}"
            unit = f", in {key.unit}" if key.unit else ""
            by = f"  (encoder {encoder})" if encoder else ""
            say(f"{key.path}{by}\n    {key.kind}{unit}, {default}. {key.meaning}")


def _path(recipe: str) -> Path:
    from pipelines.recipes import recipe as recipes

    return recipes.path_of(recipe) or Path(recipe)


def _described(recipe: str, loaded: Recipe | None = None) -> dict[str, Any]:
    """A summary of a recipe; `what` is its first comment."""
    from pipelines.recipes import recipe as recipes

    loaded = loaded or recipes.load(recipe)
    lines = _path(recipe).read_text().splitlines()
    comment = lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return {
        "name": loaded.name,
        "what": " ".join(line.lstrip("# ") for line in comment),
        "stages": ["signal", *loaded.stages],
        "encoders": [config.encoder for config in loaded.targets.values()],
        "recording_rules": list(loaded.select.recordings),
        "window_rules": list(loaded.select.windows),
    }
