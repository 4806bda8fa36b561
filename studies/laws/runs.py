"""Read a table of training runs: convert and check every row, and count the rows that are left out by reason."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.output import one_line
from runtime.errors import SpeechmillError
from studies.laws.estimate import Points
from studies.laws.law import FLOP_PER_PARAM_TOKEN, Array

MAX_BYTES = 32_000_000
MAX_ROWS = 20_000
MAX_COLUMNS = 1_000
MAX_GROUPS = 50
EXAMPLES = 5
NAMES: dict[str, tuple[str, ...]] = {
    "params": ("params", "n", "n_params", "num_params", "parameters", "model_size"),
    "tokens": ("tokens", "d", "n_tokens", "num_tokens", "training_tokens", "train_tokens"),
    "loss": ("loss", "val_loss", "validation_loss", "eval_loss", "final_loss", "test_loss", "l"),
    "flops": ("flops", "flop", "c", "compute", "training_flops", "train_flops"),
}
"""Default names of columns, in any case. The first one that the table has is used."""
BOUNDS = {"params": (1e3, 1e16), "tokens": (1e3, 1e19), "flops": (1e9, 1e34), "loss": (0.0, 1e6)}
"""Valid ranges. A model with less than a thousand parameters is probably given in millions."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns. None means a default name."""

    params: str | None = None
    tokens: str | None = None
    loss: str | None = None
    flops: str | None = None
    run: str | None = None
    """Column with the name or id of the run. Each row is one evaluation of a run."""
    by: str | None = None
    """Column by whose values to fit separate laws."""
    metrics: tuple[str, ...] = ()
    """Columns of downstream metrics."""


@dataclass
class Dropped:
    """Counts of rows that were left out, by reason, with the first few line numbers."""

    counts: dict[str, int] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=dict)

    def add(self, reason: str, line: int) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.lines.setdefault(reason, [])
        if len(self.lines[reason]) < EXAMPLES:
            self.lines[reason].append(line)

    def as_list(self) -> list[dict[str, Any]]:
        return [{"reason": reason, "rows": n, "lines": self.lines[reason]} for reason, n in self.counts.items()]


@dataclass(frozen=True)
class Runs:
    """The runs for one law. There is one point per run, whose loss is the mean over its evaluations."""

    points: Points
    lines: tuple[int, ...]
    """First line of each run in the table."""
    evaluations: npt.NDArray[np.int64]
    """Number of rows, which are evaluations, of each run."""
    evaluation_sd: float | None
    """Pooled standard deviation of ln L among the evaluations of a run; None if no run has two."""
    flops: Array | None
    """Compute of each run from the table's own column, if it has one."""
    metrics: Mapping[str, Array]
    """Downstream metrics of each run, NaN if missing."""

    def take(self, which: npt.NDArray[np.bool_]) -> Runs:
        """Select runs by mask."""
        return Runs(
            self.points.take(which),
            tuple(np.array(self.lines)[which].tolist()),
            self.evaluations[which],
            self.evaluation_sd,
            None if self.flops is None else self.flops[which],
            {name: values[which] for name, values in self.metrics.items()},
        )


@dataclass(frozen=True)
class Table:
    """The content of a table."""

    columns: dict[str, str | None]
    """Name of the column that is used for each quantity."""
    rows: int
    dropped: Dropped
    groups: dict[str, Runs]
    """Runs by the value of the column `by`; without one, a single group ''."""


