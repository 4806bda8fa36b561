"""Subsets of a dataset: which windows of a version are taken, as a file that readers take.

The plainest subset is a prefix of the version's list of shards that is cut at a window; it is cut here, for the reader
too. A subset file is Parquet, a row (SUBSET) for each shard that it takes windows of, with `About` beside the schema.
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
    """What a subset is a part of, and how it was cut."""

    dataset: str
    version: int
    splits: Sequence[str] = ("train",)
    tracks: int | None = None
    """Only windows with that number of tracks; None for all."""
    patch: int = 1
    """Frames a token, at which the budget counts."""
    context: bool = True
    """Whether the tokens of contexts count, beside those of continuations."""
    budget: int | None = None
    """Most tokens, over all tracks; None for all that there are."""
    by: Sequence[str] = ()
    """Columns of the ledger by which it is stratified."""
    shares: Mapping[str, float] | None = None
    """Of each stratum, as a part of all tokens."""
    lake: str = ""
    """Where the dataset lay when the subset was made."""
    shards_sha256: str = ""
    """Of the version's `shards.parquet`: shards that were changed since hold other windows."""

    @property
    def folder(self) -> str:
        """Where the version is described in the lake."""
        return f"datasets/{self.dataset}/versions/{self.version:06d}"


@dataclass(frozen=True)
class Subset:
    """Windows that are taken of a version of a dataset."""

    about: About
    rows: pa.Table
    """SUBSET, in the order of the version's list of shards."""
    next_tokens: int | None = None
    """Tokens of the window that comes next and would exceed the budget; None where all windows are taken."""

    @property
    def tokens(self) -> int:
        """Tokens that it gives, counted as its budget is."""
        return int(shardlist.tokens(self.rows, self.about.patch, self.about.context).sum())

    @cached_property
    def parts(self) -> dict[str, frozenset[str]]:
        """By the names of both files of each shard that is taken in part: the ids of the windows that are taken."""
        cut = self.rows.filter(pc.is_valid(self.rows["ids"])).select(["cuts", "latents", "ids"]).to_pylist()
        taken = {row["latents"]: frozenset(row["ids"]) for row in cut}
        return taken | {row["cuts"]: taken[row["latents"]] for row in cut}

    def fields(self, root: str | None = None) -> dict[str, list[str]]:
        """The files of its shards, as `lhotse.CutSet.from_shar(fields=...)` takes them; 'latents' are WebDataset's.

        `root` is the dataset's folder, or where it is reached; if not given, where it lay when the subset was made.
        """
        root = f"{self.about.lake}/datasets/{self.about.dataset}" if root is None else root.rstrip("/")
        return {name: [f"{root}/{path}" for path in self.rows[name].to_pylist()] for name in ("cuts", "latents")}

    def holds(self, one: Any) -> bool:
        """Whether a sample of WebDataset, or a cut of Lhotse, of a shard of the subset belongs to it."""
        is_sample = isinstance(one, Mapping)
        origin, key = (one["__url__"], one["__key__"]) if is_sample else (one.shard_origin, one.id)
        taken = self.parts.get("/".join(str(origin).split("/")[-2:]))
        return taken is None or key in taken

    def write(self, path: str, config: StorageConfig | None = None) -> None:
        """Write it as a file of Parquet, on a disk or in S3; equal subsets give equal bytes."""
        told = json.dumps(asdict(self.about) | {"next_tokens": self.next_tokens}, sort_keys=True).encode()
        data = write_parquet_bytes(self.rows.replace_schema_metadata({ABOUT: told}))
        if "://" in path:
            storage, name = _place(path, config)
            storage.put(name, data)
        else:  # a storage would make a folder for what it has not finished
            with whole(Path(path)) as unfinished:
                unfinished.write_bytes(data)

    @classmethod
    def read(cls, path: str, config: StorageConfig | None = None) -> Subset:
        """The subset in a file. Raises FileNotFoundError, and CorruptFileError for what is no such file."""
        storage, name = _place(path, config)
        data = storage.read(name)
        rows = parse_parquet(name, data)
        told = (pq.read_schema(pa.BufferReader(data)).metadata or {}).get(ABOUT)
        try:
            if told is None or not rows.schema.equals(schemas.SUBSET):
                raise TypeError(difference(rows.schema, schemas.SUBSET))
            known = json.loads(told)
            next_tokens = known.pop("next_tokens")
            about = About(**known)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CorruptFileError(f"{path} is no file of a subset: {error}", REMEDY) from error
        return cls(replace(about, splits=tuple(about.splits), by=tuple(about.by)), rows, next_tokens)

    def check(self, lake: Lake) -> None:
        """Raise ChoiceError where shards of the version were changed since, FileNotFoundError where it is gone."""
        key = f"{self.about.folder}/shards.parquet"
        if hashlib.sha256(lake.storage.read(key)).hexdigest() != self.about.shards_sha256:
            told = f"{key} in {lake.storage.root} lists other shards or windows than when the subset was made"
            raise ChoiceError(f"{told}: recordings were withdrawn, or it is another dataset", f"{REMEDY} again")


