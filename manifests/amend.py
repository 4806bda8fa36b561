"""Amend shards that are committed already: replace one under its own number, whatever is killed when.

The new files are first put aside, whole, under `runs/amending/`; only then do they take the place of the old ones. Who
finds files that were put aside whole lets them take their place before anything else is done with the dataset.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.choice import folders
from manifests.lake import Lake
from manifests.ledger import committed_windows
from manifests.publish import publish
from manifests.shards import ShardCommit, ShardFiles, ShardWriter, committed, stored_array
from manifests.versions import versions

ASIDE = "runs/amending"


def replace_shard(lake: Lake, dataset: str, commit: ShardCommit, folder: Path) -> None:
    """Put a shard in place of the one that is committed under its number; `folder` holds its files, and is consumed."""
    files = ShardFiles(commit.folder, commit.shard)
    aside = f"{ASIDE}/{dataset}/{commit.folder}-{commit.shard:06d}"
    for name in commit.files:
        copy = folder / "aside"
        shutil.copyfile(folder / name, copy)
        lake.storage.put_file(f"{aside}/{name}", copy)
    lake.storage.put(f"{aside}/{files.commit}", commit.to_json().encode())  # from here on it is finished by anybody
    for name in commit.files:
        lake.storage.put_file(f"datasets/{dataset}/{name}", folder / name)
    lake.storage.put(f"datasets/{dataset}/{files.commit}", commit.to_json().encode())
    _forget(lake, aside, commit)


def finish_replacing(lake: Lake, dataset: str) -> None:
    """Let shards that were put aside whole take their place, and remove what was put aside in part."""
    whole: list[tuple[str, ShardCommit]] = []
    for key in list(lake.storage.list(f"{ASIDE}/{dataset}")):
        if match := re.fullmatch(rf"({ASIDE}/[^/]+/[^/]+)/commits/[^/]+/\d+\.json", key):
            whole.append((match[1], ShardCommit.read(lake.storage, key)))
    for aside, commit in whole:
        folder = lake.storage.scratch()
        try:
            for name in commit.files:
                with lake.storage.open(f"{aside}/{name}") as source, (folder / "file").open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                lake.storage.put_file(f"datasets/{dataset}/{name}", folder / "file")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        files = ShardFiles(commit.folder, commit.shard)
        lake.storage.put(f"datasets/{dataset}/{files.commit}", commit.to_json().encode())
        _forget(lake, aside, commit)
    for key in list(lake.storage.list(f"{ASIDE}/{dataset}")):
        lake.storage.delete(key)


def _forget(lake: Lake, aside: str, commit: ShardCommit) -> None:
    """The record first: without it what was put aside is nothing."""
    for name in (ShardFiles(commit.folder, commit.shard).commit, *commit.files):
        lake.storage.delete(f"{aside}/{name}")


def drop_recordings(lake: Lake, recording_ids: frozenset[str]) -> list[str]:
    """Take every window of these recordings out of every dataset; returns the names of the datasets that have changed.

    The shards that held one are made again of what is left in them, byte for byte, and what is said of every version is
    written anew. Safe to call again after a kill.
    """
    wanted = pa.array(sorted(recording_ids), pa.string())
    changed = []
    for dataset in folders(lake, "datasets"):
        finish_replacing(lake, dataset)
        holding = 0
        for files in list(committed(lake.storage, dataset)):
            commit = ShardCommit.read(lake.storage, f"datasets/{dataset}/{files.commit}")
            table = committed_windows(lake, dataset, files, commit)
            gone = pc.is_in(table["recording_id"], value_set=wanted)
            if pc.any(gone).as_py():
                _filter(lake, dataset, files, commit, table.filter(pc.invert(gone)).to_pylist())
                holding += 1
        before = _described(lake, dataset)
        if before is not None:
            publish(lake, dataset)
        if holding or before != _described(lake, dataset):
            changed.append(dataset)
    return changed


def _described(lake: Lake, dataset: str) -> list[str] | None:
    """What the versions of a dataset say that they were written about; None without any version."""
    return [version.described_sha256 for version in versions(lake, dataset)] or None


def _filter(lake: Lake, dataset: str, files: ShardFiles, commit: ShardCommit, rows: Iterable[dict[str, Any]]) -> None:
    """Make a shard again of these of its windows."""
    folder = lake.storage.scratch()
    try:
        writer = ShardWriter(folder, files, commit.fingerprints)
        cuts = {cut["id"]: cut for cut in _cuts(lake, f"datasets/{dataset}/{files.cuts}")}
        manifests = dict(_manifests(lake, f"datasets/{dataset}/{files.latents}"))
        for row in rows:
            with writer.recording():
                if row["status"] != "ok":
                    writer.fail(row, row["error"])
                    continue
                key = row["window_id"]
                array = stored_array(lake.storage, dataset, row)
                stored: np.ndarray = array[0] if manifests[key]["temporal_dim"] == 0 else array
                writer.add_made(row, cuts[key], stored, manifests[key])
        replace_shard(lake, dataset, writer.finish(), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cuts(lake: Lake, key: str) -> Iterator[dict[str, Any]]:
    with lake.storage.open(key) as file, gzip.GzipFile(fileobj=file, mode="rb") as lines:
        yield from map(json.loads, lines)


def _manifests(lake: Lake, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The manifest of each array of an archive."""
    with lake.storage.open(key) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            name, _, kind = member.name.rpartition(".")
            if kind == "json":
                content = tar.extractfile(member)
                assert content is not None
                yield name, json.loads(content.read())
