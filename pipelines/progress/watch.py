"""Shows the progress of a run, and writes its log, recipe and summary under `runs/<time>/`."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from types import TracebackType
from typing import Any

from manifests.fingerprint import pretty
from manifests.output import one_line
from manifests.storage import Storage, StorageError
from manifests.version import version
from pipelines.progress.console import public
from pipelines.progress.usage import CommandUsage, Usage, merge_usage
from runtime.errors import SpeechmillError
from runtime.failures import Failure

LOG = logging.getLogger("speechmill")
STORAGE_LOG = logging.getLogger("speechmill.storage")
HEARTBEAT_S = 5.0
"""Seconds between two heartbeats of a worker."""
PLAIN_LINE_S = 30.0
"""Seconds between two lines of progress where there is no terminal."""
SHOWN_FAILURES = 5
"""Failures of a step that are shown; all of them are in the log."""
SHOWN_NOTES = 5


@dataclass
class UnitResult:
    """The result of one unit of work: all that a worker returns to the run."""

    name: str
    """The name of the unit."""
    recordings: int = 0
    """Recordings that were processed, failed ones included."""
    seconds: float = 0.0
    """Seconds of sound in them."""
    failures: list[Failure] = field(default_factory=list)

    unreachable: list[Failure] = field(default_factory=list)
    """The first few unreachable recordings, because of which the unit was not committed."""
    uncommitted: int = 0
    """The number of units that were not committed: 1 for this one, or more in a sum that an engine made."""
    spent: dict[str, Usage] = field(default_factory=dict, compare=False)
    """What the unit used, by group of workers."""

    @property
    def failed(self) -> int:
        """The number of recordings that failed in any stage."""
        return len({failure.recording_id for failure in self.failures})

    def combined_with(self, later: UnitResult) -> UnitResult:
        """Return the result of this unit after another group of workers has processed it, too."""
        return UnitResult(
            self.name,
            max(self.recordings, later.recordings),
            max(self.seconds, later.seconds),
            list(dict.fromkeys(self.failures + later.failures)),  # a recording that does not decode fails in each group
            later.unreachable,
            later.uncommitted,
            self.spent | later.spent,
        )


class Heartbeat:
    """Reports the progress of a worker inside a unit, by a small file under `runs/` that works with any engine."""

    def __init__(self, storage: Storage, key: str) -> None:
        self.storage, self.key = storage, key
        self.seconds = 0.0
        self.last = time.monotonic()

    def __call__(self, recording_id: str, seconds: float, failed: bool) -> None:
        """Count a finished recording. It writes the file at most once in `HEARTBEAT_S` seconds."""
        self.seconds += seconds
        if time.monotonic() - self.last >= HEARTBEAT_S:
            self.storage.put(self.key, json.dumps({"seconds": self.seconds}).encode())
            self.last = time.monotonic()


class Step:
    """The counts of one step of a run: results of finished units, and heartbeats of running ones."""

    def __init__(self, watch: Watch, name: str, total_s: float | None) -> None:
        self.watch, self.name, self.total_s = watch, name, total_s
        self.recordings = self.failed = 0
        self.done_s = 0.0
        self.running_s: dict[str, float] = {}
        """Seconds of sound that are done in each running unit."""
        self.reasons: Counter[str] = Counter()
        self.spent: dict[str, Usage] = {}
        self.notes = 0
        self.uncommitted = 0
        self.unreachable: list[Failure] = []
        """The first few unreachable recordings, because of which units were not committed."""
        self.begun = time.monotonic()
        self.ended: float | None = None

    @property
    def heartbeat_prefix(self) -> str:
        """The folder of the heartbeats, with a file `<unit>.json` for each running unit."""
        return f"{self.watch.prefix}/working"

    def add_result(self, result: UnitResult) -> None:
        """Count and log the result of a finished unit, and show the first failures."""
        LOG.info(
            "%s %s: %d recordings, %.3f h, %d failed",
            self.name, result.name, result.recordings, result.seconds / 3600, result.failed,
        )  # fmt: skip
        self.recordings += result.recordings
        self.done_s += result.seconds
        self.failed += result.failed
        merge_usage(self.spent, result.spent)
        for failure in result.failures:
            self.fail(failure)
        self.uncommitted += result.uncommitted
        for failure in result.unreachable:
            LOG.warning("%s %s: not committed: %s: %s", self.name, result.name, failure.recording_id, failure.error)
            if len(self.unreachable) < SHOWN_FAILURES:
                self.unreachable.append(failure)
        self.watch.storage.delete(f"{self.heartbeat_prefix}/{result.name}.json")
        self.running_s = {unit: seconds for unit, seconds in self.running_s.items() if unit != result.name}

    def fail(self, failure: Failure) -> None:
        """Log a failure, and show it if it is one of the first few of the step."""
        self.reasons[failure.reason] += 1
        what = one_line(f"{failure.recording_id}: {failure.reason}: {failure.error}; remedy: {failure.remedy}")
        LOG.warning("%s", what)
        shown = self.reasons.total()
        if shown <= SHOWN_FAILURES:
            self.watch.print(f"failed: {what}")
        elif shown == SHOWN_FAILURES + 1:
            self.watch.print(f"failed: more, see {self.watch.prefix}/log.txt")

    def note(self, what: str) -> None:
        """Log something that is no failure, and show it if it is one of the first few notes of the step."""
        self.notes += 1
        LOG.info("%s", what)
        if self.notes <= SHOWN_NOTES:
            self.watch.print(f"note: {what}")
        elif self.notes == SHOWN_NOTES + 1:
            self.watch.print(f"note: more, see {self.watch.prefix}/log.txt")

    @property
    def wall_s(self) -> float:
        """Seconds since the step began, or from its beginning to its end."""
        return max(1e-3, (self.ended or time.monotonic()) - self.begun)

    def position_s(self) -> float:
        """Return the seconds of sound that are done, in finished and in running units."""
        return self.done_s + sum(self.running_s.values())

    def text(self) -> str:
        """Return position, rate, time left, failures and memory as a text of at most 60 columns."""
        position_s, rate = self.position_s(), self.position_s() / self.wall_s
        parts = []
        if self.total_s is None:
            parts.append(f"{self.recordings:,} recordings")
        else:
            parts.append(f"{position_s / 3600:.2f}/{self.total_s / 3600:.2f} h")
            parts.append(f"{rate:.{0 if rate >= 10 else 1}f} h/h")
            if rate and self.total_s > position_s:
                parts.append(f"{clock((self.total_s - position_s) / rate)} left")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        parts.append(f"{_memory_bytes() / 2**30:.1f} GiB")
        return ", ".join(parts)

    def summary(self) -> dict[str, Any]:
        """Return what `summary.json` says of the step."""
        return {
            "wall_s": round(self.wall_s, 3),
            "recordings": self.recordings,
            "hours": self.done_s / 3600,
            "hours_per_hour": self.done_s / self.wall_s,
            "failed": self.failed,
            "reasons": dict(self.reasons.most_common()),
            "spent": {group: spent.to_json() for group, spent in self.spent.items()},
        }

    def _read_heartbeats(self) -> None:
        running_s: dict[str, float] = {}
        for key in self.watch.storage.list(self.heartbeat_prefix):
            name = key.rpartition("/")[2]
            if name.startswith("."):  # a network file system or a desktop left it
                continue
            try:
                running_s[name.removesuffix(".json")] = json.loads(self.watch.storage.read(key))["seconds"]
            except FileNotFoundError:
                continue  # its unit has just ended
        self.running_s = running_s


class _Formatter(logging.Formatter):
    """Formats lines of the log without secrets and control characters, because people read it in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return public(super().format(record))