def version_of(lake: Lake, name: str, version: int | None = None) -> int:
    """The number of a version of a dataset, the newest if none is named. FileNotFoundError where there is none."""
    prefix = f"datasets/{name}/"
    keys = (key.removeprefix(prefix) for key in lake.storage.list(f"{prefix}versions"))
    known = sorted(int(found[1]) for found in map(VERSION.fullmatch, keys) if found)
    if not known:
        told = f"no dataset {name} with a version in {lake.storage.root}"
        raise FileNotFoundError(f"{told}: `speechmill datasets list` shows what there is")
    if version is not None and version not in known:
        told = ", ".join(map(str, known))
        raise FileNotFoundError(f"datasets/{name} in {lake.storage.root} has no version {version}, but {told}")
    return known[-1] if version is None else version


def shards_of(lake: Lake, about: About) -> tuple[About, pa.Table]:
    """The shards (SUBSET, all windows taken) that hold what is chosen, in the order of prefixes.

    With them comes `about` and the hash of the list. Raises ChoiceError where nothing is chosen.
    """
    key = f"{about.folder}/shards.parquet"
    data = lake.storage.read(key)
    listed = shardlist.chosen(parse_parquet(key, data), about.splits, about.tracks)
    if not len(listed):
        told = f"no windows of the splits {', '.join(about.splits)}"
        told += f" with {about.tracks} tracks" if about.tracks is not None else ""
        what = f"datasets/{about.dataset}, version {about.version}: {told}"
        raise ChoiceError(f"{what}; look at {about.folder}/README.md", "name a split that it has")
    return replace(about, shards_sha256=hashlib.sha256(data).hexdigest(), lake=lake.storage.root), listed


def windows_of(lake: Lake, about: About, files: ShardFiles, columns: list[str] | None = None) -> pa.Table:
    """The chosen windows (SHARD_WINDOWS, those that were made) of a shard, in its order."""
    key = f"datasets/{about.dataset}/{files.windows}"
    try:
        table = lake.read(key, columns and [*columns, "status", "split", "tracks"])
    except FileNotFoundError as error:
        raise CorruptFileError.of(key, f"missing, though {about.folder}/shards.parquet lists it") from error
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
    """The row (SUBSET) of a shard of which those of its `windows` are taken where `which` is true; empty for none."""
    some = windows.filter(pa.array(which))
    counted = shardlist.count(files, some)
    row = shardlist.chosen(counted, counted["split"].to_pylist())
    if which.all() or not len(row):
        return row
    columns = {"ids": [some["window_id"].to_pylist()], "of_windows": [len(windows)]}
    for name, values in columns.items():
        number = row.schema.get_field_index(name)
        row = row.set_column(number, row.schema.field(name), pa.array(values, row.schema.field(name).type))
    return row


def prefix(lake: Lake, about: About, containing: Subset | None = None) -> Subset:
    """The longest prefix of the list of shards, the last one cut at a window, with at most the tokens of the budget.

    Prefixes are nested: a smaller budget takes a part of what a larger one takes. With `containing`, a subset of the
    same dataset and maybe of an older version, all of that comes first and the list goes on with what it lacks. Reads
    the list of shards and one table of windows. Raises ChoiceError where not even the first window fits.
    """
    about, listed = shards_of(lake, about)
    sizes = shardlist.tokens(listed, about.patch, about.context)
    held, held_tokens = _held(lake, about, listed, containing)
    lacking = sizes.copy()
    lacking[list(held)] -= held_tokens
    if about.budget is None:
        return Subset(about, listed)
    left = about.budget - int(held_tokens.sum())
    if left < 0:
        what = f"the subset to be contained has {held_tokens.sum():,} tokens, the budget is {about.budget:,}"
        raise ChoiceError(what, "ask for a larger budget")
    ends = np.cumsum(lacking)
    whole = int(np.searchsorted(ends, left, side="right"))
    if whole == len(listed):
        return Subset(about, listed)
    files = ShardFiles(listed["folder"][whole].as_py(), listed["shard"][whole].as_py())
    windows = windows_of(lake, about, files)
    if len(windows) != (said := listed["windows"][whole].as_py()):
        told = f"holds {len(windows):,} windows to read, {about.folder}/shards.parquet says {said:,}"
        raise CorruptFileError.of(f"datasets/{about.dataset}/{files.windows}", f"{told}: the shard was changed")
    which = np.zeros(len(windows), bool)
    if whole in held:
        which = pc.is_in(windows["window_id"], value_set=held[whole]["ids"].combine_chunks().flatten()).to_numpy()
    free = np.flatnonzero(~which)
    tokens = window_tokens(windows, about.patch, about.context)[free]
    left -= int(ends[whole - 1]) if whole else 0
    count = int(np.searchsorted(np.cumsum(tokens), left, side="right"))
    which[free[:count]] = True
    rows = [listed.slice(0, whole), taken(files, windows, which)]
    rows += [row for place, row in sorted(held.items()) if place > whole]
    made = Subset(about, pa.concat_tables(rows), int(tokens[count]))
    if not len(made.rows):
        what = f"datasets/{about.dataset}: its first window alone has more than {about.budget:,} tokens"
        raise ChoiceError(what, f"ask for {made.next_tokens:,} tokens or more")
    return made


def _held(
    lake: Lake, about: About, listed: pa.Table, containing: Subset | None
) -> tuple[dict[int, pa.Table], np.ndarray]:
    """The rows of a subset by their places in a list of shards, and their tokens, int64 (rows,)."""
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


def _place(path: str, config: StorageConfig | None) -> tuple[Any, str]:
    """The storage of a folder, and the name of a file in it."""
    folder, slash, name = path.rpartition("/")
    return open_storage(folder or slash or ".", config or default_config()), name
