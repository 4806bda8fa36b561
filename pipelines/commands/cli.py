"""The command line. Exit codes: 0 done, 1 stopped, 2 wrong options, 3 verify found a difference, 130 interrupted."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from manifests.commands.cli import manifest
from manifests.commands.options import JSON, WIDE, choice_options
from manifests.output import counted, say
from manifests.version import version
from pipelines.commands import curate, inspect
from pipelines.commands.completion import completion
from pipelines.commands.config import config
from pipelines.commands.datasets import datasets
from pipelines.commands.doctor import doctor
from pipelines.commands.encoder import encoder_group
from pipelines.commands.endings import end
from pipelines.commands.exchange import convert, validate
from pipelines.commands.generate import generate
from pipelines.commands.models import models
from pipelines.commands.options import (
    DRY,
    INPUTS,
    RETRY,
    Output,
    engine_of,
    open_lake,
    open_run,
    options,
    recipe_of,
    retry_of,
)
from pipelines.commands.pjsd import pjsd
from pipelines.commands.recipe import recipe_group
from pipelines.commands.tokens import tokens
from pipelines.simulate.cli import simulate
from studies import planning
from studies.cli import study

if TYPE_CHECKING:
    from pipelines.inputs.packing import Ingested
    from pipelines.run import Run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), prog_name="speechmill")
def cli() -> None:
    """Turn conversational recordings into sharded datasets, with every token accounted for."""


for command in (convert, validate, inspect.clip, inspect.play, inspect.spectrogram):
    manifest.add_command(command)
study.add_command(pjsd)
study.add_command(generate)
for command in (
    manifest, completion, config, datasets, encoder_group, doctor, models, recipe_group, simulate, study, tokens,
    *curate.COMMANDS,
):  # fmt: skip
    cli.add_command(command)


@cli.command()
@options
@RETRY
@INPUTS
@DRY
@click.option(
    "--watch", "every_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Repeat the run every so many seconds, with new recordings, until Ctrl-C.",
)  # fmt: skip
def run(inputs: tuple[str, ...], dry_run: bool, every_s: float | None, **settings: Any) -> None:
    """Ingest, annotate, select and encode, as RECIPE says: a shipped name or a TOML file."""
    if dry_run:
        print_plan(["ingest", "annotate", "select", "encode"], inputs, **settings)
        return
    with open_run(**settings, inputs=inputs, measures=True) as (work, output):

        def others() -> None:
            do_annotate(work, output)
            do_select(work, output)
            check_room(work)
            do_encode(work, output)

        if every_s is None:
            do_ingest(work, output, inputs)
            others()
        else:
            from pipelines.commands import rounds

            rounds.repeat(work, lambda: do_ingest(work, output, inputs), others, every_s, work.watch.print)
        print_next_steps(work, output, settings)


@cli.command()
@options
@INPUTS
def ingest(inputs: tuple[str, ...], **settings: Any) -> None:
    """Add recordings to the lake: hash their bytes and read their headers, without decoding."""
    with open_run(**settings, inputs=inputs) as (work, output):
        do_ingest(work, output, inputs)


@cli.command()
@options
@RETRY
@DRY
def annotate(dry_run: bool, **settings: Any) -> None:
    """Measure every recording that has not been measured with these settings."""
    if dry_run:
        print_plan(["annotate"], **settings)
        return
    with open_run(**settings, measures=True) as (work, output):
        do_annotate(work, output)


@cli.command()
@options
@DRY
def select(dry_run: bool, **settings: Any) -> None:
    """Apply the recipe's rules to the measures and print the funnel; no sound is decoded."""
    if dry_run:
        print_plan(["select"], **settings)
        return
    with open_run(**settings) as (work, output):
        do_select(work, output)


@cli.command()
@options
@RETRY
@DRY
def encode(dry_run: bool, **settings: Any) -> None:
    """Encode the selected windows into shards and print the ledger."""
    if dry_run:
        print_plan(["encode"], **settings)
        return
    with open_run(**settings) as (work, output):
        check_room(work)
        do_encode(work, output)
        print_next_steps(work, output, settings)


