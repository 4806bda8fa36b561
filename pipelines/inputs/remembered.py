"""What earlier ingests have left, so that names which are in the lake already cost no more than a look at their times.

`Remembered` holds hashes of settled names, 22 bytes each: nothing is read, hashed or joined for them. `Seen` holds what
was found out about every name that was ever hashed, and is opened only where a name is not settled.
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
from pipelines.inputs.packing import MET, OWNER, Ingested, Packing
from pipelines.recipes.recipe import IngestConfig
from runtime.failures import Kind, kind_of

CHUNK = 1000
"""Names that are looked up at a time."""
VERSION = 1
SEEN = re.compile(r"runs/ingest/\d{6}\.parquet")
NAMES = MET.names
ADD_SEEN = "INSERT INTO seen VALUES (?, ?, ?, ?, ?)"
SETTLED = pa.schema(
    [("high", pa.uint64()), ("low", pa.uint64()), ("said", pa.uint32()), ("differing", pa.uint16())]
)  # fmt: skip
"""The hash of a name with its size and time, the hash of what a manifest says of it, and what is told of it."""
WITHDRAWN = "withdrawn"
FOLDER = "runs/ingest"
Files = dict[str, tuple[int, int]]


class Seen:
    """Rows of MET of names that earlier runs hashed, and this one, each found without reading the others."""

    def __init__(self, path: str, lake: Lake) -> None:
        self._connection, self._lake, self._loaded = sqlite3.connect(path), lake, False
        self._connection.execute("CREATE TABLE seen (uri, size_bytes, mtime_ns, row, now)")

    def close(self) -> None:
        self._connection.close()

    @staticmethod
    def keys(lake: Lake) -> Iterator[str]:
        """Files of rows of MET that earlier runs left; other files beside them are nobody's."""
        return (key for key in lake.storage.list("runs/ingest") if SEEN.fullmatch(key))

    def recall(self, uri: str, stat: Stat) -> tuple[dict[str, Any], bool]:
        """The newest row of MET of a name, if its size and time are the same, and whether this run made it."""
        if not self._loaded:
            self._load()
        newest = "SELECT row, now FROM seen WHERE (uri, size_bytes, mtime_ns) = (?, ?, ?) ORDER BY rowid DESC LIMIT 1"
        for row, now in self._connection.execute(newest, (uri, *stat)):
            return dict(zip(NAMES, pickle.loads(row), strict=True)), bool(now)
        return {}, False

    def add(self, row: dict[str, Any]) -> None:
        """Add a row that this run has made."""
        values = tuple(row.get(name) for name in NAMES)
        told = (row["uri"], row["size_bytes"], row["mtime_ns"], pickle.dumps(values), True)
        self._connection.execute(ADD_SEEN, told)

    def _load(self) -> None:
        for _, table in self._lake.read_each(self.keys(self._lake), str):
            columns = table.filter(pc.greater(table["mtime_ns"], 0)).to_pydict()  # others may have changed unseen
            rows = map(pickle.dumps, zip(*(columns[name] for name in NAMES), strict=True))
            told = (columns["uri"], columns["size_bytes"], columns["mtime_ns"], rows, itertools.repeat(False))
            self._connection.executemany(ADD_SEEN, zip(*told, strict=False))
        self._connection.execute("CREATE INDEX seen_names ON seen (uri, size_bytes, mtime_ns)")
        self._loaded = True


