"""Subsets: nested, exact to the token, as their file says for three readers, and refused where they cannot hold."""

from __future__ import annotations

import json
from pathlib import Path

import lhotse
import numpy as np
import pyarrow.compute as pc
import pytest
import webdataset
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_datasets import add_shards, features, spread

from manifests.choice import ChoiceError
from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from manifests.subsets import About, Subset, prefix
from pipelines.commands.cli import cli
from speechmill.reader import Reader, Source
from studies.strata import stratified
from studies.subset import cut, describe

WINDOWS = 60


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """`set`: shards of one and of two tracks in folders of their own, a failed window, a second split, two versions."""
    lake = Lake.at(str(tmp_path_factory.mktemp("lake")))
    (Path(lake.storage.root) / "recordings").mkdir()
    add_shards(lake, "set", spread(40, 7), failed=[3])
    add_shards(lake, "set", [[60, 61]], split="test")
    add_shards(lake, "set", [[40, 41, 42], [43, 44, 45]], folder="train.2tracks", tracks=lambda number: 2)
    add_shards(lake, "set", [range(46, 53), range(53, WINDOWS)], first=6)
    return lake


def row_of(lake: Lake, **about: object) -> list[str]:
    """The ids of all windows in the order of prefixes."""
    source = Source(lake, "set", subset=prefix(lake, About("set", **({"version": 4} | about))))  # type: ignore[arg-type]
    return [sample["id"] for sample in Reader(source, shuffle=False)]


def number_of(window_id: str) -> int:
    recording, _, start = window_id.partition("-")
    return int(recording[3:]) * 3 + int(start) // 8000


def tokens_of(window_id: str, patch: int, context: bool) -> int:
    """Tokens of a window, from the features that were written: 20 frames of context, the rest after it."""
    number = number_of(window_id)
    tracks = 2 if 40 <= number < 46 else 1
    frames = features(number, tracks, 4).shape[1]
    return tracks * ((20 // patch if context else 0) + (frames - 20) // patch)


def ids_of(lake: Lake, subset: Subset) -> set[str]:
    return {sample["id"] for sample in Reader(Source(lake, "set", subset=subset))}


@settings(max_examples=25)
@given(patch=st.integers(1, 6), context=st.booleans(), share=st.floats(0.02, 1.0))
def test_a_prefix_gives_its_budget_to_less_than_one_window(lake: Lake, patch: int, context: bool, share: float) -> None:
    every = row_of(lake)
    ends = np.cumsum([tokens_of(one, patch, context) for one in every])
    budget = int(ends[-1] * share)
    made = prefix(lake, About("set", 4, patch=patch, context=context, budget=budget))
    count = int(np.searchsorted(ends, budget, side="right"))
    assert ids_of(lake, made) == set(every[:count])
    assert made.tokens == ends[count - 1]
    if count < len(every):
        assert made.next_tokens == ends[count] - ends[count - 1]
        assert 0 <= budget - made.tokens < made.next_tokens
    found = describe(made, [])
    assert found["context_tokens"] + found["continuation_tokens"] == sum(
        tokens_of(one, patch, True) for one in every[:count]
    )


def test_the_reader_cuts_a_budget_to_the_same_windows(lake: Lake) -> None:
    for budget in (70, 400, 1111, 2000):
        source = Source(lake, "set", budget=budget, patch=2)
        made = prefix(lake, About("set", 4, patch=2, budget=budget))
        assert [sample["id"] for sample in Reader(source, seed=5)] == [
            sample["id"] for sample in Reader(Source(lake, "set", subset=made, patch=2), seed=5)
        ]
        reader = Reader(source)
        assert len(list(reader)) == pc.sum(made.rows["windows"]).as_py()
        counts = reader.counts()["set"]["train"]
        assert counts["context_tokens"] + counts["continuation_tokens"] == made.tokens == source.tokens


@settings(max_examples=25)
@given(
    shares=st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)),
    by=st.sampled_from([("language",), ("num_speakers",), ("language", "num_speakers"), ("source",)]),
    patch=st.integers(1, 6),
)
def test_strata_have_their_shares_and_smaller_budgets_are_part_of_larger_ones(
    lake: Lake, shares: tuple[float, float], by: tuple[str, ...], patch: int
) -> None:
    every = row_of(lake)
    total = sum(tokens_of(one, patch, True) for one in every)
    longest = max(tokens_of(one, patch, True) for one in every)
    before: set[str] = set()
    for share in sorted(shares):
        budget = int(total * share)
        made, strata = stratified(lake, About("set", 4, patch=patch, budget=budget, by=by))
        taken = ids_of(lake, made)
        assert before <= taken
        before = taken
        assert made.tokens == sum(tokens_of(one, patch, True) for one in taken) <= budget
        assert made.next_tokens is None or budget - made.tokens < made.next_tokens
        assert sum(one.tokens for one in strata) == made.tokens
        assert sum(one.held for one in strata) == total
        for one in strata:
            assert abs(one.tokens - budget * one.share) <= longest, one


