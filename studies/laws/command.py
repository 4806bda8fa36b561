"""Fit each group of runs in a table with the options of `speechmill study fit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.output import counted
from runtime.errors import SpeechmillError
from studies.laws import runs
from studies.laws.estimate import Points
from studies.laws.fit import Settings, study
from studies.laws.law import Law
from studies.laws.runs import Columns, Table

MAX_RUNS = 2_000
MOST_WORK = 400_000
"""Largest number of runs times resamples. Larger tables get fewer resamples, so that the command takes seconds."""


@dataclass(frozen=True)
class Fitted:
    """The law of one group with its document and points, or the error if there is none."""

    group: str
    document: dict[str, Any] | None = None
    law: Law | None = None
    points: Points | None = None
    error: dict[str, str] | None = None


def fit_table(
    table: Path,
    *,
    where: list[tuple[str, str]],
    params: str | None,
    tokens: str | None,
    loss: str | None,
    flops: str | None,
    run: str | None,
    by: str | None,
    metrics: tuple[str, ...],
    params_are: str | None,
    tokens_are: str | None,
    outlier_sd: float,
    misfit_sd: float,
    resamples: int,
    **settings: Any,
) -> tuple[dict[str, Any], list[Fitted]]:
    """Read a table and fit its groups.

    Returns:
        A description of the table as it was read, and the result of each group. A group without a law has its error.

    Raises:
        SpeechmillError: The table cannot be read, or no group identifies a law.
    """
    read = runs.read(table, Columns(params, tokens, loss, flops, run, by, metrics), where)
    if not read.groups:
        reasons = "; ".join(f"{counted(count, 'row')}: {reason}" for reason, count in read.dropped.counts.items())
        raise SpeechmillError(f"{table}: no row can be used: {reasons}", "correct the table, or name other columns")
    found = []
    errors = []
    for name, group in read.groups.items():
        count = len(group.points)
        if count > MAX_RUNS:
            raise SpeechmillError(
                f"{table}: {count:,} runs, more than {MAX_RUNS:,}",
                "give one row per run, or name the column that identifies a run with --run",
            )
        fewer = min(resamples, max(100, MOST_WORK // count))
        chosen = Settings(**settings, ratio_sd=outlier_sd, residual_sd=misfit_sd, resamples=fewer)
        what = f"{table}, {by} = {name}" if by else str(table)
        try:
            document, law, points = study(group, chosen, what)
            found.append(Fitted(name, document, law, points))
        except SpeechmillError as error:
            errors.append(error)
            found.append(Fitted(name, error={"message": str(error), "remedy": error.remedy}))
    if len(errors) == len(found):
        raise errors[0]
    return _describe(table, read, params_are, tokens_are), found


def _describe(path: Path, read: Table, params_are: str | None, tokens_are: str | None) -> dict[str, Any]:
    of_params = params_are or f"from {read.columns['params'] or '6 N D'}; unknown whether with embeddings"
    of_tokens = tokens_are or f"from {read.columns['tokens'] or '6 N D'}; unknown whether with context"
    counting = [
        f"N: parameters, {of_params}",
        f"D: tokens, {of_tokens}",
        "C = 6 N D; each row is assumed to be at the end of a run whose schedule has ended",
    ]
    if several := sum(int((group.evaluations > 1).sum()) for group in read.groups.values()):
        counting.append(
            f"{counted(several, 'run')} with several rows: their losses are evaluations of one model, averaged"
        )
    return {
        "path": str(path),
        "rows": read.rows,
        "columns": read.columns,
        "dropped": read.dropped.as_list(),
        "counting": counting,
    }
