"""The funnel that other rules would give, from what was measured: aggregates of SQL, whatever the number of rows.

Windows of recordings that a selection rejected were never cut: those that the change would let in are cut here, all
of them or, beyond `SAMPLE`, those of some batches drawn by a hash of their names, which stand for them.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.choice import Choice, ChoiceError
from manifests.funnel import Funnel
from manifests.lake import Lake
from manifests.names import DUPLICATE
from manifests.rules import check_rules, judge_windows
from manifests.selection import Selection
from manifests.views import CHECKED, connect, in_order, lock, open_views, stages_of
from manifests.windows import OF_RECORDING, cut

SAMPLE = 5000
CLUSTERS = 20
"""Batches that a sample is of, at least: from fewer its error is hardly known."""
GEOMETRY = ("context_s", "continuation_s", "stride_s", "grid_s", "align")


@dataclass(frozen=True)
class WhatIf:
    """`cut` recordings of the `of` whose windows the selection lacks were cut; fewer than all make an estimate.

    `error_h` is the standard error of the hours of kept windows, None where all are of one batch.
    """

    selection: Selection
    funnel: Funnel
    cut: int = 0
    of: int = 0
    error_h: float | None = 0.0


def what_if(lake: Lake, choice: Choice, stored: Selection, changed: Selection, sample: int = SAMPLE) -> WhatIf:
    """The funnel of `changed`, a change of the `stored` selection of `choice`. Raises RuleError for a wrong rule."""
    judge = connect()
    lock(judge, [])
    check_rules(judge, changed)
    rules = " ".join([*changed.recordings.values(), *stored.recordings.values()])
    connection = open_views(lake, choice, stages_of(rules) | {"verdicts"})
    funnel = Funnel(changed.name)
    recut = any(getattr(stored, name) != getattr(changed, name) for name in GEOMETRY)
    _count_recordings(connection, changed, funnel, recut)
    if not recut:
        _count_windows(connection, lake, stored, changed, funnel)
    # Only a rule that is gone or another can let in what the selection kept out.
    loosened = recut or stored.recordings.items() - changed.recordings.items()
    lacking = f"({kept(changed)})" if recut else f"({kept(changed)}) AND verdict <> 'kept'"
    (of,) = connection.execute(f"SELECT count(*) FROM judged WHERE {lacking}").fetchall()[0] if loosened else (0,)
    told = WhatIf(changed, funnel)
    if of:
        wanted = stages_of(rules) | {"verdicts", "signal", "vad", "diarize", "language"}
        parts = _drawn(lake, choice, judge, changed, wanted, lacking, sample if of > sample else None)
        cut, error_h = _estimate(funnel, parts, of)
        told = WhatIf(changed, funnel, cut, of, error_h)
    funnel.remainder_s = funnel.part("recordings", "kept")[1] - funnel.windowed_s
    return told


def kept(selection: Selection) -> str:
    """SQL over `judged` that holds for the recordings that a selection keeps."""
    conditions = [f"coalesce(({rule}), false)" for rule in selection.recordings.values()]
    return " AND ".join(["verdict <> 'failed'", "duplicate_of IS NULL", *conditions])


def _count_recordings(connection: duckdb.DuckDBPyConnection, selection: Selection, funnel: Funnel, recut: bool) -> None:
    """Fill in the verdicts of recordings; failures and duplicates do not depend on rules."""
    failed = connection.execute(
        "SELECT reasons, count(*), sum(duration_s) FROM verdicts WHERE verdict = 'failed' GROUP BY ALL"
    ).fetchall()
    for reasons, count, seconds in failed:
        funnel.tally("recordings", "failed", reasons, count, seconds)
    names = [*selection.recordings, DUPLICATE]
    rules = [*selection.recordings.values(), "duplicate_of IS NULL"]
    windowed_s = "sum(CASE WHEN verdict = 'kept' THEN windowed_s ELSE 0 END)"
    sums = f"count(*), sum(verdict_duration_s), {windowed_s}"
    for reasons, count, seconds, inside_s in _by_reasons(
        connection, names, rules, "judged WHERE verdict <> 'failed'", sums
    ):
        funnel.tally("recordings", "rejected" if reasons else "kept", reasons, count, seconds)
        if not (reasons or recut):
            funnel.windowed_s += inside_s


def _by_reasons(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str], rules: Sequence[str], source: str, sums: str
) -> Iterator[tuple[Any, ...]]:
    """The rules that do not hold, and sums over the rows where just these do not; null does not hold."""
    holds = "".join(f"coalesce(({rule}), false), " for rule in rules)
    rows = connection.execute(f"SELECT {holds}{sums} FROM {source} GROUP BY ALL").fetchall()
    for row in rows:
        if row[len(names)]:
            yield [name for name, held in zip(names, row, strict=False) if not held], *row[len(names) :]


def _count_windows(
    connection: duckdb.DuckDBPyConnection, lake: Lake, stored: Selection, changed: Selection, funnel: Funnel
) -> None:
    """Fill in the stored windows of the recordings that are still kept."""
    source = "windows"
    if stored.recordings != changed.recordings:
        flags = f"SELECT unnest(range(windows)) AS n, {kept(changed)} AS still FROM judged WHERE windows > 0"
        if in_order(connection) and _windows_follow(connection, lake, stored.name):
            source = f"windows POSITIONAL JOIN ({flags}) AS flags WHERE still"
        else:
            source = f"windows SEMI JOIN (SELECT recording_id FROM judged WHERE {kept(changed)}) USING (recording_id)"
    for reasons, count, seconds in _by_reasons(
        connection, list(changed.window_rules), list(changed.window_rules.values()), source, "count(*), sum(duration_s)"
    ):
        funnel.tally("windows", "rejected" if reasons else "kept", reasons, count, seconds)


def _windows_follow(connection: duckdb.DuckDBPyConnection, lake: Lake, selection: str) -> bool:
    """Whether the windows of all verdicts, one after the other, are the rows of `windows`; some ids are compared."""
    totals = "SELECT (SELECT sum(windows) FROM verdicts) = (SELECT count(*) FROM windows)"
    if connection.execute(totals).fetchall() != [(True,)]:
        return False
    batches = list(lake.batches())
    for batch in batches[:: max(1, len(batches) // CHECKED)]:
        verdicts = lake.read(lake.verdicts_key(selection, batch), ["recording_id", "windows"])
        windows = lake.read(lake.windows_key(selection, batch), ["recording_id"])
        ids = np.repeat(verdicts["recording_id"].to_numpy(), verdicts["windows"].to_numpy())
        if not np.array_equal(ids, windows["recording_id"].to_numpy()):
            return False
    return True


@dataclass
class Part:
    """What a batch holds of the recordings to cut, and the funnel of the windows of those that were cut."""

    lacking: int
    cut: int = 0
    funnel: Funnel = field(default_factory=lambda: Funnel("part"))


def _drawn(
    lake: Lake,
    choice: Choice,
    judge: duckdb.DuckDBPyConnection,
    selection: Selection,
    stages: set[str],
    lacking: str,
    sample: int | None,
) -> list[Part]:
    """Windows of the recordings that hold `lacking`: of all, or of about `sample` from batches that are drawn."""
    if sample is None:
        return list(_cut(open_views(lake, choice, stages), judge, selection, lacking, None).values())
    batches = [batch.rpartition("-")[2] for batch in lake.batches()]
    batches.sort(key=lambda number: hashlib.sha256(f"{selection.seed}:{number}".encode()).digest())
    parts: list[Part] = []
    share = math.ceil(sample / min(CLUSTERS, len(batches)))
    while batches and sum(part.cut for part in parts) < sample / 2:
        count = len(parts) or CLUSTERS
        some, batches = batches[:count], batches[count:]
        found = _cut(open_views(lake, choice, stages, some), judge, selection, lacking, share)
        parts += [found.get(number, Part(0)) for number in some]
    return parts


def _cut(
    connection: duckdb.DuckDBPyConnection,
    judge: duckdb.DuckDBPyConnection,
    selection: Selection,
    lacking: str,
    share: int | None,
) -> dict[str, Part]:
    """Windows of the recordings that hold `lacking`, by batch up to `share` of each, or all as of one batch."""
    columns = ", ".join(OF_RECORDING)
    query = f"SELECT {columns}, '' AS number, count(*) OVER () AS held FROM judged WHERE {lacking}"
    if share is not None:
        query = (
            f"SELECT {columns}, number, count(*) OVER (PARTITION BY number) AS held FROM judged JOIN (SELECT "
            "recording_id, regexp_extract(batch, '[0-9]+$') AS number FROM batches) USING (recording_id) "
            f"WHERE {lacking} QUALIFY row_number() OVER (PARTITION BY number ORDER BY hash(recording_id)) <= {share} "
            "ORDER BY number"
        )
    parts: dict[str, Part] = {}
    for some in connection.sql(query).to_arrow_reader(500):
        rows = pa.Table.from_batches([some])
        for number in pc.unique(rows["number"]).to_pylist():
            recordings = rows.filter(pc.equal(rows["number"], number))
            part = parts.setdefault(number, Part(recordings["held"][0].as_py()))
            made = cut(recordings, selection)
            part.cut += len(recordings)
            part.funnel.windowed_s += float(np.minimum(recordings["duration_s"], made.covered_s).sum())
            part.funnel.add_windows(judge_windows(judge, made.windows, selection.window_rules))
    return parts


def _estimate(funnel: Funnel, parts: Sequence[Part], of: int) -> tuple[int, float | None]:
    """Add what the parts say of all `of` recordings; how many were cut, and the standard error of the kept hours.

    A ratio estimate from clusters (Cochran, Sampling Techniques, chapters 6 and 11): recordings of a batch are alike,
    so the error is taken from how the batches differ, not from the number of recordings.
    """
    held, cut = sum(part.lacking for part in parts), sum(part.cut for part in parts)
    kept_s = [part.funnel.part("windows", "kept")[1] * part.lacking / part.cut if part.cut else 0.0 for part in parts]
    for part in parts:
        if part.cut:
            funnel.merge(part.funnel, part.lacking / part.cut * of / held)
    if cut == of:
        return cut, 0.0
    if len(parts) == 1:
        return cut, None
    mean_s = sum(kept_s) / held
    squares = sum((seconds - mean_s * part.lacking) ** 2 for seconds, part in zip(kept_s, parts, strict=True))
    return cut, of / held * math.sqrt(squares * len(parts) / (len(parts) - 1)) / 3600


def compare(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, int, float, int, float, str]]:
    """Rows for people: name, count and hours stored, count and hours now, the change of hours."""
    rows = []
    nothing = {"count": 0, "hours": 0.0}
    for what in ("recordings", "windows"):
        before, after = stored[what], now[what]
        lines = [(f"{what}: {part}", before[part], after[part]) for part in ("in", "kept", "rejected", "failed")]
        for name in dict.fromkeys([*before["reasons"], *after["reasons"]]):
            lines.append((f"  {name}", before["reasons"].get(name, nothing), after["reasons"].get(name, nothing)))
        for name, one, two in lines:
            change_h = round(two["hours"] - one["hours"], 3)
            told = f"{change_h:+,.{3 if abs(change_h) < 1000 else 0}f}" if change_h else "0"
            rows.append((name, one["count"], one["hours"], two["count"], two["hours"], told))
    return rows


def change(
    stored: Selection,
    rules: Mapping[str, str],
    window_rules: Mapping[str, str],
    drop: Sequence[str],
    settings: Mapping[str, Any],
) -> Selection:
    """The selection under changed rules and settings; a rule of a known name takes its place."""
    unknown = set(drop) - stored.recordings.keys() - stored.windows.keys()
    if unknown:
        known = ", ".join(dict.fromkeys([*stored.recordings, *stored.windows])) or "none"
        raise ChoiceError(f"no rule {min(unknown)!r} to drop", f"the rules are: {known}")
    settings = dict(settings)
    recordings = {**stored.recordings, **settings.pop("recordings", {}), **rules}
    windows = {**stored.windows, **settings.pop("windows", {}), **window_rules}
    return replace(
        stored,
        name=f"{stored.name}, changed",
        recordings={name: rule for name, rule in recordings.items() if name not in drop},
        windows={name: rule for name, rule in windows.items() if name not in drop},
        **settings,
    )


def settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Changes of a selection as 'select.context_s=5' writes them. Raises ChoiceError for what a selection has not."""
    known = {known.name for known in fields(Selection)} - {"name", "stages"}
    tables: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        _, _, path = key.strip().partition("select.")
        name, _, rule = path.partition(".")
        if not equals or name not in known or bool(rule) != (name in ("recordings", "windows", "splits")):
            listed = ", ".join(f"select.{name}" for name in sorted(known))
            raise ChoiceError(f"--set {override!r}", f"write --set KEY=VALUE with one of {listed}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        if rule:
            tables.setdefault(name, {})[rule] = value
        else:
            tables[name] = value
    return tables
