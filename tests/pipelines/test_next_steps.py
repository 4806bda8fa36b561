"""The end of a run: where the dataset lies and what to do next, and loudly why it holds nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from forked import speechmill
from lakes import rules, write_lake

from manifests.select import select
from pipelines.commands.next_steps import next_commands, nothing_kept

SPOKEN = [(0.0, 18.0)]
ROWS = [
    {"id": f"{n}" * 20, "duration_s": duration_s, "speech": speech}
    for n, (duration_s, speech) in enumerate([(20.0, SPOKEN), (20.0, [(0.0, 4.0)]), (6.0, [(0.0, 5.0)])])
]


def why(folder: Path, **changes: object) -> str | None:
    selection = replace(rules(), **changes)  # type: ignore[arg-type]
    return nothing_kept(select(write_lake(folder, [ROWS]), selection), selection)


LOUD, LATE = {"loud": "speech_share > 2"}, {"late": "start_s > 100"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        (
            {"recordings": {"long": "duration_s >= 10"} | LOUD},
            "select.recordings.loud = 'speech_share > 2' rejects 3 of 3",
        ),
        ({"windows": {"spoken": "speech_share > 0.1"} | LATE}, "select.windows.late = 'start_s > 100' rejects"),
        ({"context_s": 10, "continuation_s": 30}, "every kept recording is shorter than a window of 40 s"),
        ({"align": "turns", "continuation_s": 90}, "in no kept recording a turn begins that leaves room for a window"),
    ],
)
def test_an_empty_selection_names_what_is_to_blame(tmp_path: Path, changes: dict, reason: str | None) -> None:
    told = why(tmp_path, **({"recordings": {}, "windows": {}} | changes))
    assert told is None if reason is None else reason in str(told)


def test_a_lake_of_failures_names_the_failure(tmp_path: Path) -> None:
    selection = replace(rules(), windows={})
    lake = write_lake(tmp_path, [[{"id": "a" * 20, "duration_s": 20.0, "error": "DecodeLimitError"}]])
    told = nothing_kept(select(lake, selection), selection)
    assert told == (
        "no window is kept: no recording is kept; 'signal: DecodeLimitError' is the reason for 1 of 1 recordings, "
        "1 of them alone"
    )


def test_the_end_of_a_run_tells_the_dataset_and_what_to_do_next(tmp_path: Path, conversation: Path) -> None:
    lake = str(tmp_path / "a lake")
    words = [
        "--lake",
        lake,
        "--set",
        "annotate={vad={}}",
        "--set",
        "select.recordings={}",
        "--set",
        "select.windows={}",
    ]
    done = speechmill("run", "demo", "--in", str(conversation), *words)
    assert done.returncode == 0, done.stderr
    assert f"dataset: {lake}/datasets/demo, after 0:" in done.stderr
    report, verify = next_commands("demo", lake, ())
    assert f"next: {report}\nnext: {verify}\n" in done.stderr
    assert (report, verify) == (f"speechmill report '{lake}'", f"speechmill tokens verify demo --lake '{lake}'")
    assert "warning" not in done.stderr
    empty = speechmill("run", "demo", "--in", str(conversation), *words, "--set", "select.continuation_s=60",
                       "--set", "name=long", "--json")  # fmt: skip
    assert empty.returncode == 0, empty.stderr
    assert "warning: no window is kept: every kept recording is shorter than a window of 62 s" in empty.stderr
    told = json.loads(empty.stdout)
    assert told["warning"] in empty.stderr
    assert told["datasets"][0]["folder"] == f"{lake}/datasets/long"
    assert told["datasets"][0]["next"][1] == f"speechmill tokens verify demo --lake '{lake}' --set name=long"
