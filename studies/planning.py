"""`speechmill study subset | leaks | sample | cost`: plan a study, and what it costs. Imports happen inside."""

from __future__ import annotations

import sys
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import click

from manifests.look.options import JSON, WIDE, folders_of
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    from manifests.lake import Lake


def _columns(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Columns of the ledger, given one by one or between commas."""
    from manifests.ledger import GROUP

    found = tuple(dict.fromkeys(name.strip() for text in values for name in text.split(",") if name.strip()))
    if unknown := [name for name in found if name not in GROUP[1:]]:
        raise click.BadParameter(f"{', '.join(unknown)}: choose of {', '.join(GROUP[1:])}")
    return found


def _whole_number(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """A whole number above 0 as people write large ones: 300000000, 300_000_000 or 3e8."""
    if text is None:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(0)
    if not value.is_finite() or value != value.to_integral_value() or not 0 < value <= 10**18:
        raise click.BadParameter(f"{text!r} is no whole number from 1 to 10^18")
    return int(value)


def _weights(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Weights by the name of a stratum, which may hold '=' itself."""
    found: dict[str, float] = {}
    for text in values:
        name, _, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if not name or not 0 <= weight < float("inf") or name in found:
            raise click.BadParameter(f"{text!r}: write VALUE=NUMBER, each value once, the number 0 or more")
        found[name] = weight
    return found


def _lake(name: str, dataset: str | None) -> tuple[Lake, str]:
    """A lake, and the name of a dataset: the one that is given, else the newest of the lake."""
    from manifests.choice import choose
    from manifests.look.targets import lake_of

    lake = lake_of(name)
    found = dataset or choose(lake).dataset
    if found is None:
        raise SpeechmillError(f"no dataset in {name}", "run `speechmill encode` first")
    return lake, found


DATASET = click.option(
    "--dataset", metavar="NAME", shell_complete=folders_of("datasets"),
    help="Dataset of LAKE; the newest if not given.",
)  # fmt: skip


CONFIDENCE = click.option(
    "--confidence", type=click.FloatRange(0.5, 0.9999), default=0.95, show_default=True,
    help="How often an interval is to hold the truth.",
)  # fmt: skip


@click.command()
@click.argument("lake", type=click.Path())
@click.option("-o", "--output", required=True, metavar="FILE", help="Where to write the subset: a .parquet file.")
@click.option(
    "--budget", callback=_whole_number, metavar="TOKENS",
    help="Most tokens over all tracks, as 300000000 or 3e8; if not given, as many as there are.",
)  # fmt: skip
@DATASET
@click.option("--version", type=click.IntRange(1), help="A version of the dataset; the newest if not given.")
@click.option("--split", "splits", multiple=True, default=["train"], show_default=True, help="Split to take.")
@click.option("--tracks", type=click.IntRange(1), help="Take windows with this number of tracks only.")
@click.option("--patch", type=click.IntRange(1, 6), default=1, show_default=True, help="Frames a token.")
@click.option("--no-context", is_flag=True, help="Count tokens of continuations only.")
@click.option(
    "--by", callback=_columns, multiple=True, metavar="A,B,...",
    help="Give each language, num_speakers or source the share that it has in the split.",
)  # fmt: skip
@click.option(
    "--weight", "weights", callback=_weights, multiple=True, metavar="VALUE=NUMBER",
    help="With --by, give each value a share in proportion to its number; values that are not named get none.",
)  # fmt: skip
@click.option(
    "--containing", metavar="FILE", help="A subset, maybe of an older version, that is to be a part of the new one."
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
    """Write which windows of a dataset make a budget of tokens.

    The first shards of the dataset, the last one cut at a window, or with --by a row of windows in which each group has
    its share. Subsets of smaller budgets are parts of those of larger ones. docs/studies.md says how readers take it.
    """
    from manifests.look import terminal
    from manifests.subsets import About, Subset, version_of
    from studies import subset as cutting

    if weights and not by:
        raise click.UsageError("--weight needs --by, which says what its values are of")
    if not output.endswith(".parquet"):
        raise click.BadParameter("name a file that ends in .parquet", param_hint="--output")
    opened, name = _lake(lake, dataset)
    number = version_of(opened, name, version)
    about = About(name, number, tuple(dict.fromkeys(splits)), tracks, patch, not no_context, budget, by)
    held = Subset.read(containing) if containing else None
    made, strata = cutting.cut(opened, about, weights or None, held)
    made.write(output)
    found = {"file": output, **cutting.told(made, strata)}
    terminal.as_json(found) if as_json else cutting.render(found)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="A [B]...")
@click.option("--lake", metavar="LAKE", help="Where the datasets of subsets are now, if that has changed.")
@click.option(
    "--show", type=click.IntRange(0), default=20, show_default=True, help="How many of each kind to name; all count."
)
@click.option(
    "--share", type=click.FloatRange(0, 1, min_open=True), default=0.2, show_default=True,
    help="Share of a recording's sound that makes a leak where one on another side holds it.",
)  # fmt: skip
@WIDE
@JSON
def leaks(names: tuple[str, ...], lake: str | None, show: int, share: float, as_json: bool) -> None:
    """Look for recordings on two sides, by their bytes, names, samples and sound.

    The sides are the splits of A, or A, B and so on, each a lake (its newest dataset), LAKE/datasets/NAME,
    LAKE/selections/NAME, one split of these (.../train), or the file of a subset. Exit code 3 where something is found.
    """
    from manifests.look import terminal
    from studies import leaks as comparing

    found = comparing.leaks(comparing.sides(names, lake), show, share)
    terminal.as_json(found) if as_json else comparing.render(found)
    if any(found["counts"].values()):
        sys.exit(3)


def _show_prices(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from studies.prices import shipped

        click.echo(shipped(), nl=False)
        ctx.exit()


@click.command()
@click.argument("lake", type=click.Path())
@click.option(
    "--hours", type=click.FloatRange(min=0, max=1e12, min_open=True), required=True, help="Hours of sound to be milled."
)
@click.option("--prices", metavar="FILE", help="Your price table, TOML; made-up example prices if not given.")
@click.option(
    "--show-prices", is_flag=True, is_eager=True, expose_value=False, callback=_show_prices,
    help="Print the table of example prices, to begin your own with, and stop.",
)  # fmt: skip
@click.option("--run", "runs", multiple=True, metavar="NAME", help="A folder of LAKE/runs that measured the sample.")
@click.option("--machine", metavar="NAME", help="A machine of the table for all steps; else the cheapest for each.")
@click.option(
    "--days", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True,
    help="How long each step may take, which says how many machines it needs.",
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
    """Tell what milling so many hours takes and costs, from a run over a sample.

    LAKE holds the sample; the newest run over it, with those of the same recipe, has measured CPU and GPU seconds,
    bytes and memory. Machines, storage and transfer are priced by a table.
    """
    from manifests.look import terminal
    from manifests.look.targets import lake_of
    from studies import cost as costing
    from studies.prices import load

    priced = load(prices)
    found = costing.cost(costing.sample_of(lake_of(lake), runs), priced, hours, days, confidence, machine)
    terminal.as_json(found) if as_json else costing.render(found)


@click.command()
@click.argument("lake", type=click.Path(), required=False, metavar="[LAKE]")
@click.option("--by", metavar="COLUMN", help="Each value of a column, such as language or num_speakers, or SQL.")
@click.option("--where", metavar="CONDITION", help="What meets an SQL condition, such as dnsmos_ovrl > 3.")
@click.option(
    "--view", type=click.Choice(["annotations", "windows"]), default="annotations", show_default=True,
    help="Whose hours: of recordings, or of the windows of a selection.",
)  # fmt: skip
@click.option(
    "--margin", type=click.FloatRange(0, 1, min_open=True), default=0.01, show_default=True,
    help="How far the share of the hours may be off, to each side.",
)  # fmt: skip
@click.option("--relative", is_flag=True, help="--margin is a part of the hours of the group, not of all hours.")
@click.option(
    "--hours", type=click.FloatRange(min=0, max=1e12, min_open=True),
    help="Hours of all the recordings to draw from; if not given, very many.",
)  # fmt: skip
@click.option(
    "--share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.5, show_default=True,
    help="Without LAKE: the share of the hours that is expected; a half is the worst case.",
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
    view: str,
    margin: float,
    relative: bool,
    hours: float | None,
    share: float,
    mean_minutes: float,
    variation: float,
    confidence: float,
    as_json: bool,
) -> None:
    """Tell how many recordings to draw to know the hours of a group.

    LAKE is the pilot: what it has measured tells how recordings differ. Without it the worst case is planned for.
    """
    from manifests.look import terminal
    from manifests.look.options import opened
    from manifests.views import stages_of
    from studies import sample as sampling

    if (lake is None) != (by is None and where is None) or (by is not None and where is not None):
        raise click.UsageError("give LAKE with --by or with --where, or none of them")
    if lake is None:
        found = sampling.worst_case(margin, relative, confidence, share, 60 * mean_minutes, variation, hours)
    else:
        connection = opened(lake, None, None, {}).connect(stages_of(f"{by or where} duration_s"))
        groups = by or sampling.meeting(str(where))
        found = sampling.from_pilot(connection, view, groups, margin, relative, confidence, hours, where)
    found = {"confidence": confidence, "margin": margin, "relative": relative, **found}
    terminal.as_json(found) if as_json else sampling.render(found)


COMMANDS = (subset, leaks, sample, cost)
