"""The command line. Exit codes: 0 done, 1 stopped, 2 wrong options, 3 verify found a difference, 130 interrupted."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

import pipelines.inspect  # noqa: F401 (adds clip, play and spectrogram)
from manifests.exchange.cli import SOUND_CHECKS
from manifests.look.cli import manifest
from manifests.look.options import JSON, WIDE, choosing
from manifests.output import one_line, printable, say, to_json
from manifests.version import version
from pipelines import curate
from pipelines.completion import completion
from pipelines.config import config
from pipelines.datasets import datasets
from pipelines.errors import SpeechmillError
from pipelines.models_cli import models
from pipelines.say import public_command
from pipelines.told import end

if TYPE_CHECKING:
    from manifests.exchange.validate import Problem
    from manifests.lake import Lake
    from manifests.storage import StorageConfig
    from pipelines.annotate import Retry
    from pipelines.engines import Engine
    from pipelines.packing import Ingested
    from pipelines.recipe import Recipe
    from pipelines.run import Run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), prog_name="speechmill")
def cli() -> None:
    """Mill conversational recordings into sharded datasets, with every token accounted for."""


def _check_sources(lake: Lake) -> Iterator[Problem]:
    from pipelines.check import check_sources

    return check_sources(lake)


SOUND_CHECKS.append(_check_sources)
cli.add_command(manifest)
cli.add_command(completion)
cli.add_command(config)
cli.add_command(datasets)
cli.add_command(models)
cli.add_command(curate.label)
cli.add_command(curate.remove)
cli.add_command(curate.merge)


def lake_options(function: Callable[..., None]) -> Callable[..., None]:
    """What every command over a recipe and its lake takes."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables."),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe."),
        click.option(
            "--lake", required=True, metavar="FOLDER", help="Where everything is kept: a folder or s3://bucket/prefix."
        ),
        click.argument("recipe"),
    ):
        function = option(function)
    return function


def options(function: Callable[..., None]) -> Callable[..., None]:
    """What every step of a run takes."""
    for option in (
        click.argument("beam_options", nargs=-1, metavar="[-- BEAM OPTIONS]"),
        click.option("--ray-address", metavar="ADDRESS", help="A running Ray cluster; without it Ray starts here."),
        click.option("--workers", metavar="N|MIN..MAX", help="Workers: 1 by default, on Ray all that fit."),
        click.option("--engine", type=click.Choice(["local", "ray", "beam"]), default="local", show_default=True),
        lake_options,
    ):
        function = option(function)
    return function


INPUTS = click.option(
    "--in", "inputs", multiple=True, required=True, metavar="PATH",
    help="A file, folder, pattern, list (.txt), manifest (.jsonl, .jsonl.gz) or tar; local, s3:// or https://.",
)  # fmt: skip


DRY = click.option(
    "--dry-run", is_flag=True, help="Only tell what would be done, how long and how large; write nothing."
)

EVERY = "*"
RETRY = click.option(
    "--retry-failed", is_flag=False, flag_value=EVERY, metavar="[ERROR_TYPE]",
    help="Also do again what failed before, or only what failed with one type of error; give it after RECIPE.",
)  # fmt: skip


