"""The list of the shards of a version, with what each holds: `shards.parquet` of a dataset.

A reader that divides the windows of a dataset among processes, or cuts a subset at a number of tokens, needs the counts
of all shards before it reads the first window. The list tells them in one file, where there may be 10^5 shards.
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
"""Patch sizes, in frames a token, at which tokens are counted."""
SUMMED = ("windows", "frames", "array_bytes", *schemas.TOKENS)
"""Columns of SHARDS that are counts."""


def count(shard: ShardFiles, windows: pa.Table) -> pa.Table:
    """What a shard holds (SHARDS), from its windows (SHARD_WINDOWS): a row for each split and number of tracks."""
    made = windows.filter(pc.equal(windows["status"], "ok"))
    columns = {name: made[name] for name in ("split", "tracks", "array_bytes")}
    columns["frames"] = pc.multiply(pc.add(made["context_frames"], made["continuation_frames"]), made["tracks"])
    millionths = pc.round(pc.multiply(made["repeated_share"], 1e6)).cast(pa.int64())
    for part in ("context", "continuation"):
        for k in PATCHES:
            columns[f"{part}_{k}"] = tokens = pc.multiply(pc.divide(made[f"{part}_frames"], k), made["tracks"])
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
    """The lists of all shards of a version (SHARDS) as one, in the order in which `fields` names them."""
    order = [name for folder in fields.values() for name in folder["latents"]]
    place = {name: number for number, name in enumerate(order)}
    table = pa.concat_tables([schemas.SHARDS.empty_table(), *counted])
    named = zip(table["folder"].to_pylist(), table["shard"].to_pylist(), strict=True)
    places = pa.array([place[ShardFiles(folder, shard).latents] for folder, shard in named], pa.int64())
    return table.take(pc.sort_indices(pa.table({"place": places}), sort_keys=[("place", "ascending")]))


def chosen(listed: pa.Table, splits: Sequence[str], tracks: int | None = None) -> pa.Table:
    """Of a list of shards (SHARDS) those with windows of these splits, each as a row of SUBSET that takes all of them.

    `tracks` keeps windows with that number of tracks. Shards of several folders are spread evenly over the list and
    each folder's keep their order, so that any prefix is a fair sample of the windows that were chosen.
    """
    mask = pc.is_in(listed["split"], pa.array(splits, pa.string()))
    if tracks is not None:
        mask = pc.and_(mask, pc.equal(listed["tracks"], tracks))
    listed = listed.filter(pc.and_(mask, pc.greater(listed["windows"], 0))).combine_chunks()
    names = listed["folder"].to_numpy()
    shards = listed["shard"].to_numpy()
    folders, folder = np.unique(names.astype(str), return_inverse=True)
    # One shard has a row for each split and number of tracks: they are added up.
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
    """Rows of SUBSET that take all windows of shards; the names of their files follow from folders and numbers."""
    files = [
        ShardFiles(str(folder), int(shard)) for folder, shard in zip(columns["folder"], columns["shard"], strict=True)
    ]
    made: dict[str, pa.Array] = {name: _array(values) for name, values in columns.items()}
    made |= {"cuts": pa.array([one.cuts for one in files], pa.string())}
    made |= {"of_windows": made["windows"], "latents": pa.array([one.latents for one in files], pa.string())}
    made = {name: pa.nulls(len(files), schemas.SUBSET.field(name).type) for name in schemas.SUBSET.names} | made
    return pa.table([made[name].cast(schemas.SUBSET.field(name).type) for name in schemas.SUBSET.names], schemas.SUBSET)


def tokens(rows: pa.Table, patch: int, context: bool = True) -> np.ndarray:
    """Tokens at a patch size of 1 to 6 of each row (SHARDS or SUBSET), int64 (rows,), with or without the contexts'."""
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
    """A column of counts, int64 (rows,), or (rows, patches) of one that holds a count for each patch size."""
    column = rows[name]
    if not pa.types.is_list(column.type):
        return np.asarray(column.to_numpy())
    return np.asarray(pc.list_flatten(column).to_numpy()).reshape(-1, len(PATCHES))


def _array(values: np.ndarray) -> pa.Array:
    """An array of numbers or names, or of lists of numbers where there are two axes."""
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, values.reshape(-1))


def _spread_evenly(groups: np.ndarray) -> np.ndarray:
    """The order, int64 (items,), in which the items of each group keep theirs and all groups are spread evenly."""
    sizes = np.bincount(groups, minlength=1)
    by_group = np.argsort(groups, kind="stable")
    place = np.empty(len(groups), np.int64)
    place[by_group] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.argsort((2 * place + 1) / (2 * sizes[groups]), kind="stable")
