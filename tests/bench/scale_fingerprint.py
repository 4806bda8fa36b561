"""Cost and accuracy of matching fingerprints: synthetic ones with planted copies, at growing numbers of recordings."""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])  # the root before tests, whose rooms have the same names

import numpy as np
from fingerprint_lakes import drawn, found, match, write_fingerprints

from manifests.lake import Lake
from manifests.matches import MatchConfig

IN_BATCH = 10_000
"""Recordings in a batch: at 5 s each its fingerprints are as large as those of 14 hours of sound."""


def planted_lake(lake: Lake, count: int, seconds: float, every: int) -> set[tuple[str, str]]:
    """Write a lake in which every n-th recording is a copy of an earlier one with 5 % wrong bits. Returns the pairs."""
    rng = np.random.default_rng(0)
    pairs: set[tuple[str, str]] = set()
    sources: list[Any] = []
    for number, start in enumerate(range(0, count, IN_BATCH)):
        batch = []
        for at in range(start, min(start + IN_BATCH, count)):
            name = f"{at:020x}"
            if at % every == every - 1:
                other, one = sources[int(rng.integers(len(sources)))]
                batch.append((name, one.changed(rng, 0.05)))
                pairs.add((name, other))
            else:
                batch.append((name, drawn(rng, seconds)))
                if at % every == 0:
                    sources.append(batch[-1])
        write_fingerprints(lake, number, batch)
    return pairs


def measure(count: int, seconds: float, every: int, key_bits: int) -> None:
    with tempfile.TemporaryDirectory(prefix="speechmill-bench-") as root:
        lake = Lake.at(root)
        pairs = planted_lake(lake, count, seconds, every)
        fingerprints = sum(lake.storage.size(key) for key in lake.storage.list("annotations"))
        begun, wall = time.process_time(), time.monotonic()
        matches = match(lake, MatchConfig(key_bits=key_bits))
        cpu_s, wall_s = time.process_time() - begun, time.monotonic() - wall
        rows = {(row["recording_id"], row["other_id"]) for row in found(matches)}
        index = sum(lake.storage.size(key) for key in lake.storage.list(f"{matches.prefix}/index"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        # Two copies of the same recording also match. Such a pair is not planted, but not wrong either.
        source = dict(pairs)
        wrong = {pair for pair in rows - pairs if source.get(pair[0], pair[0]) != source.get(pair[1], pair[1])}
        print(
            f"| {count:,} | {cpu_s:.1f} | {wall_s:.1f} | {peak:.0f} | {fingerprints / 1e6:.1f} | {index / 1e6:.1f} | "
            f"{len(pairs & rows):,} of {len(pairs):,} | {len(wrong)} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="recordings")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each, at 6.5 landmarks a second")
    parser.add_argument("--every", type=int, default=20, help="every n-th recording is a copy")
    parser.add_argument("--key-bits", type=int, default=22, help="bits of a key of the index")
    given = parser.parse_args()
    print(f"recordings of {given.seconds} s, key_bits {given.key_bits}")
    print("| recordings | CPU s | wall s | peak MB | fingerprints MB | index MB | planted pairs found | wrong pairs |")
    print("|---|---|---|---|---|---|---|---|")
    for count in given.counts:  # each in a process of its own, so that each has its own peak of memory
        sized = multiprocessing.get_context("spawn").Process(
            target=measure, args=(count, given.seconds, given.every, given.key_bits)
        )
        sized.start()
        sized.join()
