"""The ledger: hours, frames and tokens of a dataset, by split, language, speakers and source, at every patch size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy

from manifests import schemas
from manifests.corrupt import CorruptFileError, parse_parquet
from manifests.lake import Lake
from manifests.output import counted, one_line
from manifests.shards import ShardCommit, ShardFiles, Statistics, committed
from manifests.tables import joined

PATCHES = range(1, 7)
GROUP = ["split", "language", "num_speakers", "source"]


def build(lake: Lake, dataset: str, encoder: str) -> tuple[pa.Table, Statistics]:
    """The ledger and the statistics of all committed shards of a dataset, shard by shard.

    Tokens at patch k are floor(frames / k) of each window and track, context and continuation apart. Raises
    CorruptFileError where a shard's table of windows is not the one that its commit describes.
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
    whole = Statistics()

    def read(shard: ShardFiles) -> tuple[str, pa.Table, Statistics]:
        commit = ShardCommit.read(lake.storage, f"datasets/{dataset}/{shard.commit}")
        return shard.windows, committed_windows(lake, dataset, shard, commit), commit.statistics

    def tables() -> Iterator[tuple[str, pa.Table]]:
        columns = [*GROUP, "status", "duration_s", "tracks", "context_frames", "continuation_frames"]
        for name, table, statistics in lake.ahead(read, committed(lake.storage, dataset)):
            whole.merge(statistics)
            yield name, table.select(columns)

    for table in joined(tables()):
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
    return table.select(schemas.LEDGER.names).cast(schemas.LEDGER), whole


def committed_windows(lake: Lake, dataset: str, shard: ShardFiles, commit: ShardCommit) -> pa.Table:
    """A committed shard's table of windows (SHARD_WINDOWS).

    Raises CorruptFileError where it is missing, or has not the bytes or the counts that the commit says.
    """
    key = f"datasets/{dataset}/{shard.windows}"
    try:
        data = lake.storage.read(key)
    except FileNotFoundError as error:
        raise CorruptFileError.of(key, f"missing, though {shard.commit} says that it was written") from error
    table = parse_parquet(key, data)
    described = commit.files.get(shard.windows)
    if described is None:
        raise CorruptFileError.of(key, f"is not in {shard.commit}")
    if hashlib.sha256(data).hexdigest() != described["sha256"]:
        raise CorruptFileError.of(key, f"has not the sha256 that {shard.commit} says")
    made = table.filter(pc.equal(table["status"], "ok"))
    frames = pc.sum(pc.multiply(pc.add(made["context_frames"], made["continuation_frames"]), made["tracks"])).as_py()
    found = {"windows": len(made), "failed": len(table) - len(made), "frames": frames or 0}
    for what, count in found.items():
        if count != (said := getattr(commit, what)):
            raise CorruptFileError.of(key, f"holds {count:,} {what}, {shard.commit} says {said:,}")
    return table


def write(lake: Lake, dataset: str, encoder: str) -> pa.Table:
    """Write `ledger.parquet` and `stats.safetensors` of a dataset and return the ledger; raises as `build`."""
    table, whole = build(lake, dataset, encoder)
    lake.storage.put(f"datasets/{dataset}/stats.safetensors", safetensors.numpy.save(whole.arrays()))
    lake.write(f"datasets/{dataset}/ledger.parquet", table)
    return table


def render(table: pa.Table, patch: int, by: Sequence[str] = ("split",)) -> str:
    """The ledger at one patch size for a terminal: a row for each combination of the columns of GROUP in `by`."""
    assert set(by) <= set(GROUP)
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register("ledger", table)
    keys = ", ".join(f"coalesce({column}::VARCHAR, 'unknown') AS {column}" for column in by)
    found = connection.execute(
        f"SELECT {keys}, sum(windows), sum(hours), sum(frames), sum(context_tokens), sum(continuation_tokens) "
        f"FROM ledger WHERE patch = ? GROUP BY {', '.join(by)} ORDER BY sum(frames) DESC, {', '.join(by)}",
        [patch],
    ).fetchall()
    names = [[one_line(name) for name in row[: len(by)]] for row in found]
    wide = [max(map(len, column)) + 2 for column in zip(by, *names, strict=True)]
    wide[0] = max(wide[0], 14)

    def line(texts: Sequence[str], *numbers: str) -> str:
        left = "".join(text.ljust(width) for text, width in zip(texts, wide, strict=True))
        return left + "".join(number.rjust(width) for number, width in zip(numbers, (10, 12, 14, 15, 15), strict=True))

    lines = [line(by, "windows", "hours", "frames", "context", "continuation")]
    for texts, (windows, hours, *counts) in zip(names, (row[len(by) :] for row in found), strict=True):
        lines.append(line(texts, f"{windows:,}", f"{hours:,.4f}", *(f"{count:,}" for count in counts)))
    lines.append(f"context and continuation are tokens of {counted(patch, 'frame')}")
    return "\n".join(lines)
