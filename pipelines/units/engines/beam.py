"""The Beam engine: a pipeline that lists units, reshuffles them, and has a DoFn for each group of workers.

Counts are returned as metrics, and failures are an output of the pipeline. The runner decides where the pipeline runs
and what it retries. Any option of Beam is passed through to it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from functools import partial
from typing import Any

from manifests.install import install
from pipelines.progress.usage import Usage, merge_usage
from pipelines.progress.watch import UnitResult
from pipelines.units.engines import Engine, Group, Worker
from pipelines.units.engines.local import SubprocessWorker
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


class _SharedWorker:
    """A worker that the threads of a process share, with a lock: runners process several bundles at the same time."""

    def __init__(self, group: Group) -> None:
        self.work: Worker = group.make()
        self.lock = threading.Lock()


class Work(beam.DoFn):
    """Runs a worker of a group. Each process has one worker, however many threads and bundles it has."""

    def __init__(self, group: Group) -> None:
        self.group, self.shared = group, Shared()

    def setup(self) -> None:
        self.worker: _SharedWorker | None = self.shared.acquire(lambda: _SharedWorker(self.group))

    def process(self, unit: Any) -> Iterator[Any]:
        assert self.worker is not None
        with self.worker.lock:
            result = self.worker.work(unit)
        yield result

    def teardown(self) -> None:
        self.worker = None


class CountResults(beam.DoFn):
    """Adds results to counters, which the runner shows wherever it shows counters."""

    def process(self, result: UnitResult) -> None:
        counts = {
            "units": 1,
            "recordings": result.recordings,
            "failed": result.failed,
            "uncommitted": result.uncommitted,
        }
        for name, count in (counts | {"milliseconds": round(1000 * result.seconds)}).items():
            Metrics.counter(NAMESPACE, name).inc(count)
        for name, failures in (("failures", result.failures), ("unreachable", result.unreachable)):
            for failure in failures:
                Metrics.string_set(NAMESPACE, name).add(json.dumps(astuple(failure)))


class SumUsage(beam.CombineFn):
    """Sums the usage of the groups of workers over all units."""

    def create_accumulator(self) -> dict[str, Usage]:
        return {}

    def add_input(self, whole: dict[str, Usage], result: UnitResult) -> dict[str, Usage]:
        return merge_usage(whole, result.spent)

    def merge_accumulators(self, parts: Iterable[dict[str, Usage]]) -> dict[str, Usage]:
        whole: dict[str, Usage] = {}
        for part in parts:
            merge_usage(whole, part)
        return whole

    def extract_output(self, whole: dict[str, Usage]) -> dict[str, Usage]:
        return whole


class PublishUsage(beam.DoFn):
    """Publishes the summed usage as one JSON text, because the counters of a runner hold integers only."""

    def process(self, whole: dict[str, Usage]) -> None:
        by_group = {group: spent.to_json() for group, spent in whole.items()}
        Metrics.string_set(NAMESPACE, "spent").add(json.dumps(by_group))


class ReportErrors(beam.DoFn):
    """Counts the units during which a worker raised an error, and publishes the messages."""

    def process(self, failure: tuple[Any, tuple[type, str, list[str]]]) -> None:
        _, (_, message, _) = failure
        Metrics.counter(NAMESPACE, "failed units").inc()
        Metrics.string_set(NAMESPACE, "errors").add(message)


def build(pipeline: beam.Pipeline, units: Iterable[Any], groups: Sequence[Group]) -> None:
    """Add the transforms to a pipeline. A worker lists the units, so the graph stays small however many there are."""
    results = pipeline | "Start" >> beam.Create([None]) | "Units" >> beam.FlatMap(lambda _: units)
    failures = []
    for group in groups:
        spread = results | f"Spread, {group.name}" >> beam.Reshuffle()
        results, failed = spread | group.name >> beam.ParDo(Work(group)).with_exception_handling()
        failures.append(failed)
    results | "Count" >> beam.ParDo(CountResults())
    results | "Sum" >> beam.CombineGlobally(SumUsage()) | "Publish usage" >> beam.ParDo(PublishUsage())
    failures | "Failures" >> beam.Flatten() | "Report" >> beam.ParDo(ReportErrors())


def run(units: Iterable[Any], groups: Sequence[Group], engine: Engine) -> Iterator[UnitResult]:
    """Yield one result at the end, the sum over all units, because a runner returns nothing before.

    Raises:
        SpeechmillError: The pipeline failed, or workers raised errors.
    """
    defaults = ["--runner=FnApiRunner"]  # in this process; DirectRunner would first try to download another one
    if engine.workers:
        defaults += ["--direct_running_mode=multi_processing", f"--direct_num_workers={engine.workers[1]}"]
    if not any(option.startswith("--runner") for option in engine.options):
        # This runner hangs if a worker dies.
        groups = [replace(group, make=partial(SubprocessWorker, group.make)) for group in groups]
    pipeline = beam.Pipeline(options=PipelineOptions([*defaults, *engine.options]))
    build(pipeline, units, groups)
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:  # each runner has its own errors
        raise SpeechmillError(
            f"the pipeline failed: {error}", "run the same command again: what is done stays"
        ) from error
    metrics = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    counts = {counter.key.metric.name: counter.result or 0 for counter in metrics["counters"]}
    texts = {strings.key.metric.name: sorted(strings.result or ()) for strings in metrics["string_sets"]}
    failures, unreachable = (
        [Failure(*json.loads(text)) for text in texts.get(name, [])] for name in ("failures", "unreachable")
    )
    seconds = counts.get("milliseconds", 0) / 1000
    recordings, uncommitted = counts.get("recordings", 0), counts.get("uncommitted", 0)
    sums: dict[str, Any] = next(map(json.loads, texts.get("spent", [])), {})
    spent = {group: Usage.from_json(one) for group, one in sums.items()}
    yield UnitResult("all", recordings, seconds, failures, unreachable, uncommitted, spent)
    if counts.get("failed units"):
        raise SpeechmillError(
            f"{counts['failed units']} units failed: {'; '.join(texts.get('errors', []))}",
            "fix these errors, then run the same command again",
        )
