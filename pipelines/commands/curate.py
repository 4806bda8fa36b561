"""Commands that change a lake: `label` corrects labels, `remove` withdraws recordings, `merge` joins small batches."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from manifests.commands.options import user_errors
from manifests.output import printable, say, to_json
from pipelines.progress.console import public_command
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    from manifests.lake import Lake
    from manifests.pick import Criteria
    from manifests.withdraw import Withdrawal
    from pipelines.progress.watch import Watch

EVERY = "*"
SHOWN = 20
"""Number of changes that `label` prints; --json has all."""


def criteria_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name recordings."""
    for option in (
        click.option(
            "--from", "file", metavar="FILE",
            help="Recordings in the column recording_id, uri or pattern of a .csv, .jsonl or .parquet file.",
        ),
        click.option("--where", metavar="CONDITION", help="Recordings that meet an SQL condition over `recordings`."),
        click.option("--source", metavar="SOURCE", help="Recordings of this source."),
        click.option(
            "--uri", "uris", multiple=True, metavar="PATTERN",
            help="Recordings whose name matches this pattern; * stands for any characters.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def common(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command in this file."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines."),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        click.option("--dry-run", is_flag=True, help="Only print what would change."),
        click.argument("lake"),
    ):
        function = option(function)
    return function


def opened(lake: str) -> Lake:
    from manifests.lake import Lake

    try:
        found = Lake.at(lake)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="LAKE") from error
    if next(found.batches(), None) is None:
        raise SpeechmillError(f"there are no recordings in {lake}", "check the name of the lake")
    finish_merge(found)
    return found


def finish_merge(lake: Lake) -> None:
    """Finish a merge that was killed, before anything else is done with the lake."""
    from manifests import merge

    if merge.is_begun(lake):
        merge.finish(lake)


@contextmanager
def watched(lake: Lake, command: list[str]) -> Iterator[Watch]:
    """A watch around a change of a lake, so that runs/ records it."""
    from pipelines.progress.watch import Watch

    lake.sweep()
    with Watch(lake.storage, shlex.join(["speechmill", *command]), {}) as watch:
        yield watch


@contextmanager
def pick_errors() -> Iterator[None]:
    """Turn errors in names, conditions and files of the user into errors with a remedy."""
    from manifests.pick import PickError

    try:
        with user_errors():
            yield
    except PickError as error:
        raise SpeechmillError(str(error), error.remedy) from error


