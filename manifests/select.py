"""Selection: a pure function from annotations to verdicts and windows. No sound is touched and nothing is dropped.

Every recording becomes kept, rejected with every rule it breaks, or failed with every stage that failed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from manifests import schemas
from manifests.fingerprint import pretty
from manifests.funnel import Funnel
from manifests.lake import Lake
from manifests.tables import joined
from manifests.views import measured
from manifests.windows import Timeline, cut_starts, draw_split, measure


@dataclass(frozen=True)
class Selection:
    """What is selected, and under which name it is stored.

    `stages` maps the name of each annotation stage to its fingerprint; the rules are SQL conditions by name.
    """

    name: str
    stages: Mapping[str, str]
    context_s: float
    continuation_s: float
    stride_s: float | None = None
    grid_s: float = 0.1
    align: str = "none"
    seed: int = 0
    splits: Mapping[str, float] = field(default_factory=lambda: {"train": 1.0})
    recordings: Mapping[str, str] = field(default_factory=dict)
    windows: Mapping[str, str] = field(default_factory=dict)

    @property
    def window_s(self) -> float:
        return self.context_s + self.continuation_s

    @classmethod
    def stored(cls, lake: Lake, name: str) -> Selection:
        """The selection that was written under `name`; FileNotFoundError where there is none."""
        return cls(**json.loads(lake.storage.read(f"selections/{name}/selection.json")))


class RuleError(ValueError):
    """A rule that DuckDB does not understand."""


def select(lake: Lake, selection: Selection) -> Funnel:
    """Write verdicts and windows of every batch under `selections/<name>/` and return the funnel.

    Raises RuleError before anything is written if a rule names an unknown column, and FileNotFoundError if a batch
    has not been annotated.
    """
    funnel = Funnel(selection.name)
    with (
        tempfile.TemporaryDirectory(prefix="speechmill-select-") as folder,
        duckdb.connect(f"{folder}/select.duckdb") as connection,
    ):
        # On disk: the hashes of all samples do not fit into memory at any scale.
        connection.execute("SET threads = 1; SET memory_limit = '1GB'")
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        check_rules(connection, selection)
        _find_duplicates(connection, lake, selection)
        lake.storage.put(f"selections/{selection.name}/selection.json", pretty(asdict(selection)).encode())
        for batch in lake.batches():
            verdicts, windows = _select_batch(connection, lake, selection, batch)
            funnel.add(verdicts, windows)
            lake.write(lake.windows_key(selection.name, batch), windows)
            lake.write(lake.verdicts_key(selection.name, batch), verdicts)
    funnel.check()
    lake.storage.put(f"selections/{selection.name}/funnel.json", pretty(funnel.as_dict()).encode())
    return funnel


def check_rules(connection: duckdb.DuckDBPyConnection, selection: Selection) -> None:
    """Try every rule on empty tables, so that a misspelt column is told before work begins."""
    empty = {stage: schemas.STAGES[stage].empty_table() for stage in selection.stages}
    measured = _measured(connection, schemas.RECORDINGS.empty_table(), empty)
    for rules, table in ((selection.recordings, measured), (selection.windows, schemas.WINDOWS.empty_table())):
        for name, condition in rules.items():
            try:
                broken_rules(connection, table, {name: condition})
            except duckdb.Error as error:
                known = ", ".join(table.schema.names)
                what = str(error).partition("\n\nLINE")[0].replace("\n", "; ")
                raise RuleError(f"rule {name} = {condition!r}: {what}; the columns are {known}") from error


def _find_duplicates(connection: duckdb.DuckDBPyConnection, lake: Lake, selection: Selection) -> None:
    """Table `keepers`: of each group of recordings with equal samples, the first one met."""
    connection.execute("CREATE TABLE samples (position UBIGINT, recording_id VARCHAR, pcm_sha256 VARCHAR)")
    position = 0
    columns = ["recording_id", "pcm_sha256"]
    stage = "signal", selection.stages["signal"]
    hashes = ((batch, lake.read(lake.annotation_key(*stage, batch), columns)) for batch in lake.batches())
    for signal in joined(hashes):
        connection.register("signal_hashes", signal)
        connection.execute(
            "INSERT INTO samples SELECT ? + row_number() OVER (), recording_id, pcm_sha256 FROM signal_hashes "
            "WHERE pcm_sha256 IS NOT NULL",
            [position],
        )
        position += signal.num_rows
    connection.execute(
        "CREATE TABLE keepers AS SELECT pcm_sha256, arg_min(recording_id, position) AS keeper FROM samples "
        "GROUP BY pcm_sha256 HAVING count(*) > 1"
    )
    connection.execute("DROP TABLE samples")


def _select_batch(
    connection: duckdb.DuckDBPyConnection, lake: Lake, selection: Selection, batch: str
) -> tuple[pa.Table, pa.Table]:
    recordings = lake.read(lake.recordings_key(batch))
    annotations = {
        stage: lake.read(lake.annotation_key(stage, fingerprint, batch))
        for stage, fingerprint in selection.stages.items()
    }
    measured = _measured(connection, recordings, annotations)
    broken = broken_rules(connection, measured, selection.recordings)
    failures = _failures(recordings, annotations)
    connection.register("measured_rows", measured)
    duplicates = "SELECT recording_id, keeper FROM measured_rows JOIN keepers USING (pcm_sha256)"
    keepers = dict(connection.execute(f"{duplicates} WHERE keeper <> recording_id").fetchall())
    verdicts: list[dict[str, Any]] = []
    windows: list[dict[str, Any]] = []
    for row, reasons in zip(measured.to_pylist(), broken, strict=True):
        recording_id = row["recording_id"]
        duration_s = row["duration_s"] or row["claimed_duration_s"] or 0.0
        duplicate_of = keepers.get(recording_id)
        failed = failures.get(recording_id, [])
        reasons = failed or reasons + (["duplicate"] if duplicate_of else [])
        verdict = "failed" if failed else "rejected" if reasons else "kept"
        cut = list(cut_windows(row, selection)) if verdict == "kept" else []
        covered_s = min(duration_s, sound_covered_s(cut))
        windows += cut
        verdicts.append(
            {
                "recording_id": recording_id,
                "verdict": verdict,
                "reasons": reasons,
                "duration_s": duration_s,
                "windows": len(cut),
                "windowed_s": covered_s,
                "remainder_s": duration_s - covered_s if verdict == "kept" else 0.0,
                "duplicate_of": duplicate_of,
                "split": cut[0]["split"] if cut else None,
            }
        )
    table = schemas.table(windows, schemas.WINDOWS)
    reasons_of = broken_rules(connection, table, selection.windows)
    judged = {"kept": [not reasons for reasons in reasons_of], "reasons": reasons_of}
    for name, values in judged.items():
        column = schemas.WINDOWS.field(name)
        table = table.set_column(table.schema.get_field_index(name), column, pa.array(values, column.type))
    return schemas.table(verdicts, schemas.VERDICTS), table


def cut_windows(row: Mapping[str, Any], selection: Selection) -> Iterator[dict[str, Any]]:
    turns = row.get("turns")
    turn_starts = [turn["start_s"] for turn in turns or []] if selection.align == "turns" else None
    split = draw_split(row["pcm_sha256"], selection.splits, selection.seed)
    stride_s = selection.stride_s or selection.window_s
    spoken, taken = Timeline(row.get("segments") or []), Timeline(turns or [])
    for start_s in cut_starts(row["duration_s"], selection.window_s, stride_s, selection.grid_s, turn_starts):
        end_s = start_s + selection.window_s
        near = None if turns is None else taken.between(start_s, end_s)
        yield {
            "window_id": f"{row['recording_id']}-{round(start_s * 1000):09d}",
            "recording_id": row["recording_id"],
            "split": split,
            "start_s": start_s,
            "duration_s": selection.window_s,
            "context_s": selection.context_s,
            "tracks": row["tracks"],
            "language": row.get("language"),
            "source": row["source"],
            "licence": row["licence"],
            "kept": True,
            "reasons": [],
            **measure(start_s, selection.window_s, spoken.between(start_s, end_s), near),
        }


def sound_covered_s(windows: list[dict[str, Any]]) -> float:
    """Seconds inside any window; windows overlap where the stride is shorter than they are."""
    total = end_s = 0.0
    for window in windows:
        total += window["start_s"] + window["duration_s"] - max(end_s, window["start_s"])
        end_s = window["start_s"] + window["duration_s"]
    return total


def _measured(
    connection: duckdb.DuckDBPyConnection, recordings: pa.Table, annotations: Mapping[str, pa.Table]
) -> pa.Table:
    """One row a recording with the columns of all stages; what signal counted wins over what a header claimed."""
    joins = []
    connection.register("recordings_batch", recordings)
    for stage, table in annotations.items():
        connection.register(f"{stage}_batch", table)
        joins.append(f"LEFT JOIN {stage}_batch AS {stage} USING (recording_id)")
    columns = measured(annotations)
    fields = ", ".join(f'{source} AS "{name}"' for name, source in columns.items())
    query = f"SELECT {fields} FROM (SELECT *, row_number() OVER () AS n FROM recordings_batch) AS r {' '.join(joins)}"
    return connection.sql(f"{query} ORDER BY r.n").to_arrow_table()


def broken_rules(connection: duckdb.DuckDBPyConnection, table: pa.Table, rules: Mapping[str, str]) -> list[list[str]]:
    """The names of the rules that do not hold, by row; a rule over something unmeasured (null) does not hold."""
    if not rules:
        return [[] for _ in range(table.num_rows)]
    connection.register("judged", table)
    conditions = ", ".join(f"coalesce(({condition}), false)" for condition in rules.values())
    verdicts = connection.execute(f"SELECT {conditions} FROM judged").fetchall()
    return [[name for name, holds in zip(rules, row, strict=True) if not holds] for row in verdicts]


def _failures(recordings: pa.Table, annotations: Mapping[str, pa.Table]) -> dict[str, list[str]]:
    """Reasons '<stage>: <error type>' by recording; one that failed at ingest never reached the other stages."""
    failures: dict[str, list[str]] = {}
    for stage, table in {"ingest": recordings, **annotations}.items():
        for row in table.select(["recording_id", "status", "error_type"]).to_pylist():
            reasons = failures.get(row["recording_id"], [])
            if row["status"] != "ok" and not any(reason.startswith("ingest: ") for reason in reasons):
                failures.setdefault(row["recording_id"], []).append(f"{stage}: {row['error_type']}")
    return failures
