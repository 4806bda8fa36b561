"""The index: the landmarks of ten batches after one another, by key, in a file that is read by ranges of keys.

A posting is a key, the recording as `ordinal` numbers it, and a time. Keys are spread evenly over 0 to 2^63.
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
"""In a file of the index: 200 hours of sound make 9 million postings."""
ROW_BITS = 20
"""A batch has fewer than 2^20 recordings."""
TABLES = 2
BITS = 63
SPREAD = np.int64(0x1E3779B97F4A7C15)
"""Odd: keys are multiplied by it modulo 2^63, which no two survive as one."""
COLUMNS = ["recording_id", "times_ms", "landmarks"]


def number_of(batch: str) -> int:
    return int(batch.rpartition("-")[2])


def ordinal(batch: str, row: Array | int) -> Array:
    """The number of a recording in the order of all, int64."""
    return np.int64(number_of(batch) << ROW_BITS) + np.asarray(row, np.int64)


def keys(landmarks: Array, key_bits: int) -> Array:
    """Keys of landmarks, int64 (TABLES, n): of the slowest and of the fastest changes over time, each with its number.

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
    """Which bits make the key of each table. Bit 9 f + r is of shape f over the bands and of rate r over time."""
    by_rate = sorted(range(BITS), key=lambda bit: (bit % 9, bit // 9))
    return by_rate[:key_bits], by_rate[::-1][:key_bits]


def segments(batches: Sequence[str]) -> list[list[str]]:
    """Batches by the file of the index that holds them; a file that is not full is made anew as the lake grows."""
    found: dict[int, list[str]] = {}
    for batch in batches:
        found.setdefault(number_of(batch) // BATCHES, []).append(batch)
    return list(found.values())


def segment_key(matches: Matches, batches: Sequence[str]) -> str:
    """A file of the index, named after the first and the last batch in it and how many there are."""
    return f"{matches.prefix}/index/{number_of(batches[0]):06d}-{number_of(batches[-1]):06d}-{len(batches)}.parquet"


def build(matches: Matches, batches: Sequence[str]) -> pa.Table:
    """The postings of these batches, sorted by key; of equal keys in the order of recordings, then of times."""
    found = [(np.zeros((TABLES, 0), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))]
    for batch, table in _fingerprints(matches, batches):
        rows, times_ms, landmarks = flattened(table)
        found.append((keys(landmarks, matches.config.key_bits), ordinal(batch, rows), times_ms))
    key = np.concatenate([one[0] for one in found], axis=1)
    recordings, times_ms = (np.concatenate([one[at] for one in found]) for at in (1, 2))
    count = len(recordings)
    order = np.argsort(key.ravel(), kind="stable")
    columns = {"key": key.ravel()[order], "recording": recordings[order % max(1, count)]}
    # Each recording's tables lie one after the other: a key names its table, so equal keys are in order already.
    return pa.table(columns | {"time_ms": times_ms[order % max(1, count)]})


def _fingerprints(matches: Matches, batches: Iterable[str]) -> Iterator[tuple[str, pa.Table]]:
    lake = matches.lake
    return lake.read_each(batches, functools.partial(lake.annotation_key, "fingerprint", matches.fingerprints), COLUMNS)


def flattened(table: pa.Table) -> tuple[Array, Array, Array]:
    """The landmarks of a batch of fingerprints: row, time in ms and bits of each."""
    if len(table) >= 1 << ROW_BITS:
        raise CorruptFileError(f"a batch has {len(table):,} recordings", "ingest them in batches of fewer hours")
    lists = table["landmarks"].combine_chunks()
    rows = np.repeat(np.arange(len(table)), np.asarray(lists.value_lengths().fill_null(0)))
    times_ms = table["times_ms"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return rows, times_ms.astype(np.int32), lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)


def read_range(lake: Lake, key: str, column: str, low: int, high: int) -> pa.Table:
    """The rows of a file, sorted by a column, in which that lies in [low, high)."""
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
