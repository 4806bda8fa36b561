"""Shards: files that Lhotse Shar, WebDataset, Hugging Face datasets and wids can all read.

`cuts.NNNNNN.jsonl.gz` holds one Lhotse cut on each line. `latents.NNNNNN.tar` holds two members for each cut, in the
same order: `<id>.npy` (float16, or int8 as `stored.py` describes) and `<id>.json`, Lhotse's TemporalArray manifest.
Their folder may hold no other file.
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
from manifests.stored import Stored
from manifests.tables import write_parquet_bytes


@dataclass
class ShardCommit:
    """The record of a finished shard, which is written after its files."""

    folder: str
    """The folder of cuts and arrays; see `folder_of`."""
    shard: int
    files: dict[str, dict[str, Any]]
    """The sha256 and the size in bytes of each file of `ShardFiles.parts`, by their names in the dataset."""
    windows: int
    failed: int
    frames: int
    fingerprints: dict[str, str]
    statistics: Statistics
    """Without products after reading, because these have a file of their own."""

    def to_json(self) -> str:
        return pretty(self.__dict__ | {"statistics": self.statistics.without_products()})

    @classmethod
    def from_json(cls, text: str | bytes) -> ShardCommit:
        raw = json.loads(text)
        return cls(**raw | {"statistics": Statistics(**raw["statistics"])})

    @classmethod
    def read(cls, storage: Storage, key: str) -> ShardCommit:
        """Read the record under `key`. Raises CorruptFileError if it is none."""
        try:
            return cls.from_json(storage.read(key))
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptFileError.of(key, f"is no record of a shard: {error}") from error


@dataclass(frozen=True)
class ShardFiles:
    """The names of the files of a shard in the folder of its dataset."""

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
        """All files that the commit record describes."""
        return self.cuts, self.latents, self.windows, self.products


def folder_of(split: str, tracks: int) -> str:
    """The folder for the windows of a split with a number of tracks: `train`, or `train.2tracks`.

    Hugging Face `datasets` can read a folder only if all of its arrays have the same number of axes. Names of splits
    have no dot.
    """
    return split if tracks == 1 else f"{split}.{tracks}tracks"


FOLDER = "concat(split, CASE WHEN tracks > 1 THEN concat('.', tracks, 'tracks') ELSE '' END)"
"""SQL of `folder_of`."""
COMMIT = re.compile(r"commits/(?P<folder>\w[^/]*)/(?P<shard>\d{6,})\.json")


def committed(storage: Storage, dataset: str) -> Iterator[ShardFiles]:
    """Yield the committed shards of a dataset, in the order of their names; other files are ignored."""
    prefix = f"datasets/{dataset}/"
    for key in storage.list(f"{prefix}commits"):
        if match := COMMIT.fullmatch(key.removeprefix(prefix)):
            yield ShardFiles(match["folder"], int(match["shard"]))


class ShardWriter:
    """Writes one shard into a local folder. Equal windows give equal bytes: times, owners and names are fixed.

    Windows are added recording by recording, either between `begin` and `keep` or `take_back`, or inside the context
    `recording`, which takes all of them back if an error leaves it.
    """

    def __init__(self, folder: Path, files: ShardFiles, fingerprints: Mapping[str, str]) -> None:
        self.folder, self.files, self.fingerprints = folder, files, dict(fingerprints)
        self.dtype = dtype_of(fingerprints)
        for name in self.files.parts:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        self._cuts_file = (folder / self.files.cuts).open("wb")
        self._cuts = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self._cuts_file, mtime=0)
        self._tar_file = (folder / self.files.latents).open("wb")
        self._tar = tarfile.open(fileobj=self._tar_file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (as above)
        self._rows: list[dict[str, Any]] = []
        self._frames = 0
        self._summing = Summing()
        self._current: _PendingRecording | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Add the windows of one recording; they are taken back if an error leaves the context."""
        self.begin()
        try:
            yield
        except BaseException:  # Ctrl-C, too, must leave nothing of this recording
            self.take_back()
            raise
        self.keep()

    def begin(self) -> None:
        """Begin to add the windows of one recording."""
        assert self._current is None, "the previous recording was neither kept nor taken back"
        self._current = _PendingRecording(self._tar.offset)

    def take_back(self) -> None:
        """Remove everything that was added since `begin`."""
        offset, self._current = self._pending().archive_offset, None
        self._tar_file.seek(offset)
        self._tar_file.truncate()
        self._tar.offset = offset

    def keep(self) -> None:
        """Keep everything that was added since `begin`."""
        pending, self._current = self._pending(), None
        for line in pending.cuts:  # a compressed stream cannot be truncated, so lines are written only now
            self._cuts.write(line)
        self._rows += pending.rows
        self._frames += pending.frames
        self._summing.take(pending.summing)

    def add(
        self,
        window: Mapping[str, Any],
        recording: Mapping[str, Any],
        features: np.ndarray | Stored,
        frame_shift_s: float,
    ) -> None:
        """Add a window.

        Args:
            window: A row of WINDOWS.
            recording: The RECORDINGS and SIGNAL columns of its recording.
            features: float (tracks, frames, dim), which are converted to the dtype of the shard; or as another shard
                of this dtype stores them.
            frame_shift_s: The time between two frames, in seconds.

        Raises:
            ValueError: A value is not finite, or too large for float16.
        """
        try:
            stored = features if isinstance(features, Stored) else Stored.of(features, self.dtype)
        except ValueError as error:
            raise ValueError(f"window {window['window_id']}: {error}") from error
        tracks, frames, _ = stored.shape
        shape = stored.array.shape
        # Lhotse has no place for scales and offsets, but leaves the path of an array of a shard as it is.
        array = {"storage_type": "shar", "storage_path": stored.text, "storage_key": "", "shape": list(shape)}
        manifest = {"array": array, "temporal_dim": len(shape) - 2, "frame_shift": frame_shift_s}
        # Lhotse refuses an array that begins after its cut, so the start of the cut is written, up to half a frame off.
        manifest["start"] = window["start_s"]
        context = round(window["context_s"] / frame_shift_s)
        row = _of_window(window)
        row |= {"status": "ok", "context_frames": context, "continuation_frames": frames - context}
        self.add_stored(row, cut_of(window, recording, tracks), stored, manifest)

    def add_stored(
        self, row: Mapping[str, Any], cut: Mapping[str, Any], stored: Stored, manifest: Mapping[str, Any]
    ) -> None:
        """Add a window in the form in which a shard stores it.

        Args:
            row: Its row of SHARD_WINDOWS.
            cut: Its Lhotse cut.
            stored: Its features.
            manifest: The TemporalArray manifest of the array.
        """
        pending, key = self._pending(), row["window_id"]
        npy = stored.to_bytes()
        offset = self._member(f"{key}.npy", npy)
        self._member(f"{key}.json", json.dumps(manifest, sort_keys=True).encode())
        pending.cuts.append(json.dumps(cut, ensure_ascii=False, sort_keys=True).encode() + b"\n")
        pending.summing.add(stored)
        pending.frames += stored.shape[0] * stored.shape[1]
        place = {"array_offset": offset, "array_bytes": len(npy), "array_crc32": zlib.crc32(npy)}
        pending.rows.append({**row, **self._place, **place})

    def fail(self, window: Mapping[str, Any], error: str) -> None:
        """Record that a window (a row of WINDOWS or SHARD_WINDOWS) could not be encoded, and why."""
        failed = {"status": "failed", "error": error, "context_frames": 0, "continuation_frames": 0}
        self._pending().rows.append(_of_window(window) | failed | self._place)

    @property
    def _place(self) -> dict[str, Any]:
        return {"folder": self.files.folder, "shard": self.files.shard}

    def _pending(self) -> _PendingRecording:
        assert self._current is not None, "`begin` must be called before windows are added"
        return self._current

    def _member(self, name: str, data: bytes) -> int:
        """Add a file to the archive; returns the offset of its bytes."""
        offset = self._tar.offset + tarfile.BLOCKSIZE  # after its header
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self._tar.addfile(info, io.BytesIO(data))
        self._tar.members.clear()  # type: ignore[attr-defined] # it grows with every member, and nothing reads it
        return offset

    def finish(self) -> ShardCommit:
        """Close the files and return their record; they are in `folder` under the names of `files` in the record."""
        self._tar.close()
        self._tar_file.close()
        self._cuts.close()
        self._cuts_file.close()
        windows = write_parquet_bytes(schemas.table(self._rows, schemas.SHARD_WINDOWS))
        (self.folder / self.files.windows).write_bytes(windows)
        statistics = self._summing.statistics()
        products = statistics.products.table() if statistics.products else schemas.PRODUCTS.empty_table()
        (self.folder / self.files.products).write_bytes(write_parquet_bytes(products))
        encoded = sum(row["status"] == "ok" for row in self._rows)
        return ShardCommit(
            self.files.folder,
            self.files.shard,
            {name: _describe(self.folder / name) for name in self.files.parts},
            encoded,
            len(self._rows) - encoded,
            self._frames,
            self.fingerprints,
            statistics,
        )


