"""The funnel under changed rules is the funnel that select would make with them."""

import copy
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from lakes import rules, write_lake

from manifests.choice import ChoiceError, choose
from manifests.commands.what_if import change, settings, what_if
from manifests.funnel import Funnel
from manifests.lake import Lake
from manifests.rules import RuleError
from manifests.select import select
from manifests.selection import Selection
from manifests.views import open_views

BATCHES = [
    [
        {"id": "a", "duration_s": 41.0, "speech": [(0, 9), (10, 12), (20, 40)]},
        {"id": "b", "duration_s": 30.0, "error": "UnreadableAudioError"},
        {"id": "c", "duration_s": 20.0, "speech": [(2, 5)]},
        {"id": "closed", "duration_s": 7.0, "ingest_error": "PermissionError"},
    ],
    [
        {"id": "d", "duration_s": 20.0, "speech": [(0, 20)], "pcm": "a"},
        {"id": "e", "duration_s": 9.0, "speech": [(0, 8.5)]},
        {"id": "f", "duration_s": 66.0, "speech": [(1, 30), (31, 33), (35, 60)]},
    ],
]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return write_lake(tmp_path / "lake", copy.deepcopy(BATCHES))


def described(funnel: Funnel) -> Any:
    """Counts, and hours to the microsecond: sums of other order differ in their last bits."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: rounded(item) for name, item in value.items() if name != "selection"}
        if isinstance(value, list):
            return [rounded(item) for item in value]
        return round(value * 3600, 6) if isinstance(value, float) else value

    return rounded(funnel.as_dict())


CHANGES: list[dict[str, Any]] = [
    {},
    {"rules": {"speech": "speech_share >= 0.8"}},
    {"rules": {"loud": "loudness_lufs > -70"}},
    {"rules": {"speech": "speech_share >= 0.1"}},
    {"drop": ["long", "speech"]},
    {"window_rules": {"together": "num_speakers >= 2"}},
    {"rules": {"x": "num_speakers = 2"}, "window_rules": {"spoken": "speech_share > 0.9"}},
    {"drop": ["spoken"]},
    {"settings": {"context_s": 1.0}},
    {"settings": {"continuation_s": 18.0, "stride_s": 4.0}, "drop": ["long"]},
    {"settings": {"align": "turns"}},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_what_if_tells_what_select_would_do(lake: Lake, changes: dict[str, Any]) -> None:
    select(lake, rules())
    stored = Selection.stored(lake, "sel")
    changed = change(
        stored, changes.get("rules", {}), changes.get("window_rules", {}), changes.get("drop", []),
        changes.get("settings", {}),
    )  # fmt: skip
    before = {key: lake.storage.read(key) for key in lake.storage.list()}
    told = what_if(lake, choose(lake), stored, changed)
    assert {key: lake.storage.read(key) for key in lake.storage.list()} == before
    assert described(told.funnel) == described(select(lake, changed))
    told.funnel.check()
    assert told.cut == told.of


def test_it_holds_where_rows_must_be_joined_by_id(lake: Lake) -> None:
    select(lake, rules())
    stored = Selection.stored(lake, "sel")
    key = lake.annotation_key("diarize", "d", "batch-000001")
    lake.write(key, lake.read(key).take([2, 0, 1]))
    for condition in ("speech_share >= 0.8", "num_speakers = 2 AND speech_share < 0.8"):
        changed = change(stored, {"speech": condition}, {}, [], {})
        told = what_if(lake, choose(lake), stored, changed).funnel
        assert described(told) == described(select(lake, changed))


def test_rules_cannot_reach_files(lake: Lake) -> None:
    select(lake, rules())
    stored = Selection.stored(lake, "sel")
    reaching = change(stored, {"x": "(SELECT count(*) FROM read_text('/etc/hostname')) > 0"}, {}, [], {})
    with pytest.raises(RuleError):
        what_if(lake, choose(lake), stored, reaching)


def test_a_sample_stands_for_what_is_not_cut(lake: Lake) -> None:
    select(lake, rules(recordings={"never": "false"}))
    stored = Selection.stored(lake, "sel")
    told = what_if(lake, choose(lake), stored, change(stored, {}, {}, ["never"], {}), sample=2)
    assert (told.cut, told.of) == (2, 4)
    assert told.funnel.part("recordings", "kept")[0] == 4
    told.funnel.check()


def test_a_sample_reads_few_batches_and_its_error_is_as_large_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recordings of a batch are alike here: an error as of recordings drawn one by one would be too small."""
    batches = [
        [
            {"id": f"{b}-{n}", "duration_s": 12.0 + b % 7 * 8, "speech": [(0, 12.0 + b % 7 * 8)]}
            for n in range(5 + b % 3)
        ]
        for b in range(60)
    ]
    lake = write_lake(tmp_path / "lake", batches)
    select(lake, rules(recordings={"never": "false"}))
    stored, choice = Selection.stored(lake, "sel"), choose(lake)
    truth = what_if(lake, choice, stored, change(stored, {}, {}, ["never"], {}), sample=1000)
    assert (truth.cut, truth.error_h) == (truth.of, 0.0)
    opened: list[str] = []

    def watched(*given: Any) -> duckdb.DuckDBPyConnection:
        opened.extend(given[3] if len(given) > 3 else [])
        return open_views(*given)

    monkeypatch.setattr("manifests.commands.what_if.open_views", watched)
    ratios = []
    for seed in range(6):
        opened.clear()
        told = what_if(lake, choice, stored, change(stored, {}, {}, ["never"], {"seed": seed}), sample=60)
        assert (len(opened), len(set(opened)), told.of) == (20, 20, truth.of)
        assert told.cut == 60
        assert told.funnel.part("recordings", "kept") == truth.funnel.part("recordings", "kept")
        told.funnel.check()
        wrong_h = (told.funnel.part("windows", "kept")[1] - truth.funnel.part("windows", "kept")[1]) / 3600
        ratios.append(wrong_h / told.error_h)
    assert 0.4 < np.sqrt(np.mean(np.square(ratios))) < 1.3


def test_wrong_rules_and_settings_are_told(lake: Lake) -> None:
    select(lake, rules())
    stored = Selection.stored(lake, "sel")
    with pytest.raises(RuleError, match="durations"):
        what_if(lake, choose(lake), stored, change(stored, {"x": "durations > 1"}, {}, [], {}))
    with pytest.raises(ChoiceError, match="no rule 'nix'"):
        change(stored, {}, {}, ["nix"], {})
    with pytest.raises(ChoiceError, match=r"select\.grid"):
        settings(["select.grid=1"])
    assert settings(["select.context_s=5", "select.recordings.x=a > 1"]) == {
        "context_s": 5, "recordings": {"x": "a > 1"},
    }  # fmt: skip
