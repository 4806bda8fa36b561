"""A version of a dataset, opened for reading: the number of windows in each shard, and the windows themselves."""

from __future__ import annotations

import functools
import hashlib
import io
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy

from manifests import shardlist
from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from manifests.shardlist import PATCHES
from manifests.shards import ShardFiles
from manifests.stored import Stored
from manifests.subsets import About, Subset, prefix, version_of, windows_of

GAP_BYTES = 64 << 10
"""Windows with gaps up to this size in a shard are read by one request, because another request would take longer."""
CACHED_TABLES = 64
"""Number of window tables in the cache, so that the table of a shard is not read again for each of its blocks."""

Row = dict[str, Any]
"""A row of SHARD_WINDOWS."""


@dataclass(frozen=True)
class Choice:
    """Which windows of a dataset are read, and how many frames make a token."""

    splits: tuple[str, ...]
    tracks: int | None
    patch: int
    budget: int | None = None
    """Largest number of tokens of context and continuation, over all tracks; None for no limit."""


class ShardWindows:
    """The selected windows of one shard, in the order of the shard."""

    def __init__(self, files: ShardFiles, table: pa.Table) -> None:
        self.files, self._table = files, table
        self.offsets, self.sizes, self.crcs = (
            table[f"array_{name}"].to_numpy() for name in ("offset", "bytes", "crc32")
        )

    def __len__(self) -> int:
        return len(self._table)

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """The ids of the windows, as bytes."""
        return np.array(self._table["window_id"].to_pylist(), np.bytes_)

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """Return the table rows of the windows with these numbers."""
        first, count = numbers[0], len(numbers)
        in_order = list(numbers) == list(range(first, first + count))
        part = self._table.slice(first, count) if in_order else self._table.take(pa.array(numbers))
        columns = [part[name].to_pylist() for name in part.column_names]  # Table.to_pylist takes three times as long
        return [dict(zip(part.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


class OpenedDataset:
    """The selected windows of a version of a dataset. It only holds a count per shard, so it is cheap to pickle."""

    def __init__(
        self, lake: Lake, name: str, version: int | None, choice: Choice, subset: Subset | None = None
    ) -> None:
        """Read the list of shards.

        Args:
            lake: The lake that holds the dataset.
            name: The dataset's name.
            version: Number of a version; None for the newest.
            choice: The windows to read.
            subset: Replaces `version`, and the splits, tracks and budget of `choice`.

        Raises:
            FileNotFoundError: There is no such dataset or version.
            ValueError: No window is selected.
        """
        self.lake, self.name = lake, name
        if subset is None:
            splits, tracks, patch, budget = choice.splits, choice.tracks, choice.patch, choice.budget
            about = About(name, version_of(lake, name, version), splits, tracks, min(patch, PATCHES[-1]), True, budget)
            subset = prefix(lake, about)
        else:
            subset.check(lake)
        about, rows = subset.about, subset.rows
        self.choice = replace(choice, splits=tuple(about.splits), tracks=about.tracks, budget=about.budget)
        self.version, self.folder = about.version, about.folder
        named = zip(rows["folder"].to_pylist(), rows["shard"].to_pylist(), strict=True)
        self.files = [ShardFiles(folder, shard) for folder, shard in named]
        self.stored = rows["of_windows"].to_numpy().copy()
        """Windows of the selected splits and tracks in each shard."""
        self.counts = rows["windows"].to_numpy().copy()
        """Windows of each shard that are read; fewer than `stored` if the subset takes a part of the shard."""
        partly = np.flatnonzero(pc.is_valid(rows["ids"])).tolist()
        self._about, self._ids = about, {place: pa.array(rows["ids"][place].as_py(), pa.string()) for place in partly}
        self.tokens = int(_tokens(rows, choice.patch).sum())
        """Tokens of context and continuation in an epoch; an estimate if `patch` is above 6."""
        self.window_bytes = max(1, int(pc.sum(rows["array_bytes"]).as_py()) // int(self.counts.sum()))
        self._tables: dict[int, ShardWindows] = {}
        self._lock = threading.Lock()
        shards = [(files.folder, files.shard, int(count)) for files, count in zip(self.files, self.counts, strict=True)]
        taken = [(place, ids.to_pylist()) for place, ids in self._ids.items()]
        self.fingerprint = hashlib.sha256(repr((self.choice, shards, taken)).encode()).hexdigest()[:16]
        """Hash of everything that decides the numbering of windows. A saved state with another one is refused."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_tables", "_lock")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__ |= {**state, "_tables": {}, "_lock": threading.Lock()}

    @property
    def windows(self) -> int:
        """Number of windows in an epoch."""
        return int(self.counts.sum())

    def window_tokens(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """Return the context tokens and the continuation tokens of a window (a row of SHARD_WINDOWS), over all
        tracks."""
        k, tracks = self.choice.patch, row["tracks"]
        return tracks * (row["context_frames"] // k), tracks * (row["continuation_frames"] // k)

    def statistics(self, split: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation of each feature dimension, float32 (dim,) each.

        Args:
            split: The split to take them from; None for the default split of the dataset.

        Returns:
            The mean and the standard deviation, which is 1 where a dimension is constant.

        Raises:
            ValueError: The split has no statistics.
        """
        mean, variance = self._stored(split, "mean", "variance")
        deviation = np.sqrt(variance)
        return mean.astype(np.float32), np.where(deviation > 0, deviation, 1.0).astype(np.float32)

    def whitening(self, split: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean, float32 (dim,), and the matrix W, float32 (dim, dim), of PCA whitening.

        (x - mean) @ W has the identity as its covariance. Column k of W is the eigenvector of the k-th largest
        eigenvalue of the covariance, divided by the square root of that eigenvalue. Directions that vary by no more
        than rounding errors are not scaled.

        Args:
            split: The split to take them from; None for the default split of the dataset.

        Raises:
            ValueError: The split has no statistics.
        """
        mean, values, vectors = self._stored(split, "mean", "eigenvalues", "eigenvectors")
        varies = values > len(values) * np.finfo(np.float64).eps * values.max()
        return mean.astype(np.float32), (vectors / np.sqrt(np.where(varies, values, 1.0))).astype(np.float32)

    def _stored(self, split: str | None, *names: str) -> list[np.ndarray]:
        """Read arrays from `stats.safetensors`, of the given split or of the default split of the dataset."""
        key = f"{self.folder}/stats.safetensors"
        try:
            arrays = safetensors.numpy.load(self.lake.storage.read(key))
        except safetensors.SafetensorError as error:
            raise CorruptFileError.of(key, f"cannot be read: {error}") from error
        prefix = "" if split is None else f"{split}."
        if f"{prefix}mean" not in arrays:
            raise ValueError(f"{key}: no statistics of the split {split!r} to normalise by")
        if missing := [name for name in names if f"{prefix}{name}" not in arrays]:
            raise ValueError(f"{key}: no {missing[0]} to whiten by: its frames have too many values for a covariance")
        return [arrays[f"{prefix}{name}"] for name in names]

    def table(self, shard: int) -> ShardWindows:
        """Return the windows of a shard, given by its index in `files`. Safe to call from any thread."""
        with self._lock:
            if shard in self._tables:
                return self._tables[shard]
        windows = self._read_table(shard)
        with self._lock:
            self._tables[shard] = windows
            while len(self._tables) > CACHED_TABLES:
                del self._tables[next(iter(self._tables))]
        return windows

    def _read_table(self, shard: int) -> ShardWindows:
        files = self.files[shard]
        table = windows_of(self.lake, self._about, files).drop_columns(["status", "error"]).combine_chunks()
        key = f"datasets/{self.name}/{files.windows}"
        if len(table) != self.stored[shard]:
            what = f"holds {len(table):,} windows to read, {self.folder}/shards.parquet says {self.stored[shard]:,}"
            raise CorruptFileError.of(key, f"{what}: the shard was changed after the dataset was opened")
        if shard in self._ids:
            table = table.filter(pc.is_in(table["window_id"], value_set=self._ids[shard])).combine_chunks()
            if len(table) != self.counts[shard]:
                what = f"lacks {self.counts[shard] - len(table):,} windows of the subset"
                raise CorruptFileError.of(key, f"{what}: the shard was changed after the subset was made")
        return ShardWindows(files, table)

    def arrays(self, windows: ShardWindows, numbers: Sequence[int]) -> list[Stored]:
        """Read the features of some windows of a shard, as they are stored: read-only arrays.

        Adjacent windows are read by one request.

        Raises:
            CorruptFileError: An array has another checksum than when it was written. The message names the window.
        """
        arrays: list[Stored] = []
        for part in _neighbours(windows, numbers):
            begin = int(windows.offsets[part[0]])
            end = int(windows.offsets[part[-1]] + windows.sizes[part[-1]])
            key = f"datasets/{self.name}/{windows.files.latents}"
            try:
                data = memoryview(self.lake.storage.read_range(key, begin, end))
            except FileNotFoundError as error:
                raise CorruptFileError.of(key, "missing, though its shard is committed") from error
            for number in part:
                offset = int(windows.offsets[number]) - begin
                npy = data[offset : offset + int(windows.sizes[number])]
                if zlib.crc32(npy) != windows.crcs[number]:
                    what = f"the features of {windows.ids[number].decode()} are not those that were written"
                    raise CorruptFileError.of(key, what)
                arrays.append(Stored.view(npy, _parsed))
        return arrays


def _tokens(rows: pa.Table, patch: int) -> np.ndarray:
    """Return the tokens of each shard, int64 (shards,). They are exact at the patch sizes of the ledger, and
    otherwise an estimate of at least 1."""
    if patch not in PATCHES:
        return np.maximum(1, rows["frames"].to_numpy() // patch)
    return shardlist.tokens(rows, patch)


def _neighbours(windows: ShardWindows, numbers: Sequence[int]) -> list[list[int]]:
    """Split window numbers into runs whose arrays are read by one request."""
    parts: list[list[int]] = []
    end = None
    for number in numbers:
        begin = int(windows.offsets[number])
        if end is None or not 0 <= begin - end <= GAP_BYTES:
            parts.append([])
        parts[-1].append(number)
        end = begin + int(windows.sizes[number])
    return parts


@functools.lru_cache(maxsize=4096)
def _parsed(header: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    """Return the dtype and shape in the header of a .npy file. Cached, because NumPy parses headers slowly."""
    np.lib.format.read_magic(file := io.BytesIO(header))
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    assert not fortran, "shards hold arrays in C order"
    return dtype, shape
