"""Samples: what is stored, divided, patched, normalised and told; beside other datasets; in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from synthetic_datasets import add_shards, features, spread

from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from speechmill.reader import Reader, Source, collate


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(str(tmp_path / "lake"))


def number_of(sample: dict) -> int:
    """The number of a window, by its id."""
    recording, _, start = sample["id"].partition("-")
    return int(recording[3:]) * 3 + int(start) // 8000


def numbers(source: Source) -> list[int]:
    return [number_of(sample) for sample in Reader(source, shuffle=False)]


@pytest.mark.parametrize("patch", [1, 3, 7])
def test_context_and_continuation_meet_at_whole_tokens(lake: Lake, patch: int) -> None:
    add_shards(lake, "set", spread(10, 4), tracks=lambda number: 1 + (number % 4 == 0))
    for sample in Reader(Source(lake, "set", patch=patch, dtype="float16")):
        number = number_of(sample)
        stored = features(number, 1 + (number % 4 == 0), 4)
        context, rest = 20 // patch, (stored.shape[1] - 20) // patch
        assert sample["context"].shape == (len(stored), context, patch * 4)
        assert sample["continuation"].shape == (len(stored), rest, patch * 4)
        joined = torch.cat([sample["context"], sample["continuation"]], 1).numpy()
        begin = 20 - context * patch
        expected = stored[:, begin : begin + (context + rest) * patch]
        np.testing.assert_array_equal(joined.reshape(len(stored), -1, 4), expected)


def test_a_sample_tells_of_its_window(lake: Lake) -> None:
    add_shards(lake, "set", [[5]])
    (sample,) = Reader(Source(lake, "set"))
    assert {name: value for name, value in sample.items() if not isinstance(value, torch.Tensor)} == {
        "id": "rec0001-000016000", "dataset": "set", "recording_id": "rec0001", "split": "train", "start_s": 16.0,
        "duration_s": 9.0, "tracks": 1, "language": "de", "num_speakers": 3, "source": "here", "licence": "CC0",
        "labels": {"show": "1"},
        "turns": [{"speaker": "A", "track": 0, "start_s": 0.5, "end_s": 3.0, "confidence": None}],
    }  # fmt: skip
    assert (sample["context"].dtype, sample["context"].shape) == (torch.float32, (1, 20, 4))


def test_normalised_features_of_the_split_have_mean_0_and_variance_1(lake: Lake) -> None:
    add_shards(lake, "set", spread(40, 9))
    add_shards(lake, "set", [[50]], split="test")
    made = list(Reader(Source(lake, "set", normalise=True)))
    joined = torch.cat([part[0] for sample in made for part in (sample["context"], sample["continuation"])]).double()
    torch.testing.assert_close(joined.mean(0), torch.zeros(4, dtype=torch.double), atol=1e-5, rtol=0)
    torch.testing.assert_close(joined.var(0, correction=0), torch.ones(4, dtype=torch.double), atol=1e-5, rtol=0)
    one, other = (next(iter(Reader(Source(lake, "set", split="test", normalise=by)))) for by in ("train", "test"))
    assert not torch.equal(one["context"], other["context"])
    with pytest.raises(ValueError, match="no statistics of the split 'dev'"):
        Source(lake, "set", normalise="dev")


def test_whitened_features_of_the_split_have_the_identity_as_covariance(lake: Lake) -> None:
    add_shards(lake, "set", spread(40, 9))
    made = list(Reader(Source(lake, "set", normalise=True, whiten=True)))
    joined = torch.cat([part[0] for sample in made for part in (sample["context"], sample["continuation"])]).double()
    torch.testing.assert_close(joined.T.cov(correction=0), torch.eye(4, dtype=torch.double), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="whiten needs normalise"):
        Source(lake, "set", whiten=True)


def test_a_value_that_never_varies_is_not_scaled_up(lake: Lake) -> None:
    def flat(number: int, tracks: int, dim: int) -> np.ndarray:
        made = features(number, tracks, dim)
        made[..., 3] = 1.5
        return made

    add_shards(lake, "set", spread(8, 4), make=flat)
    for sample in Reader(Source(lake, "set", normalise=True, whiten=True)):
        assert sample["context"][..., :3].abs().max() < 10
        assert not sample["context"][..., 3].any()


def test_batches_are_padded_with_lengths_and_masks(lake: Lake) -> None:
    add_shards(lake, "set", [range(8)], tracks=lambda number: 1 + number % 2)
    samples = list(Reader(Source(lake, "set", patch=4)))
    batch = collate(samples)
    assert batch["id"] == [sample["id"] for sample in samples]
    assert batch["continuation"].shape == (8, 2, 17, 16)
    for index, sample in enumerate(samples):
        for part in ("context", "continuation"):
            tracks, tokens, _ = sample[part].shape
            assert batch[f"{part}_lengths"][index] == tokens
            mask = torch.zeros(batch[part].shape[1:3], dtype=torch.bool)
            mask[:tracks, :tokens] = True
            assert torch.equal(batch[f"{part}_mask"][index], mask)
            assert torch.equal(batch[part][index, :tracks, :tokens], sample[part])
            assert not batch[part][index][~mask].any()


def test_windows_of_one_number_of_tracks_are_chosen(lake: Lake) -> None:
    """Whether both kinds lie in one folder or in folders of their own."""
    add_shards(lake, "mixed", spread(12, 5), tracks=lambda number: 1 + (number % 3 == 0))
    add_shards(lake, "apart", spread(8, 4))
    add_shards(lake, "apart", [[9, 10], [11]], folder="train.2tracks", tracks=lambda number: 2)
    assert numbers(Source(lake, "mixed", tracks=2)) == [0, 3, 6, 9]
    assert numbers(Source(lake, "mixed", tracks=1)) == [1, 2, 4, 5, 7, 8, 10, 11]
    assert sorted(numbers(Source(lake, "mixed"))) == list(range(12))
    assert numbers(Source(lake, "apart", tracks=2)) == [9, 10, 11]
    assert sorted(numbers(Source(lake, "apart"))) == [*range(8), 9, 10, 11]
    assert {sample["context"].shape[0] for sample in Reader(Source(lake, "apart", tracks=2))} == {2}
    with pytest.raises(ValueError, match="no windows of the splits dev with 2 tracks"):
        Source(lake, "mixed", split="dev", tracks=2)


def test_several_splits_are_read_together(lake: Lake) -> None:
    add_shards(lake, "set", spread(8, 3))
    add_shards(lake, "set", [[20, 21]], split="dev")
    reader = Reader(Source(lake, "set", split=["train", "dev"]))
    assert sorted(map(number_of, reader)) == [*range(8), 20, 21]
    assert {split: counts["windows"] for split, counts in reader.counts()["set"].items()} == {"train": 8, "dev": 2}


@pytest.mark.parametrize("patch", [1, 3])
def test_a_budget_is_the_longest_prefix_within_it_and_smaller_ones_are_part_of_it(lake: Lake, patch: int) -> None:
    add_shards(lake, "set", spread(30, 7), failed=[3, 9])
    every = numbers(Source(lake, "set"))
    sizes = [20 // patch + (features(number, 1, 4).shape[1] - 20) // patch for number in every]
    ends = np.cumsum(sizes)
    for budget in (int(ends[0]), int(ends[5]), int(ends[6]) - 1, int(ends[12]) + 1, int(ends[-1]), int(ends[-1]) + 99):
        source = Source(lake, "set", budget=budget, patch=patch)
        assert numbers(source) == every[: int(np.searchsorted(ends, budget, side="right"))]
        assert sorted(map(number_of, Reader(source, seed=3))) == sorted(numbers(source))
    with pytest.raises(ValueError, match="its first window alone has more"):
        Source(lake, "set", budget=int(ends[0]) - 1, patch=patch)


def test_a_version_is_pinned_while_a_dataset_grows(lake: Lake) -> None:
    add_shards(lake, "set", spread(12, 4))
    first = Source(lake, "set", version=1)
    reader = Reader(first, seed=1)
    before = [sample["id"] for sample in reader]
    state = Reader(Source(lake, "set")).state_dict()
    add_shards(lake, "set", [[20, 21], [22]], first=3)
    assert [sample["id"] for sample in Reader(Source(lake, "set", version=1), seed=1)] == before
    assert sorted(numbers(Source(lake, "set"))) == [*range(12), 20, 21, 22]
    Reader(Source(lake, "set", version=1)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"datasets was \[\[\['set', 1, .* is now \[\[\['set', 2, "):
        Reader(Source(lake, "set")).load_state_dict(state)
    with pytest.raises(FileNotFoundError, match="has no version 3, but 1, 2"):
        Source(lake, "set", version=3)
    with pytest.raises(FileNotFoundError, match="no dataset other"):
        Source(lake, "other")


@pytest.mark.parametrize("order", ["same", "other"])
def test_the_same_windows_of_two_encoders_come_side_by_side(lake: Lake, order: str) -> None:
    add_shards(lake, "logmel", spread(20, 6), failed=[2])
    shards = spread(20, 6) if order == "same" else [[19, 4, 0, 7], range(8, 17), [18, 5, 6, 1, 2, 3]]
    add_shards(lake, "codec", shards, dim=6, failed=[11])
    reader = Reader(Source(lake, "logmel", dtype="float16", beside=[Source(lake, "codec", patch=2, dtype="float16")]))
    found = []
    for sample in reader:
        number = number_of(sample)
        found.append(number)
        for name, dim, patch in (("logmel", 4, 1), ("codec", 6, 2)):
            expected = features(number, 1, dim)[:, :20].reshape(1, 20 // patch, -1)
            np.testing.assert_array_equal(sample[f"{name}.context"].numpy(), expected)
    missing = {2, 11} if order == "same" else {2, 11, 17}
    assert sorted(found) == [number for number in range(20) if number not in missing]
    counts = reader.counts()
    assert counts["logmel"]["train"]["unpaired"] == len(missing - {2})
    assert counts["logmel"]["train"]["windows"] == counts["codec"]["train"]["windows"] == len(found)
    batch = collate(list(reader))
    assert batch["codec.context"].shape == (len(found), 1, 10, 12)


@pytest.mark.parametrize("patch", [1, 2, 6])
def test_the_tokens_of_an_epoch_are_those_of_the_ledger(lake: Lake, patch: int) -> None:
    add_shards(lake, "set", spread(30, 7), tracks=lambda number: 1 + (number % 5 == 0), failed=[4])
    reader = Reader(Source(lake, "set", patch=patch))
    assert len(list(reader)) == 29
    ledger = lake.read("datasets/set/ledger.parquet")
    ledger = ledger.filter(pc.equal(ledger["patch"], patch))
    told = {
        name: pc.sum(ledger[name]).as_py() for name in ("windows", "frames", "context_tokens", "continuation_tokens")
    }
    assert reader.counts() == {"set": {"train": told | {"unpaired": 0}}}


def test_a_damaged_array_is_told_with_its_window_and_file(lake: Lake) -> None:
    add_shards(lake, "set", spread(9, 3))
    path = Path(lake.storage.root) / "datasets/set/train/latents.000001.tar"
    data = bytearray(path.read_bytes())
    at = int(lake.read("datasets/set/windows/train-000001.parquet")["array_offset"][1].as_py()) + 200
    data[at] ^= 1
    path.write_bytes(data)
    told = "train/latents.000001.tar: the features of rec0001-000008000 are not those that were written"
    with pytest.raises(CorruptFileError, match=told) as caught:
        list(Reader(Source(lake, "set")))
    assert "speechmill encode" in caught.value.remedy
    path.write_bytes(data[: at - 100])
    with pytest.raises(CorruptFileError, match="are not those that were written"):
        list(Reader(Source(lake, "set")))
    path.unlink()
    with pytest.raises(CorruptFileError, match=r"latents.000001.tar: missing"):
        list(Reader(Source(lake, "set")))


def test_what_cannot_be_read_so_is_refused(lake: Lake) -> None:
    add_shards(lake, "set", spread(9, 3))
    source = Source(lake, "set")
    refused = [
        (lambda: Source(lake, "set", patch=0), "patch and budget"),
        (lambda: Source(lake, "set", patch=7, budget=5), "patch sizes of 1 to 6"),
        (lambda: Source(lake, "set", dtype="bfloat16"), "float32"),
        (lambda: Source(lake, "set", beside=[source]), "must be different datasets"),
        (lambda: Reader([]), "give one or more"),
        (lambda: Reader(source, rest="pad"), "keep, drop, repeat"),
        (lambda: Reader(source, weights=[1, 2]), "each of the 1 sources"),
        (lambda: Reader(source, weights=[1], budgets=[2]), "not both"),
        (lambda: Reader(source, rank=1), "both rank and world_size"),
        (lambda: Reader(source, rank=1, world_size=1), "rank below"),
    ]
    for made, told in refused:
        with pytest.raises(ValueError, match=told):
            made()
    with pytest.raises(ValueError, match="width 4 and 12 cannot share a batch"):
        collate([next(iter(Reader(Source(lake, "set", patch=patch)))) for patch in (1, 3)])
