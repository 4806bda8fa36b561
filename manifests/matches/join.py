"""Hits: pairs of recordings that have a key in common, with the time at which each has it.

Of all recordings with one key, the earliest few are compared to all others, and the others are not compared to each
other. So the number of hits grows in proportion to the number of recordings, even for a jingle that all of them have,
and recordings that are added later change no hits between earlier ones.
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
    """The hits of a range of keys, and counts of keys."""

    table: pa.Table
    """Columns later and earlier (numbers of recordings), later_ms and earlier_ms; sorted by later."""
    keys: int
    """Different keys."""
    crowded: int
    """Keys of so many recordings that some of these were not compared to each other."""
    left_out: int
    """Pairs of recordings with the same key that were not compared by it, summed over all keys."""


def hits(postings: pa.Table, first: int, new: Collection[int]) -> Hits:
    """The hits of recordings in the batches with the numbers `new` with earlier recordings.

    `postings` (key, recording, time_ms) are in the order of recordings. All times at which a later recording has a key
    are paired with the first time at which the earlier one has it.
    """
    order = np.argsort(postings["key"].to_numpy(), kind="stable")
    key, recording, time_ms = (postings[name].to_numpy()[order] for name in ("key", "recording", "time_ms"))
    begins = np.append(True, key[1:] != key[:-1])[: len(key)]
    leads = begins | np.append(True, recording[1:] != recording[:-1])[: len(key)]  # a recording's first with the key
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
    """`count` adjacent ranges of keys, [low, high), that together cover 0 to 2^63."""
    edges = [2**63 * number // count for number in range(count + 1)]
    return list(itertools.pairwise(edges))
