"""The Beam engine: list units, Reshuffle, a DoFn for each group of workers; counts as metrics, failures as an output.

Where it runs, and every retry, is the runner's: any option of Beam passes through.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from functools import partial
from typing import Any

from manifests.install import install
from pipelines.progress.usage import Spent, merge_groups
from pipelines.progress.watch import Done
from pipelines.units.engines import Engine, Group, Worker
from pipelines.units.engines.local import Apart
from runtime.errors import MissingExtraError, SpeechmillError
from runtime.failures import Failure

try:
    import apache_beam as beam
    from apache_beam.metrics import Metrics, MetricsFilter
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.utils.shared import Shared
except ImportError as missing:
    raise MissingExtraError(f"the Beam engine needs Beam: {missing}", install(["beam"])) from missing

NAMESPACE = "speechmill"


class _Held:
    """A worker, as `Shared` can hold it, and who may use it: runners run bundles side by side in one process."""

    def __init__(self, group: Group) -> None:
        self.work: Worker = group.make()
        self.alone = threading.Lock()


class Work(beam.DoFn):
    """A worker of a group, one a process, whatever the threads and bundles in it."""

    def __init__(self, group: Group) -> None:
        self.group, self.shared = group, Shared()

    def setup(self) -> None:
        self.held: _Held | None = self.shared.acquire(lambda: _Held(self.group))

    def process(self, unit: Any) -> Iterator[Any]:
        assert self.held is not None
        with self.held.alone:
            done = self.held.work(unit)
        yield done

    def teardown(self) -> None:
        self.held = None


class Count(beam.DoFn):
    """Results as counters, on whatever page the runner has."""

    def process(self, done: Done) -> None:
        counts = {"units": 1, "recordings": done.recordings, "failed": done.failed, "uncommitted": done.uncommitted}
        for name, count in (counts | {"milliseconds": round(1000 * done.seconds)}).items():
            Metrics.counter(NAMESPACE, name).inc(count)
        for name, failures in (("failures", done.failures), ("unreachable", done.unreachable)):
            for failure in failures:
                Metrics.string_set(NAMESPACE, name).add(json.dumps(astuple(failure)))


class Sum(beam.CombineFn):
    """What groups of workers have spent, over all units."""

    def create_accumulator(self) -> dict[str, Spent]:
        return {}

    def add_input(self, whole: dict[str, Spent], done: Done) -> dict[str, Spent]:
        return merge_groups(whole, done.spent)

    def merge_accumulators(self, parts: Iterable[dict[str, Spent]]) -> dict[str, Spent]:
        whole: dict[str, Spent] = {}
        for part in parts:
            merge_groups(whole, part)
        return whole

    def extract_output(self, whole: dict[str, Spent]) -> dict[str, Spent]:
        return whole


class Tell(beam.DoFn):
    """Sums as one text: a runner hands back no others than those of whole numbers."""

    def process(self, whole: dict[str, Spent]) -> None:
        told = {group: spent.to_json() for group, spent in whole.items()}
        Metrics.string_set(NAMESPACE, "spent").add(json.dumps(told))


class Report(beam.DoFn):
    """Units of which a worker raised an error: counted, and their messages told."""

    def process(self, failure: tuple[Any, tuple[type, str, list[str]]]) -> None:
        _, (_, message, _) = failure
        Metrics.counter(NAMESPACE, "failed units").inc()
        Metrics.string_set(NAMESPACE, "errors").add(message)


def build(pipeline: beam.Pipeline, units: Iterable[Any], groups: Sequence[Group]) -> None:
    """The graph. Units are listed by a worker, so that the graph stays small however many there are."""
    flowing = pipeline | "Start" >> beam.Create([None]) | "Units" >> beam.FlatMap(lambda _: units)
    failures = []
    for group in groups:
        spread = flowing | f"Spread, {group.name}" >> beam.Reshuffle()
        flowing, failed = spread | group.name >> beam.ParDo(Work(group)).with_exception_handling()
        failures.append(failed)
    flowing | "Count" >> beam.ParDo(Count())
    flowing | "Sum" >> beam.CombineGlobally(Sum()) | "Tell" >> beam.ParDo(Tell())
    failures | "Failures" >> beam.Flatten() | "Report" >> beam.ParDo(Report())


def run(units: Iterable[Any], groups: Sequence[Group], engine: Engine) -> Iterator[Done]:
    """One result, the sum of all, at the end: a runner tells nothing before. SpeechmillError if units failed."""
    given = ["--runner=FnApiRunner"]  # in this process; DirectRunner would first try to download another
    if engine.workers:
        given += ["--direct_running_mode=multi_processing", f"--direct_num_workers={engine.workers[1]}"]
    if not any(option.startswith("--runner") for option in engine.options):
        # A worker's death makes this runner wait for ever.
        groups = [replace(group, make=partial(Apart, group.make)) for group in groups]
    pipeline = beam.Pipeline(options=PipelineOptions([*given, *engine.options]))
    build(pipeline, units, groups)
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:  # each runner has errors of its own
        raise SpeechmillError(
            f"the pipeline failed: {error}", "run the same command again: what is done stays"
        ) from error
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    counts = {counter.key.metric.name: counter.result or 0 for counter in found["counters"]}
    told = {strings.key.metric.name: sorted(strings.result or ()) for strings in found["string_sets"]}
    failures, unreachable = (
        [Failure(*json.loads(text)) for text in told.get(name, [])] for name in ("failures", "unreachable")
    )
    seconds = counts.get("milliseconds", 0) / 1000
    recordings, uncommitted = counts.get("recordings", 0), counts.get("uncommitted", 0)
    sums: dict[str, Any] = next(map(json.loads, told.get("spent", [])), {})
    spent = {group: Spent.from_json(one) for group, one in sums.items()}
    yield Done("all", recordings, seconds, failures, unreachable, uncommitted, spent)
    if counts.get("failed units"):
        raise SpeechmillError(
            f"{counts['failed units']} units failed: {'; '.join(told.get('errors', []))}",
            "fix these errors, then run the same command again",
        )
