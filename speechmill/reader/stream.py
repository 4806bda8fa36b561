"""What one worker gives: windows of one source or several, read ahead by threads, from any place on."""

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
"""By dataset and split: the numbers of COUNTED. Frames and tokens are over all tracks."""


def add_counts(whole: Counts, counts: Counts) -> None:
    """Add `counts` to `whole`."""
    for name, splits in counts.items():
        for split, added in splits.items():
            into = whole.setdefault(name, {}).setdefault(split, dict.fromkeys(COUNTED, 0))
            for what in COUNTED:
                into[what] += added[what]


@dataclass
class Progress:
    """How far a worker has come in one source."""

    epoch: int = 0
    position: int = 0
    """Windows of its share of the epoch that were given."""
    tokens: int = 0
    """Tokens that were given since the beginning of the pass over all sources: what keeps a mixture in proportion."""


@dataclass
class WorkerState:
    """All that a worker must know to go on: the same after any number of windows is a few numbers."""

    progress: list[Progress]
    """Of each source."""
    counts: Counts = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As values of JSON that share nothing with it."""
        return asdict(self)

    def given(self) -> int:
        """Windows that were given, each as often as it has datasets beside it and one."""
        return sum(counts["windows"] for splits in self.counts.values() for counts in splits.values())

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> WorkerState:
        """What `to_json` has told; shares nothing with it."""
        state = cls([Progress(**one) for one in told["progress"]])
        add_counts(state.counts, told["counts"])
        return state


@dataclass(frozen=True)
class Mixing:
    """How several sources are mixed. Each time the source gives that has the fewest tokens for its weight."""

    weights: tuple[float, ...]
    endless: bool
    """Whether a source begins anew where its epoch ends."""
    budgets: tuple[int, ...] | None
    """Tokens after which each source ends; None where it ends with its epoch, or never."""


@dataclass(frozen=True)
class Place:
    """Which of all workers of all processes this one is, and what becomes of windows that are left."""

    rank: int
    world_size: int
    worker: int
    workers: int
    rest: Rest


class Stream:
    """The windows that one worker gives, with its state kept up to each of them."""

    def __init__(
        self, sources: Sequence[Source], mixing: Mixing, shuffles: Sequence[Shuffle], place: Place, state: WorkerState
    ) -> None:
        """`state` is changed as windows are given."""
        self.sources, self.mixing, self.shuffles, self.place, self.state = sources, mixing, shuffles, place, state

    def windows(self) -> Iterator[tuple[Source, list[Window]]]:
        """Each window with its source; `state` counts a window before it is given."""
        ended: set[int] = set()
        pool = ThreadPoolExecutor(max(_threads(source) for source in self.sources), "reader")
        try:
            given = [self._given(number, pool) for number in range(len(self.sources))]
            while (number := self._next(ended)) is not None:
                window = next(given[number], None)
                if window is None:
                    ended.add(number)
                    continue
                self._count(number, window)
                yield self.sources[number], window
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _next(self, ended: set[int]) -> int | None:
        """The source that gives next."""
        due = []
        for number, (progress, weight) in enumerate(zip(self.state.progress, self.mixing.weights, strict=True)):
            budgets, workers = self.mixing.budgets, self.place.world_size * self.place.workers
            if number not in ended and (budgets is None or progress.tokens * workers < budgets[number]):
                due.append((progress.tokens / weight, number))
        return min(due)[1] if due else None

    def _given(self, number: int, pool: ThreadPoolExecutor) -> Iterator[list[Window]]:
        """The windows of one source, over its epochs where it begins anew; its position is kept."""
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
                told = f"{source.name} has no window for worker {where.worker} of process {where.rank}"
                raise ValueError(f"{told}: read with fewer workers, or leave out what is beside it")
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


def in_turn(streams: Sequence[Stream]) -> Iterator[tuple[Source, list[Window]]]:
    """The windows of several streams: each time of the one that has given fewest, which their states alone decide."""
    if len(streams) == 1:
        yield from streams[0].windows()
        return
    windows = [stream.windows() for stream in streams]
    due = [(stream.state.given(), number) for number, stream in enumerate(streams)]
    heapq.heapify(due)
    while due:
        given, number = due[0]
        if (found := next(windows[number], None)) is None:
            heapq.heappop(due)
        else:
            heapq.heapreplace(due, (given + len(found[0].all), number))
            yield found


def _threads(source: Source) -> int:
    """Threads that read ahead: a server answers many requests at once, a disk is not waited for as long."""
    lake = source.dataset.lake
    return LOCAL_THREADS if isinstance(lake.storage, LocalStorage) else lake.config.concurrency


def _ahead(source: Source, buffers: Iterator[Buffer], pool: ThreadPoolExecutor) -> Iterator[list[Window] | None]:
    """The windows of some buffers, of which the next one is read while one is given."""
    begun: deque[tuple[Buffer, list[Future[list[list[Window] | None]]]]] = deque()

    def begin() -> None:
        if (buffer := next(buffers, None)) is not None:
            begun.append((buffer, [pool.submit(source.fetch, run) for run in buffer.blocks]))

    begin()
    while begun:
        begin()
        buffer, blocks = begun.popleft()
        for block, row in buffer.order:
            yield blocks[block].result()[row]
