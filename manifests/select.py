"""Selection: a pure function from what was measured to verdicts and windows. No sound is read and nothing is dropped.

Every recording becomes kept, rejected with every rule that it breaks, or failed with every stage that failed.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import duplicates, repeats, schemas, sums
from manifests.corrupt import CorruptFileError
from manifests.fingerprint import pretty
from manifests.funnel import Funnel, credible_s
from manifests.lake import Lake
from manifests.names import DUPLICATE
from manifests.rules import broken_rules, check_rules, join_columns, judge_windows
from manifests.selection import Selection
from manifests.tables import write_parquet_bytes
from manifests.windows import OF_RECORDING, cut, listed

AT_ONCE = 20_000
"""Recordings and windows that are judged at a time."""
SPAN = 100
"""Batches that one process judges on its own. It does not depend on the number of processes: a sum of floats depends on
how it is divided."""
HEARD = ("repeated_share", "repeats", "passages")
"""Columns of verdicts that are known where the lake was matched."""


@dataclass(frozen=True)
class Span:
    """Batches that follow one another, with what a process has to know of others to select from these on its own."""

    number: int
    batches: tuple[str, ...]
    keepers: Mapping[str, str]
    """By recording: the one with the same samples, or the same sound, that is kept instead of it."""
    draws: Mapping[str, str] = field(default_factory=dict)
    """By recording that is kept of a group: the hash that draws the split of the group."""
    repeats_of_span: pa.Table | None = None
    """What of these recordings repeats (`repeats.HEARD`); None where nothing was matched."""


@dataclass(frozen=True)
class Part:
    """What was made of a span."""

    number: int
    funnel: Funnel
    sums: sums.Sums
    written: bytes
    """The hashes of the files of verdicts and windows that were written, one after the other."""


def select(
    lake: Lake,
    selection: Selection,
    spread: Callable[[Callable[[Span], Any], Iterable[Span]], Iterable[Any]] = map,
    batches: Sequence[str] | None = None,
) -> Funnel:
    """Write verdicts and windows of every batch under `selections/<name>/` and return the funnel.

    A selection that is there already, and was made of the lake as it is now, is left as it is. `batches` are all
    batches of the lake unless some are named. `spread` maps a function over spans in several processes and may give
    the results in any order; a single span is judged in this process. Raises RuleError before anything is written if
    a rule names an unknown column, and FileNotFoundError if a batch has not been annotated.
    """
    if batches is None:
        batches = list(lake.batches())
        if _is_made(lake, selection, len(batches)):
            return Funnel.from_dict(lake.read_json(f"selections/{selection.name}/funnel.json"))
    with (
        tempfile.TemporaryDirectory(prefix="speechmill-select-") as folder,
        duckdb.connect(f"{folder}/select.duckdb") as connection,
    ):
        # On disk, since in a large lake the hashes of the samples of all recordings do not fit into memory.
        _confine(connection)
        check_rules(connection, selection)
        duplicates.find(connection, lake, selection, batches)
        lake.storage.put(f"selections/{selection.name}/selection.json", pretty(asdict(selection)).encode())
        over = spread if len(batches) > SPAN else map
        matched = selection.matches is not None
        if matched:
            repeats.find(connection)
            spans = _spans(connection, batches, matched)
            repeats.order(connection, list(over(partial(_rejected, lake, selection), spans)))
        spans = _spans(connection, batches, matched)
        parts = _in_order(over(partial(_judge_span, lake, selection), spans))
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
    """Let the SQL of rules reach nothing but the tables that it is given."""
    connection.execute("SET threads = 1; SET memory_limit = '200MB'")
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")


def _spans(connection: duckdb.DuckDBPyConnection, batches: Sequence[str], matched: bool) -> Iterator[Span]:
    """All batches in order. A lake without batches has one span without any."""
    copies = "SELECT recording_id, keeper FROM copies WHERE batch BETWEEN ? AND ?"
    drawn = "SELECT recording_id, drawn_by FROM draws WHERE batch BETWEEN ? AND ?"
    for number, first in enumerate(range(0, max(1, len(batches)), SPAN)):
        held = batches[first : first + SPAN]
        edges = [min(held, default=""), max(held, default="")]
        keepers, draws = (dict(connection.execute(sql, edges).fetchall()) for sql in (copies, drawn))
        repeats_of_span = None
        if matched:
            repeats_sql = "FROM heard WHERE batch BETWEEN ? AND ? ORDER BY batch, recording_id"
            repeats_of_span = connection.sql(repeats_sql, params=edges).to_arrow_table().cast(repeats.HEARD)
        yield Span(number, tuple(held), keepers, draws, repeats_of_span)


def _rejected(lake: Lake, selection: Selection, span: Span) -> list[str]:
    """Of the recordings that others share sound with, or that are kept of a group, those that fail or break a rule."""
    assert span.repeats_of_span is not None
    in_span = {*span.repeats_of_span["recording_id"].to_pylist(), *span.draws}
    found: list[str] = []
    if not in_span:
        return found
    with duckdb.connect() as connection:
        _confine(connection)
        for batches in _some(lake, selection, span.batches):
            tables = _tables(selection, batches, span)
            ids = tables["recordings"]["recording_id"].to_pylist()
            reasons = zip(ids, *_reasons(connection, selection, tables), strict=True)
            found += [recording_id for recording_id, failed, broken in reasons if failed or broken]
    return [recording_id for recording_id in found if recording_id in in_span]


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
            tables = _tables(selection, batches, span)
            verdicts, windows = _judge(connection, selection, tables, span)
            funnel.add(verdicts, windows)
            summing.add(tables)
            for digest in lake.prefetch(write, _files(lake, selection, batches, verdicts, windows)):
                written += digest
    return Part(span.number, funnel, summing.done(), bytes(written))


@dataclass(frozen=True)
class Batch:
    """What is known of the recordings of a batch; the tables of stages lack those that ingest could not read."""

    name: str
    recordings: pa.Table
    annotations: dict[str, pa.Table]


def _some(lake: Lake, selection: Selection, names: Sequence[str]) -> Iterator[list[Batch]]:
    """These batches, so many at a time that they have about AT_ONCE recordings and windows: each query takes a while,
    however few rows it is about."""

    def read(name: str) -> Batch:
        keys = {stage: lake.annotation_key(stage, fingerprint, name) for stage, fingerprint in selection.stages.items()}
        annotations = {stage: lake.read(key, schemas.judged(stage).names) for stage, key in keys.items()}
        return Batch(name, lake.read(lake.recordings_key(name)), annotations)

    held: list[Batch] = []
    expected = 0.0
    for batch in lake.prefetch(read, names):
        held.append(batch)
        seconds = pc.sum(batch.annotations["signal"]["duration_s"]).as_py() or 0.0
        expected += len(batch.recordings) + seconds / (selection.stride_s or selection.window_s)
        if expected > AT_ONCE:
            yield held
            held, expected = [], 0.0
    if held:
        yield held


def _tables(selection: Selection, batches: Sequence[Batch], span: Span) -> dict[str, pa.Table]:
    """Rows in the order of the recordings by the names of the views: `recordings`, each stage, and `annotations`, which
    has the columns of all of them and, where the lake was matched, those of `schemas.REPEATS` and `passages`."""
    recordings = pa.concat_tables(batch.recordings for batch in batches)
    stages = {
        stage: _in_order_of(recordings, pa.concat_tables(batch.annotations[stage] for batch in batches))
        for stage in selection.stages
    }
    measured = join_columns(recordings, stages)
    if span.repeats_of_span is not None:
        repeats_of_span = _in_order_of(recordings, span.repeats_of_span)
        for name, otherwise in (("repeated_share", 0.0), ("repeats", 1)):
            measured = measured.append_column(name, pc.fill_null(repeats_of_span[name], otherwise))
        passages = pc.coalesce(
            repeats_of_span["passages"], pa.scalar([], repeats_of_span.schema.field("passages").type)
        )
        measured = measured.append_column("passages", passages)
    return {"recordings": recordings, **stages, "annotations": measured}


def _reasons(
    connection: duckdb.DuckDBPyConnection, selection: Selection, tables: Mapping[str, pa.Table]
) -> tuple[list[list[str]], list[list[str]]]:
    """The failures of each recording, and the rules that it breaks."""
    broken = listed(list(selection.recordings), broken_rules(connection, tables["annotations"], selection.recordings))
    failures = _failures({"ingest": tables["recordings"], **{stage: tables[stage] for stage in selection.stages}})
    return failures, broken.to_pylist()


def _judge(
    connection: duckdb.DuckDBPyConnection,
    selection: Selection,
    tables: Mapping[str, pa.Table],
    span: Span,
) -> tuple[pa.Table, pa.Table]:
    """Verdicts and windows of batches that follow one another, in the order of their recordings."""
    recordings, measured = tables["recordings"], tables["annotations"]
    failures, broken = _reasons(connection, selection, tables)
    duplicate_of = [span.keepers.get(recording_id) for recording_id in recordings["recording_id"].to_pylist()]
    reasons = [
        failed or rules + ([DUPLICATE] if keeper else [])
        for failed, rules, keeper in zip(failures, broken, duplicate_of, strict=True)
    ]
    decoded = [not failed for failed in failures]
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
        "verdict": np.where(kept, "kept", np.where(decoded, "rejected", "failed")),
        "reasons": reasons,
        "duplicate_of": duplicate_of,
        **{
            name: pc.if_else(pa.array(decoded), measured[name], None) for name in HEARD if name in measured.schema.names
        },
        "duration_s": duration_s,
        "windows": counts,
        "windowed_s": windowed_s,
        "remainder_s": np.where(kept, duration_s - windowed_s, 0.0),
        "split": made.windows["split"].take(first),
    }
    verdicts |= {name: pa.nulls(len(kept), schemas.VERDICTS.field(name).type) for name in HEARD if name not in verdicts}
    windows = judge_windows(connection, made.windows, selection.window_rules)
    return pa.table(verdicts, schema=schemas.VERDICTS), windows


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


def _in_order_of(recordings: pa.Table, rows: pa.Table) -> pa.Table:
    """Rows of another table in the order of `recordings`, null where that has none."""
    ids, wanted = rows["recording_id"], recordings["recording_id"]
    return rows if ids.equals(wanted) else rows.take(pc.index_in(wanted, value_set=ids.combine_chunks()))


def _failures(stages: Mapping[str, pa.Table]) -> list[list[str]]:
    """Reasons '<stage>: <error type>' by recording; one that failed at ingest never reached the other stages."""
    failures: list[list[str]] = [[] for _ in range(len(stages["ingest"]))]
    for stage, table in stages.items():
        failed = pc.fill_null(pc.not_equal(table["status"], "ok"), False).to_numpy()
        for row in np.flatnonzero(failed).tolist():
            if not failures[row] or not failures[row][0].startswith("ingest: "):
                failures[row].append(f"{stage}: {table['error_type'][row].as_py()}")
    return failures
