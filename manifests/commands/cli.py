"""`speechmill manifest`: inspect a lake, a part of one, or a single manifest.

Commands import what they need inside, so that --help answers at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from manifests.commands.options import JSON, VIEW, WHERE, WIDE, Commands, choice_options, open_target, target_options
from manifests.output import counted, say

if TYPE_CHECKING:
    from manifests.commands.targets import Target


@click.group(cls=Commands)
def manifest() -> None:
    """Inspect a lake, a stage, selection or dataset in it, a Parquet file, or a foreign manifest."""


HEAD = {
    "recordings": ["recording_id", "uris", "duration_s", "language", "dnsmos_ovrl"],
    "annotations": ["recording_id", "uris", "duration_s", "language", "dnsmos_ovrl"],
    "ingest": ["recording_id", "uris", "claimed_duration_s", "codec", "source", "status"],
    "windows": ["window_id", "split", "start_s", "speech_share", "num_speakers", "kept", "reasons"],
    "window_verdicts": ["window_id", "split", "start_s", "speech_share", "num_speakers", "kept", "reasons"],
    "verdicts": ["recording_id", "verdict", "reasons", "duration_s", "windows", "split"],
    "shard_windows": ["window_id", "folder", "shard", "status", "language", "context_frames"],
}
"""Columns that `head` shows unless --columns names others; --json has all."""


@manifest.command()
@click.argument("lake", type=click.Path())
@WIDE
@JSON
def selections(lake: str, as_json: bool) -> None:
    """List the selections of a lake.

    The newest comes first. Each has the numbers that it keeps, the stages that it read and the datasets made from it.
    """
    from manifests.choice import selections_of
    from manifests.commands import render, terminal
    from manifests.commands.targets import lake_of

    found = selections_of(lake_of(lake))
    terminal.as_json({"selections": found}) if as_json else render.selections(found)


@manifest.command()
@click.argument("lake", type=click.Path())
@choice_options
@WIDE
@JSON
@click.option(
    "-n",
    "count",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="ROWS",
    help="Number of groups and of passages.",
)
def duplicates(lake: str, count: int, as_json: bool, **named: Any) -> None:
    """Print repeated sound: groups of recordings with the same sound, and passages in several recordings.

    The largest groups come first, and the passages that occur in the most recordings apart from these groups.
    """
    from manifests.choice import choose
    from manifests.commands import duplicates as repeated
    from manifests.commands import terminal
    from manifests.commands.options import user_errors
    from manifests.commands.targets import lake_of

    with user_errors():
        found = lake_of(lake)
        shown = repeated.duplicates(found, choose(found, **named), count)
    terminal.as_json(shown) if as_json else repeated.render(shown)


@manifest.command()
@target_options
@WIDE
@VIEW
@WHERE
@click.option(
    "-n", "count", type=click.IntRange(0), default=10, show_default=True, metavar="ROWS", help="Number of rows."
)
@click.option("--columns", metavar="A,B,...", help="Columns to print, or SQL expressions.")
def head(view: str | None, where: str, count: int, columns: str | None, as_json: bool, **named: Any) -> None:
    """Print the first rows of a table that meet --where, in the order of the files."""
    from manifests.commands import render, terminal
    from manifests.commands.mistakes import existing_view
    from manifests.commands.stats import rows_of
    from manifests.view_columns import columns_of_views, parts_needed

    target = open_target(**named)
    view = existing_view(target, view)
    shown = columns or (", ".join(HEAD[view]) if view in HEAD and target.lake and not as_json else "*")
    rows: list[dict[str, Any]] = []
    for numbers in _first_and_all(target):
        connection = target.connect(parts_needed(f"{shown} FROM {view} WHERE {where}"), numbers)
        rows = rows_of(connection, f"SELECT {shown} FROM {view} WHERE {where} LIMIT {count}")
        if len(rows) == count:
            break
    if as_json:
        terminal.as_json({"choice": target.described, "view": view, "rows": rows})
        return
    render.print_choice(target)
    names = list(rows[0]) if rows else []
    more = "--wide shows all, --columns A,B,... chooses"
    terminal.table(names, [[_short(name, row[name]) for name in names] for row in rows], more)
    if rows and columns is None and shown != "*" and terminal.width() is not None:
        total = len(columns_of_views()[view])
        listed = f'`speechmill manifest query {target.name} "DESCRIBE {view}"` lists them'
        terminal.echo(
            f"{len(HEAD[view])} of the {total} columns of {view}; --columns '*' shows all, {listed}", dim=True
        )
    if not rows:
        terminal.echo(f"no rows in {view}" + (f" where {where}" if where != "true" else ""))


def _first_and_all(target: Target, few: int = 20) -> Iterator[list[str] | None]:
    """Numbers of the first `few` batches of a lake, which open fast, and then None, which stands for all batches."""
    if target.lake:
        yield [batch.rpartition("-")[2] for batch in itertools.islice(target.lake.batches(), few)] or None
    yield None


def _short(name: str, value: Any) -> Any:
    """A value for the table: on a terminal, URIs are shortened to the first file name."""
    from manifests.commands import terminal

    if name == "uris" and value and terminal.width() is not None:
        more = f" +{len(value) - 1}" if len(value) > 1 else ""
        return value[0].rpartition("/")[2] + more
    return value


@manifest.command()
@target_options
@WIDE
@click.argument("recording", metavar="ID")
def show(recording: str, as_json: bool, **named: Any) -> None:
    """Print all data about one recording. ID is its id, the start of its id, or its name."""
    from manifests.commands import render, terminal
    from manifests.commands import show as showing

    target = open_target(**named)
    rows = showing.recording_rows(target, recording)
    if as_json:
        terminal.as_json({"choice": target.described, **rows})
    else:
        render.print_choice(target)
        showing.render(rows)


BY = click.option(
    "--by", "by", multiple=True, metavar="A,B,...",
    help="Columns to group by, labels as labels.NAME, or SQL expressions. Several groupings are combined.",
)  # fmt: skip


@manifest.command()
@target_options
@WIDE
@VIEW
@WHERE
@BY
@click.option("--histogram", "histograms", multiple=True, metavar="COLUMN", help="Print the distribution of a column.")
def stats(
    view: str | None, where: str, by: tuple[str, ...], histograms: tuple[str, ...], as_json: bool, **named: Any
) -> None:
    """Print counts, hours and distributions.

    They are of all rows or of those that meet --where, by the values of columns with --by, or of a column with
    --histogram.
    """
    from manifests.commands import render, terminal
    from manifests.commands import stats as statistics
    from manifests.commands.mistakes import existing_view
    from manifests.sums import summed
    from manifests.view_columns import WIDE_VIEWS, parts_needed

    target = open_target(**named)
    found: dict[str, Any] = {"choice": target.described}
    keys = [column for text in by for column in _split(text)]
    table = existing_view(target, view)
    if keys or histograms or view or where != "true" or target.view != "recordings":
        # For windows, only the duration is summarised: measures of recordings would count once for each window.
        columns = "duration_s" if keys or histograms or table == "windows" else "*"
        sql = " ".join([*keys, *histograms, where, columns, f"FROM {table}"])
        connection = target.connect(parts_needed(sql) if table in WIDE_VIEWS else ())
        if keys:
            found["groups"] = statistics.grouped(connection, table, keys, where)
        if histograms:
            found["histograms"] = [statistics.histogram(connection, table, name, where) for name in histograms]
        if not keys and not histograms:
            views = [view] if view else target.views
            found["views"] = [statistics.summary(connection, name, where) for name in views]
    elif target.lake:
        found["overview"] = statistics.overview(target.lake, target.choice, summed(target.lake, target.choice))
    else:
        connection = target.connect()
        found["views"] = [statistics.summary(connection, name) for name in target.views]
    if as_json:
        terminal.as_json(found)
        return
    render.print_choice(target)
    render.statistics(found, where)


def _split(text: str) -> list[str]:
    """Split a list of columns at the commas outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


