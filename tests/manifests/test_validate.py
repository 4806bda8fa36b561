"""A sound lake has no problem; whatever is wrong with one, or with a manifest, is named with a remedy."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

from manifests import schemas
from manifests.exchange import checks
from manifests.exchange.relations import open_foreign
from manifests.exchange.validate import Problem, validate, validate_foreign
from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection
from pipelines.commands.cli import manifest

Row = dict[str, Any]


@pytest.fixture
def lake(milled: Lake, tmp_path: Path) -> Lake:
    """A copy that may be spoiled."""
    return Lake.at(str(shutil.copytree(milled.storage.root, tmp_path / "a[1]'s lake")))


def stage(name: str) -> str:
    return f"annotations/{name}-*/batch-000000.parquet"


def key_of(lake: Lake, pattern: str) -> str:
    (path,) = Path(lake.storage.root).glob(pattern)
    return str(path.relative_to(lake.storage.root))


def change(lake: Lake, pattern: str, how: Callable[[list[Row]], Any]) -> str:
    """Rewrite the rows of a file; returns its key."""
    key = key_of(lake, pattern)
    table = lake.read(key)
    rows = table.to_pylist()
    how(rows)
    lake.write(key, pa.Table.from_pylist(rows, schema=table.schema))
    return key


def named(lake: Lake, **settings: Any) -> str:
    problems = validate(lake, **settings)
    assert all(problem.remedy for problem in problems)
    return "\n".join(map(str, problems))


def test_a_sound_lake_has_no_problem_however_deep_one_looks(milled: Lake) -> None:
    assert validate(milled, deep=True) == []


def test_a_lake_half_way_has_no_problem(milled: Lake, lake: Lake) -> None:
    """A stage or a selection that lacks batches is not done, which is not wrong."""
    shutil.rmtree(Path(lake.storage.root, "datasets"))
    shutil.rmtree(Path(lake.storage.root, "selections"))
    lake.storage.delete(key_of(lake, stage("diarize")))
    assert validate(lake) == []


@pytest.mark.parametrize(
    ("pattern", "column", "value", "told"),
    [
        ("recordings/*", "sha256", "00", "an id that is not the start of its sha256"),
        ("recordings/*", "sample_rate", None, "no sampling rate"),
        ("recordings/*", "channels", 0, "no channels"),
        ("recordings/*", "size_bytes", None, "no size"),
        ("recordings/*", "status", "done", "a status that is neither"),
        ("recordings/*", "uris", [], "no file name"),
        (stage("signal"), "duration_s", 31.0, "a duration that is not num_samples / sample_rate"),
        (stage("signal"), "status", "failed", "failed without an error type"),
        (stage("signal"), "tracks", 7, "tracks that are neither 1 nor the channels"),
        (stage("vad"), "speech_s", 30.1, "more speech than sound"),
        (stage("diarize"), "num_speakers", 5, "a number of speakers that differs from its turns"),
        ("selections/s/verdicts-*", "verdict", "rejected", "not kept without a reason"),
        ("selections/s/verdicts-*", "windows", 9, "a number of windows that differs from its verdict"),
        ("selections/s/windows-*", "kept", False, "not kept without a reason"),
        ("selections/s/windows-*", "start_s", 25.0, "not inside its recording"),
        ("selections/s/windows-*", "start_s", 0.5, "an id that is not made of its recording and start"),
        ("selections/s/windows-*", "context_s", 9.0, "a context that is longer than the window"),
        ("datasets/set/windows/train-000000.parquet", "context_frames", -480, "no frames"),
        ("datasets/set/windows/train-000000.parquet", "window_id", "x", "a window that the selection does not keep"),
    ],
)
def test_a_row_that_cannot_be_is_named_with_its_file(
    lake: Lake, pattern: str, column: str, value: Any, told: str
) -> None:
    def spoil(rows: list[Row]) -> None:
        row = next(row for row in reversed(rows) if row.get("status", "ok") == "ok" and row.get("kept", True))
        row[column] = value

    key = change(lake, pattern, spoil)
    assert any(line.startswith(f"{key}: ") and told in line for line in named(lake).splitlines()), named(lake)


@pytest.mark.parametrize(
    ("start_s", "end_s", "track", "told"),
    [
        (-0.5, 1.0, 0, "a turn that is empty or not inside the recording"),
        (1.0, 1.0, 0, "a turn that is empty or not inside the recording"),
        (29.0, 30.01, 0, "a turn that is empty or not inside the recording"),
        (1.0, 2.0, 2, "a turn on a track that the recording does not have"),
    ],
)
def test_a_turn_outside_its_recording_is_named(lake: Lake, start_s: float, end_s: float, track: int, told: str) -> None:
    turn = {"speaker": "SPEAKER_00", "track": track, "start_s": start_s, "end_s": end_s}
    key = change(lake, stage("diarize"), lambda rows: rows[0]["turns"].append(turn))
    assert f"{key}: {told} (1 row" in named(lake)


def test_references_that_lead_nowhere_are_named(lake: Lake) -> None:
    key = change(lake, stage("vad"), lambda rows: rows.pop(0))
    assert f"{key}: does not have the recordings of batch-000000 in their order" in named(lake)
    lake.write("annotations/vad-x/batch-000007.parquet", lake.read(key))
    assert "batch-000007.parquet: there is no such batch" in named(lake)
    shutil.rmtree(Path(lake.storage.root, key).parent)
    assert "selections/s: was made from annotations/vad-" in named(lake)
    shutil.rmtree(Path(lake.storage.root, "selections/s"))
    assert "datasets/set/plan.json: selections/s is missing" in named(lake)


def test_a_recording_twice_is_named(lake: Lake) -> None:
    table = lake.read("recordings/batch-000000.parquet")
    lake.write("recordings/batch-000001.parquet", table.filter(pc.equal(table["status"], "ok")))
    assert "recordings: the same recording_id more than once (2 rows" in named(lake)


def test_a_funnel_and_a_ledger_that_count_otherwise_are_named(lake: Lake) -> None:
    change(lake, "datasets/set/ledger.parquet", lambda rows: rows[0].update(windows=rows[0]["windows"] + 1))
    funnel = json.loads(lake.storage.read("selections/s/funnel.json"))
    funnel["windows"]["in"]["count"] += 1
    lake.storage.put("selections/s/funnel.json", json.dumps(funnel).encode())
    found = named(lake)
    assert "datasets/set/ledger.parquet: counts" in found
    assert "selections/s/funnel.json: counts" in found


def test_shards_are_held_against_their_commits(lake: Lake) -> None:
    root = Path(lake.storage.root, "datasets/set")
    tar = root / "train/latents.000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    (root / "train.2tracks/cuts.000000.jsonl.gz").unlink()
    (root / "train/README.md").write_text("x")
    (root / "windows/train.2tracks-000000.parquet").unlink()
    found = named(lake)
    assert f"latents.000000.tar: {tar.stat().st_size:,} bytes, but its commit says {tar.stat().st_size + 1:,}" in found
    for told in ("cuts.000000.jsonl.gz: missing", "README.md: is in no commit", "2tracks-000000.parquet: missing"):
        assert told in found


def test_only_the_deep_look_sees_a_flipped_bit(lake: Lake) -> None:
    path = Path(lake.storage.root, "datasets/set/train/latents.000000.tar")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert validate(lake) == []
    assert "latents.000000.tar: sha256" in named(lake, deep=True)


@pytest.mark.parametrize("data", [b"", b"PAR1 no parquet PAR1"])
def test_a_broken_file_is_named_and_the_rest_is_still_checked(lake: Lake, data: bytes) -> None:
    key = key_of(lake, stage("vad"))
    lake.storage.put(key, data)
    change(lake, stage("diarize"), lambda rows: rows[0].update(num_speakers=9))
    found = named(lake)
    assert f"{key}: cannot be read" in found
    assert "a number of speakers that differs" in found


def test_a_file_of_another_schema_is_named_with_the_column(lake: Lake) -> None:
    key = key_of(lake, stage("vad"))
    table = lake.read(key)
    for spoilt, told in (
        (table.drop_columns(["speech_s"]), "has no column speech_s"),
        (table.append_column("extra", table["speech_s"]), "has a column extra that is unknown"),
        (
            table.set_column(7, "speech_share", table["speech_share"].cast(pa.float32())),
            "column speech_share is float, not double",
        ),
    ):
        lake.write(key, spoilt)
        assert f"{key}: {told}" in named(lake)


def test_only_what_was_asked_for_is_told(lake: Lake) -> None:
    change(lake, stage("vad"), lambda rows: rows[0].update(speech_s=99.0))
    assert validate(lake, only="datasets/set") == []
    assert validate(lake, only="annotations")
    assert "nothing of that name" in named(lake, only="datasets/other")


def test_a_selection_of_changed_rules_is_checked_too(lake: Lake) -> None:
    stored = Selection.stored(lake, "s")
    select(lake, Selection("overlapping", stored.stages, context_s=2, continuation_s=6, stride_s=3, align="turns"))
    select(lake, Selection("empty", stored.stages, context_s=2, continuation_s=6, recordings={"none": "false"}))
    assert validate(lake) == []


def foreign(tmp_path: Path, *rows: Row) -> list[Problem]:
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return validate_foreign(open_foreign([str(tmp_path / "m.jsonl")]))


RECORDING = {
    "id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 8000,
    "num_samples": 80000, "duration": 10.0, "channel_ids": [0],
}  # fmt: skip
SEGMENT = {"id": "s", "recording_id": "r", "start": 9.0, "duration": 1.0}
CUT = {
    "id": "c",
    "start": 0,
    "duration": 1,
    "channel": 0,
    "recording": RECORDING,
    "supervisions": [],
    "type": "MonoCut",
}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([RECORDING, SEGMENT, CUT], None),
        ([SEGMENT], None),
        ([RECORDING | {"channel_ids": [3]}, SEGMENT | {"channel": 3}], None),
        ([RECORDING | {"duration": 10.5}], "a duration that is not num_samples / sample_rate"),
        ([RECORDING, RECORDING], "the same recording_id more than once"),
        ([RECORDING, SEGMENT, SEGMENT], "the same segment_id more than once"),
        ([RECORDING, SEGMENT | {"duration": 1.1}], "not inside its recording"),
        ([RECORDING, SEGMENT | {"start": -1}], "not inside its recording"),
        ([RECORDING, SEGMENT | {"duration": 0}], "a duration that is not above 0"),
        ([RECORDING, SEGMENT | {"recording_id": "q"}], "a recording that is not in the manifests"),
        ([RECORDING, SEGMENT | {"channel": [0, 1]}], "a channel that the recording does not have"),
        ([CUT | {"duration": 11}], "not inside its recording"),
        ([CUT | {"start": -1}], "a start before 0"),
    ],
)
def test_what_lhotse_refuses_of_a_manifest_is_named(tmp_path: Path, rows: list[Row], told: str | None) -> None:
    problems = foreign(tmp_path, *rows)
    assert [told] == [problem.what for problem in problems] if told else not problems


def test_the_command_line_ends_with_3_for_problems_and_0_without(lake: Lake, tmp_path: Path) -> None:
    run = CliRunner()
    whole = run.invoke(manifest, ["validate", lake.storage.root])
    assert (whole.exit_code, whole.output) == (0, f"{lake.storage.root}: no problem found\n")
    change(lake, stage("vad"), lambda rows: rows[0].update(speech_s=99.0))
    told = run.invoke(manifest, ["validate", lake.storage.root])
    assert told.exit_code == 3
    assert (
        f"more speech than sound (1 row, first {lake.read('recordings/batch-000000.parquet')['recording_id'][1]}"
        in told.stderr
    )
    listed = run.invoke(manifest, ["validate", f"{lake.storage.root}/annotations", "--json"])
    assert listed.exit_code == 3
    (problem,) = json.loads(listed.stdout)["problems"]
    assert (problem["what"], problem["rows"], problem["remedy"]) == ("more speech than sound", 1, checks.ANNOTATE)
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(json.dumps(SEGMENT).encode()))
    assert run.invoke(manifest, ["validate", str(tmp_path / "s.jsonl.gz")]).exit_code == 0


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, ""),
        ({"phones": 3}, "a number of phones that differs from that of its segments"),
        ({"starts_ms": [10]}, "phones without times"),
        ({"end_s": 900.0}, "a segment of speech that is empty or not inside the recording"),
        ({"track": 7}, "a segment of speech on a track that the recording does not have"),
    ],
)
def test_phonemes_must_fit_their_recording(lake: Lake, wrong: Row, told: str) -> None:
    key = key_of(lake, stage("vad"))
    rows = []
    for row in lake.read(key, ["recording_id", "status"]).to_pylist():
        stretch = {
            "track": 0,
            "start_s": 0.0,
            "end_s": 1.0,
            "phones": ["a", "b"],
            "starts_ms": [1, 2],
            "ends_ms": [2, 3],
        }
        stretch |= {name: value for name, value in wrong.items() if name != "phones"}
        rows.append(row | {"stretches": [stretch], "phones": wrong.get("phones", 2), "recogniser": "hama-0"})
    written = lake.annotation_key("phonemes", "p", "batch-000000")
    lake.write(written, schemas.table(rows, schemas.PHONEMES))
    found = named(lake, deep=True)
    assert (told in found and written in found) if told else not found
