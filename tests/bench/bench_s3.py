"""Speed of put and get on an S3 server, compared with boto3's transfers and obstore in the same run.

The clients take turns. Printed are MB/s and CPU seconds per GB of the best turns, and the ratio of ours to the better
of the others. All send a checksum with a put; only ours compares that of a get. Then a shard is encoded and uploaded in
two ways: written to a file and put, as `speechmill encode` does, and streamed in parts while it is written.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import platform
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import boto3
import botocore
import numpy as np
import obstore
import soundfile
import sounds
import soxr
from boto3.s3.transfer import TransferConfig
from obstore.store import S3Store
from servers import EVERYTHING, plain_environment, s3_server

from encoders.logmel import LogMel
from encoders.mel import LogMelConfig
from manifests.storage import StorageConfig
from manifests.storage.s3 import S3Storage
from manifests.storage.s3object import crc32c


class Discard:
    """A file that only counts what is written to it, so that the speed of the disk does not matter."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset


Found = dict[str, tuple[float, float]]


def best(actions: dict[str, Callable[[], int]], turns: int) -> Found:
    """Run the actions in turn. Returns the fewest wall seconds and the fewest CPU seconds of each."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    sizes = set()
    for _ in range(turns):
        for name, action in actions.items():
            started, used = time.perf_counter(), time.process_time()
            sizes.add(action())
            taken[name].append((time.perf_counter() - started, time.process_time() - used))
    assert len(sizes) == 1, sizes
    return {name: (min(wall for wall, _ in of), min(cpu for _, cpu in of)) for name, of in taken.items()}


def contenders(endpoint: str, path: Path, size: int, concurrency: int) -> dict[str, dict[str, Callable[[], int]]]:
    config = StorageConfig(endpoint, concurrency=concurrency)
    ours = S3Storage("s3://bench/ours", config)
    client = boto3.client("s3", endpoint_url=endpoint)
    transfer = TransferConfig(max_concurrency=concurrency, use_threads=concurrency > 1)
    store = S3Store("bench", endpoint=endpoint, region="us-east-1", checksum_algorithm="sha256",
                    client_options={"allow_http": True})  # fmt: skip

    def put_ours() -> int:
        copy = path.with_suffix(".copy")
        os.link(path, copy)  # put_file removes it
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
        # One call fetches all its ranges in parallel; 8 at a time, because the others hold no more than that.
        return sum(
            len(part)
            for at in range(0, len(starts), 8)
            for part in obstore.get_ranges(store, "obstore", starts=starts[at : at + 8], ends=ends[at : at + 8])
        )

    def get_ours() -> int:
        chunk = bytearray(transfer.io_chunksize)  # the size of boto3's writes
        with ours.open("k", ahead=concurrency) as stream:
            assert isinstance(stream, io.BufferedReader)
            return sum(iter(lambda: stream.readinto(chunk), 0))

    return {
        "put": {"ours": put_ours, "boto3": put_boto3, "obstore": put_obstore},
        "get": {"ours": get_ours, "boto3": get_boto3, "obstore": get_obstore},
    }


def transfers(endpoint: str, path: Path, sizes_mb: Sequence[int], turns: int) -> None:
    print(f"{'MB/s (CPU s a GB)':<26}{'ours':>14}{'boto3':>14}{'obstore':>14}   ours / better")
    for mb in sizes_mb:
        path.write_bytes(os.urandom(1 << 20) * mb)
        gb = (mb << 20) / 1e9
        for concurrency in (1, 8):
            for what, by in contenders(endpoint, path, mb << 20, concurrency).items():
                found = best(by, turns if mb < 1024 else 2)
                rates = {who: gb * 1000 / wall for who, (wall, _) in found.items()}
                columns = "".join(f"{rates[who]:7.0f} ({cpu / gb:4.1f})" for who, (_, cpu) in found.items())
                share = rates["ours"] / max(rates["boto3"], rates["obstore"])
                print(f"{what} {mb:>5} MiB, {concurrency} in flight  {columns}   {share:.2f}", flush=True)


class Streamed(io.RawIOBase):
    """A file that is uploaded in parts of 8 MiB while it is written, with at most 8 parts in flight."""

    def __init__(self, client: Any, key: str) -> None:
        self.client, self.named, self.pending = client, {"Bucket": "bench", "Key": key}, bytearray()
        upload = client.create_multipart_upload(ChecksumAlgorithm="CRC32C", **self.named)
        self.named["UploadId"] = upload["UploadId"]
        self.pool, self.room = ThreadPoolExecutor(8), threading.Semaphore(8)
        self.parts: list[Future[dict[str, Any]]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.pending += data
        while len(self.pending) >= 8 << 20:
            self.send(8 << 20)
        return len(data)

    def send(self, size: int) -> None:
        data = bytes(self.pending[:size])
        del self.pending[:size]
        self.room.acquire()
        self.parts.append(self.pool.submit(self.part, len(self.parts) + 1, data))

    def part(self, number: int, data: bytes) -> dict[str, Any]:
        named = {"PartNumber": number, "ChecksumCRC32C": base64.b64encode(crc32c(data)).decode()}
        answer = self.client.upload_part(Body=data, **named, **self.named)
        self.room.release()
        return named | {"ETag": answer["ETag"]}

    def close(self) -> None:
        if not self.closed:
            self.send(len(self.pending))
            parts = [part.result() for part in self.parts]
            self.client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **self.named)
            self.pool.shutdown()
        super().close()


def shards(endpoint: str, folder: Path, hours: float) -> None:
    """Encode 15 s windows of the packaged conversation to a shard and upload it in two ways."""
    speech, _ = soundfile.read(sounds.packaged_conversation(), dtype="float32")
    encoder = LogMel(LogMelConfig())
    sound = soxr.resample(speech, 16000, encoder.sample_rate).astype(np.float32)[None]
    storage, client = S3Storage("s3://bench", StorageConfig(endpoint)), boto3.client("s3", endpoint_url=endpoint)

    def write(file: Any) -> int:
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(round(hours * 240)):
                (features,) = encoder.encode([encoder.cut(sound, 0, 15 * 80)])
                member = io.BytesIO()
                np.save(member, features.astype(np.float16), allow_pickle=False)
                info = tarfile.TarInfo(f"{number:06d}.npy")
                info.size = member.tell()
                member.seek(0)
                tar.addfile(info, member)
        return number

    def alone() -> int:
        with open(os.devnull, "wb") as file:
            return write(file)

    def spooled() -> int:
        with (folder / "shard").open("wb") as file:
            done = write(file)
        storage.put_file("shard", folder / "shard")
        return done

    def streamed() -> int:
        with Streamed(client, "shard") as file:
            return write(file)

    found = best({"encode alone": alone, "spooled": spooled, "streamed": streamed}, 2)
    size = client.head_object(Bucket="bench", Key="shard")["ContentLength"]
    print(f"a shard of {size / 1e6:.0f} MB, {hours:g} h: s (CPU s)")
    for name, (wall, cpu) in found.items():
        print(f"{name:<16}{wall:8.2f} ({cpu:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, nargs="*", default=[64, 256, 1024], help="sizes of objects, MiB")
    parser.add_argument("--turns", type=int, default=5, help="turns of transfers below 1 GiB; larger ones take 2")
    parser.add_argument("--shard-hours", type=float, default=3.0, help="sound in the shard")
    asked = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, boto3 {boto3.__version__}, botocore {botocore.__version__}, "
          f"obstore {obstore.__version__}, MiniStack on the same machine")  # fmt: skip
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name, s3_server(Path(name)) as server:
        os.environ.update(plain_environment(server, server.add_user("bench", EVERYTHING)))
        server.client().create_bucket(Bucket="bench")
        transfers(server.endpoint_url, Path(name) / "object", asked.mb, asked.turns)
        shards(server.endpoint_url, Path(name), asked.shard_hours)


if __name__ == "__main__":
    main()
