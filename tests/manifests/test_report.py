"""What the report gathers: rules that can move, samples that are exact, charts whose bars hold everything."""

import base64
import doctest
from pathlib import Path

import duckdb
import numpy as np
import pytest
from lakes import rules, write_lake

from manifests.choice import choose
from manifests.lake import Lake
from manifests.report import card, figures, samples, thresholds
from manifests.report.figures import bins
from manifests.report.page import render
from manifests.report.report import Report
from manifests.select import select


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    rows = [
        {"id": f"r{n:02}", "duration_s": 10.0 + n, "speech": [(0.0, 0.2 + n / 2), (5 + n / 2, 6 + n / 2)]}
        for n in range(40)
    ]
    rows += [{"id": "dup", "duration_s": 30.0, "pcm": "r30", "speech": [(0, 30)]}]
    rows += [{"id": "bad", "duration_s": 9.0, "error": "UnreadableAudioError"}, {"id": "no", "ingest_error": "OSError",
             "duration_s": 1.0}]  # fmt: skip
    lake = write_lake(tmp_path / "lake", [rows[:25], rows[25:]])
    select(lake, rules(recordings={"long": "duration_s >= 12", "speech": "speech_share > 0.1 and duration_s < 45"}))
    return lake


def test_rules_that_compare_one_number_can_move_and_no_others() -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE t (a DOUBLE, n INTEGER, name VARCHAR, shares MAP(VARCHAR, DOUBLE))")
    given = {
        "plain": "a >= 0.25",
        "whole": " n<3 ",
        "of a map": "coalesce(shares['en'], 0) >= 0.99",
        "negative": "a - n > -1e-2",
        "two": "a > 1 and n < 2",
        "either": "a > 1 or n + 1 < 2",
        "denied": "not a > 1",
        "equal": "n = 1",
        "text": "name > 5",
        "unknown": "b > 1",
        "against a column": "a > n",
    }
    found = thresholds.thresholds(connection, "recordings", "t", given)
    assert [(t.name, t.expression, t.op, t.value) for t in found] == [
        ("plain", "a", ">=", 0.25),
        ("whole", "n", "<", 3.0),
        ("of a map", "coalesce(shares['en'], 0)", ">=", 0.99),
        ("negative", "a - n", ">", -0.01),
    ]


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_the_sample_keeps_what_select_keeps_and_says_when_it_is_not_all(lake: Lake) -> None:
    report = Report(lake, choose(lake))
    assert [(t.name, t.level) for t in report.movable] == [("long", "recordings"), ("spoken", "windows")]
    columns = {score.expression: score.column for score in report.scores if score.level == "recordings"}
    level = thresholds.sample(report.connection, columns, None)["recordings"]
    assert (level["exact"], level["count"], level["sampled"]) == (True, 43, 43)
    kept = (unpacked(level["fixed"], "u1") == 1) & (unpacked(level["columns"]["duration_s"], "<f8") >= 12)
    hours = unpacked(level["duration"], "<f8")[kept].sum() / 3600
    query = "SELECT count(*), sum(duration_s) / 3600 FROM verdicts WHERE verdict = 'kept'"
    assert (kept.sum(), pytest.approx(hours)) == report.rows(query)[0]
    windowed = thresholds.sample(report.connection, columns, {}, max_recordings=20, max_windows=30)
    assert (windowed["recordings"]["exact"], windowed["recordings"]["sampled"]) == (False, 20)
    parents = unpacked(windowed["windows"]["parent"], "<u4")
    assert 0 < len(parents) <= 30
    assert parents.max() < 20


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.2), (-48.3, -17.1), (0.0, 43219.7), (1e-9, 3e-9)])
def test_bars_hold_every_value_in_steps_that_people_read(low: float, high: float) -> None:
    edges = bins(low, high, whole=False)
    assert edges[0] <= low <= high < edges[-1]
    assert 4 <= len(edges) - 1 <= 40
    assert bins(0, 3, whole=True)[:3] == [-0.5, 0.5, 1.5]


def test_scores_that_are_the_same_but_for_rounding_get_one_bar_of_a_width_that_says_something() -> None:
    assert bins(0.0, 1e-12, whole=False) == bins(0.0, 0.0, whole=False) == [0.0, 0.05, 0.1, 0.15, 0.2]


def test_recordings_beyond_the_budget_are_left_out_and_counted(lake: Lake) -> None:
    report = Report(lake, choose(lake))
    drawn = samples.browsed(report.connection, report.movable, 30, None)
    assert {"kept", "rejected", "failed"} == drawn.verdicts
    small = {"title": "t", "whatif": {"levels": {}}, "figures": {}, "facts": [], "scores": [], "groups": []}
    small |= {"failures": [], "provenance": []}
    whole = render(dict(small), drawn)
    assert "30 of 43 recordings, drawn from" in whole
    limit = len(whole.encode()) - 5000
    told = render(dict(small), drawn, limit)
    assert len(told.encode()) <= limit
    assert "more were drawn and left out" in told


def test_examples_in_docstrings_hold() -> None:
    for module in (samples, card, figures):
        outcome = doctest.testmod(module)
        assert (outcome.failed, outcome.attempted > 0) == (0, True)
