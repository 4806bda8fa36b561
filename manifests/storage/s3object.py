"""One object in S3, read and written whole or in concurrent blocks, with checksums in both directions."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from manifests.storage import Stat, StorageConfig
from manifests.storage.ranged import BLOCK_BYTES
from manifests.storage.retry import TransientError, persist
from manifests.storage.s3client import UploadGoneError, request

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_PARTS = 10_000
ABORT_S = 10.0


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def crc32c(data: bytes) -> bytes:
    import google_crc32c

    return int(google_crc32c.value(data)).to_bytes(4, "big")


DIGESTS = {"CRC32C": crc32c, "SHA256": sha256}
"""Checksums by their names in S3. Parts have CRC32C, which is ten times as fast; whole objects have SHA-256."""


class Head(NamedTuple):
    stat: Stat
    etag: str
    digest: str
    """A name in DIGESTS, or "" without a checksum."""
    checksum: str
    """Base64 of the digest of the object, or of the digest of its parts' digests, followed by '-' and their number."""


class S3Object:
    """Requests for one key. Failures are retried, or raised as FileNotFoundError or StorageError."""

    def __init__(self, config: StorageConfig, bucket: str, key: str) -> None:
        self.config, self.uri = config, f"s3://{bucket}/{key}"
        self.named = {"Bucket": bucket, "Key": key, **payer(config)}

    def request(self, what: str, attempt: Callable[[Any, int], Result]) -> Result:
        return request(self.config, f"s3:{what}", self.uri, attempt)

    def head(self) -> Head:
        return self.request("HeadObject", lambda client, number: as_head(self.head_once(client)))

    def head_once(self, client: Any) -> dict[str, Any]:
        from botocore.exceptions import ClientError

        try:
            answer: dict[str, Any] = client.head_object(ChecksumMode="ENABLED", **self.named)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 412):
                raise
            # The response to HEAD has no body; only that to GET tells denied from expired credentials.
            client.get_object(Range="bytes=0-0", **self.named)["Body"].close()
            raise TransientError("status of HEAD") from error
        return answer

    def read(self) -> bytes:
        def whole(client: Any, number: int) -> bytes | Head:
            answer = client.get_object(ChecksumMode="ENABLED", **self.named)
            if answer["ContentLength"] <= BLOCK_BYTES:
                return bytes(answer["Body"].read())  # botocore compares the checksum
            answer["Body"].close()
            return as_head(answer)

        answer = self.request("GetObject", whole)
        return answer if isinstance(answer, bytes) else self._read_parallel(answer)

    def read_range(self, start: int, stop: int) -> bytes:
        """Read a range, whose checksum the caller knows and compares; fewer bytes if the object ends before `stop`."""
        from botocore.exceptions import ClientError

        def attempt(client: Any, number: int) -> bytes:
            try:
                answer = client.get_object(Range=f"bytes={start}-{stop - 1}", **self.named)
            except ClientError as error:
                if error.response["Error"]["Code"] == "InvalidRange":  # the range begins after the end
                    return b""
                raise
            data = bytes(answer["Body"].read())
            if len(data) != answer["ContentLength"]:
                raise TransientError("short range")
            return data

        return self.request("GetObject", attempt) if stop > start else b""

    def _read_parallel(self, head: Head) -> bytes:
        def once(number: int) -> bytes:
            blocks = Blocks(self, head)
            starts = range(0, head.stat.size_bytes, BLOCK_BYTES)
            with ThreadPoolExecutor(self.config.concurrency) as pool:
                return b"".join(_mapped(pool, lambda start: blocks(start, start + BLOCK_BYTES), starts))

        return persist(once, f"s3:GetObject {self.uri}", self.config.retry_s)

    def put(self, size: int, read: Callable[[int, int], bytes]) -> None:
        """Write `size` bytes. `read(start, stop)` gives a range of them; any thread may call it, also repeatedly."""
        if size > BLOCK_BYTES:
            self._upload(size, read)
        else:
            data = read(0, size)
            self.request("PutObject", lambda client, number: self._put_once(client, data))

    def put_if_absent(self, data: bytes) -> bool:
        return self._put_if(data, IfNoneMatch="*")

    def replace(self, old: bytes, data: bytes) -> bool:
        """Replace the object if its bytes are `old`; the server checks that its version is still the compared one."""
        try:
            head = self.head()
            if self._read_parallel(head) != old:
                return False
        except FileNotFoundError:
            return False
        return self._put_if(data, IfMatch=head.etag)

    def _put_if(self, data: bytes, **condition: str) -> bool:
        """Write under a condition that the server checks; returns whether it was met."""
        from botocore.exceptions import ClientError

        writer = uuid.uuid4().hex

        def attempt(client: Any, number: int) -> bool:
            try:
                self._put_once(client, data, Metadata={"writer": writer}, **condition)
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 404 and "IfMatch" in condition:  # the object was deleted in the meantime
                    return False
                if status != 412:
                    raise
                # A retry after a lost response finds the object that it has written itself.
                current = self.head_once(client)
                return number > 0 and current["Metadata"].get("writer") == writer
            return True

        return self.request("PutObject", attempt)

    def _put_once(self, client: Any, data: bytes, **more: Any) -> None:
        checksum = _base64(sha256(data))
        client.put_object(Body=data, ChecksumSHA256=checksum, **self.named, **encryption(self.config), **more)

    def _upload(self, size: int, read: Callable[[int, int], bytes]) -> None:
        def once(number: int) -> None:
            try:
                _Upload(self, size, read).run()
            except UploadGoneError as error:
                raise TransientError("lost upload") from error

        persist(once, f"s3:PutObject {self.uri}", self.config.retry_s)

    def delete(self) -> None:
        self.request("DeleteObject", lambda client, number: client.delete_object(**self.named))


