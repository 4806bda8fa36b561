"""A dry run: estimates what a command would do to a lake, how long it would take and how large the result would be."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from manifests.corrupt import CorruptFileError
from manifests.funnel import Funnel
from manifests.lake import Lake
from manifests.schemas import STAGE_SPECS
from manifests.versions import versions
from pipelines.audio.files import scheme, stat_file
from pipelines.audio.probing import Prober
from pipelines.inputs.entry import Entry, Notes
from pipelines.progress.watch import Watch, clock
from pipelines.recipes.recipe import Recipe
from pipelines.run import Pending, Run
from pipelines.sources import entries
from pipelines.units.engines import Engine
from pipelines.units.pending import Retry, estimate_work, stage_fingerprints
from pipelines.units.resources import available_cores
from runtime.failures import Kind, kind_of

SAMPLED = 100
"""Number of new files whose header is read. The hours of the others are estimated from their sizes."""
AT_ONCE = 10_000
CPU_HOURS = {stage: spec.cpu_hours for stage, spec in STAGE_SPECS.items()} | {"encode": 0.0013}
"""CPU hours per hour of sound, from docs/studies.md. The stage that decodes the sound includes decoding."""


@dataclass
class InputCounts:
    """Counts of the names in the inputs, and what the headers of some new ones claim."""

    names: int = 0
    known: int = 0
    new: int = 0
    unreadable: int = 0
    new_bytes: int = 0
    new_hours: float = 0.0
    headers: int = 0
    """Number of headers from which `new_hours` is estimated."""
    left_out: dict[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """The counts as one line of text."""
        line = f"ingest: {self.names:,} names: {self.new:,} new, {self.known:,} known; {self.unreadable:,} unreadable; "
        if self.headers:
            return line + f"{self.new_bytes / 1e9:,.3f} GB, about {self.new_hours:,.3f} h by {self.headers} headers"
        return line + f"{self.new_bytes / 1e9:,.3f} GB, of unknown length"


@dataclass(frozen=True)
class DryRun:
    """A recipe over a lake that is read and not changed."""

    recipe: Recipe
    lake: Lake
    engine: Engine
    retry: Retry | None = None

    def steps(self, names: Sequence[str], inputs: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The estimate for each of these steps as JSON, with a line of text under the key 'text'."""
        found: dict[str, dict[str, Any]] = {}
        waiting_h = 0.0
        if "ingest" in names:
            totals = self.count_inputs(inputs)
            waiting_h += totals.new_hours
            found["ingest"] = asdict(totals) | {"text": totals.text()}
        fingerprints = stage_fingerprints(self.recipe.make_stages(), self.recipe.decode)
        batches, pending_s = estimate_work(
            self.lake, (unit.name for unit in Pending(self.lake, fingerprints, self.retry))
        )
        waiting_h += pending_s / 3600
        if "annotate" in names:
            took = self._estimated_time("annotate", waiting_h, fingerprints)
            text = f"annotate: {batches:,} batches are pending; with what is new {waiting_h:,.3f} h, {took.pop('text')}"
            found["annotate"] = {"batches": batches, "hours": waiting_h, **took, "text": text}
        run = Run(self.recipe, self.lake, Watch(self.lake.storage, "", {}, quiet=True), self.engine)
        kept_h, why = self._kept_hours(run.selection().name, waiting_h)
        if "select" in names:
            text = f"select: {kept_h:,.3f} h in windows, {why}"
            found["select"] = {"selection": run.selection().name, "hours": kept_h, "text": text}
        if "encode" in names:
            new_h, size, shards = 0.0, 0.0, 0
            for dataset, config in run.datasets():
                held = versions(self.lake, dataset.name)
                lacking_h = max(0.0, kept_h - (held[-1].hours if held else 0.0))
                size += lacking_h * 3600 * config.bytes_per_s
                shards += math.ceil(lacking_h * 3600 / self.recipe.shard_s)
                new_h = max(new_h, lacking_h)  # one pass over the sound serves all encoders
            held_h = kept_h - new_h
            took = self._estimated_time("encode", new_h, ["encode"])
            text = (
                f"encode: {kept_h:,.3f} h in windows, of which {held_h:,.3f} h are encoded; {size / 1e9:,.3f} GB "
                f"a track in {shards:,} new shards, {took.pop('text')}"
            )
            if "select" not in names:
                text += f"\n  the hours: {why}"
            found["encode"] = {
                "hours": new_h,
                "held_hours": held_h,
                "size_bytes": round(size),
                "shards": shards,
                **took,
            }
            found["encode"]["text"] = text
        return found

    def count_inputs(self, inputs: Iterable[str]) -> InputCounts:
        """Read the names in the inputs, and the headers of a few new files. Bytes are not compared."""
        totals, notes = InputCounts(), Notes()
        with (
            tempfile.TemporaryDirectory(prefix="speechmill-dry-") as folder,
            duckdb.connect(f"{folder}/d") as connection,
        ):
            connection.execute("SET threads = 1; SET memory_limit = '300MB'")
            connection.execute("CREATE TABLE listed (uri VARCHAR, size BIGINT); CREATE TABLE known (uri VARCHAR)")
            for _, table in self.lake.recordings(["uris"]):
                connection.register("batch", table)
                connection.execute("INSERT INTO known SELECT unnest(uris) FROM batch")
            source = entries(inputs, self.lake.config, self.recipe.ingest, notes)
            while rows := list(itertools.islice(map(self._name, source), AT_ONCE)):
                totals.unreadable += sum(uri is None for uri, _ in rows)
                uris, sizes = zip(*rows, strict=True)
                connection.register(
                    "part", pa.table({"uri": pa.array(uris, pa.string()), "size": pa.array(sizes, pa.int64())})
                )
                connection.execute("INSERT INTO listed FROM part WHERE uri IS NOT NULL")
            connection.execute(
                "CREATE TABLE fresh AS SELECT DISTINCT uri, size FROM listed ANTI JOIN known USING (uri)"
            )
            counts = "SELECT count(DISTINCT uri) FROM listed UNION ALL SELECT count(*) FROM fresh"
            (totals.names,), (totals.new,) = connection.execute(counts).fetchall()
            totals.known = totals.names - totals.new
            ((totals.new_bytes,),) = connection.execute("SELECT coalesce(sum(size), 0)::BIGINT FROM fresh").fetchall()
            sample = connection.execute(f"FROM fresh WHERE size > 0 ORDER BY hash(uri) LIMIT {SAMPLED}").fetchall()
        totals.left_out = dict(notes.left_out.most_common())
        claimed_s, sampled_bytes = self._claimed_by_headers(totals, sample)
        totals.new_hours = totals.new_bytes * claimed_s / sampled_bytes / 3600 if sampled_bytes else 0.0
        return totals

    def _name(self, entry: Entry) -> tuple[str | None, int | None]:
        """The name of an entry, None if it is unreadable, and its size if that takes no request."""
        try:
            if entry.error is not None:
                raise entry.error
            stat = entry.stat or (None if scheme(entry.uri) else stat_file(entry.uri, self.lake.config))
        except Exception as error:
            if kind_of(error) is Kind.RUN:
                raise
            return None, None
        return entry.uri, stat and stat.size_bytes

    def _claimed_by_headers(self, totals: InputCounts, sample: Sequence[tuple[str, int]]) -> tuple[float, int]:
        """Seconds that the headers of these files claim, and the bytes of those that claim any."""
        claimed_s, sampled_bytes = 0.0, 0
        with Prober(self.lake.config, self.recipe.decode) as prober:
            for uri, size in sample:
                try:
                    seconds = prober.result(uri)["claimed_duration_s"]
                except Exception as error:
                    if kind_of(error) is Kind.RUN:
                        raise
                    totals.unreadable += 1
                    continue
                if seconds:
                    totals.headers, claimed_s, sampled_bytes = (
                        totals.headers + 1,
                        claimed_s + seconds,
                        sampled_bytes + size,
                    )
        return claimed_s, sampled_bytes

    def _estimated_time(self, step: str, hours: float, parts: Iterable[str]) -> dict[str, Any]:
        """Estimated seconds of a step over so many hours of sound, and the basis of the estimate."""
        rate, basis = self._own_rate(step), "this lake's own runs"
        if rate is None:
            workers = (
                min(self.engine.max_workers(), available_cores())
                if self.engine.runs_here()
                else self.engine.max_workers()
            )
            rate = workers / sum(CPU_HOURS[part] for part in parts)
            basis = f"the numbers of docs/studies.md, {workers} workers"
        seconds = 3600 * hours / rate
        return {"seconds": seconds, "basis": basis, "text": f"about {clock(seconds)} by {basis}"}

    def _own_rate(self, step: str) -> float | None:
        """Hours of sound per hour in earlier runs of this step with equal settings; None without any."""
        hours = wall_s = 0.0
        for key in self.lake.storage.list("runs"):
            if not key.endswith("/summary.json"):
                continue
            try:
                done = self.lake.read_json(key, "steps")["steps"].get(step)
                used = self.lake.read_json(f"{key.rpartition('/')[0]}/recipe.json")
            except (FileNotFoundError, CorruptFileError):
                continue
            if done and done["hours"] and used.get(step) == self.recipe.resolved.get(step):
                hours, wall_s = hours + done["hours"], wall_s + done["wall_s"]
        return hours / (wall_s / 3600) if wall_s else None

    def _kept_hours(self, selection: str, waiting_h: float) -> tuple[float, str]:
        """Estimated hours of the windows that the rules keep, and the basis of the estimate."""
        try:
            stored = Funnel.from_dict(
                self.lake.read_json(f"selections/{selection}/funnel.json", "recordings", "windows")
            )
        except FileNotFoundError:
            _, all_s = estimate_work(self.lake, self.lake.batches())
            new_h = waiting_h if not all_s else max(waiting_h, all_s / 3600)
            return new_h, "at most: which sound the rules keep is not known before it is annotated"
        _, kept_s = stored.part("windows", "kept")
        in_s = stored.total_s["recordings"]
        more_h = waiting_h * kept_s / in_s if in_s else 0.0
        why = (
            "as selected" if not more_h else "if the rules keep the same share of the new sound as of the present sound"
        )
        return kept_s / 3600 + more_h, why
