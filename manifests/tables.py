"""Tables to Parquet bytes, always in the same way: equal tables give equal bytes; and many small ones as one."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet_bytes(table: pa.Table) -> bytes:
    """The table as one Parquet file: zstd, statistics, row groups of 64 Ki rows, a checksum for each page."""
    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", row_group_size=1 << 16, write_page_checksum=True)
    return sink.getvalue()


def joined(tables: Iterable[tuple[str, pa.Table]], count: int = 100) -> Iterator[pa.Table]:
    """Small tables with their batches, `count` at a time as one with a column `batch`.

    To take in a table costs DuckDB a statement and, on disk, a commit, however small it is.
    """
    source = iter(tables)
    while some := list(itertools.islice(source, count)):
        yield pa.concat_tables(
            table.append_column("batch", pa.array([batch] * len(table), pa.string())) for batch, table in some
        )
