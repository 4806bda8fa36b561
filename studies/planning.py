"""`speechmill study subset | leaks | sample | cost`: plan a study. The commands import what they need when they run."""

from __future__ import annotations

import sys
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import click

from manifests.commands.options import JSON, WIDE, complete_folders
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    from manifests.lake import Lake


def _columns(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Parse names of ledger columns, given in several options or separated by commas."""
    from manifests.ledger import GROUP

    names = tuple(dict.fromkeys(name.strip() for text in values for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in GROUP[1:]]:
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(GROUP[1:])}")
    return names


def whole_number(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Parse a whole number above 0, such as 300000000, 300_000_000 or 3e8."""
    if text is None:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(0)
    if not value.is_finite() or value != value.to_integral_value() or not 0 < value <= 10**18:
        raise click.BadParameter(f"{text!r} is not a whole number from 1 to 10^18")
    return int(value)


def _weights(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Parse NAME=NUMBER options to weights by the name of the stratum, which may contain '='."""
    weight_of: dict[str, float] = {}
    for text in values:
        name, _, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if not name or not 0 <= weight < float("inf") or name in weight_of:
            raise click.BadParameter(f"{text!r}: write VALUE=NUMBER, each value once, the number 0 or more")
        weight_of[name] = weight
    return weight_of


def _lake(name: str, dataset: str | None) -> tuple[Lake, str]:
    """Open a lake. Returns it with the name of `dataset` or, by default, of its newest dataset."""
    from manifests.choice import choose
    from manifests.commands.targets import lake_of

    lake = lake_of(name)
    chosen = dataset or choose(lake).dataset
    if chosen is None:
        raise SpeechmillError(f"no dataset in {name}", "run `speechmill encode` first")
    return lake, chosen


DATASET = click.option(
    "--dataset", metavar="NAME", shell_complete=complete_folders("datasets"),
    help="Dataset of LAKE; by default the newest.",
)  # fmt: skip


CONFIDENCE = click.option(
    "--confidence", type=click.FloatRange(0.5, 0.9999), default=0.95, show_default=True,
    help="Confidence of the intervals.",
)  # fmt: skip


@click.command()
@click.argument("lake", type=click.Path())
@click.option(
    "-o", "--output", required=True, metavar="FILE", help="File to write the subset to; its name ends in .parquet."
)
@click.option(
    "--budget", callback=whole_number, metavar="TOKENS",
    help="Largest number of tokens over all tracks, such as 300000000 or 3e8; by default as many as there are.",
)  # fmt: skip
@DATASET
@click.option("--version", type=click.IntRange(1), help="Version of the dataset; by default the newest.")
@click.option("--split", "splits", multiple=True, default=["train"], show_default=True, help="Split to select from.")
@click.option("--tracks", type=click.IntRange(1), help="Only windows with this number of tracks.")
@click.option("--patch", type=click.IntRange(1, 6), default=1, show_default=True, help="Frames per token.")
@click.option("--no-context", is_flag=True, help="Only count the tokens of continuations.")
@click.option(
    "--by", callback=_columns, multiple=True, metavar="A,B,...",
    help="Columns to stratify by: language, num_speakers or source. Each value has its share of the split.",
)  # fmt: skip
@click.option(
    "--weight", "weights", callback=_weights, multiple=True, metavar="VALUE=NUMBER",
    help="With --by, give each value a share in proportion to its number; other values are left out.",
)  # fmt: skip
@click.option(
    "--containing", metavar="FILE", help="A subset, which may be of an older version, that the new one must contain."
)
@WIDE
@JSON
def subset(
    lake: str,
    output: str,
    budget: int | None,
    dataset: str | None,
    version: int | None,
    splits: tuple[str, ...],
    tracks: int | None,
    patch: int,
    no_context: bool,
    by: tuple[str, ...],
    weights: dict[str, float],
    containing: str | None,
    as_json: bool,
) -> None:
    """Select windows of a dataset for a budget of tokens, and write their list to a file.

    The subset consists of the first shards of the dataset, and of a part of the last one. With --by, each group has its
    share in it. A smaller subset is part of a larger one. docs/studies.md describes how to read a subset.
    """
    from manifests.commands import terminal
    from manifests.subsets import About, Subset, version_of
    from studies import subset as cutting

    if weights and not by:
        raise click.UsageError("--weight needs --by, which names the column of its values")
    if not output.endswith(".parquet"):
        raise click.BadParameter("name a file that ends in .parquet", param_hint="--output")
    opened, name = _lake(lake, dataset)
    number = version_of(opened, name, version)
    about = About(name, number, tuple(dict.fromkeys(splits)), tracks, patch, not no_context, budget, by)
    contained = Subset.read(containing) if containing else None
    selected, strata = cutting.cut(opened, about, weights or None, contained)
    selected.write(output)
    document = {"file": output, **cutting.describe(selected, strata)}
    terminal.as_json(document) if as_json else cutting.render(document)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="A [B]...")
@click.option("--lake", metavar="LAKE", help="The lake with the datasets of subsets, if it has moved.")
@click.option(
    "--show", type=click.IntRange(0), default=20, show_default=True, help="Number of leaks of each kind to list."
)
@click.option(
    "--share", type=click.FloatRange(0, 1, min_open=True), default=0.2, show_default=True,
    help="A recording is a leak if a recording on another side has at least this share of its sound.",
)  # fmt: skip
@WIDE
@JSON
def leaks(names: tuple[str, ...], lake: str | None, show: int, share: float, as_json: bool) -> None:
    """Find recordings that two sides, such as training and test data, have in common.

    With one argument, the sides are the splits of A. With several, each argument is a side: a lake (its newest
    dataset), LAKE/datasets/NAME, LAKE/selections/NAME, a split of these (.../train), or the file of a subset. Bytes,
    names, samples and sound of recordings are compared. The exit code is 3 if there are leaks.
    """
    from manifests.commands import terminal
    from studies import leaks as comparing

    document = comparing.leaks(comparing.sides(names, lake), show, share)
    terminal.as_json(document) if as_json else comparing.render(document)
    if any(document["counts"].values()):
        sys.exit(3)


def _show_prices(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from studies.prices import example_table

        click.echo(example_table(), nl=False)
        ctx.exit()


@click.command()
@click.argument("lake", type=click.Path())
@click.option(
    "--hours", type=click.FloatRange(min=0, max=1e12, min_open=True), required=True, help="Hours of sound to process."
)
@click.option(
    "--prices", metavar="FILE", help="TOML file with your prices. The default is a table of invented example prices."
)
@click.option(
    "--show-prices", is_flag=True, is_eager=True, expose_value=False, callback=_show_prices,
    help="Print the table of example prices as a template for your own, and exit.",
)  # fmt: skip
@click.option(
    "--run", "runs", multiple=True, metavar="NAME", help="A folder in LAKE/runs with the measurements to use."
)
@click.option("--machine", metavar="NAME", help="Machine for all steps; by default the cheapest for each.")
@click.option(
    "--days", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True,
    help="Longest time for each step, from which the number of machines follows.",
)  # fmt: skip
@CONFIDENCE
@WIDE
@JSON
def cost(
    lake: str,
    hours: float,
    prices: str | None,
    runs: tuple[str, ...],
    machine: str | None,
    days: float,
    confidence: float,
    as_json: bool,
) -> None:
    """Estimate time, resources and cost of processing a number of hours, from a run over a sample.

    LAKE has the sample. The CPU and GPU seconds, bytes and memory are those of the newest run over it and of other
    runs with the same recipe. A table has the prices of machines, storage and transfer.
    """
    from manifests.commands import terminal
    from manifests.commands.targets import lake_of
    from studies import cost as costing
    from studies.prices import load
    from studies.usage import sample_of

    table = load(prices)
    bill = costing.cost(sample_of(lake_of(lake), runs), table, hours, days, confidence, machine)
    terminal.as_json(bill) if as_json else costing.render(bill)


@click.command()
@click.argument("lake", type=click.Path(), required=False, metavar="[LAKE]")
@click.option("--by", metavar="COLUMN", help="Group by a column such as language, or by an SQL expression.")
@click.option("--where", metavar="CONDITION", help="One group, by an SQL condition such as dnsmos_ovrl > 3.")
@click.option(
    "--view", metavar="VIEW",
    help="Table of the pilot whose hours are counted: recordings (the default), windows, or another table with the "
    "columns recording_id and duration_s.",
)  # fmt: skip
@click.option(
    "--margin", type=click.FloatRange(0, 1, min_open=True), default=0.01, show_default=True,
    help="Largest error of the share of the hours, to each side.",
)  # fmt: skip
@click.option("--relative", is_flag=True, help="--margin is a share of the hours of the group, not of all hours.")
@click.option(
    "--hours", type=click.FloatRange(min=0, max=1e12, min_open=True),
    help="Hours of all recordings to draw from; by default infinitely many.",
)  # fmt: skip
@click.option(
    "--share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.5, show_default=True,
    help="Without LAKE: expected share of the group in the hours; a half is the worst case.",
)  # fmt: skip
@click.option(
    "--mean-minutes", type=click.FloatRange(min=0, max=1e6, min_open=True), default=30.0, show_default=True,
    help="Without LAKE: mean length of a recording.",
)  # fmt: skip
@click.option(
    "--variation", type=click.FloatRange(0, 100), default=1.0, show_default=True,
    help="Without LAKE: standard deviation of the lengths over their mean.",
)  # fmt: skip
@CONFIDENCE
@WIDE
@JSON
def sample(
    lake: str | None,
    by: str | None,
    where: str | None,
    view: str | None,
    margin: float,
    relative: bool,
    hours: float | None,
    share: float,
    mean_minutes: float,
    variation: float,
    confidence: float,
    as_json: bool,
) -> None:
    """Compute the number of recordings to annotate in order to estimate the hours of a group.

    LAKE is a pilot, whose measurements give the variance between recordings. Without it, the worst case is assumed.
    """
    from manifests.commands import terminal
    from manifests.commands.mistakes import existing_view
    from manifests.commands.options import open_target
    from manifests.view_columns import parts_needed
    from studies import sample as sampling

    if (lake is None) != (by is None and where is None) or (by is not None and where is not None):
        raise click.UsageError("give LAKE with --by or with --where, or none of them")
    if lake is None:
        plan = sampling.worst_case(margin, relative, confidence, share, 60 * mean_minutes, variation, hours)
    else:
        target = open_target(lake, None, None, {})
        view = existing_view(target, view)
        connection = target.connect(parts_needed(f"{by or where} duration_s FROM {view}"))
        groups = by or sampling.groups_of_condition(str(where))
        plan = sampling.from_pilot(connection, view, groups, margin, relative, confidence, hours, where)
    plan = {"confidence": confidence, "margin": margin, "relative": relative, **plan}
    terminal.as_json(plan) if as_json else sampling.render(plan)


COMMANDS = (subset, leaks, sample, cost)
