"""Samples per second of this reader, webdataset and Lhotse from the same shards, and the time to a first batch from S3.

The shards hold random log-mel windows, (640, 80) float16, in the page cache. Each reader gives the features of every
window once, as float16, first in one process and then in 2 DataLoader workers with batches of 16. The readers take
turns. Printed are the best of some turns, and the ratio of ours to the faster of the others. Only our reader compares
checksums, returns the properties of each window, and separates context from continuation. Finally the shards are put
on a local S3 server, from which a new process reads a batch.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = map(str, Path(__file__).parents[2:0:-1])

import lhotse
import numpy as np
import torch
import webdataset
from lakes import publish_by_hand
from servers import EVERYTHING, plain_environment, s3_server
from synthetic_datasets import row
from torch.utils.data import DataLoader, IterableDataset

from manifests.lake import Lake
from manifests.shards import ShardFiles, ShardWriter
from manifests.storage import open_storage
from speechmill.reader import Loader, Reader, Source

BUFFER = 640
"""Windows that are shuffled together: as many as fit into the 64 MB of our reader's buffer."""
WINDOW_BYTES = 640 * 80 * 2
FIRST = """
import sys, time
import torch
begun = time.perf_counter()
from speechmill.reader import Loader, Reader, Source
imported = time.perf_counter()
batch = next(iter(Loader(Reader(Source(sys.argv[1], "set")), 16, num_workers=int(sys.argv[2]))))
assert len(batch["id"]) == 16
print(imported - begun, time.perf_counter() - imported)
"""


def make(lake: Lake, shards: int, each: int) -> None:
    """Write the dataset `set`."""
    drawn = np.random.default_rng(0).normal(-4, 2, (64, 1, 640, 80)).astype(np.float16)
    folder = Path(lake.storage.root) / "datasets/set"
    known = {"channels": 1, "uris": ["a.wav"], "sample_rate": 16000, "num_samples": 960000}
    known |= {"channel_relation": "mono", "live_channel": 0}
    for shard in range(shards):
        writer = ShardWriter(folder, ShardFiles("train", shard), {"encoder": "drawn"})
        for number in range(shard * each, (shard + 1) * each):
            with writer.recording():
                writer.add(row(number, "train", 1) | {"duration_s": 8.0}, known, drawn[number % 64], 0.0125)
        lake.storage.put(f"datasets/set/{writer.files.commit}", writer.finish().to_json().encode())
    publish_by_hand(lake, "set", "drawn")


class LhotseWindows(IterableDataset[Any]):
    """The features of the cuts that Lhotse's own shard reader gives."""

    def __init__(self, folder: Path, shuffled: bool) -> None:
        self.cuts = lhotse.CutSet.from_shar(
            in_dir=str(folder), split_for_dataloading=shuffled, shuffle_shards=shuffled
        )  # without a shuffle, it cannot divide shards among workers
        if shuffled:
            self.cuts = self.cuts.shuffle(buffer_size=BUFFER)

    def __iter__(self) -> Iterator[np.ndarray]:
        for cut in self.cuts:
            yield cut.load_latents()


def stacked(arrays: list[np.ndarray]) -> torch.Tensor:
    """Collate features to a batch."""
    return torch.from_numpy(np.stack(arrays))


def readers(root: Path, shuffled: bool, workers: int) -> dict[str, Callable[[], int]]:
    """Return a function for each reader that reads all windows and counts them."""
    folder = root / "datasets/set/train"
    tars = sorted(map(str, folder.glob("*.tar")))

    def ours() -> int:
        reader = Reader(Source(str(root), "set", dtype="float16"), shuffle=shuffled)
        if not workers:
            return sum(1 for _ in reader)
        return sum(len(batch["id"]) for batch in Loader(reader, 16, num_workers=workers))

    def others(windows: Any) -> int:
        if not workers:
            return sum(1 for _ in windows)
        return sum(len(batch) for batch in DataLoader(windows, 16, num_workers=workers, collate_fn=stacked))

    def web() -> Any:
        read = webdataset.WebDataset(tars, shardshuffle=len(tars) if shuffled else False)
        return (read.shuffle(BUFFER) if shuffled else read).decode().map(lambda sample: sample["npy"])

    return {
        "speechmill": ours,
        "webdataset": lambda: others(web()),
        "lhotse": lambda: others(LhotseWindows(folder, shuffled)),
    }


def compare(root: Path, shuffled: bool, workers: int, count: int, turns: int) -> None:
    """Print the samples per second of each reader, and the ratio of ours to the faster of the others."""
    named = readers(root, shuffled, workers)
    best = dict.fromkeys(named, 0.0)
    for turn, (name, read) in itertools.product(range(turns), named.items()):
        begun = time.perf_counter()
        found = read()
        best[name] = max(best[name], count / (time.perf_counter() - begun))
        assert found == count, (turn, name, found)
    ratio = best["speechmill"] / max(best["webdataset"], best["lhotse"])
    how = f"{workers} workers, batches of 16" if workers else "one process"
    print(f"{how}, {'shuffled' if shuffled else 'stored order'}: ours over the faster of the others {ratio:.2f}")
    for name, rate in best.items():
        print(f"  {name:12} {rate:8,.0f} samples/s {rate * WINDOW_BYTES / 1e6:8,.0f} MB/s")


def first_batch(root: Path) -> None:
    """Print the time that a new process takes to its first batch from an S3 server."""
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as server:
        environment = plain_environment(server, server.add_user("reader", EVERYTHING))
        server.client().create_bucket(Bucket="lake")
        os.environ |= environment
        local, there = Lake.at(str(root)).storage, open_storage("s3://lake")
        for key in local.list("datasets/set"):
            there.put(key, local.read(key))
        shard = there.size("datasets/set/train/latents.000000.tar")
        for workers in (0, 2):
            found = [
                subprocess.run(
                    [sys.executable, "-c", FIRST, "s3://lake", str(workers)],
                    env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
                    capture_output=True, text=True, check=True,
                ).stdout.split()
                for _ in range(3)
            ]  # fmt: skip
            imports, batch = (min(float(one[part]) for one in found) for part in (0, 1))
            what = f"first batch of 16 from S3, shards of {shard / 1e6:,.0f} MB, {workers} workers"
            print(f"{what}: {batch:.2f} s after {imports:.2f} s of imports")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--windows", type=int, default=1000, help="windows per shard, 0.1 MB each")
    parser.add_argument("--turns", type=int, default=3, help="turns, of which the best is printed")
    given = parser.parse_args()
    versions = f"webdataset {webdataset.__version__}, lhotse {lhotse.__version__}, torch {torch.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {versions}")
    with tempfile.TemporaryDirectory() as folder:
        make(Lake.at(folder), given.shards, given.windows)
        for shuffled, workers in ((False, 0), (True, 0), (True, 2)):
            compare(Path(folder), shuffled, workers, given.shards * given.windows, given.turns)
        first_batch(Path(folder))


if __name__ == "__main__":
    main()
