"""What a dataset holds of what its selection keeps: windows that no shard holds, and those that could not be made."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass

from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from manifests.sums import written_sha256
from manifests.versions import versions
from manifests.view_columns import VIEWS
from manifests.views import NUMBER, committed_windows, connect, empty_table_sql, parquet, root_of


@dataclass(frozen=True)
class Made:
    """Counts over the committed shards of a dataset, against the windows that its selection keeps now."""

    windows: int
    """Windows that were made."""
    failed: dict[str, int]
    """Windows that could not be made, by type of error."""
    empty: list[tuple[str, int, str]]
    """Shards without a window that was made: folder and number, how many failed, and why the first did."""
    missing: int
    """Windows that the selection keeps and no committed shard names,"""
    example: str | None
    """and the first of them."""
    grown: bool = False
    """Whether the selection was made anew since the newest version, so that these are for the next one."""

    def notes(self) -> Iterator[str]:
        """What is no fault of the dataset, but worth knowing: its windows that failed are recorded and counted."""
        for error_type, count in self.failed.items():
            yield f"{count:,} of {self.windows + sum(self.failed.values()):,} windows could not be made: {error_type}"

    def problems(self, selection: str) -> Iterator[tuple[str, str, bool]]:
        """Parts of the dataset, what is wrong with each, and whether that is no fault but only worth knowing."""
        for shard, count, error in self.empty:
            what = f"an empty shard: all of its {count:,} windows failed, the first with {error}"
            yield f"windows/{shard}.parquet", what, False
        if self.missing:
            what = (
                f"{self.missing:,} windows that selections/{selection} keeps are in no committed shard, the first is "
            )
            what += str(self.example)
            if self.grown:
                what += "; the selection is younger than the newest version: `speechmill encode` makes the next one"
            yield "commits", what, self.grown


def made(lake: Lake, dataset: str, selection: str | None) -> Made:
    """Count what was made; without a selection to hold it against, nothing is missing.

    Raises duckdb.Error and CorruptFileError where a file cannot be read.
    """
    connection = connect()
    base = glob.escape(root_of(connection, lake))
    tables = {"shard_windows": [base + glob.escape(key) for key in committed_windows(lake, dataset)]}
    tables["window_verdicts"] = [f"{base}selections/{selection}/windows-{NUMBER}.parquet"] if selection else []
    for name, patterns in tables.items():
        there = any(connection.execute("SELECT 1 FROM glob($1) LIMIT 1", [one]).fetchall() for one in patterns[:1])
        connection.execute(
            f"CREATE VIEW {name} AS {'FROM ' + parquet(patterns) if there else empty_table_sql(VIEWS[name])}"
        )
    by_type = connection.execute(
        "SELECT split_part(error, ':', 1) AS error_type, count(*) AS count FROM shard_windows WHERE status <> 'ok' "
        "GROUP BY ALL ORDER BY count DESC, error_type"
    ).fetchall()
    empty = connection.execute(
        "SELECT format('{}-{:06d}', folder, shard) AS name, count(*), min_by(error, window_id) FROM shard_windows "
        "GROUP BY ALL HAVING count(*) FILTER (status = 'ok') = 0 ORDER BY name"
    ).fetchall()
    ((windows,),) = connection.execute("SELECT count(*) FROM shard_windows WHERE status = 'ok'").fetchall()
    ((missing, example),) = connection.execute(
        "SELECT count(*), min(window_id) FROM (FROM window_verdicts WHERE kept) ANTI JOIN shard_windows "
        "USING (window_id)"
    ).fetchall()
    return Made(windows, dict(by_type), empty, missing, example, bool(missing) and _has_grown(lake, dataset, selection))


def _has_grown(lake: Lake, dataset: str, selection: str | None) -> bool:
    known = versions(lake, dataset)
    if selection is None or not known or known[-1].selected is None:
        return False
    try:
        return written_sha256(lake, selection) != known[-1].selected
    except (FileNotFoundError, CorruptFileError):
        return False
