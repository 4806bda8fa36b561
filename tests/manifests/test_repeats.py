"""Passages that many recordings contain: each recording is compared to the first few, and all of them are counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from fingerprint_lakes import Drawn, drawn, found, match, write_fingerprints
from lakes import rules, write_lake

from manifests import repeats
from manifests.lake import Lake
from manifests.matches import MatchConfig
from manifests.select import select

FIRST = MatchConfig().first


def jingles(count: int) -> list[Drawn]:
    """Recordings of 6 s, each with the same 8 s inside, 5 % of whose bits differ in each recording."""
    rng = np.random.default_rng(0)
    jingle = drawn(rng, 8)
    return [drawn(rng, 6).with_inside(jingle.changed(rng, 0.05), int(rng.integers(6000))) for _ in range(count)]


def test_a_recording_is_compared_to_few_others_by_a_jingle_whatever_its_keys_are(tmp_path: Path) -> None:
    lake, made = Lake.at(str(tmp_path)), jingles(60)
    for number in range(0, 60, 30):
        named = [(f"r{at:03d}", made[at]) for at in range(number, number + 30)]
        write_fingerprints(lake, number // 30, named)
    rows = found(match(lake))
    by_recording = {name: [row["other_id"] for row in rows if row["recording_id"] == name] for name, _ in named}
    assert all(FIRST <= len(others) < 2 * FIRST for others in by_recording.values())
    assert all("r000" in others for others in by_recording.values())


@pytest.fixture
def opened() -> Callable[[int], duckdb.DuckDBPyConnection]:
    def made(count: int) -> duckdb.DuckDBPyConnection:
        """Tables as `duplicates.find` leaves them: recordings of 60 s share 8 s with each of the first eight."""
        rng = np.random.default_rng(0)
        number = np.repeat(np.arange(count), FIRST)
        other = np.tile(np.arange(FIRST), count)
        number, other = number[other < number], other[other < number]
        starts = rng.integers(0, 200, count)
        places: dict[str, Any] = {"number": number, "other": other}
        for name, at in (("", starts[number]), ("other_", starts[other])):
            places[f"{name}low"] = np.maximum(0, at + rng.integers(-2, 3, len(at))).astype(np.int32)
            places[f"{name}high"] = (at + 32 + rng.integers(-2, 3, len(at))).astype(np.int32)
        connection = duckdb.connect()
        connection.execute(
            "CREATE TABLE samples AS SELECT 'batch-000000' AS batch, printf('%06d', range) AS recording_id, "
            f"60.0::DOUBLE AS duration_s FROM range({count}) ORDER BY range; "
            "CREATE TABLE standing (number BIGINT, leader BIGINT, place BIGINT)"
        )
        connection.register("places", pa.table(places))
        connection.execute("CREATE TABLE shared AS FROM places")
        return connection

    return made


def test_the_work_for_a_passage_grows_in_proportion_to_its_recordings(
    opened: Callable[[int], duckdb.DuckDBPyConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    for count in (1000, 4000):
        connection = opened(count)
        repeats.find(connection)
        ((counts[count],),) = connection.execute("SELECT count(*) FROM counted").fetchall()
        told = connection.execute("SELECT max(repeats), count(*), min(repeats) FROM heard").fetchall()
        assert told == [(count, count, count)]
    assert counts[4000] < 4.1 * counts[1000]
    whole = connection.execute("FROM heard ORDER BY recording_id").fetchall()
    monkeypatch.setattr(repeats, "AT_ONCE", 500)
    monkeypatch.setattr(repeats, "STEPS_AT_ONCE", 2000)
    again = opened(4000)
    repeats.find(again)
    assert again.execute("FROM heard ORDER BY recording_id").fetchall() == whole


def test_a_lake_that_grew_knows_the_same_repeats_as_one_that_was_made_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    made = jingles(24)
    made[9] = made[4].changed(rng, 0.05)  # a copy
    made[14] = drawn(rng, 12).with_inside(made[2], 5000)  # contains an earlier recording
    batches: list[list[dict[str, Any]]] = [
        [{"id": f"r{at:03d}", "duration_s": float(made[at].times_ms[-1]) / 1000 + 0.5, "speech": [(0, 5)]}
         for at in range(start, start + 6)]
        for start in range(0, 24, 6)
    ]  # fmt: skip

    def verdicts(root: Path, steps: list[int]) -> list[dict[str, dict[str, Any]]]:
        told = []
        for upto in steps:
            lake = write_lake(root, batches[:upto])
            for number, batch in enumerate(batches[:upto]):
                write_fingerprints(lake, number, [(row["id"], made[int(row["id"][1:])]) for row in batch])
            write_lake(root, batches[:upto])  # with the columns that were measured
            matches = match(lake)
            select(lake, rules(matches=matches.mark))
            tables = [lake.read(lake.verdicts_key("sel", batch)).to_pylist() for batch in lake.batches()]
            told.append({row["recording_id"]: row for table in tables for row in table})
        return told

    *before, grown = verdicts(tmp_path / "grown", [1, 2, 4])
    assert grown == verdicts(tmp_path / "once", [4])[-1]
    assert grown["r000"]["repeats"] > FIRST
    assert grown["r009"]["duplicate_of"] is not None or grown["r004"]["duplicate_of"] is not None
    for earlier in before:
        for name, row in earlier.items():
            assert row["repeats"] <= grown[name]["repeats"]