@dataclass
class Remembered:
    """The names that ingests with the same settings have settled, while the files of the lake are as they were then.

    A name is settled where its recording is in the lake and could be read, or was withdrawn. Failures are kept apart:
    each ingest tries them again.
    """

    lake: Lake
    config: IngestConfig
    files: Files
    """Size and time of change of the files of recordings and of tombstones, when this ingest began."""
    valid: bool = False
    settled: dict[str, np.ndarray] = field(default_factory=dict)
    """By columns of SETTLED, sorted by `high`."""
    differing: list[list[list[str]]] = field(default_factory=lambda: [[]])
    """What may be told of a name: the labels that its recording keeps otherwise than this ingest gives them."""
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Rows of MET of the failures in the lake, by name."""

    def __post_init__(self) -> None:
        if not self.settled:
            empty = SETTLED.empty_table()
            self.settled = {name: empty[name].to_numpy() for name in SETTLED.names}
        self._met = np.zeros(len(self.settled["high"]), np.uint8)  # 1: met as it is; 2: also otherwise
        self.still: dict[str, dict[str, Any]] = {}
        """Failures that were met again, by name: they fail as before."""

    @classmethod
    def load(cls, lake: Lake, config: IngestConfig) -> Remembered:
        """What the last ingest with these settings left, nothing where files that it knew have changed since."""
        files = _files(lake)
        try:
            table = lake.read(_key(config))
            failures = lake.read(_key(config, "failures"))
            about = json.loads((table.schema.metadata or {})[b"about"])
        except (FileNotFoundError, CorruptFileError, KeyError, ValueError):  # it only saves time
            return cls(lake, config, files)
        known = {key: told for key, told in files.items() if key <= about["last"] or key.startswith("removed/")}
        if about["files"] != _digest(known) or about["failures"] != _content(failures):
            return cls(lake, config, files)
        columns = {name: table[name].to_numpy() for name in SETTLED.names}
        failed = {row["uri"]: row for row in failures.to_pylist()}
        return cls(lake, config, files, True, columns, about["differing"], failed)

    def owners(self) -> set[str]:
        """Lists, manifests and archives of which the lake holds failures."""
        return {owner for row in self.failures.values() if (owner := _owner(row))}

    def unsettled(
        self, found: Iterable[Entry], config: StorageConfig, told: Callable[[dict[str, Any]], None]
    ) -> Iterator[Entry]:
        """The entries of which there is something to find out; of each other one `told` gets name and status."""
        if not self.valid:
            yield from found
            return
        held: list[Entry] = []
        try:
            for entry in found:
                held.append(entry)
                if len(held) == CHUNK:
                    yield from self._unsettled(held, config, told)
                    held = []
        except InputError:
            yield from self._unsettled(held, config, told)
            raise
        yield from self._unsettled(held, config, told)

    def _unsettled(
        self, entries: Sequence[Entry], config: StorageConfig, told: Callable[[dict[str, Any]], None]
    ) -> Iterator[Entry]:
        stats = [_stat(entry, config) for entry in entries]
        keys = [_hash(entry.uri, stat) if stat else bytes(16) for entry, stat in zip(entries, stats, strict=True)]
        said = [_said_hash(entry.hint and (entry.hint.labels, entry.hint.languages)) for entry in entries]
        at, is_there = self._places(np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2))
        same = np.zeros(len(entries), bool)
        same[is_there] = self.settled["said"][at[is_there]] == np.array(said, np.uint32)[is_there]
        here = at[same]
        self._met[here[self._met[here] == 0]] = 1
        self._met[at[is_there & ~same]] = 2
        for entry, stat, is_settled in zip(entries, stats, same.tolist(), strict=True):
            if is_settled:
                told({"uri": entry.uri, "status": "ok"})
            else:
                yield replace(entry, stat=stat) if stat else entry

    def _places(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each key, uint64 (n, 2), lies among the settled ones, and whether it does."""
        count = len(self.settled["high"])
        if not count:
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        at = np.minimum(np.searchsorted(self.settled["high"], keys[:, 0]), count - 1)
        return at, (self.settled["high"][at] == keys[:, 0]) & (self.settled["low"][at] == keys[:, 1])

    def recall(self, uri: str, stat: Stat) -> tuple[dict[str, Any], bool]:
        """As `Seen.recall`, of a name that failed when it was met last."""
        if (row := self.still.get(uri)) and (row["size_bytes"], row["mtime_ns"]) == tuple(stat):
            return row, True
        row = self.failures[uri]
        return (row if row["mtime_ns"] and (row["size_bytes"], row["mtime_ns"]) == tuple(stat) else {}), False

    def fails_as_before(self, row: dict[str, Any]) -> bool:
        """Whether the lake holds just this failure of a name."""
        before = self.failures.get(row["uri"])
        if before is None or row["status"] == "ok" or before["recording_id"] != row["recording_id"]:
            return False
        self.still[row["uri"]] = row
        return True

    def is_all(self, finished: Collection[str]) -> bool:
        """Whether nothing can have changed where every name was settled or fails as before.

        A failure ends where the list, manifest or archive that it is of was read to its end without it.
        """
        ended = (uri for uri, row in self.failures.items() if _owner(row) in finished and uri not in self.still)
        return self.valid and next(ended, None) is None

    def count(self, result: Ingested) -> None:
        """Add the settled names that were met, each once."""
        counts = np.bincount(self.settled["differing"][self._met == 1], minlength=len(self.differing))
        for differing, count in zip(self.differing, counts.tolist(), strict=True):
            result.met += count
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
        """Keep what is settled now, unless another process has changed files of the lake meanwhile."""
        files = _files(self.lake)
        changed = {key for key in {*files, *self.files} if files.get(key) != self.files.get(key)} - packing.written
        if any(key in self.files or not key.startswith("recordings/") for key in changed):
            return
        codes = {canonical(differing): code for code, differing in enumerate(self.differing)}
        rows: list[tuple[int, int, int, int]] = []
        for uri, size_bytes, mtime_ns, said, differing in packing.settled():
            code = codes.setdefault(canonical(differing), len(codes))
            if code <= np.iinfo(np.uint16).max:
                high, low = np.frombuffer(_hash(uri, Stat(size_bytes, mtime_ns)), np.uint64).tolist()
                rows.append((high, low, _said_hash(said), code))
        new = np.array(rows, np.uint64).reshape(-1, len(SETTLED)).T
        columns = {
            name: np.concatenate([new[number].astype(self.settled[name].dtype), self.settled[name]])
            for number, name in enumerate(SETTLED.names)
        }
        order = np.lexsort((columns["low"], columns["high"]))  # stable: what was found last comes first
        high, low = columns["high"][order], columns["low"][order]
        first = np.ones(len(order), bool)
        first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        failures = schemas.table(packing.failures(self.failures), MET)
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
    found: Files = {}
    for folder in ("recordings", "removed"):
        for info in lake.storage.filesystem().get_file_info(pafs.FileSelector(folder, allow_not_found=True)):
            if info.base_name.endswith(".parquet"):
                found[f"{folder}/{info.base_name}"] = (info.size, info.mtime_ns)
    return found


