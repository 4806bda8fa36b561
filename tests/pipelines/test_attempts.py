"""Attempts: a recording at which workers die is set aside with its reason; a run that was interrupted blames nobody."""

import os
from functools import partial
from operator import attrgetter
from pathlib import Path

import pytest
import where
from small_runs import encode_alone, make_input

from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection
from pipelines.annotate import Annotator
from pipelines.encode import ShardEncoder
from pipelines.encoding.plan import Plan
from pipelines.ingest import ingest
from pipelines.progress.watch import UnitResult
from pipelines.recipes.recipe import EncodeConfig, IngestConfig
from pipelines.stages.vad import Vad, VadConfig
from pipelines.units.attempts import ISOLATED_DEATH_WEIGHT, MAX_DEATHS_PER_UNIT, Attempts, CrashGuard, WorkerDiedError
from pipelines.units.engines import Engine, Group
from runtime.errors import SpeechmillError


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    make_input(tmp_path, 3)
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [str(tmp_path / "in")], IngestConfig())
    return lake


def die(attempts: Attempts, unit: str, recording_id: str, alone: bool = False) -> None:
    """As a worker that is killed while at a recording: it takes nothing away."""
    attempt = attempts.begin(unit, alone)
    attempt.__enter__()
    attempt.begin_recording(recording_id)


@pytest.mark.parametrize(
    ("alone", "deaths"), [(False, MAX_DEATHS_PER_UNIT), (True, MAX_DEATHS_PER_UNIT // ISOLATED_DEATH_WEIGHT)]
)
def test_deaths_set_a_recording_aside_and_no_other_the_sooner_where_it_was_alone(
    alone: bool, deaths: int, lake: Lake
) -> None:
    attempts = Attempts(lake.storage, "runs/one")
    with attempts.begin("unit") as attempt:
        assert not attempt.careful
        attempt.begin_recording("poison")
    assert list(lake.storage.list("runs/attempts")) == []
    die(attempts, "unit", "poison")  # which recording it was at is not yet noted
    for _ in range(deaths):
        die(attempts, "unit", "poison", alone)
    with attempts.begin("unit", alone) as attempt:
        assert attempt.careful
        attempt.begin_recording("innocent")
        with pytest.raises(WorkerDiedError, match="out of memory") as caught:
            attempt.begin_recording("poison")
    assert caught.value.remedy
    assert list(lake.storage.list("runs/attempts")) == []


def test_marks_of_an_interrupted_run_make_the_next_careful_and_blame_nobody(lake: Lake) -> None:
    for _ in range(3):
        die(Attempts(lake.storage, "runs/one"), "unit", "slow", True)
    with Attempts(lake.storage, "runs/two").begin("unit", True) as attempt:
        assert attempt.careful
        attempt.begin_recording("slow")


def test_recordings_go_on_together_until_a_process_of_its_own_died_of_them(lake: Lake) -> None:
    attempts = Attempts(lake.storage, "runs/one")
    attempts.begin("unit", max_concurrent=4).__enter__()
    with attempts.begin("unit", max_concurrent=4) as attempt:
        assert not attempt.careful
        attempt.hand_over()
        alone = attempts.begin("unit", max_concurrent=4)
        assert not alone.careful
        alone.__enter__()
        assert attempts.begin("unit", died_isolated=True, max_concurrent=4).careful


def test_a_process_that_dies_when_it_has_ended_is_not_begun_for_ever(lake: Lake) -> None:
    attempts = Attempts(lake.storage, "runs/one")
    attempts.begin("unit").__enter__()
    with pytest.raises(SpeechmillError, match="unit: processes died repeatedly after they had ended it"):
        CrashGuard(partial(where.mute, attempts), attempts, str)("unit")


def test_a_unit_that_kills_at_no_recording_stops_the_run(lake: Lake) -> None:
    attempts = Attempts(lake.storage, "runs/one")
    for _ in range(MAX_DEATHS_PER_UNIT):
        attempts.begin("unit").__enter__()
    with pytest.raises(SpeechmillError, match="unit: workers died"), attempts.begin("unit"):
        pass


def test_what_kills_its_process_while_it_loads_stops_the_run_and_not_the_worker(lake: Lake) -> None:
    attempts = Attempts(lake.storage, "runs/one")
    attempts.begin("unit").__enter__()
    with pytest.raises(SpeechmillError, match="unit: workers died"):
        CrashGuard(os.abort, attempts, str)("unit")
    assert list(lake.storage.list("runs/attempts")) == []


def test_an_error_of_a_process_of_its_own_is_the_worker_s(lake: Lake) -> None:
    attempts = Attempts(lake.storage, "runs/one")
    attempts.begin("bad").__enter__()
    guarded = CrashGuard(partial(where.picky, "bad"), attempts, attrgetter("name"))
    with pytest.raises(SpeechmillError, match="bad is bad"):
        guarded(UnitResult("bad"))
    attempts.begin("good").__enter__()
    assert guarded(UnitResult("good", 2)) == UnitResult("good", 2)
    assert guarded(UnitResult("other", 2)) == UnitResult("other", 2)
    assert list(lake.storage.list("runs/attempts")) == ["runs/attempts/bad.json"]


def test_annotating_and_encoding_go_on_without_it_and_account_for_it(lake: Lake) -> None:
    ids = [row["recording_id"] for row in lake.read(lake.recordings_key("batch-000000")).to_pylist()]
    attempts = Attempts(lake.storage, "runs/one")
    for _ in range(MAX_DEATHS_PER_UNIT + 1):
        die(attempts, "batch-000000", ids[0])
    annotator = Annotator(lake, [Vad(VadConfig())], attempts)
    done = annotator.annotate("batch-000000")
    assert (done.recordings, [failure.reason for failure in done.failures]) == (3, ["signal: WorkerDiedError"])
    selection = Selection("s", annotator.fingerprints, context_s=2, continuation_s=6)
    assert select(lake, selection).part("recordings", "failed")[0] == 1
    config = EncodeConfig()
    encoder = ShardEncoder(lake, {"d": config}, "s", annotator.fingerprints["signal"], attempts)
    (shard,) = Plan(lake, "s", config)
    for _ in range(MAX_DEATHS_PER_UNIT + 1):
        die(attempts, shard.name, ids[1])
    done = encode_alone(encoder, shard)
    assert (done.recordings, [failure.reason for failure in done.failures]) == (2, ["encode: WorkerDiedError"])
    rows = lake.read("datasets/d/windows/train-000000.parquet").to_pylist()
    assert {row["status"] for row in rows if row["recording_id"] == ids[1]} == {"failed"}
    assert {row["status"] for row in rows if row["recording_id"] == ids[2]} == {"ok"}


def test_where_workers_only_die_the_run_stops_and_says_so() -> None:
    engine = Engine("local", (2, 2))
    with pytest.raises(SpeechmillError, match="20 worker processes died") as caught:
        list(engine.run([1], [Group("dying", os.abort)]))
    assert "--workers" in caught.value.remedy
