"""Hits: two recordings with the same key, each with its time. Found by ranges of keys, of which each fits into memory.

Of the recordings with one key those that were met first are compared to all others and no others to each other: the
work grows with the number of recordings however often a passage comes, and what is met later changes nothing of what
was found before.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from manifests.matches.index import ROW_BITS


@dataclass(frozen=True)
class Hits:
    """`table` has later, earlier (ordinals of recordings), later_ms and earlier_ms, sorted by later."""

    table: pa.Table
    keys: int
    crowded: int
    """Keys that more recordings have than are compared to all others, and"""
    left_out: int
    """the pairs of recordings with the same key that were therefore not compared by it."""


def hits(postings: pa.Table, first: int, new: Collection[int]) -> Hits:
    """What recordings of the batches with the numbers `new` share with ones before them.

    `postings` (key, recording, time_ms) come in the order of recordings; of equal keys each recording stands for others
    with its first time.
    """
    order = np.argsort(postings["key"].to_numpy(), kind="stable")
    key, recording, time_ms = (postings[name].to_numpy()[order] for name in ("key", "recording", "time_ms"))
    begins = np.append(True, key[1:] != key[:-1])[: len(key)]
    leads = begins | np.append(True, recording[1:] != recording[:-1])[: len(key)]  # first time of a recording with it
    number = np.cumsum(leads) - 1  # of the recording among the leading postings of all keys
    base = number[begins][np.cumsum(begins) - 1] if len(key) else number  # of the key's first recording
    rank = number - base
    wanted = np.minimum(rank, first)
    wanted[~np.isin(recording >> ROW_BITS, np.fromiter(new, np.int64))] = 0
    rows = np.repeat(np.arange(len(key)), wanted)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    earlier = np.flatnonzero(leads)[base[rows] + within]
    found = pa.table(
        {
            "later": recording[rows], "earlier": recording[earlier],
            "later_ms": time_ms[rows], "earlier_ms": time_ms[earlier],
        }
    )  # fmt: skip
    found = found.take(np.lexsort((found["later_ms"], found["earlier"], found["later"])))
    lasting = leads & (wanted > 0)
    most = np.maximum.reduceat(rank, np.flatnonzero(begins)) if len(key) else rank
    return Hits(found, len(most), int(np.count_nonzero(most > first)), int((rank - wanted)[lasting].sum()))


def ranges(count: int) -> Sequence[tuple[int, int]]:
    """`count` ranges of keys that follow one another, [low, high), from 0 to 2^63."""
    edges = [2**63 * number // count for number in range(count + 1)]
    return list(itertools.pairwise(edges))
