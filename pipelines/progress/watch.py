"""What a person sees of a run while it works, and what stays of it under `runs/<time>/`: log, recipe, summary."""

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
from pipelines.progress.usage import Own, Spent, merge_groups
from runtime.errors import SpeechmillError
from runtime.failures import Failure

LOG = logging.getLogger("speechmill")
STORAGE_LOG = logging.getLogger("speechmill.storage")
BEAT_S = 5.0
PLAIN_S = 30.0
SHOWN_FAILURES = 5
"""Failures shown as they happen; all are in the log."""
SHOWN_NOTES = 5


@dataclass
class Done:
    """What one unit of work came to: all that crosses from a worker to the run."""

    unit: str
    recordings: int = 0
    seconds: float = 0.0
    """Of sound."""
    failures: list[Failure] = field(default_factory=list)

    unreachable: list[Failure] = field(default_factory=list)
    """The first few recordings whose sound could not be had, and because of which the unit was not committed."""
    uncommitted: int = 0
    """Units that were not committed because of them: this one, or those that an engine has summed up."""
    spent: dict[str, Spent] = field(default_factory=dict, compare=False)
    """By the group of workers that spent it."""

    @property
    def failed(self) -> int:
        """Recordings of which anything failed."""
        return len({failure.recording_id for failure in self.failures})


class Heartbeat:
    """A worker's sign of life inside a long unit: a small file under `runs/`, the same way on any engine."""

    def __init__(self, storage: Storage, key: str) -> None:
        self.storage, self.key = storage, key
        self.seconds = 0.0
        self.last = time.monotonic()

    def __call__(self, recording_id: str, seconds: float, failed: bool) -> None:
        """Count a recording that is done; at most one write in `BEAT_S`."""
        self.seconds += seconds
        if time.monotonic() - self.last >= BEAT_S:
            self.storage.put(self.key, json.dumps({"seconds": self.seconds}).encode())
            self.last = time.monotonic()


class Step:
    """Counts of one step of a run. `units` of work are done one by one; heartbeats tell what is in flight."""

    def __init__(self, watch: Watch, name: str, total_s: float | None) -> None:
        self.watch, self.name, self.total_s = watch, name, total_s
        self.recordings = self.failed = 0
        self.done_s = 0.0
        self.flying_s: dict[str, float] = {}
        """Seconds of sound that are done of each unit in flight."""
        self.reasons: Counter[str] = Counter()
        self.spent: dict[str, Spent] = {}
        self.notes = 0
        self.uncommitted = 0
        self.unreachable: list[Failure] = []
        """The first few recordings because of which units were not committed."""
        self.begun = time.monotonic()
        self.ended: float | None = None

    @property
    def beat_prefix(self) -> str:
        """Folder of the heartbeats, one `<unit>.json` a unit in flight."""
        return f"{self.watch.prefix}/working"

    def done(self, done: Done) -> None:
        """Count a finished unit, log it, and show its first failures."""
        LOG.info(
            "%s %s: %d recordings, %.3f h, %d failed",
            self.name, done.unit, done.recordings, done.seconds / 3600, done.failed,
        )  # fmt: skip
        self.recordings += done.recordings
        self.done_s += done.seconds
        self.failed += done.failed
        merge_groups(self.spent, done.spent)
        for failure in done.failures:
            self.fail(failure)
        self.uncommitted += done.uncommitted
        for failure in done.unreachable:
            LOG.warning("%s %s: not committed: %s: %s", self.name, done.unit, failure.recording_id, failure.error)
            if len(self.unreachable) < SHOWN_FAILURES:
                self.unreachable.append(failure)
        self.watch.storage.delete(f"{self.beat_prefix}/{done.unit}.json")
        self.flying_s = {unit: seconds for unit, seconds in self.flying_s.items() if unit != done.unit}

    def fail(self, failure: Failure) -> None:
        """Log a failure; the first few of a step are shown too."""
        self.reasons[failure.reason] += 1
        what = one_line(f"{failure.recording_id}: {failure.reason}: {failure.error}; remedy: {failure.remedy}")
        LOG.warning("%s", what)
        shown = self.reasons.total()
        if shown <= SHOWN_FAILURES:
            self.watch.print(f"failed: {what}")
        elif shown == SHOWN_FAILURES + 1:
            self.watch.print(f"failed: more, see {self.watch.prefix}/log.txt")

    def note(self, what: str) -> None:
        """Log what is worth knowing and no failure; the first few of a step are shown too."""
        self.notes += 1
        LOG.info("%s", what)
        if self.notes <= SHOWN_NOTES:
            self.watch.print(f"note: {what}")
        elif self.notes == SHOWN_NOTES + 1:
            self.watch.print(f"note: more, see {self.watch.prefix}/log.txt")

    @property
    def wall_s(self) -> float:
        return max(1e-3, (self.ended or time.monotonic()) - self.begun)

    def position_s(self) -> float:
        """Seconds of sound behind us, those of units in flight included."""
        return self.done_s + sum(self.flying_s.values())

    def text(self) -> str:
        """Position, rate, time left, failures and memory, in 60 columns."""
        here_s, rate = self.position_s(), self.position_s() / self.wall_s
        parts = []
        if self.total_s is None:
            parts.append(f"{self.recordings:,} recordings")
        else:
            parts.append(f"{here_s / 3600:.2f}/{self.total_s / 3600:.2f} h")
            parts.append(f"{rate:.{0 if rate >= 10 else 1}f} h/h")
            if rate and self.total_s > here_s:
                parts.append(f"{clock((self.total_s - here_s) / rate)} left")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        parts.append(f"{_memory_bytes() / 2**30:.1f} GiB")
        return ", ".join(parts)

    def summary(self) -> dict[str, Any]:
        return {
            "wall_s": round(self.wall_s, 3),
            "recordings": self.recordings,
            "hours": self.done_s / 3600,
            "hours_per_hour": self.done_s / self.wall_s,
            "failed": self.failed,
            "reasons": dict(self.reasons.most_common()),
            "spent": {group: spent.to_json() for group, spent in self.spent.items()},
        }

    def _poll(self) -> None:
        flying_s: dict[str, float] = {}
        for key in self.watch.storage.list(self.beat_prefix):
            name = key.rpartition("/")[2]
            if name.startswith("."):  # left by a network file system or a desktop
                continue
            try:
                flying_s[name.removesuffix(".json")] = json.loads(self.watch.storage.read(key))["seconds"]
            except FileNotFoundError:
                continue  # its unit was done meanwhile
        self.flying_s = flying_s


