"""Storage: one suite for every home of a lake, a disk and an S3 server reached over a real connection."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from manifests import schemas
from manifests.lake import Lake
from manifests.storage import DeniedError, Stat, Storage, StorageError, open_storage
from manifests.storage.ranged import BLOCK_BYTES
from manifests.storage.retry import PersistentError
from manifests.storage.s3 import S3Storage


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(str(tmp_path / "lake"))
    return open_storage(f"s3://{request.getfixturevalue('bucket')}/a/lake")


def made(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_lists_keys_in_the_order_of_their_bytes_and_hides_scratch(storage: Storage) -> None:
    keys = ["a", "b/1", "b/2", "b.txt", "b/c/3", "bb", "runs/now/log", "ä"]
    for key in keys:
        storage.put(key, b"x")
    (storage.scratch() / "half").write_bytes(b"?")
    assert list(storage.list()) == sorted(keys, key=str.encode)
    assert list(storage.list("b")) == ["b/1", "b/2", "b/c/3"]
    assert list(storage.list("nowhere")) == []


def test_an_absent_key_is_told_over_processes_too(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        storage.read("none")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.filename) == (type(caught.value), str(caught.value), caught.value.filename)


@pytest.mark.parametrize("kind", [StorageError, DeniedError, PersistentError])
def test_a_storage_that_refuses_is_told_over_processes_with_its_remedy(kind: type[StorageError]) -> None:
    again = pickle.loads(pickle.dumps(kind("it is closed", "open it")))
    assert (type(again), str(again), again.remedy) == (kind, "it is closed", "open it")


def test_put_replaces_and_put_if_absent_does_not(storage: Storage) -> None:
    assert storage.put_if_absent("k", b"first")
    assert not storage.put_if_absent("k", b"second")
    assert storage.read("k") == b"first"
    storage.put("k", b"third")
    assert (storage.read("k"), storage.size("k"), storage.stat("k").size_bytes) == (b"third", 5, 5)
    assert storage.exists("k")
    storage.delete("k")
    storage.delete("k")
    assert not storage.exists("k")
    assert storage.put_if_absent("k", b"fourth")


def test_a_range_is_cut_at_the_end_of_the_file(storage: Storage) -> None:
    storage.put("k", b"0123456789")
    asked = [(0, 4), (3, 10), (8, 99), (10, 12), (20, 30), (4, 4)]
    assert [storage.read_range("k", *one) for one in asked] == [b"0123", b"3456789", b"89", b"", b"", b""]
    with pytest.raises(FileNotFoundError):
        storage.read_range("none", 0, 4)


def test_of_many_that_put_if_absent_at_once_one_wins(storage: Storage) -> None:
    won = []
    start = threading.Barrier(8)

    def race(number: int) -> None:
        start.wait()
        if storage.put_if_absent("commit", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"%d" % number for number in won] == [storage.read("commit")]


@pytest.mark.parametrize("size", [1, 2 * BLOCK_BYTES])
def test_replace_puts_only_where_the_bytes_are_those_that_were_read(storage: Storage, size: int) -> None:
    first, second = b"1" * size, b"2" * size
    assert not storage.replace("k", b"", second)
    assert not storage.exists("k")
    storage.put("k", first)
    assert not storage.replace("k", second, b"other")
    assert storage.read("k") == first
    assert storage.replace("k", first, second)
    assert not storage.replace("k", first, b"other")
    assert storage.read("k") == second


def test_of_many_that_add_to_an_object_at_once_none_is_lost(storage: Storage) -> None:
    storage.put("k", b"")
    start = threading.Barrier(4)

    def add(name: bytes) -> None:
        start.wait()
        for _ in range(5):
            while not storage.replace("k", held := storage.read("k"), held + name):
                pass

    threads = [threading.Thread(target=add, args=(name,)) for name in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(storage.read("k")) == sorted(b"abcd" * 5)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
def test_any_size_comes_back_whole_and_a_put_file_is_consumed(storage: Storage, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    file = made(tmp_path / "made", data)
    storage.put_file("datasets/d/train/x.tar", file)
    storage.put("again", data)
    assert not file.exists()
    assert storage.read("datasets/d/train/x.tar") == storage.read("again") == data
    assert storage.size("again") == size
    with storage.open("again") as stream:
        assert stream.read() == data


def test_a_stream_is_read_at_any_place(storage: Storage) -> None:
    data = os.urandom(2 * BLOCK_BYTES + 1000)
    storage.put("k", data)
    with storage.open("k") as stream:
        for place in (0, 5, BLOCK_BYTES - 3, 2 * BLOCK_BYTES + 990, 100, BLOCK_BYTES):
            assert stream.seek(place) == place
            assert stream.read(1000) == data[place : place + 1000]
        assert stream.seek(-10, os.SEEK_END) == len(data) - 10
        assert (stream.read(), stream.read(), stream.tell()) == (data[-10:], b"", len(data))


def test_a_missing_key_is_a_file_not_found_that_names_it(storage: Storage) -> None:
    for action in (storage.read, storage.open, storage.size, storage.stat):
        with pytest.raises(FileNotFoundError) as caught:
            action("no/such")
        assert str(caught.value.filename) == f"{storage.root}/no/such"


def test_a_reader_of_an_object_that_is_replaced_never_sees_a_mixture(storage: Storage) -> None:
    storage.put("k", bytes(3 * BLOCK_BYTES))
    with storage.open("k") as stream:
        read = stream.read(10)
        storage.put("k", b"\1" * (3 * BLOCK_BYTES))
        with contextlib.suppress(FileNotFoundError):
            read += stream.read()
    assert read in (bytes(10), bytes(3 * BLOCK_BYTES))


def test_arrow_reads_it_by_key(storage: Storage) -> None:
    table = pa.table({"n": list(range(1000))})
    Lake(storage).write("recordings/batch-000000.parquet", table)
    home = storage.filesystem()
    assert pq.read_table("recordings/batch-000000.parquet", filesystem=home, use_threads=False).equals(table)


def test_arrow_is_told_what_lies_right_under_a_folder(storage: Storage) -> None:
    for key in ("f/a/1", "f/b/deep/er/1", "f/b/x", "f/b-c/1", "f/b.txt"):
        storage.put(key, b"12")
    home = storage.filesystem()
    found = [home.get_file_info(pa.fs.FileSelector(folder)) for folder in ("f", "f/b")]
    told = [sorted((info.base_name, info.is_file and info.size) for info in infos) for infos in found]
    assert told == [[("a", False), ("b", False), ("b-c", False), ("b.txt", 2)], [("deep", False), ("x", 2)]]


def test_a_folder_that_another_process_makes_while_arrow_lists_it_is_no_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(f"s3://{bucket}/a/lake")
    stats = S3Storage.stats

    def then_made(self: S3Storage, prefix: str = "", deep: bool = True) -> Iterator[tuple[str, Stat]]:
        yield from stats(self, prefix, deep)
        storage.put("f/a/1", b"12")

    monkeypatch.setattr(S3Storage, "stats", then_made)
    home = storage.filesystem()
    selector = pa.fs.FileSelector("f", allow_not_found=True)
    assert home.get_file_info(selector) == []
    assert [info.base_name for info in home.get_file_info(selector)] == ["a"]


def test_scratch_outlives_a_sweep_while_its_process_lives(storage: Storage) -> None:
    mine = storage.scratch()
    storage.sweep()
    assert mine.is_dir()
    mine.rmdir()


def test_it_can_be_sent_to_a_worker(storage: Storage) -> None:
    storage.put("k", b"v")
    assert pickle.loads(pickle.dumps(storage)).read("k") == b"v"


def test_equal_tables_are_equal_bytes_and_batches_are_listed(storage: Storage) -> None:
    lake = Lake(storage)
    table = schemas.table([{"recording_id": "a", "uris": ["a.wav"], "status": "ok"}], schemas.RECORDINGS)
    lake.write(lake.recordings_key("batch-000001"), table)
    lake.write(lake.recordings_key("batch-000000"), pa.concat_tables([table]))
    assert list(lake.batches()) == ["batch-000000", "batch-000001"]
    first, second = (lake.storage.read(lake.recordings_key(batch)) for batch in lake.batches())
    assert first == second
    assert lake.read(lake.recordings_key("batch-000000")).equals(table)


@pytest.mark.parametrize("root", ["ftp://host/lake", "s3://", "s3://key:secret@bucket/x", "s3://bucket/x?signature=1"])
def test_a_name_that_is_no_home_is_refused_without_its_secrets(root: str) -> None:
    with pytest.raises(ValueError, match=r"name a lake|a lake must be in a local folder") as caught:
        open_storage(root)
    assert "secret" not in str(caught.value)
    assert "signature" not in str(caught.value)


BAD_KEYS = ["../x", "a/../../x", "/etc/x", "a//b", "a/./b", "..", ".", "a/", "", "a\0b"]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_no_key_writes_outside_the_root(storage: Storage, tmp_path: Path, key: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    file = made(tmp_path / "given", b"x")
    for action in (
        lambda: storage.put(key, b"x"),
        lambda: storage.put_file(key, file),
        lambda: storage.put_if_absent(key, b"x"),
        lambda: storage.replace(key, b"", b"x"),
        lambda: storage.delete(key),
        lambda: storage.log(key),
    ):
        with pytest.raises(StorageError) as caught:
            action()
        assert caught.value.remedy
    file.unlink()
    assert sorted(tmp_path.rglob("*")) == before
    assert list(storage.list()) == []


@pytest.mark.parametrize("key", ["../x", "/etc/hostname", "a\0b"])
def test_no_key_reads_outside_the_root_of_a_disk(tmp_path: Path, key: str) -> None:
    (tmp_path / "x").write_bytes(b"of another")
    storage = open_storage(str(tmp_path / "lake"))
    for action in (storage.read, storage.open, storage.stat, storage.exists, lambda key: list(storage.list(key))):
        with pytest.raises(StorageError):
            action(key)
