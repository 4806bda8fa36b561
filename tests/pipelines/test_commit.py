"""Recordings that cannot be had leave their unit of work undone; what failed is done again when that is asked for."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from forked import speechmill
from small_runs import digests, make_input

from manifests.exchange.validate import validate
from manifests.lake import Lake
from manifests.verify import verify
from pipelines.annotate import Annotator
from pipelines.ingest import ingest
from pipelines.progress.watch import Watch
from pipelines.recipes import recipe
from pipelines.recipes.recipe import IngestConfig
from pipelines.run import Pending, Run
from pipelines.stages.diarize import Diarize, DiarizeConfig
from pipelines.stages.vad import Vad, VadConfig
from pipelines.units.attempts import Attempts
from pipelines.units.engines import Engine
from pipelines.units.pending import Retry, batches_to_retry, pending_batches
from pipelines.units.pieces import PendingPieces, PieceWorker
from runtime.errors import SpeechmillError
from runtime.failures import failed_row

ROOT = Path(__file__).parents[2]
PER_BATCH = IngestConfig(batch_hours=0.02)
"""Two recordings of 30 s in a batch."""


class Reading(Vad):
    """The real stage under another name, which reads what vad found."""

    needs = ("vad",)

    def annotate(self, sound, known):
        return {"snr_db": known["vad"]["speech_s"]}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Four recordings in two batches."""
    make_input(tmp_path, 4)
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [str(tmp_path / "in")], PER_BATCH)
    assert len(list(lake.batches())) == 2
    return lake


@contextmanager
def away(path: Path) -> Iterator[None]:
    hidden = path.rename(path.with_name(f"{path.name}.away"))
    try:
        yield
    finally:
        hidden.rename(path)


def reading() -> Reading:
    stage = Reading(VadConfig())
    stage.name = "quality"  # type: ignore[misc]
    return stage


def annotations(lake: Lake) -> dict[str, bytes]:
    return {key: lake.storage.read(key) for key in lake.storage.list("annotations")}


def annotated(lake: Lake, **settings) -> tuple[dict[str, bytes], dict[str, object]]:
    """The annotations after all batches were gone through, and what each batch came to."""
    annotator = Annotator(lake, [Vad(VadConfig()), reading()], **settings)
    dones = {batch: annotator.annotate(batch) for batch in lake.batches()}
    return annotations(lake), dones


def test_a_batch_waits_for_a_recording_that_went_away_and_is_then_as_if_nothing_had_been(
    tmp_path: Path, lake: Lake
) -> None:
    other = Lake.at(str(shutil.copytree(lake.storage.root, tmp_path / "other")))
    expected, _ = annotated(other)
    with away(tmp_path / "in/01.wav"):
        made, dones = annotated(lake)
    lost = dones["batch-000000"]
    assert (lost.uncommitted, lost.recordings, [failure.reason for failure in lost.unreachable]) == (
        1, 0, ["signal: UnreachableAudioError"],
    )  # fmt: skip
    assert "in/01.wav" in lost.unreachable[0].error
    assert dones["batch-000001"].uncommitted == 0
    assert {key.rpartition("/")[2] for key in made} == {"batch-000001.parquet"}
    assert annotated(lake)[0] == expected


def test_a_recording_that_goes_while_its_batch_is_measured_leaves_the_batch_undone(tmp_path: Path, lake: Lake) -> None:
    class Unmounting(Vad):
        def annotate(self, sound, known):
            (tmp_path / "in/01.wav").rename(tmp_path / "gone.wav")
            return super().annotate(sound, known)

    attempts = Attempts(lake.storage, "runs/one")
    attempts.begin("batch-000000").__enter__()  # one at a time: nothing is decoded ahead
    done = Annotator(lake, [Unmounting(VadConfig())], attempts).annotate("batch-000000")
    assert (done.uncommitted, len(done.unreachable), annotations(lake)) == (1, 1, {})
    assert list(lake.storage.list("runs/attempts")) == []


