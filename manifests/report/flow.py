"""The funnel as the report shows it: a tree in which every hour flows once, and tables; from funnel.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_REASONS = 7
"""Combinations of reasons that have a box of their own, those with most hours; the others share one."""

MAX_NAME = 44
"""Letters of a name in a box; the whole name stands in the box's tooltip and in the tables."""


NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Node:
    """A box of the diagram: a part of the recordings, of the windows or, without a `count`, of the sound alone.

    `drawn_h` are the hours as the diagram draws them, on the scale of the recordings: windows that overlap hold more
    `hours` than the sound that they are cut from. `depth` counts the boxes between this one and all recordings.
    """

    depth: int
    name: str
    verdict: str
    hours: float
    drawn_h: float
    what: str = ""
    count: int | None = None

    @property
    def label(self) -> str:
        return shortened(self.name)

    def lines(self, whole_h: float) -> list[str]:
        """Its count, and its hours with their share of all hours, as words."""
        share = self.drawn_h / whole_h if whole_h else 0.0
        percent = "under 1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")
        counted = [] if self.count is None else [plural(self.count, self.what)]
        hours, percent = (text.replace(" ", NO_BREAK) for text in (hours_text(self.hours), percent))
        return [*counted, f"{hours} · {percent}"]


def nodes(funnel: Mapping[str, Any]) -> list[Node]:
    """The tree, each box before those that its hours flow into: verdicts, then their reasons or windows."""
    recordings, windows = funnel["recordings"], funnel["windows"]
    inside_h = recordings["kept"]["hours"] - funnel["remainder_hours"]
    scale = inside_h / windows["in"]["hours"] if windows["in"]["hours"] else 0.0
    found = [_node(0, "all recordings", "", "recordings", recordings["in"])]
    found.append(_node(1, "kept", "kept", "recordings", recordings["kept"]))
    found.append(Node(2, "in windows", "kept", inside_h, inside_h, "windows", windows["in"]["count"]))
    found.append(_node(3, "windows kept", "kept", "windows", windows["kept"], scale))
    found += _combinations(3, "windows", windows, "rejected", scale, "rejected: ")
    found.append(Node(2, "outside any window", "", funnel["remainder_hours"], funnel["remainder_hours"]))
    for verdict in ("rejected", "failed"):
        found.append(_node(1, verdict, verdict, "recordings", recordings[verdict]))
        found += _combinations(2, "recordings", recordings, verdict)
    # Rounding may leave a few nanoseconds outside any window: they are no part of the sound.
    return [found[0], *(node for node in found[1:] if node.count or node.hours > 1e-6)]


def _node(depth: int, name: str, verdict: str, what: str, part: Mapping[str, Any], scale: float = 1.0) -> Node:
    return Node(depth, name, verdict, part["hours"], part["hours"] * scale, what, part["count"])


def _combinations(
    depth: int, what: str, part: Mapping[str, Any], verdict: str, scale: float = 1.0, prefix: str = ""
) -> Iterator[Node]:
    """Boxes of the combinations of reasons that made a verdict, those beyond the largest few as one."""
    found = [row for row in part["jointly"] if row["verdict"] == verdict]
    found.sort(key=lambda row: (-row["hours"], -row["count"], row["reasons"]))
    shown, rest = found[:MAX_REASONS], found[MAX_REASONS:]
    for row in shown:
        yield _node(depth, prefix + " + ".join(row["reasons"]), verdict, what, row, scale)
    if rest:
        total = {key: sum(row[key] for row in rest) for key in ("hours", "count")}
        yield _node(depth, prefix + plural(len(rest), "other combinations"), verdict, what, total, scale)


def overlapping(funnel: Mapping[str, Any]) -> str:
    """What must be said where windows overlap and so hold more hours than the sound that they are cut from."""
    inside_h = funnel["recordings"]["kept"]["hours"] - funnel["remainder_hours"]
    hours = funnel["windows"]["in"]["hours"]
    if hours <= inside_h * 1.001:
        return ""
    return (
        f"Windows overlap: {hours_text(hours)} of windows are cut from {hours_text(inside_h)} of sound, "
        "and the diagram draws them on the scale of the sound."
    )


def label(funnel: Mapping[str, Any]) -> str:
    """The diagram in a sentence."""
    recordings = funnel["recordings"]
    parts = [hours_text(part["hours"]) for part in (recordings["in"], recordings["kept"], funnel["windows"]["kept"])]
    return f"Funnel: {parts[0]} in, {parts[1]} kept, {parts[2]} in kept windows"


def rows(part: Mapping[str, Any], rules: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Rows of the table of recordings or of windows, reasons last, each with the condition of its rule."""
    for name in ("in", "kept", "rejected", "failed"):
        yield {"name": name, "count": f"{part[name]['count']:,}", "hours": _cell(part[name]["hours"])}
    for name, row in part["reasons"].items():
        counts = {key: f"{row[key]:,}" for key in ("count", "alone_count")}
        told = {"name": name, "reason": True, "condition": rules.get(name, "")}
        yield told | counts | {key: _cell(row[key]) for key in ("hours", "alone_hours")}


def _cell(hours: float) -> str:
    return f"{hours:,.3f}" if hours < 1000 else f"{hours:,.0f}"  # five columns of a large lake fit their card


def hours_text(hours: float) -> str:
    """Hours with as many decimals as say something.

    >>> [hours_text(hours) for hours in (0.0, 0.0001, 0.2964, 7.126, 42.125, 12345.6)]
    ['0 h', 'under 0.001 h', '0.296 h', '7.13 h', '42.1 h', '12,346 h']
    """
    if hours < 0.0005:
        return "under 0.001 h" if hours > 0 else "0 h"
    return f"{hours:,.{3 if hours < 1 else 2 if hours < 10 else 1 if hours < 100 else 0}f} h"


def plural(count: int, what: str) -> str:
    """A count with its noun, which is given in the plural.

    >>> plural(1, "recordings"), plural(1200, "windows")
    ('1 recording', '1,200 windows')
    """
    return f"{count:,} {what.removesuffix('s') if count == 1 else what}"


def shortened(name: str, width: int = MAX_NAME) -> str:
    """A combination of reasons by the first of them, and a long name by its beginning, so that a box can hold it.

    >>> shortened("conversation + speech + one_language + little_music")
    'conversation + speech + 2 more'
    >>> shortened("a_name_that_goes_on + speech", width=20)
    'a_name_that… + 1 more'
    """
    reasons = name.split(" + ")
    for shown in range(len(reasons), 0, -1):
        more = f" + {len(reasons) - shown} more" if shown < len(reasons) else ""
        first = " + ".join(reasons[:shown])
        if len(first + more) <= width:
            return first + more
    return f"{first[: width - len(more)]}…{more}"
