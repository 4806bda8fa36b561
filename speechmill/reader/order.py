"""The order of the windows in an epoch. It is a function of a seed and can be computed from any position on.

The shards of an epoch are shuffled, and the resulting sequence of windows is cut into one equal share for each worker
of each process. A worker takes a few shards of its share at a time, cuts them into blocks of adjacent windows, shuffles
the blocks, and shuffles the windows of as many blocks as fit into its buffer. CorgiPile (L. Xu et al., SIGMOD 2022)
uses the same two-level shuffle and shows how close it comes to a full one. Shards are themselves random samples of the
recordings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

Rest = Literal["keep", "drop", "repeat"]
"""How to treat the remaining windows if they cannot be divided evenly over the processes. See `share`."""


class Run(NamedTuple):
    """Adjacent windows of a shard: those with the numbers from `begin` up to, but not including, `end`."""

    shard: int
    begin: int
    end: int


@dataclass(frozen=True)
class Buffer:
    """Blocks whose windows are shuffled together, in the order of their first use."""

    blocks: Sequence[Run]
    order: Sequence[tuple[int, int]]
    """The windows in the order in which they are given: index of the block, and index of the window in its block."""


@dataclass(frozen=True)
class Shuffle:
    """How windows are shuffled, and how much is read at a time."""

    seed: int
    shuffled: bool
    block_windows: int
    """Windows that are read by one request."""
    buffer_windows: int
    """Windows that are shuffled together."""
    shards_at_once: int
    """Shards whose blocks a worker shuffles together; more if they are too small to fill the buffer."""


def permutation(count: int, *key: int) -> np.ndarray:
    """Return a random permutation of 0 to `count` - 1, int64 (count,), seeded with non-negative integers.

    It sorts the raw output of Philox, which NumPy guarantees to stay the same. NumPy's own `permutation` may change.
    """
    return np.argsort(np.random.Philox(np.random.SeedSequence(key)).random_raw(count), kind="stable")


def share(total: int, rank: int, world_size: int, worker: int, workers: int, rest: Rest) -> tuple[int, int]:
    """Return the share of one worker of one process: its first position in the epoch, and the one after its last.

    With `rest` = 'keep', each window is given once, and processes may differ by one window. 'drop' leaves out the last
    `total` modulo `world_size` windows of the epoch, which are different ones in each epoch if it is shuffled. 'repeat'
    gives the first windows of the epoch again instead; positions from `total` on stand for these. With 'drop' and
    'repeat', all processes have the same number of windows, and so have their workers, so that the numbers of batches
    are equal.

    >>> [share(10, rank, 4, 0, 1, "keep") for rank in range(4)]
    [(0, 2), (2, 5), (5, 7), (7, 10)]
    >>> [share(10, rank, 4, 0, 1, "repeat") for rank in range(4)]
    [(0, 3), (3, 6), (6, 9), (9, 12)]
    """
    if rest == "keep":
        begin, end = total * rank // world_size, total * (rank + 1) // world_size
    else:
        each = total // world_size if rest == "drop" else -(-total // world_size)
        begin, end = each * rank, each * (rank + 1)
    windows = end - begin
    return begin + windows * worker // workers, begin + windows * (worker + 1) // workers


def check_rest(rest: str) -> None:
    """Raise ValueError unless `rest` is one of the values that `share` accepts."""
    if rest not in get_args(Rest):
        raise ValueError(f"rest must be one of {', '.join(get_args(Rest))}, not {rest!r}")


class Epoch:
    """The windows of one worker in one epoch, in their order."""

    def __init__(self, counts: np.ndarray, places: tuple[int, int], shuffle: Shuffle, *key: int) -> None:
        """Compute the order of the shards.

        Args:
            counts: Windows of each shard, int64 (shards,).
            places: The result of `share` for the worker.
            shuffle: How windows are shuffled.
            key: Integers that identify the epoch. They seed the shuffle together with `shuffle.seed`.
        """
        self.shuffle, self.key, self.places = shuffle, (shuffle.seed, *key), places
        shards = permutation(len(counts), *self.key) if shuffle.shuffled else np.arange(len(counts))
        self._groups = list(self._grouped(_runs(counts, shards, *places)))

    def __len__(self) -> int:
        """Number of windows of this worker."""
        return self.places[1] - self.places[0]

    def buffers(self, position: int) -> Iterator[Buffer]:
        """Yield the buffers that follow after `position` windows. The first one lacks its windows before `position`."""
        for number, group in enumerate(self._groups):
            size = _size(group)
            if position >= size:
                position -= size
                continue
            for index, blocks in enumerate(self._buffered(group, number)):
                if position >= (windows := _size(blocks)):
                    position -= windows
                else:
                    order = self._mixed(blocks, number, index)[position:]
                    position = 0
                    needed = dict.fromkeys(block for block, _ in order)  # finished blocks are not read again
                    renamed = {block: new for new, block in enumerate(needed)}
                    yield Buffer([blocks[block] for block in needed], [(renamed[b], row) for b, row in order])

    def _grouped(self, runs: Sequence[Run]) -> Iterator[list[Run]]:
        group: list[Run] = []
        windows = 0
        for run in runs:
            group.append(run)
            windows += run.end - run.begin
            if len(group) >= self.shuffle.shards_at_once and windows >= self.shuffle.buffer_windows:
                yield group
                group, windows = [], 0
        if group:
            yield group

    def _buffered(self, group: Sequence[Run], number: int) -> Iterator[list[Run]]:
        """Yield the shuffled blocks of a group of shards, one buffer at a time."""
        step = self.shuffle.block_windows
        blocks = [
            Run(run.shard, begin, min(begin + step, run.end))
            for run in group
            for begin in range(run.begin, run.end, step)
        ]
        if self.shuffle.shuffled:
            blocks = [blocks[index] for index in permutation(len(blocks), *self._drawn(number))]
        buffer: list[Run] = []
        windows = 0
        for block in blocks:
            buffer.append(block)
            windows += block.end - block.begin
            if windows >= self.shuffle.buffer_windows:
                yield buffer
                buffer, windows = [], 0
        if buffer:
            yield buffer

    def _mixed(self, blocks: Sequence[Run], number: int, index: int) -> list[tuple[int, int]]:
        order = [(block, row) for block, run in enumerate(blocks) for row in range(run.end - run.begin)]
        if self.shuffle.shuffled:
            return [order[place] for place in permutation(len(order), *self._drawn(number, index))]
        return order

    def _drawn(self, *more: int) -> tuple[int, ...]:
        """Return a distinct key for each shuffle. It contains the length of `more`, because SeedSequence treats (1,)
        and (1, 0) alike."""
        return (*self.key, self.places[0], len(more), *more)


def _runs(counts: np.ndarray, shards: np.ndarray, begin: int, end: int) -> list[Run]:
    """Return the runs of windows at the positions from `begin` up to `end`, with shards in the given order. Positions
    past the last window wrap around."""
    ends = np.cumsum(counts[shards])
    total = int(ends[-1]) if len(ends) else 0
    runs = []
    place = begin
    while place < end:
        inside = place % total
        index = int(np.searchsorted(ends, inside, side="right"))
        shard = int(shards[index])
        first = inside - int(ends[index]) + int(counts[shard])
        taken = min(int(ends[index]) - inside, end - place)
        runs.append(Run(shard, first, first + taken))
        place += taken
    return runs


def _size(runs: Sequence[Run]) -> int:
    return sum(run.end - run.begin for run in runs)
