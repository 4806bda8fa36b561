"""The lake: the keys of its files, and readers that stream it batch by batch."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from manifests.corrupt import parse_json, parse_parquet, schema_of
from manifests.storage import Storage, StorageConfig, default_config, open_storage
from manifests.tables import write_parquet_bytes

Item = TypeVar("Item")
Result = TypeVar("Result")
BATCH = re.compile(r"batch-\d{6,}")


@dataclass(frozen=True)
class Lake:
    """A lake in a storage. It is cheap to make and to send to a worker."""

    storage: Storage
    config: StorageConfig = field(default_factory=StorageConfig)
    """How the storage of the lake and of inputs is reached."""

    @classmethod
    def at(cls, root: str, config: StorageConfig | None = None) -> Lake:
        config = config or default_config()
        return cls(open_storage(root, config), config)

    def batches(self) -> Iterator[str]:
        """Names of the batches, in order: 'batch-000000', ..."""
        return self._batches("recordings")

    def recordings_key(self, batch: str) -> str:
        return f"recordings/{batch}.parquet"

    def annotation_key(self, stage: str, fingerprint: str, batch: str) -> str:
        return f"annotations/{stage}-{fingerprint}/{batch}.parquet"

    def annotated(self, stage: str, fingerprint: str) -> Iterator[str]:
        """Names of the batches that a stage has annotated, in order."""
        return self._batches(f"annotations/{stage}-{fingerprint}")

    def matched(self, fingerprint: str) -> Iterator[str]:
        """Names of the batches that have matches with these settings, in order."""
        return self._batches(f"matches/{fingerprint}")

    def _batches(self, folder: str) -> Iterator[str]:
        """Names of the batches that have a file in a folder. Other files there are no part of the lake."""
        for key in self.storage.list(folder):
            name = key.removeprefix(f"{folder}/").removesuffix(".parquet")
            if BATCH.fullmatch(name) and key.endswith(".parquet"):
                yield name

    def windows_key(self, selection: str, batch: str) -> str:
        return f"selections/{selection}/{batch.replace('batch', 'windows')}.parquet"

    def verdicts_key(self, selection: str, batch: str) -> str:
        return f"selections/{selection}/{batch.replace('batch', 'verdicts')}.parquet"

    def read(self, key: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file into memory; batches are small enough for that.

        Raises:
            FileNotFoundError: There is no such file.
            CorruptFileError: The file is damaged.
        """
        return parse_parquet(key, self.storage.read(key), columns)

    def read_json(self, key: str, *names: str) -> dict[str, Any]:
        """Read a JSON object that has these keys. Raises the errors of `read`."""
        return parse_json(key, self.storage.read(key), names)

    def write(self, key: str, table: pa.Table) -> int:
        """Write a Parquet file and return its size in bytes. Equal tables give equal bytes."""
        data = write_parquet_bytes(table)
        self.storage.put(key, data)
        return len(data)

    def change(self, key: str, edit: Callable[[pa.Table], pa.Table]) -> bool:
        """Replace a Parquet file by the result of `edit`; returns whether it changed.

        If another process replaces the file at the same time, `edit` is called again, so that no change is lost.
        """
        while True:
            data = self.storage.read(key)
            table = parse_parquet(key, data)
            changed = edit(table)
            if changed.equals(table):
                return False
            # Parquet names the fields of a map differently from the schema: the cast makes equal rows equal bytes.
            if self.storage.replace(key, data, write_parquet_bytes(changed.cast(schema_of(key) or changed.schema))):
                return True

    def recordings(self, columns: list[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
        """Yield each batch of recordings with its name."""
        return self.read_each(self.batches(), self.recordings_key, columns)

    def read_each(
        self, names: Iterable[str], key: Callable[[str], str], columns: list[str] | None = None
    ) -> Iterator[tuple[str, pa.Table]]:
        """Yield each name with the table under its key."""
        return self.prefetch(lambda name: (name, self.read(key(name), columns)), names)

    def prefetch(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of `work` for each item, in order.

        Threads work a few items ahead, which hides the latency of a remote storage.
        """
        with ThreadPoolExecutor(self.config.concurrency, "ahead") as pool:
            pending: deque[Future[Result]] = deque()
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > self.config.concurrency:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def sweep(self) -> None:
        """Remove unfinished files of writers that died."""
        self.storage.sweep()
