"""Every fault of a network or server, one by one and mixed, between the storage and a real S3 server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faulty_proxy import FAULTS, Proxy
from servers import S3Server

from manifests.storage import StorageConfig, StorageError
from manifests.storage.ranged import BLOCK_BYTES
from manifests.storage.retry import TransientError, persist, retries
from manifests.storage.s3 import S3Storage
from manifests.storage.s3client import client, translate_errors


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with Proxy(s3.endpoint_url) as made:
        made.stall_s = 2.5
        yield made


def through(proxy: Proxy, bucket: str, retry_s: float = 60.0) -> S3Storage:
    return S3Storage(f"s3://{bucket}/lake", StorageConfig(proxy.url, timeout_s=2.0, retry_s=retry_s))


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "repeat"])
def test_a_fault_in_one_of_three_requests_changes_nothing_and_is_counted(bucket: str, proxy: Proxy, fault: str) -> None:
    storage = through(proxy, bucket)
    before, (proxy.share, proxy.faults) = retries().total(), (0.33, (fault,))
    data = {f"{number:03d}": os.urandom(500) for number in range(3 if fault == "stall" else 8)}
    for key, value in data.items():
        storage.put(key, value)
        assert storage.put_if_absent(f"once/{key}", value)
        assert storage.read(key) == value
        assert not storage.put_if_absent(key, b"")
    assert list(storage.list("once")) == [f"once/{key}" for key in data]
    assert 0 < proxy.injected[fault] <= retries().total() - before


def test_pages_that_repeat_are_listed_once(bucket: str, proxy: Proxy) -> None:
    names = [f"{number:04d}/x" for number in range(1005)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: S3Storage(f"s3://{bucket}/lake").put(name, b""), names))
    storage = through(proxy, bucket)
    proxy.share, proxy.faults = 0.5, ("repeat",)
    for _ in range(5):
        assert list(storage.list()) == names
    assert proxy.injected["repeat"] > 0
    proxy.share = 0.0
    assert [f"{name}x" for name, _ in storage.stats(deep=False)] == names


def test_a_multipart_upload_and_its_parallel_reading_survive_all_faults(
    bucket: str, proxy: Proxy, tmp_path: Path, s3: S3Server
) -> None:
    storage = through(proxy, bucket)
    proxy.share, proxy.faults = 0.4, tuple(fault for fault in FAULTS if fault != "stall")
    data = os.urandom(2 * BLOCK_BYTES + 17)
    for number in range(2):
        path = tmp_path / "shard"
        path.write_bytes(data)
        storage.put_file(f"{number}", path)
        assert storage.read(f"{number}") == data
        with storage.open(f"{number}") as stream:
            assert stream.read() == data
    assert proxy.injected.total() > 2
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket)


def test_a_bit_that_flips_in_a_range_is_found_by_the_checksum_of_the_whole(bucket: str, proxy: Proxy) -> None:
    storage = through(proxy, bucket, retry_s=1.5)
    data = os.urandom(2 * BLOCK_BYTES + 17)
    storage.put("k", data)
    proxy.share, proxy.faults = 0.3, ("rot",)
    while not proxy.injected["rot"]:
        assert storage.read("k") == data
    proxy.share = 1.0
    with pytest.raises(StorageError, match="wrong checksum"):
        storage.read("k")
    with storage.open("k") as stream, pytest.raises(StorageError, match="its bytes do not have its checksum"):
        stream.read()


def test_a_server_that_is_too_busy_is_left_alone_by_all_requests(bucket: str, proxy: Proxy) -> None:
    proxy.share, proxy.faults = 1.0, ("503",)
    storage = through(proxy, bucket)
    with pytest.raises(TransientError, match="SlowDown") as caught, translate_errors("s3:GetObject", "k", 0):
        client(storage.config).get_object(Bucket=bucket, Key="k")
    assert caught.value.busy
    told = threading.Event()

    def slow(number: int) -> None:
        if number == 0:
            told.set()
            raise TransientError("SlowDown", 1.0, busy=True)

    thread = threading.Thread(target=persist, args=(slow, "one", 5.0))
    thread.start()
    told.wait()
    time.sleep(0.1)
    started = time.monotonic()
    assert persist(lambda number: number, "another", 5.0) == 0
    assert time.monotonic() - started > 0.5
    thread.join()


def test_with_the_server_down_for_a_while_it_waits_and_goes_on(bucket: str, proxy: Proxy) -> None:
    storage = through(proxy, bucket)
    storage.put("k", b"before")
    proxy.down()
    threading.Timer(4, proxy.up).start()
    started = time.monotonic()
    storage.put("k", b"after")
    assert time.monotonic() - started > 3
    assert storage.read("k") == b"after"


def test_with_the_server_down_for_good_the_error_says_so(bucket: str, proxy: Proxy) -> None:
    storage = through(proxy, bucket, retry_s=1.5)
    proxy.down()
    with pytest.raises(
        StorageError, match=r"s3:GetObject s3://.*/lake/k: EndpointConnectionError, \d+ times"
    ) as caught:
        storage.read("k")
    assert "same command" in caught.value.remedy


def test_an_upload_that_fails_for_good_is_aborted(
    bucket: str, proxy: Proxy, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = through(proxy, bucket, retry_s=1.5)
    (tmp_path / "shard").write_bytes(bytes(3 * BLOCK_BYTES))
    storage.put("k", b"old")
    piece = os.pread

    def breaks(descriptor: int, size: int, start: int) -> bytes:
        if start:
            raise OSError("the disk is gone")
        return piece(descriptor, size, start)

    monkeypatch.setattr(os, "pread", breaks)
    with pytest.raises(OSError, match="the disk is gone"):
        storage.put_file("k", tmp_path / "shard")
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket)
    assert storage.read("k") == b"old"
