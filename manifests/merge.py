"""Small batches joined with their neighbours, since each file costs every question a look.

What is to be joined is written down in `runs/merge.json` first: whoever finds it there finishes it. Ids do not change,
so datasets stay as they are.
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
"""Of the recordings of a batch, as they are stored."""
UNKNOWN_DURATION_S = 1800.0
"""What a recording without a claimed duration counts in a batch: the mean of the corpora this is made for."""


def counted_s(claimed_s: float | None) -> float:
    """What a recording counts in a batch; a claim that cannot be true is none."""
    return claimed_s if claimed_s and math.isfinite(claimed_s) and claimed_s > 0 else UNKNOWN_DURATION_S


@dataclass(frozen=True)
class Plan:
    """Batches to be joined to the first of each group, and what keeps others apart."""

    lake: Lake
    groups: list[list[str]]
    unlike: list[str]
    """Batches that are small enough to be joined to the one before, but not annotated or selected like it."""

    def commit(self) -> list[str]:
        """Join them, and make the selections anew that were made of them; returns their names."""
        if not self.groups:
            return []
        self.lake.storage.put(PLAN, pretty({"groups": self.groups}).encode())
        return finish(self.lake)


def plan(lake: Lake, batch_hours: float) -> Plan:
    """Join neighbours while they hold up to so many hours by their headers, and are annotated and selected alike."""
    made = [(f"annotations/{name}", set(lake.annotated(*_parts(name)))) for name in folders(lake, "annotations")]
    made += [(f"matches/{name}", set(lake.matched(name))) for name in folders(lake, "matches")]
    made += [(f"selections/{name}", set(reselect.covered(lake, name))) for name in folders(lake, "selections")]
    groups: list[list[str]] = []
    unlike: list[str] = []
    held_s, held_bytes, before = 0.0, 0, frozenset[str]()
    for batch, seconds, size_bytes in lake.ahead(partial(_size, lake), lake.batches()):
        has = frozenset(folder for folder, batches in made if batch in batches)
        held_s, held_bytes = held_s + seconds, held_bytes + size_bytes
        fits = bool(groups) and held_s <= batch_hours * 3600 and held_bytes <= MAX_BYTES
        if fits and has == before:
            groups[-1].append(batch)
            continue
        if fits:
            unlike.append(batch)
        groups.append([batch])
        held_s, held_bytes, before = seconds, size_bytes, has
    return Plan(lake, [group for group in groups if len(group) > 1], unlike)


def is_begun(lake: Lake) -> bool:
    """Whether a merge was killed: until it is finished, recordings may be in two batches."""
    return lake.storage.exists(PLAN)


def finish(lake: Lake) -> list[str]:
    """Do what is left of a merge that was written down; returns the selections that were made anew."""
    groups: list[list[str]] = lake.read_json(PLAN, "groups")["groups"]
    reselect.outdate(lake, set(itertools.chain.from_iterable(groups)))
    annotations = [f"{kind}/{name}" for kind in ("annotations", "matches") for name in folders(lake, kind)]
    forget_index(lake)
    for first, *others in groups:
        # A stage may hold rows of recordings that its batch lacks, but not lack rows: they would be measured again.
        for folder in [*annotations, "recordings"]:
            _join(lake, folder, first, others)
        for folder in ["recordings", *annotations]:
            for batch in others:
                lake.storage.delete(f"{folder}/{batch}.parquet")
    renewed = reselect.renew(lake)
    lake.storage.delete(PLAN)
    return renewed


def _join(lake: Lake, folder: str, first: str, others: Sequence[str]) -> None:
    """Append the rows of other batches to those of the first, each recording once."""
    more = list(_tables(lake, [f"{folder}/{batch}.parquet" for batch in others]))

    def joined(table: pa.Table) -> pa.Table:
        for other in more:
            known = pc.is_in(other["recording_id"], value_set=table["recording_id"].combine_chunks())
            table = pa.concat_tables([table, other.filter(pc.invert(known))])
        return table

    if more:
        lake.change(f"{folder}/{first}.parquet", joined)


def _tables(lake: Lake, keys: Sequence[str]) -> Iterator[pa.Table]:
    """Those of the tables that are there: a merge that was killed has deleted some."""
    for key in keys:
        try:
            yield lake.read(key)
        except FileNotFoundError:
            continue


def _size(lake: Lake, batch: str) -> tuple[str, float, int]:
    """A batch with its hours by headers, in seconds, and its size in bytes."""
    key = lake.recordings_key(batch)
    claimed = lake.read(key, ["claimed_duration_s"])["claimed_duration_s"].to_pylist()
    return batch, sum(map(counted_s, claimed)), lake.storage.size(key)


def _parts(folder: str) -> tuple[str, str]:
    stage, _, mark = folder.rpartition("-")
    return stage, mark
