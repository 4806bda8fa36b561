"""Publish a dataset: write the ledger, statistics, list of shards and card of each version.

All of them are functions of the files in the folder of the dataset. Publishing can therefore be repeated at any time,
after a kill or after shards were corrected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from manifests import ledger, shardlist
from manifests.fingerprint import pretty
from manifests.lake import Lake
from manifests.report import card
from manifests.statistics import statistics_file
from manifests.tables import write_parquet_bytes
from manifests.versions import Version, committed_numbers, fields, versions


def publish(lake: Lake, dataset: str, selected: str | None = None, rewrite: bool = False) -> Version:
    """Write the descriptions of all versions whose shards have changed; returns the newest version.

    The first call makes a version, and so does every call that finds shards which belong to none.

    Args:
        lake: The lake of the dataset.
        dataset: The name of the dataset.
        selected: The hash of the windows that the dataset holds now. By default the newest version keeps its own.
        rewrite: Whether the description of the newest version is written again even if its shards have not changed.

    Raises:
        CorruptFileError: A file of the dataset is damaged.
    """
    prefix = f"datasets/{dataset}"
    plan = lake.read_json(f"{prefix}/plan.json", "encoder", "selection")
    records = versions(lake, dataset)
    shards = {folder: len(numbers) for folder, numbers in sorted(committed_numbers(lake, dataset).items())}
    if not records or any(count > records[-1].shards.get(folder, 0) for folder, count in shards.items()):
        records.append(
            Version(records[-1].version + 1 if records else 1, plan["selection"], None, shards, 0, 0.0, 0, "")
        )
    history = [version.shards for version in records]
    books = ledger.build(lake, dataset, plan["encoder"], history)
    recipe, models = (lake.storage.read(f"{prefix}/{name}.json") for name in ("recipe", "models"))
    patch = str(lake.read_json(f"{prefix}/recipe.json").get("encode", {}).get("patch", 1)).encode()
    last = len(records) - 1
    for index, (version, book) in enumerate(zip(records, books, strict=True)):
        counted = replace(
            version,
            selected=selected or version.selected if index == last else version.selected,
            windows=book.total("windows"),
            hours=book.hours,
            frames=book.total("frames"),
            described_sha256=_sha256(book.commits_sha256.encode(), patch, models, *([recipe] if index == last else [])),
        )
        if counted.described_sha256 != version.described_sha256 or (rewrite and index == last):
            for folder in (f"{prefix}/{version.folder}", *([prefix] if index == last else [])):
                for name, data in _files(book, history[: index + 1]).items():
                    lake.storage.put(f"{folder}/{name}", data)
            card.write(lake, dataset, counted, newest=index == last)
        if counted != version:  # last, because this record says that the others are written
            counted.write(lake, dataset)
        records[index] = counted
    return records[-1]


def _files(book: ledger.Book, history: Sequence[Mapping[str, int]]) -> dict[str, bytes]:
    listed = fields(history)
    return {
        "ledger.parquet": write_parquet_bytes(book.ledger),
        "stats.safetensors": statistics_file(book.statistics),
        "fields.json": pretty(listed).encode(),
        "shards.parquet": write_parquet_bytes(shardlist.in_order(book.shards, listed)),
    }


def _sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
