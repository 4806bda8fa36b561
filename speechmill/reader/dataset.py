"""A version of a dataset as a reader sees it: how many windows each shard holds, and the windows of some of them."""

from __future__ import annotations

import functools
import hashlib
import io
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy

from manifests import schemas
from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from manifests.shardlist import PATCHES
from manifests.shards import ShardFiles
from manifests.versions import VERSION

GAP_BYTES = 64 << 10
"""Windows that lie this near to each other in a shard are read by one request: to ask again takes longer."""
TABLES_HELD = 64
"""Tables of windows that are kept, so that a shard's is not read again for each of its blocks."""

Row = dict[str, Any]
"""A row of SHARD_WINDOWS."""


@dataclass(frozen=True)
class Choice:
    """Which windows of a dataset are read."""

    splits: tuple[str, ...]
    tracks: int | None
    budget: int | None
    """Tokens of context and continuation, over all tracks; None for all."""
    patch: int


class ShardWindows:
    """The chosen windows of one shard, in its order."""

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
        """What is known of some windows."""
        first, count = numbers[0], len(numbers)
        in_order = list(numbers) == list(range(first, first + count))
        part = self._table.slice(first, count) if in_order else self._table.take(pa.array(numbers))
        columns = [part[name].to_pylist() for name in part.column_names]  # Table.to_pylist takes three times as long
        return [dict(zip(part.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


class OpenedDataset:
    """The chosen windows of a version of a dataset. Cheap to send to a worker: it holds a count for each shard."""

    def __init__(self, lake: Lake, name: str, version: int | None, choice: Choice) -> None:
        """Raises FileNotFoundError where there is no such dataset or version, ValueError where nothing is chosen."""
        self.lake, self.name, self.choice = lake, name, choice
        self.version = _version(lake, name, version)
        self.folder = f"datasets/{name}/versions/{self.version:06d}"
        listed = _in_fair_order(_chosen(lake.read(f"{self.folder}/shards.parquet"), choice))
        if not len(listed):
            told = f"no windows of the splits {', '.join(choice.splits)}"
            told += f" with {choice.tracks} tracks" if choice.tracks is not None else ""
            raise ValueError(f"datasets/{name}, version {self.version}: {told}; look at {self.folder}/README.md")
        self._open(listed)

    def _open(self, listed: pa.Table) -> None:
        named = zip(listed["folder"].to_pylist(), listed["shard"].to_pylist(), strict=True)
        self.files = [ShardFiles(folder, shard) for folder, shard in named]
        self.stored = listed["windows"].to_numpy().copy()
        """Windows that each shard holds, and"""
        self.counts = self.stored.copy()
        """those that are given of it, from its first on: fewer in the last shard of a budget."""
        self.tokens_listed = _tokens(listed, self.choice.patch)
        self.window_bytes = max(1, int(pc.sum(listed["array_bytes"]).as_py()) // int(self.stored.sum()))
        self._tables: dict[int, ShardWindows] = {}
        self._lock = threading.Lock()
        if self.choice.budget is not None:
            self._cut(self.choice.budget)
        told = [(files.folder, files.shard, int(count)) for files, count in zip(self.files, self.counts, strict=True)]
        self.fingerprint = hashlib.sha256(repr((self.choice, told)).encode()).hexdigest()[:16]
        """Of what decides which window has which number: a state of another one cannot be resumed."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_tables", "_lock")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__ |= {**state, "_tables": {}, "_lock": threading.Lock()}

    @property
    def windows(self) -> int:
        """How many windows an epoch has."""
        return int(self.counts.sum())

    def window_tokens(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """Tokens of context and of continuation of a window (a row of SHARD_WINDOWS), over all tracks."""
        k, tracks = self.choice.patch, row["tracks"]
        return tracks * (row["context_frames"] // k), tracks * (row["continuation_frames"] // k)

    def statistics(self, split: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each bin of a split, float32 (dim,); None is the split that the dataset names.

        Where a bin never varies its deviation is 1. ValueError for a split without statistics.
        """
        mean, variance = self._stored(split, "mean", "variance")
        deviation = np.sqrt(variance)
        return mean.astype(np.float32), np.where(deviation > 0, deviation, 1.0).astype(np.float32)

    def whitening(self, split: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean, float32 (dim,), and W, float32 (dim, dim), of a split: (x - mean) @ W has the identity as covariance.

        Column k of W is the eigenvector of the k-th largest eigenvalue of the covariance over its root (PCA whitening).
        What varies by no more than rounding is not scaled up. ValueError for a split without statistics.
        """
        mean, values, vectors = self._stored(split, "mean", "eigenvalues", "eigenvectors")
        varies = values > len(values) * np.finfo(np.float64).eps * values.max()
        return mean.astype(np.float32), (vectors / np.sqrt(np.where(varies, values, 1.0))).astype(np.float32)

    def _stored(self, split: str | None, *names: str) -> list[np.ndarray]:
        """Arrays of `stats.safetensors`, of a split or of that which the dataset names."""
        key = f"{self.folder}/stats.safetensors"
        try:
            arrays = safetensors.numpy.load(self.lake.storage.read(key))
        except safetensors.SafetensorError as error:
            raise CorruptFileError.of(key, f"cannot be read: {error}") from error
        prefix = "" if split is None else f"{split}."
        if f"{prefix}mean" not in arrays:
            raise ValueError(f"{key}: no statistics of the split {split!r} to normalise by")
        if missing := [name for name in names if f"{prefix}{name}" not in arrays]:
            raise ValueError(f"{key}: no {missing[0]} to whiten by, since its frames have too many values")
        return [arrays[f"{prefix}{name}"] for name in names]

    def table(self, shard: int) -> ShardWindows:
        """The windows of a shard, given by its place in `files`; from any thread."""
        with self._lock:
            if shard in self._tables:
                return self._tables[shard]
        made = self._read_table(shard)
        with self._lock:
            self._tables[shard] = made
            while len(self._tables) > TABLES_HELD:
                del self._tables[next(iter(self._tables))]
        return made

    def _read_table(self, shard: int) -> ShardWindows:
        files = self.files[shard]
        key = f"datasets/{self.name}/{files.windows}"
        try:
            table = _made(self.lake.read(key), self.choice)
        except FileNotFoundError as error:
            raise CorruptFileError.of(key, f"missing, though {self.folder}/shards.parquet lists it") from error
        if len(table) != self.stored[shard]:
            told = f"holds {len(table):,} windows to read, {self.folder}/shards.parquet says {self.stored[shard]:,}"
            raise CorruptFileError.of(key, f"{told}: the shard was changed after the dataset was opened")
        return ShardWindows(files, table)

    def arrays(self, windows: ShardWindows, numbers: Sequence[int]) -> list[np.ndarray]:
        """The features of some windows of a shard, each float16 (tracks, frames, dim) and not to be written to.

        Windows that lie side by side are read by one request. Raises CorruptFileError, with the name of the window,
        where an array is not the one that was written.
        """
        found: list[np.ndarray] = []
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
                    told = f"the features of {windows.ids[number].decode()} are not those that were written"
                    raise CorruptFileError.of(key, told)
                found.append(_array(npy))
        return found

    def _cut(self, budget: int) -> None:
        """Keep the first shards, and of the last one the first windows, whose tokens do not exceed a budget."""
        ends = np.cumsum(self.tokens_listed)
        whole = int(np.searchsorted(ends, budget, side="right"))
        if whole < len(self.files):
            left = budget - (int(ends[whole - 1]) if whole else 0)
            windows = self.table(whole)
            rows = windows.rows(range(len(windows)))
            taken = int(np.searchsorted(np.cumsum([sum(self.window_tokens(row)) for row in rows]), left, side="right"))
            self.counts[whole:] = 0
            self.counts[whole] = taken
        given = self.counts > 0
        if not given.any():
            raise ValueError(f"datasets/{self.name}: its first window alone has more than {budget:,} tokens")
        kept = len(given) - int(np.argmax(given[::-1]))
        self.files, self.stored, self.counts = self.files[:kept], self.stored[:kept], self.counts[:kept]
        self.tokens_listed = self.tokens_listed[:kept]


def _version(lake: Lake, name: str, version: int | None) -> int:
    prefix = f"datasets/{name}/"
    keys = (key.removeprefix(prefix) for key in lake.storage.list(f"{prefix}versions"))
    known = sorted(int(found[1]) for found in map(VERSION.fullmatch, keys) if found)
    if not known:
        told = f"no dataset {name} with a version in {lake.storage.root}"
        raise FileNotFoundError(f"{told}: `speechmill datasets list` shows what there is")
    if version is not None and version not in known:
        told = ", ".join(map(str, known))
        raise FileNotFoundError(f"datasets/{name} in {lake.storage.root} has no version {version}, but {told}")
    return known[-1] if version is None else version


def _chosen(listed: pa.Table, choice: Choice) -> pa.Table:
    """The rows of SHARDS that are read, those of one shard added up."""
    mask = pc.is_in(listed["split"], pa.array(choice.splits, pa.string()))
    if choice.tracks is not None:
        mask = pc.and_(mask, pc.equal(listed["tracks"], choice.tracks))
    rows: dict[tuple[str, int], Row] = {}
    for row in listed.filter(mask).to_pylist():
        if not row["windows"]:
            continue
        known = rows.setdefault((row["folder"], row["shard"]), row)
        if known is not row:
            for name in ("windows", "frames", "array_bytes"):
                known[name] += row[name]
            for name in ("context_tokens", "continuation_tokens"):
                known[name] = [one + other for one, other in zip(known[name], row[name], strict=True)]
    return schemas.table(list(rows.values()), schemas.SHARDS)


def _in_fair_order(listed: pa.Table) -> pa.Table:
    """The shards of several folders spread evenly over the list, each folder's in its own order."""
    folders = listed["folder"].to_pylist()
    seen: dict[str, int] = {}
    places = []
    for folder in folders:
        seen[folder] = seen.get(folder, 0) + 1
        places.append(seen[folder])
    fractions = [(2 * place - 1) / (2 * seen[folder]) for place, folder in zip(places, folders, strict=True)]
    return listed.take(pa.array(sorted(range(len(folders)), key=lambda row: (fractions[row], row)), pa.int64()))


def _made(table: pa.Table, choice: Choice) -> pa.Table:
    mask = pc.and_(pc.equal(table["status"], "ok"), pc.is_in(table["split"], pa.array(choice.splits, pa.string())))
    if choice.tracks is not None:
        mask = pc.and_(mask, pc.equal(table["tracks"], choice.tracks))
    return table.filter(mask).drop_columns(["status", "error"]).combine_chunks()


def _tokens(listed: pa.Table, patch: int) -> np.ndarray:
    """Tokens of each shard, int64 (shards,): exact at the patch sizes of the ledger, else at least one a patch."""
    if patch not in PATCHES:
        return np.maximum(1, listed["frames"].to_numpy() // patch)
    context, continuation = (
        np.array(listed[f"{part}_tokens"].to_pylist(), np.int64)[:, PATCHES.index(patch)]
        for part in ("context", "continuation")
    )
    tokens: np.ndarray = context + continuation
    return tokens


def _neighbours(windows: ShardWindows, numbers: Sequence[int]) -> list[list[int]]:
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
    """dtype and shape that the header of a .npy file tells. NumPy parses each anew, which takes long."""
    np.lib.format.read_magic(file := io.BytesIO(header))
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    assert (fortran, dtype) == (False, np.float16), "shards hold float16 in C order"
    return dtype, shape


def _array(npy: memoryview) -> np.ndarray:
    """The array of a .npy file, (tracks, frames, dim), without a copy."""
    begin = 10 + int.from_bytes(npy[8:10], "little")
    dtype, shape = _parsed(bytes(npy[:begin]))
    array = np.frombuffer(npy, dtype, offset=begin).reshape(shape)
    return array[None] if array.ndim == 2 else array
