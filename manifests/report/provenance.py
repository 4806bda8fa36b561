"""The origin of a selection and a dataset as tables: settings, fingerprints, and the runs that made them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from manifests.choice import Choice
from manifests.lake import Lake
from manifests.report.runs import Run, runs_behind
from manifests.selection import Selection

Block = dict[str, Any]
"""A table: its `name`, and either `rows` of two cells or `runs` of (start, what was done, command)."""


def blocks(lake: Lake, choice: Choice, selection: Selection | None, runs: Sequence[Run]) -> Iterator[Block]:
    if selection:
        splits = ", ".join(f"{name} {share:g}" for name, share in selection.splits.items())
        stride = f"{selection.stride_s:g}" if selection.stride_s else f"{selection.window_s:g}, the length of a window"
        rows = [
            ("name", selection.name),
            ("context, seconds", f"{selection.context_s:g}"),
            ("continuation, seconds", f"{selection.continuation_s:g}"),
            ("stride between windows, seconds", stride),
            ("alignment of windows", selection.align),
            ("seed of the splits", selection.seed),
            ("splits, shares of recordings", splits),
        ]
        yield {"name": "Selection", "rows": rows}
        for level in ("recordings", "windows"):
            rules = getattr(selection, level)
            yield {"name": f"Rules for {level}", "rows": list(rules.items()) or [("no rule", "all are kept")]}
    if choice.stages:
        yield {
            "name": "Stages, with the fingerprints of their settings",
            "rows": [*choice.stages.items()],
        }
    if choice.dataset:
        plan = lake.read_json(f"datasets/{choice.dataset}/plan.json")
        yield {"name": "Dataset, with the fingerprints of its plan", "rows": [("name", choice.dataset), *plan.items()]}
    if choice.selection:
        yield from _made_by(choice.selection, choice.dataset, recipe_of(lake, choice.dataset), runs)


def recipe_of(lake: Lake, dataset: str | None) -> dict[str, Any] | None:
    """The recipe that is stored with a dataset; None where there is no dataset, or its encoding was interrupted."""
    key = f"datasets/{dataset}/recipe.json"
    return lake.read_json(key) if dataset and lake.storage.exists(key) else None


def _made_by(
    selection: str, dataset: str | None, recipe: dict[str, Any] | None, runs: Sequence[Run]
) -> Iterator[Block]:
    found = list(runs_behind(runs, selection, recipe))
    what = f"dataset {dataset}" if recipe else f"selection {selection}"
    rows = [(run.begun, did, run.command) for run, did in found]
    yield {"name": f"Runs that made the {what}, newest first", "runs": rows}
    machine = next((run.summary["machine"] for run, _ in found if run.summary), None)
    if machine:
        own = {name: value for name, value in machine.items() if name != "versions"}
        yield {
            "name": "Machine and software of the newest of these runs",
            "rows": [*own.items(), *machine["versions"].items()],
        }
