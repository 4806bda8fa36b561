"""The steps of a run over a lake: ingest, annotate, select, encode. Each does only what is not yet done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import encoders
from manifests import ledger
from manifests.fingerprint import fingerprint, pretty
from manifests.funnel import Funnel
from manifests.lake import Lake
from manifests.select import RuleError, Selection, select
from manifests.shards import fields
from pipelines.annotate import Annotated, Annotator, fingerprints, pending
from pipelines.encode import Plan, Shard, ShardEncoder
from pipelines.engines import local
from pipelines.errors import RecipeError, SpeechmillError
from pipelines.ingest import Ingested, ingest
from pipelines.recipe import Recipe

MIN_TRIED = 100


@dataclass
class Run:
    """A recipe at work on a lake."""

    recipe: Recipe
    lake: Lake
    workers: int = 1
    tell: Callable[[str, float, bool], None] = lambda step, seconds, failed: None
    """Told after each unit: the step, the seconds of sound in it and whether anything failed."""

    def ingest(self, inputs: Iterable[str]) -> Ingested:
        return ingest(self.lake, inputs, self.recipe.ingest, lambda uri, failed: self.tell("ingest", 0.0, failed))

    def annotate(self) -> Annotated:
        """Annotate every pending batch; SpeechmillError once more than `max_failed_share` of the recordings failed."""
        marks = fingerprints(self.recipe.make_stages())
        total = Annotated("all")
        make = partial(_annotator, self.lake, self.recipe)
        for result in local.run(pending(self.lake, marks), make, self.workers):
            total.recordings += result.recordings
            total.failed += result.failed
            total.seconds += result.seconds
            self.tell("annotate", result.seconds, result.failed > 0)
            if total.recordings >= MIN_TRIED and total.failed > self.recipe.max_failed_share * total.recordings:
                what = f"{total.failed} of {total.recordings} recordings failed"
                raise SpeechmillError(what, "look at the errors under annotations/, or raise max_failed_share")
        return total

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

    def encode(self) -> str:
        """Encode what the selection keeps and write the ledger; returns the ledger as text."""
        selection, config = self.selection(), self.recipe.encode
        make = partial(_encoder, self.lake, self.recipe, selection)
        shards = Plan(self.lake, selection.name, config)
        ShardEncoder(self.lake, self.recipe.name, selection.name, selection.stages["signal"], config).check_dataset(
            shards
        )
        for commit in local.run(shards, make, self.workers):
            self.tell("encode", 0.0, bool(commit and commit.failed))
        encoder = encoders.load(config.encoder, config.settings)
        table = ledger.write(self.lake, self.recipe.name, f"{encoder.name}-{encoder.fingerprint}")
        described = {"fields": fields(self.lake.storage, self.recipe.name), "recipe": self.recipe.resolved}
        for name, value in described.items():
            self.lake.storage.put(f"datasets/{self.recipe.name}/{name}.json", pretty(value).encode())
        return ledger.render(table, config.patch)


def _annotator(lake: Lake, recipe: Recipe) -> Callable[[str], Annotated]:
    return Annotator(lake, recipe.make_stages()).annotate


def _encoder(lake: Lake, recipe: Recipe, selection: Selection) -> Callable[[Shard], Any]:
    return ShardEncoder(lake, recipe.name, selection.name, selection.stages["signal"], recipe.encode).encode
