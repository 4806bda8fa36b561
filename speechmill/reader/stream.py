"""The windows that one worker gives, from one or more sources and from any position on, read ahead by threads."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from manifests.storage.local import LocalStorage
from speechmill.reader.order import Buffer, Epoch, Rest, Shuffle, share
from speechmill.reader.source import Source, Window

LOCAL_THREADS = 2
COUNTED = ("windows", "unpaired", "frames", "context_tokens", "continuation_tokens")
Counts = dict[str, dict[str, dict[str, int]]]
"""The numbers of COUNTED, by dataset and split. Frames and tokens are over all tracks."""


def add_counts(total: Counts, counts: Counts) -> None:
    """Add `counts` to `total`."""
    for name, splits in counts.items():
        for split, added in splits.items():
            sums = total.setdefault(name, {}).setdefault(split, dict.fromkeys(COUNTED, 0))
            for key in COUNTED:
                sums[key] += added[key]


@dataclass
class Progress:
    """The position of a worker in one source."""

    epoch: int = 0
    position: int = 0
    """Windows of its share of the epoch that it has given."""
    tokens: int = 0
    """Tokens given since the pass over all sources began. They keep the mixture in proportion."""


@dataclass
class WorkerState:
    """Everything that a worker needs to resume. Its size does not depend on the number of windows."""

    progress: list[Progress]
    """The position in each source."""
    counts: Counts = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a copy as JSON values."""
        return asdict(self)

    def windows_given(self) -> int:
        """Return the number of windows given. A window that is read from several datasets counts once for each."""
        return sum(counts["windows"] for splits in self.counts.values() for counts in splits.values())

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> WorkerState:
        """Build a state from a copy of the result of `to_json`."""
        state = cls([Progress(**progress) for progress in values["progress"]])
        add_counts(state.counts, values["counts"])
        return state


@dataclass(frozen=True)
class Mixing:
    """How several sources are mixed. The next window comes from the source with the fewest tokens per weight."""

    weights: tuple[float, ...]
    endless: bool
    """Whether a source starts over at the end of its epoch."""
    budgets: tuple[int, ...] | None
    """Tokens after which each source ends; None if it ends with its epoch, or never."""


@dataclass(frozen=True)
class Place:
    """The position of this worker among all workers of all processes, and how remaining windows are treated."""

    rank: int
    world_size: int
    worker: int
    workers: int
    rest: Rest


class Stream:
    """The windows that one worker gives. It updates the state of the worker with each window."""

    def __init__(
        self, sources: Sequence[Source], mixing: Mixing, shuffles: Sequence[Shuffle], place: Place, state: WorkerState
    ) -> None:
        """Start from `state`, which is modified as windows are given."""
        self.sources, self.mixing, self.shuffles, self.place, self.state = sources, mixing, shuffles, place, state

    def windows(self) -> Iterator[tuple[Source, list[Window]]]:
        """Yield each window with its source. `state` counts a window before it is yielded."""
        ended: set[int] = set()
        pool = ThreadPoolExecutor(max(_threads(source) for source in self.sources), "reader")
        try:
            by_source = [self._windows_of(number, pool) for number in range(len(self.sources))]
            while (number := self._next_source(ended)) is not None:
                window = next(by_source[number], None)
                if window is None:
                    ended.add(number)
                    continue
                self._count(number, window)
                yield self.sources[number], window
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _next_source(self, ended: set[int]) -> int | None:
        """Return the index of the source that gives the next window; None if all have ended."""
        due = []
        for number, (progress, weight) in enumerate(zip(self.state.progress, self.mixing.weights, strict=True)):
            budgets, workers = self.mixing.budgets, self.place.world_size * self.place.workers
            if number not in ended and (budgets is None or progress.tokens * workers < budgets[number]):
                due.append((progress.tokens / weight, number))
        return min(due)[1] if due else None

    def _windows_of(self, number: int, pool: ThreadPoolExecutor) -> Iterator[list[Window]]:
        """Yield the windows of one source, epoch after epoch if it is endless, and update its position."""
        source, progress = self.sources[number], self.state.progress[number]
        where = self.place
        places = share(source.dataset.windows, where.rank, where.world_size, where.worker, where.workers, where.rest)
        while True:
            epoch = Epoch(source.dataset.counts, places, self.shuffles[number], number, progress.epoch)
            paired = progress.position > 0
            for window in _ahead(source, epoch.buffers(progress.position), pool):
                progress.position += 1
                if window is None:
                    self._counts(source, None)["unpaired"] += 1
                    continue
                paired = True
                yield window
            if not self.mixing.endless:
                return
            if not paired:
                what = f"{source.name} has no window for worker {where.worker} of process {where.rank}"
                raise ValueError(f"{what}: read with fewer workers, or without the sources in beside")
            progress.epoch, progress.position = progress.epoch + 1, 0

    def _count(self, number: int, window: Sequence[Window]) -> None:
        source = self.sources[number]
        for one, (row, features) in zip(source.all, window, strict=True):
            context, continuation = one.dataset.window_tokens(row)
            counts = self._counts(one, row["split"])
            counts["windows"] += 1
            counts["frames"] += features.shape[0] * features.shape[1]
            counts["context_tokens"] += context
            counts["continuation_tokens"] += continuation
            if one is source:
                self.state.progress[number].tokens += context + continuation

    def _counts(self, source: Source, split: str | None) -> dict[str, int]:
        split = split or "+".join(source.dataset.choice.splits)
        return self.state.counts.setdefault(source.name, {}).setdefault(split, dict.fromkeys(COUNTED, 0))


def interleave(streams: Sequence[Stream]) -> Iterator[tuple[Source, list[Window]]]:
    """Yield the windows of several streams. The next one always comes from the stream that has given fewest so far, so
    that the order depends only on the states of the streams."""
    if len(streams) == 1:
        yield from streams[0].windows()
        return
    windows = [stream.windows() for stream in streams]
    due = [(stream.state.windows_given(), number) for number, stream in enumerate(streams)]
    heapq.heapify(due)
    while due:
        count, number = due[0]
        if (source_and_window := next(windows[number], None)) is None:
            heapq.heappop(due)
        else:
            heapq.heapreplace(due, (count + len(source_and_window[0].all), number))
            yield source_and_window


def _threads(source: Source) -> int:
    """Return the number of threads that read ahead. A server answers many requests at once; a disk needs few."""
    lake = source.dataset.lake
    return LOCAL_THREADS if isinstance(lake.storage, LocalStorage) else lake.config.concurrency


def _ahead(source: Source, buffers: Iterator[Buffer], pool: ThreadPoolExecutor) -> Iterator[list[Window] | None]:
    """Yield the windows of the buffers. The next buffer is read while the current one is given."""
    pending: deque[tuple[Buffer, list[Future[list[list[Window] | None]]]]] = deque()

    def start_next() -> None:
        if (buffer := next(buffers, None)) is not None:
            pending.append((buffer, [pool.submit(source.fetch, run) for run in buffer.blocks]))

    start_next()
    while pending:
        start_next()
        buffer, blocks = pending.popleft()
        for block, row in buffer.order:
            yield blocks[block].result()[row]
