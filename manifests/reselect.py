"""Make selections again after the batches from which they were made have changed."""

from __future__ import annotations

from collections.abc import Collection

from manifests.choice import folders
from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection

SUMMARIES = ("sums.json", "funnel.json")
"""The files that `select` writes last; a selection without them is unfinished."""


def outdate(lake: Lake, batches: Collection[str]) -> None:
    """Mark the selections that read any of these batches, so that `renew` makes them again."""
    for name in folders(lake, "selections"):
        if set(batches) & set(covered(lake, name)):
            for summary in SUMMARIES:
                lake.storage.delete(f"selections/{name}/{summary}")


def renew(lake: Lake) -> list[str]:
    """Make all selections again that are marked or unfinished; returns their names.

    They are made from the oldest to the newest, because commands read the newest selection by default.
    """
    marked = [name for name in folders(lake, "selections") if not _is_finished(lake, name)]
    keys = {name: f"selections/{name}/selection.json" for name in marked}
    by_age = sorted((lake.storage.stat(key).mtime_ns, name) for name, key in keys.items() if lake.storage.exists(key))
    existing = set(lake.batches())
    for _, name in by_age:
        batches = covered(lake, name)
        select(lake, Selection.stored(lake, name), batches=[batch for batch in batches if batch in existing])
        for batch in set(batches) - existing:
            lake.storage.delete(lake.windows_key(name, batch))
            lake.storage.delete(lake.verdicts_key(name, batch))
    return [name for _, name in by_age]


def covered(lake: Lake, selection: str) -> list[str]:
    """The batches that have verdicts in a selection, in order."""
    prefix = f"selections/{selection}/verdicts-"
    keys = [key for key in lake.storage.list(f"selections/{selection}") if key.startswith(prefix)]
    return ["batch-" + key.removeprefix(prefix).removesuffix(".parquet") for key in keys]


def _is_finished(lake: Lake, name: str) -> bool:
    return all(lake.storage.exists(f"selections/{name}/{summary}") for summary in SUMMARIES)
