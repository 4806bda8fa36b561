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
from manifests.labels import as_sql
from manifests.lake import Lake
from manifests.output import counted, one_line
from manifests.products import MOST_DIM, Products
from manifests.shards import ShardCommit, ShardFiles, committed
from manifests.statistics import Statistics
from manifests.tables import concat_batches
from manifests.versions import generation, versions

PATCHES = shardlist.PATCHES
GROUP = ["split", "language", "num_speakers", "source"]
COUNTED = [
    *(*GROUP, "labels", "status", "duration_s", "tracks", "context_frames", "continuation_frames", "repeated_share"),
]
"""Columns of SHARD_WINDOWS from which the ledger is made."""
REPEATED = "sum(repeated_context_tokens + repeated_continuation_tokens)"
"""SQL over a ledger: tokens that repeat, null where nothing was matched."""


@dataclass(frozen=True)
class Book:
    """Everything that is counted of one version of a dataset."""

    ledger: pa.Table
    """LEDGER schema."""
    statistics: dict[str, Statistics]
    """By split."""
    commits_sha256: str
    """The hash of the commit records of its shards, in their order."""
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
    """The book of each version of a dataset. `history` gives for each version, the oldest first, how many shards of
    each folder it has.

    Every shard is read once. Tokens at patch k are floor(frames / k) of each window and track, context and continuation
    apart. Of the tokens of a window its `repeated_share`, rounded, repeat; all others are unique. Raises
    CorruptFileError where a shard's table of windows is not the one that its commit describes.
    """
    counts = _Counts()
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
        of_versions = (shard for shard in committed(lake.storage, dataset) if generation(history, shard) is not None)
        for made, shard, table, added, record in lake.prefetch(read, of_versions):
            statistics[made][shard.split].merge(added)
            records[made].append(record)
            listed[made].append(shardlist.count(shard, table))
            yield str(made), table

    counts.add(tables())
    books: list[Book] = []
    for index in range(len(history)):
        before = books[-1] if books else Book(schemas.LEDGER.empty_table(), {}, "")
        whole = {split: Statistics() for split in sorted({*before.statistics, *statistics[index]})}
        for part in (before.statistics, statistics[index]):
            for split, added in part.items():
                whole[split].merge(added)
        chained = hashlib.sha256("".join([before.commits_sha256, *records[index]]).encode()).hexdigest()
        books.append(Book(counts.ledger(encoder, index), whole, chained, (*before.shards, *listed[index])))
    return books


def by_labels(lake: Lake, dataset: str, version: int | None, labels: Sequence[str]) -> pa.Table:
    """The ledger of a version (the newest if None) with columns for some labels, such as `labels.country`, by which it
    counts, too.

    The ledger that a dataset keeps knows no labels: one with the date of an episode would have a row for each. So the
    tables of windows of all shards are read for this. Raises FileNotFoundError where there is no such version, and
    CorruptFileError as `build` does.
    """
    known = {one.version: one.shards for one in versions(lake, dataset)}
    shards = known.get(version or max(known, default=0))
    if shards is None:
        raise FileNotFoundError(f"datasets/{dataset} has no such version")

    def tables() -> Iterator[tuple[str, pa.Table]]:
        for shard in committed(lake.storage, dataset):
            if generation([shards], shard) is not None:
                commit = ShardCommit.read(lake.storage, f"datasets/{dataset}/{shard.commit}")
                yield "0", committed_windows(lake, dataset, shard, commit)

    counts = _Counts(labels)
    counts.add(tables())
    return counts.ledger(lake.read_json(f"datasets/{dataset}/plan.json", "encoder")["encoder"], 0)


