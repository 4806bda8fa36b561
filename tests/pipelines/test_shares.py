"""Workers share a batch, and what an interruption leaves of one is not made again: to the same bytes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import where
from forked import speechmill
from hypothesis import given
from hypothesis import strategies as st
from small_runs import RECIPE, digests, make_input
from test_cli import ROOT

from manifests import schemas
from manifests.lake import Lake
from pipelines.annotate import Annotator
from pipelines.ingest import ingest
from pipelines.recipes.recipe import IngestConfig
from pipelines.run import Pending
from pipelines.stages.vad import Vad
from pipelines.units import shares
from pipelines.units.attempts import Attempts
from pipelines.units.engines import Engine, Group
from pipelines.units.pending import Retry, pending_batches
from pipelines.units.shares import Share, UnfinishedRows, delete_leftovers, share_duration_s, split_batch

BATCH = "batch-000000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings, in one batch, and the lake `whole` of one worker."""
    folder = tmp_path_factory.mktemp("parts")
    make_input(folder, 4, 2)
    (folder / "recipe.toml").write_text(RECIPE.replace("0.008", "20"))
    assert speechmill(*words(folder, folder / "whole")).returncode == 0
    return folder


def words(folder: Path, lake: Path, *more: str) -> list[str]:
    return ["run", str(folder / "recipe.toml"), "--in", str(folder / "in"), "--lake", str(lake), *more]


def filled(folder: Path, root: Path) -> Lake:
    lake = Lake.at(str(root))
    ingest(lake, [str(folder / "in")], IngestConfig())
    return lake


def units(lake: Path) -> list[tuple[str, int]]:
    """Units of annotation and the recordings that were measured in each, as the logs of all runs tell."""
    logs = "".join(path.read_text() for path in sorted(lake.glob("runs/*/log.txt")))
    return [(unit, int(count)) for unit, count in re.findall(r"annotate (\S+): (\d+) recordings", logs)]


def annotations(root: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(root).items() if name.startswith("annotations/")}


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_workers_share_a_batch_to_the_same_bytes(folder: Path, tmp_path: Path, engine: str) -> None:
    done = speechmill(*words(folder, tmp_path / "lake", "--engine", engine, "--workers", "2"))
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "lake") == digests(folder / "whole")
    assert list((tmp_path / "lake").glob("runs/pieces/**/*.parquet")) == []
    told = units(tmp_path / "lake")
    assert sorted(told) == [(f"{BATCH}-share-{number}-of-4", 1) for number in range(4)]
    assert {unit for unit, _ in units(folder / "whole")} == {BATCH}


def test_shares_that_beam_lists_make_the_same_bytes(folder: Path, tmp_path: Path, vad: Vad) -> None:
    lake = filled(folder, tmp_path / "lake")
    listed = Pending(lake, Annotator(lake, [vad]).fingerprints, None, shares.MIN_SHARE_S)
    assert len(list(listed)) == 4
    engine = Engine("beam", None, None, ("--runner=FnApiRunner",))
    (total,) = engine.run(listed, [Group("annotate", partial(where.sharing, lake))])
    assert (total.recordings, total.failed, total.uncommitted) == (4, 0, 0)
    assert annotations(tmp_path / "lake") == annotations(folder / "whole")


