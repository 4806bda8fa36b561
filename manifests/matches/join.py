"""Hits: pairs of recordings that have a key in common, with the time at which each has it.

Two landmarks with the same key make a hit if their other bits are alike. Each is compared to the landmarks of the
earliest recordings with its key until it has made hits with a few recordings, and to no others. So the number of hits
grows in proportion to the number of recordings, even for a jingle that all of them have, and recordings that are added
later change no hits between earlier ones.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from manifests.matches.index import BITS, ROW_BITS, keys_of

ALIKE_BITS = 9
"""Most bits outside the key in which two landmarks of a hit differ."""
MOST_COMPARED = 256
"""Most recordings with the same key that a landmark is compared to."""


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


def hits(postings: pa.Table, key_bits: int, first: int, new: Collection[int]) -> Hits:
    """The hits of recordings in the batches with the numbers `new`, each with up to `first` earlier recordings by key.

    `postings` (code, recording, time_ms) of a key are in the order of recordings. Each posting of a later recording is
    compared to the first one that an earlier recording has with the same key.
    """
    code, recording, time_ms = (postings[name].to_numpy() for name in ("code", "recording", "time_ms"))
    order = np.argsort(keys_of(code, key_bits), kind="stable")
    code, recording, time_ms = code[order], recording[order], time_ms[order]
    key = keys_of(code, key_bits)
    begins = np.append(True, key[1:] != key[:-1])[: len(key)]
    leads = begins | np.append(True, recording[1:] != recording[:-1])[: len(key)]  # a recording's first with the key
    leading = np.flatnonzero(leads)
    number = np.cumsum(leads) - 1  # of the recording among the leading postings of all keys
    of_key = np.cumsum(begins) - 1
    base = number[begins][of_key] if len(key) else number  # of the key's first recording
    rank = number - base
    others = code & np.uint64((1 << BITS - key_bits) - 1)
    there = np.isin(recording >> ROW_BITS, np.fromiter(new, np.int64)) & (rank > 0)
    places = np.flatnonzero(there)
    made, compared = np.zeros(len(key), np.int32), np.zeros(len(key), np.int32)
    later, earlier = [places[:0]], [places[:0]]
    for turn in range(MOST_COMPARED):
        places = places[(rank[places] > turn) & (made[places] < first)]
        if not len(places):
            break
        partners = leading[base[places] + turn]
        alike = np.bitwise_count(others[places] ^ others[partners]) <= ALIKE_BITS
        compared[places] += 1
        made[places] += alike
        later.append(places[alike])
        earlier.append(partners[alike])
    one, other = np.concatenate(later), np.concatenate(earlier)
    found = pa.table(
        {
            "later": recording[one], "earlier": recording[other],
            "later_ms": time_ms[one], "earlier_ms": time_ms[other],
        }
    )  # fmt: skip
    found = found.take(np.lexsort((found["later_ms"], found["earlier"], found["later"])))
    missed = there & leads & (rank > compared)
    crowded = len(np.unique(of_key[missed]))
    return Hits(found, int(np.count_nonzero(begins)), crowded, int((rank - compared)[missed].sum()))
