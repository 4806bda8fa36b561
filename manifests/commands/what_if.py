"""Computes the funnel under changed rules from stored measures, by SQL aggregates over any number of rows.

A selection cuts no windows of the recordings that it rejects. Windows of recordings that the change lets in are
therefore cut here: of all of them or, beyond `SAMPLE`, of a sample of batches, from which the rest is estimated.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
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
from manifests.view_columns import parts_needed
from manifests.views import CHECKED, connect, in_order, lock, open_views
from manifests.windows import OF_RECORDING, cut

SAMPLE = 5000
CLUSTERS = 20
"""Smallest number of batches in a sample: the error of an estimate from fewer is hardly known."""
FIXED = {"name", "stages", "matches", "duplicate_share"}
"""Fields of a selection that cannot be changed here: groups of duplicates are those of the stored selection."""
GEOMETRY = ("context_s", "continuation_s", "stride_s", "grid_s", "align")


@dataclass(frozen=True)
class ChangedSelection(Selection):
    """A selection that is never stored, so that a rule without a name can be named by its condition."""

    def _check_rule_name(self, rule: str) -> None:
        pass


@dataclass(frozen=True)
class WhatIf:
    """The funnel under changed rules.

    `of` is the number of recordings whose windows the stored selection lacks, and `cut` the number of those that were
    cut for this answer; where it is smaller, the funnel is an estimate. `error_h` is the standard error of the hours of
    kept windows; None where all of the sample is from one batch.
    """

    selection: Selection
    funnel: Funnel
    cut: int = 0
    of: int = 0
    error_h: float | None = 0.0


def what_if(lake: Lake, choice: Choice, stored: Selection, changed: Selection, sample: int = SAMPLE) -> WhatIf:
    """Compute the funnel of `changed`, which is the `stored` selection of `choice` under other rules or settings.

    About `sample` recordings are cut, where the change lets in more. Raises RuleError for a wrong rule.
    """
    judge = connect()
    lock(judge, [])
    check_rules(judge, changed)
    rules = " ".join([*changed.recordings.values(), *stored.recordings.values()])
    connection = open_views(lake, choice, parts_needed(rules) | {"verdicts"})
    funnel = Funnel(changed.name)
    recut = any(getattr(stored, name) != getattr(changed, name) for name in GEOMETRY)
    _count_recordings(connection, changed, funnel, recut)
    if not recut:
        _count_windows(connection, lake, stored, changed, funnel)
    # Only a rule that is removed or changed can let in a recording that the selection rejected.
    loosened = recut or stored.recordings.items() - changed.recordings.items()
    lacking = f"({kept(changed)})" if recut else f"({kept(changed)}) AND verdict <> 'kept'"
    (of,) = connection.execute(f"SELECT count(*) FROM recordings WHERE {lacking}").fetchall()[0] if loosened else (0,)
    answer = WhatIf(changed, funnel)
    if of:
        wanted = parts_needed(rules) | {"verdicts", "signal", "vad", "diarize", "language"}
        parts = _cut_sample(lake, choice, judge, changed, wanted, lacking, sample if of > sample else None)
        cut, error_h = _estimate(funnel, parts, of)
        answer = WhatIf(changed, funnel, cut, of, error_h)
    funnel.remainder_s = funnel.part("recordings", "kept")[1] - funnel.windowed_s
    return answer


def kept(selection: Selection) -> str:
    """SQL condition over `recordings` that is true for the recordings that a selection keeps."""
    conditions = [f"coalesce(({rule}), false)" for rule in selection.recordings.values()]
    return " AND ".join(["verdict <> 'failed'", "duplicate_of IS NULL", *conditions])


def _count_recordings(connection: duckdb.DuckDBPyConnection, selection: Selection, funnel: Funnel, recut: bool) -> None:
    """Add the verdicts of recordings to the funnel; failures and duplicates do not depend on rules."""
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
        connection, names, rules, "recordings WHERE verdict <> 'failed'", sums
    ):
        funnel.tally("recordings", "rejected" if reasons else "kept", reasons, count, seconds)
        if not (reasons or recut):
            funnel.windowed_s += inside_s


def _by_reasons(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str], rules: Sequence[str], source: str, sums: str
) -> Iterator[tuple[Any, ...]]:
    """Each combination of rules that fail together, with sums over the rows where exactly these fail.

    A rule whose value is null fails.
    """
    holds = "".join(f"coalesce(({rule}), false), " for rule in rules)
    rows = connection.execute(f"SELECT {holds}{sums} FROM {source} GROUP BY ALL").fetchall()
    for row in rows:
        if row[len(names)]:
            yield [name for name, held in zip(names, row, strict=False) if not held], *row[len(names) :]


def _count_windows(
    connection: duckdb.DuckDBPyConnection, lake: Lake, stored: Selection, changed: Selection, funnel: Funnel
) -> None:
    """Add the stored windows of the recordings that are still kept to the funnel."""
    source = "window_verdicts"
    if stored.recordings != changed.recordings:
        flags = f"SELECT unnest(range(windows)) AS n, {kept(changed)} AS still FROM recordings WHERE windows > 0"
        if in_order(connection) and _windows_follow(connection, lake, stored.name):
            source = f"window_verdicts POSITIONAL JOIN ({flags}) AS flags WHERE still"
        else:
            ids = f"SELECT recording_id FROM recordings WHERE {kept(changed)}"
            source = f"window_verdicts SEMI JOIN ({ids}) USING (recording_id)"
    for reasons, count, seconds in _by_reasons(
        connection, list(changed.window_rules), list(changed.window_rules.values()), source, "count(*), sum(duration_s)"
    ):
        funnel.tally("windows", "rejected" if reasons else "kept", reasons, count, seconds)


def _windows_follow(connection: duckdb.DuckDBPyConnection, lake: Lake, selection: str) -> bool:
    """Whether the rows of `window_verdicts` follow the order of `verdicts`: counts and some ids are compared."""
    totals = "SELECT (SELECT sum(windows) FROM verdicts) = (SELECT count(*) FROM window_verdicts)"
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
    """Of one batch: the number of recordings to cut, the number that were cut, and the funnel of their windows."""

    lacking: int
    cut: int = 0
    funnel: Funnel = field(default_factory=lambda: Funnel("part"))


def _cut_sample(
    lake: Lake,
    choice: Choice,
    judge: duckdb.DuckDBPyConnection,
    selection: Selection,
    stages: set[str],
    lacking: str,
    sample: int | None,
) -> list[Part]:
    """Cut the windows of the recordings that meet `lacking`: all, or about `sample` of them from a draw of batches."""
    if sample is None:
        return list(_cut_windows(open_views(lake, choice, stages), judge, selection, lacking, None).values())
    batches = [batch.rpartition("-")[2] for batch in lake.batches()]
    batches.sort(key=lambda number: hashlib.sha256(f"{selection.seed}:{number}".encode()).digest())
    parts: list[Part] = []
    share = math.ceil(sample / min(CLUSTERS, len(batches)))
    while batches and sum(part.cut for part in parts) < sample / 2:
        count = len(parts) or CLUSTERS
        numbers, batches = batches[:count], batches[count:]
        by_batch = _cut_windows(open_views(lake, choice, stages, numbers), judge, selection, lacking, share)
        parts += [by_batch.get(number, Part(0)) for number in numbers]
    return parts


def _cut_windows(
    connection: duckdb.DuckDBPyConnection,
    judge: duckdb.DuckDBPyConnection,
    selection: Selection,
    lacking: str,
    share: int | None,
) -> dict[str, Part]:
    """Cut the windows of the recordings that meet `lacking`: up to `share` of each batch, or all as one batch."""
    columns = ", ".join(OF_RECORDING)
    query = f"SELECT {columns}, '' AS number, count(*) OVER () AS held FROM recordings WHERE {lacking}"
    if share is not None:
        query = (
            f"SELECT {columns}, number, count(*) OVER (PARTITION BY number) AS held FROM recordings JOIN (SELECT "
            "recording_id, regexp_extract(batch, '[0-9]+$') AS number FROM batches) USING (recording_id) "
            f"WHERE {lacking} QUALIFY row_number() OVER (PARTITION BY number ORDER BY hash(recording_id)) <= {share} "
            "ORDER BY number"
        )
    parts: dict[str, Part] = {}
    for record_batch in connection.sql(query).to_arrow_reader(500):
        rows = pa.Table.from_batches([record_batch])
        for number in pc.unique(rows["number"]).to_pylist():
            recordings = rows.filter(pc.equal(rows["number"], number))
            part = parts.setdefault(number, Part(recordings["held"][0].as_py()))
            cut_windows = cut(recordings, selection)
            part.cut += len(recordings)
            part.funnel.windowed_s += float(np.minimum(recordings["duration_s"], cut_windows.covered_s).sum())
            part.funnel.add_windows(judge_windows(judge, cut_windows.windows, selection.window_rules))
    return parts


def _estimate(funnel: Funnel, parts: Sequence[Part], of: int) -> tuple[int, float | None]:
    """Add the estimate for all `of` recordings to the funnel.

    Returns how many recordings were cut, and the standard error of the kept hours; None where there is one batch only.
    This is a ratio estimate from clusters (Cochran, Sampling Techniques, chapters 6 and 11): recordings of a batch are
    alike, so the error comes from the differences between batches, not from the number of recordings.
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
    """Rows of a table that compares two funnels: name, stored count and hours, new count and hours, change of hours."""
    rows = []
    nothing = {"count": 0, "hours": 0.0}
    for what in ("recordings", "windows"):
        before, after = stored[what], now[what]
        lines = [(f"{what}: {part}", before[part], after[part]) for part in ("in", "kept", "rejected", "failed")]
        for name in dict.fromkeys([*before["reasons"], *after["reasons"]]):
            lines.append((f"  {name}", before["reasons"].get(name, nothing), after["reasons"].get(name, nothing)))
        for name, one, two in lines:
            change_h = round(two["hours"] - one["hours"], 3)
            text = f"{change_h:+,.{3 if abs(change_h) < 1000 else 0}f}" if change_h else "0"
            rows.append((name, one["count"], one["hours"], two["count"], two["hours"], text))
    return rows


def change(
    stored: Selection,
    rules: Mapping[str, str],
    window_rules: Mapping[str, str],
    drop: Sequence[str],
    settings: Mapping[str, Any],
) -> Selection:
    """The selection under changed rules and settings. A rule with the name of an existing one replaces it."""
    unknown = set(drop) - stored.recordings.keys() - stored.windows.keys()
    if unknown:
        known = ", ".join(dict.fromkeys([*stored.recordings, *stored.windows])) or "none"
        raise ChoiceError(f"no rule {min(unknown)!r} to drop", f"the rules are: {known}")
    settings = dict(settings)
    recordings = {**stored.recordings, **settings.pop("recordings", {}), **rules}
    windows = {**stored.windows, **settings.pop("windows", {}), **window_rules}
    changed = {
        "name": f"{stored.name}, changed",
        "recordings": {name: rule for name, rule in recordings.items() if name not in drop},
        "windows": {name: rule for name, rule in windows.items() if name not in drop},
        **settings,
    }
    return ChangedSelection(**{**vars(stored), **changed})


def settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Parse settings of a selection, such as 'select.context_s=5'. Raises ChoiceError for an unknown one."""
    known = {known.name for known in fields(Selection)} - FIXED
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
