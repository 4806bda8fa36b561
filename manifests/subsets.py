"""Subsets of a dataset: a file that says which windows of a version a reader takes.

The simplest subset is a prefix of the version's list of shards, cut at a window; `prefix` cuts it, also for the reader.
A subset file is Parquet with a row of SUBSET for each shard of which it takes windows, and `About` in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests import schemas, shardlist
from manifests.choice import ChoiceError
from manifests.corrupt import CorruptFileError, difference, parse_parquet
from manifests.lake import Lake
from manifests.shards import ShardFiles
from manifests.storage import StorageConfig, default_config, open_storage
from manifests.tables import write_parquet_bytes
from manifests.versions import VERSION
from manifests.whole import whole

ABOUT = b"speechmill.subset"
REMEDY = "make it with `speechmill study subset`"


@dataclass(frozen=True)
class About:
    """The version of a dataset that a subset belongs to, and how the subset was cut."""

    dataset: str
    version: int
    splits: Sequence[str] = ("train",)
    tracks: int | None = None
    """Only windows with this number of tracks; None for all."""
    patch: int = 1
    """Frames per token, with which the budget is counted."""
    context: bool = True
    """Whether the tokens of contexts count, in addition to those of continuations."""
    budget: int | None = None
    """Largest number of tokens, over all tracks; None for no limit."""
    by: Sequence[str] = ()
    """Columns of the ledger by which the subset is stratified."""
    shares: Mapping[str, float] | None = None
    """The share of all tokens that each stratum has."""
    lake: str = ""
    """The lake that held the dataset when the subset was made."""
    shards_sha256: str = ""
    """Hash of the version's `shards.parquet`, which shows whether shards have changed since."""

    @property
    def folder(self) -> str:
        """The folder of the version in the lake."""
        return f"datasets/{self.dataset}/versions/{self.version:06d}"


@dataclass(frozen=True)
class Subset:
    """A subset of the windows of a version of a dataset."""

    about: About
    rows: pa.Table
    """Rows of SUBSET, in the order of the version's list of shards."""
    next_tokens: int | None = None
    """Tokens of the next window, which would exceed the budget; None if all windows are taken."""

    @property
    def tokens(self) -> int:
        """The number of its tokens, counted as its budget is."""
        return int(shardlist.tokens(self.rows, self.about.patch, self.about.context).sum())

    @cached_property
    def parts(self) -> dict[str, frozenset[str]]:
        """For each shard that is taken in part, by the names of its files: the ids of the windows that are taken."""
        partial = self.rows.filter(pc.is_valid(self.rows["ids"])).select(["cuts", "latents", "ids"]).to_pylist()
        taken = {row["latents"]: frozenset(row["ids"]) for row in partial}
        return taken | {row["cuts"]: taken[row["latents"]] for row in partial}

    def fields(self, root: str | None = None) -> dict[str, list[str]]:
        """The files of its shards, as `lhotse.CutSet.from_shar(fields=...)` takes them; WebDataset reads 'latents'.

        Args:
            root: The folder or address of the dataset. By default it is where the dataset was when the subset was made.
        """
        root = f"{self.about.lake}/datasets/{self.about.dataset}" if root is None else root.rstrip("/")
        return {name: [f"{root}/{path}" for path in self.rows[name].to_pylist()] for name in ("cuts", "latents")}

    def holds(self, item: Any) -> bool:
        """Whether the subset has an item of one of its shards: a sample of WebDataset or a cut of Lhotse."""
        is_sample = isinstance(item, Mapping)
        origin, key = (item["__url__"], item["__key__"]) if is_sample else (item.shard_origin, item.id)
        taken = self.parts.get("/".join(str(origin).split("/")[-2:]))
        return taken is None or key in taken

    def write(self, path: str, config: StorageConfig | None = None) -> None:
        """Write a Parquet file on a disk or in S3. Equal subsets give equal bytes."""
        about = json.dumps(asdict(self.about) | {"next_tokens": self.next_tokens}, sort_keys=True).encode()
        data = write_parquet_bytes(self.rows.replace_schema_metadata({ABOUT: about}))
        if "://" in path:
            storage, name = _folder_and_name(path, config)
            storage.put(name, data)
        else:  # a storage would make a folder there for unfinished files
            with whole(Path(path)) as unfinished:
                unfinished.write_bytes(data)

    @classmethod
    def read(cls, path: str, config: StorageConfig | None = None) -> Subset:
        """Read a subset file. Raises FileNotFoundError, and CorruptFileError for any other file."""
        storage, name = _folder_and_name(path, config)
        data = storage.read(name)
        rows = parse_parquet(name, data)
        stored = (pq.read_schema(pa.BufferReader(data)).metadata or {}).get(ABOUT)
        try:
            if stored is None or not rows.schema.equals(schemas.SUBSET):
                raise TypeError(difference(rows.schema, schemas.SUBSET))
            values = json.loads(stored)
            next_tokens = values.pop("next_tokens")
            about = About(**values)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CorruptFileError(f"{path} is no subset file: {error}", REMEDY) from error
        return cls(replace(about, splits=tuple(about.splits), by=tuple(about.by)), rows, next_tokens)

    def check(self, lake: Lake) -> None:
        """Raise ChoiceError if shards of the version have changed since, and FileNotFoundError if it is missing."""
        key = f"{self.about.folder}/shards.parquet"
        if hashlib.sha256(lake.storage.read(key)).hexdigest() != self.about.shards_sha256:
            what = f"{key} in {lake.storage.root} lists other shards or windows than when the subset was made"
            raise ChoiceError(f"{what}: recordings were withdrawn, or it is another dataset", f"{REMEDY} again")


