"""What `speechmill study subset` does: cut a subset, write it, and tell what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from manifests import shardlist
from manifests.choice import ChoiceError
from manifests.lake import Lake
from manifests.look import terminal
from manifests.subsets import About, Subset, prefix
from studies.strata import Stratum, stratified


def cut(
    lake: Lake, about: About, weights: Mapping[str, float] | None = None, containing: Subset | None = None
) -> tuple[Subset, list[Stratum]]:
    """The subset, and its strata where `about` names some. Raises ChoiceError for what cannot be met."""
    if about.by:
        if containing is not None:
            told = "a stratified subset goes on with no other one: within a version those of the same shares are nested"
            raise ChoiceError(told, "leave out --containing, or --by")
        return stratified(lake, about, weights)
    made = prefix(lake, about, containing)
    if about.budget is not None and made.next_tokens is None and made.tokens < about.budget:
        what = f"{about.budget:,} tokens are asked for, and {about.folder} has {made.tokens:,}"
        raise ChoiceError(what, f"ask for a budget of {made.tokens:,} or less")
    return made, []


def told(made: Subset, strata: list[Stratum]) -> dict[str, Any]:
    """What the command tells of a subset, as docs/json.md describes it."""
    about, rows = made.about, made.rows
    every, continuation = (int(shardlist.tokens(rows, about.patch, context).sum()) for context in (True, False))
    counted = {name: int(pc.sum(rows[name]).as_py()) for name in ("windows", "frames", "array_bytes")}
    named = ("lake", "dataset", "version", "splits", "tracks", "patch", "context", "budget", "by")
    return {
        **{name: getattr(about, name) for name in named},
        "tokens": made.tokens,
        "short_by": None if about.budget is None else about.budget - made.tokens,
        "next_window_tokens": made.next_tokens,
        "context_tokens": every - continuation,
        "continuation_tokens": continuation,
        "repeated_tokens": shardlist.repeated(rows, about.patch, about.context),
        **counted,
        "shards": len(rows),
        "shards_taken_in_part": len(rows) - rows["ids"].null_count,
        "strata": [asdict(one) for one in strata],
    }


def render(found: Mapping[str, Any]) -> None:
    """The same for people."""
    kind = "tokens" if found["context"] else "tokens of continuations"
    terminal.echo(
        f"datasets/{found['dataset']}, version {found['version']}, {', '.join(found['splits'])}: "
        f"{found['tokens']:,} {kind} of {found['patch']} frame{'s' * (found['patch'] > 1)} in {found['windows']:,} "
        f"windows of {found['shards']:,} shards, of which {found['shards_taken_in_part']:,} are taken in part"
    )
    if found["repeated_tokens"] is not None:
        unique = found["tokens"] - found["repeated_tokens"]
        terminal.echo(f"{unique:,} of them are unique, {found['repeated_tokens']:,} repeat sound that was met before")
    if found["next_window_tokens"] is not None:
        terminal.echo(
            f"{found['short_by']:,} tokens are left of the budget of {found['budget']:,}: "
            f"the next window has {found['next_window_tokens']:,}"
        )
    if found["strata"]:
        rows = [
            [one["name"], one["windows"], one["tokens"], one["tokens"] / found["tokens"], one["share"], one["held"]]
            for one in found["strata"]
        ]
        terminal.table([" ".join(found["by"]), "windows", "tokens", "share", "wanted", "dataset"], rows)
