"""`speechmill manifest`: look into a lake, a part of one, or a single manifest. Imports happen inside the commands."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from manifests.look.options import JSON, VIEW, WHERE, WIDE, Commands, choosing, looking, opened
from manifests.output import counted, say

if TYPE_CHECKING:
    from manifests.look.targets import Target


@click.group(cls=Commands)
def manifest() -> None:
    """Look into a lake, a stage, selection or dataset in it, a Parquet file, or a foreign manifest."""


HEAD = {
    "annotations": ["recording_id", "uris", "duration_s", "language", "dnsmos_ovrl"],
    "recordings": ["recording_id", "uris", "claimed_duration_s", "codec", "source", "status"],
    "windows": ["window_id", "split", "start_s", "speech_share", "num_speakers", "kept", "reasons"],
    "verdicts": ["recording_id", "verdict", "reasons", "duration_s", "windows", "split"],
    "shard_windows": ["window_id", "folder", "shard", "status", "language", "context_frames"],
    "judged": ["recording_id", "uris", "duration_s", "verdict", "reasons"],
}
"""Columns that are shown unless others are asked for; --json has all."""


@manifest.command()
@click.argument("lake", type=click.Path())
@WIDE
@JSON
def selections(lake: str, as_json: bool) -> None:
    """List the selections of a lake.

    The newest comes first; each with what it keeps, the stages that it read and the datasets made of it.
    """
    from manifests.choice import selections_of
    from manifests.look import render, terminal
    from manifests.look.targets import lake_of

    found = selections_of(lake_of(lake))
    terminal.as_json({"selections": found}) if as_json else render.selections(found)


@manifest.command()
@click.argument("lake", type=click.Path())
@choosing
@WIDE
@JSON
@click.option(
    "-n", "count", type=click.IntRange(1), default=10, show_default=True, metavar="ROWS", help="How many of each."
)
def duplicates(lake: str, count: int, as_json: bool, **named: Any) -> None:
    """Print what repeats: groups of recordings with the same sound, and passages.

    The largest groups, and the passages that most recordings hold apart from these, with their times.
    """
    from manifests.choice import choose
    from manifests.look import duplicates as repeated
    from manifests.look import terminal
    from manifests.look.options import told
    from manifests.look.targets import lake_of

    with told():
        found = lake_of(lake)
        shown = repeated.duplicates(found, choose(found, **named), count)
    terminal.as_json(shown) if as_json else repeated.render(shown)


@manifest.command()
@looking
@WIDE
@VIEW
@WHERE
@click.option(
    "-n", "count", type=click.IntRange(0), default=10, show_default=True, metavar="ROWS", help="How many rows."
)
@click.option("--columns", metavar="A,B,...", help="Columns to show, or SQL expressions.")
def head(view: str | None, where: str, count: int, columns: str | None, as_json: bool, **named: Any) -> None:
    """Print the first rows of a table.

    In the order in which they lie, of those that meet --where.
    """
    from manifests.look import render, terminal
    from manifests.look.mistakes import viewed
    from manifests.look.stats import rows_of
    from manifests.views import stages_of

    target = opened(**named)
    view = viewed(target, view)
    shown = columns or (", ".join(HEAD[view]) if view in HEAD and target.lake and not as_json else "*")
    rows: list[dict[str, Any]] = []
    for numbers in _first_and_all(target):
        connection = target.connect(stages_of(f"{shown} FROM {view} WHERE {where}"), numbers)
        rows = rows_of(connection, f"SELECT {shown} FROM {view} WHERE {where} LIMIT {count}")
        if len(rows) == count:
            break
    if as_json:
        terminal.as_json({"choice": target.described, "view": view, "rows": rows})
        return
    render.chosen(target)
    names = list(rows[0]) if rows else []
    more = "--wide shows all, --columns A,B,... chooses"
    terminal.table(names, [[_short(name, row[name]) for name in names] for row in rows], more)
    if not rows:
        terminal.echo(f"no rows in {view}" + (f" where {where}" if where != "true" else ""))


def _first_and_all(target: Target, few: int = 20) -> Iterator[list[str] | None]:
    """The numbers of a lake's first batches, whose files open at once, then None for all of what is there."""
    if target.lake:
        yield [batch.rpartition("-")[2] for batch in itertools.islice(target.lake.batches(), few)] or None
    yield None


def _short(name: str, value: Any) -> Any:
    """On a terminal, names of files without their folders."""
    from manifests.look import terminal

    if name == "uris" and value and terminal.width() is not None:
        more = f" +{len(value) - 1}" if len(value) > 1 else ""
        return value[0].rpartition("/")[2] + more
    return value


@manifest.command()
@looking
@WIDE
@click.argument("recording", metavar="ID")
def show(recording: str, as_json: bool, **named: Any) -> None:
    """Print all that is known of one recording. ID is its id, the start of it, or its name."""
    from manifests.look import render, terminal
    from manifests.look import show as showing

    target = opened(**named)
    found = showing.known(target, recording)
    if as_json:
        terminal.as_json({"choice": target.described, **found})
    else:
        render.chosen(target)
        showing.render(found)