class _StorageWarnings(logging.Handler):
    """Shows the warnings of the storage, because the log may lie in that storage."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.WARNING)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        self._watch.print(record.getMessage())


class Watch:
    """Shows and logs what a command does on a lake. Use it as a context manager around the whole command.

    It prints to stderr: a progress bar on a terminal, otherwise a plain line every 30 s.
    """

    def __init__(self, storage: Storage, command: str, recipe: dict[str, Any], quiet: bool = False) -> None:
        """
        Args:
            storage: The storage of the lake.
            command: The command line.
            recipe: The resolved recipe.
            quiet: Whether nothing is printed.
        """
        self.storage, self.quiet = storage, quiet
        begun = datetime.now(UTC)
        self.prefix = f"runs/{begun:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:4]}"
        self.steps: list[Step] = []
        self.results: dict[str, Any] = {}
        self.own = CommandUsage()
        """What the command itself used, besides the units of its workers."""
        self.begun = time.monotonic()
        self.about = {"command": command, "begun": begun.isoformat(timespec="seconds"), "machine": _machine()}
        self.recipe = recipe
        self._progress: Any = None

    def __enter__(self) -> Watch:
        self.storage.put(f"{self.prefix}/recipe.json", pretty(self.recipe).encode())
        self._log = self.storage.log(f"{self.prefix}/log.txt")
        self._handler = logging.StreamHandler(self._log)
        formatter = _Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        formatter.converter = time.gmtime
        self._handler.setFormatter(formatter)
        LOG.addHandler(self._handler)
        self._storage_warnings = _StorageWarnings(self)
        STORAGE_LOG.addHandler(self._storage_warnings)
        LOG.setLevel(logging.INFO)
        LOG.propagate = False
        LOG.info("%s", self.about["command"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome: dict[str, Any] = {"outcome": "done"}
        if error is not None:
            interrupted = isinstance(error, KeyboardInterrupt)
            what = public(f"{type(error).__name__}: {error}")
            outcome = {"outcome": "interrupted" if interrupted else "stopped", "error": what}
            LOG.error("%s", "interrupted" if interrupted else what, exc_info=not _is_expected(error))
        LOG.removeHandler(self._handler)
        self._log.close()
        STORAGE_LOG.removeHandler(self._storage_warnings)
        if isinstance(error, StorageError):
            return  # nothing more can be written there
        steps = {step.name: step.summary() for step in self.steps}
        about = self.about | outcome | {"wall_s": self.wall_s}
        text = pretty(about | {"steps": steps, "own": self.own.to_json(), "results": self.results})
        try:
            self.storage.put(f"{self.prefix}/summary.json", text.encode())
        except OSError:  # for example a full disk; the error that stopped the run is reported instead
            if error is None:
                raise

    @contextmanager
    def step(self, name: str, total_s: float | None = None) -> Iterator[Step]:
        """Begin a step, and show its progress until the block ends.

        Args:
            name: The name of the step.
            total_s: Its seconds of sound. Without them, recordings are counted instead.
        """
        step = Step(self, name, total_s)
        self.steps.append(step)
        stop = threading.Event()
        display = threading.Thread(target=self._show, args=(step, stop), daemon=True)
        display.start()
        try:
            with self.own.step(name):
                yield step
        finally:
            step.ended = time.monotonic()
            stop.set()
            display.join()
            step.running_s = {}  # these units have ended since the last heartbeat was read
            LOG.info("%s ended: %s", name, step.text())

    @property
    def wall_s(self) -> float:
        """Seconds since the command began."""
        return round(time.monotonic() - self.begun, 3)

    def warn(self, text: str) -> None:
        """Log and show a warning."""
        LOG.warning("%s", text)
        self.print(f"warning: {text}")

    def print(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._progress is not None:
            self._progress.console.print(public(text), markup=False, highlight=False)
        elif not self.quiet:
            print(public(text), file=sys.stderr, flush=True)

    def _show(self, step: Step, stop: threading.Event) -> None:
        if self.quiet:
            stop.wait()
        elif sys.stderr.isatty():
            self._show_bar(step, stop)
        else:
            printed_at = time.monotonic()
            while not stop.wait(1.0):
                if time.monotonic() - printed_at >= PLAIN_LINE_S:
                    step._read_heartbeats()
                    self.print(f"{step.name}: {step.text()}")
                    printed_at = time.monotonic()

    def _show_bar(self, step: Step, stop: threading.Event) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(14), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=Console(stderr=True), transient=True) as self._progress:
            task = self._progress.add_task(step.name, total=step.total_s, text="")
            while not stop.wait(0.5):
                step._read_heartbeats()
                state = {"total": step.total_s, "completed": step.position_s(), "text": step.text()}
                self._progress.update(task, **state)
        self._progress = None


def _is_expected(error: BaseException) -> bool:
    """Return whether an error is explained by its message, so that the log needs no traceback."""
    return isinstance(error, (SpeechmillError, KeyboardInterrupt, OSError))


def clock(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds, such as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _memory_bytes() -> int:
    """Return the resident memory of this process and its children."""
    import psutil

    total = 0
    this_process = psutil.Process()
    for process in [this_process, *this_process.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _machine() -> dict[str, Any]:
    """Return what `summary.json` says of this machine."""
    names = ("numpy", "av", "soxr", "onnxruntime", "torch", "pyannote-audio", "faster-whisper", "duckdb")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions["speechmill"] = version()
    return {
        "host": platform.node(), "platform": platform.platform(), "python": platform.python_version(),
        "cpus": os.cpu_count(), "versions": versions,
    }  # fmt: skip
