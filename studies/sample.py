"""Sample size: how many recordings to annotate to estimate the hours of a language, or above a score, to a margin.

Recordings are sampled but hours are estimated, so the estimator is a ratio over recordings (`estimate.py`). The
variance comes from a pilot, the recordings of a lake that are annotated already, or from the worst case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from manifests.commands import terminal
from manifests.commands.stats import Rows, rows_of
from runtime.errors import SpeechmillError
from studies.estimate import Ratio, quantile

FEW = 30
"""With fewer recordings, the variance of a pilot is little more than a guess, and means are not normally
distributed."""
UNKNOWN = "unknown"
BY_RECORDING = ("recordings", "annotations", "signal", "verdicts")
"""Views with one row for each recording. In other views, the rows of a recording are added up."""


def needed(
    half_width: float, deviation_s: float, mean_s: float, confidence: float, population: float = math.inf
) -> int:
    """Return the number of recordings to draw to know a share of the hours to within `half_width`.

    Args:
        half_width: Margin of the share to each side.
        deviation_s: `Ratio.deviation_s` of the pilot.
        mean_s: Mean length of recordings, seconds.
        confidence: Probability that the estimate is within the margin.
        population: Number of recordings to draw from, for the finite population correction.

    Returns:
        At least FEW, unless the population is smaller.
    """
    infinite = (quantile(confidence) * deviation_s / (half_width * mean_s)) ** 2
    count = infinite / (1 + infinite / population)
    return int(min(population, max(FEW, math.ceil(count - 1e-9))))


def upper_limit(count: int) -> float:
    """Return the factor by which to multiply the variance of a pilot of `count` recordings.

    It gives the upper end of the one-sided 80 % confidence interval of the variance, as R. H. Browne (Statistics in
    Medicine 14, 1995) advises. A sample planned with the variance itself would be too small half of the time.
    """
    from scipy.special import chdtri

    return float((count - 1) / chdtri(count - 1, 0.8))


def from_pilot(
    connection: duckdb.DuckDBPyConnection,
    view: str,
    groups: str,
    margin: float,
    relative: bool,
    confidence: float,
    hours: float | None,
    only: str | None = None,
) -> dict[str, Any]:
    """Plan the sample that each group needs, with the recordings of a view as the pilot.

    Args:
        connection: The views of the lake.
        view: A view with the columns recording_id and duration_s; see BY_RECORDING.
        groups: SQL expression that gives the group of a row.
        margin: Half width of the interval, as a share of all hours or, with `relative`, of the hours of the group.
        relative: See `margin`.
        confidence: Of the interval.
        hours: Hours of all recordings that the sample is drawn from; None for infinitely many.
        only: Plan for this group only.

    Raises:
        SpeechmillError: The view has no such columns, or the pilot has one recording, or none of the group.
    """
    lacking = {"recording_id", "duration_s"} - set(connection.sql(f"FROM {view} LIMIT 0").columns)
    if lacking:
        what = f"the view {view} has no column {' and '.join(sorted(lacking))}, so hours cannot be counted in it"
        raise SpeechmillError(what, "choose --view recordings or --view windows")
    ratios = _ratios(connection, view, groups)
    first = next(iter(ratios.values()))[0]
    unmeasured_s = ratios[UNKNOWN][0].total if UNKNOWN in ratios else 0.0
    mean_s = first.seconds / first.count
    population = math.inf if hours is None else max(1.0, hours * 3600 / mean_s)
    wanted = {name: ratio for name, ratio in ratios.items() if only in (None, name)}
    if first.count < 2 or not wanted:
        what = "the pilot has a single recording" if first.count < 2 else f"no recording of the pilot meets {only}"
        raise SpeechmillError(what, "annotate more recordings, or leave out LAKE to plan for the worst case")
    rows = []
    for name, (ratio, members) in wanted.items():
        half_width = margin * ratio.value if relative else margin
        deviation_s = ratio.deviation_s * math.sqrt(upper_limit(ratio.count))
        count = needed(half_width, deviation_s, mean_s, confidence, population)
        error = ratio.half_width(confidence)
        rows.append(
            {
                "group": name,
                "pilot_recordings": members,
                "share": ratio.value,
                "share_low": max(0.0, ratio.value - error) if math.isfinite(error) else None,
                "share_high": min(1.0, ratio.value + error) if math.isfinite(error) else None,
                "half_width": half_width,
                "recordings": count,
                "hours": count * mean_s / 3600,
                "is_guess": min(members, ratio.count - members) < FEW,
            }
        )
    return {
        "basis": "pilot",
        "pilot": {"recordings": first.count, "hours": first.seconds / 3600, "unmeasured_hours": unmeasured_s / 3600},
        "mean_recording_s": mean_s,
        "population": None if math.isinf(population) else round(population),
        "groups": rows,
        **_largest(rows),
    }


def worst_case(
    margin: float,
    relative: bool,
    confidence: float,
    share: float,
    mean_s: float,
    variation: float,
    hours: float | None,
) -> dict[str, Any]:
    """Plan a sample without a pilot.

    The worst case is that each recording belongs to the group as a whole or not at all.

    Args:
        margin: As in `from_pilot`.
        relative: As in `from_pilot`.
        confidence: As in `from_pilot`.
        share: Expected share of the group in the hours; the worst is a half.
        mean_s: Mean length of recordings, seconds.
        variation: Standard deviation of the lengths over their mean. The sample grows with 1 + its square.
        hours: As in `from_pilot`.
    """
    half_width = margin * share if relative else margin
    deviation_s = mean_s * math.sqrt(share * (1 - share) * (1 + variation * variation))
    population = math.inf if hours is None else max(1.0, hours * 3600 / mean_s)
    count = needed(half_width, deviation_s, mean_s, confidence, population)
    row = {"group": "any", "pilot_recordings": 0, "share": share, "share_low": None, "share_high": None}
    row |= {"half_width": half_width, "recordings": count, "hours": count * mean_s / 3600, "is_guess": False}
    return {
        "basis": "worst case",
        "pilot": None,
        "mean_recording_s": mean_s,
        "population": None if math.isinf(population) else round(population),
        "groups": [row],
        **_largest([row]),
    }


def groups_of_condition(condition: str) -> str:
    """Return SQL that names rows by the condition if they meet it, 'the rest' if not, and NULL if it is unknown."""
    name = condition.replace("'", "''")
    return f"CASE WHEN ({condition}) THEN '{name}' WHEN NOT ({condition}) THEN 'the rest' END"


def _largest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the largest sample, which suffices for all groups."""
    most = max(rows, key=lambda row: row["recordings"])
    return {"recordings": most["recordings"], "sample_hours": most["hours"], "decided_by": most["group"]}


