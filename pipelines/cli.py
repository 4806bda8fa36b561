"""The command line. Exit codes: 0 done, 1 stopped, 2 wrong options, 3 verify found a difference, 130 interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from pipelines.errors import SpeechmillError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="speechmill")
def cli() -> None:
    """Mill conversational recordings into sharded datasets, with every token accounted for."""


def options(function: Callable[..., None]) -> Callable[..., None]:
    """What every step takes."""
    for option in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe."),
        click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker processes."),
        click.option("--lake", required=True, metavar="FOLDER", help="Where everything is kept."),
        click.argument("recipe"),
    ):
        function = option(function)
    return function


INPUTS = click.option(
    "--in", "inputs", multiple=True, required=True, metavar="PATH",
    help="A file, folder, glob pattern, list file (.txt) or manifest (.jsonl, .jsonl.gz).",
)  # fmt: skip


def start(recipe: str, lake: str, workers: int, overrides: tuple[str, ...]) -> Any:
    """A Run; imports happen here, so that --help answers at once."""
    from manifests.lake import Lake
    from pipelines import recipe as recipes
    from pipelines.run import Run

    loaded = recipes.load(recipe, overrides)
    try:
        opened = Lake.at(lake)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--lake") from error
    opened.sweep()
    return Run(loaded, opened, workers)


@cli.command()
@options
@INPUTS
def run(inputs: tuple[str, ...], **settings: Any) -> None:
    """Ingest, annotate, select and encode, as RECIPE says: a shipped name or a TOML file."""
    work = start(**settings)
    report_ingest(work.ingest(inputs))
    report_annotate(work.annotate())
    click.echo(work.select().render())
    click.echo(work.encode())


@cli.command()
@options
@INPUTS
def ingest(inputs: tuple[str, ...], **settings: Any) -> None:
    """Add recordings to the lake: probe headers, hash bytes, decode nothing."""
    report_ingest(start(**settings).ingest(inputs))


@cli.command()
@options
def annotate(**settings: Any) -> None:
    """Measure every recording that was not measured with these settings."""
    report_annotate(start(**settings).annotate())


@cli.command()
@options
def select(**settings: Any) -> None:
    """Apply the recipe's rules to what was measured and print the funnel; decodes nothing."""
    click.echo(start(**settings).select().render())


@cli.command()
@options
def encode(**settings: Any) -> None:
    """Encode the selected windows into shards and print the ledger."""
    click.echo(start(**settings).encode())


@cli.group()
def tokens() -> None:
    """The ledger of a dataset: print it, or recount it from the shards."""


@tokens.command("show")
@options
def tokens_show(**settings: Any) -> None:
    """Print the ledger of RECIPE's dataset."""
    from manifests import ledger

    work = start(**settings)
    key = f"datasets/{work.recipe.name}/ledger.parquet"
    click.echo(ledger.render(work.lake.read(key), work.recipe.encode.patch))


@tokens.command("verify")
@options
def tokens_verify(**settings: Any) -> None:
    """Recount RECIPE's dataset from the bytes of its shards; exit code 3 and a line for each thing that differs."""
    from manifests.verify import verify

    work = start(**settings)
    problems = verify(work.lake, work.recipe.name)
    for problem in problems:
        click.echo(str(problem), err=True)
    if problems:
        sys.exit(3)
    click.echo(f"datasets/{work.recipe.name}: every shard, count and token is as recorded")


@cli.command()
def models() -> None:
    """List the registry of models and whether each is installed and is the pinned one."""
    from pipelines import models as registry

    for model in registry.MODELS.values():
        try:
            registry.verified(model.name)
            state = "ok"
        except SpeechmillError as error:
            state = error.remedy
        click.echo(f"{model.name:<28}{model.licence:<12}{model.sha256[:12]}  {state}")


def report_ingest(result: Any) -> None:
    click.echo(
        f"ingest: {result.met} names: {result.new} new, {result.renamed} new names of known bytes, "
        f"{result.known} known; {result.failed} unreadable"
    )


def report_annotate(result: Any) -> None:
    click.echo(f"annotate: {result.recordings} recordings, {result.seconds / 3600:.3f} h, {result.failed} failed")


def main() -> None:
    """Entry point: errors for people without a traceback, with their remedy."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: the same command goes on from here", err=True)
        sys.exit(130)
    except (SpeechmillError, OSError) as error:  # anything else is a bug and shows its traceback
        click.echo(f"error: {error}\nremedy: {getattr(error, 'remedy', 'check the disk and the path')}", err=True)
        sys.exit(1)
