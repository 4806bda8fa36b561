"""Selections made anew, each of the batches that it was made of, after these have changed under it."""

from __future__ import annotations

from collections.abc import Collection

from manifests.choice import folders
from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection

SUMMARIES = ("sums.json", "funnel.json")
"""What `select` writes last: without it a selection is not whole."""


def outdate(lake: Lake, batches: Collection[str]) -> None:
    """Mark the selections that were made of some of these batches, so that `renew` makes them anew."""
    for name in folders(lake, "selections"):
        if set(batches) & set(covered(lake, name)):
            for summary in SUMMARIES:
                lake.storage.delete(f"selections/{name}/{summary}")


def renew(lake: Lake) -> list[str]:
    """Make every selection anew that is marked, or that a kill left unfinished; returns their names.

    The order of their ages stays as it was: what looks at a lake takes the newest.
    """
    marked = [name for name in folders(lake, "selections") if not _is_whole(lake, name)]
    keys = {name: f"selections/{name}/selection.json" for name in marked}
    aged = sorted((lake.storage.stat(key).mtime_ns, name) for name, key in keys.items() if lake.storage.exists(key))
    there = set(lake.batches())
    for _, name in aged:
        batches = covered(lake, name)
        select(lake, Selection.stored(lake, name), batches=[batch for batch in batches if batch in there])
        for batch in set(batches) - there:
            lake.storage.delete(lake.windows_key(name, batch))
            lake.storage.delete(lake.verdicts_key(name, batch))
    return [name for _, name in aged]


def covered(lake: Lake, selection: str) -> list[str]:
    """The batches of which a selection holds verdicts, in order."""
    prefix = f"selections/{selection}/verdicts-"
    keys = [key for key in lake.storage.list(f"selections/{selection}") if key.startswith(prefix)]
    return ["batch-" + key.removeprefix(prefix).removesuffix(".parquet") for key in keys]


def _is_whole(lake: Lake, name: str) -> bool:
    return all(lake.storage.exists(f"selections/{name}/{summary}") for summary in SUMMARIES)
