"""Selection on small lakes written by hand: what is in comes out kept, rejected or failed, with every reason."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lakes import rules, write_lake

from manifests import schemas
from manifests.lake import Lake
from manifests.rules import RuleError
from manifests.select import select
from manifests.selection import Selection
from manifests.windows import cut_starts, draw_split


def test_every_recording_has_one_verdict_and_all_its_reasons(tmp_path: Path) -> None:
    lake = write_lake(
        tmp_path,
        [
            [
                {"id": "kept", "duration_s": 20.0, "speech": [(0, 9), (10, 12)]},
                {"id": "short", "duration_s": 4.0},
                {"id": "broken", "duration_s": 30.0, "error": "UnreadableAudioError"},
            ],
            [
                {"id": "copy", "duration_s": 20.0, "speech": [(0, 20)], "pcm": "kept"},
                {"id": "closed", "duration_s": 7.0, "ingest_error": "PermissionError"},
            ],
        ],
    )
    funnel = select(lake, rules())
    verdicts = {row["recording_id"]: row for batch in lake.batches() for row in _verdicts(lake, batch)}
    assert {key: (row["verdict"], row["reasons"]) for key, row in verdicts.items()} == {
        "kept": ("kept", []),
        "short": ("rejected", ["long", "speech"]),
        "broken": ("failed", ["signal: UnreadableAudioError"]),
        "copy": ("rejected", ["duplicate"]),
        "closed": ("failed", ["ingest: PermissionError"]),
    }
    assert verdicts["copy"]["duplicate_of"] == "kept"
    windows = lake.read(lake.windows_key("sel", "batch-000000")).to_pylist()
    assert [(row["start_s"], row["speech_s"], row["kept"], row["reasons"]) for row in windows] == [
        (0.0, 8.0, True, []),
        (8.0, 3.0, False, ["spoken"]),
    ]
    assert windows[1]["turns"] == [
        {"speaker": "S0", "track": 0, "start_s": 0.0, "end_s": 1.0, "confidence": 0.5},
        {"speaker": "S1", "track": 0, "start_s": 2.0, "end_s": 4.0, "confidence": 0.75},
    ]
    assert funnel.part("recordings", "kept") == (1, 20.0)
    assert funnel.remainder_s == 4.0
    stored = json.loads(lake.storage.read("selections/sel/funnel.json"))
    assert stored["recordings"]["in"]["count"] == 5
    assert stored["recordings"]["reasons"]["long"] == {
        "count": 1, "hours": round(4 / 3600, 9), "alone_count": 0, "alone_hours": 0.0,
    }  # fmt: skip
    assert max(len(line) for line in funnel.render().splitlines()) <= 80


def _verdicts(lake: Lake, batch: str) -> list[dict[str, Any]]:
    return lake.read(lake.verdicts_key("sel", batch)).to_pylist()


def test_selecting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    lake = write_lake(tmp_path, [[{"id": "a", "duration_s": 33.0, "speech": [(1, 30)]}]])
    select(lake, rules())
    first = {key: lake.storage.read(key) for key in lake.storage.list("selections")}
    select(lake, rules())
    assert first == {key: lake.storage.read(key) for key in lake.storage.list("selections")}
    assert len(first) == 5
    assert Selection.stored(lake, "sel") == rules()


def test_a_misspelt_column_is_told_with_the_columns_before_anything_is_written(tmp_path: Path) -> None:
    lake = write_lake(tmp_path, [[{"id": "a", "duration_s": 33.0}]])
    with pytest.raises(RuleError, match=r"rule x = 'durations > 1'.*duration_s"):
        select(lake, rules(recordings={"x": "durations > 1"}))
    assert list(lake.storage.list("selections")) == []


def test_rules_cannot_reach_files(tmp_path: Path) -> None:
    lake = write_lake(tmp_path, [[{"id": "a", "duration_s": 33.0}]])
    with pytest.raises(RuleError):
        select(lake, rules(recordings={"x": "(SELECT count(*) FROM read_text('/etc/hostname')) > 0"}))


def test_what_was_not_measured_does_not_pass(tmp_path: Path) -> None:
    lake = write_lake(tmp_path, [[{"id": "a", "duration_s": 33.0}]])
    funnel = select(lake, rules(recordings={"loud": "loudness_lufs > -70"}))
    assert funnel.reasons("recordings")["loud"]["alone_count"] == 1


def test_windows_can_start_with_turns(tmp_path: Path) -> None:
    speech = [(1.25, 5), (6, 9), (9.55, 20)]
    lake = write_lake(tmp_path, [[{"id": "a", "duration_s": 20.0, "speech": speech}]])
    select(lake, rules(align="turns"))
    windows = lake.read(lake.windows_key("sel", "batch-000000")).to_pylist()
    assert [row["start_s"] for row in windows] == [1.2, 9.5]


@given(st.floats(0, 500), st.sampled_from([1.0, 8.0, 40.0]), st.sampled_from([0.1, 0.4, 1.0]))
def test_windows_lie_inside_on_the_grid_and_do_not_overlap(duration_s: float, window_s: float, grid_s: float) -> None:
    (count,), cut = cut_starts(np.array([duration_s]), window_s, window_s, grid_s)
    starts = cut.tolist()
    assert len(starts) == count
    assert all(start >= 0 and start + window_s <= duration_s + 1e-5 for start in starts)
    assert all(abs(start / grid_s - round(start / grid_s)) < 1e-6 for start in starts)
    assert all(b - a >= window_s - 1e-6 for a, b in itertools.pairwise(starts))
    assert duration_s - (starts[-1] + window_s if starts else 0) < window_s + grid_s * (len(starts) + 1)


def test_splits_are_stable_and_near_their_shares() -> None:
    splits = {"train": 0.8, "test": 0.2}
    drawn = [draw_split(str(n), splits, seed=1) for n in range(4000)]
    assert 0.77 < drawn.count("train") / 4000 < 0.83
    assert drawn == [draw_split(str(n), splits, seed=1) for n in range(4000)]
    assert drawn != [draw_split(str(n), splits, seed=2) for n in range(4000)]


def test_a_header_that_claims_more_than_its_file_could_hold_adds_no_hours(tmp_path: Path) -> None:
    """A recording of 32 kB that claims four million years and does not decode counts no hours; another one does."""
    recordings = [
        {"id": "good", "duration_s": 20.0, "speech": [(0, 20)]},
        {"id": "absurd", "duration_s": 1.4e14, "error": "UnreadableAudioError"},
        {"id": "believed", "duration_s": 30.0, "error": "UnreadableAudioError"},
    ]
    lake = write_lake(tmp_path, [recordings])
    key = lake.recordings_key("batch-000000")
    rows = lake.read(key).to_pylist()
    lake.write(key, schemas.table([row | {"size_bytes": 32_000} for row in rows], schemas.RECORDINGS))
    funnel = select(lake, rules())
    assert (funnel.total["recordings"], funnel.total_s["recordings"]) == (3, 50.0)
    assert funnel.part("recordings", "failed") == (2, 30.0)
