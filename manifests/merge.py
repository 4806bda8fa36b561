"""Merge small batches with their neighbours, because every query opens every file.

The plan is written to `runs/merge.json` first, and any process that finds it there finishes it. Ids do not change, so
datasets stay as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from manifests import reselect
from manifests.choice import folders
from manifests.fingerprint import pretty
from manifests.lake import Lake
from manifests.matches import forget_index

PLAN = "runs/merge.json"
MAX_BYTES = 64_000_000
"""Largest size of the file of recordings of a merged batch."""
UNKNOWN_DURATION_S = 1800.0
"""The assumed duration of a recording whose header claims none: the mean of conversational corpora."""


def counted_s(claimed_s: float | None) -> float:
    """The duration that a recording adds to its batch, in seconds; an impossible claim counts as none."""
    return claimed_s if claimed_s and math.isfinite(claimed_s) and claimed_s > 0 else UNKNOWN_DURATION_S


@dataclass(frozen=True)
class Plan:
    """Groups of batches that are to be merged, each into the first of its group."""

    lake: Lake
    groups: list[list[str]]
    unlike: list[str]
    """Batches that would fit into the previous one, but are not annotated or selected like it."""

    def commit(self) -> list[str]:
        """Merge the batches, and renew the selections that read them; returns the names of these selections."""
        if not self.groups:
            return []
        self.lake.storage.put(PLAN, pretty({"groups": self.groups}).encode())
        return finish(self.lake)


def plan(lake: Lake, batch_hours: float) -> Plan:
    """Group neighbouring batches that are annotated and selected alike, up to `batch_hours` claimed hours each."""
    derived = [(f"annotations/{name}", set(lake.annotated(*_parts(name)))) for name in folders(lake, "annotations")]
    derived += [(f"matches/{name}", set(lake.matched(name))) for name in folders(lake, "matches")]
    derived += [(f"selections/{name}", set(reselect.covered(lake, name))) for name in folders(lake, "selections")]
    groups: list[list[str]] = []
    unlike: list[str] = []
    group_s, group_bytes, group_folders = 0.0, 0, frozenset[str]()
    for batch, seconds, size_bytes in lake.prefetch(partial(_size, lake), lake.batches()):
        of_batch = frozenset(folder for folder, batches in derived if batch in batches)
        group_s, group_bytes = group_s + seconds, group_bytes + size_bytes
        fits = bool(groups) and group_s <= batch_hours * 3600 and group_bytes <= MAX_BYTES
        if fits and of_batch == group_folders:
            groups[-1].append(batch)
            continue
        if fits:
            unlike.append(batch)
        groups.append([batch])
        group_s, group_bytes, group_folders = seconds, size_bytes, of_batch
    return Plan(lake, [group for group in groups if len(group) > 1], unlike)


def is_begun(lake: Lake) -> bool:
    """Whether an unfinished merge exists; until it is finished, recordings may be in two batches."""
    return lake.storage.exists(PLAN)


def finish(lake: Lake) -> list[str]:
    """Finish the merge in PLAN; returns the names of the selections that were renewed."""
    groups: list[list[str]] = lake.read_json(PLAN, "groups")["groups"]
    reselect.outdate(lake, set(itertools.chain.from_iterable(groups)))
    annotations = [f"{kind}/{name}" for kind in ("annotations", "matches") for name in folders(lake, kind)]
    forget_index(lake)
    for first, *others in groups:
        # Annotations are merged first: an extra row of a stage does no harm, but a missing one would be measured again.
        for folder in [*annotations, "recordings"]:
            _join(lake, folder, first, others)
        for folder in ["recordings", *annotations]:
            for batch in others:
                lake.storage.delete(f"{folder}/{batch}.parquet")
    renewed = reselect.renew(lake)
    lake.storage.delete(PLAN)
    return renewed


def _join(lake: Lake, folder: str, first: str, others: Sequence[str]) -> None:
    """Append the rows of other batches to the first one, each recording once."""
    tables = list(_tables(lake, [f"{folder}/{batch}.parquet" for batch in others]))

    def append(table: pa.Table) -> pa.Table:
        for other in tables:
            present = pc.is_in(other["recording_id"], value_set=table["recording_id"].combine_chunks())
            table = pa.concat_tables([table, other.filter(pc.invert(present))])
        return table

    if tables:
        lake.change(f"{folder}/{first}.parquet", append)


def _tables(lake: Lake, keys: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the tables that exist; an earlier attempt that was killed may have deleted some."""
    for key in keys:
        try:
            yield lake.read(key)
        except FileNotFoundError:
            continue


def _size(lake: Lake, batch: str) -> tuple[str, float, int]:
    """A batch with its claimed duration in seconds and the size of its file in bytes."""
    key = lake.recordings_key(batch)
    claimed = lake.read(key, ["claimed_duration_s"])["claimed_duration_s"].to_pylist()
    return batch, sum(map(counted_s, claimed)), lake.storage.size(key)


def _parts(folder: str) -> tuple[str, str]:
    stage, _, fingerprint = folder.rpartition("-")
    return stage, fingerprint