def test_other_bytes_of_the_same_size_are_the_recordings_own_failure_and_told_as_such(
    tmp_path: Path, lake: Lake
) -> None:
    path = tmp_path / "in/01.wav"
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes(len(data) - 200))
    made, dones = annotated(lake)
    assert [failure.reason for failure in dones["batch-000000"].failures] == ["signal: ChangedAudioError"]
    (row,) = [row for key in made for row in lake.read(key).to_pylist() if "signal" in key and row["status"] != "ok"]
    assert "restore the original file" in row["remedy"]
    assert "--retry-failed ChangedAudioError" in row["remedy"]
    path.write_bytes(data)
    other = Lake.at(str(tmp_path / "other"))
    ingest(other, [str(tmp_path / "in")], PER_BATCH)
    assert annotated(lake, retry=Retry("ChangedAudioError"))[0] == annotated(other)[0]


def test_a_second_name_is_read_where_the_first_one_holds_other_bytes(tmp_path: Path, lake: Lake) -> None:
    expected, _ = annotated(Lake.at(str(shutil.copytree(lake.storage.root, tmp_path / "other"))))
    path = tmp_path / "in/01.wav"
    ingest(lake, [str(shutil.copy(path, tmp_path / "zzz.wav"))], PER_BATCH)
    path.write_bytes(path.read_bytes()[:-2] + b"xx")
    made, dones = annotated(lake)
    assert made == expected
    assert [done.failures for done in dones.values()] == [[], []]


def test_retrying_makes_what_failed_anew_and_nothing_else(tmp_path: Path, lake: Lake) -> None:
    """Recordings counted as failed while their file was away: their rows alone are made again, in every stage."""
    expected, _ = annotated(Lake.at(str(shutil.copytree(lake.storage.root, tmp_path / "other"))))
    with away(tmp_path / "in/01.wav"):
        made, dones = annotated(lake, unreachable="fail")
    assert [len(done.failures) for done in dones.values()] == [1, 0]
    assert len(made) == len(expected) == 6
    assert made != expected
    marks = Annotator(lake, [Vad(VadConfig()), reading()]).fingerprints
    assert (
        list(batches_to_retry(lake, marks, Retry()))
        == ["batch-000000"]
        == [unit.name for unit in Pending(lake, marks, Retry())]
    )
    assert list(pending_batches(lake, marks)) == []
    again, dones = annotated(lake)
    assert (again, [done.recordings for done in dones.values()]) == (made, [0, 0])
    again, dones = annotated(lake, retry=Retry("WorkerDiedError"))
    assert (again, [done.recordings for done in dones.values()]) == (made, [0, 0])
    with away(tmp_path / "in/01.wav"):
        again, dones = annotated(lake, retry=Retry())
        assert (again, [done.uncommitted for done in dones.values()]) == (made, [1, 0])
    again, dones = annotated(lake, retry=Retry("UnreachableAudioError"))
    assert again == expected
    assert [done.recordings for done in dones.values()] == [1, 0]


def test_a_stage_that_failed_is_retried_with_those_that_read_it(tmp_path: Path, lake: Lake) -> None:
    class Failing(Vad):
        def annotate(self, sound, known):
            raise FloatingPointError("not now")

    expected, _ = annotated(Lake.at(str(shutil.copytree(lake.storage.root, tmp_path / "other"))))
    broken = Annotator(lake, [Failing(VadConfig()), reading()])
    for batch in lake.batches():
        broken.annotate(batch)
    # The groups of stages may be annotated by different workers: the later one finds that what it reads is there now.
    Annotator(lake, [Vad(VadConfig())], retry=Retry("FloatingPointError")).annotate("batch-000000")
    assert annotated(lake)[0] != expected
    assert annotated(lake, retry=Retry("FloatingPointError"))[0] == expected


