"""`Reader`: samples of one or more sources, mixed, shuffled, shared out over processes, counted and resumed exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from speechmill.reader.order import Rest, Shuffle, check_rest
from speechmill.reader.source import Sample, Source
from speechmill.reader.stream import Counts, Mixing, Place, Progress, Stream, WorkerState, add_counts, interleave


class Reader(IterableDataset[Sample]):
    """Samples of one or more sources, for torch's DataLoader or for a loop. Each loop over it is an epoch.

    By default, each of several sources gives its epoch once, and they are mixed in proportion to their tokens from
    beginning to end. With `weights`, they give tokens in these proportions and start over without end. With `budgets`,
    each gives that many tokens, which may be part of an epoch or several epochs. At any moment the proportions are
    right to within one window per source and worker.

    The order depends only on `seed` and the number of the epoch. The state is a few numbers. A reader that resumes from
    it does not read earlier samples again, except those in the same blocks as samples that are still to come.
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
        """Prepare the order of the samples; nothing is read yet.

        Args:
            sources: What to read.
            weights: Proportions of tokens of each source.
            budgets: Number of tokens of each source.
            seed: Seed of the shuffle.
            shuffle: Whether to shuffle.
            rest: How to treat the remaining windows if they cannot be divided evenly over the processes. 'keep' gives
                each window once, so that some processes give one more. 'drop' leaves out fewer than `world_size`
                windows of each epoch. 'repeat' gives that few windows twice. Distributed training needs 'drop' or
                'repeat', so that all processes have the same number of batches.
            rank: Number of this process; by default that of torch.distributed, which must be initialised first.
            world_size: Number of processes; by default that of torch.distributed.
            buffer_mb: Size of the buffer in which windows are shuffled, megabytes (10^6 bytes). A worker holds up to
                two buffers per source.
            block_mb: Size of the blocks of adjacent windows that are read by one request, megabytes.
            shards_at_once: Number of shards whose blocks are shuffled together.
            partitions: Cuts the epoch into this many parts with an order of their own, which the processes and workers
                share. A state can then be resumed with other numbers of processes and workers, as long as their product
                divides `partitions`. `rest` then applies to partitions, and each has its own buffers.

        Raises:
            ValueError: An argument is invalid.
        """
        self.sources = (sources,) if isinstance(sources, Source) else tuple(sources)
        check_rest(rest)
        if not self.sources:
            raise ValueError("sources: give one or more")
        if (rank is None) != (world_size is None):
            raise ValueError("give both rank and world_size, or neither")
        if rank is None or world_size is None:
            distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if distributed else 0
            world_size = torch.distributed.get_world_size() if distributed else 1
        if seed < 0 or not 0 <= rank < world_size or min(buffer_mb, block_mb, shards_at_once) <= 0:
            raise ValueError("seed must be 0 or more, rank below world_size, and sizes above 0")
        if partitions is not None and (partitions < 1 or partitions % world_size):
            what = f"{partitions} partitions cannot be shared out over {world_size} processes"
            raise ValueError(f"{what}: partitions must be a multiple of the number of processes")
        self.partitions = partitions
        self.mixing = _mixing(self.sources, weights, budgets)
        self.rank, self.world_size, self.rest = rank, world_size, rest
        self._shuffles = []
        for source in self.sources:
            # Datasets that are read together have windows of different sizes, so buffers are sized by their sum.
            window_bytes = sum(each.dataset.window_bytes for each in source.all)
            block = max(1, int(block_mb * 1e6) // window_bytes)
            buffer = max(block, int(buffer_mb * 1e6) // window_bytes)
            self._shuffles.append(Shuffle(seed, shuffle, block, buffer, shards_at_once))
        self._epoch = 0
        self._before: Counts = {}
        """Counts of everything that was given before `_workers` was set up."""
        self._workers: list[WorkerState] | None = None
        """State of each worker of this process, or of each of its partitions; None until the number of workers is
        known."""
        self.next_worker = 0
        """The worker of this process whose batch comes next."""
        self.exhausted = False
        """Whether a loop has given the last sample of the epoch."""

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples of the epoch that were not given yet. If there are none left, yield the next epoch."""
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        states = self.worker_states(workers)
        if self.exhausted:
            self.next_epoch()
        worker = (worker + self.next_worker) % workers  # DataLoader always takes the first batch from its first worker
        streams = [
            Stream(self.sources, self.mixing, self._shuffles, self._place(number, len(states)), states[number])
            for number in self.states_of_worker(worker, workers)
        ]
        for source, window in interleave(streams):
            yield source.sample(window)
        self.exhausted = True

    def states_of_worker(self, worker: int, workers: int) -> range:
        """Return the indices of the states of a worker: one state, or one for each of its partitions."""
        each = len(self.worker_states(workers)) // workers
        return range(worker * each, (worker + 1) * each)

    def _place(self, number: int, states: int) -> Place:
        """Return which share of the epoch the state with this index has."""
        if self.partitions is None:
            return Place(self.rank, self.world_size, number, states, self.rest)
        return Place(self.rank * states + number, self.partitions, 0, 1, self.rest)

    def worker_states(self, count: int) -> list[WorkerState]:
        """Return the states of the `count` workers of this process, or those of its partitions.

        Raises:
            ValueError: The current state belongs to another number of workers, or the partitions cannot be divided
                evenly over `count` workers.
        """
        own = count if self.partitions is None else self.partitions // self.world_size
        if own % count:
            what = f"{own} partitions a process cannot be shared out over {count} workers"
            raise ValueError(f"{what}: give a num_workers that divides them")
        count = own
        if self._workers is None:
            self._workers = [WorkerState([Progress(self._epoch) for _ in self.sources]) for _ in range(count)]
        if len(self._workers) != count:
            what = f"this reader has given samples to {len(self._workers)} workers a process, and now there are {count}"
            remedy = "resume with the same num_workers, or start an epoch with set_epoch"
            raise ValueError(f"{what}: {remedy}; only readers with partitions can resume with other numbers")
        return self._workers

    def next_epoch(self) -> None:
        """Move to the beginning of the next epoch. With `budgets`, start them again and go on within the sources."""
        self.exhausted = False
        self.next_worker = 0
        self._epoch += 1
        for state in self._workers or ():
            for progress in state.progress:
                progress.tokens = 0
                if self.mixing.budgets is None:
                    progress.epoch, progress.position = progress.epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Move to the beginning of an epoch in all sources. The counts are kept."""
        self._before = self.counts()
        self._epoch, self._workers, self.next_worker, self.exhausted = epoch, None, 0, False

    def counts(self) -> Counts:
        """Return what this process has given since the beginning, including before it was resumed.

        Returns:
            By dataset and split: `windows`; `frames`, `context_tokens` and `continuation_tokens` over all tracks, as
            the ledger counts them; and `unpaired` windows, which were left out. If a DataLoader has workers, only the
            reader of a `Loader` counts what they give.
        """
        whole: Counts = {}
        for counts in (self._before, *(state.counts for state in self._workers or ())):
            add_counts(whole, counts)
        return whole

    def state_dict(self) -> dict[str, Any]:
        """Return the position of this process as JSON values. Each process saves its own.

        If a DataLoader has workers, only the reader of a `Loader` knows how far they are.
        """
        return {
            "order": self._order(),
            "epoch": self._epoch,
            # When torchdata's loader resumes, a worker whose epoch has ended must stay at the end of it.
            "exhausted": self.exhausted and get_worker_info() is None,
            "before": self._before,
            "next_worker": self.next_worker,
            "workers": None if self._workers is None else [state.to_json() for state in self._workers],
            "rank": self.rank,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to the position of a saved state.

        Args:
            state: The result of `state_dict` in the same process. With `partitions`, it may also be the result of
                `join_states`.

        Raises:
            ValueError: The state belongs to other datasets, sources, processes or settings.
        """
        for name, value in self._order().items():
            if (saved := state["order"].get(name)) != value:
                what = f"the state is of another order of samples: {name} was {saved!r} and is now {value!r}"
                raise ValueError(f"{what}; use the same sources, versions and settings as when it was saved")
        workers, is_joined = state["workers"], state["rank"] is None
        if self.partitions is not None and workers is not None:
            own = self.partitions // self.world_size
            if is_joined:
                workers = workers[self.rank * own : (self.rank + 1) * own]
            elif (len(workers), state["rank"]) != (own, self.rank):
                what = "the state is that of one process among another number of processes"
                raise ValueError(f"{what}: join the states of all of them with speechmill.reader.join_states")
        self._epoch, self.next_worker, self.exhausted = state["epoch"], state["next_worker"], state["exhausted"]
        self._before = {}
        if not is_joined or self.rank == 0:  # only one process takes over the joined counts
            add_counts(self._before, state["before"])
        self._workers = None if workers is None else [WorkerState.from_json(worker) for worker in workers]

    def _order(self) -> dict[str, Any]:
        """Return everything that decides the order of samples, as JSON values."""
        return {
            "datasets": [
                [[each.name, each.dataset.version, each.dataset.fingerprint] for each in source.all]
                for source in self.sources
            ],
            "weights": list(self.mixing.weights),
            "budgets": self.mixing.budgets and list(self.mixing.budgets),
            "shuffle": [list(vars(shuffle).values()) for shuffle in self._shuffles],
            **({"rank": self.rank, "world_size": self.world_size} if self.partitions is None else {}),
            "partitions": self.partitions,
            "rest": self.rest,
        }


def join_states(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Combine the states of all processes of a training run into one, for readers with the same `partitions`.

    Any number of processes that divides the partitions can resume from it. Each then takes its part.

    Args:
        states: The results of `Reader.state_dict` of every process after the same step, in any order.

    Raises:
        ValueError: A process is missing, or the states belong to different epochs or settings.
    """
    by_rank = sorted(states, key=lambda state: state["rank"])
    first = by_rank[0]
    if first["order"]["partitions"] is None:
        raise ValueError("these readers have no partitions: each process resumes its own state")
    if any((state["order"], state["epoch"]) != (first["order"], first["epoch"]) for state in by_rank):
        raise ValueError("these states are of several orders of samples or epochs: take those of one step")
    workers = None
    if any(state["workers"] is not None for state in by_rank):
        workers = [worker for state in by_rank for worker in state["workers"] or ()]
    count = first["order"]["partitions"] if workers is None else len(workers)
    if [state["rank"] for state in by_rank] != list(range(len(by_rank))) or count != first["order"]["partitions"]:
        ranks = ", ".join(str(state["rank"]) for state in by_rank)
        raise ValueError(f"the states of processes {ranks} are not all: there must be one of each process")
    before: Counts = {}
    for state in by_rank:
        add_counts(before, state["before"])
    exhausted = all(state["exhausted"] for state in by_rank)
    changed = {"workers": workers, "before": before, "exhausted": exhausted, "next_worker": 0, "rank": None}
    return {**first, **changed}


def _mixing(sources: Sequence[Source], weights: Sequence[float] | None, budgets: Sequence[int] | None) -> Mixing:
    if weights is not None and budgets is not None:
        raise ValueError("give weights or budgets, not both")
    for name, values in (("weights", weights), ("budgets", budgets)):
        if values is not None and (len(values) != len(sources) or min(values) <= 0):
            raise ValueError(f"{name}: give a number above 0 for each of the {len(sources)} sources")
    if budgets is not None:
        return Mixing(tuple(map(float, budgets)), True, tuple(budgets))
    if weights is not None:
        return Mixing(tuple(map(float, weights)), True, None)
    return Mixing(tuple(float(max(1, source.tokens)) for source in sources), False, None)
