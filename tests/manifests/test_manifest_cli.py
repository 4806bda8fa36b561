"""`speechmill manifest` as a person uses it: what is shown fits 80 columns, --json parses, mistakes have remedies."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from lakes import rules, write_lake

from manifests.lake import Lake
from manifests.select import select
from pipelines.commands.cli import cli

BATCHES = [
    [
        {"id": "a1", "duration_s": 41.0, "speech": [(0, 9), (10, 12), (20, 40)]},
        {"id": "a2", "duration_s": 30.0, "error": "UnreadableAudioError"},
    ],
    [{"id": "b1", "duration_s": 20.0, "speech": [(2, 5)]}, {"id": "b2", "duration_s": 7.0, "ingest_error": "OSError"}],
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = write_lake(tmp_path_factory.mktemp("lakes") / "lake", BATCHES)
    select(made, rules())
    return str(made.storage.root)


def run(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["manifest", *words])
    assert done.exit_code == code, done.output
    return done


def told(*words: str) -> Any:
    return json.loads(run(*words, "--json").output)


COMMANDS = [
    ["head", "LAKE"],
    ["head", "LAKE", "--view", "windows", "-n", "3"],
    ["head", "LAKE/recordings/batch-000000.parquet"],
    ["show", "LAKE", "a1"],
    ["show", "LAKE", "b2"],
    ["stats", "LAKE"],
    ["stats", "LAKE/selections/sel"],
    ["stats", "LAKE/annotations/vad-v"],
    ["stats", "LAKE", "--by", "num_speakers, round(speech_share, 1)"],
    ["stats", "LAKE", "--histogram", "speech_share", "--histogram", "source"],
    ["query", "LAKE", "SELECT * FROM annotations"],
    ["funnel", "LAKE"],
    ["what-if", "LAKE", "--rule", "speech_share > 0.9", "--drop", "long"],
    ["diff", "LAKE", "LAKE"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_it_fits_80_columns_without_colours_and_has_json(
    lake: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = [word.replace("LAKE", lake) for word in words]
    shown = run(*words).output
    assert shown.strip()
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
    assert told(*words) is not None


def test_stats_count_what_is_there(lake: str) -> None:
    found = told("stats", lake)["overview"]
    assert found["recordings"] == {
        "count": 4, "unreadable": 1, "claimed_hours": 98 / 3600, "size_bytes": None, "hours": 61 / 3600,
    }  # fmt: skip
    assert found["failures"] == [
        {"stage": "ingest", "error_type": "OSError", "count": 1},
        {"stage": "signal", "error_type": "UnreadableAudioError", "count": 1},
    ]
    assert found["selection"]["windows"]["in"]["count"] == 5
    by = told("stats", lake, "--by", "num_speakers", "--where", "duration_s > 0")["groups"]
    assert [(row["num_speakers"], row["count"]) for row in by] == [(2, 1), (1, 1)]
    (bins,) = told("stats", lake, "--histogram", "speech_share")["histograms"]
    assert (bins["measured"], bins["unmeasured"], sum(row["count"] for row in bins["bins"])) == (3, 1, 3)


def test_head_finds_rows_wherever_they_lie(tmp_path: Path) -> None:
    batches = [[{"id": f"r{number:02}", "duration_s": 10.0 + number}] for number in range(30)]
    lake = str(write_lake(tmp_path / "lake", batches).storage.root)
    shown = ["--columns", "recording_id"]
    assert told("head", lake, "-n", "3", *shown)["rows"] == [{"recording_id": f"r{n:02}"} for n in range(3)]
    late = told("head", lake, "--where", "duration_s > 37", *shown)["rows"]
    assert [row["recording_id"] for row in late] == ["r28", "r29"]
    assert len(told("head", lake, "-n", "25", *shown)["rows"]) == 25


def test_show_tells_all_of_a_recording_by_id_prefix_or_name(lake: str) -> None:
    found = told("show", lake, "a1")
    assert found["verdict"]["verdict"] == "kept"
    assert [window["kept"] for window in found["windows"]] == [True, False, False, True, True]
    assert "means several" in run("show", lake, "a", code=1).output
    assert "no recording 'zz'" in run("show", lake, "zz", code=1).output
    text = run("show", lake, "a1").output
    assert "speech 0" in text
    assert "rejected: long" not in text


def test_queries_come_as_table_csv_json_and_parquet(lake: str, tmp_path: Path) -> None:
    sql = "SELECT recording_id, turns, duration_s FROM annotations WHERE duration_s > 1 ORDER BY ALL"
    assert "a1" in run("query", lake, sql).output
    rows = list(csv.DictReader(io.StringIO(run("query", lake, sql, "--format", "csv").output)))
    assert [row["recording_id"] for row in rows] == ["a1", "b1"]
    assert json.loads(rows[1]["turns"]) == told("query", lake, sql)["rows"][1]["turns"]
    out = tmp_path / "rows.parquet"
    run("query", lake, sql, "--format", "parquet", "-o", str(out))
    assert pq.read_table(out, use_threads=False)["duration_s"].to_pylist() == [41.0, 20.0]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP VIEW recordings", "only one statement that reads"),
        ("SELECT 1; SELECT 2", "only one statement that reads"),
        ("COPY recordings TO 'x.csv'", "only one statement that reads"),
        ("FROM read_text('/etc/hostname')", "disabled"),
        ("SELECT nix FROM recordings", "nix"),
    ],
)
def test_queries_only_read_the_lake(lake: str, sql: str, message: str) -> None:
    done = run("query", lake, sql, code=1)
    assert message in done.output
    assert "remedy: " in done.output


def test_diff_tells_the_rule_that_changed_a_verdict(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", BATCHES)
    select(lake, rules())
    loose = rules(recordings={"long": "duration_s >= 10"})
    select(lake, type(loose)(**{**vars(loose), "name": "loose"}))
    found = told("diff", f"{lake.storage.root}/selections/sel", f"{lake.storage.root}/selections/loose")
    assert found["settings"]["selection.recordings.speech"] == ["speech_share >= 0.5", None]
    (change,) = found["verdicts"]
    assert (change["before"], change["after"], change["no_longer"], change["now"]) == (
        "rejected",
        "kept",
        ["speech"],
        [],
    )
    assert change["example"] == "b1"


def test_diff_tells_which_recordings_came_and_went(tmp_path: Path) -> None:
    one, two = (write_lake(tmp_path / name, batches) for name, batches in (("one", BATCHES), ("two", BATCHES[:1])))
    found = told("diff", str(one.storage.root), str(two.storage.root))["recordings"]
    assert {part: row["count"] for part, row in found.items()} == {"removed": 2, "added": 0, "changed": 0}
    (tmp_path / "a.toml").write_text("name = 'x'\n[select]\ncontext_s = 2.0\n")
    (tmp_path / "b.toml").write_text("name = 'x'\n[select]\ncontext_s = 5.0\n")
    assert run("diff", str(one.storage.root), str(one.storage.root)).output.splitlines()[-1] == "no difference"
    recipes = told("diff", str(tmp_path / "a.toml"), str(tmp_path / "b.toml"))
    assert recipes == {"choices": [None, None], "settings": {"select.context_s": [2.0, 5.0]}}
    shipped = told("diff", "telephone", str(tmp_path / "a.toml"))["settings"]
    assert shipped["name"] == ["telephone", "x"]
    assert "of two kinds" in run("diff", "telephone", str(one.storage.root), code=1).output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["head", "nowhere"], "there is no nowhere"),
        (["stats", "LAKE", "--selection", "nix"], "no selection 'nix'"),
        (["stats", "LAKE", "--by", "nix"], "nix"),
        (["head", "LAKE", "--view", "nix"], "nix"),
        (["what-if", "LAKE", "--rule", "nix > 1"], "nix"),
        (["what-if", "LAKE", "--set", "select.nix=1"], "select.context_s"),
        (["show", "LAKE/recordings/batch-000000.parquet", "a1"], "no lake"),
        (["query", "LAKE", "SELECT 1", "--format", "parquet"], "-o"),
    ],
)
def test_mistakes_are_told_with_a_remedy(lake: str, words: list[str], message: str) -> None:
    done = run(*[word.replace("LAKE", lake) for word in words], code=1)
    assert message in done.output
    assert "remedy: " in done.output


def test_a_lake_that_is_not_annotated_can_be_looked_at(tmp_path: Path) -> None:
    lake = Lake.at(str(tmp_path / "lake"))
    full = write_lake(tmp_path / "full", BATCHES)
    lake.storage.put("recordings/batch-000000.parquet", full.storage.read("recordings/batch-000000.parquet"))
    assert "2 recordings" in run("stats", str(lake.storage.root)).output
    assert "a1" in run("head", str(lake.storage.root)).output
    assert "no selection" in run("funnel", str(lake.storage.root), code=1).output
