"""The steps of a run over a lake: ingest, annotate, select, encode. Each step does only what is not done yet."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from encoders.base import Encoder
from manifests.fingerprint import fingerprint, pretty
from manifests.funnel import Funnel
from manifests.lake import Lake
from manifests.matches import Matches
from manifests.publish import publish
from manifests.report import card
from manifests.rules import RuleError
from manifests.select import select
from manifests.selection import Selection
from manifests.shards import committed
from manifests.sums import written_sha256
from manifests.versions import Version, committed_numbers, versions
from pipelines.annotate import Annotator
from pipelines.audio.children import prestart
from pipelines.encode import ShardEncoder, dataset_fingerprints
from pipelines.encoding.dataset import Dataset
from pipelines.encoding.plan import Plan
from pipelines.encoding.planned import Shard, Unit, units
from pipelines.ingest import ingest
from pipelines.inputs.packing import Ingested
from pipelines.matching import Matching
from pipelines.progress.usage import run_metered
from pipelines.progress.watch import LOG, Heartbeat, Step, UnitResult, Watch
from pipelines.recipes.recipe import EncodeConfig, Recipe
from pipelines.stages.base import Stage
from pipelines.units.attempts import Attempts, CrashGuard
from pipelines.units.engines import Engine, Group, Worker
from pipelines.units.pending import (
    Retry,
    batches_to_retry,
    estimate_work,
    group_by_device,
    pending_batches,
    stage_fingerprints,
)
from pipelines.units.pieces import PendingPieces, Piece, PieceWorker
from pipelines.units.resources import check_room_for_rows
from pipelines.units.shares import Share, delete_leftovers, share_duration_s, split_batch
from runtime.errors import RecipeError, SpeechmillError, WaitingError
from runtime.failures import to_failure
from runtime.models import MODELS

MIN_TRIED = 100
"""Recordings after which a step may stop because too many of them failed."""


@dataclass
class Run:
    """Runs the steps of a recipe on a lake."""

    recipe: Recipe
    lake: Lake
    watch: Watch
    engine: Engine = field(default_factory=Engine)
    retry: Retry | None = None
    """Which failed recordings and windows are tried again."""

    def ingest(self, inputs: Iterable[str]) -> Ingested:
        """Add what `inputs` name to the lake. See `pipelines.ingest.ingest`."""
        with self.watch.step("ingest") as step:

            def on_row(row: dict[str, Any]) -> None:
                step.recordings += 1
                if (row.get("audio_streams") or 1) > 1:
                    step.note(f"{row['uri']}: {row['audio_streams']} audio streams, of which the first is read")
                if row["status"] != "ok":
                    step.failed += 1
                    step.fail(to_failure(row, "ingest"))

            return ingest(self.lake, inputs, self.recipe.ingest, on_row, self.recipe.decode)

    def annotate(self) -> Iterator[Step]:
        """Annotate every pending batch, then the piecewise stages of batches with long recordings.

        Yields:
            Each step when it has ended.

        Raises:
            SpeechmillError: More than `max_failed_share` of the recordings of a step failed.
            WaitingError: At the end, if units were not committed because recordings were unreachable.
        """
        stages = self.recipe.make_stages()
        for stage in stages:
            if stage.trusted:
                what = f"{stage.name}: trust = true: the files of {stage.trusted} may run code of their own"
                LOG.warning("%s", what)
                self.watch.print(what)
        fingerprints = stage_fingerprints(stages, self.recipe.decode)
        pending = Pending(self.lake, fingerprints, self.retry)
        batches, total_s = estimate_work(self.lake, (share.batch for share in pending))
        check_room_for_rows(self.lake, total_s)
        if not self.retry:
            pending = replace(pending, share_s=share_duration_s(batches, total_s, self.engine.max_workers()))
        with self.watch.step("annotate", total_s) as step:
            if batches:  # otherwise no models need be loaded
                groups = [
                    self._group("annotate", group, partial(_make_annotator, *self._worker_arguments(step), number))
                    for number, group in enumerate(group_by_device(stages))
                ]
                self._run_units(step, pending, groups)
            delete_leftovers(self.lake, fingerprints)
        yield step
        steps = [step]
        for stage in stages:
            piece_s = 3600 * self.recipe.piece_hours
            pieces = PendingPieces(self.lake, fingerprints, stage.name, stage.needs, piece_s, self.retry)
            if stage.piecewise and next(pieces.batches(), None):
                _, total_s = estimate_work(self.lake, pieces.batches())
                with self.watch.step(stage.name, total_s) as step:
                    make = partial(_make_piece_worker, *self._worker_arguments(step), stage.name)
                    self._run_units(step, pieces, [self._group("pieces", [stage], make)])
                yield step
                steps.append(step)
        _check_committed(steps, "batches" if math.isinf(pending.share_s) else "batches or shares of batches")
        yield from self._match()

    def _match(self) -> Iterator[Step]:
        """Match the audio fingerprints of batches that were not matched yet, if the recipe computes fingerprints."""
        matching = self.matching()
        if matching is None or not matching.pending:
            return
        with self.watch.step("match", None) as step:
            for name, units_of, make in matching.STEPS:
                if units := units_of(matching):
                    self._run_units(step, units, [Group(f"match-{name}", partial(make, matching))])
            LOG.info("%s", matching.describe())
            matching.delete_hits()
        yield step

    def matching(self) -> Matching | None:
        """Return the matching of audio fingerprints; None for a recipe that computes none."""
        fingerprint = stage_fingerprints(self.recipe.make_stages(), self.recipe.decode).get("fingerprint")
        return None if fingerprint is None else Matching.of(Matches(self.lake, fingerprint, self.recipe.match))

    def _worker_arguments(self, step: Step) -> tuple[Lake, Recipe, Retry | None, str, str]:
        """Return the first arguments of `_make_annotator`, `_make_piece_worker` and `_make_encoder`."""
        return self.lake, self.recipe, self.retry, self.watch.prefix, step.heartbeat_prefix

    def _group(self, name: str, stages: Sequence[Stage], make: Callable[[], Worker]) -> Group:
        """Return a group of workers that is sized for its most demanding stage."""
        cpus = max((stage.resources.cpus for stage in stages), default=1.0)
        gpus = max((stage.resources.gpus for stage in stages), default=0.0)
        guarded = partial(CrashGuard, make, Attempts(self.lake.storage, self.watch.prefix))
        return Group("-".join([name, *(stage.name for stage in stages)]), guarded, cpus, gpus)

    def _run_units(self, step: Step, units: Iterable[Any], groups: Sequence[Group]) -> None:
        """Run units and count their results. Raises SpeechmillError once too many recordings have failed."""
        max_failed_share = self.recipe.max_failed_share
        with closing(self.engine.run(units, groups)) as results:  # always stop the engine
            for result in results:
                step.add_result(result)
                if step.recordings >= MIN_TRIED and step.failed > max_failed_share * step.recordings:
                    what = f"{step.failed} of {step.recordings} recordings failed"
                    raise SpeechmillError(what, "look at the errors in the log, or raise max_failed_share")

    def _models(self, encoder: Encoder) -> list[card.ModelUse]:
        """Return every model that measured or encoded the content of a dataset."""
        users: list[tuple[str, dict[str, str], str | None]] = [
            (stage.name, stage.model_hashes(), None) for stage in self.recipe.make_stages()
        ]
        users.append((encoder.name, encoder.model_hashes(), encoder.licence))
        return [
            card.ModelUse(user, model, sha256, MODELS[model].licence if model in MODELS else licence)
            for user, hashes, licence in users
            for model, sha256 in hashes.items()
        ]

    def selection(self) -> Selection:
        """Return the selection of this recipe. Its name carries the fingerprint of everything that it depends on."""
        fingerprints = stage_fingerprints(self.recipe.make_stages(), self.recipe.decode)
        settings = asdict(self.recipe.select)
        matches = self.recipe.match.mark(fingerprints["fingerprint"]) if "fingerprint" in fingerprints else None
        own = fingerprint({"version": 1, "stages": fingerprints, "matches": matches, **settings})
        return Selection(f"{self.recipe.name}-{own}", fingerprints, matches=matches, **settings)

    def select(self) -> Funnel:
        """Apply the rules of the recipe.

        Raises:
            RecipeError: A rule is wrong.
            SpeechmillError: A batch is not annotated.
        """
        try:
            with self.watch.own.step("select"):
                return select(self.lake, self.selection(), self._map)
        except RuleError as error:
            raise RecipeError(str(error), "correct the rule in the recipe") from error
        except FileNotFoundError as error:
            raise SpeechmillError(f"not annotated yet: {error.filename}", "run `speechmill annotate` first") from error

    def _map(self, work: Worker, units: Iterable[Any]) -> Iterator[Any]:
        """Yield the result of `work` for each unit. Engines that yield no results are replaced by the local engine."""
        engine = self.engine if self.engine.spec.yields_each else Engine("local", self.engine.workers)
        with closing(engine.run(units, [Group("select", partial(partial, run_metered, work))])) as results:
            for result, quantities in results:
                self.watch.own.add("select", quantities)
                yield result

    def encode(self) -> list[Encoded]:
        """Encode the selected windows that no shard holds, and publish new versions of the datasets.

        Nothing is done for a dataset whose newest version holds the windows that are selected now.

        Returns:
            The datasets in the order of the recipe.

        Raises:
            SpeechmillError: The recipe was not selected yet, or too many recordings failed.
            WaitingError: Shards were not committed because recordings were unreachable.
        """
        selection = self.selection()
        try:
            selected = written_sha256(self.lake, selection.name)
        except FileNotFoundError as error:
            what = f"not selected yet: {error.filename}"
            raise SpeechmillError(what, "run `speechmill select` first, with the same options") from error
        datasets = self.datasets()
        before = {dataset.name: versions(self.lake, dataset.name) for dataset, _ in datasets}
        about = {dataset.name: self._about(config.load()) for dataset, config in datasets}
        with self.watch.step("encode", 0.0) as step, ExitStack() as stack:
            todo = [
                (dataset, config)
                for dataset, config in datasets
                if not self._is_encoded(dataset, before[dataset.name], selected, about[dataset.name])
            ]
            plans = {
                dataset.name: stack.enter_context(dataset.begin_version(config, self.retry, self.recipe.shard_s))
                for dataset, config in todo
            }
            if todo:
                uncommitted = Uncommitted(self.lake, plans)
                step.total_s = sum(unit.shard.seconds for unit in uncommitted)
                named = {dataset.name: config for dataset, config in todo}
                make = partial(_make_encoder, *self._worker_arguments(step), named, selection)
                self._run_units(step, uncommitted, [self._encoder_group(list(named.values()), make)])
                _check_committed([step], "shards")
            for dataset, _ in todo:
                for name, data in about[dataset.name].items():
                    self.lake.storage.put(f"{dataset.prefix}/{name}", data)
                publish(self.lake, dataset.name, selected)
        return [
            Encoded(dataset.name, versions(self.lake, dataset.name)[-1], len(before[dataset.name]))
            for dataset, _ in datasets
        ]

    def _encoder_group(self, configs: Sequence[EncodeConfig], make: Callable[[], Worker]) -> Group:
        """Return the group that encodes. All encoders run in one process, and take turns on its GPU."""
        loaded = [config.load() for config in configs]
        cpus, gpus = max(encoder.cpus for encoder in loaded), max(encoder.gpus for encoder in loaded)
        guarded = partial(CrashGuard, make, Attempts(self.lake.storage, self.watch.prefix))
        return Group("encode", guarded, cpus, gpus)

    def datasets(self) -> list[tuple[Dataset, EncodeConfig]]:
        """Return the datasets that this recipe makes, whether they exist or not, each with its encoder's settings."""
        selection, datasets = self.selection(), list[tuple[Dataset, EncodeConfig]]()
        for name, config in self.recipe.targets.items():
            made_by = dataset_fingerprints(config, selection.name, selection.stages["signal"])
            datasets.append((Dataset.find(self.lake, self.recipe.name, made_by, name), config))
        return datasets

    def _about(self, encoder: Encoder) -> dict[str, bytes]:
        """Return the files that describe the recipe and the models of a dataset, by name."""
        models = {"models": [asdict(use) for use in self._models(encoder)]}
        return {"recipe.json": pretty(self.recipe.resolved).encode(), "models.json": pretty(models).encode()}

    def _is_encoded(
        self, dataset: Dataset, published: Sequence[Version], selected: str, about: Mapping[str, bytes]
    ) -> bool:
        """Return whether the newest version holds the windows that are selected now, and has these descriptions."""
        if not published or published[-1].selected != selected or self.retry or dataset.is_begun():
            return False
        numbers = committed_numbers(self.lake, dataset.name)
        if {folder: len(of_folder) for folder, of_folder in numbers.items()} != published[-1].shards:
            return False
        storage = self.lake.storage
        keys = {name: f"{dataset.prefix}/{name}" for name in about}
        return all(storage.exists(key) and storage.read(key) == about[name] for name, key in keys.items())


