"""What commands over a recipe and its lake share: their options, what these open, and where results go."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from manifests.output import printable, to_json
from pipelines.commands import curate
from pipelines.commands.recipe import SET
from pipelines.progress.console import public_command
from pipelines.units.engines import ENGINES
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    from manifests.lake import Lake
    from manifests.storage import StorageConfig
    from pipelines.recipes.recipe import Recipe
    from pipelines.units.engines import Engine
    from pipelines.units.pending import Retry


def lake_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments of every command over a recipe and its lake."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables."),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        SET,
        click.option(
            "--lake", required=True, metavar="FOLDER", help="The lake with all results: a folder or s3://bucket/prefix."
        ),
        click.argument("recipe"),
    ):
        function = option(function)
    return function


def options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments of every step of a run."""
    for option in (
        click.argument("beam_options", nargs=-1, metavar="[-- BEAM OPTIONS]"),
        click.option(
            "--ray-address", metavar="ADDRESS", help="A running Ray cluster. By default Ray is started on this machine."
        ),
        click.option(
            "--workers", metavar="N|MIN..MAX", help="Number of workers; by default 1, and on Ray as many as fit."
        ),
        click.option("--engine", type=click.Choice(list(ENGINES)), default="local", show_default=True),
        lake_options,
    ):
        function = option(function)
    return function


INPUTS = click.option(
    "--in", "inputs", multiple=True, required=True, metavar="PATH",
    help="A file, folder, pattern, list (.txt), manifest (.jsonl, .jsonl.gz) or tar; local, s3:// or https://.",
)  # fmt: skip


DRY = click.option("--dry-run", is_flag=True, help="Only estimate the work, its time and its size, and write nothing.")

EVERY = "*"
RETRY = click.option(
    "--retry-failed", is_flag=False, flag_value=EVERY, metavar="[ERROR_TYPE]",
    help="Also process failed recordings again, or only those with this type of error. Give it after RECIPE.",
)  # fmt: skip


class Output:
    """The results of a command, printed as text at once or collected into one JSON document."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self.quiet, self.as_json, self.stdout = quiet, as_json, sys.stdout
        self.results: dict[str, Any] = {}

    def show(self, name: str, value: Any, text: str) -> None:
        self.results[name] = value
        if not (self.quiet or self.as_json):
            click.echo(printable(text), self.stdout)

    def close(self) -> None:
        if self.as_json:
            click.echo(to_json(self.results, indent=1), self.stdout)


@contextmanager
def open_run(
    recipe: str,
    lake: str,
    overrides: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    inputs: tuple[str, ...] = (),
    measures: bool = False,
    retry_failed: str | None = None,
    **engine: Any,
) -> Iterator[tuple[Any, Output]]:
    """Open a Run and the Output of its results. Imports happen here, so that --help answers at once.

    Raises an error for a missing package before anything is done: for `inputs`, and for the stages if the command
    `measures`.
    """
    from manifests.existing import holds_lake
    from pipelines.progress.watch import Watch
    from pipelines.run import Run
    from pipelines.units import extras, resources

    chosen = engine_of(**engine)
    loaded = recipe_of(recipe, overrides)
    extras.check(loaded, chosen, [lake, *inputs], measures)
    if measures:
        resources.check_devices(loaded, chosen)
        with redirect_stdout(sys.stderr):  # Ray prints to stdout, where results go
            chosen.connect()
    opened = open_lake(lake, loaded.storage, may_be_new=bool(inputs))
    is_new = not holds_lake(opened)
    opened.sweep()
    curate.finish_merge(opened)
    output = Output(quiet, as_json)
    watch = Watch(opened.storage, shlex.join(["speechmill", *public_command(sys.argv[1:])]), loaded.resolved, quiet)
    watch.results = output.results
    # Libraries print to stdout too, where results go: Ray reports dead workers and nodes until it is closed.
    with redirect_stdout(sys.stderr), closing(chosen), watch:
        if is_new:
            watch.print(f"new lake at {opened.storage.root}")
        for note in resources.notes(loaded, chosen, measures):
            watch.print(f"note: {note}")
        yield Run(loaded, opened, watch, chosen, retry_of(retry_failed)), output
    output.results["run"] = watch.prefix
    output.close()


def retry_of(error_type: str | None) -> Retry | None:
    from pipelines.units.pending import Retry

    return None if error_type is None else Retry(None if error_type == EVERY else error_type)


def recipe_of(recipe: str, overrides: tuple[str, ...]) -> Recipe:
    from pipelines.recipes import recipe as recipes

    return recipes.load(recipe, overrides)


def open_lake(lake: str, config: StorageConfig | None = None, may_be_new: bool = False) -> Lake:
    """The lake of that name. Raises SpeechmillError where there is none, unless it `may_be_new`."""
    from manifests.existing import NoLakeError, check_lake
    from manifests.lake import Lake

    try:
        opened = Lake.at(lake, config)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--lake") from error
    if not may_be_new:
        try:
            check_lake(opened, lake)
        except NoLakeError as error:
            raise SpeechmillError(str(error), error.remedy) from error
    return opened


def engine_of(engine: str, workers: str | None, ray_address: str | None, beam_options: tuple[str, ...]) -> Engine:
    """The engine with its options; '4' or '2..16' are least and most workers."""
    from pipelines.units.engines import Engine

    least, _, most = (workers or "1").partition("..")
    try:
        counts = int(least), int(most or least)
    except ValueError:
        counts = 0, 0
    if not 1 <= counts[0] <= counts[1]:
        raise click.BadParameter(f"{workers!r} is neither a number nor MIN..MAX", param_hint="--workers")
    return Engine(engine, counts if workers else None, ray_address, beam_options)