def _ratios(connection: duckdb.DuckDBPyConnection, view: str, groups: str) -> dict[str, tuple[Ratio, int]]:
    """Return the ratio of each group's seconds to all seconds, and the number of recordings with any of the group."""
    if view in BY_RECORDING:  # a recording is in one group, so no table of all recordings is needed
        of_group = f"SELECT coalesce(({groups})::VARCHAR, '{UNKNOWN}') AS name, duration_s AS y FROM {view}"
        query = (
            "SELECT name, count(*) AS members, sum(y) AS y, sum(y * y) AS yy, sum(y * y) AS xy, sum(count(*)) OVER () "
            f"AS n, sum(sum(y)) OVER () AS x, sum(sum(y * y)) OVER () AS xx FROM ({of_group} WHERE duration_s > 0) "
            "GROUP BY 1 ORDER BY 3 DESC, 1"
        )
        return _as_ratios(rows_of(connection, query), view)
    query = (
        f"WITH parts AS (SELECT recording_id, ({groups})::VARCHAR AS name, sum(duration_s) AS y FROM {view} "
        "WHERE duration_s > 0 GROUP BY ALL), "
        "wholes AS (SELECT recording_id, sum(y) AS x FROM parts GROUP BY ALL), "
        "whole AS (SELECT count(*) AS n, sum(x) AS x, sum(x * x) AS xx FROM wholes) "
        f"SELECT coalesce(name, '{UNKNOWN}') AS name, count(*) AS members, sum(y) AS y, sum(y * y) AS yy, "
        "sum(wholes.x * y) AS xy, any_value(whole.n) AS n, any_value(whole.x) AS x, any_value(whole.xx) AS xx "
        "FROM parts JOIN wholes USING (recording_id), whole GROUP BY 1 ORDER BY 3 DESC, 1"
    )
    return _as_ratios(rows_of(connection, query), view)


def _as_ratios(rows: Rows, view: str) -> dict[str, tuple[Ratio, int]]:
    if not rows:
        raise SpeechmillError(f"no recording of the view {view} has a length", "annotate some recordings first")
    return {
        row["name"]: (Ratio(row["n"], row["x"], row["xx"], row["y"], row["yy"], row["xy"]), row["members"])
        for row in rows
    }


def render(plan: Mapping[str, Any]) -> None:
    """Print the plan."""
    pilot = plan["pilot"]
    if pilot:
        terminal.echo(f"pilot: {pilot['recordings']:,} recordings, {pilot['hours']:,.2f} h", dim=True)
        if pilot["unmeasured_hours"]:
            terminal.echo(f"{pilot['unmeasured_hours']:,.2f} h of it have no value; they are the group {UNKNOWN}")
    columns = ["group", "pilot_recordings", "share", "share_low", "share_high", "half_width", "recordings", "hours"]
    terminal.table(
        [name.replace("_", " ") for name in columns], [[row[name] for name in columns] for row in plan["groups"]]
    )
    population = "" if plan["population"] is None else f" of {plan['population']:,}"
    share = "the share of each group" if len(plan["groups"]) > 1 else "the share of the group"
    terminal.echo(
        f"draw {plan['recordings']:,} recordings{population} at random, about {plan['sample_hours']:,.2f} h: with "
        f"{100 * plan['confidence']:g} % confidence, {share} in the hours is then known to within its half width",
        bold=True,
    )
    if any(row["is_guess"] for row in plan["groups"]):
        terminal.echo(f"the size is a guess where a group, or the rest, has fewer than {FEW} recordings in the pilot")