def test_what_a_worker_had_done_of_a_batch_survives_ctrl_c(
    folder: Path, tmp_path: Path, vad: Vad, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, heard = filled(folder, tmp_path / "lake"), []

    def annotate(sound, known):
        heard.append(sound.recording_id)
        if len(heard) == 3:
            raise KeyboardInterrupt
        return Vad.annotate(vad, sound, known)

    monkeypatch.setattr(vad, "annotate", annotate)
    with pytest.raises(KeyboardInterrupt):
        Annotator(lake, [vad]).annotate(BATCH)
    assert annotations(tmp_path / "lake") == {}
    done = Annotator(lake, [vad]).annotate(BATCH)
    assert done.recordings == 2
    assert heard == [*heard[:3], heard[2], heard[4]]
    assert annotations(tmp_path / "lake") == annotations(folder / "whole")
    assert list(lake.storage.list("runs/pieces")) == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.slow
def test_what_workers_had_done_of_a_batch_survives_kill_9(
    folder: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    # Rows are kept at once, as after SAVE_EVERY_S; workers of another process import the changed module by its name.
    (tmp_path / "sitecustomize.py").write_text("from pipelines.units import shares\nshares.SAVE_EVERY_S = 0.0\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "pipelines.commands", *words(folder, lake, "--workers", str(workers), "--quiet")]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    while process.poll() is None and not list(lake.glob("runs/pieces/vad-*/*/*.parquet")):
        time.sleep(0.005)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert annotations(lake) == {}
    killed = sum(count for _, count in units(lake))
    again = [sys.executable, "-m", "pipelines.commands", *words(folder, lake, "--workers", "2", "--quiet")]
    assert subprocess.run(again, cwd=ROOT, check=False).returncode == 0
    assert 0 < sum(count for _, count in units(lake)) - killed < 4
    assert digests(lake) == digests(folder / "whole")
    assert list(lake.glob("runs/pieces/**/*.parquet")) == []


def test_recordings_that_a_worker_of_the_same_run_had_done_are_counted(
    tmp_path: Path, vad: Vad, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second worker counts what the first one saved before it died, but not what another run has saved."""
    make_input(tmp_path, 4, 2)
    lake, heard = filled(tmp_path, tmp_path / "lake"), []

    def annotate(sound, known):
        heard.append(sound.recording_id)
        if len(heard) == 1:
            raise FloatingPointError("odd")
        if len(heard) == 3:
            raise KeyboardInterrupt
        return Vad.annotate(vad, sound, known)

    monkeypatch.setattr(vad, "annotate", annotate)
    with pytest.raises(KeyboardInterrupt):
        Annotator(lake, [vad], Attempts(lake.storage, "runs/one")).annotate(BATCH)
    shutil.copytree(tmp_path / "lake", tmp_path / "other")
    other = Lake.at(str(tmp_path / "other"))
    result = Annotator(other, [vad], Attempts(other.storage, "runs/two")).annotate(BATCH)
    assert (result.recordings, result.failures) == (2, [])
    annotator = Annotator(lake, [vad], Attempts(lake.storage, "runs/one"))
    result = annotator.annotate(BATCH)
    assert (result.recordings, [failure.reason for failure in result.failures]) == (4, ["vad: FloatingPointError"])
    durations_s = lake.read(lake.annotation_key("signal", annotator.fingerprints["signal"], BATCH))["duration_s"]
    assert result.seconds == pytest.approx(sum(durations_s.to_pylist()))


def test_shares_are_joined_by_the_last_one_in_any_order(folder: Path, tmp_path: Path, vad: Vad) -> None:
    lake, annotator = filled(folder, tmp_path / "lake"), None
    for number in (2, 0, 1):
        assert annotations(tmp_path / "lake") == {}
        annotator = Annotator(lake, [vad])
        assert annotator.annotate(f"{BATCH}-share-{number}-of-3").recordings > 0
    assert annotator is not None
    assert annotations(tmp_path / "lake") == annotations(folder / "whole")
    assert list(lake.storage.list("runs/pieces")) == []
    assert list(pending_batches(lake, annotator.fingerprints)) == []
    assert annotator.annotate(f"{BATCH}-share-1-of-3").recordings == 0


def test_a_later_group_reads_what_a_share_of_an_earlier_one_kept(folder: Path, tmp_path: Path, vad: Vad) -> None:
    lake = filled(folder, tmp_path / "lake")
    reader = type("Reader", (Vad,), {"name": "quality", "needs": ("vad",), "schema": schemas.QUALITY})(vad.config)
    reader.setup = lambda: None  # type: ignore[method-assign]
    reader.annotate = lambda sound, known: {"snr_db": known["vad"]["speech_s"]}  # type: ignore[method-assign]
    first, later = Annotator(lake, [vad]), Annotator(lake, [reader], earlier=[vad])
    for number in range(2):
        first.annotate(f"{BATCH}-share-{number}-of-2")
        later.annotate(f"{BATCH}-share-{number}-of-2")
    spoken = lake.read(lake.annotation_key("vad", first.fingerprints["vad"], BATCH))["speech_s"]
    assert lake.read(lake.annotation_key("quality", later.fingerprints["quality"], BATCH))["snr_db"].equals(spoken)
    assert list(lake.storage.list("runs/pieces")) == []


def test_rows_that_failed_before_an_interruption_are_made_again_on_request_alone(
    folder: Path, tmp_path: Path, vad: Vad, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, heard = filled(folder, tmp_path / "lake"), []

    def annotate(sound, known):
        heard.append(sound.recording_id)
        if len(heard) == 1:
            raise FloatingPointError("once")
        if len(heard) == 2:
            raise KeyboardInterrupt
        return Vad.annotate(vad, sound, known)

    monkeypatch.setattr(vad, "annotate", annotate)
    with pytest.raises(KeyboardInterrupt):
        Annotator(lake, [vad]).annotate(BATCH)
    assert Annotator(lake, [vad]).annotate(BATCH).recordings == 3
    assert heard.count(heard[0]) == 1
    assert Annotator(lake, [vad], retry=Retry()).annotate(BATCH).recordings == 1
    assert annotations(tmp_path / "lake") == annotations(folder / "whole")


def test_rows_left_beside_a_committed_batch_are_removed(folder: Path, tmp_path: Path, vad: Vad) -> None:
    lake = filled(folder, tmp_path / "lake")
    annotator = Annotator(lake, [vad])
    row = {"recording_id": "a" * 20, "status": "ok"}
    for batch in (BATCH, "batch-000007"):
        UnfinishedRows(lake, "vad", annotator.fingerprints["vad"], batch).put([row])
        lake.storage.put(f"runs/attempts/{batch}-share-1-of-2.json", b"{}")
    for stage, mark in annotator.fingerprints.items():
        lake.write(lake.annotation_key(stage, mark, BATCH), schemas.table([row], schemas.STAGES[stage]))
    delete_leftovers(lake, annotator.fingerprints)
    assert list(lake.storage.list("runs/attempts")) == ["runs/attempts/batch-000007-share-1-of-2.json"]
    assert {key.split("/")[3] for key in lake.storage.list("runs/pieces")} == {"batch-000007"}


DURATIONS = st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.floats(1, 7200), max_size=30)


@given(DURATIONS, st.integers(1, 40))
def test_every_recording_is_in_one_share(durations: list[float | None], of: int) -> None:
    rows = [
        {"recording_id": str(n), "uris": [], "status": "ok", "claimed_duration_s": seconds}
        for n, seconds in enumerate(durations)
    ]
    table = schemas.table(rows, schemas.RECORDINGS)
    taken = [Share(BATCH, number, of).select(table) for number in range(of)]
    assert pa.concat_tables(taken)["recording_id"].to_pylist() == [row["recording_id"] for row in rows]


def test_a_batch_is_cut_only_where_workers_would_be_idle(folder: Path, tmp_path: Path) -> None:
    lake = filled(folder, tmp_path / "lake")
    assert split_batch(lake, BATCH, share_duration_s(1, 240.0, 1)) == [Share(BATCH)]
    assert split_batch(lake, BATCH, share_duration_s(1000, 240.0, 4)) == [Share(BATCH)]
    cut = split_batch(lake, BATCH, share_duration_s(1, 240.0, 2))
    assert [Share.parse(share.name) for share in cut] == cut == [Share(BATCH, number, 4) for number in range(4)]
    assert share_duration_s(1, 240.0, 2) == shares.MIN_SHARE_S
    assert Share.parse(Share(BATCH).name) == Share(BATCH)
