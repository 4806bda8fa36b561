"""A sweep: the runs of a plan that are not done yet, several side by side, and the table that `study fit` reads."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.whole import whole_text
from runtime.errors import SpeechmillError
from studies.slm import data
from studies.slm.model import Shape, rounded
from studies.slm.train import RESULT, Corpus, Settings, Trainer, check_same, locked, told

RUNS, TABLE = "runs", "runs.csv"


@dataclass(frozen=True)
class Job:
    """One run and the name of its folder."""

    name: str
    settings: Settings


@dataclass(frozen=True)
class Given:
    """What a corpus is opened by, in any process."""

    lake: str
    dataset: str | None
    patch: int
    device: str
    held_windows: int
    also: str | None

    def open(self) -> Corpus:
        """In this process."""
        return Corpus(self.lake, self.dataset, self.patch, self.device, self.held_windows, self.also)


def cells(path: Path) -> list[dict[str, float]]:
    """The runs that `study plan --csv` or `--json` wrote. SpeechmillError for any other file."""
    try:
        if path.suffix == ".json":
            rows = json.loads(path.read_text())["runs"]
        else:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        names = ("flops", "params", "width", "depth")
        found = [{name: float(row[name]) for name in names if row[name] not in ("", None)} for row in rows]
    except (OSError, KeyError, TypeError, ValueError) as error:
        what = f"{path} is no plan of runs: {type(error).__name__}: {error}"
        raise SpeechmillError(what, "write one by `speechmill study plan ... --csv FILE`") from error
    if not found:
        raise SpeechmillError(f"{path} has no runs", "write some by `speechmill study plan ... --csv FILE`")
    return found


def jobs(plan: Sequence[dict[str, float]], seeds: Sequence[int], depth: int, **settings: Any) -> list[Job]:
    """A run for each cell and seed. Sizes without a width get `depth` and the width that comes nearest.

    Widths are rounded to what networks can have, and tokens follow from the size that there is then: the compute is
    that of the plan. Of cells that get one shape, the first counts. SpeechmillError for settings that cannot be.
    """
    streams = 1 if settings.get("model") == "ar" else 2
    found: dict[str, Job] = {}
    for cell in plan:
        for seed in seeds:
            try:
                if "width" in cell:
                    shape = Shape(rounded(cell["width"]), int(cell["depth"]), streams)
                else:
                    shape = Shape.of(cell["params"], depth, streams)
                made = Settings(cell["flops"], shape.width, shape.depth, seed, **settings)
            except ValueError as error:
                raise SpeechmillError(f"a run cannot be made: {error}", "correct the plan or the --set") from error
            name = f"{made.model}-{made.flops:.4g}-{shape.width}x{shape.depth}-{seed}".replace("+", "")
            found.setdefault(name, Job(name, made))
    return list(found.values())


def sweep(
    given: Given,
    todo: Sequence[Job],
    folder: Path,
    workers: int,
    tell: Callable[[str, dict[str, Any]], None],
    expect: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Do what of the jobs is not done, and write `runs.csv` after each; gives its rows.

    With several workers each is a process, and all share the device. The largest runs come first. `expect` is told
    first how many seconds of one worker all runs will take.
    """
    with locked(folder):
        sound = data.Sound.opened(given.lake, given.dataset, given.patch)
        for job in todo:
            check_same(folder / RUNS / job.name, told(job.settings, sound, given.also))
        missing = [job for job in todo if not (folder / RUNS / job.name / RESULT).is_file()]
        missing.sort(key=lambda job: -job.settings.flops)
        rows = table(todo, folder)
        corpus = given.open() if missing else None
        if expect and corpus:
            expect(estimate(corpus, missing, folder))
        if workers > 1:
            corpus = None  # each worker opens its own
        for name, result in _done(given, corpus, missing, folder, min(workers, len(missing))):
            tell(name, result)
            rows = table(todo, folder)
    return rows


def estimate(corpus: Corpus, missing: Sequence[Job], folder: Path) -> float:
    """Seconds that the steps of all runs take which are not done yet, by a few steps of each shape and batch.

    They are seconds of CPU time where the device is the CPU, because other programs do not add to those.
    """
    clock = time.process_time if corpus.device == "cpu" else time.perf_counter
    a_step: dict[tuple[Any, ...], float] = {}
    total = 0.0
    for job in missing:
        trainer = Trainer(corpus, job.settings, folder / RUNS / job.name)
        kind = job.settings.shape, job.settings.rows_a_step
        if kind not in a_step:
            a_step[kind] = trainer.seconds_a_step(clock)
        total += a_step[kind] * (trainer.steps - trainer.done)
    return total


def table(todo: Sequence[Job], folder: Path) -> list[dict[str, Any]]:
    """Write `runs.csv`, a row for each job that is done, in their order."""
    rows = []
    for job in todo:
        path = folder / RUNS / job.name / RESULT
        if path.is_file():
            rows.append({"run": job.name, **json.loads(path.read_text())})
    if rows:
        with whole_text(folder / TABLE) as file:
            names = list(dict.fromkeys(name for row in rows for name in row))
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return rows


def _done(
    given: Given, corpus: Corpus | None, missing: Sequence[Job], folder: Path, workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    if workers <= 1:
        for job in missing:
            yield job.name, Trainer(corpus or given.open(), job.settings, folder / RUNS / job.name).run()
        return
    apart = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, apart, _begin, (given, os.getpid())) as pool:
        begun = {pool.submit(_one, job, folder): job for job in missing}
        for one in as_completed(begun):
            yield begun[one].name, one.result()


_here: list[Any] = []
"""In a worker: its corpus and the process that began it."""


def _begin(given: Given, parent: int) -> None:
    _here[:] = given.open(), parent


def _one(job: Job, folder: Path) -> dict[str, Any]:
    corpus, parent = _here
    return Trainer(corpus, job.settings, folder / RUNS / job.name).run(alive=lambda: os.getppid() == parent)
