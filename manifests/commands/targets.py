"""The target of a command: a lake, a stage, selection or dataset of it, a Parquet file, or a foreign manifest."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import duckdb

from manifests.choice import Choice, ChoiceError, choose, folders
from manifests.corrupt import opened
from manifests.existing import did_you_mean
from manifests.lake import Lake
from manifests.views import connect, lock, open_views, parquet, root_of

REMEDY = "name a lake, a folder in one, a Parquet file or a manifest"
HOLDERS = {"selections": "windows", "datasets": "shard_windows", "annotations": "", "recordings": "recordings"}


@dataclass(frozen=True)
class Target:
    """A target with its default `view`. `lake` is None, and `choice` empty, where the target is a file."""

    name: str
    view: str
    lake: Lake | None = None
    choice: Choice = field(default_factory=Choice)
    file: str | None = None

    @property
    def described(self) -> dict[str, Any] | None:
        """The choice as JSON shows it; None where there is no lake."""
        return self.choice.as_dict() if self.lake else None

    @property
    def views(self) -> tuple[str, ...]:
        """The views that `stats` summarises unless a view is named."""
        foreign = self.file is not None and not self.file.endswith(".parquet")
        return ("recordings", "segments", "windows") if foreign else (self.view,)

    def connect(
        self, parts: Iterable[str] | None = None, numbers: Sequence[str] | None = None
    ) -> duckdb.DuckDBPyConnection:
        """Open a connection to its views. For a lake, `parts` and `numbers` limit it as in `open_views`."""
        if self.file is None:
            assert self.lake is not None
            return open_views(self.lake, self.choice, parts, numbers)
        if not self.file.endswith(".parquet"):
            return _foreign(self.file)
        folder, _, name = self.file.rpartition("/")
        connection = connect()
        lake = Lake.at(folder or ".")
        opened(partial(lake.read, name))
        root = root_of(connection, lake)
        pattern = glob.escape(root + name)
        connection.execute(f"CREATE VIEW data AS FROM {parquet([pattern])}")
        lock(connection, [root, glob.escape(root)])
        return connection


def resolve(
    name: str,
    selection: str | None = None,
    dataset: str | None = None,
    stages: Mapping[str, str] | None = None,
) -> Target:
    """The target called `name`, with the chosen selection, dataset and results of stages.

    Raises ChoiceError where there is no such target, or where the lake lacks what is chosen.
    """
    path = name.rstrip("/") or name
    named = selection or dataset or stages
    if "://" not in path and not os.path.exists(path):
        raise ChoiceError(f"there is no {name}", did_you_mean(Lake.at(path), path) + REMEDY)
    if path.endswith(".parquet"):
        _no_choice(name, named)
        return Target(path, "data", file=path)
    local = path if "://" in path else os.path.abspath(path)
    parent, _, last = local.rpartition("/")
    root, _, holder = parent.rpartition("/")
    if last == "recordings" and _is_lake(parent):
        lake = Lake.at(parent)
        return Target(name, "recordings", lake, choose(lake, selection, dataset, stages))
    if holder in HOLDERS and _is_lake(root):
        lake, view = Lake.at(root), HOLDERS[holder]
        if holder == "annotations":
            view, _, fingerprint = last.rpartition("-")
            stages = {**(stages or {}), view: fingerprint}
        elif holder == "selections":
            selection = _same("selection", last, selection)
        else:
            dataset = _same("dataset", last, dataset)
        return Target(name, view, lake, choose(lake, selection, dataset, stages))
    if _is_lake(local):
        lake = Lake.at(local)
        return Target(name, "recordings", lake, choose(lake, selection, dataset, stages))
    if "://" not in path and (os.path.isfile(path) or os.listdir(path)):
        _no_choice(name, named)
        return Target(name, "recordings", file=path)
    raise ChoiceError(f"{name} holds no recordings/", did_you_mean(Lake.at(path), path) + REMEDY)


def lake_of(name: str) -> Lake:
    """The lake called `name`. Raises ChoiceError where there is none."""
    path = name.rstrip("/") or name
    if not _is_lake(path):
        raise ChoiceError(f"there is no lake {name}", "name the folder, or s3://bucket/prefix, that holds recordings/")
    return Lake.at(path if "://" in path else os.path.abspath(path))


def _no_choice(name: str, named: object) -> None:
    if named:
        what = f"{name} is not a lake: it has no selections, datasets and stages to choose from"
        raise ChoiceError(what, "leave out --selection, --dataset and --stage")


def _same(what: str, last: str, named: str | None) -> str:
    """The selection or dataset that a path ends in. Raises ChoiceError where an option names another one."""
    if named not in (None, last):
        raise ChoiceError(f"the {what} {last} is named by the path and {named} by --{what}", "name one of them")
    return last


def _is_lake(root: str) -> bool:
    if "://" not in root and not os.path.isdir(root):
        return False
    return "recordings" in folders(Lake.at(root), "")


def _foreign(path: str) -> duckdb.DuckDBPyConnection:
    """A connection with the recordings, segments and windows of a foreign manifest (Lhotse, NeMo, RTTM, ...) loaded."""
    from manifests.exchange.foreign.load import load

    connection = connect()
    load(connection, [path])
    lock(connection, [])
    return connection
