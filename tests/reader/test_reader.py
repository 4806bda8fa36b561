"""The reader in a training loop: stopped anywhere and resumed, shared out over workers and processes, mixed."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_datasets import add_shards, spread
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from manifests.lake import Lake
from speechmill.reader import Loader, Reader, Source, collate, join_states

SMALL: dict[str, Any] = {"buffer_mb": 0.006, "block_mb": 0.0015, "shards_at_once": 2}
"""Buffers of some 9 windows in blocks of 2, so that a small dataset has many."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Three datasets: `large` of 53 windows, two of them of two tracks, `small` of 17, and `codec` as `large`."""
    lake = Lake.at(str(tmp_path_factory.mktemp("lake")))
    add_shards(lake, "large", spread(53, 8), tracks=lambda number: 1 + (number % 30 == 7))
    add_shards(lake, "small", spread(17, 5))
    add_shards(lake, "codec", [range(40, 53), range(20), range(22, 40)], dim=6)
    return lake


def readers(lake: Lake) -> dict[str, Any]:
    """Ways to make a reader, by name."""
    large, small = Source(lake, "large", patch=2), Source(lake, "small", patch=2)
    pair = Source(lake, "large", tracks=1, beside=[Source(lake, "codec", tracks=1)])
    return {
        "one": lambda **named: Reader(large, **SMALL, **named),
        "stored order": lambda **named: Reader(large, shuffle=False, **SMALL, **named),
        "two": lambda **named: Reader([large, small], **SMALL, **named),
        "pair": lambda **named: Reader(pair, **SMALL, **named),
        "weights": lambda **named: Reader([large, small], weights=[1, 3], **SMALL, **named),
        "budgets": lambda **named: Reader([large, small], budgets=[700, 900], **SMALL, **named),
        "partitions": lambda **named: Reader([large, small], partitions=12, **SMALL, **named),
    }


KINDS = ["one", "stored order", "two", "pair", "weights", "budgets", "partitions"]
TAKEN = 75
"""Samples after which a test leaves an epoch; `weights` never ends."""


@pytest.fixture(scope="module", params=KINDS)
def undisturbed(request: pytest.FixtureRequest, lake: Lake) -> tuple[Any, list[str], dict[str, Any]]:
    """A way to make a reader, the samples that it gives in two epochs, and its state after them."""
    make = readers(lake)[request.param]
    whole = make(seed=4)
    every = [sample["id"] for _ in range(2) for sample in itertools.islice(whole, TAKEN)]
    return make, every, whole.state_dict()


@settings(max_examples=12)
@given(st.data())
def test_stopped_anywhere_and_resumed_samples_and_counts_are_those_of_an_undisturbed_run(
    undisturbed: tuple[Any, list[str], dict[str, Any]], data: st.DataObject
) -> None:
    make, every, last_state = undisturbed
    stops = sorted(data.draw(st.lists(st.integers(0, len(every)), max_size=2)))
    found: list[str] = []
    state = make(seed=4).state_dict()
    for stop in [*stops, len(every)]:
        reader = make(seed=4)
        reader.load_state_dict(json.loads(json.dumps(state)))
        while len(found) < stop:
            found += [sample["id"] for sample in itertools.islice(reader, stop - len(found))]
        state = reader.state_dict()
    assert found == every
    # A loop that is left after its last sample has not been told that it was the last.
    assert state | {"exhausted": None} == last_state | {"exhausted": None}


