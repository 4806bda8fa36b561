"""The runs of a lake, read from their folders: what each run did, and which runs made a selection and its dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manifests.choice import folders
from manifests.lake import Lake
from manifests.report.flow import hours_text, plural

MAX_READ = 200
"""Number of newest runs that are read. Each costs a few requests to a lake in a bucket."""

NO_SUMMARY = "has no summary: it is still running or was killed"


@dataclass(frozen=True)
class Run:
    """A run of a command over a lake: its recipe and its summary. Each is empty where the run did not write it."""

    name: str
    recipe: Mapping[str, Any]
    summary: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, lake: Lake, name: str) -> Run:
        stored = {
            file: lake.read_json(key)
            for file in ("recipe", "summary")
            if lake.storage.exists(key := f"runs/{name}/{file}.json")
        }
        return cls(name, stored.get("recipe", {}), stored.get("summary", {}))

    @property
    def begun(self) -> str:
        """Date and time of its start in UTC, from the name of its folder."""
        day, _, clock = self.name.partition("-")[0].removesuffix("Z").partition("T")
        return f"{day[:4]}-{day[4:6]}-{day[6:]} {clock[:2]}:{clock[2:4]}:{clock[4:]}"

    @property
    def recipe_name(self) -> str:
        return str(self.recipe.get("name", "unknown recipe"))

    @property
    def command(self) -> str:
        return str(self.summary.get("command", f"a command with the recipe {self.recipe_name}"))

    @property
    def outcome(self) -> str:
        if not self.summary:
            return NO_SUMMARY
        took = duration_text(self.summary["wall_s"])
        if self.summary["outcome"] == "done":
            return f"done in {took}"
        return f"{self.summary['outcome']} after {took}: {self.summary.get('error', 'no error was recorded')}"

    @property
    def selected(self) -> str | None:
        """Name of the selection that it made, or None."""
        name = self._result("select").get("selection")
        return name and str(name)

    @property
    def steps(self) -> dict[str, Mapping[str, Any]]:
        """Counts by step: 'ingest', 'encode', and 'annotate' or the names of single stages."""
        return dict(self.summary.get("steps", {}))

    def did(self) -> dict[str, str]:
        """A clause for each step that did something. A step that had nothing left to do has none."""
        found = {}
        if new := self._result("ingest").get("new"):
            failed = self._result("ingest").get("failed", 0)
            found["ingest"] = f"added {plural(new, 'recordings')}" + f", {failed:,} unreadable" * (failed > 0)
        for step, counts in self.steps.items():
            if step not in ("ingest", "encode") and counts["recordings"]:
                what = "" if step == "annotate" else f" ({step})"
                found[step] = f"measured {plural(counts['recordings'], 'recordings')}, {_worked(counts)}{what}"
        if self.selected:
            parts = []
            for what in ("recordings", "windows"):
                part = self._result("select")[what]
                parts.append(f"{part['kept']['count']:,} of {plural(part['in']['count'], what)}")
            found["select"] = f"kept {' and '.join(parts)}"
        if encoded := self.steps.get("encode"):
            found["encode"] = f"encoded {_worked(encoded)}" if encoded["hours"] else "found every shard encoded"
        return found

    def _result(self, step: str) -> Mapping[str, Any]:
        found = self.summary.get("results", {}).get(step)
        return found if isinstance(found, Mapping) else {}


def newest_runs(lake: Lake) -> list[Run]:
    """The newest MAX_READ runs, newest first."""
    names = [name for name in reversed(folders(lake, "runs")) if name[:1].isdigit()]
    return list(lake.prefetch(lambda name: Run.read(lake, name), names[:MAX_READ]))


def runs_behind(runs: Sequence[Run], selection: str, recipe: Mapping[str, Any] | None) -> Iterator[tuple[Run, str]]:
    """The runs that contributed to a selection and its dataset, newest first, each with what it did for them.

    `recipe` is the recipe of the dataset. Where it is None, there is a selection only, whose recipe comes from a run
    that made it. Encoding counts for runs with the same recipe. Annotating counts for runs whose recipe has a stage
    with the same settings. Ingesting and annotating after the selection was last made do not count.
    """
    selecting = [run for run in runs if run.selected == selection]
    followed = recipe if recipe is not None else selecting[0].recipe if selecting else {}
    last = max((run.name for run in selecting), default="~")
    for run in runs:
        same = bool(followed) and all(run.recipe.get(key) == followed.get(key) for key in ("name", *DECIDING))
        before = run.name <= last
        counts = {"ingest": before, "select": run.selected == selection, "encode": same and recipe is not None}
        measured = before and _measures_alike(run.recipe, followed)
        did = [clause for step, clause in run.did().items() if counts.get(step, measured)]
        if did:
            yield run, "; ".join(did)
        elif same and not run.summary:
            yield run, NO_SUMMARY


DECIDING = ("decode", "annotate", "select")
"""Tables of a recipe on which its selection depends."""


def _measures_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two recipes decode alike and have a stage with equal settings, so that they share its results."""
    stages, others = one.get("annotate", {}), other.get("annotate", {})
    shared = stages == others or any(others.get(stage) == settings for stage, settings in stages.items())
    return shared and one.get("decode") == other.get("decode")


def _worked(counts: Mapping[str, Any]) -> str:
    failed = f", {counts['failed']:,} failed" if counts["failed"] else ""
    return f"{hours_text(counts['hours'])} of sound in {duration_text(counts['wall_s'])}{failed}"


def duration_text(seconds: float) -> str:
    """A duration in words.

    >>> duration_text(4.25), duration_text(129.1), duration_text(7330)
    ('4.2 s', '2 min 9 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rates(runs: Sequence[Run]) -> list[tuple[str, str, float]]:
    """(step with its recipe, start, hours of sound per hour) of every step that read sound; no two names are equal."""
    found: dict[tuple[str, str], float] = {}
    for run in runs:
        for step, counts in run.steps.items():
            if counts["hours"]:
                key = (f"{step} ({run.recipe_name})", run.begun)
                if key in found:  # the names of their folders differ although they started in the same second
                    key = (key[0], f"{run.begun} {run.name.rpartition('-')[2]}")
                found[key] = counts["hours_per_hour"]
    return [(*key, rate) for key, rate in found.items()]
