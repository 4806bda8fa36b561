"""The ledger: hours, frames and tokens of a dataset, by split, language, speakers and source, at every patch size."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from manifests import schemas, shardlist
from manifests.corrupt import CorruptFileError, parse_parquet
from manifests.lake import Lake
from manifests.output import counted, one_line
from manifests.products import MOST_DIM, Products
from manifests.shards import ShardCommit, ShardFiles, committed
from manifests.statistics import Statistics
from manifests.tables import joined
from manifests.versions import generation

PATCHES = shardlist.PATCHES
GROUP = ["split", "language", "num_speakers", "source"]


@dataclass(frozen=True)
class Book:
    """What is counted of a version of a dataset."""

    ledger: pa.Table
    """LEDGER schema."""
    statistics: dict[str, Statistics]
    """By split."""
    commits_sha256: str
    """Of the records of its shards, in their order."""
    shards: tuple[pa.Table, ...] = ()
    """What each of its shards holds (SHARDS schema)."""

    def total(self, column: str) -> int:
        """The sum of a column of whole numbers of the ledger, at one patch size."""
        table = self.ledger.filter(pc.equal(self.ledger["patch"], 1))
        return int(pc.sum(table[column]).as_py() or 0)

    @property
    def hours(self) -> float:
        return float(pc.sum(self.ledger.filter(pc.equal(self.ledger["patch"], 1))["hours"]).as_py() or 0.0)


def build(lake: Lake, dataset: str, encoder: str, history: Sequence[Mapping[str, int]]) -> list[Book]:
    """What is to be said of each version of a dataset; `history` gives, oldest first, its number of shards by folder.

    Every shard is read once. Tokens at patch k are floor(frames / k) of each window and track, context and continuation
    apart. Raises CorruptFileError where a shard's table of windows is not the one that its commit describes.
    """
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register(
        "shard_windows", schemas.SHARD_WINDOWS.empty_table().append_column("batch", pa.array([], pa.string()))
    )
    group = ", ".join(GROUP)
    sums = ", ".join(
        f"sum(tracks * (context_frames // {k})) AS context_{k}, "
        f"sum(tracks * (continuation_frames // {k})) AS continuation_{k}"
        for k in PATCHES
    )
    # Seconds are added as whole microseconds, so that the sum does not depend on its order.
    query = (
        f"SELECT batch::INTEGER AS generation, {group}, count(*) AS windows, "
        "sum(round(duration_s * 1e6)::HUGEINT) AS microseconds, "
        f"sum(tracks * (context_frames + continuation_frames)) AS frames, {sums} "
        "FROM shard_windows WHERE status = 'ok' GROUP BY ALL"
    )
    connection.execute(f"CREATE TABLE counts AS {query}")
    statistics = [defaultdict[str, Statistics](Statistics) for _ in history]
    records: list[list[str]] = [[] for _ in history]
    listed: list[list[pa.Table]] = [[] for _ in history]

    def read(shard: ShardFiles) -> tuple[int, ShardFiles, pa.Table, Statistics, str]:
        key = f"datasets/{dataset}/{shard.commit}"
        commit = ShardCommit.read(lake.storage, key)
        made = generation(history, shard)
        assert made is not None
        record = hashlib.sha256(commit.to_json().encode()).hexdigest()
        summed = committed_statistics(lake, dataset, shard, commit)
        return made, shard, committed_windows(lake, dataset, shard, commit), summed, record

    def tables() -> Iterator[tuple[str, pa.Table]]:
        columns = [*GROUP, "status", "duration_s", "tracks", "context_frames", "continuation_frames"]
        of_versions = (shard for shard in committed(lake.storage, dataset) if generation(history, shard) is not None)
        for made, shard, table, added, record in lake.ahead(read, of_versions):
            statistics[made][shard.split].merge(added)
            records[made].append(record)
            listed[made].append(shardlist.count(shard, table))
            yield str(made), table.select(columns)

    for table in joined(tables()):
        connection.register("shard_windows", table)
        connection.execute(f"INSERT INTO counts {query}")
    books: list[Book] = []
    for index in range(len(history)):
        before = books[-1] if books else Book(schemas.LEDGER.empty_table(), {}, "")
        whole = {split: Statistics() for split in sorted({*before.statistics, *statistics[index]})}
        for part in (before.statistics, statistics[index]):
            for split, added in part.items():
                whole[split].merge(added)
        chained = hashlib.sha256("".join([before.commits_sha256, *records[index]]).encode()).hexdigest()
        books.append(Book(_ledger(connection, encoder, index), whole, chained, (*before.shards, *listed[index])))
    return books


def _ledger(connection: duckdb.DuckDBPyConnection, encoder: str, last: int) -> pa.Table:
    """The ledger (LEDGER schema) of what was counted of the generations up to `last`."""
    group = ", ".join(GROUP)
    per_patch = " UNION ALL ".join(
        f"SELECT {group}, $encoder AS encoder, {k} AS patch, sum(windows) AS windows, "
        f"sum(microseconds)::DOUBLE / 3.6e9 AS hours, sum(frames) AS frames, sum(context_{k}) AS context_tokens, "
        f"sum(continuation_{k}) AS continuation_tokens FROM counts WHERE generation <= $last GROUP BY ALL"
        for k in PATCHES
    )
    order = "split, language, num_speakers, source, patch"
    parameters = {"encoder": encoder, "last": last}
    table = connection.sql(f"{per_patch} ORDER BY {order}", params=parameters).to_arrow_table()
    return table.select(schemas.LEDGER.names).cast(schemas.LEDGER)


def committed_windows(lake: Lake, dataset: str, shard: ShardFiles, commit: ShardCommit) -> pa.Table:
    """A committed shard's table of windows (SHARD_WINDOWS).

    Raises CorruptFileError where it is missing, or has not the bytes or the counts that the commit says.
    """
    key, table = _described(lake, dataset, shard, commit, shard.windows)
    made = table.filter(pc.equal(table["status"], "ok"))
    frames = pc.sum(pc.multiply(pc.add(made["context_frames"], made["continuation_frames"]), made["tracks"])).as_py()
    found = {"windows": len(made), "failed": len(table) - len(made), "frames": frames or 0}
    for what, count in found.items():
        if count != (said := getattr(commit, what)):
            raise CorruptFileError.of(key, f"holds {count:,} {what}, {shard.commit} says {said:,}")
    return table


def committed_statistics(lake: Lake, dataset: str, shard: ShardFiles, commit: ShardCommit) -> Statistics:
    """A committed shard's statistics with the sums of products.

    Raises CorruptFileError where these are missing, have not the bytes that the commit says, or are of another size.
    """
    key, table = _described(lake, dataset, shard, commit, shard.products)
    try:
        products = Products.of_table(table)
    except ValueError as error:
        raise CorruptFileError.of(key, error) from error
    dim = len(commit.statistics.total)
    if (products.dim if products else 0) != (dim if dim <= MOST_DIM else 0):
        raise CorruptFileError.of(key, f"holds {len(table):,} products, {shard.commit} tells of {dim} values a frame")
    return replace(commit.statistics, products=products)


def _described(lake: Lake, dataset: str, shard: ShardFiles, commit: ShardCommit, name: str) -> tuple[str, pa.Table]:
    """The key of a file that a commit describes, and its table. CorruptFileError unless it has the bytes of then."""
    key = f"datasets/{dataset}/{name}"
    try:
        data = lake.storage.read(key)
    except FileNotFoundError as error:
        raise CorruptFileError.of(key, f"missing, though {shard.commit} says that it was written") from error
    table = parse_parquet(key, data)
    described = commit.files.get(name)
    if described is None:
        raise CorruptFileError.of(key, f"is not in {shard.commit}")
    if hashlib.sha256(data).hexdigest() != described["sha256"]:
        raise CorruptFileError.of(key, f"has not the sha256 that {shard.commit} says")
    return key, table


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
