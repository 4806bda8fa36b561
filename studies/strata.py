"""Stratified subsets: a budget of tokens in which each language, number of speakers or source has a given share.

The windows of each stratum keep the order of the dataset's list of shards. The strata are merged into one sequence in
which each has its share in every prefix. A subset is a prefix of that sequence, so smaller subsets are parts of larger
ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.choice import ChoiceError
from manifests.lake import Lake
from manifests.ledger import GROUP
from manifests.shards import ShardFiles
from manifests.subsets import About, Subset, shards_of, taken, window_tokens, windows_of

BY = GROUP[1:]
UNKNOWN = "unknown"
"""The name of null values."""
NEEDED = ["context_frames", "continuation_frames"]


@dataclass(frozen=True)
class Stratum:
    """One stratum of a subset."""

    name: str
    """Its values, joined by '/' if there are several columns."""
    share: float
    """Intended share of the tokens of the subset."""
    held: int
    """Tokens of the stratum in the dataset."""
    windows: int = 0
    """Windows of the stratum in the subset."""
    tokens: int = 0
    """Tokens of the stratum in the subset."""


class _Windows(NamedTuple):
    """Windows in the order of the list of shards: int arrays (windows,)."""

    shard: np.ndarray
    """Index of the shard in the list."""
    number: np.ndarray
    """Index of the window in the shard."""
    stratum: np.ndarray
    """Index of the stratum; -1 if it is not in the subset."""
    tokens: np.ndarray


def stratified(lake: Lake, about: About, weights: Mapping[str, float] | None = None) -> tuple[Subset, list[Stratum]]:
    """Select a subset of `about.budget` tokens in which each stratum of `about.by` has its share.

    The subset has at most the tokens of the budget, and falls short by less than one window. A stratum differs from its
    share by about a window. Window tables of shards are read in order until the budget is met.

    Args:
        lake: The lake that holds the dataset.
        about: What to select. Without a budget, the subset is as large as the shares allow.
        weights: Proportions of the strata by name, 0 or more; others are left out. By default, strata have the shares
            of the whole split.

    Returns:
        The subset, and its strata.

    Raises:
        ChoiceError: A stratum is unknown or has too few tokens, or the budget is smaller than the first window.
    """
    about, listed = shards_of(lake, about)
    held = _tokens_held(lake, about, weights or {})
    share_of, budget = _shares_and_budget(about, held, held if weights is None else weights)
    about = replace(about, budget=budget, shares=share_of)
    names, shares = list(share_of), np.array(list(share_of.values()))
    windows = _read(lake, about, listed, names, shares)
    merged = _merge(windows, shares)
    ends = np.cumsum(windows.tokens[merged])
    count = int(np.searchsorted(ends, budget, side="right"))
    if not count:
        what = f"the first window alone has {windows.tokens[merged[0]]:,} tokens, the budget is {budget:,}"
        raise ChoiceError(what, "use a larger budget")
    next_tokens = int(windows.tokens[merged[count]]) if count < len(merged) else None
    chosen = np.sort(merged[:count])
    of_stratum = windows.stratum[chosen]
    counts = np.bincount(of_stratum, minlength=len(names))
    tokens = [int(windows.tokens[chosen[of_stratum == number]].sum()) for number in range(len(names))]
    strata = [
        Stratum(name, share, held[name], int(count), selected)
        for (name, share), count, selected in zip(share_of.items(), counts, tokens, strict=True)
    ]
    strata += [Stratum(name, 0.0, tokens_held) for name, tokens_held in held.items() if name not in share_of]
    rows = pa.concat_tables(_rows(lake, about, listed, windows.shard[chosen], windows.number[chosen]))
    return Subset(about, rows, next_tokens), strata


def _shares_and_budget(
    about: About, held: Mapping[str, int], weights: Mapping[str, float]
) -> tuple[dict[str, float], int]:
    """Return the share of each stratum with a weight, and the budget. ChoiceError if a stratum has too few tokens."""
    share_of = {name: weights[name] / sum(weights.values()) for name in held if weights.get(name)}
    if not share_of:
        raise ChoiceError("no stratum has a weight above 0", f"choose from: {', '.join(held)}")
    most = int(min(held[name] / share for name, share in share_of.items()) + 1e-6)
    budget = most if about.budget is None else about.budget
    if budget > most:
        scarce = min(share_of, key=lambda name: held[name] / share_of[name])
        what = f"{budget * share_of[scarce]:,.0f} tokens of {scarce} are needed, and there are {held[scarce]:,}"
        raise ChoiceError(what, f"use a budget of {most:,} or less, or give {scarce} a smaller weight")
    return share_of, budget


def _tokens_held(lake: Lake, about: About, weights: Mapping[str, float]) -> dict[str, int]:
    """Return the tokens of each stratum in the selected splits, from the ledger, largest first.

    ChoiceError if a name in `weights` is unknown.
    """
    if about.tracks is not None:
        raise ChoiceError("the ledger does not count strata by number of tracks", "leave out tracks or by")
    ledger = lake.read(f"{about.folder}/ledger.parquet")
    rows = ledger.filter(
        pc.and_(pc.equal(ledger["patch"], about.patch), pc.is_in(ledger["split"], pa.array(about.splits, pa.string())))
    )
    tokens_of_row = rows["continuation_tokens"].to_numpy() + (rows["context_tokens"].to_numpy() if about.context else 0)
    held: dict[str, int] = {}
    for name, tokens in zip(_names(rows, about.by).to_pylist(), tokens_of_row.tolist(), strict=True):
        held[name] = held.get(name, 0) + tokens
    held = dict(sorted(held.items(), key=lambda item: (-item[1], item[0])))
    if unknown := [name for name in weights if name not in held]:
        raise ChoiceError(f"no tokens of {', '.join(unknown)}", f"choose from: {', '.join(held)}")
    return held


def _names(rows: pa.Table, by: Sequence[str]) -> pa.ChunkedArray:
    """Return the name of the stratum of each row."""
    parts = [pc.coalesce(rows[column].cast(pa.string()), UNKNOWN) for column in by]
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "/")


def _read(lake: Lake, about: About, listed: pa.Table, names: Sequence[str], shares: np.ndarray) -> _Windows:
    """Read the windows of the first shards, as many as are needed to know the prefix that meets the budget."""
    parts_read: list[_Windows] = []
    tokens_read = np.zeros(len(names), np.int64)
    longest = 0
    folders, numbers = (listed[name].to_pylist() for name in ("folder", "shard"))
    files = [ShardFiles(folder, number) for folder, number in zip(folders, numbers, strict=True)]

    def read(shard_files: ShardFiles) -> pa.Table:
        return windows_of(lake, about, shard_files, [*NEEDED, *about.by])

    budget = about.budget or 0
    for place, table in enumerate(lake.prefetch(read, files)):
        stratum = pc.fill_null(pc.index_in(_names(table, about.by), pa.array(names)), -1).to_numpy().astype(np.int32)
        tokens = window_tokens(table, about.patch, about.context).astype(np.int32)
        shard = np.full(len(table), place, np.int32)
        parts_read.append(_Windows(shard, np.arange(len(table), dtype=np.int32), stratum, tokens))
        selected = stratum >= 0
        tokens_read += np.bincount(stratum[selected], tokens[selected], len(names)).astype(np.int64)
        longest = max(longest, int(tokens.max(initial=0)))
        # In the merged sequence, windows that are not read yet come after position min(tokens_read / shares), and each
        # stratum is complete before that position to within a window.
        if (tokens_read / shares).min() >= budget + longest * (len(names) + 1):
            break
    return _Windows(*(np.concatenate(parts) for parts in zip(*parts_read, strict=True)))


def _merge(windows: _Windows, shares: np.ndarray) -> np.ndarray:
    """Merge the windows of all strata into one sequence, int64, in which each has its share of every prefix.

    The position of a window is that of its middle after its stratum is scaled to the length of the whole sequence.
    """
    middle = np.full(len(windows.tokens), np.inf)
    for number, share in enumerate(shares):
        of_stratum = np.flatnonzero(windows.stratum == number)
        tokens = windows.tokens[of_stratum].astype(np.int64)
        middle[of_stratum] = (np.cumsum(tokens) - tokens / 2) / share
    order = np.argsort(middle, kind="stable")
    return order[: int(np.isfinite(middle).sum())]


def _rows(lake: Lake, about: About, listed: pa.Table, shards: np.ndarray, numbers: np.ndarray) -> Iterator[pa.Table]:
    """Yield the rows (SUBSET) of the shards with selected windows, given by shard index and window index."""
    places, begins = np.unique(shards, return_index=True)
    taken_of = dict(zip(places.tolist(), np.split(numbers, begins[1:]), strict=True))

    def row(place: int) -> pa.Table:
        which = np.zeros(listed["of_windows"][place].as_py(), bool)
        which[taken_of[place]] = True
        if which.all():
            return listed.slice(place, 1)
        files = ShardFiles(listed["folder"][place].as_py(), listed["shard"][place].as_py())
        columns = ["window_id", *NEEDED, "array_bytes", "repeated_share"]
        return taken(files, windows_of(lake, about, files, columns), which)

    return lake.prefetch(row, places.tolist())