def version_of(lake: Lake, name: str, version: int | None = None) -> int:
    """The number of a version of a dataset, by default of the newest. Raises FileNotFoundError if there is none."""
    prefix = f"datasets/{name}/"
    keys = (key.removeprefix(prefix) for key in lake.storage.list(f"{prefix}versions"))
    numbers = sorted(int(match[1]) for match in map(VERSION.fullmatch, keys) if match)
    if not numbers:
        what = f"no dataset {name} with a version in {lake.storage.root}"
        raise FileNotFoundError(f"{what}: `speechmill datasets list` lists the datasets")
    if version is not None and version not in numbers:
        existing = ", ".join(map(str, numbers))
        raise FileNotFoundError(f"datasets/{name} in {lake.storage.root} has no version {version}, but {existing}")
    return numbers[-1] if version is None else version


def shards_of(lake: Lake, about: About) -> tuple[About, pa.Table]:
    """The shards with windows of the chosen splits and tracks.

    Returns:
        `about` with the hash of the list of shards, and rows of SUBSET that take all windows, in the order of the list.

    Raises:
        ChoiceError: No window is chosen.
    """
    key = f"{about.folder}/shards.parquet"
    data = lake.storage.read(key)
    listed = shardlist.chosen(parse_parquet(key, data), about.splits, about.tracks)
    if not len(listed):
        problem = f"no windows of the splits {', '.join(about.splits)}"
        problem += f" with {about.tracks} tracks" if about.tracks is not None else ""
        what = f"datasets/{about.dataset}, version {about.version}: {problem}"
        raise ChoiceError(f"{what}; look at {about.folder}/README.md", "name a split that it has")
    return replace(about, shards_sha256=hashlib.sha256(data).hexdigest(), lake=lake.storage.root), listed


def windows_of(lake: Lake, about: About, files: ShardFiles, columns: list[str] | None = None) -> pa.Table:
    """The chosen windows of a shard (SHARD_WINDOWS) that were encoded, in its order."""
    key = f"datasets/{about.dataset}/{files.windows}"
    try:
        table = lake.read(key, columns and [*columns, "status", "split", "tracks"])
    except FileNotFoundError as error:
        raise CorruptFileError.of(key, f"missing, although {about.folder}/shards.parquet lists it") from error
    mask = pc.and_(pc.equal(table["status"], "ok"), pc.is_in(table["split"], pa.array(about.splits, pa.string())))
    if about.tracks is not None:
        mask = pc.and_(mask, pc.equal(table["tracks"], about.tracks))
    return table.filter(mask)


def window_tokens(windows: pa.Table, patch: int, context: bool = True) -> np.ndarray:
    """Tokens of each window (SHARD_WINDOWS) over all tracks, int64 (windows,): floor(frames / patch) of each part."""
    per_track = windows["continuation_frames"].to_numpy() // patch
    if context:
        per_track = per_track + windows["context_frames"].to_numpy() // patch
    return np.asarray(per_track * windows["tracks"].to_numpy(), np.int64)


