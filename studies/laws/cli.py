"""`speechmill study fit`. Heavy packages are imported when the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from manifests.commands.options import JSON
from manifests.commands.options import WIDE as WIDE_TABLES


class Gamma(click.ParamType):
    """Option type for 'auto', 'free' or a number."""

    name = "gamma"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value in ("auto", None):
            return value
        if value == "free":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither auto nor free nor a number", parameter, context)
        if not 0.11 <= number <= 9:
            self.fail(f"{number:g} is not between 0.11 and 9", parameter, context)
        return number


def _where(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = [value.partition("=") for value in values]
    if any(not equals for _, equals, _ in pairs):
        raise click.BadParameter("write --where COLUMN=VALUE")
    return [(name.strip(), value.strip()) for name, _, value in pairs]


FLOPS = click.FloatRange(1e9, 1e34)
COLUMN_OPTIONS = (
    click.option("--params", metavar="COLUMN", help="Column of N, parameters; by default params or a common name."),
    click.option("--tokens", metavar="COLUMN", help="Column of D, training tokens."),
    click.option("--loss", metavar="COLUMN", help="Column of the loss at the end of training."),
    click.option("--flops", metavar="COLUMN", help="Column of C, FLOP, from which a missing N or D is computed."),
    click.option("--run", metavar="COLUMN", help="Column that names the run; by default N and D identify it."),
    click.option("--by", metavar="COLUMN", help="Fit a law for each value of this column, such as the corpus."),
    click.option(
        "--where", multiple=True, metavar="COLUMN=VALUE", callback=_where, help="Use only rows with this value."
    ),
    click.option("--metric", "metrics", multiple=True, metavar="COLUMN", help="Column of a downstream metric."),
)  # fmt: skip


def _column_options(function: Any) -> Any:
    for option in reversed(COLUMN_OPTIONS):
        function = option(function)
    return function


@click.command()
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_column_options
@click.option(
    "--gamma", type=Gamma(), default="auto", show_default=True, metavar="auto|free|NUMBER",
    help="The outer exponent. auto: 1, unless freeing it lowers the objective by a tenth, its interval excludes 1 and "
    "the held-out budget is not predicted worse.",
)  # fmt: skip
@click.option(
    "--delta", type=click.FloatRange(1e-6, 1), default=1e-3, show_default=True, help="Parameter of Huber's loss."
)
@click.option("--starts", type=click.IntRange(100, 4096), default=128, show_default=True, help="Starts of each search.")
@click.option(
    "--resamples", type=click.IntRange(100, 4000), default=400, show_default=True, help="Resamples of each bootstrap."
)
@click.option(
    "--outlier-sd", type=click.FloatRange(0, 100), default=3.0, show_default=True,
    help="Leave out runs whose ln(D/N) is more than this many robust standard deviations, and a factor of 10, from the "
    "median, unless they are over 5 % of the runs; 0 keeps all.",
)  # fmt: skip
@click.option(
    "--misfit-sd", type=click.FloatRange(1, 100), default=5.0, show_default=True,
    help="List runs whose error of ln L exceeds this many robust standard deviations; they stay in the fit.",
)  # fmt: skip
@click.option(
    "--hold-out",
    type=FLOPS,
    metavar="FLOP",
    help="Hold out runs from this compute on; by default the largest budget.",
)
@click.option("--at", "at", type=FLOPS, multiple=True, metavar="FLOP", help="Budgets at which to compute the optimum.")
@click.option(
    "--epsilon", type=click.FloatRange(1e-6, 10), default=0.01, show_default=True,
    help="Compute the ranges of N and D whose loss is within this share of the lowest.",
)  # fmt: skip
@click.option(
    "--frame-rate", type=click.FloatRange(0.01, 1e6), metavar="HZ", help="Frames per second, to print D* in hours too."
)
@click.option("--patch", type=click.IntRange(1, 1000), default=1, show_default=True, help="Frames per token.")
@click.option("--params-are", metavar="TEXT", help="How N is counted, such as 'without embeddings'; for the record.")
@click.option("--tokens-are", metavar="TEXT", help="How D is counted, such as 'with context'; for the record.")
@click.option(
    "--plots", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER", help="Write figures to this folder."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["svg", "png"]),
    default="svg",
    show_default=True,
    help="Format of the figures.",
)
@click.option(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write an HTML page with figures and tables.",
)
@WIDE_TABLES
@JSON
def fit(table: Path, as_json: bool, plots: Path | None, kind: str, page: Path | None, **given: Any) -> None:
    """Fit a scaling law to a CSV of training runs.

    TABLE has a row for each run, with its parameters N, tokens D and final loss L. The law is
    L = E + (A/N^alpha + B/D^beta)^gamma, C = 6 N D. docs/studies.md has formulas, rules and defaults.
    """
    from manifests.commands import terminal
    from studies.laws import text
    from studies.laws.command import fit_table

    if plots or page:
        from studies.laws import figures

        figures.require_packages(page is not None)
    read, fits = fit_table(table, **given)
    documents: list[dict[str, Any]] = [group.document or {"error": group.error} for group in fits]
    if plots:
        for group in fits:
            figures.write(group, plots, kind)
    if page:
        from studies.laws.page import write_page

        write_page(page, read, fits)
    if as_json:
        groups = [{"group": group.group} | document for group, document in zip(fits, documents, strict=True)]
        terminal.as_json(read | ({"fits": groups} if given["by"] else documents[0]))
        return
    text.table(read)
    for group, document in zip(fits, documents, strict=True):
        if given["by"]:
            terminal.echo("")
            terminal.heading(f"{given['by']} = {group.group}")
        if "error" in document:
            terminal.echo(f"no law: {document['error']['message']}\nremedy: {document['error']['remedy']}")
        else:
            text.fit(document)
    for path in [plots, page]:
        if path:
            terminal.echo(f"written: {path}")