@dataclass(frozen=True)
class Encoded:
    """A dataset after `encode`: its newest version, and the number of versions before it."""

    dataset: str
    version: Version
    versions_before: int


@dataclass(frozen=True)
class Pending:
    """Iterates over the units of annotation: shares of batches that lack rows, or hold failed rows to be made again.

    It can be pickled, so that an engine may list the units on a worker.
    """

    lake: Lake
    fingerprints: Mapping[str, str]
    """The fingerprint of each stage."""
    retry: Retry | None = None
    share_s: float = math.inf
    """Seconds of sound in a share."""

    def __iter__(self) -> Iterator[Share]:
        again = batches_to_retry(self.lake, self.fingerprints, self.retry) if self.retry else iter(())
        merged = heapq.merge(pending_batches(self.lake, self.fingerprints), again)
        for batch, _ in itertools.groupby(merged):
            yield from split_batch(self.lake, batch, self.share_s)


@dataclass(frozen=True)
class Uncommitted:
    """Iterates over the units of encoding: shards without a commit record, or to be made again. It can be pickled."""

    lake: Lake
    plans: Mapping[str, Plan]

    def __iter__(self) -> Iterator[Unit]:
        return units({dataset: self._uncommitted(dataset, plan) for dataset, plan in self.plans.items()})

    def _uncommitted(self, dataset: str, plan: Plan) -> Iterator[Shard]:
        done = {files.commit for files in committed(self.lake.storage, dataset)}
        return (shard for shard in plan if shard.remake or shard.commit_key not in done)


