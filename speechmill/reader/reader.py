"""The reader: samples of one source or of several that are mixed, shared out, shuffled, counted and resumed exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from speechmill.reader.order import Rest, Shuffle, check_rest
from speechmill.reader.source import Sample, Source
from speechmill.reader.stream import Counts, Mixing, Place, Progress, Stream, WorkerState, add_counts, in_turn


class Reader(IterableDataset[Sample]):
    """Samples of sources, for torch's DataLoader or for a loop. Each loop over it is an epoch.

    Of several sources, each gives its epoch once, mixed all along in proportion to their tokens. With `weights` they
    give tokens in these proportions and begin anew without end; with `budgets` each gives so many tokens, in parts of
    its epochs or in several. Proportions hold at each moment to within a window of each source and worker.

    The order follows from `seed` and the number of the epoch alone. Its state is a few numbers, and to go on from it
    reads no sample that was given before, except the neighbours of those that are still to come in the same buffer.
    """

    def __init__(
        self,
        sources: Source | Sequence[Source],
        *,
        weights: Sequence[float] | None = None,
        budgets: Sequence[int] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rest: Rest = "keep",
        rank: int | None = None,
        world_size: int | None = None,
        buffer_mb: float = 64.0,
        block_mb: float = 2.0,
        shards_at_once: int = 4,
        partitions: int | None = None,
    ) -> None:
        """`rank` and `world_size` are those of torch.distributed if not given: begin that first.

        `rest` says what becomes of windows that are left where the processes cannot have equally many: 'keep' gives
        each window once, so that some processes give one more; 'drop' leaves out fewer than `world_size` windows of
        each epoch; 'repeat' gives as few a second time. Training with gradients over all processes needs one of the
        latter, so that all have equally many batches.

        With `partitions` the epoch is cut into so many parts of an order of their own, whatever the number of processes
        and workers, which share them out: a state can then be resumed by another number of either. It must be a
        multiple of both multiplied. `rest` is about partitions then, and each of them has buffers of its own.

        Windows are mixed inside a buffer of `buffer_mb` megabytes (10^6), of blocks of `block_mb` that are drawn from
        `shards_at_once` shards. A worker holds up to two such buffers a source. ValueError for what cannot be.
        """
        self.sources = (sources,) if isinstance(sources, Source) else tuple(sources)
        check_rest(rest)
        if not self.sources:
            raise ValueError("sources: give one or more")
        if (rank is None) != (world_size is None):
            raise ValueError("rank and world_size are given together or not at all")
        if rank is None or world_size is None:
            begun = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if begun else 0
            world_size = torch.distributed.get_world_size() if begun else 1
        if seed < 0 or not 0 <= rank < world_size or min(buffer_mb, block_mb, shards_at_once) <= 0:
            raise ValueError("seed must be 0 or more, rank below world_size, and sizes above 0")
        if partitions is not None and (partitions < 1 or partitions % world_size):
            told = f"{partitions} partitions cannot be shared out over {world_size} processes"
            raise ValueError(f"{told}: partitions must be a multiple of them")
        self.partitions = partitions
        self.mixing = _mixing(self.sources, weights, budgets)
        self.rank, self.world_size, self.rest = rank, world_size, rest
        self._shuffles = []
        for source in self.sources:
            # The size of a window beside it is another dataset's: buffers are reckoned by the sum.
            window_bytes = sum(one.dataset.window_bytes for one in source.all)
            block = max(1, int(block_mb * 1e6) // window_bytes)
            buffer = max(block, int(buffer_mb * 1e6) // window_bytes)
            self._shuffles.append(Shuffle(seed, shuffle, block, buffer, shards_at_once))
        self._epoch = 0
        self._before: Counts = {}
        """What was given before the states at hand."""
        self._workers: list[WorkerState] | None = None
        """Of each worker of this process, or of each of its partitions; None before the number of workers is known."""
        self.next_worker = 0
        """The worker of this process whose batch comes next."""
        self.exhausted = False
        """Whether a loop has given the last sample of the epoch."""

    def __iter__(self) -> Iterator[Sample]:
        """The samples of the epoch that were not given yet; after the last one, those of the next epoch."""
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        states = self.worker_states(workers)
        if self.exhausted:
            self.next_epoch()
        worker = (worker + self.next_worker) % workers  # DataLoader asks the first of its processes first
        streams = [
            Stream(self.sources, self.mixing, self._shuffles, self._place(number, len(states)), states[number])
            for number in self.of_worker(worker, workers)
        ]
        for source, window in in_turn(streams):
            yield source.sample(window)
        self.exhausted = True

    def of_worker(self, worker: int, workers: int) -> range:
        """Which of the states of this process are those of a worker: one, or one of each of its partitions."""
        each = len(self.worker_states(workers)) // workers
        return range(worker * each, (worker + 1) * each)

    def _place(self, number: int, states: int) -> Place:
        """Where the windows of one of the states of this process lie."""
        if self.partitions is None:
            return Place(self.rank, self.world_size, number, states, self.rest)
        return Place(self.rank * states + number, self.partitions, 0, 1, self.rest)

    def worker_states(self, count: int) -> list[WorkerState]:
        """The states of the workers of this process. ValueError where the state is that of another number of them.

        With `partitions` those of its partitions, which any number of workers shares that divides theirs.
        """
        own = count if self.partitions is None else self.partitions // self.world_size
        if own % count:
            told = f"{own} partitions a process cannot be shared out over {count} workers"
            raise ValueError(f"{told}: give a num_workers that divides them")
        count = own
        if self._workers is None:
            progress = [[Progress(self._epoch) for _ in self.sources] for _ in range(count)]
            self._workers = [WorkerState(one) for one in progress]
        if len(self._workers) != count:
            told = f"this reader has given samples to {len(self._workers)} workers a process, and now there are {count}"
            remedy = "resume with the same num_workers, or begin an epoch by set_epoch"
            raise ValueError(f"{told}: {remedy}; readers with partitions may go on with other numbers")
        return self._workers

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch; with `budgets`, which are given anew, go on where sources are."""
        self.exhausted = False
        self.next_worker = 0
        self._epoch += 1
        for state in self._workers or ():
            for progress in state.progress:
                progress.tokens = 0
                if self.mixing.budgets is None:
                    progress.epoch, progress.position = progress.epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, of all sources. What was given stays counted."""
        self._before = self.counts()
        self._epoch, self._workers, self.next_worker, self.exhausted = epoch, None, 0, False

    def counts(self) -> Counts:
        """What this process gave since the beginning, also before it was resumed, by dataset and split.

        `windows`, `frames`, `context_tokens` and `continuation_tokens` over all tracks, as the ledger counts them, and
        `unpaired` windows that were left out. In a DataLoader with workers ask the `Loader`'s reader.
        """
        whole: Counts = {}
        for counts in (self._before, *(state.counts for state in self._workers or ())):
            add_counts(whole, counts)
        return whole

    def state_dict(self) -> dict[str, Any]:
        """Where this process is, as values of JSON: each process keeps its own.

        In a DataLoader with workers the reader of this process knows only what a `Loader` tells it.
        """
        return {
            "order": self._order(),
            "epoch": self._epoch,
            # A worker of torchdata's loader whose epoch has ended stays at its end when it is resumed.
            "exhausted": self.exhausted and get_worker_info() is None,
            "before": self._before,
            "next_worker": self.next_worker,
            "workers": None if self._workers is None else [state.to_json() for state in self._workers],
            "rank": self.rank,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where a state says. ValueError where that is of other datasets, sources, processes or settings.

        With `partitions`, a state of all processes as `joined` makes it, or of as many processes as now.
        """
        for name, value in self._order().items():
            if (told := state["order"].get(name)) != value:
                told = f"the state is of another order of samples: {name} was {told!r} and is now {value!r}"
                raise ValueError(f"{told}; give the sources, versions and settings of then")
        workers, is_joined = state["workers"], state["rank"] is None
        if self.partitions is not None and workers is not None:
            own = self.partitions // self.world_size
            if is_joined:
                workers = workers[self.rank * own : (self.rank + 1) * own]
            elif (len(workers), state["rank"]) != (own, self.rank):
                told = "the state is that of one process among another number of them"
                raise ValueError(f"{told}: join the states of all of them by speechmill.reader.joined")
        self._epoch, self.next_worker, self.exhausted = state["epoch"], state["next_worker"], state["exhausted"]
        self._before = {}
        if not is_joined or self.rank == 0:  # counted once
            add_counts(self._before, state["before"])
        self._workers = None if workers is None else [WorkerState.from_json(one) for one in workers]

    def _order(self) -> dict[str, Any]:
        """All that decides the order of samples, as values of JSON."""
        return {
            "datasets": [
                [[one.name, one.dataset.version, one.dataset.fingerprint] for one in source.all]
                for source in self.sources
            ],
            "weights": list(self.mixing.weights),
            "budgets": self.mixing.budgets and list(self.mixing.budgets),
            "shuffle": [list(vars(shuffle).values()) for shuffle in self._shuffles],
            **({"rank": self.rank, "world_size": self.world_size} if self.partitions is None else {}),
            "partitions": self.partitions,
            "rest": self.rest,
        }


