"""How far a dataset covers its selection: windows that no shard holds, and windows that could not be encoded."""

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
class Coverage:
    """Counts over the committed shards of a dataset, compared with the windows that its selection keeps now."""

    windows: int
    """Windows that were encoded."""
    failed: dict[str, int]
    """Windows that could not be encoded, by type of error."""
    empty: list[tuple[str, int, str]]
    """Shards without an encoded window: folder and number, how many windows failed, and the error of the first."""
    missing: int
    """Windows that the selection keeps and no committed shard has."""
    example: str | None
    """The id of the first missing window."""
    grown: bool = False
    """Whether the selection is younger than the newest version, so that the missing windows belong to the next one."""

    def notes(self) -> Iterator[str]:
        """Notes that are no faults of the dataset: the windows that failed, which are recorded and counted."""
        for error_type, count in self.failed.items():
            yield f"{count:,} of {self.windows + sum(self.failed.values()):,} windows could not be made: {error_type}"

    def problems(self, selection: str) -> Iterator[tuple[str, str, bool]]:
        """Yield a part of the dataset, what is wrong with it, and whether that is only a note instead of a fault."""
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


def coverage(lake: Lake, dataset: str, selection: str | None) -> Coverage:
    """Count the windows of a dataset; without a selection no window is missing.

    Raises duckdb.Error and CorruptFileError if a file cannot be read.
    """
    connection = connect()
    base = glob.escape(root_of(connection, lake))
    tables = {"shard_windows": [base + glob.escape(key) for key in committed_windows(lake, dataset)]}
    tables["window_verdicts"] = [f"{base}selections/{selection}/windows-{NUMBER}.parquet"] if selection else []
    for name, patterns in tables.items():
        exists = any(
            connection.execute("SELECT 1 FROM glob($1) LIMIT 1", [pattern]).fetchall() for pattern in patterns[:1]
        )
        connection.execute(
            f"CREATE VIEW {name} AS {'FROM ' + parquet(patterns) if exists else empty_table_sql(VIEWS[name])}"
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
    return Coverage(
        windows, dict(by_type), empty, missing, example, bool(missing) and _has_grown(lake, dataset, selection)
    )


def _has_grown(lake: Lake, dataset: str, selection: str | None) -> bool:
    records = versions(lake, dataset)
    if selection is None or not records or records[-1].selected is None:
        return False
    try:
        return written_sha256(lake, selection) != records[-1].selected
    except (FileNotFoundError, CorruptFileError):
        return False
