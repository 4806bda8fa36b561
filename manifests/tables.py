"""Write tables as Parquet, such that equal tables give equal bytes, and concatenate small tables."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet_bytes(table: pa.Table) -> bytes:
    """Encode a table as Parquet: zstd, statistics, row groups of 64 Ki rows, a checksum for each page."""
    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", row_group_size=1 << 16, write_page_checksum=True)
    return sink.getvalue()


def concat_batches(tables: Iterable[tuple[str, pa.Table]], count: int = 100) -> Iterator[pa.Table]:
    """Concatenate `count` tables at a time and add a column `batch` with the name of each row's batch.

    DuckDB needs one statement, and on disk one commit, for each table that it reads, however small the table is.
    """
    source = iter(tables)
    while chunk := list(itertools.islice(source, count)):
        yield pa.concat_tables(
            table.append_column("batch", pa.array([batch] * len(table), pa.string())) for batch, table in chunk
        )
