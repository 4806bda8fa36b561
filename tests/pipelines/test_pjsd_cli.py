"""`speechmill study pjsd` over lakes, parts of them, and sound; what it prints, counts and refuses."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from forked import speechmill, start
from lakes import rules, write_lake
from markov_sources import Source
from test_cli import digests

from manifests import schemas
from manifests.lake import Lake
from manifests.select import select
from pipelines.commands.cli import cli
from pipelines.commands.pjsd_sides import phones_in_spans

DOCUMENT = Path(__file__).parents[2] / "docs/json.md"
MARK = "hama-000000000000"
CLIP_S = 20.0


def phoneme_lake(root: Path, sources: dict[str, Source], clips: int = 20, mark: str = MARK) -> Lake:
    """A lake whose recordings have phones of these sources, `clips` of each, in two stretches; and one that failed,
    one without a phone, one that ingest could not read."""
    rows, phonemes = [], []
    for name, source in sources.items():
        for n, clip in enumerate(source.clips(clips, 60, len(name))):
            rows.append({"id": f"{name}{n:03d}", "duration_s": CLIP_S, "speech": [(0, 8), (10, 18)]})
            phonemes.append(row(rows[-1]["id"], mark, [clip[:30], clip[30:]]))
    rows += [{"id": f"y{n}", "duration_s": CLIP_S} for n in range(2)]
    phonemes.append({"recording_id": "y0", "status": "failed", "error_type": "ValueError", "error": "odd"})
    phonemes.append(row("y1", mark, []))
    rows.append({"id": "z", "duration_s": CLIP_S, "ingest_error": "UnreadableAudioError"})
    lake = write_lake(root, [rows])
    key = lake.annotation_key("phonemes", "p" + mark[-3:], "batch-000000")
    lake.write(key, schemas.table(phonemes, schemas.PHONEMES))
    return lake


def row(recording_id: str, mark: str, stretches: list[list[str]]) -> dict[str, Any]:
    """Phones every quarter of a second, in stretches from 0 and from 10 s on."""
    told = [
        {
            "track": 0, "start_s": 10.0 * n, "end_s": 10.0 * n + 8, "phones": phones,
            "starts_ms": [10_000 * n + 250 * at for at in range(len(phones))],
            "ends_ms": [10_000 * n + 250 * at + 250 for at in range(len(phones))],
        }
        for n, phones in enumerate(stretches)
    ]  # fmt: skip
    count = sum(map(len, stretches))
    base = {"recording_id": recording_id, "status": "ok", "recogniser": mark, "phones_outside": 0}
    return base | {"stretches": told, "phones": count, "phones_per_s": count / 16}


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Two sources of phones, told apart by the ids of their recordings."""
    phoneme_lake(tmp_path / "lake", {"e": Source(0), "g": Source(1)})
    return tmp_path / "lake"


def ask(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["study", "pjsd", *map(str, words), "--draws", "50"])


