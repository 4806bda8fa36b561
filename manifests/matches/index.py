"""The index: files of postings, sorted by key, from which ranges of keys can be read. Each file is of ten batches.

A posting is a key of a landmark, the number of its recording (`ordinal`) and its time. Keys are spread evenly over 0 to
2^63, so that equal ranges hold about equally many postings.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from manifests.matches import Matches
from manifests.spans import Array

BATCHES = 10
"""Batches in a file of the index. With batches of 20 hours it has 9 million postings."""
ROW_BITS = 20
"""Bits of a recording's number that hold its row; so a batch must have fewer than 2^20 recordings."""
TABLES = 2
"""Keys of each landmark, of different bits: a copy in which one key has changed can still be found by the other."""
BITS = 63
SPREAD = np.int64(0x1E3779B97F4A7C15)
"""Keys are multiplied by it modulo 2^63. It is odd, so different keys stay different."""
COLUMNS = ["recording_id", "times_ms", "landmarks"]


def number_of(batch: str) -> int:
    return int(batch.rpartition("-")[2])


def ordinal(batch: str, row: Array | int) -> Array:
    """The number of the recording in a row of a batch, int64: it grows with the batch, then with the row."""
    return np.int64(number_of(batch) << ROW_BITS) + np.asarray(row, np.int64)


def keys(landmarks: Array, key_bits: int) -> Array:
    """Keys of landmarks, int64 (TABLES, n).

    The first is made of the bits of the lowest frequencies over time, the second of those of the highest. The number of
    the table is part of the key, so that keys of different tables are never equal.

    >>> keys(np.array([0, 1]), 32).shape
    (2, 2)
    """
    made = []
    for table, chosen in enumerate(_chosen(key_bits)):
        key = np.full(len(landmarks), table, np.int64)
        for bit in chosen:
            key = (key << 1) | ((landmarks >> bit) & 1)
        made.append((key * SPREAD) & np.int64(2**63 - 1))
    return np.stack(made)


@functools.cache
def _chosen(key_bits: int) -> tuple[list[int], list[int]]:
    """The bits that make the key of each table. Bit 9 f + r is of frequency f over the bands and r over time."""
    by_rate = sorted(range(BITS), key=lambda bit: (bit % 9, bit // 9))
    return by_rate[:key_bits], by_rate[::-1][:key_bits]


def segments(batches: Sequence[str]) -> list[list[str]]:
    """Batches grouped by the file of the index that holds them. The last file is written anew when the lake grows."""
    found: dict[int, list[str]] = {}
    for batch in batches:
        found.setdefault(number_of(batch) // BATCHES, []).append(batch)
    return list(found.values())


def segment_key(matches: Matches, batches: Sequence[str]) -> str:
    """The key of a file of the index, named after its first batch, its last batch and their number."""
    return f"{matches.prefix}/index/{number_of(batches[0]):06d}-{number_of(batches[-1]):06d}-{len(batches)}.parquet"


def build(matches: Matches, batches: Sequence[str]) -> pa.Table:
    """The postings of batches, sorted by key; those of equal keys by recording, then by time."""
    found = [(np.zeros((TABLES, 0), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))]
    for batch, table in _fingerprints(matches, batches):
        rows, times_ms, landmarks = flattened(table)
        found.append((keys(landmarks, matches.config.key_bits), ordinal(batch, rows), times_ms))
    key = np.concatenate([one[0] for one in found], axis=1)
    recordings, times_ms = (np.concatenate([one[at] for one in found]) for at in (1, 2))
    count = len(recordings)
    order = np.argsort(key.ravel(), kind="stable")
    columns = {"key": key.ravel()[order], "recording": recordings[order % max(1, count)]}
    # All postings of the first table precede those of the second. Equal keys are of one table, in which postings are in
    # the order of recordings and times, and the sort is stable.
    return pa.table(columns | {"time_ms": times_ms[order % max(1, count)]})


def _fingerprints(matches: Matches, batches: Iterable[str]) -> Iterator[tuple[str, pa.Table]]:
    lake = matches.lake
    return lake.read_each(batches, functools.partial(lake.annotation_key, "fingerprint", matches.fingerprints), COLUMNS)


def flattened(table: pa.Table) -> tuple[Array, Array, Array]:
    """Row, time in ms and bits of each landmark in a table of fingerprints."""
    if len(table) >= 1 << ROW_BITS:
        raise CorruptFileError(f"a batch has {len(table):,} recordings", "ingest them in batches of fewer hours")
    lists = table["landmarks"].combine_chunks()
    rows = np.repeat(np.arange(len(table)), np.asarray(lists.value_lengths().fill_null(0)))
    times_ms = table["times_ms"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return rows, times_ms.astype(np.int32), lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)


def read_range(lake: Lake, key: str, column: str, low: int, high: int) -> pa.Table:
    """The rows of a file whose `column`, by which the file is sorted, is in [low, high)."""
    try:
        with (
            lake.storage.filesystem().open_input_file(key) as opened,
            pq.ParquetFile(opened, page_checksum_verification=True) as file,
        ):
            at = file.schema_arrow.get_field_index(column)
            groups = []
            for group in range(file.num_row_groups):
                told = file.metadata.row_group(group).column(at).statistics
                if told is None or (told.max >= low and told.min <= high - 1):
                    groups.append(group)
            table = file.read_row_groups(groups, use_threads=False)
    except pa.ArrowException as error:
        raise CorruptFileError.of(key, f"cannot be read: {error}") from error
    values = table[column].to_numpy()
    first, last = np.searchsorted(values, low), np.searchsorted(values, high - 1, "right")  # 2^63 is no int64
    return table.slice(first, last - first)
