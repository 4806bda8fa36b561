"""`speechmill study plan`: its options, and its output as a table, CSV or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.commands.options import JSON
from manifests.commands.options import WIDE as WIDE_TABLES

if TYPE_CHECKING:
    from studies.laws.grid import Cell, Sound

FLOP_BOUNDS = (1e9, 1e34)
MOST_VALUES = 1_000


class Numbers(click.ParamType):
    """Option type for numbers separated by commas, or LOW..HIGH:COUNT in equal ratios: '1e18,3e18', '1e18..1e21:10'."""

    name = "numbers"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        import numpy as np

        numbers: list[float] = []
        for part in value.split(","):
            try:
                ends, colon, count = part.partition(":")
                low, dots, high = ends.partition("..")
                if bool(dots) != bool(colon) or (count and not 2 <= int(count) <= MOST_VALUES):
                    raise ValueError
                numbers += np.geomspace(float(low), float(high), int(count)).tolist() if dots else [float(low)]
            except ValueError:
                self.fail(f"{part!r} is neither a number nor LOW..HIGH:COUNT", parameter, context)
        if not all(self.low <= number <= self.high for number in numbers) or len(numbers) > MOST_VALUES:
            self.fail(f"give up to {MOST_VALUES:,} numbers from {self.low:g} to {self.high:g}", parameter, context)
        return sorted(set(numbers))


class Range(click.ParamType):
    """Option type for LOW..HIGH."""

    name = "range"

    def __init__(self, whole: bool, low: float, high: float) -> None:
        self.whole, self.low, self.high = whole, low, high

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            ends = [(int if self.whole else float)(one) for one in value.split("..")]
        except ValueError:
            ends = []
        if len(ends) != 2 or not self.low <= ends[0] <= ends[1] <= self.high:
            self.fail(f"{value!r} is not LOW..HIGH within {self.low:g}..{self.high:g}", parameter, context)
        return tuple(ends)


@click.command()
@click.option(
    "--budgets", type=Numbers(*FLOP_BOUNDS), required=True, metavar="FLOP,...|LOW..HIGH:COUNT",
    help="Compute budgets, such as 1e18,1e19 or 1e18..1e21:10.",
)  # fmt: skip
@click.option("--sizes", type=Numbers(1e3, 1e16), metavar="N,...|LOW..HIGH:COUNT", help="Model sizes, in parameters.")
@click.option(
    "--aspect", type=click.FloatRange(1, 1e5), default=128.0, show_default=True,
    help="Width over depth of the family of models that is used without --sizes.",
)  # fmt: skip
@click.option(
    "--per-layer", type=click.FloatRange(0.1, 1e5), default=36.0, show_default=True,
    help="Parameters of a model of the family, over width squared times depth.",
)  # fmt: skip
@click.option(
    "--depths", type=Range(True, 1, 1000), default="2..60", show_default=True, metavar="LOW..HIGH",
    help="Depths of the family.",
)  # fmt: skip
@click.option(
    "--ratio", type=Range(False, 1e-6, 1e9), default="5..10000", show_default=True, metavar="LOW..HIGH",
    help="Only keep runs with this many tokens per parameter.",
)  # fmt: skip
@click.option("--lake", metavar="FOLDER", help="Take rates and amounts from a dataset of this lake.")
@click.option("--dataset", metavar="NAME", help="The dataset, with --lake.")
@click.option("--version", type=click.IntRange(1), help="Version of the dataset; by default the newest.")
@click.option("--split", default="train", show_default=True, metavar="NAME", help="The split to train on.")
@click.option("--encoder", metavar="NAME", help="Name of the encoder, for the record. It must be that of the dataset.")
@click.option(
    "--frame-rate", type=click.FloatRange(0.01, 1e6), metavar="HZ",
    help="Without --lake: frames per second; 80 for logmel.",
)  # fmt: skip
@click.option(
    "--dim", type=click.IntRange(1, 1_000_000), metavar="N", help="Without --lake: values per frame; 80 for logmel."
)
@click.option(
    "--patch", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="K", help="Frames per token."
)
@click.option(
    "--count", "counted", type=click.Choice(["all", "continuation"]), default="all", show_default=True,
    help="Whether D includes the tokens of the context.",
)  # fmt: skip
@click.option(
    "--context-share", type=click.FloatRange(0, 1, max_open=True), default=0.25, show_default=True,
    help="Without --lake: share of the context in a window, such as 10 s of 40 s.",
)  # fmt: skip
@click.option("--hours-held", type=click.FloatRange(1e-6, 1e12), help="Without --lake: available hours of sound.")
@click.option(
    "--batch-tokens", type=click.FloatRange(1, 1e12), default=1_048_576.0, show_default=True, help="Tokens per step."
)
@click.option(
    "--from-fit", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Choose the next runs for the law in FILE, the output of `study fit --json`.",
)  # fmt: skip
@click.option("--group", metavar="VALUE", help="With --from-fit: the group, if the fit was made with --by.")
@click.option(
    "--spend",
    type=click.FloatRange(*FLOP_BOUNDS),
    metavar="FLOP",
    help="With --from-fit: compute for all of them.",
)
@click.option("--runs", "count", type=click.IntRange(1, 1000), help="With --from-fit: largest number of runs.")
@click.option(
    "--aim", type=click.Choice(["exponent", "optimum", "all"]), default="exponent", show_default=True,
    help="With --from-fit: what to narrow: the exponent of D*, N* at the largest budget, or all constants together.",
)  # fmt: skip
@click.option(
    "--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the runs there."
)
@WIDE_TABLES
@JSON
def plan(
    budgets: list[float],
    sizes: list[float] | None,
    aspect: float,
    per_layer: float,
    depths: tuple[int, int],
    ratio: tuple[float, float],
    batch_tokens: float,
    from_fit: Path | None,
    group: str | None,
    spend: float | None,
    count: int | None,
    aim: str,
    csv_file: Path | None,
    as_json: bool,
    **sound_options: Any,
) -> None:
    """Plan the runs of a scaling study: an isoFLOP grid, or the next runs for a law.

    C = 6 N D. For each run, the plan gives the tokens per parameter, steps, hours of sound, gigabytes of features and
    epochs over a dataset. docs/studies.md has formulas, rules and defaults.
    """
    from manifests.commands import terminal
    from studies.laws import grid

    if from_fit and spend is None:
        raise click.UsageError("--from-fit needs --spend, the compute for all next runs together")
    if not from_fit and (spend is not None or count is not None or group is not None):
        raise click.UsageError("--spend, --runs and --group need --from-fit")
    family = grid.Family(aspect, per_layer)
    sound = _sound(**sound_options)
    cells = grid.isoflop_grid(budgets, sizes, family, depths, ratio, sound, batch_tokens)
    following = None
    runs = cells
    if from_fit:
        from studies.laws import next_runs

        assert spend is not None
        previous = next_runs.read_fit(from_fit, group)
        following = next_runs.choose(previous, cells, spend, aim, count, max(budgets))
        chosen = following["runs"]
        runs = [cell for cell in cells if cell.as_dict() in chosen]
    document = {
        "encoder": sound_options["encoder"],
        "sound": vars(sound),
        "counts_context": sound_options["counted"] == "all",
        "batch_tokens": batch_tokens,
        "family": None if sizes else {"aspect": aspect, "per_layer": per_layer},
        "runs": [run.as_dict() for run in runs],
        "totals": _totals(runs),
        "next": following,
        "warnings": grid.warnings(runs, sound, whole=following is None),
    }
    if csv_file:
        _write_csv(csv_file, document["runs"])
    if as_json:
        terminal.as_json(document)
    else:
        _print_plan(document, sound)
        if csv_file:
            terminal.echo(f"written: {csv_file}")


def _sound(
    lake: str | None,
    dataset: str | None,
    version: int | None,
    split: str,
    encoder: str | None,
    frame_rate: float | None,
    dim: int | None,
    patch: int,
    counted: str,
    context_share: float,
    hours_held: float | None,
) -> Sound:
    from studies.laws import grid, held

    if lake:
        if dataset is None:
            raise click.UsageError("--lake needs --dataset: `speechmill datasets list LAKE` lists the datasets")
        if frame_rate is not None or dim is not None or hours_held is not None:
            raise click.UsageError("--frame-rate, --dim and --hours-held cannot be used with --lake")
        return held.sound_of_dataset(lake, dataset, version, split, patch, counted == "all", encoder)
    if dataset is not None or version is not None:
        raise click.UsageError("--dataset and --version need --lake")
    if frame_rate is None:
        raise click.UsageError("give --lake with --dataset, or --frame-rate (`speechmill encoder list` shows rates)")
    return grid.sound_of_rate(frame_rate, dim, patch, context_share, counted == "all", hours_held)


def _totals(runs: list[Cell]) -> dict[str, Any]:
    stored = [one.gigabytes for one in runs if one.gigabytes is not None]
    return {
        "runs": len(runs),
        "flops": sum(one.flops for one in runs),
        "most_hours": max(one.hours for one in runs),
        "most_gigabytes": max(stored) if stored else None,
    }


def _write_csv(path: Path, rows: Any) -> None:
    import csv

    from manifests.whole import whole_text

    with whole_text(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _print_plan(document: dict[str, Any], sound: Sound) -> None:
    from manifests.commands import terminal
    from studies.laws.text import digits

    kinds = "context and continuation" if document["counts_context"] else "the continuation only"
    terminal.echo(f"sound: {sound.source}; a token is {sound.patch} frame{'s' * (sound.patch != 1)}; D counts {kinds}")
    columns = ["FLOP", "depth", "width", "N", "D", "D/N", "steps", "hours", "GB", "epochs"]
    names = ["flops", "depth", "width", "params", "tokens", "tokens_per_param", "steps", "hours", "gigabytes", "epochs"]
    exact = {"depth", "steps"}
    rows = [
        [run[name] if name in exact or run[name] is None else digits(run[name]) for name in names]
        for run in document["runs"]
    ]
    empty = [index for index, name in enumerate(names) if all(run[name] is None for run in document["runs"])]
    kept = [index for index in range(len(names)) if index not in empty]
    terminal.table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])
    totals = document["totals"]
    stored = "" if totals["most_gigabytes"] is None else f" ({digits(totals['most_gigabytes'])} GB)"
    terminal.echo(
        f"{totals['runs']:,} runs, {digits(totals['flops'])} FLOP together; the longest reads "
        f"{digits(totals['most_hours'])} hours{stored}; a step is {digits(document['batch_tokens'])} tokens"
    )
    if document["next"]:
        _print_next_runs(document["next"])
    for sentence in document["warnings"]:
        terminal.echo(f"warning: {sentence}")


def _print_next_runs(found: dict[str, Any]) -> None:
    from manifests.commands import terminal
    from studies.laws.text import digits

    usual = found["usual_grid"]
    terminal.heading(f"Standard errors to first order, for a standard deviation of ln L of {digits(found['sd'])}")
    rows = [
        [name, digits(before), digits(found["errors_after"][name]), digits(usual["errors_after"][name])]
        for name, before in found["errors_before"].items()
    ]
    terminal.table(["quantity", "now", "with these runs", "with as many of a usual grid"], rows)
    terminal.echo(f"optimal_params is ln N* at {digits(found['target_flops'])} FLOP, so that its error is relative")
    if usual["runs_needed"] is None:
        terminal.echo("the usual grid does not reach this error even with all of its runs")
    else:
        terminal.echo(
            f"the usual grid, taken evenly by budget and size, needs {usual['runs_needed']:,} runs and "
            f"{digits(usual['flops_needed'])} FLOP to reach this error; these are {len(found['runs']):,} runs and "
            f"{digits(found['flops'])} FLOP"
        )