class _Counts:
    """Windows, time, frames and tokens by the columns of GROUP, by some labels, and by generation: the number of the
    version, from 0 on, that added their shard."""

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = labels
        keys = ", ".join([*GROUP, *(f'{as_sql(label)} AS "{label}"' for label in labels)])
        sums = ", ".join(
            f"sum({tokens}) AS {part}_{k}, sum(({tokens} * millionths + 500000) // 1000000) AS repeated_{part}_{k}"
            for k in PATCHES
            for part in ("context", "continuation")
            for tokens in [f"(tracks * ({part}_frames // {k}))"]
        )
        # Seconds are added as whole microseconds, so that the sum does not depend on its order.
        self.query = (
            f"SELECT batch::INTEGER AS generation, {keys}, count(*) AS windows, "
            "sum(round(duration_s * 1e6)::HUGEINT) AS microseconds, "
            f"sum(tracks * (context_frames + continuation_frames)) AS frames, {sums} "
            "FROM (SELECT * REPLACE (map_from_entries(labels) AS labels), round(repeated_share * 1e6)::BIGINT AS "
            "millionths FROM shard_windows) "
            "WHERE status = 'ok' GROUP BY ALL"
        )
        self.connection = duckdb.connect()
        self.connection.execute("SET threads = 1")
        empty = schemas.SHARD_WINDOWS.empty_table().select(COUNTED)
        self.connection.register("shard_windows", empty.append_column("batch", pa.array([], pa.string())))
        self.connection.execute(f"CREATE TABLE counts AS {self.query}")

    def add(self, tables: Iterator[tuple[str, pa.Table]]) -> None:
        """Count tables of SHARD_WINDOWS, each with the number of its generation as text."""
        for table in concat_batches((number, table.select(COUNTED)) for number, table in tables):
            self.connection.register("shard_windows", table)
            self.connection.execute(f"INSERT INTO counts {self.query}")

    def ledger(self, encoder: str, last: int) -> pa.Table:
        """The ledger of the version that ends with the generation `last`: the columns of LEDGER, then the labels."""
        own = [f'"{label}"' for label in self.labels]
        per_patch = " UNION ALL ".join(
            f"SELECT {', '.join([*GROUP, *own])}, $encoder AS encoder, {k} AS patch, sum(windows) AS windows, "
            f"sum(microseconds)::DOUBLE / 3.6e9 AS hours, sum(frames) AS frames, "
            + ", ".join(f"sum({name.removesuffix('_tokens')}_{k}) AS {name}" for name in schemas.TOKENS)
            + " FROM counts WHERE generation <= $last GROUP BY ALL"
            for k in PATCHES
        )
        order = ", ".join(["split, language, num_speakers, source, patch", *own])
        parameters = {"encoder": encoder, "last": last}
        table = self.connection.sql(f"{per_patch} ORDER BY {order}", params=parameters).to_arrow_table()
        schema = pa.schema([*schemas.LEDGER, *(pa.field(label, pa.string()) for label in self.labels)])
        return table.select(schema.names).cast(schema)


def committed_windows(lake: Lake, dataset: str, shard: ShardFiles, commit: ShardCommit) -> pa.Table:
    """A committed shard's table of windows (SHARD_WINDOWS).

    Raises CorruptFileError where it is missing, or has not the bytes or the counts that the commit says.
    """
    key, table = _described(lake, dataset, shard, commit, shard.windows)
    made = table.filter(pc.equal(table["status"], "ok"))
    frames = pc.sum(pc.multiply(pc.add(made["context_frames"], made["continuation_frames"]), made["tracks"])).as_py()
    found = {"windows": len(made), "failed": len(table) - len(made), "frames": frames or 0}
    for what, count in found.items():
        if count != (stated := getattr(commit, what)):
            raise CorruptFileError.of(key, f"holds {count:,} {what}, {shard.commit} says {stated:,}")
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
    """The ledger at one patch size for a terminal: a row for each combination of the columns in `by`.

    These are of GROUP, or labels of a table that `by_labels` gave.
    """
    assert set(by) <= {*GROUP, *table.schema.names[len(schemas.LEDGER.names) :]}
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.register("ledger", table)
    quoted = [f'"{column}"' for column in by]
    keys = ", ".join(f"coalesce({column}::VARCHAR, 'unknown') AS {column}" for column in quoted)
    found = connection.execute(
        f"SELECT {keys}, sum(windows), sum(hours), sum(frames), sum(context_tokens), sum(continuation_tokens), "
        f"{REPEATED} FROM ledger WHERE patch = ? GROUP BY {', '.join(quoted)} "
        f"ORDER BY sum(frames) DESC, {', '.join(quoted)}",
        [patch],
    ).fetchall()
    names = [[one_line(name) for name in row[: len(by)]] for row in found]
    wide = [max(map(len, column)) + 2 for column in zip(by, *names, strict=True)]
    wide[0] = max(wide[0], 14)

    matched = any(row[-1] is not None for row in found)
    widths = (10, 12, 14, 15, 15, 15)

    def line(texts: Sequence[str], *numbers: str) -> str:
        left = "".join(text.ljust(width) for text, width in zip(texts, wide, strict=True))
        return left + "".join(number.rjust(width) for number, width in zip(numbers, widths, strict=False))

    lines = [line(by, "windows", "hours", "frames", "context", "continuation", *["repeated"] * matched)]
    for texts, (windows, hours, *counts) in zip(names, (row[len(by) :] for row in found), strict=True):
        cells = [f"{count:,}" for count in counts if count is not None]
        lines.append(line(texts, f"{windows:,}", f"{hours:,.4f}", *cells))
    lines.append(f"context and continuation are tokens of {counted(patch, 'frame')}")
    if matched:
        lines.append("repeated are those of both whose sound lies in a kept recording before; all others are unique")
    return "\n".join(lines)
