"""The storage of an S3 bucket, of Amazon or of a compatible server."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, TypeVar
from urllib.parse import urlsplit

from manifests.storage import DeniedError, Stat, StorageConfig, StorageError, checked_key
from manifests.storage.local import DAY_S, make_scratch, private_folder, sweep_dead
from manifests.storage.ranged import BLOCK_BYTES, RangedFile, buffered
from manifests.storage.retry import TransientError
from manifests.storage.s3client import MissingError, UploadGoneError, check_packages, request
from manifests.storage.s3object import Blocks, S3Object, as_ns, payer

if TYPE_CHECKING:
    import pyarrow.fs

Result = TypeVar("Result")
LOG_EVERY_S = 30.0
LAST_NAME = "\U0010ffff"


class S3Storage:
    """Keys under `s3://bucket/prefix`. A pickled storage is a name and a configuration; it contains no credentials.

    Any key can be read, since inputs may be in any bucket. Only keys of a lake can be written.
    """

    def __init__(self, root: str, config: StorageConfig | None = None) -> None:
        check_packages()
        parts = urlsplit(root, allow_fragments=False)
        if not parts.netloc or "@" in parts.netloc or "?" in root:
            raise ValueError(f"{root.partition('?')[0].rpartition('@')[2]}: name a lake s3://bucket/prefix and no more")
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self.root = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.config = config or StorageConfig()

    def list(self, prefix: str = "") -> Iterator[str]:
        for key, _ in self.stats(prefix):
            yield key

    def stats(self, prefix: str = "", deep: bool = True) -> Iterator[tuple[str, Stat]]:
        """Yield keys with their sizes and times, in the order of `list`; one request lists a thousand.

        Without `deep`, only entries directly under `prefix` are listed. A folder ends in '/', with size and time 0.
        """
        folder = self._key(prefix).rstrip("/")
        folder = f"{folder}/" if folder else ""
        flat = {} if deep else {"Delimiter": "/"}
        last = ""

        def page(client: Any, number: int) -> tuple[list[tuple[str, Stat]], bool]:
            # Pages continue after a name instead of by a token, so a repeated or lost page can be requested again.
            after = last + LAST_NAME if flat and last.endswith("/") else last
            begin = {"StartAfter": after} if after else {}
            answer = client.list_objects_v2(Bucket=self.bucket, Prefix=folder, **begin, **flat, **payer(self.config))
            rows = [
                (row["Key"], Stat(row["Size"], as_ns(row["LastModified"]))) for row in answer.get("Contents", [])
            ] + [(row["Prefix"], Stat(0, 0)) for row in answer.get("CommonPrefixes", [])]
            rows = sorted(row for row in rows if row[0] > last)
            if answer["IsTruncated"] and not rows:
                raise TransientError("repeated page")
            return rows, answer["IsTruncated"]

        more = True
        while more:
            rows, more = self._request("ListBucket", prefix, page)
            for last, stat in rows:
                if not (last.endswith("/") and deep) and last != folder:  # an object that stands for a folder
                    yield last.removeprefix(f"{self.prefix}/") if self.prefix else last, stat

    def read(self, key: str) -> bytes:
        return self._object(key).read()

    def open(self, key: str, block_bytes: int = BLOCK_BYTES, ahead: int = 1) -> BinaryIO:
        place = self._object(key)
        head = place.head()
        blocks = Blocks(place, head)

        def fetch(start: int, stop: int) -> bytes:
            try:
                return blocks(start, stop)
            except TransientError as error:  # the checksum is known after all blocks, when the bytes are already in use
                what = f"{place.uri}: its bytes do not have its checksum"
                raise StorageError(what, "run again; if this repeats, the object is damaged: restore it") from error

        return buffered(RangedFile(fetch, head.stat.size_bytes, block_bytes, ahead))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        return self._object(key).read_range(start, stop)

    def stat(self, key: str) -> Stat:
        return self._object(key).head().stat

    def size(self, key: str) -> int:
        return self.stat(key).size_bytes

    def exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except MissingError:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        self._object(checked_key(key)).put(len(data), lambda start, stop: data[start:stop])

    def put_file(self, key: str, path: Path) -> None:
        checked_key(key)
        with path.open("rb") as file:
            size = path.stat().st_size
            self._object(key).put(size, lambda start, stop: os.pread(file.fileno(), stop - start, start))
        path.unlink()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._object(checked_key(key)).put_if_absent(data)

    def replace(self, key: str, old: bytes, data: bytes) -> bool:
        return self._object(checked_key(key)).replace(old, data)

    def delete(self, key: str) -> None:
        self._object(checked_key(key)).delete()

    def scratch(self) -> Path:
        return make_scratch(private_folder())

    def log(self, key: str) -> TextIO:
        return _Log(self, checked_key(key))

    def sweep(self) -> None:
        """Abort uploads that began over a day ago; younger ones may belong to a living writer elsewhere."""
        sweep_dead(private_folder())
        limit, who_pays = datetime.now(UTC) - timedelta(seconds=DAY_S), payer(self.config)

        def abort(client: Any, number: int) -> None:
            pages = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=self._key(""), **who_pays
            )
            for page in pages:
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < limit:
                        client.abort_multipart_upload(
                            Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"], **who_pays
                        )

        # A reader may not abort uploads; the lifecycle rule of the bucket does it then.
        with contextlib.suppress(DeniedError, UploadGoneError):
            self._request("ListBucketMultipartUploads", "", abort)

    def filesystem(self) -> pyarrow.fs.FileSystem:
        import pyarrow.fs

        from manifests.storage.filesystem import Handler, S3FileSystem

        # Arrow's own S3 client would retry, check and report errors in other ways.
        home = pyarrow.fs.PyFileSystem(Handler(S3FileSystem(self.config)))
        return pyarrow.fs.SubTreeFileSystem(f"{self.bucket}/{self.prefix}".rstrip("/"), home)

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}".strip("/")

    def _object(self, key: str) -> S3Object:
        return S3Object(self.config, self.bucket, self._key(key))

    def _request(self, what: str, prefix: str, attempt: Callable[[Any, int], Result]) -> Result:
        return request(self.config, f"s3:{what}", f"{self.root}/{prefix}", attempt)


class _Log(io.StringIO):
    """A log that is uploaded as a whole every half minute and at the end, because an object cannot be appended to."""

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
        with contextlib.suppress(StorageError):  # a failing log must not end the work that it describes
            self.storage.put(self.key, self.getvalue().encode("utf-8", "backslashreplace"))
