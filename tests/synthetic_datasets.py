"""Datasets of random features, written and published by the production code, for tests that read many windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lakes import publish_by_hand

from manifests.lake import Lake
from manifests.shards import ShardFiles, ShardWriter

CONTEXT_S, FRAME_SHIFT_S = 2.0, 0.1


def row(number: int, split: str, tracks: int) -> dict[str, Any]:
    """Return the row of a window of 4 to 9 s with a context of 2 s."""
    return {
        "window_id": f"rec{number // 3:04d}-{number % 3 * 8000:09d}", "recording_id": f"rec{number // 3:04d}",
        "split": split, "start_s": number % 3 * 8.0, "duration_s": 4.0 + number % 6, "context_s": CONTEXT_S,
        "source": "here", "licence": "CC0", "language": ("en", "de")[number % 2], "num_speakers": 1 + number % 3,
        "labels": [("show", str(number % 4))], "speech_share": 0.9, "overlap_share": 0.1, "tracks": tracks,
        "turns": [{"speaker": "A", "track": 0, "start_s": 0.5, "end_s": 3.0}],
    }  # fmt: skip


def features(number: int, tracks: int, dim: int) -> np.ndarray:
    """Return the features of a window, float16 (tracks, frames, dim). Their first value is its number."""
    frames = round((4.0 + number % 6) / FRAME_SHIFT_S)
    drawn = np.random.default_rng((number, dim)).normal(3, 2, (tracks, frames, dim)).astype(np.float16)
    drawn[:, 0, 0] = number
    return drawn


def add_shards(
    lake: Lake,
    dataset: str,
    shards: Sequence[Sequence[int]],
    split: str = "train",
    first: int = 0,
    dim: int = 4,
    tracks: Callable[[int], int] = lambda number: 1,
    folder: str | None = None,
    failed: Sequence[int] = (),
    make: Callable[[int, int, int], np.ndarray] = features,
) -> None:
    """Write and commit shards with these windows, given by number, and publish the dataset."""
    root = Path(lake.storage.root)
    for shard, numbers in enumerate(shards, first):
        writer = ShardWriter(
            root / "datasets" / dataset, ShardFiles(folder or split, shard), {"encoder": f"drawn-{dim}"}
        )
        (root / "datasets" / dataset / writer.files.commit).parent.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            known = {"channels": tracks(number), "uris": ["a.wav"], "sample_rate": 16000, "num_samples": 960000}
            known |= {"channel_relation": "mono", "live_channel": 0}
            with writer.recording():
                if number in failed:
                    writer.fail(row(number, split, tracks(number)), "ValueError: no")
                else:
                    made = make(number, tracks(number), dim)
                    writer.add(row(number, split, tracks(number)), known, made, FRAME_SHIFT_S)
        commit = writer.finish()
        lake.storage.put(f"datasets/{dataset}/{writer.files.commit}", commit.to_json().encode())
    publish_by_hand(lake, dataset, f"drawn-{dim}")


def spread(count: int, each: int) -> list[range]:
    """Divide the numbers from 0 to `count` - 1 into shards of `each`."""
    return [range(begin, min(begin + each, count)) for begin in range(0, count, each)]
