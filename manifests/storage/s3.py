"""The storage of an S3 bucket, Amazon's or any compatible one: ranged, parallel, checked by SHA-256, tried again."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TextIO, TypeVar
from urllib.parse import urlsplit

from manifests.storage import DeniedError, Stat, StorageConfig, StorageError
from manifests.storage.local import DAY_S, make_scratch, sweep_dead
from manifests.storage.ranged import BLOCK_BYTES, RangedFile, buffered
from manifests.storage.retry import PassingError, persist
from manifests.storage.s3client import MissingError, UploadGoneError, request

if TYPE_CHECKING:
    import pyarrow.fs

Result = TypeVar("Result")
MAX_PARTS = 10_000
LOG_EVERY_S = 30.0


class _Head(NamedTuple):
    stat: Stat
    etag: str
    sha256: str | None
    """Base64 of the object's hash, or of the hashes of its parts and then '-' and their number."""


class S3Storage:
    """Keys under `s3://bucket/prefix`. Sent to a worker it is a name and a configuration; no secret travels."""

    def __init__(self, root: str, config: StorageConfig | None = None) -> None:
        parts = urlsplit(root, allow_fragments=False)
        if not parts.netloc or "@" in parts.netloc or "?" in root:
            raise ValueError(f"{root.partition('?')[0].rpartition('@')[2]}: name a lake s3://bucket/prefix and no more")
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self.root = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.config = config or StorageConfig()
        self._common: dict[str, Any] = {"RequestPayer": "requester"} if self.config.request_payer else {}

    def list(self, prefix: str = "") -> Iterator[str]:
        for key, _ in self.stats(prefix):
            yield key

    def stats(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        """Keys as by `list`, with their sizes and times, a thousand a request."""
        folder = self._key(prefix).rstrip("/")
        folder = f"{folder}/" if folder else ""
        last = ""

        def page(client: Any, number: int) -> tuple[list[dict[str, Any]], bool]:
            # After a name, not by the server's token: a page that repeats or is lost can be asked for again.
            after = {"StartAfter": last} if last else {}
            answer = client.list_objects_v2(Bucket=self.bucket, Prefix=folder, **after, **self._common)
            rows = [row for row in answer.get("Contents", []) if row["Key"] > last]
            if answer["IsTruncated"] and not rows:
                raise PassingError("repeated page")
            return rows, answer["IsTruncated"]

        more = True
        while more:
            rows, more = self._request("ListBucket", prefix, page)
            for row in rows:
                last = row["Key"]
                if not last.endswith("/"):  # a console's folder
                    yield last[len(self.prefix) :].lstrip("/"), Stat(row["Size"], _ns(row["LastModified"]))

    def read(self, key: str) -> bytes:
        def whole(client: Any, number: int) -> bytes | _Head:
            answer = client.get_object(Bucket=self.bucket, Key=self._key(key), ChecksumMode="ENABLED", **self._common)
            if answer["ContentLength"] <= BLOCK_BYTES:
                return bytes(answer["Body"].read())  # botocore compares it with the checksum
            answer["Body"].close()
            return _head(answer)

        answer = self._request("GetObject", key, whole)
        return answer if isinstance(answer, bytes) else self._read_parallel(key, answer)

    def _read_parallel(self, key: str, head: _Head) -> bytes:
        starts = range(0, head.stat.size_bytes, BLOCK_BYTES)

        def once(number: int) -> bytes:
            fetch = _Blocks(self, key, head)
            with ThreadPoolExecutor(self.config.concurrency) as pool:
                return b"".join(_mapped(pool, lambda start: fetch(start, start + BLOCK_BYTES), starts))

        return persist(once, f"GetObject {self.root}/{key}", self.config.retry_s)

    def open(self, key: str, block_bytes: int = BLOCK_BYTES, ahead: int = 1) -> BinaryIO:
        head = self._head(key)
        blocks = _Blocks(self, key, head)

        def fetch(start: int, stop: int) -> bytes:
            try:
                return blocks(start, stop)
            except PassingError as error:  # told once all was read, so what was handed out cannot be taken back
                what = f"{self.root}/{key}: not the bytes of its checksum"
                raise StorageError(what, "run again; if it stays so, the object is damaged: restore it") from error

        return buffered(RangedFile(fetch, head.stat.size_bytes, block_bytes, ahead))

    def stat(self, key: str) -> Stat:
        return self._head(key).stat

    def size(self, key: str) -> int:
        return self._head(key).stat.size_bytes

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except MissingError:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        if len(data) > BLOCK_BYTES:
            self._upload(key, len(data), lambda start, stop: data[start:stop])
        else:
            self._put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size > BLOCK_BYTES:
                self._upload(key, size, lambda start, stop: os.pread(file.fileno(), stop - start, start))
            else:
                self._put(key, file.read())
        path.unlink()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        writer = uuid.uuid4().hex

        def attempt(client: Any, number: int) -> bool:
            try:
                self._put_once(client, key, data, IfNoneMatch="*", Metadata={"writer": writer})
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                    raise
                # A put whose answer was lost finds its own object there when it is tried again.
                held = self._head_once(client, key)
                return number > 0 and held["Metadata"].get("writer") == writer
            return True

        return self._request("PutObject", key, attempt)

    def delete(self, key: str) -> None:
        self._request(
            "DeleteObject", key, lambda client, n: client.delete_object(Bucket=self.bucket, Key=self._key(key))
        )

    def scratch(self) -> Path:
        return make_scratch(_scratch())

    def log(self, key: str) -> TextIO:
        return _Log(self, key)

    def sweep(self) -> None:
        """Uploads begun over a day ago are aborted; younger ones may belong to a living writer elsewhere."""
        sweep_dead(_scratch())
        limit = datetime.now(UTC) - timedelta(seconds=DAY_S)

        def abort(client: Any, number: int) -> None:
            pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self._key(""))
            for page in pages:
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < limit:
                        client.abort_multipart_upload(
                            Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )

        with contextlib.suppress(DeniedError, UploadGoneError):  # a reader may not, and the bucket's lifecycle does it
            self._request("ListBucketMultipartUploads", "", abort)

    def filesystem(self) -> pyarrow.fs.FileSystem:
        import pyarrow.fs

        from manifests.storage.filesystem import S3FileSystem

        # Not Arrow's own client of S3, which would retry, check and tell errors in its own ways.
        home = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(S3FileSystem(self.config)))
        return pyarrow.fs.SubTreeFileSystem(f"{self.bucket}/{self.prefix}".rstrip("/"), home)

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}".strip("/")

    def _request(self, what: str, key: str, attempt: Callable[[Any, int], Result]) -> Result:
        return request(self.config, f"s3:{what}", f"{self.root}/{key}", attempt)

    def _head(self, key: str) -> _Head:
        return self._request("HeadObject", key, lambda client, number: _head(self._head_once(client, key)))

    def _head_once(self, client: Any, key: str) -> dict[str, Any]:
        from botocore.exceptions import ClientError

        named = {"Bucket": self.bucket, "Key": self._key(key), **self._common}
        try:
            answer: dict[str, Any] = client.head_object(ChecksumMode="ENABLED", **named)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 412):
                raise
            # The answer to HEAD has no body: only that to GET tells denied from expired.
            client.get_object(Range="bytes=0-0", **named)["Body"].close()
            raise PassingError("status of HEAD") from error
        return answer

    @property
    def _encryption(self) -> dict[str, Any]:
        named = {"ServerSideEncryption": self.config.encryption, "SSEKMSKeyId": self.config.kms_key_id}
        return {name: value for name, value in named.items() if value}

    def _put(self, key: str, data: bytes) -> None:
        self._request("PutObject", key, lambda client, number: self._put_once(client, key, data))

    def _put_once(self, client: Any, key: str, data: bytes, **more: Any) -> None:
        client.put_object(
            Bucket=self.bucket, Key=self._key(key), Body=data, ChecksumSHA256=_base64(_sha256(data)),
            **self._encryption, **self._common, **more,
        )  # fmt: skip

    def _upload(self, key: str, size: int, piece: Callable[[int, int], bytes]) -> None:
        def once(number: int) -> None:
            try:
                _Upload(self, key, size, piece).run()
            except UploadGoneError as error:
                raise PassingError("lost upload") from error

        persist(once, f"s3:PutObject {self.root}/{key}", self.config.retry_s)