class _Formatter(logging.Formatter):
    """Lines of the log: a person will look at them in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return public(super().format(record))


class _Telling(logging.Handler):
    """What the storage waits for, to the person: the log may lie in that storage."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.WARNING)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        self._watch.print(record.getMessage())


class Watch:
    """One command at work on a lake: use as a context manager around everything it does.

    On a terminal a bar shows each step; elsewhere a plain line every 30 s; with `quiet` nothing. All goes to stderr.
    """

    def __init__(self, storage: Storage, command: str, recipe: dict[str, Any], quiet: bool = False) -> None:
        self.storage, self.quiet = storage, quiet
        begun = datetime.now(UTC)
        self.prefix = f"runs/{begun:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:4]}"
        self.steps: list[Step] = []
        self.results: dict[str, Any] = {}
        self.own = Own()
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
        self._telling = _Telling(self)
        STORAGE_LOG.addHandler(self._telling)
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
            LOG.error("%s", "interrupted" if interrupted else what, exc_info=not _expected(error))
        LOG.removeHandler(self._handler)
        self._log.close()
        STORAGE_LOG.removeHandler(self._telling)
        if isinstance(error, StorageError):
            return  # nothing more can be kept there
        steps = {step.name: step.summary() for step in self.steps}
        about = self.about | outcome | {"wall_s": self.wall_s}
        text = pretty(about | {"steps": steps, "own": self.own.to_json(), "results": self.results})
        try:
            self.storage.put(f"{self.prefix}/summary.json", text.encode())
        except OSError:  # a full disk, say: what stopped the run is told, not this
            if error is None:
                raise

    @contextmanager
    def step(self, name: str, total_s: float | None = None) -> Iterator[Step]:
        """A step of `total_s` seconds of sound, shown while it lasts."""
        step = Step(self, name, total_s)
        self.steps.append(step)
        stop = threading.Event()
        shown = threading.Thread(target=self._show, args=(step, stop), daemon=True)
        shown.start()
        try:
            with self.own.step(name):
                yield step
        finally:
            step.ended = time.monotonic()
            stop.set()
            shown.join()
            step.flying_s = {}  # what was in flight when that was last looked at is done, or not done
            LOG.info("%s ended: %s", name, step.text())

    @property
    def wall_s(self) -> float:
        """Seconds since the command began."""
        return round(time.monotonic() - self.begun, 3)

    def warn(self, text: str) -> None:
        """Log something that is wrong and no failure, and show it."""
        LOG.warning("%s", text)
        self.print(f"warning: {text}")

    def print(self, text: str) -> None:
        """A line for the person at the terminal, above the bar if there is one."""
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
            told = time.monotonic()
            while not stop.wait(1.0):
                if time.monotonic() - told >= PLAIN_S:
                    step._poll()
                    self.print(f"{step.name}: {step.text()}")
                    told = time.monotonic()

    def _show_bar(self, step: Step, stop: threading.Event) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(14), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=Console(stderr=True), transient=True) as self._progress:
            task = self._progress.add_task(step.name, total=step.total_s, text="")
            while not stop.wait(0.5):
                step._poll()
                here = {"total": step.total_s, "completed": step.position_s(), "text": step.text()}
                self._progress.update(task, **here)
        self._progress = None


def _expected(error: BaseException) -> bool:
    return isinstance(error, (SpeechmillError, KeyboardInterrupt, OSError))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _memory_bytes() -> int:
    """Resident memory of this process and its children."""
    import psutil

    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _machine() -> dict[str, Any]:
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
