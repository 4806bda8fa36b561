"""Matching finds copies and passages wherever they lie in a lake, and the same ones however the lake has grown."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fingerprint_lakes import Drawn, drawn, found, match, write_fingerprints
from hypothesis import given
from hypothesis import strategies as st

from manifests.lake import Lake
from manifests.matches import Matches, join
from manifests.matches.align import Marks, improbable, stretches
from manifests.matches.index import codes, keys_of, ranges
from manifests.matches.join import ALIKE_BITS, Hits, hits
from pipelines import matching as work
from pipelines.units.engines import Engine


def batches(seed: int = 0, count: int = 60) -> list[list[tuple[str, Drawn]]]:
    """Twelve batches of five: r07 a noisy copy of r01, r33 holds 10 s of r02, and every third from r36 on a jingle."""
    rng = np.random.default_rng(seed)
    made = [drawn(rng, 60) for _ in range(count)]
    jingle = drawn(rng, 8)
    made[7] = made[1].changed(rng, 0.08, speed=1.01, shift_ms=700)
    made[33] = made[33].with_inside(made[2].part(20_000, 30_000).changed(rng, 0.04), 31_000)
    for number in range(36, count, 3):
        made[number] = made[number].with_inside(jingle.changed(rng, 0.04), int(rng.integers(0, 60_000)))
    named = [(f"r{number:02d}", one) for number, one in enumerate(made)]
    return [named[start : start + 5] for start in range(0, count, 5)]


def written(root: Path, upto: int = 12, lake: Lake | None = None, start: int = 0) -> Lake:
    lake = lake or Lake.at(str(root))
    for number, batch in enumerate(batches()[start:upto], start):
        write_fingerprints(lake, number, batch)
    return lake


def contents(matches: Matches) -> dict[str, bytes]:
    storage = matches.lake.storage
    return {key: storage.read(key) for key in storage.list(matches.prefix)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Matches:
    return match(written(tmp_path_factory.mktemp("whole")))


def test_what_is_planted_is_found_with_its_places_and_nothing_else(whole: Matches) -> None:
    rows = found(whole)
    pairs = {(row["recording_id"], row["other_id"]) for row in rows}
    jingles = [f"r{number:02d}" for number in range(36, 60, 3)]
    assert pairs == {("r07", "r01"), ("r33", "r02")} | {(a, b) for a in jingles for b in jingles if b < a}
    (copy,) = [row for row in rows if row["recording_id"] == "r07"]
    assert copy["speed"] == pytest.approx(1.01, abs=5e-4)
    assert min(copy["share"], copy["other_share"]) > 0.97
    (excerpt,) = [row for row in rows if row["recording_id"] == "r33"]
    assert (excerpt["start_s"], excerpt["end_s"]) == pytest.approx((31, 41), abs=0.7)
    assert (excerpt["other_start_s"], excerpt["other_end_s"]) == pytest.approx((20, 30), abs=0.7)
    assert 0.1 < excerpt["other_share"] < 0.2
    assert all(7 < row["end_s"] - row["start_s"] < 9 for row in rows if row["recording_id"] in jingles)
    assert not list(whole.lake.storage.list("runs/matching"))


def test_a_lake_that_grew_has_the_bytes_of_one_that_was_matched_at_once(tmp_path: Path, whole: Matches) -> None:
    lake = None
    for start, upto in ((0, 3), (3, 4), (4, 11), (11, 12)):
        lake = written(tmp_path, upto, lake, start)
        grown = match(lake)
        assert grown.pending() == []
    assert contents(grown) == contents(whole)


@pytest.mark.parametrize("until", ["join", "match", "committed"])
def test_a_killed_run_is_finished_to_the_same_bytes(tmp_path: Path, whole: Matches, until: str) -> None:
    lake = written(tmp_path)
    match(lake, until=until)
    if until == "committed":
        for batch in ("batch-000002", "batch-000009"):  # as if it had died between two commits
            lake.storage.delete(whole.key(batch))
    assert contents(match(lake)) == contents(whole)


def test_workers_and_ranges_leave_no_trace(tmp_path: Path, whole: Matches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "POSTINGS", 9000)
    monkeypatch.setattr(work, "OF_FILE", 1)
    lake = written(tmp_path)
    assert len(work.Matching.of(match(lake, until="join")).joins()) > 4
    assert contents(match(lake, engine=Engine("local", (2, 2)))) == contents(whole)


def test_batches_wait_for_fingerprints_of_those_before_them(tmp_path: Path) -> None:
    lake = written(tmp_path, 4)
    lake.storage.delete(lake.annotation_key("fingerprint", "f", "batch-000002"))
    assert list(Matches(lake, "f").batches()) == ["batch-000000", "batch-000001"]


def postings(recording: list[int], others: list[int]) -> pa.Table:
    """Postings of one key of 28 bits, with these other bits."""
    code = np.array([(3 << 35) + bits for bits in others], np.uint64)
    times_ms = np.arange(len(code), dtype=np.int32)
    return pa.table({"code": code, "recording": np.array(recording, np.int64), "time_ms": times_ms})


def rows_of(found: Hits) -> list[tuple[int, ...]]:
    return [tuple(row.values()) for row in found.table.to_pylist()]


def test_of_recordings_with_one_key_the_first_are_compared_to_all_others() -> None:
    given = postings([5, 5, 6, 7, 7, 9], [0] * 6)
    made = hits(given, 28, 2, [0])
    expected = [(6, 5, 2, 0), (7, 5, 3, 0), (7, 5, 4, 0), (7, 6, 3, 2), (7, 6, 4, 2), (9, 5, 5, 0), (9, 6, 5, 2)]
    assert rows_of(made) == expected
    assert (made.keys, made.crowded, made.left_out) == (1, 1, 1)
    assert len(hits(given, 28, 2, [1]).table) == len(hits(given.slice(0, 0), 28, 2, [0]).table) == 0


def test_landmarks_with_one_key_but_other_bits_do_not_count_as_recordings_that_have_it() -> None:
    unlike = (1 << ALIKE_BITS + 1) - 1
    given = postings([1, 2, 3, 4, 5], [unlike, 0, unlike, 1 << 30, 0])
    assert rows_of(hits(given, 28, 1, [0])) == [(3, 1, 2, 0), (4, 2, 3, 1), (5, 2, 4, 1)]


def test_a_landmark_is_compared_to_a_limited_number_of_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "MOST_COMPARED", 3)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**35, 40)  # chance seldom makes two of these alike
    made = hits(postings(list(range(40)), bits.tolist()), 28, 8, [0])
    assert (made.keys, made.crowded) == (1, 1)
    assert made.left_out == sum(max(0, rank - 3) for rank in range(40))


def test_keys_differ_by_table_and_spread_over_all_ranges() -> None:
    bits = np.random.default_rng(0).integers(0, 2**63, 4000, np.int64)
    made = codes(bits, 28)
    first, second = (set(keys_of(of_table, 28).tolist()) for of_table in made)
    assert not first & second
    whole = ranges(8, 28)
    assert (whole[0][0], whole[-1][1]) == (0, 2**64)
    for of_table in made:
        assert len(set(of_table.tolist())) == len(bits)
        counts = [sum(low <= code < high for code in of_table.tolist()) for low, high in whole]
        assert min(counts) > 350


def test_codes_differ_in_as_many_bits_as_landmarks_with_the_same_key() -> None:
    one = np.random.default_rng(0).integers(0, 2**63, 1, np.int64)
    for flipped in range(63):
        made = codes(np.append(one, one ^ (1 << flipped)), 28)
        same = [of_table for of_table in made if len(set(keys_of(of_table, 28).tolist())) == 1]
        assert same
        assert all(np.bitwise_count(of_table[0] ^ of_table[1]) == 1 for of_table in same)


@given(st.integers(0, 2**32), st.sampled_from([0.985, 1.0, 1.015]), st.integers(0, 40_000))
def test_alignment_follows_any_speed_from_any_hit(seed: int, speed: float, shift_ms: int) -> None:
    rng = np.random.default_rng(seed)
    one = drawn(rng, 300)
    copy = one.changed(rng, 0.1, speed, shift_ms)
    at = int(rng.integers(len(one.bits)))
    (stretch,) = stretches(
        Marks(copy.times_ms, copy.bits), Marks(one.times_ms, one.bits), copy.times_ms[[at]], one.times_ms[[at]]
    )
    assert stretch.speed == pytest.approx(speed, abs=1e-3)
    assert stretch.of > 0.95 * len(one.bits)
    other = drawn(rng, 300)
    assert stretches(
        Marks(other.times_ms, other.bits), Marks(one.times_ms, one.bits), other.times_ms[[at]], one.times_ms[[at]]
    ) == []  # fmt: skip


def test_evidence_grows_with_what_is_the_same() -> None:
    assert improbable(0, 50) == improbable(-1, 0) == 0.0
    assert 2 < improbable(5, 10) < improbable(8, 10) < improbable(10, 10) == pytest.approx(10)
