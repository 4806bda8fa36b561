"""Replace committed shards in place, such that a process killed at any moment leaves no mixture of old and new files.

The new files are first staged under `runs/amending/`; the commit record is staged last. Only then do they replace the
old files. A process that finds a completely staged shard first finishes its replacement.
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

import pyarrow as pa
import pyarrow.compute as pc

from manifests.choice import folders
from manifests.lake import Lake
from manifests.ledger import committed_windows
from manifests.publish import publish
from manifests.shards import ShardCommit, ShardFiles, ShardWriter, committed, stored_window
from manifests.versions import versions

STAGING = "runs/amending"


def replace_shard(lake: Lake, dataset: str, commit: ShardCommit, folder: Path) -> None:
    """Replace the committed shard of the same number.

    Args:
        lake: The lake of the dataset.
        dataset: The name of the dataset.
        commit: The record of the new shard.
        folder: A local folder with the files of the new shard, which are moved out of it.
    """
    files = ShardFiles(commit.folder, commit.shard)
    staged = f"{STAGING}/{dataset}/{commit.folder}-{commit.shard:06d}"
    for name in commit.files:
        copy = folder / "copy"
        shutil.copyfile(folder / name, copy)
        lake.storage.put_file(f"{staged}/{name}", copy)
    lake.storage.put(
        f"{staged}/{files.commit}", commit.to_json().encode()
    )  # from here on, any process can finish the replacement
    for name in commit.files:
        lake.storage.put_file(f"datasets/{dataset}/{name}", folder / name)
    lake.storage.put(f"datasets/{dataset}/{files.commit}", commit.to_json().encode())
    _delete_staged(lake, staged, commit)


def finish_replacing(lake: Lake, dataset: str) -> None:
    """Finish the replacement of shards that are staged completely, and delete files of shards that are not."""
    complete: list[tuple[str, ShardCommit]] = []
    for key in list(lake.storage.list(f"{STAGING}/{dataset}")):
        if match := re.fullmatch(rf"({STAGING}/[^/]+/[^/]+)/commits/[^/]+/\d+\.json", key):
            complete.append((match[1], ShardCommit.read(lake.storage, key)))
    for staged, commit in complete:
        folder = lake.storage.scratch()
        try:
            for name in commit.files:
                with lake.storage.open(f"{staged}/{name}") as source, (folder / "file").open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                lake.storage.put_file(f"datasets/{dataset}/{name}", folder / "file")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        files = ShardFiles(commit.folder, commit.shard)
        lake.storage.put(f"datasets/{dataset}/{files.commit}", commit.to_json().encode())
        _delete_staged(lake, staged, commit)
    for key in list(lake.storage.list(f"{STAGING}/{dataset}")):
        lake.storage.delete(key)


def _delete_staged(lake: Lake, staged: str, commit: ShardCommit) -> None:
    """Delete the staged files, the commit record first: without it the others count for nothing."""
    for name in (ShardFiles(commit.folder, commit.shard).commit, *commit.files):
        lake.storage.delete(f"{staged}/{name}")


def drop_recordings(lake: Lake, recording_ids: frozenset[str]) -> list[str]:
    """Remove all windows of these recordings from every dataset; returns the names of the datasets that changed.

    A shard with such windows is rewritten with its other windows, whose arrays stay the same to the byte, and the
    descriptions of all versions are updated. It is safe to call this again after a kill.
    """
    wanted = pa.array(sorted(recording_ids), pa.string())
    changed = []
    for dataset in folders(lake, "datasets"):
        finish_replacing(lake, dataset)
        rewritten = 0
        for files in list(committed(lake.storage, dataset)):
            commit = ShardCommit.read(lake.storage, f"datasets/{dataset}/{files.commit}")
            table = committed_windows(lake, dataset, files, commit)
            removed = pc.is_in(table["recording_id"], value_set=wanted)
            if pc.any(removed).as_py():
                _filter(lake, dataset, files, commit, table.filter(pc.invert(removed)).to_pylist())
                rewritten += 1
        before = _described(lake, dataset)
        if before is not None:
            publish(lake, dataset)
        if rewritten or before != _described(lake, dataset):
            changed.append(dataset)
    return changed


def _described(lake: Lake, dataset: str) -> list[str] | None:
    """The hashes of what the versions of a dataset describe; None if there is no version."""
    return [version.described_sha256 for version in versions(lake, dataset)] or None


def _filter(lake: Lake, dataset: str, files: ShardFiles, commit: ShardCommit, rows: Iterable[dict[str, Any]]) -> None:
    """Rewrite a shard with only these rows of its table of windows."""
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
                stored = stored_window(lake.storage, dataset, row)
                writer.add_stored(row, cuts[key], stored, manifests[key])
        replace_shard(lake, dataset, writer.finish(), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cuts(lake: Lake, key: str) -> Iterator[dict[str, Any]]:
    with lake.storage.open(key) as file, gzip.GzipFile(fileobj=file, mode="rb") as lines:
        yield from map(json.loads, lines)


def _manifests(lake: Lake, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the manifest of each array in an archive, by the id of its window."""
    with lake.storage.open(key) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            name, _, kind = member.name.rpartition(".")
            if kind == "json":
                content = tar.extractfile(member)
                assert content is not None
                yield name, json.loads(content.read())
