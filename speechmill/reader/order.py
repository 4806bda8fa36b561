"""In which order the windows of an epoch come: a function of a seed, found from any place on without what came before.

The shards of an epoch are put in a drawn order, and that row of windows is cut into one equal share for each worker of
each process. A worker takes some shards of its share at once, cuts them into blocks of neighbouring windows, draws an
order of these blocks, and mixes the windows of as many blocks as its buffer holds. Such a shuffle of blocks and then
inside a buffer is known from CorgiPile (L. Xu et al., SIGMOD 2022), which shows how near it comes to a full one. Shards
are themselves random samples of the recordings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

Rest = Literal["keep", "drop", "repeat"]
"""What becomes of the windows that are left where the processes cannot all have equally many: see `share`."""


class Run(NamedTuple):
    """Neighbouring windows of a shard: those numbered from `begin` up to `end`."""

    shard: int
    begin: int
    end: int


@dataclass(frozen=True)
class Buffer:
    """Blocks whose windows are mixed with each other, in the order in which they are needed first."""

    blocks: Sequence[Run]
    order: Sequence[tuple[int, int]]
    """The windows in the order in which they are given: number of the block, and of the window in its block."""


@dataclass(frozen=True)
class Shuffle:
    """How far windows are mixed, and how much is read at once."""

    seed: int
    shuffled: bool
    block_windows: int
    """Windows that are read by one request."""
    buffer_windows: int
    """Windows that are mixed with each other."""
    shards_at_once: int
    """Shards from which a worker mixes blocks; more where they are so small that they do not fill the buffer."""


def permutation(count: int, *key: int) -> np.ndarray:
    """The numbers 0 to `count` - 1 in an order drawn by whole numbers from 0 on: int64 (count,).

    It sorts the raw numbers of Philox, which NumPy promises to keep as they are; its `permutation` may change.
    """
    return np.argsort(np.random.Philox(np.random.SeedSequence(key)).random_raw(count), kind="stable")


def share(total: int, rank: int, world_size: int, worker: int, workers: int, rest: Rest) -> tuple[int, int]:
    """Which places of an epoch of `total` windows one worker of one process gives: from the first up to the second.

    'keep' gives each window once; processes may differ by one window. 'drop' leaves out the last `total` modulo
    `world_size` windows of the epoch, others each time where it is shuffled. 'repeat' goes on with the first windows of
    the epoch instead; places of `total` and above stand for those. With both, processes have equally many windows, and
    their workers too, so that they have equally many batches.

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
    """ValueError for a word that `share` does not know."""
    if rest not in get_args(Rest):
        raise ValueError(f"rest must be one of {', '.join(get_args(Rest))}, not {rest!r}")


class Epoch:
    """The windows of one epoch that fall to one worker, in their order."""

    def __init__(self, counts: np.ndarray, places: tuple[int, int], shuffle: Shuffle, *key: int) -> None:
        """`counts` are the windows of each shard, int64 (shards,); `places` is a `share`; `key` names the epoch."""
        self.shuffle, self.key, self.places = shuffle, (shuffle.seed, *key), places
        shards = permutation(len(counts), *self.key) if shuffle.shuffled else np.arange(len(counts))
        self._groups = list(self._grouped(_runs(counts, shards, *places)))

    def __len__(self) -> int:
        """How many windows fall to this worker."""
        return self.places[1] - self.places[0]

    def buffers(self, position: int) -> Iterator[Buffer]:
        """What is left to give after `position` windows. The first buffer lacks the windows that were given of it."""
        for number, group in enumerate(self._groups):
            size = _size(group)
            if position >= size:
                position -= size
                continue
            for index, blocks in enumerate(self._buffered(group, number)):
                if position >= (held := _size(blocks)):
                    position -= held
                else:
                    order = self._mixed(blocks, number, index)[position:]
                    position = 0
                    needed = dict.fromkeys(block for block, _ in order)  # what was given whole is not read again
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
        """The blocks of a group of shards, in their drawn order, a buffer at a time."""
        step = self.shuffle.block_windows
        blocks = [
            Run(run.shard, begin, min(begin + step, run.end))
            for run in group
            for begin in range(run.begin, run.end, step)
        ]
        if self.shuffle.shuffled:
            blocks = [blocks[index] for index in permutation(len(blocks), *self._drawn(number))]
        held: list[Run] = []
        windows = 0
        for block in blocks:
            held.append(block)
            windows += block.end - block.begin
            if windows >= self.shuffle.buffer_windows:
                yield held
                held, windows = [], 0
        if held:
            yield held

    def _mixed(self, blocks: Sequence[Run], number: int, index: int) -> list[tuple[int, int]]:
        order = [(block, row) for block, run in enumerate(blocks) for row in range(run.end - run.begin)]
        if self.shuffle.shuffled:
            return [order[place] for place in permutation(len(order), *self._drawn(number, index))]
        return order

    def _drawn(self, *more: int) -> tuple[int, ...]:
        """A key of its own for each thing that is drawn. A SeedSequence does not tell (1,) from (1, 0)."""
        return (*self.key, self.places[0], len(more), *more)


def _runs(counts: np.ndarray, shards: np.ndarray, begin: int, end: int) -> list[Run]:
    """The places from `begin` up to `end` of the windows of all shards, in the order of `shards`, round and round."""
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
