"""Prints statistics and differences, as stats.py and diff.py return them, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from manifests.choice import Choice
from manifests.commands import terminal
from manifests.commands.targets import Target
from manifests.output import counted


def print_choice(target: Target) -> None:
    """Print which selection, dataset and results of stages the output is of; nothing where there is no lake."""
    if target.lake is None:
        return
    for line in _choice_lines(target.choice):
        terminal.echo(line, dim=True)


def _choice_lines(choice: Choice) -> Iterator[str]:
    if choice.selection is None:
        line = "no selection"
    else:
        line = f"selection {choice.selection}"
        if choice.newest_of > 1:
            line += f", the newest of {choice.newest_of}"
    if choice.dataset is None:
        line += ", no dataset of it" * (choice.selection is not None)
    else:
        line += f"; dataset {choice.dataset}"
        if choice.made_of not in (None, choice.selection):
            line += f", which was made of the selection {choice.made_of}"
    yield line
    if choice.own:
        yield f"stages {_listed(choice.own)}"
    for stage, holder in choice.others.items():
        read_by = f"the selection {holder}" if holder else "no selection"
        yield f"besides {stage}\xa0{choice.stages[stage]}, read by {read_by}"
    for stage, fingerprints in choice.several.items():
        yield (
            f"not {stage}, which was measured with several settings: {', '.join(fingerprints)}; "
            f"--stage {stage}={fingerprints[0]} looks at the first"
        )


def _listed(stages: Mapping[str, str]) -> str:
    return ", ".join(f"{stage}\xa0{fingerprint}" for stage, fingerprint in stages.items())


def selections(rows: list[dict[str, Any]]) -> None:
    """Print a table of selections, and below it the recipe, the datasets and the stages of each."""
    if not rows:
        terminal.echo("no selections; `speechmill select RECIPE --lake LAKE` makes one")
        return
    columns = ["selection", "default", "made", "recordings", "windows", "hours"]
    local = [datetime.fromisoformat(row["made"]).astimezone().strftime("%Y-%m-%d %H:%M") for row in rows]
    terminal.table(
        columns, [[*({**row, "made": made}[name] for name in columns)] for row, made in zip(rows, local, strict=True)]
    )
    for row in rows:
        terminal.heading(row["selection"])
        if row["recordings"] is None:
            terminal.echo("selecting did not come to its end: `speechmill select` with its recipe writes it anew")
        terminal.echo(f"recipe {row['recipe']}; datasets: {', '.join(row['datasets']) or 'none'}")
        terminal.echo(f"stages {_listed(row['stages'])}")


def statistics(found: dict[str, Any], where: str) -> None:
    """Print the parts that `stats` was asked for."""
    if where != "true":
        terminal.echo(f"where {where}")
    if "overview" in found:
        overview(found["overview"])
    if "groups" in found:
        groups(found["groups"])
    for one in found.get("histograms", []):
        histogram(one)
    for one in found.get("views", []):
        view(one)


def groups(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0]) if rows else []
    terminal.table(
        names, [[f"{row[n]:.1%}" if n == "share" and row[n] is not None else row[n] for n in names] for row in rows]
    )
    if not rows:
        terminal.echo("no rows")


def view(found: dict[str, Any]) -> None:
    hours = "" if found["hours"] is None else f", {found['hours']:,.3f} h"
    terminal.heading(f"{found['view']}: {counted(found['count'], 'row')}{hours}")
    if found.get("quantiles"):
        terminal.echo(f"duration_s, {quantiles(found)}")
    measures(found["measures"])


def quantiles(found: dict[str, Any]) -> str:
    """The quantiles of a distribution in one line, which says where they are approximate."""
    texts = [f"{float(share) * 100:g} % {terminal.number(value)}" for share, value in found["quantiles"].items()]
    return ("quantiles: " if found["exact"] else "quantiles, nearly: ") + ", ".join(texts)


def measures(rows: list[dict[str, Any]]) -> None:
    names = ["measure", "measured", "min", "mean", "max"]
    terminal.table(names, [[row[name] for name in names] for row in rows if row["measured"]])


def histogram(found: dict[str, Any]) -> None:
    if "bins" in found:
        terminal.heading(
            f"{found['column']}: {found['measured']:,} measured, {found['unmeasured']:,} not; "
            f"mean {terminal.number(found['mean'])}, std {terminal.number(found['std'])}"
        )
        if found["quantiles"]:
            terminal.echo(quantiles(found))
    else:
        terminal.heading(found["column"])
    rows = found.get("values") or [
        row | {"value": f"{terminal.number(row['from'])} to {terminal.number(row['to'])}"} for row in found["bins"]
    ]
    most = max((row["count"] for row in rows), default=0)
    for row in rows:
        name = terminal.number(row["value"])
        if terminal.width() is not None and len(name) > 22:
            name = name[:21] + "…"
        hours = "" if row["hours"] is None else f"{row['hours']:>12,.3f} h"
        terminal.echo(f"{name:>22} {terminal.bar(row['count'], most, 28):<28}{row['count']:>12,}{hours}")


def overview(found: dict[str, Any]) -> None:
    recordings = found["recordings"]
    hours = recordings.get("hours", recordings["claimed_hours"])
    kind = "" if "hours" in recordings else " claimed"
    gigabytes = (recordings["size_bytes"] or 0) / 1e9
    terminal.heading(
        f"{counted(recordings['count'], 'recording')}, {hours:,.3f} h{kind}, {gigabytes:,.3f} GB; "
        f"{recordings['unreadable']:,} unreadable"
    )
    names = {"stages": ["stage", "fingerprint", "count", "failed"], "failures": ["stage", "error_type", "count"]}
    for part, columns in names.items():
        if found[part]:
            terminal.echo("")
            terminal.table(columns, [[row[name] for name in columns] for row in found[part]])
    for part in ("languages", "sources"):
        if found.get(part):
            terminal.echo("")
            groups(found[part][:10])
    if found["measures"]:
        terminal.echo("")
        measures(found["measures"])
    if "selection" in found:
        selection = found["selection"]
        terminal.echo("")
        terminal.heading(f"selection {selection['name']}")
        terminal.table(
            ["", "in", "kept", "hours", "rejected", "hours", "failed"],
            [
                [what, part["in"]["count"], part["kept"]["count"], part["kept"]["hours"], part["rejected"]["count"],
                 part["rejected"]["hours"], part["failed"]["count"]]
                for what, part in ((what, selection[what]) for what in ("recordings", "windows"))
            ],
        )  # fmt: skip
    if "dataset" in found:
        terminal.echo("")
        terminal.heading(f"dataset {found['dataset']['name']}")
        columns = ["split", "windows", "hours", "frames", "tokens", "repeated_tokens"]
        terminal.table(columns, [[row[name] for name in columns] for row in found["dataset"]["splits"]])


def difference(found: dict[str, Any]) -> None:
    for name, choice in zip(("before", "after"), found["choices"], strict=True):
        if choice:
            terminal.echo(f"{name}: selection {choice['selection'] or 'none'}, dataset {choice['dataset'] or 'none'}")
    recordings = {part: row for part, row in found.get("recordings", {}).items() if row["count"]}
    verdicts = found.get("verdicts")
    repeats = found.get("repeats")
    if repeats and not (repeats["regrouped"]["count"] or repeats["repeats"]["count"]):
        repeats = None
    if not (found["settings"] or recordings or verdicts or repeats):
        terminal.echo("no difference")
    for name, (before, after) in found["settings"].items():
        terminal.echo(f"{name}: {terminal.number(before)} -> {terminal.number(after)}")
    for part, row in recordings.items():
        terminal.heading(f"recordings {part}: {row['count']:,}, {row['hours']:,.3f} h")
        terminal.pairs({example["recording_id"]: example["name"] for example in row["examples"]})
    if verdicts:
        terminal.heading("verdicts")
        columns = ["before", "after", "no_longer", "now", "count", "hours", "example"]
        terminal.table(columns, [[row[name] for name in columns] for row in verdicts])
    if repeats:
        terminal.heading("the same sound")
        names = ["groups", "duplicates", "repeated_hours", "most_repeats"]
        terminal.table(["", *names], [[side, *(repeats[side][name] for name in names)] for side in ("before", "after")])
        for part, what in (("regrouped", "duplicates of another recording"), ("repeats", "with other passages")):
            row = repeats[part]
            if row["count"]:
                terminal.echo(f"{row['count']:,} recordings are {what}:")
                columns = list(row["examples"][0])
                terminal.table(columns, [[one[name] for name in columns] for one in row["examples"]])
