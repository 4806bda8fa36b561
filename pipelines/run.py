"""The steps of a run over a lake: ingest, annotate, select, encode. Each does only what is not yet done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

import encoders
from manifests import card, ledger
from manifests.fingerprint import fingerprint, pretty
from manifests.funnel import Funnel
from manifests.lake import Lake
from manifests.select import RuleError, Selection, select
from manifests.shards import fields
from pipelines.annotate import Annotator, expected, fingerprints, pending, told
from pipelines.encode import Plan, Shard, ShardEncoder
from pipelines.engines import local
from pipelines.errors import RecipeError, SpeechmillError
from pipelines.ingest import Ingested, ingest
from pipelines.models import MODELS
from pipelines.recipe import Recipe
from pipelines.watch import Done, Heartbeat, Step, Watch

MIN_TRIED = 100


@dataclass
class Run:
    """A recipe at work on a lake, under a watch."""

    recipe: Recipe
    lake: Lake
    watch: Watch
    workers: int = 1

    def ingest(self, inputs: Iterable[str]) -> Ingested:
        with self.watch.step("ingest") as step:

            def met(row: dict[str, Any]) -> None:
                step.recordings += 1
                if row["status"] != "ok":
                    step.failed += 1
                    step.fail(told(row, "ingest"))

            return ingest(self.lake, inputs, self.recipe.ingest, met)

    def annotate(self) -> Step:
        """Annotate every pending batch; SpeechmillError once more than `max_failed_share` of the recordings failed."""
        marks = fingerprints(self.recipe.make_stages())
        with self.watch.step("annotate") as step:
            batches, step.total_s = expected(self.lake, pending(self.lake, marks))
            if not batches:  # no models are loaded for nothing
                return step
            make = partial(_annotator, self.lake, self.recipe, step.beat_prefix)
            for done in local.run(pending(self.lake, marks), make, self.workers):
                step.done(done)
                if step.recordings >= MIN_TRIED and step.failed > self.recipe.max_failed_share * step.recordings:
                    what = f"{step.failed} of {step.recordings} recordings failed"
                    raise SpeechmillError(what, "look at the errors in the log, or raise max_failed_share")
        return step

    def _models(self, encoder: encoders.Encoder) -> list[card.ModelUse]:
        """Every model that measured or encoded what a dataset holds."""
        users = [(stage.name, stage.model_hashes()) for stage in self.recipe.make_stages()]
        users.append((encoder.name, encoder.model_hashes()))
        return [
            card.ModelUse(user, model, sha256, MODELS[model].licence if model in MODELS else None)
            for user, hashes in users
            for model, sha256 in hashes.items()
        ]

    def selection(self) -> Selection:
        config = self.recipe.select
        marks = fingerprints(self.recipe.make_stages())
        settings: dict[str, Any] = {
            name: getattr(config, name)
            for name in ("context_s", "continuation_s", "stride_s", "grid_s", "align", "seed")
        }
        settings |= {name: dict(getattr(config, name)) for name in ("splits", "recordings", "windows")}
        mark = fingerprint({"version": 1, "stages": marks, **settings})
        return Selection(f"{self.recipe.name}-{mark}", marks, **settings)

    def select(self) -> Funnel:
        try:
            return select(self.lake, self.selection())
        except RuleError as error:
            raise RecipeError(str(error), "correct the rule in the recipe") from error
        except FileNotFoundError as error:
            raise SpeechmillError(f"not annotated yet: {error.filename}", "run `speechmill annotate` first") from error

    def encode(self) -> pa.Table:
        """Encode what the selection keeps, describe the dataset and return its ledger."""
        selection, config, name = self.selection(), self.recipe.encode, self.recipe.name
        with self.watch.step("encode", 0.0) as step:
            try:
                plan = Plan(self.lake, selection.name, config)
            except FileNotFoundError as error:
                what = f"not selected yet: {error.filename}"
                raise SpeechmillError(what, "run `speechmill select` first, with the same options") from error
            committed = set(self.lake.storage.list(f"datasets/{name}/commits"))

            def todo() -> Iterator[Shard]:
                return (shard for shard in plan if f"datasets/{name}/{shard.commit_key}" not in committed)

            ShardEncoder(self.lake, name, selection.name, selection.stages["signal"], config).check_dataset(plan)
            step.total_s = sum(shard.seconds for shard in todo())
            make = partial(_encoder, self.lake, self.recipe, selection, step.beat_prefix)
            for done in local.run(todo(), make, self.workers):
                step.done(done)
        encoder = encoders.load(config.encoder, config.settings)
        table = ledger.write(self.lake, name, f"{encoder.name}-{encoder.fingerprint}")
        described = {"fields": fields(self.lake.storage, name), "recipe": self.recipe.resolved}
        for what, value in described.items():
            self.lake.storage.put(f"datasets/{name}/{what}.json", pretty(value).encode())
        card.write(self.lake, name, self._models(encoder))
        return table


def _annotator(lake: Lake, recipe: Recipe, beats: str) -> Callable[[str], Done]:
    annotator = Annotator(lake, recipe.make_stages())
    return lambda batch: annotator.annotate(batch, Heartbeat(lake.storage, f"{beats}/{batch}.json"))


def _encoder(lake: Lake, recipe: Recipe, selection: Selection, beats: str) -> Callable[[Shard], Done]:
    encoder = ShardEncoder(lake, recipe.name, selection.name, selection.stages["signal"], recipe.encode)
    return lambda shard: encoder.encode(shard, Heartbeat(lake.storage, f"{beats}/{shard.name}.json"))
