"""Attempts: a recording at which workers die is set aside with its reason; a run that was interrupted blames nobody."""

import os
from pathlib import Path

import pytest
from millings import make_input

from manifests.lake import Lake
from manifests.select import Selection, select
from pipelines.annotate import Annotator
from pipelines.attempts import DEATHS_ELSEWHERE, Attempts, WorkerDiedError
from pipelines.encode import Plan, ShardEncoder
from pipelines.engines import Engine, Group
from pipelines.errors import SpeechmillError
from pipelines.ingest import ingest
from pipelines.recipe import EncodeConfig, IngestConfig
from pipelines.stages.vad import Vad, VadConfig


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    make_input(tmp_path, 3)
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [str(tmp_path / "in")], IngestConfig())
    return lake


def die(attempts: Attempts, unit: str, recording_id: str) -> None:
    """As a worker that is killed while at a recording: it takes nothing away."""
    attempt = attempts.begin(unit)
    attempt.__enter__()
    attempt.at(recording_id)


def test_the_third_death_of_a_run_sets_the_recording_aside_and_no_other(lake: Lake) -> None:
    attempts = Attempts(lake.storage, "runs/one")
    with attempts.begin("unit") as attempt:
        assert not attempt.careful
    for _ in range(3):
        with attempts.begin("unit") as attempt:
            attempt.at("innocent")
            attempt.at("poison")
        assert list(lake.storage.list("runs/one")) == []
    die(attempts, "unit", "poison")  # which recording it was at is not yet noted
    die(attempts, "unit", "poison")
    die(attempts, "unit", "poison")
    with attempts.begin("unit") as attempt:
        assert attempt.careful
        attempt.at("innocent")
        with pytest.raises(WorkerDiedError, match="out of memory") as caught:
            attempt.at("poison")
    assert caught.value.remedy
    assert list(lake.storage.list("runs/one")) == []


def test_marks_of_an_interrupted_run_blame_nobody_in_the_next(lake: Lake) -> None:
    for _ in range(3):
        die(Attempts(lake.storage, "runs/one"), "unit", "slow")
    with Attempts(lake.storage, "runs/two").begin("unit") as attempt:
        assert not attempt.careful
        attempt.at("slow")


def test_a_unit_that_kills_at_no_recording_stops_the_run(lake: Lake) -> None:
    attempts = Attempts(lake.storage, "runs/one")
    for _ in range(DEATHS_ELSEWHERE):
        attempts.begin("unit").__enter__()
    with pytest.raises(SpeechmillError, match="unit: 6 workers died"), attempts.begin("unit"):
        pass


def test_annotating_and_encoding_go_on_without_it_and_account_for_it(lake: Lake) -> None:
    ids = [row["recording_id"] for row in lake.read(lake.recordings_key("batch-000000")).to_pylist()]
    attempts = Attempts(lake.storage, "runs/one")
    for _ in range(3):
        die(attempts, "batch-000000", ids[0])
    annotator = Annotator(lake, [Vad(VadConfig())], attempts)
    done = annotator.annotate("batch-000000")
    assert (done.recordings, [failure.reason for failure in done.failures]) == (3, ["signal: WorkerDiedError"])
    selection = Selection("s", annotator.marks, 2, 6)
    assert select(lake, selection).part("recordings", "failed")[0] == 1
    config = EncodeConfig()
    encoder = ShardEncoder(lake, "d", "s", annotator.marks["signal"], config, attempts)
    (shard,) = Plan(lake, "s", config)
    for _ in range(3):
        die(attempts, shard.name, ids[1])
    done = encoder.encode(shard)
    assert (done.recordings, [failure.reason for failure in done.failures]) == (2, ["encode: WorkerDiedError"])
    rows = lake.read("datasets/d/windows/train-000000.parquet").to_pylist()
    assert {row["status"] for row in rows if row["recording_id"] == ids[1]} == {"failed"}
    assert {row["status"] for row in rows if row["recording_id"] == ids[2]} == {"ok"}


def test_where_workers_only_die_the_run_stops_and_says_so() -> None:
    engine = Engine("local", (2, 2))
    with pytest.raises(SpeechmillError, match="20 worker processes died") as caught:
        list(engine.run([1], [Group("dying", os.abort)]))
    assert "--workers" in caught.value.remedy