def _check_committed(steps: Sequence[Step], units: str) -> None:
    """Raise WaitingError if units of these steps were not committed. It names the first few unreachable recordings."""
    uncommitted = sum(step.uncommitted for step in steps)
    if uncommitted:
        named = [f"{lost.recording_id}: {lost.error}" for step in steps for lost in step.unreachable]
        raise WaitingError(
            f"{uncommitted:,} {units} were not committed, because the bytes of recordings in them are unreachable "
            f"or have changed; the first are: {'; '.join(named)}",
            "put the files back under their names, then run the same command again: it does what is left; or count "
            "such recordings as failed: --set unreachable=fail",
        )


def _make_piece_worker(
    lake: Lake, recipe: Recipe, retry: Retry | None, run: str, heartbeats: str, name: str
) -> Callable[[Piece], UnitResult]:
    """Make a worker for the pieces of the stage `name`."""
    prestart()  # the decoding process starts while models are loaded
    stages = recipe.make_stages()
    (stage,) = [stage for stage in stages if stage.name == name]
    stage.setup()
    fingerprints, attempts = stage_fingerprints(stages, recipe.decode), Attempts(lake.storage, run)
    worker = PieceWorker(lake, stage, fingerprints, attempts, recipe.decode, recipe.unreachable, retry)
    return lambda piece: worker.process(piece, Heartbeat(lake.storage, f"{heartbeats}/{piece.name}.json"))