def _digest(files: Files) -> str:
    return fingerprint(sorted([key, *told] for key, told in files.items()))


def _content(table: pa.Table) -> str:
    return fingerprint(table.select(["uri", "recording_id"]).to_pylist())


def _stat(entry: Entry, config: StorageConfig) -> Stat | None:
    """Size and time of what is named; None where they cannot be had, or do not tell whether it has changed."""
    if entry.error is not None:
        return None
    try:
        stat = entry.stat or stat_file(entry.uri, config)
    except Exception as error:
        if kind_of(error) is Kind.RUN:
            raise
        return None  # looking at it tells why
    return stat if stat.mtime_ns else None


def _hash(uri: str, stat: Stat) -> bytes:
    text = f"{uri}\0{stat.size_bytes}\0{stat.mtime_ns}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _said_hash(said: tuple[Any, Any] | None) -> int:
    """Of the labels and languages that a manifest gives; 0 where it gives none."""
    labels, languages = said or (None, None)
    return zlib.crc32(canonical([labels or [], languages or []]).encode()) if labels or languages else 0


def _owner(row: dict[str, Any]) -> str:
    """The list, manifest or archive that a failure is of, '' for others."""
    owned = re.match(OWNER, row["uri"]) if row["recording_id"].startswith("u") else None
    return owned[1] if owned else ""