BY = click.option(
    "--by", "by", multiple=True, metavar="A,B,...",
    help="Columns by which to count, labels as labels.NAME, or SQL expressions; given several times, all together.",
)  # fmt: skip


@manifest.command()
@looking
@WIDE
@VIEW
@WHERE
@BY
@click.option("--histogram", "histograms", multiple=True, metavar="COLUMN", help="Show the distribution of a column.")
def stats(
    view: str | None, where: str, by: tuple[str, ...], histograms: tuple[str, ...], as_json: bool, **named: Any
) -> None:
    """Print counts, hours and distributions.

    Of everything, of what meets --where, by columns, or of the values of a column.
    """
    from manifests.look import render, terminal
    from manifests.look import stats as statistics
    from manifests.look.mistakes import viewed
    from manifests.sums import summed
    from manifests.views import stages_of

    target = opened(**named)
    found: dict[str, Any] = {"choice": target.described}
    keys = [column for text in by for column in _split(text)]
    looked = viewed(target, view)
    asked = " ".join([*keys, *histograms, where, "duration_s" if keys or histograms else "*", f"FROM {looked}"])
    if keys or histograms or view or where != "true" or target.view not in ("annotations", "recordings"):
        connection = target.connect(stages_of(asked) if looked in ("annotations", "judged") else ())
        if keys:
            found["groups"] = statistics.grouped(connection, looked, keys, where)
        if histograms:
            found["histograms"] = [statistics.histogram(connection, looked, name, where) for name in histograms]
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
    render.chosen(target)
    render.statistics(found, where)


def _split(text: str) -> list[str]:
    """Columns between commas that stand outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


@manifest.command()
@looking
@WIDE
@click.argument("sql", metavar="SQL")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="Form of the result; --json is short for --format json.",
)
@click.option("-o", "--output", metavar="FILE", help="Write the result to FILE, which appears once it is whole.")
def query(sql: str, kind: str, output: str | None, as_json: bool, **named: Any) -> None:
    """Ask a question in SQL.

    As DuckDB understands it; "SHOW TABLES" lists the tables. Nothing can be changed.
    """
    from manifests.look import results
    from manifests.views import stages_of

    target = opened(**named)
    results.write(target, stages_of(sql), sql, "json" if as_json else kind, output)


@manifest.command()
@looking
def funnel(as_json: bool, **named: Any) -> None:
    """Print what a selection kept, and rejected why.

    How many recordings and windows, and hours, went in, were kept, rejected by each rule, and failed.
    """
    from manifests.funnel import Funnel
    from manifests.look import render, terminal

    target, name = selected(named)
    stored = target.lake.read_json(f"selections/{name}/funnel.json", "recordings", "windows")  # type: ignore[union-attr]
    if as_json:
        terminal.as_json({"choice": target.described, **stored})
    else:
        render.chosen(target)
        say(Funnel.from_dict(stored).render())


def selected(named: Mapping[str, Any]) -> tuple[Target, str]:
    """The target and its selection; ChoiceError where there is none."""
    from manifests.choice import ChoiceError

    target = opened(**named)
    if target.lake is None or target.choice.selection is None:
        raise ChoiceError(f"{target.name} has no selection", "make one: `speechmill select RECIPE --lake ...`")
    return target, target.choice.selection


def _named(values: tuple[str, ...]) -> dict[str, str]:
    """Rules by name: 'name: condition', or a condition that is its own name."""
    rules: dict[str, str] = {}
    for value in values:
        name, colon, condition = value.partition(": ")
        rules |= {name: condition} if colon and name.replace("_", "").isalnum() else {value: value}
    return rules


@manifest.command("what-if")
@looking
@WIDE
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="[NAME: ]CONDITION",
    help="A rule for recordings; it takes the place of the rule of that name, if there is one.",
)
@click.option("--window-rule", "window_rules", multiple=True, metavar="[NAME: ]CONDITION", help="The same for windows.")
@click.option("--drop", multiple=True, metavar="NAME", help="Leave out the rule of this name.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, as in --set select.context_s=5."
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=5000,
    show_default=True,
    help="Cut at most about so many of the recordings that the change lets in; where there are more, estimate.",
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
    """Print the funnel under changed rules.

    Beside it stands the stored one; nothing is written.
    """
    from manifests.look import render, terminal
    from manifests.look import what_if as asking
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
    render.chosen(target)
    terminal.table(["", "stored", "hours", "now", "hours", "change h"], asking.compare(before, now))
    if found.of > found.cut:
        terminal.echo(
            f"of {counted(found.of, 'recording')} without such windows yet, {found.cut:,} were cut, from batches "
            f"drawn by lot:\nkept windows are known to +-{terminal.number(found.error_h)} h (one standard error)"
        )
    elif found.of:
        were = "was" if found.of == 1 else "were"
        terminal.echo(f"{counted(found.of, 'recording')} without such windows yet {were} cut for this answer")
