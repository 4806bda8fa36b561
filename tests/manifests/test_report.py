"""What the report gathers: rules that can move, samples that are exact, charts whose bars hold everything."""

import base64
import doctest
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from lakes import rules, write_lake

from manifests.choice import choose
from manifests.lake import Lake
from manifests.report import figures, flow, hub, measures, page, provenance, runs, samples, thresholds
from manifests.report.figures import bins
from manifests.report.page import render
from manifests.report.report import Report
from manifests.report.tokens import Tokens
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
    assert failed.lines(found[0].hours) == ["1 recording", "0.003\N{NO-BREAK SPACE}h · 1\N{NO-BREAK SPACE}%"]


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


DEMO = {"name": "demo", "annotate": {"vad": {}}, "select": {"windows": {"spoken": "speech_share > 0.5"}}}


def put_run(lake: Lake, name: str, recipe: dict[str, Any], steps: dict[str, Any] | None, **results: Any) -> None:
    """What a run leaves in a lake; without `steps` what a killed one leaves."""
    lake.storage.put(f"runs/{name}/recipe.json", json.dumps(recipe).encode())
    if steps is not None:
        about = {"command": f"speechmill run {recipe['name']}", "machine": {"cpus": 2, "versions": {"numpy": name[:8]}}}
        told = about | {"outcome": "done", "wall_s": 3.0, "steps": steps, "results": results}
        lake.storage.put(f"runs/{name}/summary.json", json.dumps(told).encode())


def step(recordings: int, hours: float, failed: int = 0) -> dict[str, Any]:
    counts = {"recordings": recordings, "hours": hours, "failed": failed}
    return counts | {"wall_s": 90.0, "hours_per_hour": hours * 40}


def test_provenance_names_the_runs_that_made_a_dataset_and_no_others(lake: Lake) -> None:
    funnel = lake.read_json("selections/sel/funnel.json")
    other = DEMO | {"name": "other", "annotate": {"vad": {"threshold": 0.7}}}
    widened = DEMO | {"select": {}}
    none = {"recordings": 0, "hours": 0.0, "failed": 0, "wall_s": 0.1, "hours_per_hour": 0.0}
    put_run(lake, "20260101T000000Z-aaaa", other, {"ingest": step(43, 0)}, ingest={"new": 43, "failed": 1})
    put_run(lake, "20260101T000100Z-bbbb", other, {"annotate": step(41, 0.3)})
    put_run(lake, "20260101T000200Z-cccc", DEMO, {"annotate": step(41, 0.3, 1), "encode": step(9, 0.2)}, select=funnel)
    put_run(lake, "20260101T000300Z-dddd", DEMO, None)
    put_run(lake, "20260101T000400Z-eeee", widened, {"encode": step(40, 0.4)}, select=funnel | {"selection": "wide"})
    put_run(lake, "20260101T000500Z-ffff", DEMO, {"annotate": none, "encode": none})
    put_run(lake, "20260101T000600Z-0000", other, {"ingest": step(5, 0)}, ingest={"new": 5, "failed": 0})
    put_run(lake, "20260101T000700Z-1111", other, {"encode": step(7, 0.1)}, select=funnel | {"selection": "other-1"})
    found = [(run.name[-4:], did) for run, did in runs.runs_behind(runs.newest_runs(lake), "sel", DEMO)]
    kept, windows = funnel["recordings"]["kept"]["count"], funnel["windows"]
    assert found == [
        ("ffff", "found every shard encoded"),
        ("dddd", runs.NO_SUMMARY),
        (
            "cccc",
            "measured 41 recordings, 0.300 h of sound in 1 min 30 s, 1 failed; "
            f"kept {kept} of 43 recordings and {windows['kept']['count']} of {windows['in']['count']} windows; "
            "encoded 0.200 h of sound in 1 min 30 s",
        ),
        ("aaaa", "added 43 recordings, 1 unreadable"),
    ]
    blocks = list(provenance.blocks(lake, choose(lake), None, runs.newest_runs(lake)))
    (made,) = [block for block in blocks if "runs" in block]
    assert made["name"] == "Runs that made the selection sel, newest first"
    assert [begun for begun, *_ in made["runs"]] == [
        "2026-01-01 00:03:00", "2026-01-01 00:02:00", "2026-01-01 00:00:00",
    ]  # fmt: skip
    (machine,) = [block for block in blocks if block["name"].startswith("Machine")]
    assert machine["rows"] == [("cpus", 2), ("numpy", "20260101")]


