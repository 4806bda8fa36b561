"""Shards: one set of bytes that Lhotse Shar, WebDataset, Hugging Face datasets and wids all open.

`cuts.NNNNNN.jsonl.gz` holds a Lhotse cut a line; `latents.NNNNNN.tar` holds for each, in the same order, `<id>.npy`
(float16) and then `<id>.json`, exactly Lhotse's TemporalArray manifest. Nothing else may lie in their folder.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from manifests import schemas
from manifests.corrupt import CorruptFileError
from manifests.cuts import cut_of
from manifests.fingerprint import pretty
from manifests.statistics import Statistics, Summing
from manifests.storage import Storage
from manifests.tables import write_parquet_bytes


@dataclass
class ShardCommit:
    """The record of a finished shard, written after its files: hashes, sizes, counts, statistics, fingerprints."""

    folder: str
    """Of the cuts and arrays: see `folder_of`."""
    shard: int
    files: dict[str, dict[str, Any]]
    """sha256 and size in bytes of each of `ShardFiles.parts`, by their names in the dataset."""
    windows: int
    failed: int
    frames: int
    fingerprints: dict[str, str]
    statistics: Statistics
    """Its products lie in a file of their own: a record that was read is without them."""

    def to_json(self) -> str:
        return pretty(self.__dict__ | {"statistics": self.statistics.told()})

    @classmethod
    def from_json(cls, text: str | bytes) -> ShardCommit:
        raw = json.loads(text)
        return cls(**raw | {"statistics": Statistics(**raw["statistics"])})

    @classmethod
    def read(cls, storage: Storage, key: str) -> ShardCommit:
        """The record under `key`. Raises CorruptFileError where it is none."""
        try:
            return cls.from_json(storage.read(key))
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptFileError.of(key, f"is no record of a shard: {error}") from error


@dataclass(frozen=True)
class ShardFiles:
    """Where the parts of a shard lie in its dataset."""

    folder: str
    shard: int

    @property
    def split(self) -> str:
        return self.folder.partition(".")[0]

    @property
    def commit(self) -> str:
        return f"commits/{self.folder}/{self.shard:06d}.json"

    @property
    def cuts(self) -> str:
        return f"{self.folder}/cuts.{self.shard:06d}.jsonl.gz"

    @property
    def latents(self) -> str:
        return f"{self.folder}/latents.{self.shard:06d}.tar"

    @property
    def windows(self) -> str:
        return f"windows/{self.folder}-{self.shard:06d}.parquet"

    @property
    def products(self) -> str:
        return f"products/{self.folder}-{self.shard:06d}.parquet"

    @property
    def parts(self) -> tuple[str, ...]:
        """All that its commit describes."""
        return self.cuts, self.latents, self.windows, self.products


def folder_of(split: str, tracks: int) -> str:
    """The folder of a dataset that holds the windows of a split with so many tracks: `train`, or `train.2tracks`.

    All arrays of a folder have one number of axes, without which Hugging Face `datasets` cannot read it. The names of
    splits hold no dot.
    """
    return split if tracks == 1 else f"{split}.{tracks}tracks"


FOLDER = "concat(split, CASE WHEN tracks > 1 THEN concat('.', tracks, 'tracks') ELSE '' END)"
"""`folder_of` as SQL."""
COMMIT = re.compile(r"commits/(?P<folder>\w[^/]*)/(?P<shard>\d{6,})\.json")


def committed(storage: Storage, dataset: str) -> Iterator[ShardFiles]:
    """The committed shards of a dataset, in order of their names; other files among the commits are no part of it."""
    prefix = f"datasets/{dataset}/"
    for key in storage.list(f"{prefix}commits"):
        if match := COMMIT.fullmatch(key.removeprefix(prefix)):
            yield ShardFiles(match["folder"], int(match["shard"]))


def fields(storage: Storage, dataset: str) -> dict[str, dict[str, list[str]]]:
    """Of each folder the files of its committed shards, relative to the dataset's own, as `CutSet.from_shar` takes.

    An object store cannot be globbed by readers: `fields.json` lists what they would look for.
    """
    listed: dict[str, dict[str, list[str]]] = {}
    for shard in committed(storage, dataset):
        of_folder = listed.setdefault(shard.folder, {"cuts": [], "latents": []})
        of_folder["cuts"].append(shard.cuts)
        of_folder["latents"].append(shard.latents)
    return listed


class ShardWriter:
    """Writes one shard into a local folder; equal windows give equal bytes (times, owners and names are fixed).

    Windows are added recording by recording: between `begin` and `keep` or `take_back`, or inside `recording`, which
    takes all of them back where an error leaves it.
    """

    def __init__(self, folder: Path, files: ShardFiles, fingerprints: Mapping[str, str]) -> None:
        self.folder, self.files, self.fingerprints = folder, files, dict(fingerprints)
        for name in self.files.parts:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        self._cuts_file = (folder / self.files.cuts).open("wb")
        self._cuts = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self._cuts_file, mtime=0)
        self._tar_file = (folder / self.files.latents).open("wb")
        self._tar = tarfile.open(fileobj=self._tar_file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (as above)
        self._rows: list[dict[str, Any]] = []
        self._frames = 0
        self._summing = Summing()
        self._at_hand: _AtHand | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """The windows of one recording. All that was added inside is taken back where an error leaves it."""
        self.begin()
        try:
            yield
        except BaseException:  # whatever leaves it, Ctrl-C too: nothing of this recording stays behind; raised on
            self.take_back()
            raise
        self.keep()

    def begin(self) -> None:
        """Begin with the windows of one recording."""
        assert self._at_hand is None, "the recording before was neither kept nor taken back"
        self._at_hand = _AtHand(self._tar.offset)

    def take_back(self) -> None:
        """Leave nothing of what was added since `begin`."""
        begun, self._at_hand = self._held().begun, None
        self._tar_file.seek(begun)
        self._tar_file.truncate()
        self._tar.offset = begun

    def keep(self) -> None:
        """Keep what was added since `begin`."""
        at_hand, self._at_hand = self._held(), None
        for line in at_hand.cuts:  # a compressed stream cannot be cut back: its lines wait until here
            self._cuts.write(line)
        self._rows += at_hand.rows
        self._frames += at_hand.frames
        self._summing.take(at_hand.summing)

    def add(
        self,
        window: Mapping[str, Any],
        recording: Mapping[str, Any],
        features: np.ndarray,
        frame_shift_s: float,
    ) -> None:
        """Add a window (a row of WINDOWS) of a recording (its RECORDINGS and SIGNAL columns).

        `features` is float (tracks, frames, dim). A mono window is stored as (frames, dim). ValueError for values that
        float16 cannot hold.
        """
        tracks, frames, _ = features.shape
        with np.errstate(over="ignore"):
            stored = features.astype(np.float16)
        if not np.isfinite(stored).all():
            raise ValueError(f"window {window['window_id']}: features that float16 cannot hold")
        temporal_dim = 1
        if tracks == 1:
            stored, temporal_dim = stored[0], 0
        array = {"storage_type": "shar", "storage_path": "", "storage_key": "", "shape": list(stored.shape)}
        manifest = {"array": array, "temporal_dim": temporal_dim, "frame_shift": frame_shift_s}
        # Lhotse refuses an array that begins after its cut, so one that begins up to half a frame off says the same.
        manifest["start"] = window["start_s"]
        context = round(window["context_s"] / frame_shift_s)
        made = {"status": "ok", "context_frames": context, "continuation_frames": frames - context}
        row = _of_window(window) | made
        self.add_made(row, cut_of(window, recording, tracks), stored, manifest)

    def add_made(
        self, row: Mapping[str, Any], cut: Mapping[str, Any], stored: np.ndarray, manifest: Mapping[str, Any]
    ) -> None:
        """Add a window as a shard holds it: its row of SHARD_WINDOWS, its cut, its float16 array, and the manifest of
        that array."""
        held, key = self._held(), row["window_id"]
        data = io.BytesIO()
        np.save(data, stored, allow_pickle=False)
        npy = data.getvalue()
        offset = self._member(f"{key}.npy", npy)
        self._member(f"{key}.json", json.dumps(manifest, sort_keys=True).encode())
        held.cuts.append(json.dumps(cut, ensure_ascii=False, sort_keys=True).encode() + b"\n")
        held.summing.add(stored)
        held.frames += stored.size // stored.shape[-1]
        place = {"array_offset": offset, "array_bytes": len(npy), "array_crc32": zlib.crc32(npy)}
        held.rows.append({**row, **self._place, **place})

    def fail(self, window: Mapping[str, Any], error: str) -> None:
        """Record that a window (a row of WINDOWS or of SHARD_WINDOWS) could not be made, and why."""
        failed = {"status": "failed", "error": error, "context_frames": 0, "continuation_frames": 0}
        self._held().rows.append(_of_window(window) | failed | self._place)

    @property
    def _place(self) -> dict[str, Any]:
        return {"folder": self.files.folder, "shard": self.files.shard}

    def _held(self) -> _AtHand:
        assert self._at_hand is not None, "windows are added after `begin`"
        return self._at_hand

    def _member(self, name: str, data: bytes) -> int:
        """Add a file to the archive; where its bytes begin there."""
        offset = self._tar.offset + tarfile.BLOCKSIZE  # after its header
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.members.clear()  # type: ignore[attr-defined] # a list of all of them, which nobody reads
        return offset

    def finish(self) -> ShardCommit:
        """Close the files and describe them: they lie in `folder` under the names of `files` of the result."""
        self._tar.close()
        self._tar_file.close()
        self._cuts.close()
        self._cuts_file.close()
        windows = write_parquet_bytes(schemas.table(self._rows, schemas.SHARD_WINDOWS))
        (self.folder / self.files.windows).write_bytes(windows)
        statistics = self._summing.statistics()
        products = statistics.products.table() if statistics.products else schemas.PRODUCTS.empty_table()
        (self.folder / self.files.products).write_bytes(write_parquet_bytes(products))
        made = sum(row["status"] == "ok" for row in self._rows)
        return ShardCommit(
            self.files.folder,
            self.files.shard,
            {name: _describe(self.folder / name) for name in self.files.parts},
            made,
            len(self._rows) - made,
            self._frames,
            self.fingerprints,
            statistics,
        )


def stored_array(storage: Storage, dataset: str, row: Mapping[str, Any]) -> np.ndarray:
    """The float16 features, (tracks, frames, dim), of a window that a committed shard holds (a row of SHARD_WINDOWS).

    Raises CorruptFileError where the archive is gone or holds other bytes there than were written.
    """
    key = f"datasets/{dataset}/{ShardFiles(row['folder'], row['shard']).latents}"
    try:
        with storage.open(key) as file:
            file.seek(row["array_offset"])
            data = file.read(row["array_bytes"])
    except FileNotFoundError as error:
        raise CorruptFileError.of(key, "missing, though its shard is committed") from error
    if zlib.crc32(data) != row["array_crc32"]:
        raise CorruptFileError.of(key, f"the features of {row['window_id']} are not those that were written")
    array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return array[None] if array.ndim == 2 else array


OF_WINDOW = (
    "window_id", "recording_id", "split", "start_s", "duration_s", "tracks", "language", "num_speakers",
    "repeated_share", "source", "licence", "labels", "turns",
)  # fmt: skip
"""What a row of SHARD_WINDOWS repeats of the row of WINDOWS."""


def _of_window(window: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a row of SHARD_WINDOWS has of a row of WINDOWS, or of one of its own kind."""
    row = {name: window.get(name) for name in OF_WINDOW}
    if row["labels"] is not None:
        row["labels"] = [one if isinstance(one, dict) else {"key": one[0], "value": one[1]} for one in row["labels"]]
    return row


@dataclass
class _AtHand:
    """What was added of the recording at hand, but for its arrays, which are in the archive already."""

    begun: int
    """Where its arrays begin there."""
    cuts: list[bytes] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    frames: int = 0
    summing: Summing = field(default_factory=Summing)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size_bytes": path.stat().st_size}
