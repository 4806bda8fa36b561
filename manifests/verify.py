"""Verify a dataset: recount it from the bytes of its shards and hold every record of it against that count.

Nothing is trusted but the shards: commits, tables of windows, ledger and statistics must all say what they hold.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import IO, Any, BinaryIO, cast

import duckdb
import numpy as np
import pyarrow as pa

from manifests import shardlist
from manifests.corrupt import CorruptFileError, parse_parquet
from manifests.lake import Lake
from manifests.ledger import GROUP
from manifests.made import made
from manifests.products import Products
from manifests.recount import Recount, by_version, folders
from manifests.shards import ShardCommit, ShardFiles, folder_of
from manifests.statistics import Statistics, Summing
from manifests.versions import fields, generation, versions

KEY = re.compile(r"[A-Za-z0-9_-]+")  # a dot merges samples in WebDataset, a slash breaks Lhotse
WINDOWS = r"windows/(\w[^/]*)-(\d{6,})\.parquet"
PRODUCTS = WINDOWS.replace("windows", "products", 1)
ARRAY = {"storage_type": "shar", "storage_path": "", "storage_key": ""}
# tarfile on a damaged stream, gzip on one, numpy and json on damaged contents
DAMAGE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError)

Progress = Callable[[str, int], None]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is wrong with which key of the lake."""

    key: str
    what: str
    note: bool = False
    """Whether it is no fault of the dataset, but worth knowing."""

    def __str__(self) -> str:
        return f"{'note: ' * self.note}{self.key}: {self.what}"


class _DamagedError(Exception):
    """A file that could not be read to its end; it ends the count of its shard."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _Hashing:
    """A stream that takes the sha256 and the size of what passes through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.sha256, self.size_bytes = stream, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.sha256.update(data)
        self.size_bytes += len(data)
        return data

    def drain(self) -> None:
        while self.read(1 << 20):
            pass


def verify(lake: Lake, dataset: str, progress: Progress | None = None) -> list[Problem]:
    """Every problem of `datasets/<dataset>`, shard by shard, then ledger and statistics, then notes; else nothing.

    Each shard is read once, as a stream: memory holds one window and one shard's table of windows. `progress` is
    told each shard's name and how many bytes it had.
    """
    return _Verifier(lake, f"datasets/{dataset}", progress or (lambda shard, size_bytes: None)).run()


