"""How large a sample of recordings must be, so that it tells the hours of languages, speakers or scores well enough.

Recordings are drawn, hours are asked for: the estimator is a ratio over recordings (`estimate.py`). The spread comes
from a pilot, which is what a lake has measured so far, or without one from the worst case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from manifests.look import terminal
from manifests.look.stats import Rows, rows_of
from runtime.errors import SpeechmillError
from studies.estimate import Ratio, quantile

FEW = 30
"""Recordings below which the spread that a pilot shows is little more than a guess, and means are not yet normal."""
UNKNOWN = "unknown"


def needed(
    half_width: float, deviation_s: float, mean_s: float, confidence: float, population: float = math.inf
) -> int:
    """Recordings to draw so that the share of the hours is within `half_width` with this confidence.

    `deviation_s` is `Ratio.deviation_s`, `mean_s` the mean length of recordings. Drawn without being put back, a sample
    from few recordings may be smaller (the finite population correction). Never under FEW, unless there are fewer.
    """
    infinite = (quantile(confidence) * deviation_s / (half_width * mean_s)) ** 2
    count = infinite / (1 + infinite / population)
    return int(min(population, max(FEW, math.ceil(count - 1e-9))))


def upper_limit(count: int) -> float:
    """What the variance that a pilot of so many recordings shows is multiplied by, so as to be large enough.

    The upper end of its one-sided interval with 80 % confidence, as R. H. Browne (Statistics in Medicine 14, 1995)
    advises: a sample planned by the variance itself would be too small half of the time.
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
    """The sample that each group needs, by the recordings of a view (annotations or windows) as pilot.

    `groups` is SQL that names the group of a row; `only` is the one that matters, if not all do. `margin` is of the
    share of the hours, or with `relative` of the group's own hours. `hours` are those of all recordings that the sample
    is drawn from; None for very many. Raises SpeechmillError where the pilot is of no use.
    """
    ratios = _ratios(connection, view, groups)
    first = next(iter(ratios.values()))[0]
    unmeasured_s = ratios[UNKNOWN][0].total if UNKNOWN in ratios else 0.0
    mean_s = first.seconds / first.count
    population = math.inf if hours is None else max(1.0, hours * 3600 / mean_s)
    wanted = {name: found for name, found in ratios.items() if only in (None, name)}
    if first.count < 2 or not wanted:
        what = "the pilot has a single recording" if first.count < 2 else f"no recording of the pilot is of {only}"
        raise SpeechmillError(what, "annotate more recordings, or leave out LAKE and plan for the worst case")
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
    """The sample for a group of which nothing is known but that it has `share` of the hours, the worst being a half.

    Each recording is wholly of the group or not, which spreads most; `variation` is the coefficient of variation of the
    lengths of recordings, which makes a sample larger by 1 + its square.
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


def meeting(condition: str) -> str:
    """SQL that names what meets a condition by the condition, and null what was not measured."""
    name = condition.replace("'", "''")
    return f"CASE WHEN ({condition}) THEN '{name}' WHEN NOT ({condition}) THEN 'the rest' END"


def _largest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sample that serves all groups."""
    most = max(rows, key=lambda row: row["recordings"])
    return {"recordings": most["recordings"], "sample_hours": most["hours"], "decided_by": most["group"]}


def _ratios(connection: duckdb.DuckDBPyConnection, view: str, groups: str) -> dict[str, tuple[Ratio, int]]:
    """The ratio of each group's seconds to all, over the recordings of a view, and how many have any of the group."""
    if view == "annotations":  # a row is a recording, wholly of one group: no table of all recordings is needed
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


def render(found: Mapping[str, Any]) -> None:
    """The plan for people."""
    pilot = found["pilot"]
    if pilot:
        terminal.echo(f"pilot: {pilot['recordings']:,} recordings, {pilot['hours']:,.2f} h", dim=True)
        if pilot["unmeasured_hours"]:
            terminal.echo(f"{pilot['unmeasured_hours']:,.2f} h of it were not measured: they are the group {UNKNOWN}")
    columns = ["group", "pilot_recordings", "share", "share_low", "share_high", "half_width", "recordings", "hours"]
    terminal.table(
        [name.replace("_", " ") for name in columns], [[row[name] for name in columns] for row in found["groups"]]
    )
    of = "" if found["population"] is None else f" of {found['population']:,}"
    known = (
        f"the share of the hours of {found['decided_by']} is then known to within its half width, and so are those of "
        "the others"
        if len(found["groups"]) > 1
        else "its share of the hours is then known to within its half width"
    )
    terminal.echo(
        f"draw {found['recordings']:,} recordings{of} at random, about {found['sample_hours']:,.2f} h: with "
        f"{100 * found['confidence']:g} % confidence {known}",
        bold=True,
    )
    if any(row["is_guess"] for row in found["groups"]):
        terminal.echo(f"where a group or the rest has under {FEW} recordings in the pilot, its sample is a guess")