def dtype_of(fingerprints: Mapping[str, str]) -> str:
    """Return the dtype of the features of a dataset, from what it is made by."""
    return fingerprints.get("dtype", "float16")


def stored_array(storage: Storage, dataset: str, row: Mapping[str, Any]) -> np.ndarray:
    """Read the features of a window of a committed shard: float16, or float32 if int8 is stored, (tracks, frames, dim).

    Arguments and errors are those of `stored_window`.
    """
    array = stored_window(storage, dataset, row).values()
    return array[None] if array.ndim == 2 else array


def stored_window(storage: Storage, dataset: str, row: Mapping[str, Any]) -> Stored:
    """Read the features of a window (a row of SHARD_WINDOWS) of a committed shard as they are stored.

    Raises CorruptFileError if the archive is missing, or has other bytes at that place than were written.
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
    return Stored.parse(data)


COPIED = (
    "window_id", "recording_id", "split", "start_s", "duration_s", "tracks", "language", "num_speakers",
    "repeated_share", "source", "licence", "labels", "turns",
)  # fmt: skip
"""Columns that a row of SHARD_WINDOWS copies from the row of WINDOWS."""


def _of_window(window: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a row of SHARD_WINDOWS copies from a row of WINDOWS or SHARD_WINDOWS."""
    row = {name: window.get(name) for name in COPIED}
    if row["labels"] is not None:
        row["labels"] = [
            label if isinstance(label, dict) else {"key": label[0], "value": label[1]} for label in row["labels"]
        ]
    return row


@dataclass
class _PendingRecording:
    """The added windows of the current recording; their arrays are in the archive already."""

    archive_offset: int
    """Where its arrays begin in the archive, in bytes."""
    cuts: list[bytes] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    frames: int = 0
    summing: Summing = field(default_factory=Summing)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size_bytes": path.stat().st_size}
