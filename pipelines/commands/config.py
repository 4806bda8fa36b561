"""`speechmill config`: writes tables of a recipe from the output of other tools."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from manifests.storage import StorageConfig
from runtime.errors import SpeechmillError

TABLE = re.compile(
    r"^\[storage\][^\n]*\n(?:(?!\[).*\n?)*", re.M
)  # its header, and every line up to the header of the next table


@click.group()
def config() -> None:
    """Write tables of a recipe from the output of other tools."""


@config.command("from-terraform", short_help="Write [storage] from what `terraform output -json` printed.")
@click.argument("outputs", type=click.File("r"))
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe that gets the table.")
def from_terraform(outputs: Any, recipe: Path | None) -> None:
    """Write [storage] from OUTPUTS, what `terraform output -json` printed ('-' is standard input)."""
    table = storage_table(outputs.read(), outputs.name)
    if recipe is None:
        click.echo(table, nl=False)
        return
    try:
        text = recipe.read_text()
    except FileNotFoundError as error:
        raise SpeechmillError(f"{recipe}: no such recipe", "name a TOML file that exists") from error
    recipe.write_text(with_table(text, table))
    click.echo(f"{recipe}: [storage] written")


def storage_table(text: str, name: str) -> str:
    """The table `[storage]` as TOML, with a comment that has the command line for the lake and the raw sound.

    Raises SpeechmillError where `text` is not the output of `terraform output -json` in an environment of infra/.
    """
    try:
        storage = json.loads(text)["storage"]["value"]
        lake, raw = storage["lake"], storage["raw"]
    except (ValueError, LookupError, TypeError) as error:
        remedy = "apply infra/terraform/environments/dev and run `terraform output -json > outputs.json` there"
        raise SpeechmillError(f"{name} holds no output named storage", remedy) from error
    lines = ["[storage]", f"# speechmill run RECIPE --in {raw}/ --lake {lake}"]
    keys = [field.name for field in fields(StorageConfig) if storage.get(field.name) is not None]
    lines += [f"{key} = {json.dumps(storage[key])}" for key in keys]  # TOML writes scalars as JSON does
    return "\n".join(lines) + "\n"


def with_table(text: str, table: str) -> str:
    """The text of a recipe with its table `[storage]` replaced by `table`, or with `table` added at the end."""
    if TABLE.search(text):
        return TABLE.sub(lambda found: table + ("\n" if found.end() < len(text) else ""), text, count=1)
    return f"{text.rstrip()}\n\n{table}" if text.strip() else table
