"""The steps of a run over a lake: ingest, annotate, select, encode. Each does only what is not yet done."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from operator import attrgetter
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
from pipelines.audio.children import warm
from pipelines.encode import ShardEncoder, made_by
from pipelines.encoding.dataset import Dataset
from pipelines.encoding.plan import Plan, Shard, Unit, units
from pipelines.ingest import ingest
from pipelines.inputs.packing import Ingested
from pipelines.matching import Matching
from pipelines.progress.usage import metered
from pipelines.progress.watch import LOG, Done, Heartbeat, Step, Watch
from pipelines.recipes.recipe import EncodeConfig, Recipe
from pipelines.stages.base import Stage
from pipelines.units.attempts import Attempts, Guarded
from pipelines.units.engines import Engine, Group, Worker
from pipelines.units.parts import forget_committed, share_s, shares
from pipelines.units.pending import Retry, expected, failed, fingerprints, grouped, pending
from pipelines.units.pieces import PendingPieces, Piece, PieceWorker
from pipelines.units.resources import check_room_for_rows
from runtime.errors import RecipeError, SpeechmillError, WaitingError
from runtime.failures import to_failure
from runtime.models import MODELS

MIN_TRIED = 100


@dataclass
class Run:
    """A recipe at work on a lake, under a watch."""

    recipe: Recipe
    lake: Lake
    watch: Watch
    engine: Engine = field(default_factory=Engine)
    retry: Retry | None = None
    """Which failed recordings and shards are done another time."""

    def ingest(self, inputs: Iterable[str]) -> Ingested:
        with self.watch.step("ingest") as step:

            def met(row: dict[str, Any]) -> None:
                step.recordings += 1
                if (row.get("audio_streams") or 1) > 1:
                    step.note(f"{row['uri']}: {row['audio_streams']} audio streams, of which the first is read")
                if row["status"] != "ok":
                    step.failed += 1
                    step.fail(to_failure(row, "ingest"))

            return ingest(self.lake, inputs, self.recipe.ingest, met, self.recipe.decode)

    def annotate(self) -> Iterator[Step]:
        """Annotate every pending batch, then what is left of those with long recordings; yields each step that was.

        Raises SpeechmillError once more than `max_failed_share` of the recordings failed, and at the end where units
        were not committed because recordings could not be had.
        """
        stages = self.recipe.make_stages()
        for stage in stages:
            if stage.trusted:
                what = f"{stage.name}: trust = true: the files of {stage.trusted} may run code of their own"
                LOG.warning("%s", what)
                self.watch.print(what)
        marks = fingerprints(stages, self.recipe.decode)
        units = Pending(self.lake, marks, self.retry)
        batches, total_s = expected(self.lake, (unit.unit for unit in units))
        check_room_for_rows(self.lake, total_s)
        if not self.retry:
            units = replace(units, share_s=share_s(batches, total_s, self.engine.most_workers()))
        with self.watch.step("annotate", total_s) as step:
            if batches:  # else models would be loaded in vain
                groups = [
                    self._group("annotate", group, partial(_annotator, *self._given(step), number), "unit")
                    for number, group in enumerate(grouped(stages))
                ]
                self._count(step, units, groups)
            forget_committed(self.lake, marks)
        yield step
        steps = [step]
        for stage in stages:
            piece_s = 3600 * self.recipe.piece_hours
            long = PendingPieces(self.lake, units.marks, stage.name, stage.needs, piece_s, self.retry)
            if stage.piecewise and next(long.batches(), None):
                _, total_s = expected(self.lake, long.batches())
                with self.watch.step(stage.name, total_s) as step:
                    make = partial(_piece_worker, *self._given(step), stage.name)
                    self._count(step, long, [self._group("pieces", [stage], make, "name")])
                yield step
                steps.append(step)
        _check_committed(steps, "batches" if math.isinf(units.share_s) else "batches or shares of batches")
        yield from self._match()

    def _match(self) -> Iterator[Step]:
        """Compare the fingerprints of batches that were not compared, if the recipe has them taken."""
        matching = self.matching()
        if matching is None or not matching.pending:
            return
        with self.watch.step("match", None) as step:
            for name, units_of, make in matching.STEPS:
                if units := units_of(matching):
                    self._count(step, units, [Group(f"match-{name}", partial(make, matching))])
            LOG.info("%s", matching.told())
            matching.forget()
        yield step

    def matching(self) -> Matching | None:
        """What there is to be compared; None for a recipe without fingerprints."""
        mark = fingerprints(self.recipe.make_stages(), self.recipe.decode).get("fingerprint")
        return None if mark is None else Matching.of(Matches(self.lake, mark, self.recipe.match))

    def _given(self, step: Step) -> tuple[Lake, Recipe, Retry | None, str, str]:
        """What every worker is made of."""
        return self.lake, self.recipe, self.retry, self.watch.prefix, step.beat_prefix

    def _group(self, what: str, stages: Sequence[Stage], make: Callable[[], Worker], name: str) -> Group:
        """A group that is sized for its most demanding stage. `name` is the attribute that names its units."""
        cpus = max((stage.resources.cpus for stage in stages), default=1.0)
        gpus = max((stage.resources.gpus for stage in stages), default=0.0)
        guarded = partial(Guarded, make, Attempts(self.lake.storage, self.watch.prefix), attrgetter(name))
        return Group("-".join([what, *(stage.name for stage in stages)]), guarded, cpus, gpus)

    def _count(self, step: Step, units: Iterable[Any], groups: Sequence[Group]) -> None:
        """Run units and count what comes back; SpeechmillError once too much of it failed."""
        most = self.recipe.max_failed_share
        with closing(self.engine.run(units, groups)) as results:  # the engine is stopped whatever is raised
            for done in results:
                step.done(done)
                if step.recordings >= MIN_TRIED and step.failed > most * step.recordings:
                    what = f"{step.failed} of {step.recordings} recordings failed"
                    raise SpeechmillError(what, "look at the errors in the log, or raise max_failed_share")

    def _models(self, encoder: Encoder) -> list[card.ModelUse]:
        """Every model that measured or encoded what a dataset holds."""
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
        marks = fingerprints(self.recipe.make_stages(), self.recipe.decode)
        settings = asdict(self.recipe.select)
        matches = self.recipe.match.mark(marks["fingerprint"]) if "fingerprint" in marks else None
        mark = fingerprint({"version": 1, "stages": marks, "matches": matches, **settings})
        return Selection(f"{self.recipe.name}-{mark}", marks, matches=matches, **settings)

    def select(self) -> Funnel:
        try:
            with self.watch.own.step("select"):
                return select(self.lake, self.selection(), self._spread)
        except RuleError as error:
            raise RecipeError(str(error), "correct the rule in the recipe") from error
        except FileNotFoundError as error:
            raise SpeechmillError(f"not annotated yet: {error.filename}", "run `speechmill annotate` first") from error

    def _spread(self, work: Worker, units: Iterable[Any]) -> Iterator[Any]:
        """Map over workers: Ray's, else processes of this machine, as a Beam pipeline hands back nothing but counts."""
        engine = self.engine if self.engine.name == "ray" else Engine("local", self.engine.workers)
        with closing(engine.run(units, [Group("select", partial(partial, metered, work))])) as results:
            for made, taken in results:
                self.watch.own.add("select", taken)
                yield made

    def encode(self) -> list[Encoded]:
        """Encode what the selection keeps and no shard holds, and describe the datasets, in the order of the recipe.

        Nothing is done for a dataset whose newest version holds what is selected now.
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
                dataset.name: stack.enter_context(dataset.making(config, self.retry, self.recipe.shard_s))
                for dataset, config in todo
            }
            if todo:
                uncommitted = Uncommitted(self.lake, plans)
                step.total_s = sum(unit.shard.seconds for unit in uncommitted)
                named = {dataset.name: config for dataset, config in todo}
                make = partial(_encoder, *self._given(step), named, selection)
                self._count(step, uncommitted, [self._encoding(list(named.values()), make)])
                _check_committed([step], "shards")
            for dataset, _ in todo:
                for name, data in about[dataset.name].items():
                    self.lake.storage.put(f"{dataset.prefix}/{name}", data)
                publish(self.lake, dataset.name, selected)
        return [
            Encoded(dataset.name, versions(self.lake, dataset.name)[-1], len(before[dataset.name]))
            for dataset, _ in datasets
        ]

    def _encoding(self, configs: Sequence[EncodeConfig], make: Callable[[], Worker]) -> Group:
        """The group that encodes. All encoders live in one process, and a GPU serves them in turn."""
        loaded = [config.load() for config in configs]
        cpus, gpus = max(encoder.cpus for encoder in loaded), max(encoder.gpus for encoder in loaded)
        guarded = partial(Guarded, make, Attempts(self.lake.storage, self.watch.prefix), attrgetter("name"))
        return Group("encode", guarded, cpus, gpus)

    def datasets(self) -> list[tuple[Dataset, EncodeConfig]]:
        """The datasets that this recipe makes, whether they are there or not, each with what it is encoded with."""
        selection, found = self.selection(), list[tuple[Dataset, EncodeConfig]]()
        for wanted, config in self.recipe.targets.items():
            made = made_by(config, selection.name, selection.stages["signal"])
            found.append((Dataset.of(self.lake, self.recipe.name, made, wanted), config))
        return found

    def _about(self, encoder: Encoder) -> dict[str, bytes]:
        """What the card of a dataset says of the recipe and the models."""
        models = {"models": [asdict(use) for use in self._models(encoder)]}
        return {"recipe.json": pretty(self.recipe.resolved).encode(), "models.json": pretty(models).encode()}

    def _is_encoded(
        self, dataset: Dataset, known: Sequence[Version], selected: str, about: Mapping[str, bytes]
    ) -> bool:
        """Whether the newest version holds the windows that are selected now, and was described with these words."""
        if not known or known[-1].selected != selected or self.retry or dataset.is_begun():
            return False
        numbers = committed_numbers(self.lake, dataset.name)
        if {folder: len(of_folder) for folder, of_folder in numbers.items()} != known[-1].shards:
            return False
        storage = self.lake.storage
        keys = {name: f"{dataset.prefix}/{name}" for name in about}
        return all(storage.exists(key) and storage.read(key) == about[name] for name, key in keys.items())


@dataclass(frozen=True)
class Encoded:
    """What `encode` left: a dataset, its newest version, and how many versions there were before."""

    dataset: str
    version: Version
    versions_before: int


@dataclass(frozen=True)
class Pending:
    """Batches that lack something, or hold failed rows to be made anew, each with nothing done yet.

    Picklable, so that an engine may list them elsewhere. Batches are cut into shares of `share_s` seconds of sound.
    """

    lake: Lake
    marks: Mapping[str, str]
    retry: Retry | None = None
    share_s: float = math.inf

    def __iter__(self) -> Iterator[Done]:
        again = failed(self.lake, self.marks, self.retry) if self.retry else iter(())
        merged = heapq.merge(pending(self.lake, self.marks), again)
        for batch, _ in itertools.groupby(merged):
            yield from (Done(share.name) for share in shares(self.lake, batch, self.share_s))


@dataclass(frozen=True)
class Uncommitted:
    """Shards without a commit record, and those that are to be made again, of all datasets; picklable too."""

    lake: Lake
    plans: Mapping[str, Plan]

    def __iter__(self) -> Iterator[Unit]:
        return units({dataset: self._of(dataset, plan) for dataset, plan in self.plans.items()})

    def _of(self, dataset: str, plan: Plan) -> Iterator[Shard]:
        done = {files.commit for files in committed(self.lake.storage, dataset)}
        return (shard for shard in plan if shard.again or shard.commit_key not in done)


def _check_committed(steps: Sequence[Step], units: str) -> None:
    """Raise WaitingError where units of these steps were not committed, with the first few recordings to blame."""
    uncommitted = sum(step.uncommitted for step in steps)
    if uncommitted:
        named = [f"{lost.recording_id}: {lost.error}" for step in steps for lost in step.unreachable]
        raise WaitingError(
            f"{uncommitted:,} {units} were not committed, because recordings in them cannot be had as they were "
            f"ingested; the first are: {'; '.join(named)}",
            "put the files back under their names, then run the same command again: it does what is left; or count "
            "such recordings as failed: --set unreachable=fail",
        )


def _piece_worker(
    lake: Lake, recipe: Recipe, retry: Retry | None, run: str, beats: str, name: str
) -> Callable[[Piece], Done]:
    warm()  # it starts while the models are loaded
    stages = recipe.make_stages()
    (stage,) = [stage for stage in stages if stage.name == name]
    stage.setup()
    marks, attempts = fingerprints(stages, recipe.decode), Attempts(lake.storage, run)
    worker = PieceWorker(lake, stage, marks, attempts, recipe.decode, recipe.unreachable, retry)
    return lambda piece: worker.hear(piece, Heartbeat(lake.storage, f"{beats}/{piece.name}.json"))


def _annotator(
    lake: Lake, recipe: Recipe, retry: Retry | None, run: str, beats: str, number: int
) -> Callable[[Done], Done]:
    """A worker of the group `number`; it adds to what the groups before it did."""
    warm()
    groups = grouped(recipe.make_stages())
    earlier = [stage for group in groups[:number] for stage in group]
    piece_s, attempts = 3600 * recipe.piece_hours, Attempts(lake.storage, run)
    annotator = Annotator(lake, groups[number], attempts, earlier, piece_s, recipe.decode, recipe.unreachable, retry)

    def annotate(before: Done) -> Done:
        if before.uncommitted:  # it lacks what this group reads
            return before
        done = annotator.annotate(before.unit, Heartbeat(lake.storage, f"{beats}/{before.unit}.json"))
        recordings, seconds = max(before.recordings, done.recordings), max(before.seconds, done.seconds)
        failures = list(dict.fromkeys(before.failures + done.failures))  # sound that nobody can decode fails in each
        spent = before.spent | done.spent
        return Done(before.unit, recordings, seconds, failures, done.unreachable, done.uncommitted, spent)

    return annotate


def _encoder(
    lake: Lake,
    recipe: Recipe,
    retry: Retry | None,
    run: str,
    beats: str,
    datasets: Mapping[str, EncodeConfig],
    selection: Selection,
) -> Callable[[Unit], Done]:
    warm()
    given = lake, datasets, selection.name, selection.stages["signal"]
    encoder = ShardEncoder(*given, Attempts(lake.storage, run), recipe.decode, recipe.unreachable, retry)
    return lambda unit: encoder.encode(unit, Heartbeat(lake.storage, f"{beats}/{unit.name}.json"))
