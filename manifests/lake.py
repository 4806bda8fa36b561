"""The lake: which key holds what (ARCHITECTURE.md draws the tree), and readers that stream it batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.storage import Storage, StorageConfig, open_storage
from manifests.tables import write_parquet_bytes


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
        for batch in self.batches():
            yield batch, self.read(self.recordings_key(batch), columns)

    def sweep(self) -> None:
        """Remove what writers that died left unfinished."""
        self.storage.sweep()
