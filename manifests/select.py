"""Selection: a pure function from annotations to verdicts and windows. No sound is touched and nothing is dropped.

Every recording becomes kept, rejected with every rule it breaks, or failed with every stage that failed.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import duplicates, schemas, sums
from manifests.corrupt import CorruptFileError
from manifests.fingerprint import pretty
from manifests.funnel import Funnel, credible_s
from manifests.lake import Lake
from manifests.names import DUPLICATE
from manifests.selection import Selection
from manifests.spans import Array
from manifests.sql import NotReadingError, read_only
from manifests.tables import concat_batches, write_parquet_bytes
from manifests.view_columns import annotation_columns
from manifests.windows import OF_RECORDING, cut, listed

AT_ONCE = 20_000
"""Recordings and windows that are judged at a time."""
SPAN = 100
"""Batches that are judged in one process: whatever the number of processes, as sums of floats depend on it."""


class RuleError(ValueError):
    """A rule that DuckDB does not understand."""


@dataclass(frozen=True)
class Span:
    """Batches that follow one another: what a process selects from on its own."""

    number: int
    batches: tuple[str, ...]
    keepers: Mapping[str, str]
    """By recording: the one with the same samples, or the same sound, that is kept instead of it."""
    draws: Mapping[str, str] = field(default_factory=dict)
    """By recording that is kept of a group: the hash that draws the split of the group."""


@dataclass(frozen=True)
class Part:
    """What came of a span."""

    number: int
    funnel: Funnel
    sums: sums.Sums
    written: bytes
    """The hashes of the files of verdicts and windows that were written, one after the other."""


def select(
    lake: Lake,
    selection: Selection,
    spread: Callable[[Callable[[Span], Part], Iterable[Span]], Iterable[Part]] = map,
    batches: Sequence[str] | None = None,
) -> Funnel:
    """Write verdicts and windows of every batch under `selections/<name>/` and return the funnel.

    Nothing is done again where that was done of the lake as it is. `batches` are all of the lake unless some are named.
    `spread` maps spans over processes, results in any order; a single span is judged here. Raises RuleError before
    anything is written if a rule names an unknown column, and FileNotFoundError if a batch has not been annotated.
    """
    if batches is None:
        batches = list(lake.batches())
        if _is_made(lake, selection, len(batches)):
            return Funnel.from_dict(lake.read_json(f"selections/{selection.name}/funnel.json"))
    with (
        tempfile.TemporaryDirectory(prefix="speechmill-select-") as folder,
        duckdb.connect(f"{folder}/select.duckdb") as connection,
    ):
        # On disk: the hashes of all samples do not fit into memory at any scale.
        _confine(connection)
        check_rules(connection, selection)
        _find_duplicates(connection, lake, selection, batches)
        lake.storage.put(f"selections/{selection.name}/selection.json", pretty(asdict(selection)).encode())
        over = spread if len(batches) > SPAN else map
        parts = _in_order(over(partial(_judge_span, lake, selection), _spans(connection, batches)))
        made = next(parts)
        written = hashlib.sha256(made.written)
        for part in parts:
            made.funnel.merge(part.funnel)
            made.sums.merge(part.sums)
            written.update(part.written)
    made.funnel.check()
    lake.storage.put(f"selections/{selection.name}/funnel.json", pretty(made.funnel.as_dict()).encode())
    sums.write(lake, selection.name, selection.stages, made.sums, max(batches, default=""), written.hexdigest())
    return made.funnel


def _is_made(lake: Lake, selection: Selection, batches: int) -> bool:
    """Whether this selection is there, whole, and of the lake as it is now."""
    folder = f"selections/{selection.name}"
    kinds = Counter(key.removeprefix(f"{folder}/").partition("-")[0] for key in lake.storage.list(folder))
    if not kinds["verdicts"] == kinds["windows"] == batches or not kinds["funnel.json"]:
        return False
    try:
        same = Selection.stored(lake, selection.name) == selection
        return same and sums.up_to_date(lake, selection.name, selection.stages)
    except (FileNotFoundError, CorruptFileError):
        return False


def _in_order(parts: Iterable[Part]) -> Iterator[Part]:
    """Each part once those of all spans before its own were there: sums of floats depend on the order."""
    early: dict[int, Part] = {}
    number = 0
    for part in parts:
        early[part.number] = part
        while number in early:
            yield early.pop(number)
            number += 1


def _confine(connection: duckdb.DuckDBPyConnection) -> None:
    """Let rules reach nothing but the tables they are given."""
    connection.execute("SET threads = 1; SET memory_limit = '200MB'")
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")


def _spans(connection: duckdb.DuckDBPyConnection, batches: Sequence[str]) -> Iterator[Span]:
    """All batches in order; one span without any for a lake without any."""
    copies = "SELECT recording_id, keeper FROM copies WHERE batch BETWEEN ? AND ?"
    drawn = "SELECT recording_id, drawn_by FROM draws WHERE batch BETWEEN ? AND ?"
    for number, first in enumerate(range(0, max(1, len(batches)), SPAN)):
        held = batches[first : first + SPAN]
        edges = [min(held, default=""), max(held, default="")]
        keepers, draws = (dict(connection.execute(sql, edges).fetchall()) for sql in (copies, drawn))
        yield Span(number, tuple(held), keepers, draws)


def _judge_span(lake: Lake, selection: Selection, span: Span) -> Part:
    """Write verdicts and windows of these batches, and count them."""
    funnel, summing, written = Funnel(selection.name), sums.Summing(selection.stages), bytearray()

    def write(made: tuple[str, pa.Table]) -> bytes:
        key, table = made
        data = write_parquet_bytes(table)
        lake.storage.put(key, data)
        return hashlib.sha256(data).digest()

    with duckdb.connect() as connection:
        _confine(connection)
        for batches in _some(lake, selection, span.batches):
            tables = _tables(selection, batches)
            verdicts, windows = _judge(connection, selection, tables, span)
            funnel.add(verdicts, windows)
            summing.add(tables)
            for digest in lake.ahead(write, _files(lake, selection, batches, verdicts, windows)):
                written += digest
    return Part(span.number, funnel, summing.done(), bytes(written))


def check_rules(connection: duckdb.DuckDBPyConnection, selection: Selection) -> None:
    """Try every rule on empty tables, so that a misspelt column is told before work begins."""
    empty = {stage: schemas.judged(stage).empty_table() for stage in selection.stages}
    measured = _measured(schemas.RECORDINGS.empty_table(), empty)
    for rules, table in ((selection.recordings, measured), (selection.windows, schemas.WINDOWS.empty_table())):
        for name, condition in rules.items():
            try:
                read_only(connection, f"SELECT {_broken(condition)}")
                broken_rules(connection, table, {name: condition})
            except (duckdb.Error, NotReadingError) as error:
                known = ", ".join(table.schema.names)
                what = str(error).partition("\n\nLINE")[0].replace("\n", "; ")
                raise RuleError(f"rule {name} = {condition!r}: {what}; the columns are {known}") from error


def _find_duplicates(
    connection: duckdb.DuckDBPyConnection, lake: Lake, selection: Selection, batches: Sequence[str]
) -> None:
    """Tables `copies`, recordings whose samples or sound another one has that is kept, and `draws`, of the kept ones of
    groups by sound, with the hash that draws their split: that of the one which was met first."""
    connection.execute(
        "CREATE TABLE samples (batch VARCHAR, recording_id VARCHAR, pcm_sha256 VARCHAR, duration_s DOUBLE, "
        "bandwidth_hz DOUBLE); CREATE TABLE draws (batch VARCHAR, recording_id VARCHAR, drawn_by VARCHAR)"
    )
    columns = ["recording_id", "pcm_sha256", "duration_s", "bandwidth_hz"]
    stage = "signal", selection.stages["signal"]
    for signal in concat_batches(lake.read_each(batches, partial(lake.annotation_key, *stage), columns)):
        connection.register("signal_hashes", signal)
        connection.execute(
            "INSERT INTO samples SELECT batch, recording_id, pcm_sha256, duration_s, bandwidth_hz FROM signal_hashes "
            "WHERE pcm_sha256 IS NOT NULL"
        )
    if selection.matches is not None:
        _keep_best(connection, duplicates.find(connection, lake, selection, batches))
        return
    connection.execute(
        "CREATE TABLE copies AS SELECT s.batch, s.recording_id, f.recording_id AS keeper FROM samples AS s JOIN ("
        "SELECT pcm_sha256, min(rowid) AS first FROM samples GROUP BY pcm_sha256 HAVING count(*) > 1"
        ") USING (pcm_sha256) JOIN samples AS f ON f.rowid = first WHERE s.recording_id <> f.recording_id "
        "ORDER BY s.batch"
    )
    connection.execute("DROP TABLE samples")


def _keep_best(connection: duckdb.DuckDBPyConnection, groups: Sequence[duplicates.Group]) -> None:
    """The tables of `_find_duplicates` by groups, of each of which the best recording is kept."""
    connection.execute("CREATE TABLE copies (batch VARCHAR, recording_id VARCHAR, keeper VARCHAR)")
    copies, draws = [], []
    for group in groups:
        best, everyone = group.best, group.everyone()
        copies += [(one.batch, one.recording_id, best.recording_id) for one in everyone if one != best]
        first = min(everyone, key=lambda one: one.number)
        draws.append((best.batch, best.recording_id, first.pcm_sha256))
    for table, rows in (("copies", copies), ("draws", draws)):
        columns = dict(zip(("batch", "id", "told"), zip(*rows, strict=True), strict=False))
        if columns:
            connection.register("rows_made", pa.table(columns))
            connection.execute(f"INSERT INTO {table} FROM rows_made ORDER BY batch")


@dataclass(frozen=True)
class Batch:
    """What is known of the recordings of a batch; a stage's table lacks those that ingest could not read."""

    name: str
    recordings: pa.Table
    annotations: dict[str, pa.Table]


