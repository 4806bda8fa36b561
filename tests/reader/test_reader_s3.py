"""The reader over a real S3 server: blocks by range, read ahead, the same samples as from a disk."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from synthetic_datasets import add_shards

from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from manifests.storage import open_storage
from manifests.storage.s3object import S3Object
from speechmill.reader import Loader, Reader, Source


@pytest.fixture
def lakes(tmp_path: Path, bucket: str) -> tuple[str, str]:
    """A lake on a disk, whose only shard has 19 MB, and the same in a bucket."""
    local, there = Lake.at(str(tmp_path / "lake")), open_storage(f"s3://{bucket}/lake")
    add_shards(local, "set", [range(60)], dim=2400)
    for key in local.storage.list("datasets/set"):
        there.put(key, local.storage.read(key))
    return local.storage.root, there.root


def test_the_first_samples_come_before_most_of_a_shard_is_read(
    lakes: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read_range = S3Object.read_range

    def listening(self: S3Object, start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return read_range(self, start, stop)

    monkeypatch.setattr(S3Object, "read_range", listening)
    size = open_storage(lakes[1]).size("datasets/set/train/latents.000000.tar")
    reader = Reader(Source(lakes[1], "set"), buffer_mb=2, block_mb=0.5)
    samples = list(itertools.islice(reader, 3))
    assert len({sample["id"] for sample in samples}) == 3
    assert sum(asked) < size / 3
    assert max(asked) < 1.5e6
    # Going on reads no sample that was given, but for its neighbours in the buffer at hand.
    list(itertools.islice(reader, 40))
    state = reader.state_dict()
    asked.clear()
    reader.load_state_dict(state)
    next(iter(reader))
    assert sum(asked) < size / 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bucket_gives_the_samples_of_the_disk(lakes: tuple[str, str], workers: int) -> None:
    local, there = (
        list(Loader(Reader(Source(lake, "set", patch=2, normalise=True)), 8, num_workers=workers)) for lake in lakes
    )
    assert [batch["id"] for batch in local] == [batch["id"] for batch in there]
    assert all(torch.equal(one["context"], other["context"]) for one, other in zip(local, there, strict=True))


def test_a_damaged_array_in_a_bucket_is_told(lakes: tuple[str, str]) -> None:
    storage, key = open_storage(lakes[1]), "datasets/set/train/latents.000000.tar"
    data = bytearray(storage.read(key))
    data[len(data) // 2] ^= 1
    storage.put(key, bytes(data))
    with pytest.raises(CorruptFileError, match=r"latents.000000.tar: the features of rec\d+-\d+ are not those"):
        list(Reader(Source(lakes[1], "set")))