def test_remedies_of_what_may_succeed_another_time_name_the_option_that_tries_it(lake: Lake) -> None:
    from pipelines.units.attempts import WorkerDiedError
    from runtime.errors import DecoderDiedError, UnreachableAudioError, UnreadableAudioError

    for kind in (WorkerDiedError, DecoderDiedError, UnreachableAudioError):
        assert f"--retry-failed {kind.__name__}" in failed_row("r", kind("x"))["remedy"]
    assert "--retry-failed" not in failed_row("r", UnreadableAudioError("x"))["remedy"]


def test_pieces_wait_for_a_recording_that_went_away_and_are_retried(
    tmp_path: Path, vad: Vad, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_input(tmp_path, 1, repeats=3)
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [str(tmp_path / "in")], IngestConfig())
    stage = Diarize(DiarizeConfig(chunk_s=30.0, window_step_s=10.0))
    stage.setup()
    annotator = Annotator(lake, [vad, stage], piece_s=40.0)
    marks = annotator.fingerprints
    annotator.annotate("batch-000000")
    left = PendingPieces(lake, marks, "diarize", ("vad",), 40.0)
    (first, *_) = pieces = list(left)
    assert len(pieces) == 3
    with away(tmp_path / "in/00.wav"):
        done = PieceWorker(lake, stage, marks).process(first)
        assert (done.uncommitted, [failure.reason for failure in done.unreachable]) == (
            1, ["diarize: UnreachableAudioError"],
        )  # fmt: skip
        for piece in pieces:
            PieceWorker(lake, stage, marks, unreachable="fail").process(piece)
    key = lake.annotation_key("diarize", marks["diarize"], "batch-000000")
    assert [row["error_type"] for row in lake.read(key).to_pylist()] == ["UnreachableAudioError"]
    assert list(left) == []
    retry = Retry("UnreachableAudioError")
    (piece,) = PendingPieces(lake, marks, "diarize", ("vad",), 40.0, retry)
    assert PieceWorker(lake, stage, marks, retry=retry).process(piece).recordings == 1
    found = lake.storage.read(key)
    lake.storage.delete(key)
    for piece in left:
        PieceWorker(lake, stage, marks).process(piece)
    assert lake.storage.read(key) == found
    assert PieceWorker(lake, stage, marks, retry=retry).process(piece).recordings == 0

    def lacking(sound, rows, chunk):
        raise MemoryError

    lake.storage.delete(key)
    monkeypatch.setattr(stage, "annotate_chunk", lacking)
    with pytest.raises(MemoryError):
        PieceWorker(lake, stage, marks).process(first)
    assert not lake.storage.exists(key)


def test_what_a_header_claims_makes_no_pieces(tmp_path: Path, vad: Vad) -> None:
    """A claim of millions of years over half a minute of sound: one piece, by what was decoded."""
    make_input(tmp_path, 1)
    lake = Lake.at(str(tmp_path / "lake"))
    ingest(lake, [str(tmp_path / "in")], IngestConfig())
    table = lake.read("recordings/batch-000000.parquet")
    place = table.schema.get_field_index("claimed_duration_s")
    lake.write("recordings/batch-000000.parquet", table.set_column(place, table.schema.field(place), [[1.4e14]]))
    stage = Diarize(DiarizeConfig())
    annotator = Annotator(lake, [vad, stage], piece_s=3600.0)
    annotator.annotate("batch-000000")
    (piece,) = PendingPieces(lake, annotator.fingerprints, "diarize", ("vad",), 3600.0)
    assert (piece.number, piece.total) == (0, 1)


