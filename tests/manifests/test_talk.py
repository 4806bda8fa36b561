"""What the report draws of how people talk: every change of the floor and every speaker's share is in its charts."""

import json
from pathlib import Path
from typing import Any

import pytest
from lakes import rules, write_lake

from manifests import schemas
from manifests.choice import choose
from manifests.lake import Lake
from manifests.report import talk
from manifests.report.report import Report
from manifests.select import select
from pipelines.stages.turns import summary


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Nine conversations of two speakers, one of three, one monologue."""
    rows: list[dict[str, Any]] = [
        {"id": f"r{n:02}", "duration_s": 10.0 + n, "speech": [(0.0, 2 + n / 2)]} for n in range(11)
    ]
    lake = write_lake(tmp_path / "lake", [rows])
    turns = [
        [
            {"speaker": "A", "track": 0, "start_s": 0.0, "end_s": 3.0},
            {"speaker": "B", "track": 0, "start_s": 2.5 + n / 10, "end_s": 4.0 + n / 10},
        ]
        for n in range(10)
    ]
    turns[9] += [{"speaker": "C", "track": 0, "start_s": 14.0, "end_s": 15.0}]
    turns.append(turns[0][:1])
    diarized = [
        {"recording_id": row["id"], "status": "ok", "turns": told, **summary(told, row["duration_s"])}
        for row, told in zip(rows, turns, strict=True)
    ]
    lake.write(lake.annotation_key("diarize", "d", "batch-000000"), schemas.table(diarized, schemas.DIARIZE))
    select(lake, rules(recordings={"alternating": "offset_median_s > -0.35"}, windows={}))
    return lake


def test_every_change_of_the_floor_is_in_a_bar(lake: Lake) -> None:
    report = Report(lake, choose(lake))
    counts, note = talk.histogram(report.connection, "unnest(offsets_s)", "diarize", talk.OFFSETS_S)
    assert {verdict: sum(bars) for verdict, bars in counts.items()} == {"kept": 9, "rejected": 2}
    assert note == ""
    edges = talk.edges_of(talk.OFFSETS_S)
    assert len(edges) == len(counts["kept"]) + 1
    assert counts["rejected"][edges.index(-0.5)] == 1
    assert counts["kept"][-1] == 1  # of 9.1 s, beyond the last edge


def test_shares_are_means_by_rank_and_number_of_speakers(lake: Lake) -> None:
    report = Report(lake, choose(lake))
    drawn = {figure: chart for figure, _, _, chart in talk.charts(report.connection, report.choice.stages)}
    assert drawn.keys() == {"talk-offsets", "talk-shares"}
    first, second, third = drawn["talk-shares"]["data"]
    assert (first["x"], first["customdata"]) == (["2", "3"], [9, 1])
    assert first["y"] == pytest.approx([2 / 3, 3 / 5.5])
    assert second["y"] == pytest.approx([1 / 3, 1.5 / 5.5])
    assert third["y"] == pytest.approx([0, 1 / 5.5])


def test_the_page_has_the_section_where_speakers_were_told_apart_and_only_there(lake: Lake, tmp_path: Path) -> None:
    page = Report(lake, choose(lake)).build(0, None)
    assert 'id="talk-offsets"' in page
    assert "of the changes of the floor that overlap" in page  # the measure in the list of all
    alone = write_lake(tmp_path / "alone", [[{"id": "r", "duration_s": 10.0, "speech": [(0.0, 2.0)]}]])
    assert 'id="talk"' not in Report(alone, choose(alone)).build(0, None)
    assert json.loads(lake.storage.read("selections/sel/funnel.json"))["recordings"]["kept"]["count"] == 8


def test_each_speaker_is_in_the_charts_of_prosody(lake: Lake) -> None:
    voices = [
        {"speaker": name, "track": 0, "alone_s": 5.0, "pitch_median_hz": hz}
        for name, hz in (("A", 110.0), ("B", 900.0))
    ]
    rows = [
        {
            "recording_id": f"r{n:02}",
            "status": "ok",
            "voices": voices[: 1 + n % 2],
            "alone_s": 5.0,
            "pitch_median_hz": 110.0,
        }
        for n in range(11)
    ]
    lake.write(lake.annotation_key("prosody", "p", "batch-000000"), schemas.table(rows, schemas.PROSODY))
    report = Report(lake, choose(lake, stages={"prosody": "p"}))
    drawn = {figure: chart for figure, _, _, chart in talk.charts(report.connection, report.choice.stages)}
    assert drawn.keys() == {"talk-offsets", "talk-shares", "talk-pitch_median_hz"}  # of the others nothing is known
    kept = {trace["name"]: trace["y"] for trace in drawn["talk-pitch_median_hz"]["data"]}["kept"]
    assert sum(kept) == 12
    assert kept[-1] == 4  # at 900 Hz, beyond the last edge
