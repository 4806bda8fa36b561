"""Counts, sums and extremes of what was measured, which `select` keeps of all that it read so that `stats` need not
read it again.

What was kept holds as long as the files that it is about are unchanged. `summed` then reads the batches that came later
alone; otherwise it reads everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa
import pyarrow.fs as pafs

from manifests.choice import Choice
from manifests.fingerprint import pretty
from manifests.lake import BATCH, Lake
from manifests.schemas import STAGE_SPECS
from manifests.views import open_views

MEASURES: dict[str, tuple[str, ...]] = {
    "recordings": ("claimed_duration_s", "size_bytes"),
    **{stage: spec.headline for stage, spec in STAGE_SPECS.items()},
}
"""The numeric columns of each view that `stats` of a lake shows; `stats` of one stage shows all of its columns."""

GROUPED = ("source", "language", "duration_s", "claimed_duration_s")
AT_ONCE = 20_000
"""Recordings that are added up at a time."""
SUMS = "sums.json"


@dataclass(frozen=True)
class Sum:
    """How many rows have a number, and its sum, least and greatest value; or how many recordings a group has, and their
    seconds as `total`."""

    count: int
    total: float | None = None
    low: float | None = None
    high: float | None = None

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.count + other.count,
            _folded(sum, self.total, other.total),
            _folded(min, self.low, other.low),
            _folded(max, self.high, other.high),
        )


TABLE = {"recordings": "ingest"}
"""Views that have another name than the part whose rows they hold."""


def _folded(fold: Callable[[list[float]], float], *values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return fold(known) if known else None


class Sums:
    """A `Sum` by part and name. Memory grows with the number of sources, languages and types of errors, not with rows.

    The parts are each view of MEASURES, whose names are its columns and `status` for the number of its rows;
    '<view> failures', whose names are types of errors; 'sources', whose names are sources; and 'languages', whose names
    are the languages of the recordings that were decoded.
    """

    def __init__(self) -> None:
        self.parts: dict[str, dict[str | None, Sum]] = {}

    def add(self, part: str, name: str | None, more: Sum) -> None:
        sums = self.parts.setdefault(part, {})
        sums[name] = sums[name] + more if name in sums else more

    def merge(self, other: Sums) -> None:
        for part, sums in other.parts.items():
            for name, one in sums.items():
                self.add(part, name, one)

    def of(self, part: str) -> dict[str | None, Sum]:
        return self.parts.get(part, {})

    def add_views(self, connection: duckdb.DuckDBPyConnection, stages: Mapping[str, str]) -> None:
        """Add the rows of `recordings`, of each stage and of `annotations`, views or tables of `connection`."""
        for view in ("recordings", *stages):
            self.add_view(connection, view)
        for part, name, count, seconds in connection.execute(_groups(stages)).fetchall():
            self.add(part, name, Sum(count, seconds))

    def add_view(self, connection: duckdb.DuckDBPyConnection, view: str) -> None:
        """Add the rows of `recordings` or of a stage, a view or a table of `connection`."""
        names = MEASURES[view]
        measured = "".join(f'count("{n}"), sum("{n}"), min("{n}"), max("{n}"), ' for n in names)
        failures = "histogram(coalesce(error_type, 'unknown')) FILTER (status <> 'ok')"
        source = TABLE.get(view, view)
        query = f"SELECT {measured}count(status), {failures} FROM {source}"  # one pass: opening files costs most
        *values, rows, failed = connection.execute(query).fetchall()[0]
        self.add(view, "status", Sum(rows))
        for number, name in enumerate(names):
            self.add(view, name, Sum(*values[4 * number : 4 * number + 4]))
        for error_type, count in (failed or {}).items():
            self.add(f"{view} failures", error_type, Sum(count))


class Summing:
    """Adds up the tables of batches that follow one another, many of them at a time, since each query takes a while
    however few rows it is about."""

    def __init__(self, stages: Mapping[str, str]) -> None:
        self.stages, self.sums = stages, Sums()
        self.connection = duckdb.connect(config={"threads": 1})
        self.held: list[dict[str, pa.Table]] = []

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        """Add `recordings`, the stages and `annotations`."""
        columns = {view: ["status", "error_type", *MEASURES[view]] for view in ("recordings", *self.stages)}
        grouped = tables["annotations"].schema.names
        columns["annotations"] = [name for name in GROUPED if name in grouped]
        self.held.append({view: tables[view].select(names) for view, names in columns.items()})
        if sum(len(held["recordings"]) for held in self.held) > AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        for view in self.held[0]:
            self.connection.register(TABLE.get(view, view), pa.concat_tables(tables[view] for tables in self.held))
        self.sums.add_views(self.connection, self.stages)
        self.held.clear()

    def done(self) -> Sums:
        """The sums of all that was added."""
        if self.held:
            self._flush()
        return self.sums


def write(lake: Lake, selection: str, stages: Mapping[str, str], sums: Sums, last: str, written: str) -> None:
    """Keep `sums` beside a selection. They are of all batches up to the one named `last`; `written` is the hash of the
    verdicts and windows that `select` wrote."""
    sizes, _, _ = _files(lake, stages, last)
    rows = [
        {"part": part, "name": name, **vars(one)}
        for part, named in sorted(sums.parts.items())
        for name, one in sorted(named.items(), key=lambda item: (item[0] is not None, item[0]))
    ]
    kept = {"last": last, "files": sizes, "written_sha256": written, "sums": rows}
    lake.storage.put(f"selections/{selection}/{SUMS}", pretty(kept).encode())


def summed(lake: Lake, choice: Choice) -> Sums:
    """The sums of a lake as it is now."""
    own = replace(choice, stages=choice.own)
    sums, later = _kept(lake, own)
    if later != [] or not sums.parts:
        sums.add_views(open_views(lake, own, ("signal", "language"), later), own.stages)
    if choice.others:  # stages that the selection did not read, so that it kept no sums of them
        connection = open_views(lake, choice, ())
        for stage in choice.others:
            sums.add_view(connection, stage)
    return sums


def written_sha256(lake: Lake, selection: str) -> str:
    """The hash of the verdicts and windows of a selection as `select` wrote them; FileNotFoundError before it did."""
    return str(lake.read_json(f"selections/{selection}/{SUMS}", "written_sha256")["written_sha256"])


def up_to_date(lake: Lake, selection: str, stages: Mapping[str, str]) -> bool:
    """Whether a selection was made of the lake as it is now."""
    sums, later = _kept(lake, Choice(stages, selection))
    return bool(sums.parts) and later == []


def _kept(lake: Lake, choice: Choice) -> tuple[Sums, list[str] | None]:
    """The sums that a selection kept, and the numbers of the batches that came later. No sums, and None for the
    numbers, where those that it kept hold no longer.

    They hold while the files up to the selection's last batch are as many and as large as they were, and are older than
    the selection.
    """
    sums = Sums()
    folder = f"selections/{choice.selection}"
    if not lake.storage.exists(f"{folder}/{SUMS}"):
        return sums, None
    kept = lake.read_json(f"{folder}/{SUMS}")
    sizes, youngest_ns, later = _files(lake, choice.stages, kept["last"])
    begun, done = (lake.storage.stat(f"{folder}/{name}").mtime_ns for name in ("selection.json", SUMS))
    if sizes != kept["files"] or not youngest_ns < begun <= done:
        return sums, None
    for row in kept["sums"]:
        sums.add(row.pop("part"), row.pop("name"), Sum(**row))
    return sums, later


def _files(lake: Lake, stages: Mapping[str, str], last: str) -> tuple[dict[str, list[int]], int, list[str]]:
    """How many files, and how many bytes, each folder has up to the batch `last`; when the youngest of these files was
    written; and the numbers of later batches."""
    sizes: dict[str, list[int]] = {}
    youngest_ns, later = 0, []
    for folder in ("recordings", *(f"annotations/{stage}-{fingerprint}" for stage, fingerprint in stages.items())):
        listed = lake.storage.filesystem().get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        infos = [info for info in listed if BATCH.fullmatch(info.base_name.removesuffix(".parquet"))]
        covered = [info for info in infos if info.base_name <= f"{last}.parquet"]
        sizes[folder] = [len(covered), sum(info.size for info in covered)]
        youngest_ns = max([youngest_ns, *(info.mtime_ns for info in covered)])
        if folder == "recordings":
            names = sorted(info.base_name for info in infos if info.base_name > f"{last}.parquet")
            later = [name.removesuffix(".parquet").rpartition("-")[2] for name in names]
    return sizes, youngest_ns, later


def _groups(stages: Mapping[str, str]) -> str:
    """SQL that counts recordings and their seconds by source, and those that were decoded by language, in one pass."""
    seconds = "duration_s" if "signal" in stages else "claimed_duration_s"
    language = "language" if {"signal", "language"} <= stages.keys() else "NULL"
    return (
        "SELECT CASE grouping(source) WHEN 0 THEN 'sources' ELSE 'languages' END AS part, "
        "CASE part WHEN 'sources' THEN source ELSE language END AS name, "
        "CASE part WHEN 'sources' THEN count(*) ELSE count(duration_s) END AS count, sum(seconds) "
        f"FROM (SELECT source, {language} AS language, {seconds} AS seconds, duration_s FROM annotations) "
        "GROUP BY GROUPING SETS ((source), (language))"
    )