def told(*words: str | Path) -> dict[str, Any]:
    done = ask(*words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def values(found: dict[str, Any]) -> list[float]:
    return [order["pjsd"]["value"] for order in found["orders"]]


def test_a_part_is_compared_with_the_whole_of_its_lake_and_everything_is_counted(lake: Path) -> None:
    found = told(lake, "--where", "recording_id LIKE 'e%'")
    assert {name: found["a"][name] for name in ("meant", "used", "failed", "without_phones", "not_drawn")} == {
        "meant": 20, "used": 20, "failed": 0, "without_phones": 0, "not_drawn": 0
    }  # fmt: skip
    assert {name: found["b"][name] for name in ("meant", "used", "failed", "without_phones", "not_drawn")} == {
        "meant": 43, "used": 40, "failed": 2, "without_phones": 1, "not_drawn": 0
    }  # fmt: skip
    assert (found["a"]["phones"], found["a"]["stretches"]) == (1200, 40)
    assert [order["a"]["count"] for order in found["orders"]] == [1200 - 40 * n for n in range(5)]
    bent = found["orders"][0]["matched"]
    assert bent["between"]["low"] > bent["within_a"]["high"]


def test_two_sources_are_apart_and_halves_of_one_are_not(lake: Path, tmp_path: Path) -> None:
    apart = told(lake, lake, "--where", "recording_id LIKE 'e%'", "--b-where", "recording_id LIKE 'g%'")
    other = told(lake, lake, "--where", "recording_id LIKE 'g%'", "--b-where", "recording_id LIKE 'e%'")
    assert values(apart) == values(other)
    assert values(told(lake, lake)) == [0.0] * 5
    phoneme_lake(tmp_path / "again", {"e": Source(0)}, clips=21)
    same = told(lake, tmp_path / "again", "--where", "recording_id LIKE 'e%'", "-n", "1")["orders"][0]["matched"]
    assert same["between"]["value"] < same["within_a"]["high"]
    assert values(apart)[1] > 0.2


def test_fewer_phones_are_drawn_alike_from_a_part_and_the_whole(lake: Path) -> None:
    found = told(lake, "--where", "recording_id LIKE 'e%'", "--phones", "600")
    assert (found["a"]["used"], found["a"]["not_drawn"], found["a"]["phones"]) == (10, 10, 600)
    assert (found["b"]["used"], found["b"]["not_drawn"], found["b"]["phones"]) == (10, 30, 600)
    assert told(lake, "--where", "recording_id LIKE 'e%'", "--phones", "600") == found
    assert told(lake, "--where", "recording_id LIKE 'e%'", "--phones", "600", "--seed", "1") != found


def test_what_a_selection_keeps_is_compared_by_verdicts_and_by_windows(lake: Path) -> None:
    select(Lake.at(str(lake)), rules(recordings={"e": "recording_id LIKE 'e%'"}, windows={"first": "start_s < 8"}))
    kept = told(lake, "--where", "verdict = 'kept'", "--stage", "phonemes=p000")
    assert kept["a"]["used"] == 20
    inside = told(lake, "--windows", "kept")
    # A window of 8 s has the whole first stretch, of 7.5 s, and none of the second one.
    assert (inside["a"]["meant"], inside["a"]["used"], inside["a"]["phones"]) == (20, 20, 20 * 30)
    assert inside["b"]["phones"] == 40 * 60
    none = ask(lake, lake, "--windows", "kept", "--b-windows", "kept AND start_s > 99", "-n", "1")
    assert "none of the 0 recordings" in str(none.exception)


def test_phones_outside_the_windows_part_n_grams() -> None:
    stretch = row("x", MARK, [list("abcdefgh")])["stretches"][0]
    assert phones_in_spans(stretch, None) == [list("abcdefgh")]
    assert phones_in_spans(stretch, [(0.0, 0.5), (1.0, 1.6)]) == [["a", "b"], ["e", "f", "g"]]
    assert phones_in_spans(stretch, [(50.0, 60.0)]) == []


def test_tables_for_people_say_what_was_compared(lake: Path) -> None:
    done = ask(lake, "--where", "recording_id LIKE 'e%'")
    assert done.exit_code == 0, done.output
    assert f"by {MARK}" in done.stdout
    assert "of 43, 2 failed, 1 without phones, 0 not drawn" in done.stdout
    assert "random samples of 600 phones" in done.stdout
    assert "1/8" in done.stdout
    assert "n = 2, 3, 4, 5: not corrected" in done.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["LAKE"], "give B, or choose a part of A"),
        (["LAKE", "--where", "nothing = 1"], "nothing"),
        (["LAKE", "--where", "EXISTS (FROM query('SELECT 1'))"], "cannot be used in FROM"),
        (["LAKE", "--where", "recording_id = 'x'"], "none of the 0 recordings"),
        (["LAKE", "--windows", "kept"], "has no selection"),
        (["LAKE", "--windows", "kept", "--selection", "none"], "no selection 'none'"),
        (["OTHER", "LAKE"], "measure how the recognisers differ"),
        (["NOTHING", "LAKE"], "there is no"),
        (["SOUND", "LAKE", "--where", "true = true"], "is sound"),
        (["BARE", "LAKE"], "has no phonemes"),
    ],
)
def test_mistakes_are_told(words: list[str], reason: str, lake: Path, tmp_path: Path) -> None:
    phoneme_lake(tmp_path / "other", {"e": Source(0)}, 3, mark="sphinx-000000000001")
    write_lake(tmp_path / "bare", [[{"id": "a", "duration_s": 20.0}]])
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 16000)
    places = {"LAKE": lake, "OTHER": tmp_path / "other", "BARE": tmp_path / "bare", "SOUND": tmp_path / "x.wav"}
    places["NOTHING"] = tmp_path / "nothing"
    done = ask(*[places.get(word, word) for word in words])
    assert done.exit_code != 0
    assert reason in f"{done.output} {done.exception}"


