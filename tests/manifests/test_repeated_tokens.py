"""Tokens that repeat: ledger, list of shards and recount count the same ones, and none where nothing was matched."""

from __future__ import annotations

from typing import Any

import pytest

from manifests import ledger, schemas, shardlist
from manifests.recount import Recount
from manifests.shards import ShardFiles

SHARES = [0.0, 1.0, 0.333333, 0.5]


def window(number: int, share: float | None) -> dict[str, Any]:
    return {
        "window_id": f"r-{number}", "recording_id": "r", "split": "train", "folder": "train", "shard": 0,
        "status": "ok", "start_s": 0.0, "duration_s": 1.0, "tracks": 1 + number % 2, "context_frames": 17,
        "continuation_frames": 101,
        "language": "en", "num_speakers": 2, "repeated_share": share, "array_bytes": 1,
    }  # fmt: skip


@pytest.mark.parametrize("shares", [SHARES, [None] * 4])
def test_what_repeats_is_counted_alike_everywhere(shares: list[float | None]) -> None:
    rows = [window(number, share) for number, share in enumerate(shares)]
    table = schemas.table(rows, schemas.SHARD_WINDOWS)
    counts = ledger._Counts()
    counts.add(iter([("0", table)]))
    book = {row["patch"]: row for row in counts.ledger("e", 0).to_pylist()}
    listed = shardlist.count(ShardFiles("train", 0), table)
    found = Recount()
    for row in rows:
        found.add(("train", "en", 2, None), row, row["tracks"])
    for (*_, patch), recounted in found._expected("e").items():
        for name in schemas.TOKENS:
            by_tracks = [one and one[patch - 1] for one in listed[name].to_pylist()]
            of_list = None if None in by_tracks else sum(by_tracks)
            assert book[patch][name] == recounted[name] == of_list
    plain = None
    if None not in shares:
        parts = [(row["tracks"] * (frames // 3), row["repeated_share"]) for row in rows for frames in (17, 101)]
        plain = sum(int(tokens * share + 0.5) for tokens, share in parts)
    assert shardlist.repeated(shardlist.chosen(listed, ["train"]), 3) == plain
