"""Results of diarization that are kept in a file, and the comparison of new results with those of an earlier run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLED = 2000
"""Samples of the recordings, drawn with replacement, that give the interval of a difference (bootstrap)."""


@dataclass
class Measured:
    """What is kept of the diarization of one recording."""

    name: str
    duration_s: float
    speakers: int
    found: int
    errors: np.ndarray
    """Seconds (collars, 4): missed, false alarm, confusion, and all speech of the reference; NaN without one."""
    conditions: dict[str, str]


def save(file: Path, results: Sequence[Measured]) -> None:
    """Write results as JSON, one recording a line."""
    lines = [json.dumps({**vars(one), "errors": one.errors.tolist()}) for one in results]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def load(file: Path) -> list[Measured]:
    """Read what `save` wrote."""
    rows: list[dict[str, Any]] = json.loads(file.read_text())
    return [Measured(**{**row, "errors": np.array(row["errors"])}) for row in rows]


def compare(before: Sequence[Measured], now: Sequence[Measured]) -> str:
    """A table in Markdown: errors before and now of the recordings that both have, for each value of each condition.

    Errors are in percent of the speech of the references. The last column is the difference of the errors with its 95 %
    interval over recordings.
    """
    earlier = {one.name: one for one in before}
    pairs = [(earlier[one.name], one) for one in now if one.name in earlier]
    groups: defaultdict[str, list[tuple[Measured, Measured]]] = defaultdict(list)
    for pair in pairs:
        groups["all"].append(pair)
        for condition, value in pair[1].conditions.items():
            groups[f"{condition}: {value}"].append(pair)
    shown = "error / missed / false alarm / confusion / +-0.25 s / right"
    lines = [f"| | files | before: {shown} | now | difference |", "|---|---|---|---|---|"]
    for name, chosen in sorted(groups.items(), key=lambda group: (group[0] != "all", group[0])):
        cells = [_cells([pair[which] for pair in chosen]) for which in (0, 1)]
        lines.append(f"| {name} | {len(chosen)} | {cells[0]} | {cells[1]} | {_difference(chosen)} |")
    missing = len({*earlier} ^ {one.name for one in now})
    if missing:
        lines.append(f"\n{missing} recordings are in one of the two runs only, and left out")
    return "\n".join(lines)


def _cells(results: Sequence[Measured]) -> str:
    right = sum(one.found == one.speakers for one in results)
    totals = np.nansum([one.errors for one in results], axis=0)
    if not totals[0, 3]:
        return str(right)
    missed, false, confusion, total = totals[0]
    shares = [missed + false + confusion, missed, false, confusion, totals[1, :3].sum() * total / totals[1, 3]]
    return " / ".join([*(f"{100 * share / total:.1f}" for share in shares), str(right)])


def _difference(pairs: Sequence[tuple[Measured, Measured]]) -> str:
    """The error now less the error before, and the 95 % interval of it, in percent of all speech."""
    seconds = np.array([[one.errors[0] for one in pair] for pair in pairs])  # (recordings, 2, 4)
    seconds = seconds[np.isfinite(seconds).all(axis=(1, 2))]
    if not len(seconds):
        return ""
    wrong, total = seconds[:, :, :3].sum(axis=2), seconds[:, 0, 3]
    more = wrong[:, 1] - wrong[:, 0]
    drawn = np.random.default_rng(0).integers(0, len(more), (RESAMPLED, len(more)))
    sampled = 100 * more[drawn].sum(axis=1) / np.maximum(total[drawn].sum(axis=1), 1e-9)
    low, high = np.percentile(sampled, [2.5, 97.5])
    return f"{100 * more.sum() / max(total.sum(), 1e-9):+.1f} ({low:+.1f} to {high:+.1f})"
