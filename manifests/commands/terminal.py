"""Tables, bars and timelines for a terminal, which are cut to its width and then say what was left out.

A pipe gets whole rows.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import click
from rich.cells import cell_len, set_cell_size

from manifests.output import one_line, printable, to_json

BLOCKS = " ▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉█"
WIDE = "speechmill.wide"
"""Key in the `meta` of click's context: whether --wide was given."""
GAP = 2
LEAST = 20
"""Fewest characters to which a text is cut, with an ellipsis, to fit a terminal."""
PADDED = 60
"""Widest column of padded values in a pipe. A longer value moves the rest of its own row only."""
FOLD = partial(textwrap.wrap, break_on_hyphens=False, break_long_words=False)  # a path or an id is copied whole
NEVER_CUT = ("id", "selection", "dataset", "fingerprint", "example", "window", "shard")
"""Endings of the names of columns whose values are never cut, since people copy them."""


def as_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(to_json(value, indent=1))


def number(value: Any) -> str:
    """A value for people: thousands separated by commas, and about four significant digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value) or value == 0:
            return f"{value:g}"
        digits = max(0, min(4, 3 - math.floor(math.log10(abs(value)))))
        return f"{value:,.{digits}f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{one_line(str(key))} {number(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(number(item) for item in value)
    return one_line(str(value))


def width() -> int | None:
    """The largest number of characters in a line; None for any number, in a pipe and with --wide.

    $COLUMNS sets it for both a terminal and a pipe.
    """
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(WIDE):
        return None
    columns = os.environ.get("COLUMNS", "")
    if not (columns.isdecimal() and int(columns)) and not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], more: str = "--wide shows all") -> None:
    """Print rows below the names of their columns, with numbers aligned to the right.

    On a narrow terminal texts are cut with an ellipsis, except for ids. Columns that still do not fit are left out from
    the right; a last line names them and says, by `more`, how to see them.
    """
    rows, names = [list(row) for row in rows], [one_line(name) for name in columns]
    numeric = [_is_numeric([row[index] for row in rows]) for index in range(len(names))]
    lines = [[number(value) for value in row] for row in rows]
    longest = [max(map(cell_len, column)) for column in zip(names, *lines, strict=True)]
    room = width()
    if room is None:
        shown, widths = list(range(len(names))), [min(one, PADDED) for one in longest]
    else:
        least = [
            one if numeric[index] or names[index].endswith(NEVER_CUT) else min(one, max(LEAST, cell_len(names[index])))
            for index, one in enumerate(longest)
        ]
        shown, widths = _fitted(least, longest, room)
    for place, line in enumerate([names, *lines]):
        cells = (_cell(line[index], widths[index], numeric[index], room is not None) for index in shown)
        _line((" " * GAP).join(cells).rstrip(), bold=not place)
    if len(shown) < len(names):
        left_out = ", ".join(name for index, name in enumerate(names) if index not in shown)
        echo(f"left out, because {room} columns are too few: {left_out}; {more}")


def _is_numeric(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, int | float) for value in known)


def _fitted(least: Sequence[int], longest: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """Which columns fit (at least the first) and their widths. Columns that need little get spare room first."""
    shown = list(range(len(least)))
    while len(shown) > 1 and sum(least[index] + GAP for index in shown) - GAP > room:
        shown.pop()
    widths = list(least)
    spare = max(0, room - sum(least[index] + GAP for index in shown) + GAP)
    waiting = sorted(shown, key=lambda index: longest[index] - least[index])
    for place, index in enumerate(waiting):
        more = min(longest[index] - least[index], spare // (len(waiting) - place))
        widths[index] += more
        spare -= more
    return shown, widths


def _cell(text: str, wide: int, numeric: bool, cut: bool) -> str:
    missing = wide - cell_len(text)
    if missing < 0:
        return set_cell_size(text, wide - 1) + "…" if cut else text
    return " " * missing + text if numeric else text + " " * missing


def pairs(rows: Mapping[str, Any], indent: str = "  ") -> None:
    """Print a line for each name and its value. On a terminal a long value is continued below itself."""
    names = [indent + one_line(name) for name in rows]
    wide = max(map(cell_len, names), default=0)
    room = width()
    for name, value in zip(names, rows.values(), strict=True):
        text = number(value)
        folded = [text] if room is None else FOLD(text, max(LEAST, room - wide - 1)) or [""]
        start = name + " " * (wide - cell_len(name) + 1)
        for line in folded:
            echo((start + line).rstrip())
            start = " " * (wide + 1)


def echo(text: str, bold: bool = False, dim: bool = False) -> None:
    """Print a text with control characters escaped; bold or dim on a terminal, unless $NO_COLOR is set.

    Lines that are too long for a terminal are folded between words, but not at a no-break space.
    """
    room = width()
    for line in printable(text).split("\n"):
        inset = line[: len(line) - len(line.lstrip())]
        long = room is not None and cell_len(line) > room
        for part in FOLD(line, room or 0, subsequent_indent=inset) if long else [line]:
            _line(part.replace("\xa0", " "), bold, dim)


def _line(text: str, bold: bool, dim: bool = False) -> None:
    styled = (bold or dim) and not os.environ.get("NO_COLOR")
    click.echo(click.style(text, bold=bold or None, dim=dim or None) if styled else text)


def heading(text: str) -> None:
    echo(text, bold=True)


def bar(value: float, most: float, width: int) -> str:
    """A bar of block characters, to an eighth of a character; `width` characters stand for `most`."""
    eighths = round(8 * width * value / most) if most > 0 else 0
    eighths = max(eighths, 1 if value > 0 else 0)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def timeline(spans: Iterable[tuple[float, float]], duration_s: float, width: int) -> str:
    """How much of each of `width` equal parts of the duration the spans cover, as block characters.

    The spans must not overlap one another.

    >>> timeline([(0.0, 1.0), (3.0, 4.0)], 4.0, 8)
    '██    ██'
    """
    covered = [0.0] * width
    cell_s = duration_s / width
    for start_s, end_s in spans:
        for cell in range(int(start_s / cell_s), min(width, math.ceil(end_s / cell_s))):
            covered[cell] += max(0.0, min(end_s, (cell + 1) * cell_s) - max(start_s, cell * cell_s))
    return "".join(BLOCKS[min(8, math.ceil(8 * seconds / cell_s - 1e-6))] for seconds in covered)


def ruler(duration_s: float, width: int) -> str:
    """A line of times to print above a timeline: its start, its quarters and its end."""
    line = ""
    for quarter in range(4):
        line = line.ljust(quarter * width // 4) + clock(duration_s * quarter / 4)
    end = clock(duration_s)
    return line.ljust(width)[: width - len(end)] + end


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any.

    >>> clock(75.5), clock(3725)
    ('1:15.5', '1:02:05')
    """
    hours, rest = divmod(round(seconds, 1), 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{rest:04.1f}".removesuffix(".0")
    return f"{int(hours)}:{int(minutes):02}:{text}" if hours else f"{int(minutes)}:{text}"