def _some(lake: Lake, selection: Selection, names: Sequence[str]) -> Iterator[list[Batch]]:
    """These batches, so many at a time that their windows are about AT_ONCE: each query has a price of its own."""

    def read(name: str) -> Batch:
        keys = {stage: lake.annotation_key(stage, mark, name) for stage, mark in selection.stages.items()}
        annotations = {stage: lake.read(key, schemas.judged(stage).names) for stage, key in keys.items()}
        return Batch(name, lake.read(lake.recordings_key(name)), annotations)

    held: list[Batch] = []
    expected = 0.0
    for batch in lake.ahead(read, names):
        held.append(batch)
        seconds = pc.sum(batch.annotations["signal"]["duration_s"]).as_py() or 0.0
        expected += len(batch.recordings) + seconds / (selection.stride_s or selection.window_s)
        if expected > AT_ONCE:
            yield held
            held, expected = [], 0.0
    if held:
        yield held


def _tables(selection: Selection, batches: Sequence[Batch]) -> dict[str, pa.Table]:
    """By the names of the views: `recordings`, each stage beside it, and `annotations`, the columns of all of them."""
    recordings = pa.concat_tables(batch.recordings for batch in batches)
    stages = {
        stage: _beside(recordings, pa.concat_tables(batch.annotations[stage] for batch in batches))
        for stage in selection.stages
    }
    return {"recordings": recordings, **stages, "annotations": _measured(recordings, stages)}


