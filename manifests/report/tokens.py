"""The report's section on a dataset: windows, hours, frames and tokens, from its ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from manifests.ledger import REPEATED
from manifests.report import figures
from manifests.report.flow import hours_text, plural
from manifests.shards import ShardFiles

MAX_POINTS = 400

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Tokens:
    """The sums of a ledger by split, and its tokens at each patch size; `patch` is the patch size of the recipe."""

    patch: int
    splits: Mapping[str, tuple[int, float, int]]
    """Windows, hours and frames over all tracks."""
    counts: list[tuple[str, int, int, int]]
    """Split, patch size, tokens of context and of continuation."""
    repeated: Mapping[str, int | None]
    """Repeated tokens at that patch size, by split; None if recordings were not matched."""

    @classmethod
    def from_ledger(cls, connection: duckdb.DuckDBPyConnection, recipe: Mapping[str, Any] | None) -> Tokens | None:
        """Read the view `ledger`. Returns None where there is no ledger, or it counts no window."""
        # A recipe that does not name a patch size makes tokens of one frame.
        patch = (recipe or {}).get("encode", {}).get("patch", 1)
        splits = connection.execute(
            "SELECT split, sum(windows)::BIGINT, sum(hours), sum(frames)::BIGINT FROM ledger WHERE patch = 1 "
            "GROUP BY split ORDER BY split"
        ).fetchall()
        counts = connection.execute(
            "SELECT split, patch, sum(context_tokens)::BIGINT, sum(continuation_tokens)::BIGINT FROM ledger "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        repeated = connection.execute(
            f"SELECT split, {REPEATED}::BIGINT FROM ledger WHERE patch = $1 GROUP BY split", [patch]
        ).fetchall()
        if not splits:
            return None
        return cls(patch, {split: tuple(sums) for split, *sums in splits}, counts, dict(repeated))

    @property
    def unit(self) -> str:
        return f"a token is {plural(self.patch, 'frames')}"

    @property
    def over(self) -> str:
        """The splits over which the totals are counted, as words."""
        names = list(self.splits)
        return f"split {names[0]}" if len(names) == 1 else f"splits {', '.join(names[:-1])} and {names[-1]}"

    @property
    def windows(self) -> int:
        return sum(windows for windows, *_ in self.splits.values())

    @property
    def hours(self) -> float:
        return sum(hours for _, hours, _ in self.splits.values())

    @property
    def frames(self) -> int:
        return sum(frames for *_, frames in self.splits.values())

    @property
    def tokens(self) -> int:
        """Number of tokens at the patch size of the recipe."""
        return sum(context + continuation for _, patch, context, continuation in self.counts if patch == self.patch)

    @property
    def repeated_tokens(self) -> int | None:
        """Number of repeated tokens; None if recordings were not matched."""
        known = [count for count in self.repeated.values() if count is not None]
        return sum(known) if known else None

    def section(self, connection: duckdb.DuckDBPyConnection) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """The data of the page's section on tokens, and its figures by id."""
        shards = _frames_by_shard(connection)
        rows = [
            {
                "split": split,
                "cells": [f"{_count_shards(shards, split):,}", f"{windows:,}", hours_text(hours), f"{frames:,}"],
                "tokens": [f"{a + b:,}" for name, _, a, b in self.counts if name == split],
                "repeated": "" if (count := self.repeated.get(split)) is None else f"{count:,}",
            }
            for split, (windows, hours, frames) in self.splits.items()
        ]
        patches = sorted({patch for _, patch, *_ in self.counts})
        drawn = {
            "tokens-patch": figures.tokens(self.counts, self.patch),
            "tokens-prefix": figures.prefixes(
                {split: [(n, sums[n]) for n in _spread(len(sums), MAX_POINTS)] for split, sums in shards.items()}
            ),
        }
        section = {"patches": patches, "rows": rows, "patch": self.patch, "unit": self.unit, "over": self.over}
        return section | {"matched": self.repeated_tokens is not None}, drawn


def _frames_by_shard(connection: duckdb.DuckDBPyConnection) -> dict[str, list[int]]:
    """Frames in the first 0, 1, 2, ... shards of each folder; the last number equals that of the ledger."""
    found: dict[str, list[int]] = {}
    for folder, _, frames in connection.execute(
        "SELECT folder, shard, coalesce(sum(tracks * (context_frames + continuation_frames)) FILTER (status = 'ok'), 0)"
        "::BIGINT FROM shard_windows GROUP BY ALL ORDER BY ALL"
    ).fetchall():
        sums = found.setdefault(folder, [0])
        sums.append(sums[-1] + frames)
    return found


def _count_shards(frames: Mapping[str, list[int]], split: str) -> int:
    """Number of shards in all folders of a split."""
    return sum(len(sums) - 1 for folder, sums in frames.items() if ShardFiles(folder, 0).split == split)


def _spread(count: int, most: int) -> list[int]:
    """About `most` indices below `count`, evenly spaced, including the first and the last."""
    step = max(1, math.ceil(count / most))
    return sorted({*range(0, count, step), count - 1})
