"""What a person sees: tables, bars and timelines within 80 columns; plain where the output is piped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from manifests.output import one_line, printable, to_json

BLOCKS = " ▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉█"


def as_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(to_json(value, indent=1))


def number(value: Any) -> str:
    """A value as people read it: thousands apart, four significant digits after the point at most."""
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


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Rows under their names; numbers to the right, what is too long cut with an ellipsis."""
    rows, columns = list(rows), [one_line(name) for name in columns]
    above = Text(one_line(title)) if title else None
    made = Table(box=None, pad_edge=False, title=above, title_justify="left", header_style="bold")
    for index, name in enumerate(columns):
        values = [row[index] for row in rows if row[index] is not None]
        numeric = bool(values) and all(isinstance(value, int | float) for value in values)
        longest = max([len(name), *(len(number(value)) for value in values)])
        made.add_column(
            Text(name), justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis",
            min_width=longest if numeric else min(longest, 20),
        )  # fmt: skip
    for row in rows:
        made.add_row(*(Text(number(value)) for value in row))
    echo(made)


def pairs(rows: Mapping[str, Any], indent: str = "  ") -> None:
    """Names and values, a line each, long values wrapped below themselves."""
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
    made.add_column(style="cyan", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        made.add_row(Text(indent + one_line(name)), Text(number(value)))
    echo(made)


def echo(text: Any) -> None:
    """Print with rich: colours and the width of the terminal, neither where it is piped. Strings hold no markup."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 80
    with console.capture() as captured:
        console.print(Text(printable(text)) if isinstance(text, str) else text)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def heading(text: str) -> None:
    echo(Text(printable(text), style="bold"))


def bar(value: float, most: float, width: int) -> str:
    """A bar in eighths of a character."""
    eighths = round(8 * width * value / most) if most > 0 else 0
    eighths = max(eighths, 1 if value > 0 else 0)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def timeline(spans: Iterable[tuple[float, float]], duration_s: float, width: int) -> str:
    """How much of each of `width` equal stretches the spans cover, as blocks; spans must not overlap one another.

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
    """Times over a timeline: its start, its quarters and its end."""
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