class _Verifier:
    def __init__(self, lake: Lake, prefix: str, progress: Progress) -> None:
        self.lake, self.prefix, self.progress = lake, prefix, progress
        self.problems: list[Problem] = []
        self.fingerprints: dict[str, str] = {}
        self.uncounted = 0
        self.versions = versions(lake, prefix.removeprefix("datasets/"))
        self.history = [version.shards for version in self.versions]
        self.added = [Recount() for _ in self.versions]
        self.unfinished = 0

    def problem(self, key: str, what: str) -> None:
        self.problems.append(Problem(f"{self.prefix}/{key}", what))

    def run(self) -> list[Problem]:
        self.keys = {key.removeprefix(f"{self.prefix}/") for key in self.lake.storage.list(self.prefix)}
        shards = self._shards()
        if not shards and "plan.json" not in self.keys:  # with a plan, nothing may have been selected
            self.problem("commits", "no shard here; check the dataset's name and the lake")
            return self.problems
        if not self.versions:
            self.problem("versions", "no version is complete yet; run `speechmill encode` again, which finishes it")
        for folder, number in shards:
            before = len(self.problems)
            made = generation(self.history, ShardFiles(folder, number))
            if made is None:
                self.unfinished += not self._missing(ShardFiles(folder, number))
                continue
            try:
                self._shard(folder, number, self.added[made])
            except _DamagedError as error:
                self.problems.insert(before, error.problem)
                self.uncounted += 1
        self._repeated()
        if self.uncounted:
            self.problem("ledger.parquet", f"not compared: {self.uncounted} shards could not be counted")
        else:
            self._recounted()
        if self.unfinished:
            what = (
                f"{self.unfinished:,} shards of no version yet; run `speechmill encode` again, which goes on with them"
            )
            self.problems.append(Problem(f"{self.prefix}/versions", what, note=True))
        self._selected()
        return self.problems

    def _recounted(self) -> None:
        """Hold the ledger, the statistics and the lists of each version against its shards."""
        for index, whole in enumerate(by_version(self.added)):
            for folder in folders(self.versions, index):
                encoder, listed = self.fingerprints.get("encoder"), fields(self.history[: index + 1])
                for name, what in whole.differences(self.lake, self.prefix, folder, encoder, listed):
                    self.problem(name, what)

    def _shards(self) -> list[tuple[str, int]]:
        """Shards that any record or file names, gaps in the numbering included; names what should not be there."""
        last: dict[str, int] = {}
        patterns = (
            r"commits/(\w[^/]*)/(\d{6,})\.json",
            WINDOWS,
            PRODUCTS,
            r"(\w[^/]*)/cuts\.(\d{6,})\.jsonl\.gz",
            r"(\w[^/]*)/latents\.(\d{6,})\.tar",
        )
        for key in sorted(self.keys):
            match = next((found for pattern in patterns if (found := re.fullmatch(pattern, key))), None)
            if match:
                last[match[1]] = max(last.get(match[1], 0), int(match[2]))
            elif "/" in key and not key.startswith("versions/"):
                self.problem(key, "does not belong here: readers would take it for a part of the dataset; move it")
        for folder, count in (self.history[-1] if self.history else {}).items():
            last[folder] = max(last.get(folder, 0), count - 1)
        return [(folder, number) for folder in sorted(last) for number in range(last[folder] + 1)]

    def _shard(self, folder: str, number: int, recount: Recount) -> None:
        files = ShardFiles(folder, number)
        names = {"commit": files.commit, "windows": files.windows, "cuts": files.cuts, "tar": files.latents}
        if self._missing(files):
            self.uncounted += 1
            return
        commit = self._commit(names["commit"], folder, number)
        rows = self._rows(names["windows"], commit, recount)
        storage = self.lake.storage
        with (
            storage.open(f"{self.prefix}/{names['cuts']}") as cuts,
            storage.open(f"{self.prefix}/{names['tar']}") as tar,
        ):
            streams = {"cuts": _Hashing(cuts), "tar": _Hashing(tar)}
            try:
                self._windows(names, streams, rows, commit, recount)
            finally:
                for which, stream in streams.items():
                    stream.drain()
                    self._compare_file(names[which], stream, commit)
        self.progress(f"{folder}/{number:06d}", sum(stream.size_bytes for stream in streams.values()))

    def _missing(self, files: ShardFiles) -> bool:
        """Name the parts of a shard that are not there."""
        missing = [n for n in (files.commit, *files.parts) if n not in self.keys]
        for name in missing:
            self.problem(name, "missing")
        return bool(missing)

    def _commit(self, name: str, folder: str, number: int) -> ShardCommit:
        try:
            commit = ShardCommit.read(self.lake.storage, f"{self.prefix}/{name}")
        except CorruptFileError as error:
            raise self._damaged(name, error) from error
        if (commit.folder, commit.shard) != (folder, number):
            self.problem(name, f"is the record of {commit.folder}/{commit.shard:06d}")
        if not self.fingerprints:
            self.fingerprints = commit.fingerprints
        elif self.fingerprints != commit.fingerprints:
            self.problem(name, f"was made by {commit.fingerprints}, the first shard by {self.fingerprints}")
        return commit

    def _rows(self, name: str, commit: ShardCommit, recount: Recount) -> list[dict[str, Any]]:
        """The windows that were made, in their order."""
        table = self._table(name, commit)
        rows = table.to_pylist()
        for row in rows:
            if (row["folder"], row["shard"]) != (commit.folder, commit.shard):
                self.problem(name, f"window {row['window_id']} is of {row['folder']}/{row['shard']:06d}")
            if row["folder"] != folder_of(row["split"], row["tracks"]):
                what = f"window {row['window_id']} of {row['split']} with {row['tracks']} tracks is in {row['folder']}"
                self.problem(name, what)
        recount.shards.append(shardlist.count(ShardFiles(commit.folder, commit.shard), table))
        made = [row for row in rows if row["status"] == "ok"]
        self._compare(name, "windows that failed", len(rows) - len(made), commit.failed, "the commit")
        return made

    def _table(self, name: str, commit: ShardCommit) -> pa.Table:
        """The table in a file of a shard."""
        data = _Hashing(io.BytesIO(self.lake.storage.read(f"{self.prefix}/{name}")))
        try:
            table = parse_parquet(f"{self.prefix}/{name}", data.read())
        except CorruptFileError as error:
            raise self._damaged(name, error) from error
        self._compare_file(name, data, commit)
        return table

    def _windows(
        self,
        names: dict[str, str],
        streams: dict[str, _Hashing],
        rows: list[dict[str, Any]],
        commit: ShardCommit,
        recount: Recount,
    ) -> None:
        summing, windows, frames = Summing(), 0, 0
        cuts = self._cuts(names["cuts"], streams["cuts"])
        arrays = self._arrays(names["tar"], streams["tar"])
        for cut, found, row in zip_longest(cuts, arrays, rows):
            ids = {
                names["cuts"]: cut and cut.get("id"),
                names["tar"]: found and found[0],
                names["windows"]: row and row["window_id"],
            }
            if len(set(ids.values())) > 1:
                told = ", ".join(f"{name.rsplit('/', 1)[1]} has {key or 'no more'}" for name, key in ids.items())
                what = ValueError(f"window {windows} is not the same one everywhere: {told}")
                raise self._damaged(names["tar"], what)
            _, array, manifest = found
            self._one(names, cut, array, manifest, row)
            tracks = 1 if array.ndim == 2 else array.shape[0]
            windows, frames = windows + 1, frames + tracks * array.shape[-2]
            summing.add(array)
            recount.add(_group(row["split"], cut.get("custom") or {}), row, tracks)
        self._compare(names["commit"], "windows", commit.windows, windows, "its shard")
        self._compare(names["commit"], "frames", commit.frames, frames, "its shard")
        self._summed(ShardFiles(commit.folder, commit.shard), commit, summing.statistics(), recount)

    def _summed(self, files: ShardFiles, commit: ShardCommit, counted: Statistics, recount: Recount) -> None:
        """The statistics of a shard, as its commit and its sums of products say, against what was counted."""
        table = self._table(files.products, commit)
        if commit.statistics != replace(counted, products=None):
            self.problem(files.commit, "its statistics are not those of its shard")
        try:
            products = Products.of_table(table)
        except ValueError as error:
            raise self._damaged(files.products, error) from error
        if products != counted.products:
            self.problem(files.products, "its sums of products are not those of its shard")
        recount.statistics.setdefault(files.split, Statistics()).merge(counted)

    def _one(
        self,
        names: dict[str, str],
        cut: dict[str, Any],
        array: np.ndarray,
        manifest: dict[str, Any],
        row: dict[str, Any],
    ) -> None:
        """One window: tar manifest against array, array against the table of windows, cut against both."""
        key = row["window_id"]
        expected = {"array": ARRAY | {"shape": list(array.shape)}, "temporal_dim": array.ndim - 2}
        expected |= {"frame_shift": manifest.get("frame_shift"), "start": cut.get("start")}
        if manifest != expected:
            self.problem(names["tar"], f"{key}.json is {manifest}, its array and cut say {expected}")
        tracks = 1 if array.ndim == 2 else array.shape[0]
        table = f"{names['windows']} for {key}"
        self._compare(names["tar"], f"{key}: tracks", tracks, row["tracks"], table)
        counted = row["context_frames"] + row["continuation_frames"]
        self._compare(names["tar"], f"{key}: frames per track", array.shape[-2], counted, table)
        channels = (cut.get("recording") or {}).get("channel_ids") or []
        kind, of = cut.get("type"), cut.get("channel")
        if (kind, of) != ("MultiCut", list(range(tracks))) and not (
            kind == "MonoCut" and tracks == 1 and of in channels
        ):
            self.problem(names["cuts"], f"{key}: a {kind} of channel {of}, with {tracks} tracks of channels {channels}")
        custom = cut.get("custom") or {}
        said = {name: cut.get(name.removesuffix("_s")) for name in ("start_s", "duration_s")}
        said |= {name: custom.get(name) for name in ("split", "language", "num_speakers", "source", "licence")}
        labels = custom.get("labels")
        said["labels"] = labels and [{"key": key, "value": value} for key, value in labels.items()]
        said["recording_id"] = (cut.get("recording") or {}).get("id")
        heard = [(round(one["start"], 6), one.get("speaker")) for one in cut.get("supervisions") or []]
        turns = [turn for turn in row["turns"] or [] if turn["end_s"] > turn["start_s"]]
        told = [(round(turn["start_s"], 6), turn["speaker"]) for turn in turns]
        self._compare(names["cuts"], f"{key}: turns", heard, told, table)
        for name, value in said.items():
            self._compare(names["cuts"], f"{key}: {name}", value, row[name], table)
        frame_shift_s, context_s = manifest.get("frame_shift") or math.nan, custom.get("context_s", math.nan)
        if not abs(context_s / frame_shift_s - row["context_frames"]) < 0.501:  # a nan must not pass
            what = f"{key}: {row['context_frames']} context frames, {names['cuts']} says {context_s} s"
            self.problem(names["windows"], what)

    def _cuts(self, name: str, stream: _Hashing) -> Iterator[dict[str, Any]]:
        try:
            with gzip.GzipFile(fileobj=cast(BinaryIO, stream), mode="rb") as lines:
                for line in lines:
                    cut = json.loads(line)
                    if not isinstance(cut, dict):
                        raise ValueError("a line that is not a cut")
                    yield cut
        except DAMAGE as error:
            raise self._damaged(name, error) from error

    def _arrays(self, name: str, stream: _Hashing) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        """Window id, float16 (frames, dim) or (tracks, frames, dim), manifest; pairs of members in order."""
        try:
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as tar:
                members = iter(tar)
                for member in members:
                    key, dot, kind = member.name.partition(".")
                    if not KEY.fullmatch(key) or dot + kind != ".npy":
                        raise ValueError(f"member {member.name} where <window id>.npy belongs")
                    array = np.load(io.BytesIO(_contents(tar, member)), allow_pickle=False)
                    if array.dtype != np.float16 or array.ndim not in (2, 3) or not np.isfinite(array).all():
                        raise ValueError(
                            f"{member.name}: {array.dtype} {array.shape}, not finite float16 of 2 or 3 axes"
                        )
                    second = next(members, None)
                    if second is None or second.name != f"{key}.json":
                        raise ValueError(f"{member.name} is followed by {second and second.name}, not by {key}.json")
                    yield key, array, json.loads(_contents(tar, second))
        except DAMAGE as error:
            raise self._damaged(name, error) from error

    def _compare_file(self, name: str, stream: _Hashing, commit: ShardCommit) -> None:
        known = commit.files.get(name)
        if known is None:
            self.problem(name, "is not in its commit")
            return
        self._compare(name, "bytes", stream.size_bytes, known["size_bytes"], "its commit")
        if stream.sha256.hexdigest() != known["sha256"]:
            self.problem(name, f"sha256 {stream.sha256.hexdigest()[:12]}..., its commit says {known['sha256'][:12]}...")

    def _compare(self, name: str, what: str, found: Any, said: Any, who: str) -> None:
        if found != said:
            self.problem(name, f"{what} {found}, {who} says {said}")

    def _damaged(self, name: str, error: Exception) -> _DamagedError:
        what = str(error) or type(error).__name__
        return _DamagedError(Problem(f"{self.prefix}/{name}", f"cannot be read to its end: {what}"))

    def _repeated(self) -> None:
        """Windows that stand in two shards: each shard alone is sound, their sum is not."""
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1; CREATE TABLE met (window_id VARCHAR, shard VARCHAR)")
            for key in sorted(key for key in self.keys if re.fullmatch(WINDOWS, key)):
                try:
                    connection.register("shard_windows", self.lake.read(f"{self.prefix}/{key}", ["window_id"]))
                except CorruptFileError:
                    continue  # told with its shard
                connection.execute("INSERT INTO met SELECT window_id, ? FROM shard_windows", [key])
            repeated = "SELECT window_id, list(shard ORDER BY shard) FROM met GROUP BY 1 HAVING count(*) > 1 ORDER BY 1"
            for window_id, shards in connection.execute(repeated).fetchall():
                self.problem(shards[-1], f"{window_id} stands in {' and '.join(shards)}")

    def _selected(self) -> None:
        """Windows that the selection of the dataset keeps are in its shards, and no shard is empty."""
        try:
            selection = self.lake.read_json(f"{self.prefix}/plan.json")["selection"]
        except (FileNotFoundError, CorruptFileError, KeyError):
            return  # nothing says what it should hold; `manifest validate` tells of that
        kept = selection if self.lake.storage.exists(f"selections/{selection}/selection.json") else None
        try:
            found = made(self.lake, self.prefix.removeprefix("datasets/"), kept)
        except (duckdb.Error, CorruptFileError) as error:
            self.problem("plan.json", f"its selection cannot be compared: {str(error).partition(chr(10))[0]}")
            return
        for name, what, note in found.problems(selection):
            self.problems.append(Problem(f"{self.prefix}/{name}", what, note))
        self.problems += [Problem(f"{self.prefix}/windows", note, note=True) for note in found.notes()]


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"member {member.name} is not a file")
    return file.read()


def _group(split: str, custom: dict[str, Any]) -> tuple[Any, ...]:
    return (split, *(custom.get(column) for column in GROUP[1:]))
