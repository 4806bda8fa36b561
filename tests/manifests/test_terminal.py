"""What is printed: whole in a pipe, fitted to a terminal with a word on what is left out, plain about mistakes."""

import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from lakes import rules, write_lake

from manifests import ledger
from manifests.commands import terminal
from manifests.lake import Lake
from manifests.select import select
from pipelines.commands.cli import cli

NAME = "3b99c93224e0162c5112"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [{"id": NAME[:-1] + str(n), "duration_s": 41.0, "speech": [(0, 9), (10, 40)]} for n in range(3)]
    made = write_lake(tmp_path_factory.mktemp("lakes") / "lake", [rows])
    recordings = {"a_rule_whose_name_is_longer_than_a_column": "duration_s > 0", "short_name": "duration_s > 99"}
    select(made, rules(recordings={"speech": "speech_share > 0.5"}))
    select(made, type(rules())(**{**vars(rules(recordings=recordings)), "name": "none"}))
    return str(made.storage.root)


def run(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["manifest", *words])
    assert done.exit_code == code, done.output
    return done


def on_a_terminal(columns: int, *words: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of a command whose output is a terminal so wide."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    plain = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-m", "pipelines.commands", "manifest", *words]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**plain, **environment}) as process:
        os.close(theirs)
        told = b""
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            told += piece
    os.close(ours)
    return process.returncode, told.decode().replace("\r\n", "\n")


def test_a_pipe_gets_whole_rows_and_columns_respects_its_variable(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    sql = f"SELECT recording_id, '{'long ' * 60}' AS text, 5 AS number FROM recordings"
    (header, *rows) = run("query", lake, sql).output.splitlines()[-4:]
    assert header.split() == ["recording_id", "text", "number"]
    assert all(NAME[:-1] in row and row.count("long") == 60 and row.endswith(" 5") for row in rows)
    monkeypatch.setenv("COLUMNS", "60")
    narrow = run("query", lake, sql).output.splitlines()
    assert max(map(len, narrow)) <= 60
    assert "…" in narrow[-1]
    assert max(map(len, run("query", lake, sql, "--wide").output.splitlines())) > 300


def test_a_narrow_terminal_is_told_which_columns_are_left_out_and_ids_stay_whole(lake: str) -> None:
    words = ["head", lake, "--view", "windows", "--selection", "sel"]
    code, told = on_a_terminal(60, *words)
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in told.splitlines()]
    assert (code, max(map(len, lines)) <= 60) == (0, True)
    assert f"{NAME[:-1]}0-000000000" in lines[3]
    assert "\x1b[1m" in told  # the names of the columns are bold
    flat = " ".join(lines)
    assert "left out, because 60 columns are too few: num_speakers, kept, reasons; --wide shows all" in flat
    assert "--columns A,B,... chooses" in flat
    chosen = on_a_terminal(60, *words, "--columns", "window_id,kept")[1]
    assert "left out" not in chosen
    _, wide = on_a_terminal(60, *words, "--wide", NO_COLOR="1")
    assert "reasons" in wide.splitlines()[2]
    assert "\x1b" not in wide


def test_texts_are_cut_before_numbers_and_what_is_to_spare_is_shared(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["x" * 100, "y" * 30, 12345678, "id" * 20]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "104")
        terminal.table(["a", "b", "n", "some_id"], rows)
        (_, line) = capsys.readouterr().out.splitlines()
        assert len(line) <= 104
        assert line.endswith("12,345,678  " + "id" * 20)
        assert line.count("…") == 2
        patch.setenv("COLUMNS", "30")
        terminal.table(["a", "b", "n", "some_id"], rows)
        assert "left out, because 30 columns" in capsys.readouterr().out
        patch.setenv("COLUMNS", "5")
        terminal.table(["n"], [[12345678]])
        assert capsys.readouterr().out.splitlines() == ["         n", "12,345,678"]


