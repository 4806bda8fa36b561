"""A dry run: what a command would do to a lake, how long that would take and how large it would be."""

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
from manifests.versions import versions
from pipelines.audio.files import scheme, stat_file
from pipelines.audio.probing import Prober
from pipelines.inputs.entry import Entry, Notes
from pipelines.progress.watch import Watch, clock
from pipelines.recipes.recipe import Recipe
from pipelines.run import Pending, Run
from pipelines.sources import entries
from pipelines.units.engines import Engine
from pipelines.units.pending import Retry, expected, fingerprints
from pipelines.units.resources import cores_here
from runtime.failures import Kind, kind_of

SAMPLED = 100
"""New files of which the header is read; the hours of the others are estimated from their sizes."""
AT_ONCE = 10_000
CPU_HOURS = {
    "signal": 0.003, "vad": 0.002, "diarize": 0.071, "language": 0.019, "quality": 0.005, "phonemes": 0.1,
    "prosody": 0.013, "fingerprint": 0.0004, "encode": 0.0013,
}  # fmt: skip
"""Of an hour of sound, decoding included where no other stage has done it: the numbers of docs/studies.md."""


@dataclass
class Met:
    """The names that inputs hold, and what the headers of some new ones claim."""

    names: int = 0
    known: int = 0
    new: int = 0
    unreadable: int = 0
    new_bytes: int = 0
    new_hours: float = 0.0
    headers: int = 0
    """Read to estimate `new_hours`."""
    left_out: dict[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """One line for people."""
        told = f"ingest: {self.names:,} names: {self.new:,} new, {self.known:,} known; {self.unreadable:,} unreadable; "
        if self.headers:
            return told + f"{self.new_bytes / 1e9:,.3f} GB, about {self.new_hours:,.3f} h by {self.headers} headers"
        return told + f"{self.new_bytes / 1e9:,.3f} GB, of unknown length"


@dataclass(frozen=True)
class DryRun:
    """A recipe over a lake that is only looked at."""

    recipe: Recipe
    lake: Lake
    engine: Engine
    retry: Retry | None = None

    def steps(self, names: Sequence[str], inputs: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What each of these steps would come to, with a line for people under 'text'."""
        found: dict[str, dict[str, Any]] = {}
        waiting_h = 0.0
        if "ingest" in names:
            met = self.meet(inputs)
            waiting_h += met.new_hours
            found["ingest"] = asdict(met) | {"text": met.text()}
        marks = fingerprints(self.recipe.make_stages(), self.recipe.decode)
        batches, pending_s = expected(self.lake, (unit.unit for unit in Pending(self.lake, marks, self.retry)))
        waiting_h += pending_s / 3600
        if "annotate" in names:
            took = self._took("annotate", waiting_h, marks)
            text = f"annotate: {batches:,} batches are pending; with what is new {waiting_h:,.3f} h, {took.pop('text')}"
            found["annotate"] = {"batches": batches, "hours": waiting_h, **took, "text": text}
        run = Run(self.recipe, self.lake, Watch(self.lake.storage, "", {}, quiet=True), self.engine)
        kept_h, why = self._kept_h(run.selection().name, waiting_h)
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
            took = self._took("encode", new_h, ["encode"])
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

    def meet(self, inputs: Iterable[str]) -> Met:
        """Read the names that inputs hold, and the headers of a few new files. Bytes are not compared."""
        met, notes = Met(), Notes()
        with (
            tempfile.TemporaryDirectory(prefix="speechmill-dry-") as folder,
            duckdb.connect(f"{folder}/d") as connection,
        ):
            connection.execute("SET threads = 1; SET memory_limit = '300MB'")
            connection.execute("CREATE TABLE met (uri VARCHAR, size BIGINT); CREATE TABLE known (uri VARCHAR)")
            for _, table in self.lake.recordings(["uris"]):
                connection.register("batch", table)
                connection.execute("INSERT INTO known SELECT unnest(uris) FROM batch")
            source = entries(inputs, self.lake.config, self.recipe.ingest, notes)
            while rows := list(itertools.islice(map(self._name, source), AT_ONCE)):
                met.unreadable += sum(uri is None for uri, _ in rows)
                uris, sizes = zip(*rows, strict=True)
                connection.register(
                    "part", pa.table({"uri": pa.array(uris, pa.string()), "size": pa.array(sizes, pa.int64())})
                )
                connection.execute("INSERT INTO met FROM part WHERE uri IS NOT NULL")
            connection.execute("CREATE TABLE fresh AS SELECT DISTINCT uri, size FROM met ANTI JOIN known USING (uri)")
            counts = "SELECT count(DISTINCT uri) FROM met UNION ALL SELECT count(*) FROM fresh"
            (met.names,), (met.new,) = connection.execute(counts).fetchall()
            met.known = met.names - met.new
            ((met.new_bytes,),) = connection.execute("SELECT coalesce(sum(size), 0)::BIGINT FROM fresh").fetchall()
            sample = connection.execute(f"FROM fresh WHERE size > 0 ORDER BY hash(uri) LIMIT {SAMPLED}").fetchall()
        met.left_out = dict(notes.left_out.most_common())
        claimed_s, sampled_bytes = self._claimed(met, sample)
        met.new_hours = met.new_bytes * claimed_s / sampled_bytes / 3600 if sampled_bytes else 0.0
        return met

    def _name(self, entry: Entry) -> tuple[str | None, int | None]:
        """A name and its size, where that costs no request; no name where it is known to be unreadable."""
        try:
            if entry.error is not None:
                raise entry.error
            stat = entry.stat or (None if scheme(entry.uri) else stat_file(entry.uri, self.lake.config))
        except Exception as error:
            if kind_of(error) is Kind.RUN:
                raise
            return None, None
        return entry.uri, stat and stat.size_bytes

    def _claimed(self, met: Met, sample: Sequence[tuple[str, int]]) -> tuple[float, int]:
        """Seconds that the headers of these files claim, and the bytes of those that claim any."""
        claimed_s, sampled_bytes = 0.0, 0
        with Prober(self.lake.config, self.recipe.decode) as prober:
            for uri, size in sample:
                try:
                    seconds = prober.result(uri)["claimed_duration_s"]
                except Exception as error:
                    if kind_of(error) is Kind.RUN:
                        raise
                    met.unreadable += 1
                    continue
                if seconds:
                    met.headers, claimed_s, sampled_bytes = met.headers + 1, claimed_s + seconds, sampled_bytes + size
        return claimed_s, sampled_bytes

    def _took(self, step: str, hours: float, parts: Iterable[str]) -> dict[str, Any]:
        """How long a step takes over so many hours of sound, and where its rate is from."""
        rate, basis = self._own_rate(step), "this lake's own runs"
        if rate is None:
            workers = (
                min(self.engine.most_workers(), cores_here()) if self.engine.is_here() else self.engine.most_workers()
            )
            rate = workers / sum(CPU_HOURS[part] for part in parts)
            basis = f"the numbers of docs/studies.md, {workers} workers"
        seconds = 3600 * hours / rate
        return {"seconds": seconds, "basis": basis, "text": f"about {clock(seconds)} by {basis}"}

    def _own_rate(self, step: str) -> float | None:
        """Hours of sound an hour, over the runs that did this step with equal settings."""
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

    def _kept_h(self, selection: str, waiting_h: float) -> tuple[float, str]:
        """Hours of the windows that these rules keep, as far as that is known, and how it is known."""
        try:
            stored = Funnel.from_dict(
                self.lake.read_json(f"selections/{selection}/funnel.json", "recordings", "windows")
            )
        except FileNotFoundError:
            _, all_s = expected(self.lake, self.lake.batches())
            new_h = waiting_h if not all_s else max(waiting_h, all_s / 3600)
            return new_h, "at most: which sound the rules keep is not known before it is annotated"
        _, kept_s = stored.part("windows", "kept")
        in_s = stored.total_s["recordings"]
        more_h = waiting_h * kept_s / in_s if in_s else 0.0
        why = "as selected" if not more_h else "if the rules keep of what is new as much as of what is there"
        return kept_s / 3600 + more_h, why
