"""The report: one HTML file about a lake or a dataset. It opens from disk, loads nothing and shows names as text.

DuckDB aggregates the numbers of the page. Of single recordings and windows it has a sample of limited size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from manifests.choice import Choice
from manifests.lake import Lake
from manifests.names import DUPLICATE
from manifests.report import figures, flow, measures, provenance, repeated, runs, talk
from manifests.report.figures import COLORS
from manifests.report.flow import hours_text, plural
from manifests.report.measures import Measure, Score
from manifests.report.page import render
from manifests.report.samples import Snippet, sample_recordings
from manifests.report.thresholds import Threshold, sample, thresholds
from manifests.report.tokens import Tokens
from manifests.selection import Selection
from manifests.views import open_views, quoted

MAX_GROUPS = 12
MAX_RUNS = 12

GROUPS = {
    "language": "By language",
    "source": "By source",
    "codec": "By codec",
    "speakers": "By number of speakers",
    "licence": "By licence",
    "channel_relation": "By relation of the channels",
}


class Report:
    """The report on a lake under a choice of its stages, selection and dataset; `build` renders the page."""

    def __init__(self, lake: Lake, choice: Choice) -> None:
        self.lake, self.choice = lake, choice
        self.connection = open_views(lake, choice)
        self.selection = Selection.stored(lake, choice.selection) if choice.selection else None
        self.figures: dict[str, dict[str, Any]] = {}
        self.runs = runs.newest_runs(lake)
        recipe = provenance.recipe_of(lake, choice.dataset)
        self.tokens = Tokens.from_ledger(self.connection, recipe)
        self.movable = self._thresholds()
        self.scores = list(measures.scores(self.movable, self.selection is not None))
        self._make_facts()

    def build(self, num_samples: int, snippet: Snippet | None) -> str:
        """Render the page, with the sound of recordings that `snippet` returns (see `manifests.report.samples`)."""

        scores = self._histograms()
        page: dict[str, Any] = {
            "title": self.choice.dataset or self.lake.storage.root.rstrip("/").rpartition("/")[2],
            "lead": self._lead(),
            "facts": list(self._key_figures()),
            "funnel": self._funnel(),
            "scores": scores,
            "groups": list(self._groups()),
            "talk": list(self._talk()),
            "measures": self._measures(),
            "tokens": self._tokens(),
            "repeated": self._repeated(snippet),
            "failures": self._failures(),
            "runs": self._runs(),
            "provenance": list(provenance.blocks(self.lake, self.choice, self.selection, self.runs)),
        }
        page |= {"whatif": self._whatif(scores), "figures": self.figures}
        return render(page, sample_recordings(self.connection, self.movable, num_samples, snippet))

    def rows(self, query: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        return self.connection.execute(query, parameters or []).fetchall()

    # ---- tables with a row for each recording and window ----

    def _thresholds(self) -> list[Threshold]:
        if self.selection is None:
            return []
        levels = {"recordings": "annotations", "windows": "window_verdicts"}
        return [
            threshold
            for level, view in levels.items()
            for threshold in thresholds(self.connection, level, view, getattr(self.selection, level))
        ]

    def _make_facts(self) -> None:
        """Create the tables `failures`, `facts` and `window_facts`, from which all charts are aggregated."""
        steps = {"ingest": "ingest", **{stage: stage for stage in self.choice.stages}}
        failed = " UNION ALL ".join(
            f"SELECT {quoted(step)} AS step, recording_id, error_type, error, remedy FROM {view} WHERE status <> 'ok'"
            for step, view in steps.items()
        )
        self.connection.execute(f"CREATE TEMP TABLE failures AS {failed}")
        unjudged = "CASE WHEN recording_id IN (SELECT recording_id FROM failures) THEN 'failed' ELSE 'measured' END"
        judged = f"coalesce(verdict, {unjudged})"
        movable = {threshold.name for threshold in self.movable if threshold.level == "recordings"}
        fixed = (
            [DUPLICATE, *(name for name in self.selection.recordings if name not in movable)] if self.selection else []
        )
        groups = {name: name for name in GROUPS}
        groups["speakers"] = "CASE WHEN num_speakers > 5 THEN '6 or more' ELSE num_speakers::VARCHAR END"
        columns = [
            "recording_id",
            "coalesce(verdict_duration_s, duration_s, claimed_duration_s, 0) AS duration_s",
            f"{judged} AS verdict",
            "coalesce(reasons, []) AS reasons",
            f"NOT ({judged} = 'failed' OR list_has_any(coalesce(reasons, []), {_list(fixed)})) AS fixed",
            *(f"{expression} AS {name}" for name, expression in groups.items()),
            *(f"CAST(({s.expression}) AS DOUBLE) AS {s.column}" for s in self.scores if s.level == "recordings"),
        ]
        self.connection.execute(f"CREATE TEMP TABLE facts AS SELECT {', '.join(columns)} FROM recordings")
        if self.selection:
            movable = {threshold.name for threshold in self.movable if threshold.level == "windows"}
            fixed = [name for name in self.selection.window_rules if name not in movable]
            scores = [f"CAST(({s.expression}) AS DOUBLE) AS {s.column}" for s in self.scores if s.level == "windows"]
            self.connection.execute(
                "CREATE TEMP TABLE window_facts AS SELECT window_id, recording_id, duration_s, "
                f"CASE WHEN kept THEN 'kept' ELSE 'rejected' END AS verdict, "
                f"NOT list_has_any(reasons, {_list(fixed)}) AS fixed, {', '.join(scores)} FROM window_verdicts"
            )

    # ---- sections ----

    def _lead(self) -> str:
        root = self.lake.storage.root
        if self.choice.dataset:
            return f"A dataset of the lake {root}, made from the selection {self.choice.selection}."
        if self.choice.selection:
            return f"The lake {root} with the selection {self.choice.selection}. No dataset has been made from it yet."
        return f"The lake {root}. Nothing has been selected yet; `speechmill select` applies the rules of a recipe."

    def _key_figures(self) -> Iterator[dict[str, str]]:
        ((count, hours, sources),) = self.rows(
            "SELECT count(*), coalesce(sum(duration_s), 0) / 3600, count(DISTINCT source) FROM facts"
        )
        yield _fact(
            "recordings", f"{count:,}", f"from {plural(sources, 'sources')}" if sources else "no source was given"
        )
        yield _fact("hours of input", hours_text(hours), f"{hours * 3600 / max(1, count):.0f} s on average")
        if self.selection:
            ((kept, kept_hours),) = self.rows(
                "SELECT count(*), coalesce(sum(duration_s), 0) / 3600 FROM facts WHERE verdict = 'kept'"
            )
            yield _fact(
                "hours kept",
                hours_text(kept_hours),
                f"{plural(kept, 'recordings')}, {kept_hours / (hours or 1):.0%} of the hours",
            )
        ((failed,),) = self.rows("SELECT count(DISTINCT recording_id) FROM failures")
        yield _fact("failed recordings", f"{failed:,}", f"of {count:,}")
        if self.selection:
            ((windows, window_hours),) = self.rows(
                "SELECT count(*), coalesce(sum(duration_s), 0) / 3600 FROM window_facts WHERE verdict = 'kept'"
            )
            yield _fact(
                "windows kept", f"{windows:,}", f"{hours_text(window_hours)}, {self.selection.window_s:g} s each"
            )
        if self.tokens:
            made = self.tokens
            yield _fact("windows in the dataset", f"{made.windows:,}", f"{hours_text(made.hours)}, {made.over}")
            yield _fact("frames in the dataset", f"{made.frames:,}", f"over all tracks, {made.over}")
            yield _fact("tokens in the dataset", f"{made.tokens:,}", f"{made.unit} (patch {made.patch}), {made.over}")
            if (repeated := made.repeated_tokens) is not None:
                detail = f"{repeated:,} others repeat sound of kept recordings that were ingested earlier"
                yield _fact("unique tokens", f"{made.tokens - repeated:,}", detail)

    def _funnel(self) -> dict[str, Any] | None:
        """The boxes of the diagram and the rows of the tables, from the funnel whose sums `select` has checked."""
        key = f"selections/{self.choice.selection}/funnel.json"
        if not self.selection or not self.lake.storage.exists(key):  # selecting was interrupted
            return None
        funnel = self.lake.read_json(key)
        nodes = flow.nodes(funnel)
        return {
            "nodes": nodes,
            "hours": nodes[0].drawn_h,
            "label": flow.label(funnel),
            "note": flow.overlapping(funnel),
            "tables": [
                {"name": what, "rows": list(flow.rows(funnel[what], rules))}
                for what, rules in (
                    ("recordings", self.selection.recordings),
                    ("windows", self.selection.window_rules),
                )
            ],
        }

    def _measures(self) -> list[Measure]:
        """All measures that the page plots or lists, in alphabetical order."""
        found = measures.recording_measures(self.choice.stages)
        if self.selection:
            found |= {f"{name} of windows": measure for name, measure in measures.window_measures().items()}
        for score in self.scores:  # an expression of a rule is not a column
            found.setdefault(score.title, Measure(score.title, score.unit, score.sentence, "select", pa.float64()))
        return [replace(measure, name=name) for name, measure in sorted(found.items())]

    def _histograms(self) -> list[dict[str, Any]]:
        made = []
        for score in self.scores:
            ((low, high, unmeasured),) = self.rows(
                f"SELECT approx_quantile({score.column}, 0.002), approx_quantile({score.column}, 0.998), "
                f"coalesce(sum(duration_s) FILTER ({score.column} IS NULL), 0) / 3600 FROM {score.table}"
            )
            if low is None:
                continue
            rules = [t for t in self.movable if (t.level, t.expression) == (score.level, score.expression)]
            edges = figures.bins(
                min([low, *(t.value for t in rules)]), max([high, *(t.value for t in rules)]), score.whole
            )
            hours, counts, beyond = self._binned(score, edges)
            step = (edges[1] - edges[0]) / (2 if score.whole else 10)
            figure = f"hist-{score.column}"
            self.figures[figure] = figures.histogram(edges, hours, counts, score.title, score.axis)
            notes = [score.sentence]
            notes += [f"Not measured: {hours_text(unmeasured)}."] * (unmeasured > 0)
            notes += ["The outermost bars include all values beyond them."] * beyond
            axis = {"low": edges[0], "high": edges[-1], "step": float(f"{step:.6g}")}
            made.append(asdict(score) | axis | {"figure": figure, "note": " ".join(notes), "rules": rules})
        return made

    def _binned(self, score: Score, edges: list[float]) -> tuple[dict[str, list[float]], dict[str, list[int]], bool]:
        """Hours and counts by verdict and bar, and whether any value lies outside the bars."""
        bars, width = len(edges) - 1, edges[1] - edges[0]
        hours: dict[str, list[float]] = {}
        counts: dict[str, list[int]] = {}
        beyond = False
        found = self.rows(
            f"SELECT verdict, least(greatest(floor(({score.column} - $1) / $2), -1), $3)::INTEGER AS bar, count(*), "
            f"sum(duration_s) / 3600 FROM {score.table} WHERE {score.column} IS NOT NULL GROUP BY ALL ORDER BY ALL",
            [edges[0], width, bars],
        )
        for verdict in sorted({row[0] for row in found}, key=list(COLORS).index):
            hours[verdict], counts[verdict] = [0.0] * bars, [0] * bars
        for verdict, bar, count, seconds in found:
            beyond |= not 0 <= bar < bars
            bar = min(max(bar, 0), bars - 1)
            hours[verdict][bar] += seconds
            counts[verdict][bar] += count
        return hours, counts, beyond

    def _groups(self) -> Iterator[tuple[str, str, str]]:
        """The figure, the title and the description of the measure of each grouping."""
        known = measures.recording_measures()
        for column, title in GROUPS.items():
            rows = self.rows(
                f"WITH named AS (SELECT coalesce({column}, 'unknown') AS name, verdict, duration_s FROM facts), "
                f"top AS (SELECT name FROM named GROUP BY name ORDER BY sum(duration_s) DESC, name LIMIT {MAX_GROUPS}) "
                "SELECT CASE WHEN name IN (FROM top) THEN name ELSE 'all others' END AS shown, verdict, "
                "sum(duration_s) / 3600, count(*) FROM named GROUP BY ALL ORDER BY ALL"
            )
            if {row[0] for row in rows} - {"unknown"}:
                self.figures[f"group-{column}"] = figures.groups(rows, title)
                yield f"group-{column}", title, known["num_speakers" if column == "speakers" else column].sentence

    def _talk(self) -> Iterator[tuple[str, str, str]]:
        """The figure, title and note of each chart of turn-taking and prosody."""
        for figure, title, note, drawn in talk.charts(self.connection, self.choice.stages):
            self.figures[figure] = drawn
            yield figure, title, note

    def _tokens(self) -> dict[str, Any] | None:
        if self.tokens is None:
            return None
        section, drawn = self.tokens.section(self.connection)
        self.figures |= drawn
        return section

    def _repeated(self, snippet: Snippet | None) -> dict[str, Any] | None:
        """The section on repeated sound; None if the selection was made without matches."""
        if self.selection is None or self.selection.matches is None:
            return None
        return repeated.section(self.lake, self.choice, self.connection, snippet)

    def _failures(self) -> list[dict[str, Any]]:
        rows = self.rows(
            "SELECT step, error_type, count(*) AS n, arg_min(error, recording_id), arg_min(remedy, recording_id) "
            "FROM failures GROUP BY ALL UNION ALL SELECT 'encode', split_part(error, ':', 1), "
            "count(DISTINCT recording_id), min(error), 'see the message' FROM shard_windows WHERE status <> 'ok' "
            "GROUP BY ALL ORDER BY n DESC, 1, 2 LIMIT 20"
        )
        if rows:
            named = [(f"{step}: {kind}", "", count) for step, kind, count, *_ in rows]
            label = "Failures: " + ", ".join(f"{name} {count}" for name, _, count in named)
            self.figures["failures"] = figures.bars(named, "recordings", COLORS["failed"], label)
        names = ("step", "kind", "count", "error", "remedy")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _runs(self) -> dict[str, Any]:
        """A sentence and a table on the newest runs of the lake. Also makes a figure of their throughput."""
        shown = self.runs[:MAX_RUNS]
        if rates := runs.rates(shown):
            label = "Throughput: " + ", ".join(f"{name} {begun}: {rate:.1f}" for name, begun, rate in rates)
            self.figures["runs-rate"] = figures.bars(rates, "hours of sound per hour", "#5b7fc7", label)
        note = (
            f"The newest {len(shown)} runs of the lake, with any recipe, newest first."
            if len(shown) > 1
            else "One run."
        )
        return {
            "note": note if shown else "This lake has no record of a run.",
            "rows": [
                (run.begun, run.recipe_name, "; ".join(run.did().values()) or "found nothing to do", run.outcome)
                for run in shown
            ],
        }

    def _whatif(self, scores: list[dict[str, Any]]) -> dict[str, Any]:
        columns: dict[str, dict[str, str]] = {"recordings": {}, "windows": {}}
        rules = []
        for score in scores:
            columns[score["level"]][score["column"]] = score["column"]
            found = score.pop("rules")
            where = {"level": score["level"], "column": score["column"], "expression": score["expression"]}
            rules += [where | {"name": t.name, "op": t.op, "value": t.value} for t in found]
            if not found:
                middle = float(f"{(score['low'] + score['high']) / 2:.3g}")
                rules.append(where | {"name": score["expression"], "op": "", "value": middle})
        levels = sample(self.connection, columns["recordings"], columns["windows"] if self.selection else None)
        return {"levels": levels, "rules": rules, "scores": scores}


def _fact(label: str, value: str, detail: str = "") -> dict[str, str]:
    return {"label": label, "value": value, "detail": detail}


def _list(names: list[str]) -> str:
    """Names as an SQL list of text."""
    return f"[{', '.join(map(quoted, names))}]::VARCHAR[]"
