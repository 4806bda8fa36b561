"""The funnel as the report shows it: links of a Sankey diagram and rows of a table, from a selection's funnel.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_REASONS = 7
Link = tuple[str, str, float, str, str]
"""From, to, hours drawn, what to tell, and the verdict that gives the colour."""


def links(funnel: dict[str, Any]) -> list[Link]:
    """Every hour flows once: from all recordings to its verdict, from there to its reasons or into its windows."""
    recordings, windows = funnel["recordings"], funnel["windows"]
    outside_h = funnel["remainder_hours"]
    inside_h = recordings["kept"]["hours"] - outside_h
    # Windows that overlap hold more hours than the sound they are cut from: they are drawn to its scale.
    scale = inside_h / windows["in"]["hours"] if windows["in"]["hours"] else 0.0
    found: list[Link] = [
        ("all recordings", verdict, recordings[verdict]["hours"], _told(verdict, recordings[verdict]), verdict)
        for verdict in ("kept", "rejected", "failed")
    ]
    found += _combinations(recordings, "rejected", "rejected", "", 1.0)
    found += _combinations(recordings, "failed", "failed", "", 1.0)
    found.append(("kept", "outside any window", outside_h, f"outside any window: {hours_text(outside_h)}", ""))
    found.append(("kept", "in windows", inside_h, f"in windows: {hours_text(inside_h)}", "kept"))
    kept = windows["kept"]
    found.append(("in windows", "kept windows", kept["hours"] * scale, _told("kept windows", kept), "kept"))
    found += _combinations(windows, "in windows", "rejected", "window: ", scale)
    return [link for link in found if link[2] > 0]


def label(funnel: dict[str, Any]) -> str:
    """The diagram in a sentence."""
    recordings = funnel["recordings"]
    parts = [hours_text(part["hours"]) for part in (recordings["in"], recordings["kept"], funnel["windows"]["kept"])]
    return f"Funnel: {parts[0]} in, {parts[1]} kept, {parts[2]} in kept windows; the tables below hold every number"


def rows(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of the table of recordings or of windows, reasons last."""
    for name in ("in", "kept", "rejected", "failed"):
        yield {"name": name, "count": f"{part[name]['count']:,}", "hours": _cell(part[name]["hours"])}
    for name, row in part["reasons"].items():
        counts = {key: f"{row[key]:,}" for key in ("count", "alone_count")}
        yield {"name": name, "reason": True, **counts, **{key: _cell(row[key]) for key in ("hours", "alone_hours")}}


def _cell(hours: float) -> str:
    return f"{hours:,.3f}" if hours < 1000 else f"{hours:,.0f}"  # five columns of a large lake fit their card


def hours_text(hours: float) -> str:
    if 0 < hours < 0.005:
        return "under 0.01 h"
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.2f} h"


def _combinations(part: dict[str, Any], origin: str, verdict: str, prefix: str, scale: float) -> Iterator[Link]:
    """Links to the combinations of reasons that made a verdict, those beyond the largest few as one."""
    found = [row for row in part["jointly"] if row["verdict"] == verdict]
    found.sort(key=lambda row: (-row["hours"], row["reasons"]))
    shown, rest = found[:MAX_REASONS], found[MAX_REASONS:]
    for row in shown:
        name = prefix + " + ".join(row["reasons"])
        yield origin, name, row["hours"] * scale, _told(name, row), verdict
    if rest:
        name = f"{prefix}{len(rest)} other combinations"
        total = {key: sum(row[key] for row in rest) for key in ("hours", "count")}
        yield origin, name, total["hours"] * scale, _told(name, total), verdict


def _told(name: str, row: dict[str, Any]) -> str:
    return f"{name}: {hours_text(row['hours'])}, {row['count']:,}"
