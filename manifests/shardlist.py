"""The list of the shards of a version, with what each holds: `shards.parquet` of a dataset.

A reader that divides the windows of a dataset among processes, or cuts a subset at a number of tokens, needs the counts
of all shards before it reads the first window. The list tells them in one file, where there may be 10^5 shards.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from manifests import schemas
from manifests.shards import ShardFiles
from manifests.versions import Fields

PATCHES = range(1, 7)
"""Patch sizes, in frames a token, at which tokens are counted."""


def count(shard: ShardFiles, windows: pa.Table) -> pa.Table:
    """What a shard holds (SHARDS), from its windows (SHARD_WINDOWS): a row for each split and number of tracks."""
    made = windows.filter(pc.equal(windows["status"], "ok"))
    columns = {name: made[name] for name in ("split", "tracks", "array_bytes")}
    columns["frames"] = pc.multiply(pc.add(made["context_frames"], made["continuation_frames"]), made["tracks"])
    for part in ("context", "continuation"):
        for k in PATCHES:
            columns[f"{part}_{k}"] = pc.multiply(pc.divide(made[f"{part}_frames"], k), made["tracks"])
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
            "context_tokens": [row[f"context_{k}_sum"] for k in PATCHES],
            "continuation_tokens": [row[f"continuation_{k}_sum"] for k in PATCHES],
        }
        for row in grouped.to_pylist()
    ]
    rows.sort(key=lambda row: (row["split"], row["tracks"]))
    return schemas.table(rows, schemas.SHARDS)


def in_order(counted: Iterable[pa.Table], fields: Fields) -> pa.Table:
    """The lists of all shards of a version (SHARDS) as one, in the order in which `fields` names them."""
    order = [name for folder in fields.values() for name in folder["latents"]]
    place = {name: number for number, name in enumerate(order)}
    table = pa.concat_tables([schemas.SHARDS.empty_table(), *counted])
    named = zip(table["folder"].to_pylist(), table["shard"].to_pylist(), strict=True)
    places = pa.array([place[ShardFiles(folder, shard).latents] for folder, shard in named], pa.int64())
    return table.take(pc.sort_indices(pa.table({"place": places}), sort_keys=[("place", "ascending")]))
