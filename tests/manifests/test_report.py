"""What the report gathers: rules that can move, samples that are exact, charts whose bars hold everything."""

import base64
import doctest
from pathlib import Path

import duckdb
import numpy as np
import pytest
from lakes import rules, write_lake

from manifests.lake import Lake
from manifests.report import card, flow, page, samples, thresholds
from manifests.report.figures import bins
from manifests.report.page import render
from manifests.report.report import Report
from manifests.select import select
from manifests.views import choose


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


def test_the_boxes_of_the_funnel_hold_every_recording_and_window_once(tmp_path: Path) -> None:
    rows = [{"id": f"r{n:02}", "duration_s": 9.0 + n, "speech": [(0.0, 2.0 + n / 2)]} for n in range(30)]
    rows += [{"id": "bad", "duration_s": 9.0, "error": "UnreadableAudioError"}]
    lake = write_lake(tmp_path / "lake", [rows])
    # Windows of 8 s that start every 2 s hold more hours than the sound that they are cut from.
    select(lake, rules(stride_s=2.0, recordings={"long": "duration_s >= 12", "speech": "speech_share > 0.3"}))
    funnel = lake.read_json("selections/sel/funnel.json")
    found = flow.nodes(funnel)
    assert found[0].depth == 0
    for number, node in enumerate(found):
        children = []
        for later in found[number + 1 :]:
            if later.depth <= node.depth:
                break
            children += [later] * (later.depth == node.depth + 1)
        if children:
            assert sum(child.drawn_h for child in children) == pytest.approx(node.drawn_h), node
            kinds = {child.what for child in children}
            if kinds == {node.what}:
                assert sum(child.count for child in children) == node.count
    (inside,) = [node for node in found if node.name == "in windows"]
    assert (inside.count, inside.hours) == (funnel["windows"]["in"]["count"], inside.drawn_h)
    assert inside.hours < funnel["windows"]["in"]["hours"]
    assert flow.hours_text(funnel["windows"]["in"]["hours"]) in flow.overlapping(funnel)
    (failed,) = [node for node in found if node.name == "failed"]
    assert failed.told(found[0].hours) == ["1 recording", "0.003\N{NO-BREAK SPACE}h · 1\N{NO-BREAK SPACE}%"]


def test_many_combinations_of_reasons_share_a_box_and_none_is_lost() -> None:
    jointly = [{"verdict": "rejected", "reasons": [f"rule {n}"], "count": 1, "hours": n / 10} for n in range(12)]
    part = {"in": {"count": 12, "hours": 6.6}, "kept": {"count": 0, "hours": 0}, "failed": {"count": 0, "hours": 0},
            "rejected": {"count": 12, "hours": 6.6}, "jointly": jointly}  # fmt: skip
    none = {"count": 0, "hours": 0.0}
    windows = {"in": none, "kept": none, "rejected": none, "failed": none, "jointly": []}
    found = flow.nodes({"recordings": part, "windows": windows, "remainder_hours": 0.0})
    leaves = [node for node in found if node.depth == 2]
    assert (len(leaves), sum(node.count for node in leaves)) == (flow.MAX_REASONS + 1, 12)
    assert leaves[-1].name == "5 other combinations"


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
    for module in (samples, card, flow, page):
        outcome = doctest.testmod(module)
        assert (outcome.failed, outcome.attempted > 0) == (0, True)
