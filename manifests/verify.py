"""Verify a dataset: recount it from the bytes of its shards, and compare every record of it with that count.

Only the shards are trusted: commits, tables of windows, the ledger and the statistics must all agree with them.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from manifests import shardlist
from manifests.corrupt import CorruptFileError, parse_parquet
from manifests.coverage import coverage
from manifests.lake import Lake
from manifests.ledger import GROUP
from manifests.products import Products
from manifests.recount import Recount, by_version, folders
from manifests.shards import ShardCommit, ShardFiles, dtype_of, folder_of
from manifests.shardstreams import DAMAGE, HashingReader, read_arrays, read_cuts
from manifests.statistics import Statistics, Summing
from manifests.stored import Stored
from manifests.versions import fields, generation, versions

WINDOWS = r"windows/(\w[^/]*)-(\d{6,})\.parquet"
PRODUCTS = WINDOWS.replace("windows", "products", 1)
ARRAY = {"storage_type": "shar", "storage_key": ""}

Progress = Callable[[str, int], None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class DatasetProblem:
    """What is wrong with a file of a dataset; `key` is its key in the lake."""

    key: str
    what: str
    note: bool = False
    """Whether this is only worth knowing, and no fault of the dataset."""

    def __str__(self) -> str:
        return f"{'note: ' * self.note}{self.key}: {self.what}"


class _DamagedError(Exception):
    """A file cannot be read to its end; the count of its shard ends there."""

    def __init__(self, problem: DatasetProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def verify(lake: Lake, dataset: str, progress: Progress | None = None) -> list[DatasetProblem]:
    """Recount `datasets/<dataset>`, and return every problem: of its shards, of ledger and statistics, then notes.

    Each shard is read once, as a stream: memory holds one window and one shard's table of windows. `progress` is
    called with the name and the size in bytes of each shard.
    """
    return _Verifier(lake, f"datasets/{dataset}", progress or (lambda shard, size_bytes: None)).run()


class _Verifier:
    def __init__(self, lake: Lake, prefix: str, progress: Progress) -> None:
        self.lake, self.prefix, self.progress = lake, prefix, progress
        self.problems: list[DatasetProblem] = []
        self.fingerprints: dict[str, str] = {}
        self.uncounted = 0
        """Shards that could not be counted."""
        self.versions = versions(lake, prefix.removeprefix("datasets/"))
        self.history = [version.shards for version in self.versions]
        self.added = [Recount() for _ in self.versions]
        """The recount of the shards that each version adds."""
        self.unfinished = 0
        """Complete shards that belong to no version yet."""

    def problem(self, key: str, what: str) -> None:
        self.problems.append(DatasetProblem(f"{self.prefix}/{key}", what))

    def run(self) -> list[DatasetProblem]:
        self.keys = {key.removeprefix(f"{self.prefix}/") for key in self.lake.storage.list(self.prefix)}
        shards = self._shards()
        if not shards and "plan.json" not in self.keys:  # with a plan, the selection may be empty
            self.problem("commits", "no shard here; check the name of the dataset and the lake")
            return self.problems
        if not self.versions:
            self.problem("versions", "no version is complete yet; run `speechmill encode` again, which finishes it")
        for folder, number in shards:
            before = len(self.problems)
            version = generation(self.history, ShardFiles(folder, number))
            if version is None:
                self.unfinished += not self._missing(ShardFiles(folder, number))
                continue
            try:
                self._shard(folder, number, self.added[version])
            except _DamagedError as error:
                self.problems.insert(before, error.problem)
                self.uncounted += 1
        self._find_repeated_windows()
        if self.uncounted:
            self.problem("ledger.parquet", f"not compared: {self.uncounted} shards could not be counted")
        else:
            self._compare_versions()
        if self.unfinished:
            what = f"{self.unfinished:,} shards belong to no version yet; run `speechmill encode` again to continue"
            self.problems.append(DatasetProblem(f"{self.prefix}/versions", what, note=True))
        self._compare_selection()
        return self.problems

    def _compare_versions(self) -> None:
        """Compare the ledger, the statistics and the lists of shards of each version with the recount."""
        for index, whole in enumerate(by_version(self.added)):
            for folder in folders(self.versions, index):
                encoder, listed = self.fingerprints.get("encoder"), fields(self.history[: index + 1])
                for name, what in whole.differences(self.lake, self.prefix, folder, encoder, listed):
                    self.problem(name, what)

    def _shards(self) -> list[tuple[str, int]]:
        """List the shards that any file names, with gaps in their numbers, and report files that belong to none."""
        last: dict[str, int] = {}
        patterns = (
            r"commits/(\w[^/]*)/(\d{6,})\.json",
            WINDOWS,
            PRODUCTS,
            r"(\w[^/]*)/cuts\.(\d{6,})\.jsonl\.gz",
            r"(\w[^/]*)/latents\.(\d{6,})\.tar",
        )
        for key in sorted(self.keys):
            match = next((match for pattern in patterns if (match := re.fullmatch(pattern, key))), None)
            if match:
                last[match[1]] = max(last.get(match[1], 0), int(match[2]))
            elif "/" in key and not key.startswith("versions/"):
                self.problem(
                    key, "does not belong here: readers would take it for a part of the dataset; move it elsewhere"
                )
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
            streams = {"cuts": HashingReader(cuts), "tar": HashingReader(tar)}
            try:
                self._windows(names, streams, rows, commit, recount)
            finally:
                for which, stream in streams.items():
                    stream.drain()
                    self._compare_file(names[which], stream, commit)
        self.progress(f"{folder}/{number:06d}", sum(stream.size_bytes for stream in streams.values()))

    def _missing(self, files: ShardFiles) -> bool:
        """Report the missing files of a shard; whether there are any."""
        missing = [name for name in (files.commit, *files.parts) if name not in self.keys]
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
            self.problem(name, f"was made by {commit.fingerprints}, but the first shard by {self.fingerprints}")
        return commit

    def _rows(self, name: str, commit: ShardCommit, recount: Recount) -> list[dict[str, Any]]:
        """Read the table of windows, and return the rows of those that were encoded, in their order."""
        table = self._table(name, commit)
        rows = table.to_pylist()
        for row in rows:
            if (row["folder"], row["shard"]) != (commit.folder, commit.shard):
                self.problem(name, f"window {row['window_id']} belongs to {row['folder']}/{row['shard']:06d}")
            if row["folder"] != folder_of(row["split"], row["tracks"]):
                what = f"window {row['window_id']} of {row['split']} with {row['tracks']} tracks is in {row['folder']}"
                self.problem(name, what)
        recount.shards.append(shardlist.count(ShardFiles(commit.folder, commit.shard), table))
        encoded = [row for row in rows if row["status"] == "ok"]
        self._compare(name, "windows that failed", len(rows) - len(encoded), commit.failed, "the commit")
        return encoded

    def _table(self, name: str, commit: ShardCommit) -> pa.Table:
        """Read a Parquet file of a shard, and compare its bytes with the commit."""
        data = HashingReader(io.BytesIO(self.lake.storage.read(f"{self.prefix}/{name}")))
        try:
            table = parse_parquet(f"{self.prefix}/{name}", data.read())
        except CorruptFileError as error:
            raise self._damaged(name, error) from error
        self._compare_file(name, data, commit)
        return table

    def _windows(
        self,
        names: dict[str, str],
        streams: dict[str, HashingReader],
        rows: list[dict[str, Any]],
        commit: ShardCommit,
        recount: Recount,
    ) -> None:
        summing, windows, frames, dtype = Summing(), 0, 0, dtype_of(commit.fingerprints)
        cuts = self._read(names["cuts"], read_cuts(streams["cuts"]))
        arrays = self._read(names["tar"], read_arrays(streams["tar"]))
        for cut, member, row in zip_longest(cuts, arrays, rows):
            ids = {
                names["cuts"]: cut and cut.get("id"),
                names["tar"]: member and member[0],
                names["windows"]: row and row["window_id"],
            }
            if len(set(ids.values())) > 1:
                each = ", ".join(f"{name.rsplit('/', 1)[1]} has {key or 'no more'}" for name, key in ids.items())
                what = ValueError(f"the files of the shard differ in window {windows}: {each}")
                raise self._damaged(names["tar"], what)
            _, stored, manifest = member
            self._compare(names["tar"], f"{row['window_id']}: dtype", stored.array.dtype.name, dtype, "its commit")
            self._window(names, cut, stored, manifest, row)
            tracks, frames_each, _ = stored.shape
            windows, frames = windows + 1, frames + tracks * frames_each
            summing.add(stored)
            recount.add(_group(row["split"], cut.get("custom") or {}), row, tracks)
        self._compare(names["commit"], "windows", commit.windows, windows, "its shard")
        self._compare(names["commit"], "frames", commit.frames, frames, "its shard")
        self._compare_statistics(ShardFiles(commit.folder, commit.shard), commit, summing.statistics(), recount)

    def _compare_statistics(
        self, files: ShardFiles, commit: ShardCommit, counted: Statistics, recount: Recount
    ) -> None:
        """Compare the statistics in the commit and the file of products with those of the recount."""
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

    def _window(
        self,
        names: dict[str, str],
        cut: dict[str, Any],
        stored: Stored,
        manifest: dict[str, Any],
        row: dict[str, Any],
    ) -> None:
        """Check one window: its manifest against its array, its array against the table, and its cut against both."""
        key, array = row["window_id"], stored.array
        if (problem := stored.problem()) is not None:
            self.problem(names["tar"], f"{key}: {problem}")
        of_array = ARRAY | {"storage_path": stored.text, "shape": list(array.shape)}
        expected = {"array": of_array, "temporal_dim": array.ndim - 2}
        expected |= {"frame_shift": manifest.get("frame_shift"), "start": cut.get("start")}
        if manifest != expected:
            self.problem(names["tar"], f"{key}.json is {manifest}, but its array and its cut say {expected}")
        tracks = 1 if array.ndim == 2 else array.shape[0]
        table = f"{names['windows']} for {key}"
        self._compare(names["tar"], f"{key}: tracks", tracks, row["tracks"], table)
        counted = row["context_frames"] + row["continuation_frames"]
        self._compare(names["tar"], f"{key}: frames per track", array.shape[-2], counted, table)
        channels = (cut.get("recording") or {}).get("channel_ids") or []
        kind, channel = cut.get("type"), cut.get("channel")
        if (kind, channel) != ("MultiCut", list(range(tracks))) and not (
            kind == "MonoCut" and tracks == 1 and channel in channels
        ):
            what = f"{key}: a {kind} of channel {channel}, with {tracks} tracks of channels {channels}"
            self.problem(names["cuts"], what)
        custom = cut.get("custom") or {}
        in_cut = {name: cut.get(name.removesuffix("_s")) for name in ("start_s", "duration_s")}
        in_cut |= {name: custom.get(name) for name in ("split", "language", "num_speakers", "source", "licence")}
        labels = custom.get("labels")
        in_cut["labels"] = labels and [{"key": key, "value": value} for key, value in labels.items()]
        in_cut["recording_id"] = (cut.get("recording") or {}).get("id")
        supervisions = [(round(item["start"], 6), item.get("speaker")) for item in cut.get("supervisions") or []]
        turns = [turn for turn in row["turns"] or [] if turn["end_s"] > turn["start_s"]]
        starts = [(round(turn["start_s"], 6), turn["speaker"]) for turn in turns]
        self._compare(names["cuts"], f"{key}: turns", supervisions, starts, table)
        for name, value in in_cut.items():
            self._compare(names["cuts"], f"{key}: {name}", value, row[name], table)
        frame_shift_s, context_s = manifest.get("frame_shift") or math.nan, custom.get("context_s", math.nan)
        if not abs(context_s / frame_shift_s - row["context_frames"]) < 0.501:  # a nan must not pass
            what = f"{key}: {row['context_frames']} context frames, but {names['cuts']} says {context_s} s"
            self.problem(names["windows"], what)

    def _read(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items of a file; _DamagedError where it is damaged."""
        try:
            yield from items
        except DAMAGE as error:
            raise self._damaged(name, error) from error

    def _compare_file(self, name: str, stream: HashingReader, commit: ShardCommit) -> None:
        recorded = commit.files.get(name)
        if recorded is None:
            self.problem(name, "is not in its commit")
            return
        self._compare(name, "bytes", stream.size_bytes, recorded["size_bytes"], "its commit")
        if stream.sha256.hexdigest() != recorded["sha256"]:
            self.problem(
                name, f"sha256 {stream.sha256.hexdigest()[:12]}..., but its commit says {recorded['sha256'][:12]}..."
            )

    def _compare(self, name: str, what: str, counted: Any, stated: Any, where: str) -> None:
        """Report a value that differs from what another file states."""
        if counted != stated:
            self.problem(name, f"{what} {counted}, but {where} says {stated}")

    def _damaged(self, name: str, error: Exception) -> _DamagedError:
        what = str(error) or type(error).__name__
        return _DamagedError(DatasetProblem(f"{self.prefix}/{name}", f"cannot be read to its end: {what}"))

    def _find_repeated_windows(self) -> None:
        """Report windows that are in two shards, which no shard shows by itself."""
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1; CREATE TABLE seen (window_id VARCHAR, shard VARCHAR)")
            for key in sorted(key for key in self.keys if re.fullmatch(WINDOWS, key)):
                try:
                    connection.register("shard_windows", self.lake.read(f"{self.prefix}/{key}", ["window_id"]))
                except CorruptFileError:
                    continue  # reported with its shard
                connection.execute("INSERT INTO seen SELECT window_id, ? FROM shard_windows", [key])
            repeated = (
                "SELECT window_id, list(shard ORDER BY shard) FROM seen GROUP BY 1 HAVING count(*) > 1 ORDER BY 1"
            )
            for window_id, shards in connection.execute(repeated).fetchall():
                self.problem(shards[-1], f"{window_id} is in {' and '.join(shards)}")

    def _compare_selection(self) -> None:
        """Report windows that the selection keeps and no shard holds, and shards without any window."""
        try:
            selection = self.lake.read_json(f"{self.prefix}/plan.json")["selection"]
        except (FileNotFoundError, CorruptFileError, KeyError):
            return  # without a plan no selection is known; `manifest validate` reports that
        kept = selection if self.lake.storage.exists(f"selections/{selection}/selection.json") else None
        try:
            content = coverage(self.lake, self.prefix.removeprefix("datasets/"), kept)
        except (duckdb.Error, CorruptFileError) as error:
            self.problem("plan.json", f"its selection cannot be compared: {str(error).partition(chr(10))[0]}")
            return
        for name, what, note in content.problems(selection):
            self.problems.append(DatasetProblem(f"{self.prefix}/{name}", what, note))
        self.problems += [DatasetProblem(f"{self.prefix}/windows", note, note=True) for note in content.notes()]


def _group(split: str, custom: dict[str, Any]) -> tuple[Any, ...]:
    return (split, *(custom.get(column) for column in GROUP[1:]))
