"""Statistics and differences as a terminal shows them; each takes what stats.py or diff.py returns."""

from __future__ import annotations

from typing import Any

from manifests.look import terminal
from manifests.output import one_line


def groups(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0]) if rows else []
    terminal.table(
        names, [[f"{row[n]:.1%}" if n == "share" and row[n] is not None else row[n] for n in names] for row in rows]
    )


def view(found: dict[str, Any]) -> None:
    hours = "" if found["hours"] is None else f", {found['hours']:,.3f} h"
    terminal.heading(f"{found['view']}: {found['count']:,} rows{hours}")
    if found.get("quantiles"):
        terminal.echo(f"duration_s, {quantiles(found)}")
    measures(found["measures"])


def quantiles(found: dict[str, Any]) -> str:
    """Quantiles of a distribution in a line, said to be near where they are."""
    marks = [f"{float(share) * 100:g} % {terminal.number(value)}" for share, value in found["quantiles"].items()]
    return ("quantiles: " if found["exact"] else "quantiles, nearly: ") + ", ".join(marks)


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
        name = (
            str(row["value"]) if "value" in row else f"{terminal.number(row['from'])} to {terminal.number(row['to'])}"
        )
        hours = "" if row["hours"] is None else f"{row['hours']:>12,.3f} h"
        terminal.echo(f"{one_line(name)[:22]:>22} {terminal.bar(row['count'], most, 28):<28}{row['count']:>12,}{hours}")


def overview(found: dict[str, Any]) -> None:
    recordings = found["recordings"]
    hours = recordings.get("hours", recordings["claimed_hours"])
    kind = "" if "hours" in recordings else " claimed"
    terminal.heading(
        f"{recordings['count']:,} recordings, {hours:,.3f} h{kind}, {(recordings['size_bytes'] or 0) / 1e9:,.3f} GB; "
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
        columns = ["split", "windows", "hours", "frames"]
        terminal.table(columns, [[row[name] for name in columns] for row in found["dataset"]["splits"]])


def difference(found: dict[str, Any]) -> None:
    recordings = {part: row for part, row in found.get("recordings", {}).items() if row["count"]}
    verdicts = found.get("verdicts")
    if not (found["settings"] or recordings or verdicts):
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
