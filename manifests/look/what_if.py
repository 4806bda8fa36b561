"""The funnel that other rules would give, from what was measured: aggregates of SQL, whatever the number of rows.

Windows of recordings that a selection rejected were never cut: those that the change would let in are cut here, all
of them or, beyond `SAMPLE`, a fair sample that stands for them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from manifests.funnel import Funnel
from manifests.lake import Lake
from manifests.select import Selection, check_rules, judge_windows
from manifests.views import CHECKED, Choice, ChoiceError, connect, in_order, lock, open_views, stages_of
from manifests.windows import OF_RECORDING, cut

SAMPLE = 5000
GEOMETRY = ("context_s", "continuation_s", "stride_s", "grid_s", "align")


@dataclass(frozen=True)
class WhatIf:
    """`cut` recordings of the `of` whose windows the selection lacks were cut; fewer than all make an estimate."""

    selection: Selection
    funnel: Funnel
    cut: int = 0
    of: int = 0


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
    done = 0
    if of:
        connection = open_views(lake, choice, stages_of(rules) | {"verdicts", "signal", "vad", "diarize", "language"})
        done = _cut(connection, judge, changed, funnel, lacking, sample, of)
    funnel.remainder_s = funnel.part("recordings", "kept")[1] - funnel.windowed_s
    return WhatIf(changed, funnel, done, of)


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
    names = [*selection.recordings, "duplicate"]
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
        connection, list(changed.windows), list(changed.windows.values()), source, "count(*), sum(duration_s)"
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


def _cut(
    connection: duckdb.DuckDBPyConnection,
    judge: duckdb.DuckDBPyConnection,
    selection: Selection,
    funnel: Funnel,
    lacking: str,
    sample: int,
    of: int,
) -> int:
    """Cut windows of the recordings that hold `lacking` and count them, scaled where only a sample is cut."""
    chosen = f" ORDER BY hash(recording_id) LIMIT {sample}" if of > sample else ""
    found = connection.sql(f"SELECT {', '.join(OF_RECORDING)} FROM judged WHERE {lacking}{chosen}")
    part, done = Funnel("part"), 0
    for batch in found.to_arrow_reader(500):
        recordings = pa.Table.from_batches([batch])
        made = cut(recordings, selection)
        part.windowed_s += float(np.minimum(recordings["duration_s"], made.covered_s).sum())
        part.add_windows(judge_windows(judge, made.windows, selection.windows))
        done += len(recordings)
    funnel.merge(part, of / done)
    return done


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
            told = f"{change_h:+,.3f}" if change_h else "0"
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
    known = {field.name for field in fields(Selection)} - {"name", "stages"}
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
