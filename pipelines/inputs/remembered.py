"""Records of earlier ingests, so that only the size and the time of a known file need be compared.

`SettledNames` holds a hash of each settled name, in 22 bytes. Files of settled names are not opened. `ProbeCache` holds
the rows of all files that were ever hashed. It is loaded only if some name is not settled.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
import re
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from manifests import schemas
from manifests.corrupt import CorruptFileError
from manifests.fingerprint import canonical, fingerprint
from manifests.lake import Lake
from manifests.storage import Stat, StorageConfig
from pipelines.audio.files import stat_file
from pipelines.inputs.entry import Entry, InputError
from pipelines.inputs.packing import NAMED, OWNER, Ingested, Packing
from pipelines.recipes.recipe import IngestConfig
from runtime.failures import Kind, kind_of

CHUNK = 1000
"""Names that are looked up together."""
VERSION = 1
SEEN = re.compile(r"runs/ingest/\d{6}\.parquet")
NAMES = NAMED.names
INSERT_ROW = "INSERT INTO seen VALUES (?, ?, ?, ?, ?)"
SETTLED = pa.schema(
    [("high", pa.uint64()), ("low", pa.uint64()), ("labels", pa.uint32()), ("differing", pa.uint16())]
)  # fmt: skip
"""A settled name: the hash of the name, size and time of its file (high and low half), the hash of the labels and
languages that a manifest gives it, and the index of its differing labels in `SettledNames.differing`."""
WITHDRAWN = "withdrawn"
"""The only entry in the differing labels of a withdrawn recording."""
FOLDER = "runs/ingest"
Files = dict[str, tuple[int, int]]
"""The size and modification time of files, by key."""


class ProbeCache:
    """The rows of NAMED of all files that this run and earlier runs have hashed, with an index by name."""

    def __init__(self, path: str, lake: Lake) -> None:
        self._connection, self._lake, self._loaded = sqlite3.connect(path), lake, False
        self._connection.execute("CREATE TABLE seen (uri, size_bytes, mtime_ns, row, now)")

    def close(self) -> None:
        self._connection.close()

    @staticmethod
    def keys(lake: Lake) -> Iterator[str]:
        """Yield the files of rows of NAMED that earlier runs wrote."""
        return (key for key in lake.storage.list("runs/ingest") if SEEN.fullmatch(key))

    def find(self, uri: str, stat: Stat) -> tuple[dict[str, Any], bool]:
        """Return the newest row of NAMED of a name whose file has this size and time, and whether this run made it.

        The row is empty if there is none.
        """
        if not self._loaded:
            self._load()
        newest = "SELECT row, now FROM seen WHERE (uri, size_bytes, mtime_ns) = (?, ?, ?) ORDER BY rowid DESC LIMIT 1"
        for row, now in self._connection.execute(newest, (uri, *stat)):
            return dict(zip(NAMES, pickle.loads(row), strict=True)), bool(now)
        return {}, False

    def add(self, row: dict[str, Any]) -> None:
        """Add a row of this run."""
        values = tuple(row.get(name) for name in NAMES)
        record = (row["uri"], row["size_bytes"], row["mtime_ns"], pickle.dumps(values), True)
        self._connection.execute(INSERT_ROW, record)

    def _load(self) -> None:
        for _, table in self._lake.read_each(self.keys(self._lake), str):
            # Without a time, a change of the file would not be seen.
            columns = table.filter(pc.greater(table["mtime_ns"], 0)).to_pydict()
            rows = map(pickle.dumps, zip(*(columns[name] for name in NAMES), strict=True))
            records = (columns["uri"], columns["size_bytes"], columns["mtime_ns"], rows, itertools.repeat(False))
            self._connection.executemany(INSERT_ROW, zip(*records, strict=False))
        self._connection.execute("CREATE INDEX seen_names ON seen (uri, size_bytes, mtime_ns)")
        self._loaded = True


@dataclass
class SettledNames:
    """The names that earlier ingests with the same settings have settled.

    A name is settled if its recording is in the lake and was readable, or if it was withdrawn. Failures are not
    settled, since each ingest tries them again. The record is valid only while the files of the lake are unchanged.
    """

    lake: Lake
    config: IngestConfig
    files: Files
    """The files of recordings and of tombstones when this ingest began."""
    valid: bool = False
    """Whether the record of the last ingest could be used."""
    settled: dict[str, np.ndarray] = field(default_factory=dict)
    """The columns of SETTLED, sorted by `high`."""
    differing: list[list[list[str]]] = field(default_factory=lambda: [[]])
    """The different sets of labels whose values in the lake differ from those that this ingest gives."""
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Rows of NAMED of the failures in the lake, by name."""

    def __post_init__(self) -> None:
        if not self.settled:
            empty = SETTLED.empty_table()
            self.settled = {name: empty[name].to_numpy() for name in SETTLED.names}
        self._state = np.zeros(len(self.settled["high"]), np.uint8)
        """Of each settled name: 1 if the inputs name it unchanged, 2 if also with other labels or languages, else 0."""
        self.repeated_failures: dict[str, dict[str, Any]] = {}
        """Rows of names that fail with the same failure as before, by name."""

    @classmethod
    def load(cls, lake: Lake, config: IngestConfig) -> SettledNames:
        """Load the record of the last ingest with these settings.

        It is empty if files of the lake have changed since.
        """
        files = _files(lake)
        try:
            table = lake.read(_key(config))
            failures = lake.read(_key(config, "failures"))
            about = json.loads((table.schema.metadata or {})[b"about"])
            columns = {name: table[name].to_numpy() for name in SETTLED.names}
        except (FileNotFoundError, CorruptFileError, KeyError, ValueError):  # it is not needed for correct results
            return cls(lake, config, files)
        known = {key: stat for key, stat in files.items() if key <= about["last"] or key.startswith("removed/")}
        if about["files"] != _digest(known) or about["failures"] != _content(failures):
            return cls(lake, config, files)
        failed = {row["uri"]: row for row in failures.to_pylist()}
        return cls(lake, config, files, True, columns, about["differing"], failed)

    def owners(self) -> set[str]:
        """Return the lists, manifests and archives that failures in the lake belong to."""
        return {owner for row in self.failures.values() if (owner := _owner(row))}

    def unsettled(
        self, entries: Iterable[Entry], config: StorageConfig, on_row: Callable[[dict[str, Any]], None]
    ) -> Iterator[Entry]:
        """Yield the entries that are not settled. For settled ones, `on_row` is called with name and status."""
        if not self.valid:
            yield from entries
            return
        held: list[Entry] = []
        try:
            for entry in entries:
                held.append(entry)
                if len(held) == CHUNK:
                    yield from self._unsettled(held, config, on_row)
                    held = []
        except InputError:
            yield from self._unsettled(held, config, on_row)
            raise
        yield from self._unsettled(held, config, on_row)

    def _unsettled(
        self, entries: Sequence[Entry], config: StorageConfig, on_row: Callable[[dict[str, Any]], None]
    ) -> Iterator[Entry]:
        stats = [_stat(entry, config) for entry in entries]
        keys = [_name_hash(entry.uri, stat) if stat else bytes(16) for entry, stat in zip(entries, stats, strict=True)]
        labels = [_labels_hash(entry.hint and (entry.hint.labels, entry.hint.languages)) for entry in entries]
        index, is_there = self._find_keys(np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2))
        same = np.zeros(len(entries), bool)
        same[is_there] = self.settled["labels"][index[is_there]] == np.array(labels, np.uint32)[is_there]
        settled = index[same]
        self._state[settled[self._state[settled] == 0]] = 1
        self._state[index[is_there & ~same]] = 2
        for entry, stat, is_settled in zip(entries, stats, same.tolist(), strict=True):
            if is_settled:
                on_row({"uri": entry.uri, "status": "ok"})
            else:
                yield replace(entry, stat=stat) if stat else entry

    def _find_keys(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of each key, uint64 (n, 2), among the settled names, and whether it is one of them."""
        count = len(self.settled["high"])
        if not count:
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        at = np.minimum(np.searchsorted(self.settled["high"], keys[:, 0]), count - 1)
        return at, (self.settled["high"][at] == keys[:, 0]) & (self.settled["low"][at] == keys[:, 1])

    def find(self, uri: str, stat: Stat) -> tuple[dict[str, Any], bool]:
        """Do the same as `ProbeCache.find` for a name that has failed before."""
        if (row := self.repeated_failures.get(uri)) and (row["size_bytes"], row["mtime_ns"]) == tuple(stat):
            return row, True
        row = self.failures[uri]
        return (row if row["mtime_ns"] and (row["size_bytes"], row["mtime_ns"]) == tuple(stat) else {}), False

    def repeats_failure(self, row: dict[str, Any]) -> bool:
        """Return whether the lake already holds this failure of a name, and note it if so."""
        before = self.failures.get(row["uri"])
        if before is None or row["status"] == "ok" or before["recording_id"] != row["recording_id"]:
            return False
        self.repeated_failures[row["uri"]] = row
        return True

    def is_everything_known(self, finished: Collection[str]) -> bool:
        """Return whether the lake is up to date, provided that each name was settled or has failed as before.

        It is not if a failure is obsolete: its list, manifest or archive was read to its end and does not name it.
        """
        obsolete = (
            uri for uri, row in self.failures.items() if _owner(row) in finished and uri not in self.repeated_failures
        )
        return self.valid and next(obsolete, None) is None

    def count(self, result: Ingested) -> None:
        """Add the settled names of this ingest to its counts, each name once."""
        counts = np.bincount(self.settled["differing"][self._state == 1], minlength=len(self.differing))
        for differing, count in zip(self.differing, counts.tolist(), strict=True):
            result.names += count
            if differing == [[WITHDRAWN, ""]]:
                result.withdrawn += count
                continue
            result.known += count
            for name, held in differing if count else []:
                kept = result.kept.setdefault(name, {})
                kept[held] = kept.get(held, 0) + count
        result.kept = {
            name: dict(sorted(result.kept[name].items(), key=lambda item: (-item[1], item[0])))
            for name in sorted(result.kept)
        }

    def save(self, packing: Packing) -> None:
        """Store the names that are settled now, unless another process has changed files of the lake meanwhile."""
        files = _files(self.lake)
        changed = {key for key in {*files, *self.files} if files.get(key) != self.files.get(key)} - packing.written
        if any(key in self.files or not key.startswith("recordings/") for key in changed):
            return
        codes = {canonical(differing): code for code, differing in enumerate(self.differing)}
        rows: list[tuple[int, int, int, int]] = []
        for uri, size_bytes, mtime_ns, labels, differing in packing.settled():
            code = codes.setdefault(canonical(differing), len(codes))
            if code <= np.iinfo(np.uint16).max:
                high, low = np.frombuffer(_name_hash(uri, Stat(size_bytes, mtime_ns)), np.uint64).tolist()
                rows.append((high, low, _labels_hash(labels), code))
        new = np.array(rows, np.uint64).reshape(-1, len(SETTLED)).T
        columns = {
            name: np.concatenate([new[number].astype(self.settled[name].dtype), self.settled[name]])
            for number, name in enumerate(SETTLED.names)
        }
        order = np.lexsort((columns["low"], columns["high"]))  # it is stable, so the newest row of a name comes first
        high, low = columns["high"][order], columns["low"][order]
        first = np.ones(len(order), bool)
        first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        failures = schemas.table(packing.failures(self.failures), NAMED)
        about = {
            "last": max((key for key in files if key.startswith("recordings/")), default=""),
            "files": _digest(files),
            "failures": _content(failures),
            "differing": [json.loads(text) for text in codes],
        }
        table = pa.table({name: columns[name][order][first] for name in SETTLED.names}, schema=SETTLED)
        table = table.replace_schema_metadata({b"about": canonical(about).encode()})
        self.lake.write(_key(self.config, "failures"), failures)
        self.lake.write(_key(self.config), table)


def _key(config: IngestConfig, what: str = "settled") -> str:
    return f"{FOLDER}/{what}-{fingerprint({'version': VERSION, **asdict(config)})}.parquet"


def _files(lake: Lake) -> Files:
    files: Files = {}
    for folder in ("recordings", "removed"):
        for info in lake.storage.filesystem().get_file_info(pafs.FileSelector(folder, allow_not_found=True)):
            if info.base_name.endswith(".parquet"):
                files[f"{folder}/{info.base_name}"] = (info.size, info.mtime_ns)
    return files


def _digest(files: Files) -> str:
    return fingerprint(sorted([key, *stat] for key, stat in files.items()))


def _content(table: pa.Table) -> str:
    return fingerprint(table.select(["uri", "recording_id"]).to_pylist())


def _stat(entry: Entry, config: StorageConfig) -> Stat | None:
    """Return the size and time of a file; None if they are unavailable, or do not show whether the file changed."""
    if entry.error is not None:
        return None
    try:
        stat = entry.stat or stat_file(entry.uri, config)
    except Exception as error:
        if kind_of(error) is Kind.RUN:
            raise
        return None  # probing it reports why
    return stat if stat.mtime_ns else None


def _name_hash(uri: str, stat: Stat) -> bytes:
    text = f"{uri}\0{stat.size_bytes}\0{stat.mtime_ns}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _labels_hash(given: tuple[Any, Any] | None) -> int:
    """Return the hash of the labels and languages that a manifest gives; 0 if it gives none."""
    labels, languages = given or (None, None)
    return zlib.crc32(canonical([labels or [], languages or []]).encode()) if labels or languages else 0


def _owner(row: dict[str, Any]) -> str:
    """Return the list, manifest or archive that a failure belongs to; '' if none."""
    match = re.match(OWNER, row["uri"]) if row["recording_id"].startswith("u") else None
    return match[1] if match else ""