def test_strata_are_weighted_as_asked_and_what_is_not_there_is_told(lake: Lake) -> None:
    about = About("set", 4, budget=1000, by=("language",))
    made, strata = stratified(lake, about, {"de": 3, "en": 1})
    given = {one.name: one.tokens for one in strata}
    languages = [sample["language"] for sample in Reader(Source(lake, "set", subset=made))]
    assert set(languages) == {"de", "en"}
    assert given["de"] / 1000 == pytest.approx(0.75, abs=0.1)
    _, (only, none) = stratified(lake, about, {"de": 1})
    assert (only.name, none.name, none.tokens, none.windows) == ("de", "en", 0, 0)
    whole, strata = stratified(lake, About("set", 4, by=("language",)), {"de": 1})
    assert whole.tokens == strata[0].held
    with pytest.raises(ChoiceError, match=r"2,000,000 tokens of de are needed, and there are") as caught:
        stratified(lake, About("set", 4, budget=2_000_000, by=("language",)), {"de": 1})
    assert f"{whole.tokens:,} or less" in caught.value.remedy
    with pytest.raises(ChoiceError, match="no tokens of fr"):
        stratified(lake, about, {"fr": 1})
    with pytest.raises(ChoiceError, match="weight above 0"):
        stratified(lake, about, {"de": 0})


def test_a_stratified_subset_reads_no_more_shards_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    add_shards(lake, "set", spread(80, 2))
    read: list[str] = []
    original = Lake.read

    def counting(self: Lake, key: str, columns: list[str] | None = None) -> object:
        read.append(key)
        return original(self, key, columns)

    monkeypatch.setattr(Lake, "read", counting)
    stratified(lake, About("set", 1, budget=300, by=("language",)))
    assert 3 < len({key for key in read if "/windows/" in key}) < 30


@pytest.mark.parametrize("by", [(), ("language",)])
def test_three_readers_take_the_same_windows(lake: Lake, tmp_path: Path, by: tuple[str, ...]) -> None:
    path = str(tmp_path / "part.parquet")
    made, _ = cut(lake, About("set", 4, tracks=None if by else 1, budget=1000, by=by))
    made.write(path)
    subset = Subset.read(path)
    assert (subset.about, subset.rows, subset.next_tokens) == (made.about, made.rows, made.next_tokens)
    expected = {sample["id"] for sample in Reader(Source(lake, "set", subset=path))}
    assert len(expected) == pc.sum(made.rows["windows"]).as_py()
    cuts = lhotse.CutSet.from_shar(fields=subset.fields()).filter(subset.holds)
    frames = {one.id: one.load_latents() for one in cuts}
    assert frames.keys() == expected
    tars = subset.fields()["latents"]
    samples = webdataset.WebDataset(tars, shardshuffle=False).select(subset.holds).decode()
    found = {one["__key__"]: one["npy"] for one in samples}
    assert found.keys() == expected
    for window_id in expected:
        np.testing.assert_array_equal(found[window_id], frames[window_id])