def _make_annotator(
    lake: Lake, recipe: Recipe, retry: Retry | None, run: str, heartbeats: str, number: int
) -> Callable[[Share | UnitResult], UnitResult]:
    """Make a worker of group `number`.

    The units of the first group are shares. The units of a later group are the results of the group before it.
    """
    prestart()
    groups = group_by_device(recipe.make_stages())
    earlier = [stage for group in groups[:number] for stage in group]
    piece_s, attempts = 3600 * recipe.piece_hours, Attempts(lake.storage, run)
    annotator = Annotator(lake, groups[number], attempts, earlier, piece_s, recipe.decode, recipe.unreachable, retry)

    def annotate(unit: Share | UnitResult) -> UnitResult:
        if isinstance(unit, UnitResult) and unit.uncommitted:  # this group lacks the rows that it reads
            return unit
        result = annotator.annotate(unit.name, Heartbeat(lake.storage, f"{heartbeats}/{unit.name}.json"))
        return unit.combined_with(result) if isinstance(unit, UnitResult) else result

    return annotate


def _make_encoder(
    lake: Lake,
    recipe: Recipe,
    retry: Retry | None,
    run: str,
    heartbeats: str,
    datasets: Mapping[str, EncodeConfig],
    selection: Selection,
) -> Callable[[Unit], UnitResult]:
    """Make a worker that encodes shards."""
    prestart()
    signal, attempts = selection.stages["signal"], Attempts(lake.storage, run)
    encoder = ShardEncoder(lake, datasets, selection.name, signal, attempts, recipe.decode, recipe.unreachable, retry)
    return lambda unit: encoder.encode(unit, Heartbeat(lake.storage, f"{heartbeats}/{unit.name}.json"))