def print_plan(
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
    """Print what these steps would do. Errors in the recipe or the options are raised as by the steps themselves."""
    from pipelines.commands.dry_run import DryRun
    from pipelines.units import extras, resources

    chosen, loaded, output = engine_of(**engine), recipe_of(recipe, overrides), Output(quiet, as_json)
    measures = "annotate" in steps
    extras.check(loaded, chosen, [lake, *inputs], measures)
    if measures:
        resources.check_devices(loaded, chosen)
    dry = DryRun(loaded, open_lake(lake, loaded.storage, may_be_new=bool(inputs)), chosen, retry_of(retry_failed))
    for name, found in dry.steps(steps, inputs).items():
        output.show(name, {key: value for key, value in found.items() if key != "text"}, found["text"])
    for note in resources.notes(loaded, chosen, measures):
        output.show("notes", [*output.results.get("notes", []), note], f"note: {note}")
    output.show("dry_run", True, "dry run: nothing was written")
    output.close()


def do_ingest(work: Run, output: Output, inputs: tuple[str, ...]) -> Ingested:
    found = work.ingest(inputs)
    output.show("ingest", dataclasses.asdict(found), str(found))
    return found


def do_annotate(work: Run, output: Output) -> None:
    for step in work.annotate():
        text = (
            f"{step.name}: {counted(step.recordings, 'recording')}, {step.done_s / 3600:.3f} h, {step.failed:,} failed"
        )
        reasons = [f"  {count:,} {reason}" for reason, count in step.reasons.most_common(5)]
        output.show(step.name, step.summary(), "\n".join([text, *reasons]))


def do_select(work: Run, output: Output) -> None:
    from pipelines.commands.next_steps import nothing_kept

    funnel = work.select()
    output.show("select", funnel.as_dict(), funnel.render())
    if reason := nothing_kept(funnel, work.selection()):
        output.results["warning"] = reason
        work.watch.warn(reason)


def check_room(work: Run) -> None:
    """Raise SpeechmillError where the features of the selected windows clearly do not fit on the disk."""
    from pipelines.units.resources import check_room_for_features

    datasets = {dataset.name: config for dataset, config in work.datasets()}
    check_room_for_features(work.lake, datasets, work.recipe.shard_s, work.selection().name, work.engine.max_workers())


def do_encode(work: Run, output: Output) -> None:
    from manifests import ledger

    rows: list[dict[str, Any]] = []
    datasets: list[dict[str, Any]] = []
    for made in work.encode():
        number = made.version.version
        text = f"datasets/{made.dataset}: version {number}"
        if number == made.versions_before:
            text += ", which holds all that is selected"
        table = work.lake.read(f"datasets/{made.dataset}/ledger.parquet")
        datasets.append({"name": made.dataset, "version": number})
        rows += table.to_pylist()
        output.show("datasets", datasets, text)
        output.show("encode", rows, ledger.render(table, work.recipe.encode.patch))


def print_next_steps(work: Run, output: Output, settings: Mapping[str, Any]) -> None:
    """Print the folder of the dataset, how long the run took, and the commands that show and check the dataset."""
    from pipelines.commands.next_steps import next_commands
    from pipelines.progress.watch import clock

    seconds, commands = work.watch.wall_s, next_commands(settings["recipe"], settings["lake"], settings["overrides"])
    folders = [f"{settings['lake'].rstrip('/')}/datasets/{made['name']}" for made in output.results["datasets"]]
    for made, folder in zip(output.results["datasets"], folders, strict=True):
        made |= {"folder": folder, "wall_s": seconds, "next": commands}
    if not output.as_json:
        work.watch.print(f"dataset: {', '.join(folders)}, after {clock(seconds)}")
        for command in commands:
            work.watch.print(f"next: {command}")
        if "warning" in output.results:  # it was printed earlier and has scrolled away
            work.watch.print(f"warning: the dataset is empty: {output.results['warning']}")


@manifest.command()
@choice_options
@WIDE
@JSON
@click.argument("one")
@click.argument("two")
def diff(one: str, two: str, as_json: bool, **named: Any) -> None:
    """Print what changed, and which rule caused it.

    Compares two lakes, two selections or two recipes (shipped ones by name). --selection, --dataset and --stage apply
    to both; LAKE/selections/NAME names a selection of one.
    """
    from manifests.commands import diff as differing
    from manifests.commands import render, terminal
    from pipelines.recipes.recipe import path_of

    found = differing.diff(*(str(path_of(name) or name) for name in (one, two)), **named)
    terminal.as_json(found) if as_json else render.difference(found)


@cli.command()
@click.argument("lake")
@choice_options
@click.option(
    "-o", "--output", metavar="FILE", help="File to write. The default is <name>-report.html in the current folder."
)
@click.option("--samples", type=click.IntRange(0), default=40, show_default=True, help="Recordings to browse.")
@click.option("--no-audio", is_flag=True, help="Read no sound: the report has no excerpts, waveforms or mel pictures.")
@click.option(
    "--roundtrips", type=click.IntRange(0), default=2, show_default=True,
    help="Kept recordings to play decoded from their features, too.",
)  # fmt: skip
def report(lake: str, **settings: Any) -> None:
    """Write a report on LAKE as one HTML file that loads nothing else."""
    from pipelines.commands.report import report_lake

    path, size = report_lake(open_lake(lake), **settings)
    say(f"{path}: {size / 1e6:.1f} MB")


def _reach(context: click.Context, parameter: click.Parameter, recipe: str | None) -> None:
    if recipe:
        from manifests.storage import use_storage_config

        context.with_resource(use_storage_config(recipe_of(recipe, ()).storage))


REACHED = click.Option(
    ["--recipe"], metavar="RECIPE", callback=_reach, expose_value=False,
    help="Recipe whose [storage] says how to reach the lake and its recordings.",
)  # fmt: skip
"""For commands that take no recipe: a lake does not contain the settings by which it is reached."""
for command in [
    *manifest.commands.values(),
    *datasets.commands.values(),
    *planning.COMMANDS,
    report,
    doctor,
    curate.label,
    curate.remove,
    curate.merge,
]:
    command.params.append(REACHED)


def main() -> None:
    """Entry point."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except (Exception, KeyboardInterrupt) as error:
        end(error)