def joined(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of all processes of a training, in any order, as one, for readers with as many `partitions`.

    Any number of processes that divides the partitions goes on from it, each with its part. ValueError where the states
    are not those of all processes in one epoch, after as many steps.
    """
    given = sorted(states, key=lambda state: state["rank"])
    first = given[0]
    if first["order"]["partitions"] is None:
        raise ValueError("these readers have no partitions: each process resumes its own state")
    if any((state["order"], state["epoch"]) != (first["order"], first["epoch"]) for state in given):
        raise ValueError("these states are of several orders of samples or epochs: take those of one step")
    workers = None
    if any(state["workers"] is not None for state in given):
        workers = [one for state in given for one in state["workers"] or ()]
    count = first["order"]["partitions"] if workers is None else len(workers)
    if [state["rank"] for state in given] != list(range(len(given))) or count != first["order"]["partitions"]:
        told = ", ".join(str(state["rank"]) for state in given)
        raise ValueError(f"the states of processes {told} are not all: there must be one of each process")
    before: Counts = {}
    for state in given:
        add_counts(before, state["before"])
    exhausted = all(state["exhausted"] for state in given)
    changed = {"workers": workers, "before": before, "exhausted": exhausted, "next_worker": 0, "rank": None}
    return {**first, **changed}


def _mixing(sources: Sequence[Source], weights: Sequence[float] | None, budgets: Sequence[int] | None) -> Mixing:
    if weights is not None and budgets is not None:
        raise ValueError("give weights or budgets, not both")
    for name, given in (("weights", weights), ("budgets", budgets)):
        if given is not None and (len(given) != len(sources) or min(given) <= 0):
            raise ValueError(f"{name}: give a number above 0 for each of the {len(sources)} sources")
    if budgets is not None:
        return Mixing(tuple(map(float, budgets)), True, tuple(budgets))
    if weights is not None:
        return Mixing(tuple(map(float, weights)), True, None)
    return Mixing(tuple(float(max(1, source.tokens)) for source in sources), False, None)