def taken(files: ShardFiles, windows: pa.Table, which: np.ndarray) -> pa.Table:
    """The row of SUBSET that takes the `windows` of a shard for which `which` is true; no row if there are none."""
    selected = windows.filter(pa.array(which))
    counted = shardlist.count(files, selected)
    row = shardlist.chosen(counted, counted["split"].to_pylist())
    if which.all() or not len(row):
        return row
    columns = {"ids": [selected["window_id"].to_pylist()], "of_windows": [len(windows)]}
    for name, values in columns.items():
        number = row.schema.get_field_index(name)
        row = row.set_column(number, row.schema.field(name), pa.array(values, row.schema.field(name).type))
    return row


def prefix(lake: Lake, about: About, containing: Subset | None = None) -> Subset:
    """The longest prefix of the list of shards that fits the budget; its last shard is cut at a window.

    Prefixes are nested: that of a smaller budget is part of that of a larger one. Only the list of shards and one table
    of windows are read.

    Args:
        lake: The lake of the dataset.
        about: What is chosen, and the budget.
        containing: A subset of the same dataset, maybe of an older version, that the result must contain. The rest of
            the budget is filled with the other windows in the order of the list.

    Raises:
        ChoiceError: Not even the first window fits, or `containing` does not fit the budget or the choice.
    """
    about, listed = shards_of(lake, about)
    sizes = shardlist.tokens(listed, about.patch, about.context)
    contained, contained_tokens = _places(lake, about, listed, containing)
    lacking = sizes.copy()
    lacking[list(contained)] -= contained_tokens
    if about.budget is None:
        return Subset(about, listed)
    left = about.budget - int(contained_tokens.sum())
    if left < 0:
        what = f"the subset to be contained has {contained_tokens.sum():,} tokens, but the budget is {about.budget:,}"
        raise ChoiceError(what, "ask for a larger budget")
    ends = np.cumsum(lacking)
    whole = int(np.searchsorted(ends, left, side="right"))
    if whole == len(listed):
        return Subset(about, listed)
    files = ShardFiles(listed["folder"][whole].as_py(), listed["shard"][whole].as_py())
    windows = windows_of(lake, about, files)
    if len(windows) != (stated := listed["windows"][whole].as_py()):
        what = f"holds {len(windows):,} windows to read, but {about.folder}/shards.parquet says {stated:,}"
        raise CorruptFileError.of(f"datasets/{about.dataset}/{files.windows}", f"{what}: the shard was changed")
    which = np.zeros(len(windows), bool)
    if whole in contained:
        which = pc.is_in(windows["window_id"], value_set=contained[whole]["ids"].combine_chunks().flatten()).to_numpy()
    free = np.flatnonzero(~which)
    tokens = window_tokens(windows, about.patch, about.context)[free]
    left -= int(ends[whole - 1]) if whole else 0
    count = int(np.searchsorted(np.cumsum(tokens), left, side="right"))
    which[free[:count]] = True
    rows = [listed.slice(0, whole), taken(files, windows, which)]
    rows += [row for place, row in sorted(contained.items()) if place > whole]
    subset = Subset(about, pa.concat_tables(rows), int(tokens[count]))
    if not len(subset.rows):
        what = f"datasets/{about.dataset}: its first window alone has more than {about.budget:,} tokens"
        raise ChoiceError(what, f"ask for {subset.next_tokens:,} tokens or more")
    return subset


def _places(
    lake: Lake, about: About, listed: pa.Table, containing: Subset | None
) -> tuple[dict[int, pa.Table], np.ndarray]:
    """The rows of the contained subset by their indices in the list of shards, and their tokens, int64 (rows,)."""
    if containing is None:
        return {}, np.zeros(0, np.int64)
    old = containing.about
    kind = (old.dataset, tuple(old.splits), old.tracks)
    if kind != (about.dataset, tuple(about.splits), about.tracks) or old.version > about.version:
        what = f"the subset to be contained is of {old.folder}, splits {', '.join(old.splits)}, tracks {old.tracks}"
        raise ChoiceError(what, "name the same dataset, splits and tracks, and its version or a newer one")
    containing.check(lake)
    places = pc.index_in(containing.rows["latents"], value_set=listed["latents"].combine_chunks()).to_pylist()
    rows = {place: containing.rows.slice(number, 1) for number, place in enumerate(places)}
    return rows, shardlist.tokens(containing.rows, about.patch, about.context)


def _folder_and_name(path: str, config: StorageConfig | None) -> tuple[Any, str]:
    """The storage of the folder of a file, and the name of the file in it."""
    folder, slash, name = path.rpartition("/")
    return open_storage(folder or slash or ".", config or default_config()), name
