"""The lake: which key holds what (ARCHITECTURE.md draws the tree), and readers that stream it batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.storage import Storage, StorageConfig, open_storage
from manifests.tables import write_parquet_bytes

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lake:
    """A lake in some storage. Cheap to make and to send to a worker."""

    storage: Storage
    config: StorageConfig = field(default_factory=StorageConfig)
    """How inputs are reached, too."""

    @classmethod
    def at(cls, root: str, config: StorageConfig | None = None) -> Lake:
        return cls(open_storage(root, config), config or StorageConfig())

    def batches(self) -> Iterator[str]:
        """Names of the batches, in order: 'batch-000000', ..."""
        for key in self.storage.list("recordings"):
            if key.endswith(".parquet"):
                yield key.removeprefix("recordings/").removesuffix(".parquet")

    def recordings_key(self, batch: str) -> str:
        return f"recordings/{batch}.parquet"

    def annotation_key(self, stage: str, fingerprint: str, batch: str) -> str:
        return f"annotations/{stage}-{fingerprint}/{batch}.parquet"

    def annotated(self, stage: str, fingerprint: str) -> Iterator[str]:
        """Names of the batches that this stage has annotated, in order."""
        prefix = f"annotations/{stage}-{fingerprint}"
        for key in self.storage.list(prefix):
            yield key.removeprefix(f"{prefix}/").removesuffix(".parquet")

    def windows_key(self, selection: str, batch: str) -> str:
        return f"selections/{selection}/{batch.replace('batch', 'windows')}.parquet"

    def verdicts_key(self, selection: str, batch: str) -> str:
        return f"selections/{selection}/{batch.replace('batch', 'verdicts')}.parquet"

    def read(self, key: str, columns: list[str] | None = None) -> pa.Table:
        """One Parquet file as a table: a batch is small by construction."""
        # Not read_table: it takes twice as long. One thread: pyarrow 26 may abort a process soon after a threaded read.
        with pq.ParquetFile(pa.BufferReader(self.storage.read(key))) as file:
            return file.read(columns, use_threads=False)

    def write(self, key: str, table: pa.Table) -> None:
        """Commit one Parquet file; equal tables give equal bytes."""
        self.storage.put(key, write_parquet_bytes(table))

    def recordings(self, columns: list[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
        """Batches of recordings with their names."""
        return self.read_each(self.batches(), self.recordings_key, columns)

    def read_each(
        self, names: Iterable[str], key: Callable[[str], str], columns: list[str] | None = None
    ) -> Iterator[tuple[str, pa.Table]]:
        """Each name with the table under its key."""
        return self.ahead(lambda name: (name, self.read(key(name), columns)), names)

    def ahead(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """What `work` makes of each item, in their order, by threads a few items ahead: a far file costs a wait."""
        with ThreadPoolExecutor(self.config.concurrency, "ahead") as pool:
            begun: deque[Future[Result]] = deque()
            for item in items:
                begun.append(pool.submit(work, item))
                if len(begun) > self.config.concurrency:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()

    def sweep(self) -> None:
        """Remove what writers that died left unfinished."""
        self.storage.sweep()