@manifest.command()
@target_options
@WIDE
@click.argument("sql", metavar="SQL")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="Format of the result; --json is the same as --format json.",
)
@click.option("-o", "--output", metavar="FILE", help="Write the result to FILE. It appears when it is complete.")
def query(sql: str, kind: str, output: str | None, as_json: bool, **named: Any) -> None:
    """Run an SQL query in the dialect of DuckDB.

    The table `recordings` has all columns of recordings, and `windows` has all columns of windows and of their
    recordings. "SHOW TABLES" lists all tables, and "DESCRIBE TABLE" the columns of one. A query cannot change
    anything.
    """
    from manifests.commands import results
    from manifests.view_columns import parts_needed

    target = open_target(**named)
    results.write(target, parts_needed(sql), sql, "json" if as_json else kind, output)


@manifest.command()
@target_options
def funnel(as_json: bool, **named: Any) -> None:
    """Print what a selection kept and rejected, and why.

    The funnel has counts and hours of all recordings and windows, of those kept, rejected by each rule, and failed.
    """
    from manifests.commands import render, terminal
    from manifests.funnel import Funnel

    target, name = selected(named)
    stored = target.lake.read_json(f"selections/{name}/funnel.json", "recordings", "windows")  # type: ignore[union-attr]
    if as_json:
        terminal.as_json({"choice": target.described, **stored})
    else:
        render.print_choice(target)
        say(Funnel.from_dict(stored).render())