def _judge(
    connection: duckdb.DuckDBPyConnection,
    selection: Selection,
    tables: Mapping[str, pa.Table],
    span: Span,
) -> tuple[pa.Table, pa.Table]:
    """Verdicts and windows of batches that follow one another, in the order of their recordings."""
    recordings, measured = tables["recordings"], tables["annotations"]
    broken = listed(list(selection.recordings), broken_rules(connection, measured, selection.recordings))
    failures = _failures({"ingest": recordings, **{stage: tables[stage] for stage in selection.stages}})
    duplicate_of = [span.keepers.get(recording_id) for recording_id in recordings["recording_id"].to_pylist()]
    reasons = [
        failed or rules + ([DUPLICATE] if keeper else [])
        for failed, rules, keeper in zip(failures, broken.to_pylist(), duplicate_of, strict=True)
    ]
    kept = np.array([not why for why in reasons], bool)
    needed = [name for name in OF_RECORDING if name in measured.schema.names]
    made = cut(measured.select(needed).filter(kept), selection, span.draws)
    counts, covered_s = np.zeros(len(kept), np.int64), np.zeros(len(kept))
    counts[kept], covered_s[kept] = made.counts, made.covered_s
    durations = (measured["duration_s"], credible_s(recordings))
    known_s = (pc.if_else(pc.not_equal(seconds, 0), seconds, None) for seconds in durations)
    duration_s = pc.coalesce(*known_s, 0.0).to_numpy()
    first = pa.array(np.cumsum(counts) - counts, mask=counts == 0)
    windowed_s = np.minimum(duration_s, covered_s)
    verdicts = {
        "recording_id": recordings["recording_id"],
        "verdict": np.where(kept, "kept", np.where([not failed for failed in failures], "rejected", "failed")),
        "reasons": reasons,
        "duplicate_of": duplicate_of,
        "duration_s": duration_s,
        "windows": counts,
        "windowed_s": windowed_s,
        "remainder_s": np.where(kept, duration_s - windowed_s, 0.0),
        "split": made.windows["split"].take(first),
    }
    return pa.table(verdicts, schema=schemas.VERDICTS), judge_windows(connection, made.windows, selection.windows)