def test_a_subset_goes_on_where_one_of_an_older_version_ended(lake: Lake) -> None:
    old = prefix(lake, About("set", 3, budget=1300))
    assert not ids_of(lake, old) <= ids_of(lake, prefix(lake, About("set", 4, budget=1400)))
    for budget in (1300, 1400, 2000):
        new = prefix(lake, About("set", 4, budget=budget), containing=old)
        assert ids_of(lake, old) <= ids_of(lake, new)
        assert new.next_tokens is not None
        assert 0 <= budget - new.tokens < new.next_tokens
        assert new.tokens == sum(tokens_of(one, 1, True) for one in ids_of(lake, new))
        again = prefix(lake, About("set", 4, budget=budget + 300), containing=new)
        assert ids_of(lake, new) <= ids_of(lake, again)
    with pytest.raises(ChoiceError, match="the budget is 100"):
        prefix(lake, About("set", 4, budget=100), containing=old)
    with pytest.raises(ChoiceError, match="splits train, tracks None") as caught:
        prefix(lake, About("set", 3, splits=("test",), budget=100), containing=old)
    assert "same dataset, splits" in caught.value.remedy


def test_a_subset_of_shards_that_were_changed_is_refused(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    add_shards(lake, "set", spread(12, 4))
    prefix(lake, About("set", 1, budget=300)).write(path := str(tmp_path / "s.parquet"))
    add_shards(lake, "set", [[20, 21]], first=3)
    assert len(list(Reader(Source(lake, "set", subset=path)))) > 0  # the first version is as it was
    add_shards(lake, "set", [[0, 2, 3]])
    with pytest.raises(ValueError, match="lists other shards or windows than when the subset was made"):
        Source(lake, "set", subset=path)


def test_what_is_no_subset_is_refused(lake: Lake, tmp_path: Path) -> None:
    shards = f"{lake.storage.root}/datasets/set/shards.parquet"
    with pytest.raises(CorruptFileError, match="is no subset file") as caught:
        Source(lake, "set", subset=shards)
    assert "study subset" in caught.value.remedy
    with pytest.raises(FileNotFoundError):
        Source(lake, "set", subset=str(tmp_path / "none.parquet"))
    made = prefix(lake, About("set", 4, budget=300))
    with pytest.raises(ValueError, match="do not give them too"):
        Source(lake, "set", subset=made, budget=3)
    with pytest.raises(ValueError, match="it belongs to the dataset set, not to other"):
        Source(lake, "other", subset=made)


def test_a_budget_above_what_there_is_and_one_below_a_window_are_told(lake: Lake) -> None:
    with pytest.raises(ChoiceError, match="the budget is 1,000,000 tokens"):
        cut(lake, About("set", 4, budget=10**6))
    with pytest.raises(ChoiceError, match="its first window alone has more than 3 tokens"):
        cut(lake, About("set", 4, budget=3))
    with pytest.raises(ChoiceError, match="no windows of the splits dev"):
        cut(lake, About("set", 4, splits=("dev",)))


def test_the_command_writes_and_tells_it(lake: Lake, tmp_path: Path) -> None:
    path = str(tmp_path / "part.parquet")
    words = ["study", "subset", lake.storage.root, "-o", path, "--dataset", "set", "--budget", "1e3"]
    done = CliRunner().invoke(cli, [*words, "--patch", "2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["budget"], found["short_by"]) == (1000, 1000 - found["tokens"])
    assert (
        sum(tokens_of(sample["id"], 2, True) for sample in Reader(Source(lake, "set", subset=path))) == found["tokens"]
    )
    done = CliRunner().invoke(cli, [*words, "--by", "language", "--weight", "de=1", "--weight", "en=1"])
    assert done.exit_code == 0, done.output
    assert "0.5" in done.stdout
    for wrong in (
        ["--weight", "de=1"],
        ["--by", "colour"],
        ["--by", "language", "--weight", "de"],
        ["--budget", "1.5"],
    ):
        assert CliRunner().invoke(cli, [*words, *wrong]).exit_code == 2
