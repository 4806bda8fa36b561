"""`speechmill study subset`: select the windows of a subset, and describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from manifests import shardlist
from manifests.choice import ChoiceError
from manifests.commands import terminal
from manifests.lake import Lake
from manifests.output import counted
from manifests.subsets import About, Subset, prefix
from studies.strata import Stratum, stratified


def cut(
    lake: Lake, about: About, weights: Mapping[str, float] | None = None, containing: Subset | None = None
) -> tuple[Subset, list[Stratum]]:
    """Select a subset.

    Args:
        lake: The lake that holds the dataset.
        about: Budget, splits and strata of the subset.
        weights: Proportions of the strata, by name; those of the split by default.
        containing: An older subset that the new one must contain.

    Returns:
        The subset, and its strata if `about` names columns to stratify by.

    Raises:
        ChoiceError: The dataset has too few tokens, or the arguments contradict each other.
    """
    if about.by:
        if containing is not None:
            what = "a stratified subset cannot contain another one, but in a version those of equal shares are nested"
            raise ChoiceError(what, "leave out --containing, or --by")
        return stratified(lake, about, weights)
    subset = prefix(lake, about, containing)
    if about.budget is not None and subset.next_tokens is None and subset.tokens < about.budget:
        what = f"the budget is {about.budget:,} tokens, but {about.folder} has {subset.tokens:,}"
        raise ChoiceError(what, f"use a budget of {subset.tokens:,} or less")
    return subset, []


def describe(subset: Subset, strata: list[Stratum]) -> dict[str, Any]:
    """Return the JSON document of a subset, which docs/json.md describes."""
    about, rows = subset.about, subset.rows
    every, continuation = (int(shardlist.tokens(rows, about.patch, context).sum()) for context in (True, False))
    sums = {name: int(pc.sum(rows[name]).as_py()) for name in ("windows", "frames", "array_bytes")}
    copied = ("lake", "dataset", "version", "splits", "tracks", "patch", "context", "budget", "by")
    return {
        **{name: getattr(about, name) for name in copied},
        "tokens": subset.tokens,
        "short_by": None if about.budget is None else about.budget - subset.tokens,
        "next_window_tokens": subset.next_tokens,
        "context_tokens": every - continuation,
        "continuation_tokens": continuation,
        "repeated_tokens": shardlist.repeated(rows, about.patch, about.context),
        **sums,
        "shards": len(rows),
        "shards_taken_in_part": len(rows) - rows["ids"].null_count,
        "strata": [asdict(stratum) for stratum in strata],
    }


def render(document: Mapping[str, Any]) -> None:
    """Print the document of `describe` as text."""
    tokens, patch = document["tokens"], document["patch"]
    kind = "tokens" if document["context"] else "tokens of continuations"
    terminal.echo(
        f"datasets/{document['dataset']}, version {document['version']}, {', '.join(document['splits'])}: "
        f"{tokens:,} {kind} of {counted(patch, 'frame')} in {counted(document['windows'], 'window')} of "
        f"{counted(document['shards'], 'shard')}, {document['shards_taken_in_part']:,} of them in part"
    )
    if document["repeated_tokens"] is not None:
        unique = tokens - document["repeated_tokens"]
        terminal.echo(
            f"{unique:,} of them are unique, {document['repeated_tokens']:,} repeat sound of earlier recordings"
        )
    if document["next_window_tokens"] is not None:
        terminal.echo(
            f"{document['short_by']:,} tokens of the budget of {document['budget']:,} are left, "
            f"because the next window has {document['next_window_tokens']:,}"
        )
    if document["strata"]:
        rows = [
            [row["name"], row["windows"], row["tokens"], row["tokens"] / tokens, row["share"], row["held"]]
            for row in document["strata"]
        ]
        terminal.table(
            [" ".join(document["by"]), "windows", "tokens", "share", "intended share", "tokens in dataset"], rows
        )