class _Log(io.StringIO):
    """A text put anew every half minute and when it is closed: an object cannot grow."""

    def __init__(self, storage: S3Storage, key: str) -> None:
        super().__init__()
        brief = replace(storage.config, retry_s=min(LOG_EVERY_S, storage.config.retry_s))
        self.storage, self.key = S3Storage(storage.root, brief), key
        self.due = time.monotonic() + LOG_EVERY_S

    def write(self, text: str) -> int:
        if time.monotonic() > self.due:
            self._put()
            self.due = time.monotonic() + LOG_EVERY_S
        return super().write(text)

    def close(self) -> None:
        if not self.closed:
            self._put()
        super().close()

    def _put(self) -> None:
        with contextlib.suppress(StorageError):  # what the log is about goes on, or fails by itself
            self.storage.put(self.key, self.getvalue().encode("utf-8", "backslashreplace"))


class _Blocks:
    """Ranged reads of one version of an object. Once all blocks were read, they are compared with its checksum."""

    def __init__(self, storage: S3Storage, key: str, head: _Head) -> None:
        self.storage, self.key, self.head = storage, key, head
        self.count = -(-head.stat.size_bytes // BLOCK_BYTES)
        self.digests: dict[int, bytes] = {}
        self.known = head.sha256 is not None and head.sha256.endswith(f"-{self.count}")

    def __call__(self, start: int, stop: int) -> bytes:
        storage = self.storage
        last = min(stop, self.head.stat.size_bytes) - 1
        # A whole object comes with its checksum, which botocore compares; a range does not.
        part = {"Range": f"bytes={start}-{last}"} if self.count > 1 else {"ChecksumMode": "ENABLED"}

        def attempt(client: Any, number: int) -> bytes:
            answer = client.get_object(
                Bucket=storage.bucket, Key=storage._key(self.key), IfMatch=self.head.etag, **part, **storage._common
            )
            data = bytes(answer["Body"].read())
            if len(data) != last + 1 - start:
                raise PassingError("short range")
            return data

        data = storage._request("GetObject", self.key, attempt)
        if (
            self.known
            and start % BLOCK_BYTES == 0
            and (len(data) == BLOCK_BYTES or last + 1 == self.head.stat.size_bytes)
        ):
            self.digests[start // BLOCK_BYTES] = _sha256(data)
            if len(self.digests) == self.count and self.head.sha256 != _composite(self.digests):
                raise PassingError("wrong checksum")
        return data


class _Upload:
    """A multipart upload: parts in parallel, each with its SHA-256; aborted where it fails."""

    def __init__(self, storage: S3Storage, key: str, size: int, piece: Callable[[int, int], bytes]) -> None:
        self.storage, self.key, self.size, self.piece = storage, key, size, piece
        self.part_bytes = max(BLOCK_BYTES, -(-size // MAX_PARTS))
        self.named = {"Bucket": storage.bucket, "Key": storage._key(key)}
        self.digests: dict[int, bytes] = {}

    def run(self) -> None:
        storage = self.storage
        begin = storage._request(
            "PutObject", self.key,
            lambda client, number: client.create_multipart_upload(
                ChecksumAlgorithm="SHA256", **self.named, **storage._encryption, **storage._common
            ),
        )  # fmt: skip
        self.named["UploadId"] = begin["UploadId"]
        try:
            count = -(-self.size // self.part_bytes)
            with ThreadPoolExecutor(min(count, storage.config.concurrency)) as pool:
                parts = list(_mapped(pool, self._send, range(count)))
            storage._request("PutObject", self.key, lambda client, number: self._complete(client, parts))
        except BaseException:  # Ctrl-C too: parts that nobody completes are paid for; raised on
            with contextlib.suppress(OSError, UploadGoneError):
                brief = replace(storage.config, retry_s=min(10.0, storage.config.retry_s))
                request(
                    brief,
                    "s3:AbortMultipartUpload",
                    self.key,
                    lambda client, n: client.abort_multipart_upload(**self.named),
                )
            raise

    def _send(self, index: int) -> dict[str, Any]:
        start = index * self.part_bytes
        data = self.piece(start, min(start + self.part_bytes, self.size))
        self.digests[index] = _sha256(data)
        part = {"PartNumber": index + 1, "ChecksumSHA256": _base64(self.digests[index])}

        def attempt(client: Any, number: int) -> str:
            answer = client.upload_part(Body=data, **part, **self.named, **self.storage._common)
            return str(answer["ETag"])

        return part | {"ETag": self.storage._request("PutObject", self.key, attempt)}

    def _complete(self, client: Any, parts: Sequence[dict[str, Any]]) -> None:
        from botocore.exceptions import ClientError

        try:
            client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **self.named, **self.storage._common)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchUpload":
                raise
            # Completed, and only the answer was lost, where the whole object is there.
            head = _head(self.storage._head_once(client, self.key))
            if head.stat.size_bytes != self.size or head.sha256 not in (None, _composite(self.digests)):
                raise


def _head(answer: dict[str, Any]) -> _Head:
    stat = Stat(answer["ContentLength"], _ns(answer["LastModified"]))
    return _Head(stat, answer["ETag"], answer.get("ChecksumSHA256"))


def _ns(time: datetime) -> int:
    """Whole seconds: a list tells more of them than a header."""
    return int(time.timestamp()) * 10**9


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _composite(digests: dict[int, bytes]) -> str:
    """S3's checksum of a multipart object."""
    return f"{_base64(_sha256(b''.join(digests[n] for n in sorted(digests))))}-{len(digests)}"


def _mapped(pool: ThreadPoolExecutor, work: Callable[[int], Result], items: Iterable[int]) -> Iterator[Result]:
    """pool.map that does not begin what follows a failure."""
    futures = [pool.submit(work, item) for item in items]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _scratch() -> Path:
    folder = Path(tempfile.gettempdir()) / f"speechmill-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder
