"""`speechmill manifest`: look into a lake, a part of one, or a single manifest. Imports happen inside the commands."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from manifests.exchange.cli import convert, validate
from manifests.output import one_line, say

if TYPE_CHECKING:
    from manifests.look.targets import Target


class LookError(click.ClickException):
    """Something a user asked for that cannot be; shown with its remedy, exit code 1."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy

    def show(self, file: Any = None) -> None:
        text = f"error: {one_line(self.message)}\nremedy: {one_line(self.remedy)}"
        click.echo(text, err=True, file=file)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors of SQL, rules and names, for people."""
    import duckdb

    from manifests.exchange.foreign.rows import ManifestError
    from manifests.select import RuleError
    from manifests.sql import NotReadingError
    from manifests.views import ChoiceError

    try:
        yield
    except (ChoiceError, ManifestError, NotReadingError) as error:
        raise LookError(str(error), error.remedy) from error
    except RuleError as error:
        raise LookError(str(error), "correct the rule") from error
    except duckdb.Error as error:
        what = str(error).partition("\n\nLINE")[0].replace("\n", " ")
        remedy = (
            'correct it; `speechmill manifest query LAKE "SHOW TABLES"` lists the views, "DESCRIBE annotations" columns'
        )
        raise LookError(what, remedy) from error


class Commands(click.Group):
    """Runs each command with its errors told."""

    def invoke(self, ctx: click.Context) -> Any:
        with told():
            return super().invoke(ctx)


@click.group(cls=Commands)
def manifest() -> None:
    """Look into a lake, a stage, selection or dataset in it, a Parquet file, or a foreign manifest."""


manifest.add_command(convert)
manifest.add_command(validate)


def _stages(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if any(not mark for _, _, mark in pairs):
        raise click.BadParameter("write --stage NAME=FINGERPRINT")
    return {name: mark for name, _, mark in pairs}


def _folders(prefix: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes the names of the folders of a lake."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        from manifests.lake import Lake
        from manifests.views import folders

        with contextlib.suppress(OSError, ValueError):  # a shell that completes must not print errors
            found = folders(Lake.at(ctx.params["target"]), prefix)
            return [name for name in found if name.startswith(incomplete)]
        return []

    return complete


JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")


def looking(function: Callable[..., None]) -> Callable[..., None]:
    """What every command over one target takes."""
    for option in (
        JSON,
        click.option(
            "--stage", "stages", multiple=True, metavar="NAME=FINGERPRINT", callback=_stages,
            help="Results of a stage to look at, where there are several.",
        ),
        click.option(
            "--dataset", metavar="NAME", shell_complete=_folders("datasets"),
            help="Dataset to look at; the newest of the selection if not given.",
        ),
        click.option(
            "--selection", metavar="NAME", shell_complete=_folders("selections"),
            help="Selection to look at; the newest if not given.",
        ),
        click.argument("target", type=click.Path()),
    ):  # fmt: skip
        function = option(function)
    return function


VIEW = click.option("--view", metavar="VIEW", help="View to look at: recordings, annotations, windows, vad, ...")
WHERE = click.option("--where", default="true", metavar="CONDITION", help="SQL condition that rows must meet.")


def opened(target: str, selection: str | None, dataset: str | None, stages: Mapping[str, str]) -> Target:
    from manifests.look.targets import resolve

    return resolve(target, selection, dataset, stages)


HEAD = {
    "annotations": ["recording_id", "uris", "duration_s", "language", "dnsmos_ovrl"],
    "recordings": ["recording_id", "uris", "claimed_duration_s", "codec", "source", "status"],
    "windows": ["window_id", "split", "start_s", "speech_share", "num_speakers", "kept", "reasons"],
    "verdicts": ["recording_id", "verdict", "reasons", "duration_s", "windows", "split"],
    "shard_windows": ["window_id", "split", "shard", "status", "language", "context_frames"],
    "judged": ["recording_id", "uris", "duration_s", "verdict", "reasons"],
}
"""Columns that fit 80 characters; --columns and --json show others."""


@manifest.command()
@looking
@VIEW
@WHERE
@click.option("-n", "count", type=click.IntRange(0), default=10, show_default=True, help="Rows.")
@click.option("--columns", metavar="A,B,...", help="Columns to show, or SQL expressions.")
def head(view: str | None, where: str, count: int, columns: str | None, as_json: bool, **named: Any) -> None:
    """The first rows, in the order in which they lie."""
    from manifests.look import terminal
    from manifests.look.stats import columns_of, rows_of
    from manifests.views import stages_of

    target = opened(**named)
    view = view or target.view
    shown = columns or (", ".join(HEAD[view]) if view in HEAD and target.lake and not as_json else "*")
    rows: list[dict[str, Any]] = []
    for numbers in _first_and_all(target):
        connection = target.connect(stages_of(f"{shown} FROM {view} WHERE {where}"), numbers)
        if shown == "*" and not as_json:
            shown = ", ".join(f'"{name}"' for name in list(columns_of(connection, view))[:6])
        rows = rows_of(connection, f"SELECT {shown} FROM {view} WHERE {where} LIMIT {count}")
        if len(rows) == count:
            break
    if as_json:
        terminal.as_json(rows)
        return
    names = list(rows[0]) if rows else []
    terminal.table(names, [[_short(name, row[name]) for name in names] for row in rows])
    if not rows:
        terminal.echo(f"no rows in {view}")


def _first_and_all(target: Target, few: int = 20) -> Iterator[list[str] | None]:
    """The numbers of a lake's first batches, whose files open at once, then None for all of what is there."""
    if target.lake:
        yield [batch.rpartition("-")[2] for batch in itertools.islice(target.lake.batches(), few)] or None
    yield None


def _short(name: str, value: Any) -> Any:
    """Names of files without their folders: a table has 80 columns."""
    if name == "uris" and value:
        more = f" +{len(value) - 1}" if len(value) > 1 else ""
        return value[0].rpartition("/")[2] + more
    return value


@manifest.command()
@looking
@click.argument("recording", metavar="ID")
def show(recording: str, as_json: bool, **named: Any) -> None:
    """Everything known of one recording. ID is its id, the start of it, or its name."""
    from manifests.look import show as showing
    from manifests.look import terminal

    found = showing.known(opened(**named), recording)
    if as_json:
        terminal.as_json(found)
    else:
        showing.render(found)


@manifest.command()
@looking
@VIEW
@WHERE
@click.option("--by", metavar="A,B,...", help="Columns by which to count, or SQL expressions.")
@click.option("--histogram", "histograms", multiple=True, metavar="COLUMN", help="Show the distribution of a column.")
def stats(
    view: str | None, where: str, by: str | None, histograms: tuple[str, ...], as_json: bool, **named: Any
) -> None:
    """Counts, hours and distributions: of everything, by columns, or of one column."""
    from manifests.look import render, terminal
    from manifests.look import stats as statistics
    from manifests.sums import summed
    from manifests.views import stages_of

    target = opened(**named)
    if target.lake and not (view or by or histograms) and target.view in ("annotations", "recordings"):
        found: Any = statistics.overview(target.lake, target.choice, summed(target.lake, target.choice))
        terminal.as_json(found) if as_json else render.overview(found)
        return
    asked = f"{by} {' '.join(histograms)} {where} duration_s" if by or histograms else f"* FROM {view or target.view}"
    joins = (view or target.view) in ("annotations", "judged")
    connection = target.connect(stages_of(f"{asked} {view}") if joins else ())
    if by:
        rows = statistics.grouped(connection, view or target.view, _split(by), where)
        terminal.as_json(rows) if as_json else render.groups(rows)
    elif histograms:
        found = [statistics.histogram(connection, view or target.view, column, where) for column in histograms]
        if as_json:
            terminal.as_json(found)
        else:
            for one in found:
                render.histogram(one)
    else:
        found = [statistics.summary(connection, name, where) for name in ([view] if view else target.views)]
        if as_json:
            terminal.as_json(found)
        else:
            for one in found:
                render.view(one)


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
@click.argument("sql")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="Form of the result; json is a list of rows.",
)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of the terminal.")
def query(sql: str, kind: str, output: str | None, as_json: bool, **named: Any) -> None:
    """Ask the views in SQL (DuckDB), read only. `SHOW TABLES` lists them."""
    from manifests.look import results
    from manifests.views import stages_of

    target = opened(**named)
    results.write(target.connect(stages_of(sql)), sql, "json" if as_json else kind, output)


@manifest.command()
@looking
def funnel(as_json: bool, **named: Any) -> None:
    """The funnel of a selection as it was stored: in, kept, rejected and why, failed."""
    import json

    from manifests.funnel import Funnel
    from manifests.look import terminal

    target, name = selected(named)
    stored = json.loads(target.lake.storage.read(f"selections/{name}/funnel.json"))  # type: ignore[union-attr]
    if as_json:
        terminal.as_json(stored)
    else:
        terminal.echo(f"selection {name}")
        say(Funnel.from_dict(stored).render())


def selected(named: Mapping[str, Any]) -> tuple[Target, str]:
    """The target and its selection; ChoiceError where there is none."""
    from manifests.views import ChoiceError

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
@click.option(
    "--rule", "rules", multiple=True, metavar="[NAME: ]CONDITION", help="A rule for recordings, added or replaced."
)
@click.option("--window-rule", "window_rules", multiple=True, metavar="[NAME: ]CONDITION", help="A rule for windows.")
@click.option("--drop", multiple=True, metavar="NAME", help="Leave out a rule.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting: select.context_s=5.")
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=5000,
    show_default=True,
    help="Recordings newly let in that are cut to windows; more are estimated from as many.",
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
    """The funnel under changed rules, beside the stored one; nothing is written."""
    import json

    from manifests.look import terminal
    from manifests.look import what_if as asking
    from manifests.select import Selection

    target, name = selected(named)
    assert target.lake is not None
    stored = Selection.stored(target.lake, name)
    changed = asking.change(stored, _named(rules), _named(window_rules), drop, asking.settings(overrides))
    found = asking.what_if(target.lake, target.choice, stored, changed, sample)
    before = json.loads(target.lake.storage.read(f"selections/{name}/funnel.json"))
    now = found.funnel.as_dict()
    if as_json:
        terminal.as_json(
            {"selection": name, "rules": dict(changed.recordings), "window_rules": dict(changed.windows),
             "cut": found.cut, "of": found.of, "error_h": found.error_h, "stored": before, "now": now}
        )  # fmt: skip
        return
    terminal.table(["", "stored", "hours", "now", "hours", "change h"], asking.compare(before, now))
    if found.of > found.cut:
        terminal.echo(
            f"of {found.of:,} recordings without such windows yet, {found.cut:,} were cut, from batches drawn by lot:\n"
            f"kept windows are known to +-{terminal.number(found.error_h)} h (one standard error)"
        )
    elif found.of:
        terminal.echo(f"{found.of:,} recordings without such windows yet were cut for this answer")
