"""The ledger: hours, frames and tokens of a dataset, by split, language, speakers and source, at every patch size."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa
import safetensors.numpy

from manifests import schemas
from manifests.lake import Lake
from manifests.shards import ShardCommit, Statistics
from manifests.tables import joined

PATCHES = range(1, 7)
GROUP = ["split", "language", "num_speakers", "source"]


def build(lake: Lake, dataset: str, encoder: str) -> pa.Table:
    """Count the windows of every shard (SHARD_WINDOWS) into the LEDGER schema, shard by shard.

    Tokens at patch k are floor(frames / k) of each window and track, context and continuation apart.
    """
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register("shard_windows", schemas.SHARD_WINDOWS.empty_table())
    group = ", ".join(GROUP)
    sums = ", ".join(
        f"sum(tracks * (context_frames // {k})) AS context_{k}, "
        f"sum(tracks * (continuation_frames // {k})) AS continuation_{k}"
        for k in PATCHES
    )
    query = (
        f"SELECT {group}, count(*) AS windows, sum(duration_s) / 3600 AS hours, "
        f"sum(tracks * (context_frames + continuation_frames)) AS frames, {sums} "
        f"FROM shard_windows WHERE status = 'ok' GROUP BY ALL"
    )
    connection.execute(f"CREATE TABLE counts AS {query}")
    columns = [*GROUP, "status", "duration_s", "tracks", "context_frames", "continuation_frames"]
    keys = lake.storage.list(f"datasets/{dataset}/windows")
    for table in joined(lake.read_each(keys, str, columns)):
        connection.register("shard_windows", table)
        connection.execute(f"INSERT INTO counts {query}")
    per_patch = " UNION ALL ".join(
        f"SELECT {group}, $encoder AS encoder, {k} AS patch, sum(windows) AS windows, sum(hours) AS hours, "
        f"sum(frames) AS frames, sum(context_{k}) AS context_tokens, sum(continuation_{k}) AS continuation_tokens "
        f"FROM counts GROUP BY ALL"
        for k in PATCHES
    )
    order = "split, language, num_speakers, source, patch"
    table = connection.sql(f"{per_patch} ORDER BY {order}", params={"encoder": encoder}).to_arrow_table()
    return table.select(schemas.LEDGER.names).cast(schemas.LEDGER)


def write(lake: Lake, dataset: str, encoder: str) -> pa.Table:
    """Write `ledger.parquet` and `stats.safetensors` of a dataset and return the ledger."""
    table = build(lake, dataset, encoder)
    whole = Statistics()
    for record in lake.ahead(lake.storage.read, lake.storage.list(f"datasets/{dataset}/commits")):
        whole.merge(ShardCommit.from_json(record).statistics)
    lake.storage.put(f"datasets/{dataset}/stats.safetensors", safetensors.numpy.save(whole.arrays()))
    lake.write(f"datasets/{dataset}/ledger.parquet", table)
    return table


def render(table: pa.Table, patch: int, by: Sequence[str] = ("split",)) -> str:
    """The ledger at one patch size for a terminal, a table for each column of GROUP in `by`, within 80 columns."""
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register("ledger", table)
    lines = []
    for column in by:
        assert column in GROUP
        lines.append(f"{column:<14}{'windows':>10}{'hours':>12}{'frames':>14}{'context':>15}{'continuation':>15}")
        rows = connection.execute(
            f"SELECT coalesce({column}::VARCHAR, 'unknown'), sum(windows), sum(hours), sum(frames), "
            f"sum(context_tokens), sum(continuation_tokens) FROM ledger WHERE patch = ? GROUP BY {column} "
            f"ORDER BY sum(frames) DESC, {column}",
            [patch],
        ).fetchall()
        for name, windows, hours, frames, context, continuation in rows:
            shown = name if len(name) <= 14 else name[:13] + "~"
            lines.append(f"{shown:<14}{windows:>10,}{hours:>12,.4f}{frames:>14,}{context:>15,}{continuation:>15,}")
    lines.append(f"context and continuation are tokens of {patch} frame{'s' * (patch > 1)}")
    return "\n".join(lines)