def test_each_run_is_a_bar_of_its_own_also_where_two_began_in_the_same_second(lake: Lake) -> None:
    for name in ("20260101T000000Z-aaaa", "20260101T000000Z-bbbb", "20260101T000030Z-cccc"):
        put_run(lake, name, DEMO, {"annotate": step(41, 0.3), "encode": step(9, 0.2)})
    rates = runs.rates(runs.newest_runs(lake))
    figure = figures.bars(rates, "hours of sound per hour", "#5b7fc7", "Throughput")
    (trace,) = figure["data"]
    assert len(set(trace["y"])) == len(trace["x"]) == 6
    assert list(trace["x"]) == [12.0, 8.0] * 3
    assert {label for label in trace["y"] if "encode" in label} == {
        "encode (demo)<br>2026-01-01 00:00:30",
        "encode (demo)<br>2026-01-01 00:00:00",
        "encode (demo)<br>2026-01-01 00:00:00 aaaa",
    }


def test_a_shard_whose_windows_all_failed_holds_no_frame() -> None:
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE ledger AS SELECT 'train' AS split, patch, 3 AS windows, 0.5 AS hours, 60 AS frames, "
        "20 // patch AS context_tokens, 40 // patch AS continuation_tokens, 2 // patch AS repeated_context_tokens, "
        "7 // patch AS repeated_continuation_tokens FROM unnest([1, 2, 3]) AS t(patch)"
    )
    connection.execute(
        "CREATE TABLE shard_windows AS FROM (VALUES ('train', 0, 'ok', 2, 10, 20), "
        "('train', 1, 'failed', NULL, NULL, NULL)) AS t(folder, shard, status, tracks, "
        "context_frames, continuation_frames)"
    )
    counted = Tokens.from_ledger(connection, {"encode": {"patch": 3}})
    assert counted is not None
    assert (counted.windows, counted.hours, counted.frames, counted.tokens) == (3, 0.5, 60, 6 + 13)
    assert counted.repeated_tokens == 0 + 2
    section, drawn = counted.section(connection)
    (trace,) = drawn["tokens-prefix"]["data"]
    assert (list(trace["x"]), list(trace["y"])) == ([0, 1, 2], [0, 60, 60])
    assert section["unit"] == "a token is 3 frames"
    connection.execute("DELETE FROM ledger")
    assert Tokens.from_ledger(connection, None) is None


def test_every_measure_has_a_unit_and_a_sentence() -> None:
    for measure in [*measures.recording_measures().values(), *measures.window_measures().values()]:
        assert measure.sentence[0].isupper() or measure.sentence.startswith("DNSMOS"), measure
        assert len(measure.sentence.split()) >= 4, measure
        assert measure.unit or not (pa.types.is_integer(measure.kind) or pa.types.is_floating(measure.kind)), measure


def test_a_rule_that_computes_tells_what_it_is_made_of() -> None:
    rule = thresholds.Threshold("recordings", "whole", "coalesce(claimed_duration_s, 0) - duration_s", "<=", 0.5)
    first = next(measures.scores([rule], windows=False))
    assert first.sentence.startswith("Computed by a rule of the recipe. claimed_duration_s (s): Duration that")
    assert "duration_s (s): Length of the decoded sound" in first.sentence
    assert first.unit == first.axis == "s"
    ratio = thresholds.Threshold("recordings", "ratio", "speech_s / duration_s", ">", 0.5)
    assert next(measures.scores([ratio], windows=False)).unit == measures.NO_UNIT


def test_recordings_beyond_the_budget_are_left_out_and_counted(lake: Lake) -> None:
    report = Report(lake, choose(lake))
    drawn = samples.sample_recordings(report.connection, report.movable, 30, None)
    assert {"kept", "rejected", "failed"} == drawn.verdicts
    small = {"title": "t", "whatif": {"levels": {}}, "figures": {}, "facts": [], "scores": [], "groups": []}
    small |= {"failures": [], "provenance": [], "runs": {}, "measures": []}
    whole = render(dict(small), drawn)
    assert "A sample of 30 of 43 recordings, from every verdict" in whole
    limit = len(whole.encode()) - 5000
    told = render(dict(small), drawn, limit)
    assert len(told.encode()) <= limit
    assert "more were left out" in told


def test_examples_in_docstrings_hold() -> None:
    for module in (hub, flow, page, runs):
        outcome = doctest.testmod(module)
        assert (outcome.failed, outcome.attempted > 0) == (0, True)
