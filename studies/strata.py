"""Stratified subsets: a budget of tokens of which each language, number of speakers or source has a share.

The windows of each stratum come in the order of the dataset's list of shards, and the strata are merged into one row in
which each has its share all along: any prefix of that row is a subset, so that subsets of one row are nested.
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
"""The name of a value that is null."""
NEEDED = ["context_frames", "continuation_frames"]


@dataclass(frozen=True)
class Stratum:
    """What a subset gives of one stratum."""

    name: str
    """Its values, joined by '/' where there are several columns."""
    share: float
    """Of the tokens of the subset, as was wanted."""
    held: int
    """Tokens that the dataset has of it."""
    windows: int = 0
    tokens: int = 0
    """That the subset gives of it."""


class _Windows(NamedTuple):
    """Windows in the order of the list of shards: int arrays (windows,)."""

    shard: np.ndarray
    """Place of the shard in the list."""
    number: np.ndarray
    """Of the window among those of the shard."""
    stratum: np.ndarray
    """-1 where it belongs to none that is wanted."""
    tokens: np.ndarray


def stratified(lake: Lake, about: About, weights: Mapping[str, float] | None = None) -> tuple[Subset, list[Stratum]]:
    """The subset of `about.budget` tokens in which each stratum of `about.by` has its share, and what it has of each.

    Shares are those of the whole split, or in proportion to `weights` (0 or more, by the names of strata; a stratum
    that they do not name is left out). The subset has at most the tokens of the budget, and less than one window
    fewer. A stratum differs from its share by about a window. Without a budget it is as large as the shares allow.
    Reads the tables of windows of shards in their order until the budget is met. Raises ChoiceError.
    """
    about, listed = shards_of(lake, about)
    held = _held(lake, about, weights or {})
    wanted, budget = _wanted(about, held, held if weights is None else weights)
    about = replace(about, budget=budget, shares=wanted)
    names, shares = list(wanted), np.array(list(wanted.values()))
    windows = _read(lake, about, listed, names, shares)
    merged = _merged(windows, shares)
    ends = np.cumsum(windows.tokens[merged])
    count = int(np.searchsorted(ends, budget, side="right"))
    if not count:
        told = f"the first window alone has {windows.tokens[merged[0]]:,} tokens, the budget is {budget:,}"
        raise ChoiceError(told, "ask for a larger budget")
    next_tokens = int(windows.tokens[merged[count]]) if count < len(merged) else None
    chosen = np.sort(merged[:count])
    of_stratum = windows.stratum[chosen]
    counts = np.bincount(of_stratum, minlength=len(names))
    tokens = [int(windows.tokens[chosen[of_stratum == number]].sum()) for number in range(len(names))]
    strata = [
        Stratum(name, share, held[name], int(of), given)
        for (name, share), of, given in zip(wanted.items(), counts, tokens, strict=True)
    ]
    strata += [Stratum(name, 0.0, tokens_held) for name, tokens_held in held.items() if name not in wanted]
    rows = pa.concat_tables(_rows(lake, about, listed, windows.shard[chosen], windows.number[chosen]))
    return Subset(about, rows, next_tokens), strata


def _wanted(about: About, held: Mapping[str, int], weights: Mapping[str, float]) -> tuple[dict[str, float], int]:
    """The share of each stratum that has one, and the budget. ChoiceError where there is too little of a stratum."""
    wanted = {name: weights[name] / sum(weights.values()) for name in held if weights.get(name)}
    if not wanted:
        raise ChoiceError("no stratum has a weight above 0", f"there is: {', '.join(held)}")
    most = int(min(held[name] / share for name, share in wanted.items()) + 1e-6)
    budget = most if about.budget is None else about.budget
    if budget > most:
        scarce = min(wanted, key=lambda name: held[name] / wanted[name])
        told = f"{budget * wanted[scarce]:,.0f} tokens of {scarce} are wanted, and there are {held[scarce]:,}"
        raise ChoiceError(told, f"ask for a budget of {most:,} or less, or give {scarce} a smaller weight")
    return wanted, budget


def _held(lake: Lake, about: About, weights: Mapping[str, float]) -> dict[str, int]:
    """Tokens of each stratum of the chosen splits, by the ledger; most first. ChoiceError for what is not there."""
    if about.tracks is not None:
        raise ChoiceError("strata of windows of one number of tracks are not in the ledger", "leave out tracks or by")
    ledger = lake.read(f"{about.folder}/ledger.parquet")
    rows = ledger.filter(
        pc.and_(pc.equal(ledger["patch"], about.patch), pc.is_in(ledger["split"], pa.array(about.splits, pa.string())))
    )
    counted = rows["continuation_tokens"].to_numpy() + (rows["context_tokens"].to_numpy() if about.context else 0)
    found: dict[str, int] = {}
    for name, tokens in zip(_names(rows, about.by).to_pylist(), counted.tolist(), strict=True):
        found[name] = found.get(name, 0) + tokens
    found = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
    if unknown := [name for name in weights if name not in found]:
        raise ChoiceError(f"no tokens of {', '.join(unknown)}", f"there is: {', '.join(found)}")
    return found


def _names(rows: pa.Table, by: Sequence[str]) -> pa.ChunkedArray:
    """The name of the stratum of each row."""
    parts = [pc.coalesce(rows[column].cast(pa.string()), UNKNOWN) for column in by]
    return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "/")


def _read(lake: Lake, about: About, listed: pa.Table, names: Sequence[str], shares: np.ndarray) -> _Windows:
    """Windows of the first shards: so many that a prefix of the merged row that meets the budget is certain."""
    found: list[_Windows] = []
    met = np.zeros(len(names), np.int64)
    longest = 0
    files = [ShardFiles(*one) for one in zip(*(listed[name].to_pylist() for name in ("folder", "shard")), strict=True)]

    def read(one: ShardFiles) -> pa.Table:
        return windows_of(lake, about, one, [*NEEDED, *about.by])

    budget = about.budget or 0
    for place, table in enumerate(lake.ahead(read, files)):
        stratum = pc.fill_null(pc.index_in(_names(table, about.by), pa.array(names)), -1).to_numpy().astype(np.int32)
        tokens = window_tokens(table, about.patch, about.context).astype(np.int32)
        shard = np.full(len(table), place, np.int32)
        found.append(_Windows(shard, np.arange(len(table), dtype=np.int32), stratum, tokens))
        wanted = stratum >= 0
        met += np.bincount(stratum[wanted], tokens[wanted], len(names)).astype(np.int64)
        longest = max(longest, int(tokens.max(initial=0)))
        # What is not met yet stands behind this place of the merged row, and each stratum is met up to a window before.
        if (met / shares).min() >= budget + longest * (len(names) + 1):
            break
    return _Windows(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _merged(windows: _Windows, shares: np.ndarray) -> np.ndarray:
    """The windows of all strata as one row, int64: each stratum has its share of the tokens before any place of it.

    A window stands where its middle lies when its stratum is stretched to the length of all.
    """
    middle = np.full(len(windows.tokens), np.inf)
    for number, share in enumerate(shares):
        of_stratum = np.flatnonzero(windows.stratum == number)
        tokens = windows.tokens[of_stratum].astype(np.int64)
        middle[of_stratum] = (np.cumsum(tokens) - tokens / 2) / share
    order = np.argsort(middle, kind="stable")
    return order[: int(np.isfinite(middle).sum())]


def _rows(lake: Lake, about: About, listed: pa.Table, shards: np.ndarray, numbers: np.ndarray) -> Iterator[pa.Table]:
    """The rows (SUBSET) of shards of which windows are taken, by the place of the shard and their number in it."""
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

    return lake.ahead(row, places.tolist())