def test_show_names_windows_by_ids_that_clip_takes(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = run("show", lake, NAME[:-1] + "1", "--selection", "sel").output
    assert f"{NAME[:-1]}1-000008000" in text
    assert max(map(len, text.splitlines())) <= 80


def test_reasons_are_printed_whole_however_long(lake: str) -> None:
    long = "a_rule_whose_name_is_longer_than_a_column"
    text = run("what-if", lake, "--selection", "none", "--rule", f"{long}: duration_s < 0").output
    assert long in text
    select(Lake.at(lake), type(rules())(**{**vars(rules(recordings={long: "duration_s < 0"})), "name": "long"}))
    (line,) = [line for line in run("funnel", lake, "--selection", "long").output.splitlines() if long in line]
    assert line.split() == [long, "3", "0.034", "3", "0.034"]


def told(*words: str) -> Any:
    return json.loads(run(*words, "--json").output)


def test_a_condition_alone_is_honoured(lake: str) -> None:
    (found,) = told("stats", lake, "--where", f"recording_id = '{NAME[:-1]}1'")["views"]
    assert (found["view"], found["count"]) == ("recordings", 1)
    assert "where duration_s > 99\nrecordings: 0 rows" in run("stats", lake, "--where", "duration_s > 99").output


def test_by_several_columns_is_one_table_however_it_is_written(lake: str) -> None:
    one = told("stats", lake, "--by", "num_speakers, source")["groups"]
    assert one == told("stats", lake, "--by", "num_speakers", "--by", "source")["groups"]
    assert list(one[0]) == ["num_speakers", "source", "count", "hours", "share"]


def test_labels_are_columns_to_count_by_in_every_view_that_has_them(milled: Lake) -> None:
    for view in ("recordings", "annotations", "windows", "shard_windows"):
        done = run("stats", milled.storage.root, "--view", view, "--by", "labels.country,source", "--json")
        (group,) = json.loads(done.stdout)["groups"]
        assert (group["labels.country"], group["source"]) == ("DE", "sample")
        assert group["count"]
    done = run("stats", milled.storage.root, "--view", "ledger", "--by", "labels.country", code=1)
    assert "labels" in done.stderr


@pytest.mark.parametrize(
    ("words", "error", "remedy"),
    [
        (["stats", "LAKE", "--by", "langauge"], "there is no column langauge", "did you mean language"),
        (
            ["stats", "LAKE", "--histogram", "speech_shar"],
            "there is no column speech_shar",
            "did you mean speech_share",
        ),
        (["head", "LAKE", "--columns", "kept"], "this view has no column kept", "windows"),
        (["head", "LAKE", "--where", 'source = "here"'], "there is no column here", "in single quotes: 'here'"),
        (["head", "LAKE", "--view", "window"], "there is no view window", "did you mean windows"),
        (["query", "LAKE", "FROM widnows"], "there is no view widnows", "did you mean windows"),
        (["query", "LAKE", "SELEC 1"], "this is not SQL that can be read", "as in DuckDB"),
        (["query", "LAKE", "SELECT abs(source) FROM recordings"], "No function matches", "DESCRIBE"),
        (["what-if", "LAKE", "--rule", "speech_shar > 1"], "asks for speech_shar", "did you mean speech_share"),
    ],
)
def test_mistakes_in_sql_are_told_in_plain_words_with_near_names(
    lake: str, words: list[str], error: str, remedy: str
) -> None:
    done = run(*[word.replace("LAKE", lake) for word in words], code=1)
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("remedy: ")
    assert remedy in second
    assert "Binder" not in done.stderr
    assert "\t" not in done.stderr


def test_csv_has_line_feeds_and_a_failed_query_leaves_no_file(lake: str, tmp_path: Path) -> None:
    ids = run("query", lake, "SELECT recording_id FROM recordings", "--format", "csv").stdout_bytes
    assert b"\r" not in ids
    out = tmp_path / "rows.csv"
    failing = "SELECT error('no') FROM recordings"
    run("query", lake, failing, "--format", "csv", "-o", str(out), code=1)
    assert list(tmp_path.iterdir()) == []
    run("query", lake, "SELECT 1 AS one", "-o", str(out))
    assert out.read_text().splitlines()[-2:] == ["one", "  1"]


def test_the_ledger_by_several_columns_is_one_table(milled: Lake) -> None:
    table = milled.read("datasets/set/ledger.parquet")
    text = ledger.render(table, 2, ["source", "num_speakers"])
    header, *rows, note = text.splitlines()
    assert header.split() == ["source", "num_speakers", "windows", "hours", "frames", "context", "continuation"]
    counted = sum(row["windows"] for row in table.to_pylist() if row["patch"] == 2)
    assert sum(int(row.split()[2]) for row in rows) == counted
    assert {row.split()[0] for row in rows} == {"sample"}
    assert note.endswith("tokens of 2 frames")