def read(path: Path, columns: Columns, where: Sequence[tuple[str, str]] = ()) -> Table:
    """Read runs from a CSV table that is separated by commas, semicolons or tabs.

    Args:
        path: The file.
        columns: Names of its columns.
        where: Pairs of a column and a value. Only rows with all of these values are used.

    Raises:
        SpeechmillError: The file is not such a table, lacks a column, or exceeds the limits of this module.
    """
    found: dict[str, str | None] = {}
    dropped = Dropped()
    kept: dict[str, list[tuple[int, dict[str, float], str]]] = defaultdict(list)
    seen: set[tuple[str, ...]] = set()
    count = 0
    for line, row in _rows(path):
        if not found:
            found = _resolve(columns, list(row), path)
            for name, _ in where:
                _check(name, row, path, "--where")
        if count == MAX_ROWS:
            raise SpeechmillError(
                f"{path}: more than {MAX_ROWS:,} rows",
                "give the last row of each run: points in the middle of a run belong in no scaling law",
            )
        count += 1
        cells = tuple(row.values())
        if any(row[name].strip() != value for name, value in where):
            dropped.add("excluded by --where", line)
        elif cells in seen:
            dropped.add("equal to an earlier row in every column", line)
        else:
            seen.add(cells)
            values, reason = _values(row, found, columns.metrics)
            if reason:
                dropped.add(reason, line)
            else:
                kept[row[columns.by].strip() if columns.by else ""].append(
                    (line, values, _run_of(row, columns, values))
                )
    if not found:
        raise SpeechmillError(f"{path}: no row under the header", "give a table with a row for each run")
    if len(kept) > MAX_GROUPS:
        raise SpeechmillError(
            f"{path}: {columns.by} has {len(kept):,} values, more than {MAX_GROUPS}",
            "use a column with few values for --by, such as the corpus",
        )
    groups = {name: _runs(rows, columns, dropped) for name, rows in sorted(kept.items())}
    return Table(found, count, dropped, groups)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line numbers and rows, by the names in the header."""
    if path.stat().st_size > MAX_BYTES:
        raise SpeechmillError(
            f"{path}: {path.stat().st_size / 1e6:,.0f} MB, more than the {MAX_BYTES / 1e6:.0f} MB that are read",
            "give one row for each run instead of its whole curve",
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            delimiter = max(",;\t", key=head.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(header, path)
            for row in reader:
                if any(cell.strip() for cell in row):
                    if len(row) > len(header):
                        raise SpeechmillError(
                            f"{path}:{reader.line_num}: {len(row)} cells under {len(header)} columns",
                            "quote cells that hold the separator",
                        )
                    yield reader.line_num, dict(zip(header, row + [""] * (len(header) - len(row)), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SpeechmillError(f"{path}: not a CSV table: {error}", "save the table as CSV in UTF-8") from error


def _check_header(header: list[str], path: Path) -> None:
    if not header or not any(header):
        raise SpeechmillError(f"{path}: is empty", "give a CSV table whose first line names its columns")
    if len(header) > MAX_COLUMNS:
        raise SpeechmillError(f"{path}: {len(header):,} columns, more than {MAX_COLUMNS:,}", "leave some out")
    if twice := {name for name in header if header.count(name) > 1}:
        raise SpeechmillError(f"{path}: two columns are called {one_line(min(twice))!r}", "rename one of them")


def _resolve(columns: Columns, header: list[str], path: Path) -> dict[str, str | None]:
    """Return the column of each quantity. Any two of params, tokens and flops are enough."""
    found: dict[str, str | None] = {}
    named_ones = {
        columns.params,
        columns.tokens,
        columns.loss,
        columns.flops,
        columns.run,
        columns.by,
        *columns.metrics,
    }
    lower = {name.lower(): name for name in reversed(header) if name not in named_ones}
    for what, usual in NAMES.items():
        named = getattr(columns, what)
        if named is not None:
            _check(named, header, path, f"--{what}")
        found[what] = named or next((lower[name] for name in usual if name in lower), None)
    for option, name in [("--run", columns.run), ("--by", columns.by), *(("--metric", m) for m in columns.metrics)]:
        if name is not None:
            _check(name, header, path, option)
    there = ", ".join(one_line(name) for name in header[:20])
    missing = [what for what in ("params", "tokens") if found[what] is None]
    if found["loss"] is None or len(missing) > (found["flops"] is not None):
        what = "loss" if found["loss"] is None else missing[0]
        raise SpeechmillError(
            f"{path}: no column {what}; there are {there}", f"name the column with --{what} COLUMN, or add it"
        )
    return found


def _check(name: str, header: Any, path: Path, option: str) -> None:
    if name not in header:
        there = ", ".join(one_line(name) for name in list(header)[:20])
        raise SpeechmillError(f"{path}: no column {one_line(name)!r}, as {option} says", f"there are: {there}")


def _values(
    row: Mapping[str, str], found: Mapping[str, str | None], metrics: Sequence[str]
) -> tuple[dict[str, float], str]:
    """Return the numbers of a row, and the reason if it cannot be used."""
    values: dict[str, float] = {}
    for what, column in found.items():
        if column is None:
            continue
        text = row[column].strip()
        try:
            value = float(text)
        except ValueError:
            return {}, f"{column} is empty" if not text else f"{column} is not a number"
        low, high = BOUNDS[what]
        if not math.isfinite(value):
            return {}, f"{column} is not finite"
        if value <= 0:
            return {}, f"{column} is not above 0"
        if not low <= value <= high:
            return {}, f"{column} is not between {low:g} and {high:g}: give plain numbers, not millions or logarithms"
        values[what] = value
    for what, other in (("params", "tokens"), ("tokens", "params")):
        if what not in values:
            values[what] = values["flops"] / FLOP_PER_PARAM_TOKEN / values[other]
    for name in metrics:
        try:
            values[name] = float(row[name])
        except ValueError:
            values[name] = math.nan
    return values, ""


def _run_of(row: Mapping[str, str], columns: Columns, values: Mapping[str, float]) -> str:
    return row[columns.run].strip() if columns.run else f"{values['params']!r} {values['tokens']!r}"


def _runs(rows: list[tuple[int, dict[str, float], str]], columns: Columns, dropped: Dropped) -> Runs:
    """Make one point per run: the mean loss of the rows of the run that have the most tokens."""
    by_run: dict[str, list[tuple[int, dict[str, float]]]] = defaultdict(list)
    for line, values, run in rows:
        by_run[run].append((line, values))
    lines, points, spreads, evaluations = [], [], [], []
    for members in by_run.values():
        last = max(values["tokens"] for _, values in members)
        for line, values in members:
            if values["tokens"] < last:
                dropped.add("not at the end of its run", line)
        ended = [(line, values) for line, values in members if values["tokens"] == last]
        logs = [math.log(values["loss"]) for _, values in ended]
        spreads += [value - sum(logs) / len(logs) for value in logs] if len(logs) > 1 else []
        evaluations.append(len(ended))
        names = ("params", "tokens", "flops", "loss", *columns.metrics)
        points.append([float(np.mean([values.get(name, math.nan) for _, values in ended])) for name in names])
        lines.append(ended[0][0])
    array = np.array(points)
    free = len(spreads) - sum(1 for members in by_run.values() if len(members) > 1)
    sd = math.sqrt(sum(value**2 for value in spreads) / max(1, free)) if spreads else None
    flops = None if np.isnan(array[:, 2]).any() else array[:, 2]
    metrics = {name: array[:, 4 + index] for index, name in enumerate(columns.metrics)}
    return Runs(Points(array[:, 0], array[:, 1], array[:, 3]), tuple(lines), np.array(evaluations), sd, flops, metrics)
