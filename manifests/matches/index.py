"""The index: files of postings, sorted by key, from which ranges of keys can be read. Each file is of ten batches.

A posting is a code of a landmark, the number of its recording (`ordinal`) and its time. A code has 64 bits: a key, then
the bits of the landmark that are not in the key. Keys are spread evenly, so that equal ranges of codes hold about
equally many postings.
"""

from __future__ import annotations

import functools
import itertools
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
PARTS = 16
"""Parts in which a file is sorted."""
ROW_BITS = 20
"""Bits of a recording's number that hold its row; so a batch must have fewer than 2^20 recordings."""
TABLES = 2
"""Keys of each landmark, of different bits: a copy in which one key has changed can still be found by the other."""
BITS = 63
SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""Keys are multiplied by it modulo a power of 2. It is odd, so different keys stay different."""
COLUMNS = ["recording_id", "times_ms", "landmarks"]


def number_of(batch: str) -> int:
    return int(batch.rpartition("-")[2])


def ordinal(batch: str, row: Array | int) -> Array:
    """The number of the recording in a row of a batch, int64: it grows with the batch, then with the row."""
    return np.int64(number_of(batch) << ROW_BITS) + np.asarray(row, np.int64)


def codes(landmarks: Array, key_bits: int) -> Array:
    """Codes of landmarks, uint64 (TABLES, n).

    The key of the first table is made of the bits of the lowest frequencies over time, that of the second of those of
    the highest. The number of the table is part of the key, so that keys of different tables are never equal.

    >>> codes(np.array([0, 1]), 32).shape
    (2, 2)
    """
    made = []
    for table, chosen in enumerate(_chosen()):
        key = np.full(len(landmarks), table, np.uint64)
        for bit in chosen[:key_bits]:
            key = (key << np.uint64(1)) | ((landmarks >> bit) & 1).astype(np.uint64)
        code = (key * SPREAD) & np.uint64((1 << key_bits + 1) - 1)
        for bit in chosen[key_bits:]:
            code = (code << np.uint64(1)) | ((landmarks >> bit) & 1).astype(np.uint64)
        made.append(code)
    return np.stack(made)


def keys_of(codes: Array, key_bits: int) -> Array:
    """The keys of codes, uint64 (n,), each with the number of its table."""
    return np.asarray(codes >> np.uint64(BITS - key_bits))


def ranges(count: int, key_bits: int) -> Sequence[tuple[int, int]]:
    """Up to `count` adjacent ranges of codes, [low, high), that together hold all codes. No range divides a key."""
    edges = [((2 << key_bits) * number // count) << (BITS - key_bits) for number in range(count + 1)]
    return list(itertools.pairwise(edges))


@functools.cache
def _chosen() -> tuple[list[int], list[int]]:
    """The bits of each table in the order of its codes: those of the key, then the others. Bit 9 f + r is of frequency
    f over the bands and r over time."""
    by_rate = sorted(range(BITS), key=lambda bit: (bit % 9, bit // 9))
    return by_rate, by_rate[::-1]


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
    key_bits = matches.config.key_bits
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64))]
    for batch, table in _fingerprints(matches, batches):
        rows, times_ms, landmarks = flattened(table)
        found.append((ordinal(batch, rows), times_ms, landmarks))
    recording, time_ms, landmarks = map(np.concatenate, zip(*found, strict=True))
    code, parts = codes(landmarks, key_bits), []
    for low, high in ranges(PARTS, key_bits):  # one after the other, since sorting takes several times the memory
        # Equal keys are of one table, in which postings are in the order of recordings and times; the sort is stable.
        tables, places = np.nonzero((code >= low) & (code <= high - 1))
        order = np.argsort(keys_of(code[tables, places], key_bits), kind="stable")
        tables, places = tables[order], places[order]
        columns = {"code": code[tables, places], "recording": recording[places], "time_ms": time_ms[places]}
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


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
    """The rows of a file whose `column` is in [low, high). The file is sorted by it, or is sorted by keys and is read
    from one key to another."""
    try:
        with (
            lake.storage.filesystem().open_input_file(key) as opened,
            pq.ParquetFile(opened, page_checksum_verification=True) as file,
        ):
            at = file.schema_arrow.get_field_index(column)
            groups = []
            for group in range(file.num_row_groups):
                statistics = file.metadata.row_group(group).column(at).statistics
                if statistics is None or (statistics.max >= low and statistics.min <= high - 1):
                    groups.append(group)
            table = file.read_row_groups(groups, use_threads=False)
    except pa.ArrowException as error:
        raise CorruptFileError.of(key, f"cannot be read: {error}") from error
    values = table[column].to_numpy()
    first, last = np.searchsorted(values, low), np.searchsorted(values, high - 1, "right")  # 2^64 is no uint64
    return table.slice(first, last - first)