def ids(batches: Any) -> list[tuple[str, ...]]:
    return [tuple(batch["id"]) for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_is_stopped_goes_on_as_if_it_were_not(lake: Lake, workers: int) -> None:
    make = readers(lake)["two"]
    whole = Loader(make(), 6, num_workers=workers)
    every = [ids(whole), ids(whole)]
    assert every[0] != every[1]
    for stop in range(len(every[0]) + 1) if not workers else (1, 4, len(every[0]) - 1, len(every[0])):
        first = Loader(make(), 6, num_workers=workers)
        begun = iter(first)
        before = ids(itertools.islice(begun, stop))
        state = json.loads(json.dumps(first.state_dict()))
        begun.close()
        second = Loader(make(), 6, num_workers=workers)
        second.load_state_dict(state)
        assert [before + ids(second), ids(second)] == every, stop
    assert second.counts() == whole.counts()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_that_is_kept_between_two_epochs_goes_on_with_the_next(lake: Lake, workers: int) -> None:
    named: dict[str, Any] = {"num_workers": workers, "drop_last": True}
    whole = Loader(readers(lake)["one"](), 6, **named)
    ids(whole)
    state = whole.state_dict()
    resumed = Loader(readers(lake)["one"](), 6, **named)
    resumed.load_state_dict(state)
    assert (expected := ids(whole)) == ids(resumed)
    assert expected


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stateful_loader_of_torchdata_resumes_it_too(lake: Lake, workers: int) -> None:
    make = readers(lake)["two"]
    every = ids(StatefulDataLoader(make(), 6, num_workers=workers, collate_fn=collate))
    assert sorted(Counter(itertools.chain(*every)).values())[0] == 1
    for stop in (1, 4, len(every) - 1):
        first = StatefulDataLoader(make(), 6, num_workers=workers, collate_fn=collate)
        before = ids(itertools.islice(first, stop))
        second = StatefulDataLoader(make(), 6, num_workers=workers, collate_fn=collate)
        second.load_state_dict(first.state_dict())
        assert before + ids(second) == every


def test_workers_give_each_sample_once_and_the_loader_counts_what_it_gave(lake: Lake) -> None:
    make = readers(lake)["one"]
    alone = make()
    expected = sorted(sample["id"] for sample in alone)
    for loader in (Loader(make(), 5, num_workers=2), DataLoader(make(), 5, num_workers=2, collate_fn=collate)):
        assert sorted(itertools.chain(*ids(loader))) == expected
    loader = Loader(make(), 5, num_workers=2)
    list(loader)
    assert loader.counts() == alone.counts()
    dropping = Loader(make(), 5, num_workers=2, drop_last=True)
    batches = ids(dropping)
    assert {len(batch) for batch in batches} == {5}
    assert dropping.counts()["large"]["train"]["windows"] == 5 * len(batches)
    assert ids(dropping) != batches  # the next epoch


def test_a_state_of_something_else_is_refused(lake: Lake) -> None:
    make = readers(lake)
    state = make["one"]().state_dict()
    for other, told in (
        (make["two"](), "datasets"),
        (make["one"](seed=1), "shuffle"),
        (make["one"](rank=0, world_size=2), "world_size"),
        (make["one"](rest="drop"), "rest"),
    ):
        with pytest.raises(ValueError, match=f"another order of samples: {told} was"):
            other.load_state_dict(state)
    reader = make["one"]()
    next(iter(Loader(reader, 4, num_workers=2)))
    with pytest.raises(ValueError, match="to 2 workers a process, and now there are 1"):
        next(iter(reader))
    reader.set_epoch(3)
    list(reader)
    assert reader.counts()["large"]["train"]["windows"] == 53 + 4
    with pytest.raises(ValueError, match="persistent_workers"):
        Loader(reader, 4, persistent_workers=True)


def test_an_epoch_is_the_same_whenever_it_is_set(lake: Lake) -> None:
    make = readers(lake)["one"]
    reader = make()
    epochs = [[sample["id"] for sample in reader] for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = make()
    again.set_epoch(2)
    assert [sample["id"] for sample in again] == epochs[2]


def shares(samples: Iterator[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Tokens of the two datasets after each sample."""
    given = Counter[str]()
    for sample in samples:
        given[sample["dataset"]] += sample["tracks"] * (sample["context"].shape[1] + sample["continuation"].shape[1])
        yield given["large"], given["small"]


def test_a_mixture_keeps_its_weights_at_every_moment_and_begins_anew(lake: Lake) -> None:
    reader = readers(lake)["weights"]()
    window = 90  # tokens of the largest window of two tracks
    for large, small in shares(itertools.islice(reader, 200)):
        assert abs(large - small / 3) <= window
    assert reader.counts()["small"]["train"]["windows"] > 5 * 17


def test_sources_without_weights_end_together_each_window_once(lake: Lake) -> None:
    samples = list(readers(lake)["two"]())
    assert Counter(sample["dataset"] for sample in samples) == {"large": 53, "small": 17}
    assert len({(sample["dataset"], sample["id"]) for sample in samples}) == 70
    last = {sample["dataset"]: index for index, sample in enumerate(samples)}
    assert min(last.values()) > 60


@pytest.mark.parametrize("world_size", [1, 3])
def test_budgets_are_given_to_within_a_window_a_worker(lake: Lake, world_size: int) -> None:
    given = Counter[str]()
    for rank in range(world_size):
        reader = readers(lake)["budgets"](rank=rank, world_size=world_size)
        *_, (large, small) = shares(iter(reader))
        given += Counter(large=large, small=small)
    assert 700 <= given["large"] < 700 + 90 * world_size
    assert 900 <= given["small"] < 900 + 45 * world_size
    assert given["small"] > 2 * 340  # the small dataset was begun anew


def test_what_has_nothing_to_begin_anew_with_is_told(lake: Lake) -> None:
    small = Source(lake, "small")
    with pytest.raises(ValueError, match="small has no window for worker 0 of process 19"):
        list(Reader(small, weights=[1], rank=19, world_size=40, rest="drop"))


WORKER = """
import json, sys
import torch.distributed
from speechmill.reader import Loader, Reader, Source
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=int(sys.argv[3]), world_size=2)
for rest in ("keep", "drop", "repeat"):
    loader = Loader(Reader(Source(sys.argv[1], "large"), rest=rest), 4, num_workers=2)
    batches = [batch["id"] for batch in loader]
    both = [None, None]
    torch.distributed.all_gather_object(both, (batches, loader.counts()))
    if torch.distributed.get_rank() == 0:
        print(json.dumps(both))
torch.distributed.destroy_process_group()
"""


def test_two_processes_of_torch_distributed_see_every_sample_once(lake: Lake, tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", WORKER, lake.storage.root, str(tmp_path / "meet"), rank] for rank in "01"]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for command in commands]
    answers = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for line, expected in zip(answers[0].splitlines(), (53, 52, 54), strict=True):
        (one, counts), (other, others) = json.loads(line)
        seen = Counter(itertools.chain(*one, *other))
        windows = counts["large"]["train"]["windows"] + others["large"]["train"]["windows"]
        assert windows == seen.total() == expected
        assert len(seen) == min(53, windows)
        if expected != 53:  # dropped or repeated, so that processes have equally many batches
            assert [len(batch) for batch in one] == [len(batch) for batch in other]


def test_a_batch_is_collated_by_a_function_of_the_user(lake: Lake) -> None:
    loader = Loader(readers(lake)["one"](), 4, num_workers=2, collate=len)
    assert sum(loader) == 53


def in_step(
    lake: Lake, world_size: int, batch: int, workers: int = 0, state: dict[str, Any] | None = None
) -> list[Loader]:
    """The loaders of all processes, each with its part of a batch."""
    make = readers(lake)["partitions"]
    loaders = []
    for rank in range(world_size):
        loader = Loader(make(rank=rank, world_size=world_size), batch // world_size, num_workers=workers)
        if state:
            loader.load_state_dict(state)
        loaders.append(loader)
    return loaders


def steps(loaders: list[Loader]) -> Iterator[set[tuple[str, str]]]:
    """The windows that all processes together take in each step of an epoch."""
    for batches in itertools.zip_longest(*loaders):
        taken = [pair for batch in batches if batch for pair in zip(batch["dataset"], batch["id"], strict=True)]
        assert len(set(taken)) == len(taken)
        yield set(taken)


def test_partitions_give_equal_batches_over_all_processes_whatever_their_number(lake: Lake) -> None:
    one, *others = (list(steps(in_step(lake, world_size, 12))) for world_size in (1, 2, 6))
    # The last windows of an epoch are not a whole batch of every process.
    assert all(of_many[:4] == one[:4] for of_many in others)
    assert all(set.union(*of_many) == set.union(*one) for of_many in others)


@pytest.mark.parametrize(("before", "after"), [((3, 0), (2, 0)), ((1, 2), (4, 0)), ((6, 0), (1, 2))])
def test_partitions_are_resumed_by_another_number_of_processes_and_workers(
    lake: Lake, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """Each window comes once, before or after, and is counted once."""
    loaders = in_step(lake, before[0], 12, before[1])
    given = list(itertools.islice(steps(loaders), 2))
    state = json.loads(json.dumps(join_states(loader.state_dict() for loader in reversed(loaders))))
    resumed = in_step(lake, after[0], 12, after[1], state)
    given += steps(resumed)
    assert sum(map(len, given)) == len(set.union(*given)) == 53 + 17
    counts = [loader.counts() for loader in resumed]
    windows = {name: sum(one.get(name, {}).get("train", {}).get("windows", 0) for one in counts) for name in counts[0]}
    assert windows == {"large": 53, "small": 17}
    again = join_states(loader.state_dict() for loader in resumed)
    assert again["exhausted"]
    (alone,) = in_step(lake, 1, 12, state=again)
    assert {sample["id"] for sample in alone.reader} == {name for _, name in set.union(*given)}
    assert alone.counts()["large"]["train"]["windows"] == 2 * 53


def test_states_that_cannot_be_joined_or_resumed_are_refused(lake: Lake) -> None:
    make = readers(lake)["partitions"]
    pair = [make(rank=rank, world_size=2) for rank in range(2)]
    for reader in pair:
        next(iter(reader))
    states = [reader.state_dict() for reader in pair]
    for wrong, told in (
        (states[:1], "the states of processes 0 are not all"),
        ([states[0], states[0]], "the states of processes 0, 0 are not all"),
        ([states[0], states[1] | {"epoch": 1}], "of several orders of samples or epochs"),
        ([readers(lake)["two"]().state_dict()], "no partitions"),
    ):
        with pytest.raises(ValueError, match=told):
            join_states(wrong)
    with pytest.raises(ValueError, match=r"join the states of all of them with speechmill\.reader\.join_states"):
        make(rank=0, world_size=3).load_state_dict(states[0])
    with pytest.raises(ValueError, match="12 partitions cannot be shared out over 5 processes"):
        make(rank=0, world_size=5)
    with pytest.raises(ValueError, match="6 partitions a process cannot be shared out over 4 workers"):
        next(iter(Loader(pair[0], 4, num_workers=4)))
