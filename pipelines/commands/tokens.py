"""`speechmill tokens`: prints the ledger of a dataset, or recounts it from the bytes of its shards."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from manifests.names import NAME
from manifests.output import one_line, say
from pipelines.commands.options import Output, lake_options, open_lake, recipe_of
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    from manifests.lake import Lake
    from pipelines.recipes.recipe import Recipe


@click.group()
def tokens() -> None:
    """Print the ledger of a dataset, or recount it from the shards."""


def _opened(recipe: str, lake: str, overrides: tuple[str, ...], dataset: str | None) -> tuple[Lake, Recipe, str | None]:
    """The lake, the recipe, and the name of the dataset if one is named.

    `recipe` may also be the name of a dataset, whose recipe is stored in the lake.
    """
    from pipelines.recipes.recipe import parse_with
    from runtime.errors import UnknownRecipeError

    try:
        loaded = recipe_of(recipe, overrides)
        return open_lake(lake, loaded.storage), loaded, dataset
    except UnknownRecipeError:
        opened = open_lake(lake)
        if not NAME.fullmatch(recipe) or not opened.storage.exists(key := f"datasets/{recipe}/recipe.json"):
            raise
        return opened, parse_with(opened.read_json(key), overrides), dataset or recipe


DATASET = (
    click.option(
        "--dataset",
        metavar="NAME",
        help="Name of a dataset. The default is the newest of RECIPE for each encoder.",
    ),
    click.option("--version", type=click.IntRange(1), help="Version of the dataset; by default the newest."),
)


@tokens.command("show")
@lake_options
@DATASET[0]
@DATASET[1]
@click.option(
    "--by", "by", multiple=True, metavar="A,B,...", default=["split,language"], show_default=True,
    help="Columns to group by: split, language, num_speakers, source and labels.NAME.",
)  # fmt: skip
def tokens_show(
    recipe: str,
    lake: str,
    overrides: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    by: tuple[str, ...],
    dataset: str | None,
    version: int | None,
) -> None:
    """Print the ledger of RECIPE's dataset; of a recipe with several encoders that of each.

    RECIPE may also be the name of a dataset of the lake.
    """
    from manifests import ledger
    from manifests.labels import COUNTED_BY

    columns = list(dict.fromkeys(name.strip() for text in by for name in text.split(",")))
    labels = [column for column in columns if COUNTED_BY.fullmatch(column)]
    if not set(columns) <= {*ledger.GROUP, *labels}:
        raise click.BadParameter(
            f"{','.join(by)!r} is not a list of {', '.join(ledger.GROUP)} and labels.NAME", param_hint="--by"
        )
    opened, loaded, dataset = _opened(recipe, lake, overrides, dataset)
    output = Output(quiet, as_json)
    shown: list[dict[str, Any]] = []
    for name in _names(opened, loaded, dataset):
        folder = f"datasets/{name}" + (f"/versions/{version:06d}" if version else "")
        try:
            table = opened.read(f"{folder}/ledger.parquet")
            if labels:
                table = ledger.by_labels(opened, name, version, labels)
        except FileNotFoundError as error:
            remedy = "`speechmill datasets list` shows which there are; `speechmill encode` finishes one"
            raise SpeechmillError(f"no {folder}/ledger.parquet in {lake}", remedy) from error
        shown.append({"dataset": name, "ledger": table.to_pylist()})
        output.show("datasets", shown, f"{folder}:\n{ledger.render(table, loaded.encode.patch, columns)}")
    output.close()


def _names(lake: Lake, recipe: Recipe, dataset: str | None) -> list[str]:
    """The named dataset, else those of the recipe; prints a note for each encoder without a dataset."""
    from pipelines.encoding.dataset import datasets_of

    if dataset:
        return [dataset]
    found = datasets_of(lake, recipe)
    for target in recipe.targets:
        if target not in found:
            say(f"note: no dataset {target} yet; `speechmill encode` makes it", error=True)
    return list(found.values())


@tokens.command("verify")
@lake_options
@DATASET[0]
def tokens_verify(
    recipe: str, lake: str, overrides: tuple[str, ...], quiet: bool, as_json: bool, dataset: str | None
) -> None:
    """Recount RECIPE's datasets from the bytes of their shards; exit code 3 and a line for each difference."""
    from manifests.verify import verify

    opened, loaded, dataset = _opened(recipe, lake, overrides, dataset)
    output = Output(quiet, as_json)
    names = _names(opened, loaded, dataset)
    problems = [problem for name in names for problem in verify(opened, name)]
    for problem in problems:
        say(one_line(str(problem)), error=True)
    output.show("problems", [dataclasses.asdict(problem) for problem in problems], "")
    wrong = any(not problem.note for problem in problems)
    if not wrong:
        lines = [f"datasets/{name}: every shard, count and token is as recorded" for name in names]
        output.show("verified", names, "\n".join(lines))
    output.close()
    if wrong:
        sys.exit(3)