def test_several_settings_of_the_stage_want_a_choice(lake: Path) -> None:
    phoneme_lake(lake, {"e": Source(0)}, 20, mark="sphinx-000000000001")
    done = ask(lake, "--where", "recording_id LIKE 'e%'")
    assert "several settings" in f"{done.output} {done.exception}"
    assert told(lake, "--where", "recording_id LIKE 'e%'", "--stage", "phonemes=p001")["a"]["recogniser"].startswith(
        "s"
    )


def test_json_has_the_keys_that_are_documented(lake: Path, holds: Callable[[str, str], bool]) -> None:
    found = told(lake, "--where", "recording_id LIKE 'e%'")
    section = next(part for part in DOCUMENT.read_text().split("\n## ") if part.startswith("study pjsd\n"))
    keys = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
    printed = set(paths(found))
    assert {path for path in printed if not any(holds(key, path) for key in keys)} == set()
    assert {key for key in keys if key not in printed} == set()


def paths(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [one for key, part in value.items() for one in paths(part, f"{path}.{key}" if path else key)]
    if isinstance(value, list):
        return [one for part in value for one in paths(part, f"{path}[]")] or [f"{path}[]"]
    return [path]


@pytest.fixture
def holds() -> Callable[[str, str], bool]:
    """Whether a documented key is the printed one, or lies in one that is null."""
    return lambda key, path: key == path or key.startswith(f"{path}.")


@pytest.fixture
def clips(tmp_path: Path, conversation: Path) -> Path:
    """Four clips of a real conversation."""
    speech, rate = soundfile.read(conversation, dtype="int16")
    (tmp_path / "clips").mkdir()
    for n in range(4):
        soundfile.write(tmp_path / f"clips/{n}.wav", speech[(7 + 5 * n) * rate : (12 + 5 * n) * rate], rate)
    return tmp_path / "clips"


def test_sound_is_recognised_once_and_compared_with_itself_or_a_lake(clips: Path, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept")
    words = ["study", "pjsd", str(clips), str(clips), "--lake", kept, "--draws", "50", "--json", "-q"]
    done = speechmill(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert values(found) == [0.0] * 5
    assert found["a"]["used"] == 4
    assert found["a"]["phones"] > 50
    before = sides(Path(kept))
    again = told(f"{kept}/a", clips, "--lake", kept, "-q")  # the lake of a is one like any other
    assert values(again) == [0.0] * 5
    assert sides(Path(kept)) == before
    refused = speechmill(*words[:3], f"{kept}/a", "--set", "annotate.phonemes.recogniser=pocketsphinx", "-q")
    assert refused.returncode == 1
    assert "measure how the recognisers differ" in refused.stderr


def sides(kept: Path) -> list[dict[str, str]]:
    return [digests(kept / side) for side in "ab"]


@pytest.mark.slow
def test_any_number_of_workers_and_any_kill_leave_the_same_phonemes(clips: Path, tmp_path: Path) -> None:
    small = ["--set", "ingest.batch_hours=0.0015", "--quiet"]
    words = {
        name: ["phonemes", "--lake", str(tmp_path / name), *small] for name in ("whole", "two", "killed")
    }  # fmt: skip
    for name in words:
        assert speechmill("ingest", words[name][0], "--in", str(clips), *words[name][1:]).returncode == 0
    assert speechmill("annotate", *words["whole"]).returncode == 0
    expected = digests(tmp_path / "whole")
    assert sum("phonemes-" in name for name in expected) > 1
    assert speechmill("annotate", *words["two"], "--workers", "2").returncode == 0
    assert digests(tmp_path / "two") == expected
    process = start("annotate", *words["killed"])
    while process.poll() is None and not any("phonemes-" in name for name in digests(tmp_path / "killed")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert 0 < sum("phonemes-" in name for name in digests(tmp_path / "killed")) <= 4
    assert speechmill("annotate", *words["killed"]).returncode == 0
    assert digests(tmp_path / "killed") == expected