class Output:
    """What a command found: shown as text as it comes, or gathered into one JSON document."""

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
def begun(
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
    """A Run under its watch, and where its results go; imports happen here, so that --help answers at once.

    What is not installed for `inputs`, and for the stages if the command `measures`, is told before anything is done.
    """
    from manifests.existing import holds_lake
    from pipelines import ahead, extras
    from pipelines.run import Run
    from pipelines.watch import Watch

    chosen = _engine(**engine)
    loaded = _recipe(recipe, overrides)
    extras.check(loaded, chosen, [lake, *inputs], measures)
    if measures:
        ahead.check_devices(loaded, chosen)
    opened = _lake(lake, loaded.storage, may_be_new=bool(inputs))
    is_new = not holds_lake(opened)
    opened.sweep()
    curate.finish_merge(opened)
    output = Output(quiet, as_json)
    watch = Watch(opened.storage, shlex.join(["speechmill", *public_command(sys.argv[1:])]), loaded.resolved, quiet)
    watch.results = output.results
    # Libraries print to stdout too, where results go: Ray of dead workers and nodes, until it is left.
    with redirect_stdout(sys.stderr), closing(chosen), watch:
        if is_new:
            watch.print(f"new lake at {opened.storage.root}")
        for note in ahead.notes(loaded, chosen, measures):
            watch.print(f"note: {note}")
        yield Run(loaded, opened, watch, chosen, _retry(retry_failed)), output
    output.results["run"] = watch.prefix
    output.close()


def _retry(error_type: str | None) -> Retry | None:
    from pipelines.annotate import Retry

    return None if error_type is None else Retry(None if error_type == EVERY else error_type)


def _recipe(recipe: str, overrides: tuple[str, ...]) -> Recipe:
    from pipelines import recipe as recipes

    return recipes.load(recipe, overrides)


def _lake(lake: str, config: StorageConfig | None = None, may_be_new: bool = False) -> Lake:
    """The lake of that name. Raises SpeechmillError where none is there, unless it `may_be_new`."""
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


def _engine(engine: str, workers: str | None, ray_address: str | None, beam_options: tuple[str, ...]) -> Engine:
    """The engine with its options; '4' or '2..16' are least and most workers."""
    from pipelines.engines import Engine

    least, _, most = (workers or "1").partition("..")
    try:
        counts = int(least), int(most or least)
    except ValueError:
        counts = 0, 0
    if not 1 <= counts[0] <= counts[1]:
        raise click.BadParameter(f"{workers!r} is neither a number nor MIN..MAX", param_hint="--workers")
    return Engine(engine, counts if workers else None, ray_address, beam_options)


@cli.command()
@options
@RETRY
@INPUTS
@DRY
@click.option(
    "--watch", "every_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Go on: look for new recordings every so many seconds, until Ctrl-C.",
)  # fmt: skip
def run(inputs: tuple[str, ...], dry_run: bool, every_s: float | None, **settings: Any) -> None:
    """Ingest, annotate, select and encode, as RECIPE says: a shipped name or a TOML file."""
    if dry_run:
        tell(["ingest", "annotate", "select", "encode"], inputs, **settings)
        return
    with begun(**settings, inputs=inputs, measures=True) as (work, output):

        def others() -> None:
            do_annotate(work, output)
            do_select(work, output)
            check_room(work)
            do_encode(work, output)

        if every_s is None:
            do_ingest(work, output, inputs)
            others()
        else:
            from pipelines import rounds

            rounds.repeat(work, lambda: do_ingest(work, output, inputs), others, every_s, work.watch.print)
        do_tell_next(work, output, settings)


@cli.command()
@options
@INPUTS
def ingest(inputs: tuple[str, ...], **settings: Any) -> None:
    """Add recordings to the lake: probe headers, hash bytes, decode nothing."""
    with begun(**settings, inputs=inputs) as (work, output):
        do_ingest(work, output, inputs)


@cli.command()
@options
@RETRY
@DRY
def annotate(dry_run: bool, **settings: Any) -> None:
    """Measure every recording that was not measured with these settings."""
    if dry_run:
        tell(["annotate"], **settings)
        return
    with begun(**settings, measures=True) as (work, output):
        do_annotate(work, output)


@cli.command()
@options
@DRY
def select(dry_run: bool, **settings: Any) -> None:
    """Apply the recipe's rules to what was measured and print the funnel; decodes nothing."""
    if dry_run:
        tell(["select"], **settings)
        return
    with begun(**settings) as (work, output):
        do_select(work, output)


@cli.command()
@options
@RETRY
@DRY
def encode(dry_run: bool, **settings: Any) -> None:
    """Encode the selected windows into shards and print the ledger."""
    if dry_run:
        tell(["encode"], **settings)
        return
    with begun(**settings) as (work, output):
        check_room(work)
        do_encode(work, output)
        do_tell_next(work, output, settings)


def tell(
    steps: list[str],
    inputs: tuple[str, ...] = (),
    *,
    recipe: str,
    lake: str,
    overrides: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    retry_failed: str | None = None,
    **engine: Any,
) -> None:
    """Print what these steps would do, and do nothing; every mistake is told as by the steps themselves."""
    from pipelines import ahead, extras
    from pipelines.dry import DryRun

    chosen, loaded, output = _engine(**engine), _recipe(recipe, overrides), Output(quiet, as_json)
    measures = "annotate" in steps
    extras.check(loaded, chosen, [lake, *inputs], measures)
    if measures:
        ahead.check_devices(loaded, chosen)
    dry = DryRun(loaded, _lake(lake, loaded.storage, may_be_new=bool(inputs)), chosen, _retry(retry_failed))
    for name, found in dry.steps(steps, inputs).items():
        output.show(name, {key: value for key, value in found.items() if key != "text"}, found["text"])
    for note in ahead.notes(loaded, chosen, measures):
        output.show("notes", [*output.results.get("notes", []), note], f"note: {note}")
    output.show("dry_run", True, "dry run: nothing was written")
    output.close()


def do_ingest(work: Run, output: Output, inputs: tuple[str, ...]) -> Ingested:
    found = work.ingest(inputs)
    output.show("ingest", dataclasses.asdict(found), str(found))
    return found


def do_annotate(work: Run, output: Output) -> None:
    for step in work.annotate():
        text = f"{step.name}: {step.recordings} recordings, {step.done_s / 3600:.3f} h, {step.failed} failed"
        reasons = [f"  {count:,} {reason}" for reason, count in step.reasons.most_common(5)]
        output.show(step.name, step.summary(), "\n".join([text, *reasons]))


def do_select(work: Run, output: Output) -> None:
    from pipelines.after import nothing_kept

    funnel = work.select()
    output.show("select", funnel.as_dict(), funnel.render())
    if reason := nothing_kept(funnel, work.selection()):
        output.results["warning"] = reason
        work.watch.warn(reason)


def check_room(work: Run) -> None:
    """Raise SpeechmillError where the features of what is selected clearly do not fit on the disk."""
    from pipelines.ahead import check_room_for_features

    selection, dataset = work.selection().name, work.dataset().name
    check_room_for_features(work.lake, work.recipe, selection, dataset, work.engine.most_workers())


def do_encode(work: Run, output: Output) -> None:
    from manifests import ledger

    made = work.encode()
    number = made.version.version
    text = f"datasets/{made.dataset}: version {number}"
    if number == made.versions_before:
        text += ", which holds all that is selected"
    table = work.lake.read(f"datasets/{made.dataset}/ledger.parquet")
    output.show("dataset", {"name": made.dataset, "version": number}, text)
    output.show("encode", table.to_pylist(), ledger.render(table, work.recipe.encode.patch))


def do_tell_next(work: Run, output: Output, settings: Mapping[str, Any]) -> None:
    """Tell where the dataset lies, how long that took and what shows and checks it."""
    from pipelines.after import next_commands
    from pipelines.watch import clock

    made = output.results["dataset"]
    dataset, seconds = f"{settings['lake'].rstrip('/')}/datasets/{made['name']}", work.watch.wall_s
    commands = next_commands(settings["recipe"], settings["lake"], settings["overrides"])
    made |= {"folder": dataset, "wall_s": seconds, "next": commands}
    if not output.as_json:
        work.watch.print(f"dataset: {dataset}, after {clock(seconds)}")
        for command in commands:
            work.watch.print(f"next: {command}")
        if "warning" in output.results:  # the first one is a page further up
            work.watch.print(f"warning: the dataset is empty: {output.results['warning']}")


@cli.group()
def tokens() -> None:
    """The ledger of a dataset: print it, or recount it from the shards."""


DATASET = (
    click.option("--dataset", metavar="NAME", help="A dataset by its name; the newest that RECIPE made if not given."),
    click.option("--version", type=click.IntRange(1), help="A version of the dataset; the newest if not given."),
)


@tokens.command("show")
@lake_options
@DATASET[0]
@DATASET[1]
@click.option(
    "--by", "by", multiple=True, metavar="A,B,...", default=["split,language"], show_default=True,
    help="Columns to count by, of split, language, num_speakers and source: all of them together.",
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
    """Print the ledger of RECIPE's dataset."""
    from manifests import ledger
    from pipelines.dataset import dataset_of

    loaded, output = _recipe(recipe, overrides), Output(quiet, as_json)
    columns = list(dict.fromkeys(name.strip() for text in by for name in text.split(",")))
    if not set(columns) <= set(ledger.GROUP):
        raise click.BadParameter(f"{','.join(by)!r} is not a list of {', '.join(ledger.GROUP)}", param_hint="--by")
    opened = _lake(lake, loaded.storage)
    name = dataset or dataset_of(opened, loaded)
    folder = f"datasets/{name}" + (f"/versions/{version:06d}" if version else "")
    try:
        table = opened.read(f"{folder}/ledger.parquet")
    except FileNotFoundError as error:
        remedy = "`speechmill datasets list` shows which there are; `speechmill encode` finishes one"
        raise SpeechmillError(f"no {folder}/ledger.parquet in {lake}", remedy) from error
    output.show("dataset", name, f"{folder}:")
    output.show("ledger", table.to_pylist(), ledger.render(table, loaded.encode.patch, columns))
    output.close()


@tokens.command("verify")
@lake_options
@DATASET[0]
def tokens_verify(
    recipe: str, lake: str, overrides: tuple[str, ...], quiet: bool, as_json: bool, dataset: str | None
) -> None:
    """Recount RECIPE's dataset from the bytes of its shards; exit code 3 and a line for each thing that differs."""
    from manifests.verify import verify
    from pipelines.dataset import dataset_of

    loaded, output = _recipe(recipe, overrides), Output(quiet, as_json)
    opened = _lake(lake, loaded.storage)
    name = dataset or dataset_of(opened, loaded)
    problems = verify(opened, name)
    for problem in problems:
        say(one_line(str(problem)), error=True)
    output.show("problems", [dataclasses.asdict(problem) for problem in problems], "")
    wrong = any(not problem.note for problem in problems)
    if not wrong:
        output.show("verified", name, f"datasets/{name}: every shard, count and token is as recorded")
    output.close()
    if wrong:
        sys.exit(3)


@manifest.command()
@choosing
@WIDE
@JSON
@click.argument("one")
@click.argument("two")
def diff(one: str, two: str, as_json: bool, **named: Any) -> None:
    """Tell what changed, and which rule did it.

    Between two lakes, two selections or two recipes (shipped ones by name). --selection, --dataset and --stage hold
    for both; LAKE/selections/NAME names a selection of one.
    """
    from manifests.look import diff as differing
    from manifests.look import render, terminal
    from pipelines.recipe import path_of

    found = differing.diff(*(str(path_of(name) or name) for name in (one, two)), **named)
    terminal.as_json(found) if as_json else render.difference(found)


@cli.command()
@click.argument("lake")
@choosing
@click.option("-o", "--output", metavar="FILE", help="Where to write; <name>-report.html here if not given.")
@click.option("--samples", type=click.IntRange(0), default=40, show_default=True, help="Recordings to browse.")
@click.option("--no-audio", is_flag=True, help="Touch no sound: no excerpts, waveforms or mel pictures.")
def report(lake: str, **settings: Any) -> None:
    """Show LAKE as one HTML file that loads nothing."""
    from pipelines.report import report_lake

    path, size = report_lake(_lake(lake), **settings)
    say(f"{path}: {size / 1e6:.1f} MB")


def _reach(context: click.Context, parameter: click.Parameter, recipe: str | None) -> None:
    if recipe:
        from manifests.storage import reached_by

        context.with_resource(reached_by(_recipe(recipe, ()).storage))


REACHED = click.Option(
    ["--recipe"], metavar="RECIPE", callback=_reach, expose_value=False,
    help="Recipe whose [storage] tells how to reach the lake and its recordings.",
)  # fmt: skip
"""For commands over a lake alone: the lake cannot tell how it is reached."""
for command in [*manifest.commands.values(), report, curate.label, curate.remove, curate.merge]:
    command.params.append(REACHED)


def main() -> None:
    """Entry point."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except (Exception, KeyboardInterrupt) as error:
        end(error)