@click.command()
@common
@click.argument("labels", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--id", "ids", multiple=True, metavar="ID", help="The recording with this id.")
@criteria_options
@click.option(
    "--history", is_flag=False, flag_value=EVERY, metavar="[ID]",
    help="Print earlier changes: all, or those of one recording.",
)  # fmt: skip
def label(
    lake: str,
    labels: tuple[str, ...],
    history: str | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **which: Any,
) -> None:
    """Set source, licence, language_hint or labels of your own: country=DE, or country= to remove the label.

    With --from, the other columns of the file are labels too. `speechmill select` and `encode` then update selections
    and datasets.
    """
    from manifests import labels as labelling
    from manifests.pick import Criteria, pick

    found = opened(lake)
    if history:
        _show_history(list(labelling.history(found, None if history == EVERY else history)), as_json)
        return
    if not labels and not which["file"]:
        raise click.UsageError("say what to change: KEY=VALUE, or --from a file with such columns")
    with pick_errors():
        criteria = Criteria(**which)
        connection = pick(found, criteria)
        try:
            changed = labelling.relabel(found, connection, _given(labels), _asked(labels, criteria))
        except ValueError as error:
            raise SpeechmillError(str(error), "correct the command or the file that it names") from error
    picked = _count(connection, "picked")
    result = {"picked": picked, "changed": changed.recordings(), "changes": changed.counted(), "dry_run": dry_run}
    if file := which["file"]:
        result["unmatched"] = _unmatched(connection, file, quiet or as_json)
    if not dry_run and result["changed"]:
        with watched(found, list(public_command(sys.argv[1:]))) as watch:
            watch.results = result
            changed.commit()
    if as_json:
        click.echo(to_json(result, indent=1))
    elif not quiet:
        _show_changes(result)


def _given(labels: tuple[str, ...]) -> dict[str, str | None]:
    given: dict[str, str | None] = {}
    for text in labels:
        name, equals, value = text.partition("=")
        if not equals or name in given:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE, or names {name} again", param_hint="KEY=VALUE")
        given[name] = value or None
    return given


def _asked(labels: tuple[str, ...], criteria: Criteria) -> str:
    """The request as words of the command; equal requests have equal words."""
    words = list(labels)
    words += [word for one in criteria.ids for word in ("--id", one)]
    words += [word for one in criteria.uris for word in ("--uri", one)]
    # The folder of the file is left out, so that equal lakes have equal histories.
    file = criteria.file and os.path.basename(criteria.file)
    for option, value in (("--source", criteria.source), ("--where", criteria.where), ("--from", file)):
        words += [] if value is None else [option, value]
    return shlex.join(public_command(words))


def _count(connection: Any, table: str) -> int:
    ((count,),) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(count)


def _unmatched(connection: Any, file: str, quiet: bool) -> int:
    count = _count(connection, "unmatched")
    if count and not quiet:
        ((first,),) = connection.execute("SELECT key FROM unmatched LIMIT 1").fetchall()
        say(f"{count:,} rows of {file} name no recording of the lake, the first is {first}", error=True)
    return count


def _show_changes(result: dict[str, Any]) -> None:
    would = "would change" if result["dry_run"] else "changed"
    lines = [f"label: {result['picked']:,} recordings match, {result['changed']:,} {would}"]
    for row in result["changes"][:SHOWN]:
        lines.append(f"  {row['name']}: {row['old'] or 'none'} -> {row['new'] or 'none'}: {row['count']:,}")
    if len(result["changes"]) > SHOWN:
        lines.append(f"  and {len(result['changes']) - SHOWN:,} more: see --json")
    if result["changed"] and not result["dry_run"]:
        lines.append("`speechmill select` and `speechmill encode` bring this into selections and datasets")
    click.echo(printable("\n".join(lines)))


def _show_history(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(to_json(rows, indent=1))
        return
    for row in rows:
        of = f"{row['count']:,} recordings" if "count" in row else row["recording_id"]
        text = f"{row['change']}  {of}: {row['name']}: {row['old'] or 'none'} -> {row['new'] or 'none'}"
        say(f"{text}  ({row['asked']})")
    if not rows:
        say("no label was changed")


@click.command()
@common
@click.argument("ids", nargs=-1, metavar="[ID]...")
@criteria_options
@click.option("--reason", metavar="TEXT", help="The reason, which is recorded.")
@click.option("--keep-copies", is_flag=True, help="Keep other recordings with the same samples.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(
    lake: str,
    reason: str | None,
    keep_copies: bool,
    yes: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **which: Any,
) -> None:
    """Withdraw recordings for good: they leave the lake, its annotations, selections, datasets, runs and history.

    Other recordings with the same samples leave too. A tombstone of hashes stays under removed/, so that no later
    ingest brings them back.
    """
    from manifests import withdraw
    from manifests.pick import Criteria, pick

    found = opened(lake)
    with pick_errors():
        connection = pick(found, Criteria(**which))
        leaving = withdraw.find(found, connection, reason, keep_copies)
    unknown = set(which["ids"]) - leaving.ids - set(withdraw.tombstones(found)["recording_id"].to_pylist())
    if unknown:
        what = f"there is no recording {min(unknown)} in {lake}"
        raise SpeechmillError(what, "give whole ids, as `speechmill manifest head` shows them")
    if not as_json and not quiet:
        copies = f", {leaving.copies:,} of them copies with the same samples" if leaving.copies else ""
        say(f"remove: {len(leaving.ids):,} recordings, {leaving.hours:.3f} h{copies}")
    if not dry_run:
        if leaving.rows and not yes and at_terminal():
            click.confirm("They leave the lake and all its datasets for good. Go on?", abort=True, err=True)
        before = _dataset_bytes(found)
        with watched(found, ["remove"]) as watch:  # the command line, which names the recordings, is not kept
            leaving.commit(watch.prefix)
            watch.results = result = _removed(leaving, before)
    else:
        result = _removed(leaving, None)
    if as_json:
        click.echo(to_json(result | {"dry_run": dry_run}, indent=1))
    elif not quiet and not dry_run:
        _show_removed(result)


@click.command()
@common
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True), default=20.0, show_default=True,
    help="Largest number of hours in a batch, by the headers of its recordings.",
)  # fmt: skip
def merge(lake: str, hours: float, dry_run: bool, quiet: bool, as_json: bool) -> None:
    """Join small batches with their neighbours, since many small files slow every query.

    Neighbours are joined if they were annotated and selected alike. Datasets are not changed; selections are rewritten.
    """
    from manifests import merge as merging

    found = opened(lake)
    plan = merging.plan(found, hours)
    result: dict[str, Any] = {
        "joined": sum(map(len, plan.groups)), "to": len(plan.groups), "unlike": plan.unlike, "selections": [],
        "dry_run": dry_run,
    }  # fmt: skip
    if not (quiet or as_json):
        if plan.unlike:
            say(
                f"left apart, since they are not annotated and selected like the batch before: {', '.join(plan.unlike)}"
            )
        say(f"merge: {result['joined']:,} batches {'would become' if dry_run else 'become'} {result['to']:,}")
    if plan.groups and not dry_run:
        with watched(found, list(public_command(sys.argv[1:]))) as watch:
            result["selections"] = plan.commit()
            watch.results = result
    if as_json:
        click.echo(to_json(result, indent=1))
    elif result["selections"] and not quiet:
        say(f"selections made anew: {', '.join(result['selections'])}")


def at_terminal() -> bool:
    """Whether standard input is a terminal, so that a question can be answered."""
    return sys.stdin.isatty()


def _dataset_bytes(lake: Lake) -> int:
    import pyarrow.fs

    selector = pyarrow.fs.FileSelector("datasets", recursive=True, allow_not_found=True)
    return sum(info.size or 0 for info in lake.storage.filesystem().get_file_info(selector))


def _removed(leaving: Withdrawal, before_bytes: int | None) -> dict[str, Any]:
    freed = 0 if before_bytes is None else before_bytes - _dataset_bytes(leaving.lake)
    return {
        "recordings": len(leaving.ids),
        "copies": leaving.copies,
        "hours": leaving.hours,
        "selections": leaving.selections,
        "datasets": leaving.datasets,
        "freed_bytes": freed,
    }


def _show_removed(result: dict[str, Any]) -> None:
    for what in ("selections", "datasets"):
        if result[what]:
            say(f"{what} made anew: {', '.join(result[what])}")
    if result["freed_bytes"]:
        say(f"{result['freed_bytes'] / 1e6:,.1f} MB of features freed")


COMMANDS = (label, remove, merge)
