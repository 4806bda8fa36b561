"""The funnel of funnel.json as the report shows it: a tree in which every hour is counted once, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_REASONS = 7
"""Number of combinations of reasons, by hours, that have their own box; the others share one."""

MAX_NAME = 44
"""Longest name in a box, in characters. The tooltip of the box and the tables have the whole name."""


NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Node:
    """A box of the diagram: a part of the recordings, of the windows or, without a `count`, of the sound.

    `drawn_h` are its hours on the scale of the recordings: windows that overlap have more `hours` than the sound from
    which they are cut. `depth` is the number of boxes between this one and the first.
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
        """The texts in the box: its count, and its hours with their share of `whole_h`."""
        share = self.drawn_h / whole_h if whole_h else 0.0
        percent = "under 1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")
        counted = [] if self.count is None else [plural(self.count, self.what)]
        hours, percent = (text.replace(" ", NO_BREAK) for text in (hours_text(self.hours), percent))
        return [*counted, f"{hours} · {percent}"]


def nodes(funnel: Mapping[str, Any]) -> list[Node]:
    """The boxes of the tree, each before those below it: verdicts, then their reasons or windows."""
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
    # Rounding may leave a few nanoseconds outside any window, which are not sound.
    return [found[0], *(node for node in found[1:] if node.count or node.hours > 1e-6)]


def _node(depth: int, name: str, verdict: str, what: str, part: Mapping[str, Any], scale: float = 1.0) -> Node:
    return Node(depth, name, verdict, part["hours"], part["hours"] * scale, what, part["count"])


def _combinations(
    depth: int, what: str, part: Mapping[str, Any], verdict: str, scale: float = 1.0, prefix: str = ""
) -> Iterator[Node]:
    """A box for each of the largest combinations of reasons behind a verdict, and one for all others."""
    found = [row for row in part["jointly"] if row["verdict"] == verdict]
    found.sort(key=lambda row: (-row["hours"], -row["count"], row["reasons"]))
    shown, rest = found[:MAX_REASONS], found[MAX_REASONS:]
    for row in shown:
        yield _node(depth, prefix + " + ".join(row["reasons"]), verdict, what, row, scale)
    if rest:
        total = {key: sum(row[key] for row in rest) for key in ("hours", "count")}
        yield _node(depth, prefix + plural(len(rest), "other combinations"), verdict, what, total, scale)


def overlapping(funnel: Mapping[str, Any]) -> str:
    """A note for windows that overlap and thus have more hours than the sound from which they are cut, or ''."""
    inside_h = funnel["recordings"]["kept"]["hours"] - funnel["remainder_hours"]
    hours = funnel["windows"]["in"]["hours"]
    if hours <= inside_h * 1.001:
        return ""
    return (
        f"Windows overlap: {hours_text(hours)} of windows are cut from {hours_text(inside_h)} of sound. "
        "The diagram draws windows on the scale of the sound."
    )


def label(funnel: Mapping[str, Any]) -> str:
    """The diagram as a sentence, for screen readers."""
    recordings = funnel["recordings"]
    parts = [hours_text(part["hours"]) for part in (recordings["in"], recordings["kept"], funnel["windows"]["kept"])]
    return f"Funnel: {parts[0]} in, {parts[1]} kept, {parts[2]} in kept windows"


def rows(part: Mapping[str, Any], rules: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of the table of recordings or windows; reasons come last, with the condition of their rule."""
    for name in ("in", "kept", "rejected", "failed"):
        yield {"name": name, "count": f"{part[name]['count']:,}", "hours": _cell(part[name]["hours"])}
    for name, row in part["reasons"].items():
        counts = {key: f"{row[key]:,}" for key in ("count", "alone_count")}
        reason = {"name": name, "reason": True, "condition": rules.get(name, "")}
        yield reason | counts | {key: _cell(row[key]) for key in ("hours", "alone_hours")}


def _cell(hours: float) -> str:
    return (
        f"{hours:,.3f}" if hours < 1000 else f"{hours:,.0f}"
    )  # so that the five columns of a large lake fit into their card


def hours_text(hours: float) -> str:
    """Hours with about three significant digits.

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
    """Shorten a combination of reasons to the first ones, and a long name to its beginning, to fit a box.

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
