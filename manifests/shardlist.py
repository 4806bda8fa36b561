"""The list of the shards of a version with the counts of each: `shards.parquet` of a dataset.

A reader that divides the windows of a dataset among processes, or cuts a subset at a number of tokens, needs the counts
of all shards before it reads the first window. One file holds them, because there may be 10^5 shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import schemas
from manifests.shards import ShardFiles
from manifests.versions import Fields

PATCHES = range(1, 7)
"""Patch sizes, in frames per token, at which tokens are counted."""
SUMMED = ("windows", "frames", "array_bytes", *schemas.TOKENS)
"""Columns of SHARDS that are counts."""


def count(shard: ShardFiles, windows: pa.Table) -> pa.Table:
    """Count the windows of a shard (SHARD_WINDOWS); returns a row of SHARDS for each split and number of tracks."""
    encoded = windows.filter(pc.equal(windows["status"], "ok"))
    columns = {name: encoded[name] for name in ("split", "tracks", "array_bytes")}
    columns["frames"] = pc.multiply(
        pc.add(encoded["context_frames"], encoded["continuation_frames"]), encoded["tracks"]
    )
    millionths = pc.round(pc.multiply(encoded["repeated_share"], 1e6)).cast(pa.int64())
    for part in ("context", "continuation"):
        for k in PATCHES:
            columns[f"{part}_{k}"] = tokens = pc.multiply(pc.divide(encoded[f"{part}_frames"], k), encoded["tracks"])
            columns[f"repeated_{part}_{k}"] = pc.divide(pc.add(pc.multiply(tokens, millionths), 500_000), 1_000_000)
    sums = [(name, "sum") for name in columns if name not in ("split", "tracks")]
    grouped = pa.table(columns).group_by(["split", "tracks"], use_threads=False).aggregate([*sums, ([], "count_all")])
    rows = [
        {
            "folder": shard.folder,
            "shard": shard.shard,
            "split": row["split"],
            "tracks": row["tracks"],
            "windows": row["count_all"],
            "frames": row["frames_sum"],
            "array_bytes": row["array_bytes_sum"],
            **{name: _by_patch(row, name.removesuffix("_tokens")) for name in schemas.TOKENS},
        }
        for row in grouped.to_pylist()
    ]
    rows.sort(key=lambda row: (row["split"], row["tracks"]))
    return schemas.table(rows, schemas.SHARDS)


def _by_patch(row: dict[str, Any], part: str) -> list[int] | None:
    """Tokens at each patch size; None where it is not known which of them repeat."""
    counts = [row[f"{part}_{k}_sum"] for k in PATCHES]
    return None if None in counts else counts


def in_order(counted: Iterable[pa.Table], fields: Fields) -> pa.Table:
    """Concatenate the counts of the shards of a version (SHARDS), in the order of `fields`."""
    order = [name for folder in fields.values() for name in folder["latents"]]
    place = {name: number for number, name in enumerate(order)}
    table = pa.concat_tables([schemas.SHARDS.empty_table(), *counted])
    named = zip(table["folder"].to_pylist(), table["shard"].to_pylist(), strict=True)
    places = pa.array([place[ShardFiles(folder, shard).latents] for folder, shard in named], pa.int64())
    return table.take(pc.sort_indices(pa.table({"place": places}), sort_keys=[("place", "ascending")]))


def chosen(listed: pa.Table, splits: Sequence[str], tracks: int | None = None) -> pa.Table:
    """Choose the shards that have windows of some splits.

    Shards of several folders are spread evenly over the result, and shards of one folder keep their order. So any
    prefix of it is a fair sample of the chosen windows.

    Args:
        listed: A list of shards (SHARDS).
        splits: The splits to choose.
        tracks: If given, only windows with this number of tracks are counted.

    Returns:
        Rows of SUBSET that take all of these windows.
    """
    mask = pc.is_in(listed["split"], pa.array(splits, pa.string()))
    if tracks is not None:
        mask = pc.and_(mask, pc.equal(listed["tracks"], tracks))
    listed = listed.filter(pc.and_(mask, pc.greater(listed["windows"], 0))).combine_chunks()
    names = listed["folder"].to_numpy()
    shards = listed["shard"].to_numpy()
    folders, folder = np.unique(names.astype(str), return_inverse=True)
    # A shard has a row for each split and number of tracks; these are added up.
    keys = folder * (int(shards.max(initial=0)) + 1) + shards
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    known = [name for name in SUMMED if not listed[name].null_count]
    added = {name: np.zeros((len(first), *_numbers(listed, name).shape[1:]), np.int64) for name in known}
    for name, sums in added.items():
        np.add.at(sums, place, _numbers(listed, name))
    order = np.argsort(first)
    of_folder = folder[first[order]]
    order = order[_spread_evenly(of_folder)]
    columns = {
        "folder": folders[folder[first[order]]],
        "shard": shards[first[order]],
        **{name: sums[order] for name, sums in added.items()},
    }
    return _taking_all(columns)


def _taking_all(columns: dict[str, np.ndarray]) -> pa.Table:
    """Rows of SUBSET that take all windows of shards. The names of files follow from folders and numbers."""
    shards = [
        ShardFiles(str(folder), int(shard)) for folder, shard in zip(columns["folder"], columns["shard"], strict=True)
    ]
    arrays: dict[str, pa.Array] = {name: _array(values) for name, values in columns.items()}
    arrays |= {"cuts": pa.array([shard.cuts for shard in shards], pa.string())}
    arrays |= {"of_windows": arrays["windows"], "latents": pa.array([shard.latents for shard in shards], pa.string())}
    arrays = {name: pa.nulls(len(shards), schemas.SUBSET.field(name).type) for name in schemas.SUBSET.names} | arrays
    return pa.table(
        [arrays[name].cast(schemas.SUBSET.field(name).type) for name in schemas.SUBSET.names], schemas.SUBSET
    )


def tokens(rows: pa.Table, patch: int, context: bool = True) -> np.ndarray:
    """Tokens of each row of SHARDS or SUBSET at a patch size of 1 to 6, int64 (rows,); contexts count if asked for."""
    names = ("context_tokens", "continuation_tokens") if context else ("continuation_tokens",)
    counted: np.ndarray = sum(_numbers(rows, name)[:, PATCHES.index(patch)] for name in names)  # type: ignore[assignment]
    return counted


def repeated(rows: pa.Table, patch: int, context: bool = True) -> int | None:
    """Tokens at a patch size of all rows (SHARDS or SUBSET) that repeat; None where nothing was matched."""
    names = [f"repeated_{part}_tokens" for part in (("context", "continuation") if context else ("continuation",))]
    if any(rows[name].null_count for name in names):
        return None
    return sum(int(_numbers(rows, name)[:, PATCHES.index(patch)].sum()) for name in names)


def _numbers(rows: pa.Table, name: str) -> np.ndarray:
    """A column of counts, int64 (rows,), or int64 (rows, patches) if it has a count for each patch size."""
    column = rows[name]
    if not pa.types.is_list(column.type):
        return np.asarray(column.to_numpy())
    return np.asarray(pc.list_flatten(column).to_numpy()).reshape(-1, len(PATCHES))


def _array(values: np.ndarray) -> pa.Array:
    """An array of numbers or names, or of lists of numbers for two axes."""
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, values.reshape(-1))


def _spread_evenly(groups: np.ndarray) -> np.ndarray:
    """An order, int64 (items,), that spreads all groups evenly and keeps the order of the items of each group."""
    sizes = np.bincount(groups, minlength=1)
    by_group = np.argsort(groups, kind="stable")
    place = np.empty(len(groups), np.int64)
    place[by_group] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.argsort((2 * place + 1) / (2 * sizes[groups]), kind="stable")