class Blocks:
    """Range requests for one version of an object, whose checksum is compared once all blocks were read."""

    def __init__(self, place: S3Object, head: Head) -> None:
        self.place, self.head = place, head
        self.count = -(-head.stat.size_bytes // BLOCK_BYTES)
        self.has_block_digests = head.checksum.endswith(f"-{self.count}")
        self.digests: dict[int, bytes] = {}

    def __call__(self, start: int, stop: int) -> bytes:
        size = self.head.stat.size_bytes
        stop = min(stop, size)
        # A whole object comes with its checksum, which botocore compares; a range has none.
        part = {"Range": f"bytes={start}-{stop - 1}"} if self.count > 1 else {"ChecksumMode": "ENABLED"}

        def attempt(client: Any, number: int) -> bytes:
            answer = client.get_object(IfMatch=self.head.etag, **part, **self.place.named)
            data = bytes(answer["Body"].read())
            if len(data) != stop - start:
                raise TransientError("short range")
            return data

        data = self.place.request("GetObject", attempt)
        if self.has_block_digests and start % BLOCK_BYTES == 0 and stop in (start + BLOCK_BYTES, size):
            self.digests[start // BLOCK_BYTES] = DIGESTS[self.head.digest](data)
            if len(self.digests) == self.count and self.head.checksum != _composite(self.head.digest, self.digests):
                raise TransientError("wrong checksum")
        return data


class _Upload:
    """A multipart upload of concurrent parts, each with its CRC32C, which is aborted if it fails."""

    def __init__(self, place: S3Object, size: int, read: Callable[[int, int], bytes]) -> None:
        self.place, self.size, self.read = place, size, read
        self.part_bytes = max(BLOCK_BYTES, -(-size // MAX_PARTS))
        self.named = dict(place.named)
        self.digests: dict[int, bytes] = {}

    def run(self) -> None:
        place = self.place
        kept = {"ChecksumAlgorithm": "CRC32C", **encryption(place.config)}
        upload = place.request("PutObject", lambda client, number: client.create_multipart_upload(**self.named, **kept))
        self.named["UploadId"] = upload["UploadId"]
        try:
            count = -(-self.size // self.part_bytes)
            with ThreadPoolExecutor(min(count, place.config.concurrency)) as pool:
                parts = list(_mapped(pool, self._send, range(count)))
            place.request("PutObject", lambda client, number: self._complete(client, parts))
        except BaseException:  # also after Ctrl-C, because unfinished parts are billed
            with contextlib.suppress(OSError, UploadGoneError):
                brief = replace(place.config, retry_s=min(ABORT_S, place.config.retry_s))
                abort = "s3:AbortMultipartUpload"
                request(brief, abort, place.uri, lambda client, number: client.abort_multipart_upload(**self.named))
            raise

    def _send(self, index: int) -> dict[str, Any]:
        start = index * self.part_bytes
        data = self.read(start, min(start + self.part_bytes, self.size))
        self.digests[index] = crc32c(data)
        part = {"PartNumber": index + 1, "ChecksumCRC32C": _base64(self.digests[index])}

        def attempt(client: Any, number: int) -> str:
            return str(client.upload_part(Body=data, **part, **self.named)["ETag"])

        return part | {"ETag": self.place.request("PutObject", attempt)}

    def _complete(self, client: Any, parts: Sequence[dict[str, Any]]) -> None:
        from botocore.exceptions import ClientError

        try:
            client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **self.named)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchUpload":
                raise
            # If the whole object exists, the upload was completed and only the response was lost.
            head = as_head(self.place.head_once(client))
            if head.stat.size_bytes != self.size or head.checksum not in ("", _composite("CRC32C", self.digests)):
                raise


def payer(config: StorageConfig) -> dict[str, str]:
    return {"RequestPayer": "requester"} if config.request_payer else {}


def encryption(config: StorageConfig) -> dict[str, Any]:
    """The options of a new object for its encryption at rest."""
    named = {
        "ServerSideEncryption": config.encryption,
        "SSEKMSKeyId": config.kms_key_id,
        "BucketKeyEnabled": config.bucket_key,
    }
    return {name: value for name, value in named.items() if value}


def as_head(answer: dict[str, Any]) -> Head:
    stat = Stat(answer["ContentLength"], as_ns(answer["LastModified"]))
    digest = next((name for name in DIGESTS if f"Checksum{name}" in answer), "")
    return Head(stat, answer["ETag"], digest, answer.get(f"Checksum{digest}", ""))


def as_ns(time: datetime) -> int:
    """A time in ns, rounded down to seconds, because lists have a finer resolution than headers."""
    return int(time.timestamp()) * 10**9


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _composite(digest: str, digests: dict[int, bytes]) -> str:
    """The checksum of a multipart object as S3 defines it."""
    return f"{_base64(DIGESTS[digest](b''.join(digests[n] for n in sorted(digests))))}-{len(digests)}"


def _mapped(pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Like `pool.map`, but items after a failure are not started."""
    futures = [pool.submit(work, item) for item in items]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