def selected(named: Mapping[str, Any]) -> tuple[Target, str]:
    """The target and the name of its selection. Raises ChoiceError where there is no selection."""
    from manifests.choice import ChoiceError

    target = open_target(**named)
    if target.lake is None or target.choice.selection is None:
        raise ChoiceError(f"{target.name} has no selection", "make one: `speechmill select RECIPE --lake ...`")
    return target, target.choice.selection


def _named(values: tuple[str, ...]) -> dict[str, str]:
    """Rules by name, from texts such as 'name: condition'. A condition without a name is its own name."""
    rules: dict[str, str] = {}
    for value in values:
        name, colon, condition = value.partition(": ")
        rules |= {name: condition} if colon and name.replace("_", "").isalnum() else {value: value}
    return rules


@manifest.command("what-if")
@target_options
@WIDE
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="[NAME: ]CONDITION",
    help="A rule for recordings, which replaces the rule of that name, if there is one.",
)
@click.option(
    "--window-rule", "window_rules", multiple=True, metavar="[NAME: ]CONDITION", help="A rule for windows, likewise."
)
@click.option("--drop", multiple=True, metavar="NAME", help="Remove the rule of this name.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, as in --set select.context_s=5."
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=5000,
    show_default=True,
    help="Cut windows from about this many of the recordings that the change accepts; if there are more, estimate.",
)
def what_if(
    rules: tuple[str, ...],
    window_rules: tuple[str, ...],
    drop: tuple[str, ...],
    overrides: tuple[str, ...],
    sample: int,
    as_json: bool,
    **named: Any,
) -> None:
    """Print the funnel with changed rules, next to the stored one. Nothing is written."""
    from manifests.commands import render, terminal
    from manifests.commands import what_if as asking
    from manifests.selection import Selection

    target, name = selected(named)
    assert target.lake is not None
    stored = Selection.stored(target.lake, name)
    changed = asking.change(stored, _named(rules), _named(window_rules), drop, asking.settings(overrides))
    found = asking.what_if(target.lake, target.choice, stored, changed, sample)
    before = target.lake.read_json(f"selections/{name}/funnel.json", "recordings", "windows")
    now = found.funnel.as_dict()
    if as_json:
        terminal.as_json(
            {"choice": target.described, "rules": dict(changed.recordings), "window_rules": dict(changed.windows),
             "cut": found.cut, "of": found.of, "error_h": found.error_h, "stored": before, "now": now}
        )  # fmt: skip
        return
    render.print_choice(target)
    terminal.table(["", "stored", "hours", "now", "hours", "change h"], asking.compare(before, now))
    if found.of > found.cut:
        terminal.echo(
            f"of {counted(found.of, 'recording')} without such windows yet, {found.cut:,} were cut, from batches "
            f"drawn by lot:\nkept windows are known to +-{terminal.number(found.error_h)} h (one standard error)"
        )
    elif found.of:
        were = "was" if found.of == 1 else "were"
        terminal.echo(f"{counted(found.of, 'recording')} without such windows yet {were} cut for this answer")