def _files(
    lake: Lake, selection: Selection, batches: Sequence[Batch], verdicts: pa.Table, windows: pa.Table
) -> Iterator[tuple[str, pa.Table]]:
    """Keys and tables of what was made of each of these batches."""
    rows = cuts = 0
    for batch in batches:
        of_batch = verdicts.slice(rows, len(batch.recordings))
        count = pc.sum(of_batch["windows"]).as_py() or 0
        yield lake.windows_key(selection.name, batch.name), windows.slice(cuts, count)
        yield lake.verdicts_key(selection.name, batch.name), of_batch
        rows, cuts = rows + len(of_batch), cuts + count


def _beside(recordings: pa.Table, rows: pa.Table) -> pa.Table:
    """Rows of a stage in the order of `recordings`, null where it has none."""
    ids, wanted = rows["recording_id"], recordings["recording_id"]
    return rows if ids.equals(wanted) else rows.take(pc.index_in(wanted, value_set=ids.combine_chunks()))


def _measured(recordings: pa.Table, annotations: Mapping[str, pa.Table]) -> pa.Table:
    """One row a recording with the columns of all stages; what signal counted wins over what a header claimed."""
    tables = {"r": recordings, **annotations}
    sources = {name: source.replace('"', "").split(".") for name, source in annotation_columns(annotations).items()}
    there = {stage: set(table.schema.names) for stage, table in tables.items()}  # which lacks bulky columns
    found = {name: source for name, source in sources.items() if source[1] in there[source[0]]}
    return pa.table({name: tables[stage][column] for name, (stage, column) in found.items()})


def broken_rules(connection: duckdb.DuckDBPyConnection, table: pa.Table, rules: Mapping[str, str]) -> Array:
    """bool (rows, rules): which rules do not hold; a rule over a missing (null) value fails."""
    if not rules:
        return np.zeros((len(table), 0), bool)
    connection.register("judged", table)
    broken = (f"{_broken(condition)} AS r{n}" for n, condition in enumerate(rules.values()))
    return np.column_stack(list(connection.execute(f"SELECT {', '.join(broken)} FROM judged").fetchnumpy().values()))


def _broken(condition: str) -> str:
    """SQL of whether a rule does not hold."""
    return f"NOT coalesce(({condition}), false)"


def judge_windows(connection: duckdb.DuckDBPyConnection, windows: pa.Table, rules: Mapping[str, str]) -> pa.Table:
    """Windows (WINDOWS schema) with `kept` and `reasons` by these rules."""
    broken = broken_rules(connection, windows, rules)
    for name, values in {"kept": ~broken.any(axis=1), "reasons": listed(list(rules), broken)}.items():
        index = windows.schema.get_field_index(name)
        windows = windows.set_column(index, windows.schema.field(index), pa.array(values))
    return windows


def _failures(stages: Mapping[str, pa.Table]) -> list[list[str]]:
    """Reasons '<stage>: <error type>' by recording; one that failed at ingest never reached the other stages."""
    failures: list[list[str]] = [[] for _ in range(len(stages["ingest"]))]
    for stage, table in stages.items():
        failed = pc.fill_null(pc.not_equal(table["status"], "ok"), False).to_numpy()
        for row in np.flatnonzero(failed).tolist():
            if not failures[row] or not failures[row][0].startswith("ingest: "):
                failures[row].append(f"{stage}: {table['error_type'][row].as_py()}")
    return failures
