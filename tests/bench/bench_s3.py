"""Put and ranged get side by side with boto3's transfers and obstore, on one server in one run.

Prints MB/s and the client's CPU seconds a GB, the best of three turns each, and ours over the better of the others.
All send a checksum with what they put; ours alone compares what it gets with the object's.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import boto3
import botocore
import obstore
from boto3.s3.transfer import TransferConfig
from obstore.store import S3Store
from servers import EVERYTHING, plain_environment, s3_server

from manifests.storage import StorageConfig
from manifests.storage.s3 import S3Storage

TURNS = 3


class Discard:
    """Where a download goes: counted and forgotten, so that no disk is measured."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset


def best(action: Callable[[], int], expected: int) -> tuple[float, float]:
    """MB/s of the fastest turn, and CPU seconds a GB of the one that took fewest."""
    seconds, cpu = [], []
    for _ in range(TURNS):
        started, used = time.perf_counter(), time.process_time()
        assert action() == expected
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return expected / 1e6 / min(seconds), min(cpu) / expected * 1e9


def contenders(endpoint: str, path: Path, size: int, concurrency: int) -> dict[str, dict[str, Callable[[], int]]]:
    config = StorageConfig(endpoint, concurrency=concurrency)
    ours = S3Storage("s3://bench/ours", config)
    client = boto3.client("s3", endpoint_url=endpoint)
    transfer = TransferConfig(max_concurrency=concurrency, use_threads=concurrency > 1)
    store = S3Store("bench", endpoint=endpoint, region="us-east-1", checksum_algorithm="sha256",
                    client_options={"allow_http": True})  # fmt: skip

    def put_ours() -> int:
        copy = path.with_suffix(".copy")
        os.link(path, copy)  # it is consumed
        ours.put_file("k", copy)
        return size

    def put_boto3() -> int:
        client.upload_file(str(path), "bench", "boto3", Config=transfer)
        return size

    def put_obstore() -> int:
        obstore.put(store, "obstore", path, max_concurrency=concurrency, chunk_size=8 << 20)
        return size

    def get_boto3() -> int:
        sink: Any = Discard()
        client.download_fileobj("bench", "boto3", sink, Config=transfer)
        return int(sink.size)

    def get_obstore() -> int:
        if concurrency == 1:
            return sum(len(chunk) for chunk in obstore.get(store, "obstore").stream(8 << 20))
        starts = list(range(0, size, 8 << 20))
        ends = [min(start + (8 << 20), size) for start in starts]
        # One call fetches ranges in parallel; 8 at a time, as the others hold no more than that.
        return sum(
            len(part)
            for at in range(0, len(starts), 8)
            for part in obstore.get_ranges(store, "obstore", starts=starts[at : at + 8], ends=ends[at : at + 8])
        )

    def get_ours() -> int:
        with ours.open("k", ahead=concurrency if concurrency > 1 else 0) as stream:
            return sum(len(chunk) for chunk in iter(lambda: stream.read(8 << 20), b""))

    return {
        "put": {"ours": put_ours, "boto3": put_boto3, "obstore": put_obstore},
        "get": {"ours": get_ours, "boto3": get_boto3, "obstore": get_obstore},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, nargs="+", default=[64, 1024])
    sizes = parser.parse_args().mb
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, boto3 {boto3.__version__}, botocore {botocore.__version__}, "
          f"obstore {obstore.__version__}, MiniStack on the same machine")  # fmt: skip
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name, s3_server(Path(name)) as server:
        os.environ.update(plain_environment(server, server.add_user("bench", EVERYTHING)))
        server.client().create_bucket(Bucket="bench")
        path = Path(name) / "object"
        print(f"{'MB/s (CPU s a GB)':<26}{'ours':>14}{'boto3':>14}{'obstore':>14}   ours / better")
        for mb in sizes:
            path.write_bytes(os.urandom(1 << 20) * mb)
            for concurrency in (1, 8):
                for what, by in contenders(server.endpoint_url, path, mb << 20, concurrency).items():
                    found = {who: best(action, mb << 20) for who, action in by.items()}
                    share = found["ours"][0] / max(found["boto3"][0], found["obstore"][0])
                    columns = "".join(f"{rate:7.0f} ({cpu:4.1f})" for rate, cpu in found.values())
                    print(f"{what} {mb:>5} MiB, {concurrency} in flight  {columns}   {share:.2f}", flush=True)


if __name__ == "__main__":
    main()