@pytest.mark.parametrize(
    "environment",
    [
        {"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "1", "LC_ALL": "C"},
        {"TZ": "UTC", "PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "OMP_NUM_THREADS": "2"},
    ],
    ids=["Nepal", "Turkey"],
)
def test_neither_zone_nor_language_nor_hashes_of_the_process_change_a_byte(
    environment: dict[str, str], milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, expected = milled
    command = [sys.executable, "-c", "from pipelines.commands.cli import main; main()"]
    words = ["run", str(folder / "recipe.toml"), "--in", str(folder / "in"), "--lake", str(tmp_path / "lake"), "-q"]
    subprocess.run([*command, *words], check=True, cwd=Path(__file__).parents[2], env=os.environ | environment)
    assert digests(tmp_path / "lake") == expected


@pytest.fixture(scope="module")
def milled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with three recordings and a recipe, and the digests of the lake that an undisturbed run makes."""
    folder = tmp_path_factory.mktemp("milled")
    make_input(folder, 3)
    with running(folder, folder / "whole") as run:
        run.ingest([str(folder / "in")])
        finish(run)
    return folder, digests(folder / "whole")


@contextmanager
def running(folder: Path, lake: Path, engine: Engine | None = None, *overrides: str, **settings) -> Iterator[Run]:
    loaded, root = recipe.load(str(folder / "recipe.toml"), overrides), Lake.at(str(lake))
    with Watch(root.storage, "test", loaded.resolved, quiet=True) as watch:
        yield Run(loaded, root, watch, engine or Engine(), **settings)


def finish(run: Run) -> None:
    list(run.annotate())
    run.select()
    run.encode()


@pytest.mark.parametrize(
    "engine",
    [
        Engine(),
        pytest.param(Engine("local", (2, 2)), marks=pytest.mark.slow),
        Engine("beam", None, None, ("--runner=FnApiRunner",)),
        pytest.param(Engine("ray", (2, 2)), marks=pytest.mark.slow),
    ],
    ids=["one", "two", "beam", "ray"],
)
def test_the_same_steps_finish_what_an_unmounted_input_left(
    engine: Engine, milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """Away while annotating, back, away while encoding, back: the lake of an undisturbed run to the last byte."""
    folder, expected = milled
    lake, lost = tmp_path / "lake", folder / "in/01.wav"
    with closing(engine):
        with running(folder, lake, engine) as run:
            run.ingest([str(folder / "in")])
            with away(lost), pytest.raises(SpeechmillError, match=r"1 batches .*were not committed.*01\.wav"):
                list(run.annotate())
            assert len(list(lake.glob("annotations/vad-*/*"))) == 2
        with running(folder, lake, engine) as run:
            (step,) = run.annotate()
            assert (step.recordings, step.failed, step.uncommitted) == (1, 0, 0)
            run.select()
            with away(lost), pytest.raises(SpeechmillError, match=r"1 shards were not committed.*01\.wav"):
                run.encode()
            assert len(list(lake.glob("datasets/cheap/commits/train/*"))) == 2
            assert not (lake / "datasets/cheap/ledger.parquet").exists()
        with running(folder, lake, engine) as run:
            finish(run)
    assert digests(lake) == expected


def test_a_command_that_left_something_undone_says_so_and_ends_with_1(
    milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, _ = milled
    with away(folder / "in/02.wav"), running(folder, tmp_path / "lake") as run:
        run.ingest([str(folder / "in")])
    ingest(run.lake, [str(folder / "in")], IngestConfig())
    with away(folder / "in/02.wav"):
        done = speechmill("annotate", str(folder / "recipe.toml"), "--lake", str(tmp_path / "lake"), "--quiet")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "error: 1 batches were not committed" in done.stderr
    assert str(folder / "in/02.wav") in done.stderr
    assert "remedy: put the files back under their names, then run the same command again" in done.stderr


def test_failed_shards_are_encoded_again_when_asked(milled: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, expected = milled
    lake = tmp_path / "lake"
    shutil.copytree(folder / "whole", lake)
    shutil.rmtree(lake / "datasets")
    with away(folder / "in/01.wav"), running(folder, lake, None, "unreachable=fail") as run:
        run.encode()
    problems = verify(run.lake, "cheap")
    assert [(problem.what, problem.note) for problem in problems] == [
        (
            "an empty shard: all of its 3 windows failed, the first with " + problems[0].what.partition("with ")[2],
            False,
        ),
        ("3 of 9 windows could not be made: UnreachableAudioError", True),
    ]
    assert "01.wav" in problems[0].what
    assert {problem.what for problem in validate(run.lake)} == {problem.what for problem in problems}
    failing = digests(lake)
    with running(folder, lake, None, "unreachable=fail", retry=Retry("KeyError")) as run:
        run.encode()
    assert digests(lake) == failing
    undone = pytest.raises(SpeechmillError, match="1 shards were not committed")
    with away(folder / "in/01.wav"), running(folder, lake, retry=Retry()) as run, undone:
        run.encode()
    assert digests(lake) == failing, "a committed shard stays until it is made anew"
    with running(folder, lake, retry=Retry("UnreachableAudioError")) as run:
        run.encode()
    assert digests(lake) == expected


def test_too_many_failures_stop_encoding_as_they_stop_annotating(
    milled: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = milled
    lake = Path(shutil.copytree(folder / "whole", tmp_path / "lake"))
    shutil.rmtree(lake / "datasets")
    monkeypatch.setattr("pipelines.run.MIN_TRIED", 3)
    stopped = pytest.raises(SpeechmillError, match="1 of 3 recordings failed")
    overrides = "unreachable=fail", "max_failed_share=0.3"
    with away(folder / "in/01.wav"), running(folder, lake, None, *overrides) as run, stopped:
        run.encode()


@pytest.mark.parametrize(
    ("select", "encode", "refused"),
    [
        ({"context_s": 2, "continuation_s": 5.9}, {"hop_samples": 1920}, "set select.grid_s to 0.08"),
        ({"context_s": 2, "continuation_s": 5.9, "grid_s": 0.08}, {"hop_samples": 1920}, None),
        ({"context_s": 2, "continuation_s": 6}, {"hop_samples": 1920}, None),
        ({"context_s": 2, "continuation_s": 6, "align": "turns"}, {"hop_samples": 1920}, "set select.grid_s to 0.08"),
        ({"context_s": 2, "continuation_s": 6, "align": "turns", "grid_s": 0.16}, {"hop_samples": 1920}, None),
        ({"context_s": 2, "continuation_s": 6, "stride_s": 3.05}, {"hop_samples": 1920}, "set select.grid_s to 0.08"),
        ({"context_s": 2, "continuation_s": 5.9}, {"hop_samples": 320}, "set select.grid_s to 0.04"),
        ({"context_s": 2, "continuation_s": 5.9}, {}, None),
        ({}, {}, None),
        ({"grid_s": 0.01}, {}, None),
        ({"grid_s": 0.01, "align": "turns"}, {}, "set select.grid_s to 0.0125"),
    ],
)
def test_windows_that_start_between_frames_are_refused_when_the_recipe_is_read(
    select: dict, encode: dict, refused: str | None
) -> None:
    raw = {"name": "r", "annotate": {"vad": {}}, "select": select, "encode": {"settings": encode}}
    if refused is None:
        recipe.parse(raw)
        return
    with pytest.raises(SpeechmillError, match="between two frames of logmel") as caught:
        recipe.parse(raw)
    assert refused in caught.value.remedy
    grid_s = float(caught.value.remedy.split()[3])
    recipe.parse(raw | {"select": select | {"grid_s": grid_s}})


def test_a_grid_that_was_refused_makes_every_window_with_the_grid_of_the_remedy(
    milled: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, _ = milled
    overrides = ["select.continuation_s=5.9", "encode.settings.hop_samples=1920"]
    with pytest.raises(SpeechmillError) as caught:
        recipe.load(str(folder / "recipe.toml"), tuple(overrides))
    assert "set select.grid_s to 0.08" in caught.value.remedy
    lake = Path(shutil.copytree(folder / "whole", tmp_path / "lake"))
    shutil.rmtree(lake / "datasets")
    with running(folder, lake, None, *overrides, "select.grid_s=0.08") as run:
        run.select()
        assert run.encode()[0].version.windows == 9
