"""The order of an epoch: each window once over all workers, found from any place on, and well mixed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.reader.order import Epoch, Rest, Shuffle, permutation, share

COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(sum)
SHUFFLES = st.builds(
    Shuffle, st.integers(0, 2**40), st.booleans(), st.integers(1, 9), st.integers(1, 40), st.integers(1, 4)
)
WORKERS = st.tuples(st.integers(1, 4), st.integers(1, 3))


def places(epoch: Epoch, position: int = 0) -> list[tuple[int, int]]:
    """Shard and number of each window that is left."""
    found = []
    for buffer in epoch.buffers(position):
        found += [(buffer.blocks[block].shard, buffer.blocks[block].begin + row) for block, row in buffer.order]
        first_used = list(dict.fromkeys(block for block, _ in buffer.order))
        assert first_used == list(range(len(buffer.blocks)))
    return found


def whole(counts: list[int], shuffle: Shuffle, workers: tuple[int, int], rest: Rest) -> list[list[tuple[int, int]]]:
    """What each process gives in one epoch."""
    return [
        [
            place
            for worker in range(workers[1])
            for place in places(
                Epoch(np.array(counts), share(sum(counts), rank, workers[0], worker, workers[1], rest), shuffle, 3)
            )
        ]
        for rank in range(workers[0])
    ]


@given(COUNTS, SHUFFLES, WORKERS)
def test_each_window_comes_once_over_all_workers(counts: list[int], shuffle: Shuffle, workers: tuple[int, int]) -> None:
    expected = [(shard, number) for shard, count in enumerate(counts) for number in range(count)]
    kept = whole(counts, shuffle, workers, "keep")
    assert sorted(place for process in kept for place in process) == expected
    assert max(map(len, kept)) - min(map(len, kept)) <= 1


@given(COUNTS, SHUFFLES, WORKERS)
def test_drop_and_repeat_make_processes_equal(counts: list[int], shuffle: Shuffle, workers: tuple[int, int]) -> None:
    expected = {(shard, number) for shard, count in enumerate(counts) for number in range(count)}
    dropped = whole(counts, shuffle, workers, "drop")
    assert {len(process) for process in dropped} == {len(expected) // workers[0]}
    once = [place for process in dropped for place in process]
    assert len(set(once)) == len(once)
    repeated = whole(counts, shuffle, workers, "repeat")
    assert {len(process) for process in repeated} == {-(-len(expected) // workers[0])}
    assert {place for process in repeated for place in process} == expected
    for rest in ("drop", "repeat"):  # equally many batches need equally many windows in each worker, too
        shares = [
            [share(len(expected), rank, workers[0], worker, workers[1], rest) for worker in range(workers[1])]
            for rank in range(workers[0])
        ]
        assert len({tuple(end - begin for begin, end in one) for one in shares}) == 1


@given(COUNTS, SHUFFLES, st.data())
def test_from_any_place_on_the_rest_is_the_same(counts: list[int], shuffle: Shuffle, data: st.DataObject) -> None:
    epoch = Epoch(np.array(counts), (0, sum(counts)), shuffle, 1)
    position = data.draw(st.integers(0, len(epoch)))
    assert places(epoch, position) == places(epoch)[position:]


def test_epochs_and_seeds_differ_and_shards_of_a_stored_order_come_as_they_lie() -> None:
    counts = np.full(10, 50)
    orders = {
        (seed, epoch): tuple(places(Epoch(counts, (0, 500), Shuffle(seed, True, 5, 100, 4), epoch)))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert places(Epoch(counts, (0, 500), Shuffle(0, False, 5, 100, 4), 0)) == [
        (shard, number) for shard in range(10) for number in range(50)
    ]


def test_the_drawn_order_is_the_one_of_every_version() -> None:
    assert permutation(10, 1, 2, 3).tolist() == [1, 8, 2, 4, 6, 5, 0, 9, 7, 3]


@pytest.mark.parametrize(("block", "least"), [(20, 0.5), (1, 0.8)])
def test_neighbours_of_a_shard_are_far_apart_after_the_shuffle(block: int, least: float) -> None:
    """Of windows that lie side by side most are more than ten windows apart, the more so the smaller the blocks."""
    counts = np.full(20, 500)
    order = places(Epoch(counts, (0, 10000), Shuffle(0, True, block, 640, 4), 0))
    at = {place: index for index, place in enumerate(order)}
    apart = [abs(at[shard, number] - at[shard, number + 1]) for shard in range(20) for number in range(499)]
    assert np.mean(np.array(apart) > 10) > least
