"""The sums that a selection leaves: `stats` says from them what it would read, and never of files that changed."""

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakes import rules, write_lake

from manifests import sums
from manifests.choice import choose
from manifests.lake import Lake
from manifests.select import select
from manifests.sums import Sums, summed
from manifests.views import open_views
from pipelines.commands.cli import cli

BATCHES = [
    [
        {"id": "a1", "duration_s": 41.0, "speech": [(0, 9), (10, 12), (20, 40)]},
        {"id": "a2", "duration_s": 30.0, "error": "UnreadableAudioError"},
    ],
    [{"id": "b1", "duration_s": 20.0, "speech": [(2, 5)]}, {"id": "b2", "duration_s": 7.0, "ingest_error": "OSError"}],
]
LATER = [
    {"id": "c1", "duration_s": 12.0, "speech": [(1, 11)]},
    {"id": "c2", "duration_s": 1.0, "ingest_error": "OSError"},
]
Read = list[list[str] | None]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = write_lake(tmp_path / "lake", BATCHES)
    select(made, rules())
    return made


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Which batches were read, None for all of them, each time that files were."""
    asked: Read = []

    def watched(lake: Lake, choice: object, stages: object, numbers: list[str] | None) -> object:
        asked.append(numbers)
        return open_views(lake, choice, stages, numbers)  # type: ignore[arg-type]

    monkeypatch.setattr(sums, "open_views", watched)
    return asked


def stats(lake: Lake, *options: str) -> str:
    done = CliRunner().invoke(cli, ["manifest", "stats", lake.storage.root, *options])
    assert done.exit_code == 0, done.output
    return done.output


def scanned(lake: Lake) -> str:
    """What `stats` prints of a copy without sums."""
    copy = Path(f"{lake.storage.root}-scanned")
    shutil.copytree(lake.storage.root, copy)
    for path in copy.glob("selections/*/sums.json"):
        path.unlink()
    text = stats(Lake.at(str(copy)))
    shutil.rmtree(copy)
    return text


def test_a_lake_of_real_sound_is_told_from_its_sums_to_the_letter(milled: Lake, tmp_path: Path, read: Read) -> None:
    lake = Lake.at(str(shutil.copytree(milled.storage.root, tmp_path / "lake")))
    told = stats(lake)
    assert read == []
    assert told == scanned(lake)
    assert read == [None]
    assert "speech_share" in told
    assert "dataset set" in told


def test_batches_that_came_since_are_read_and_no_others(lake: Lake, read: Read) -> None:
    write_lake(Path(lake.storage.root), [*BATCHES, LATER])  # again to the byte, but younger
    for path in Path(lake.storage.root).glob("*/**/batch-00000[01].parquet"):
        os.utime(path, (0, 0))
    told = stats(lake)
    assert read == [["000002"]]
    assert told == scanned(lake)
    assert "6 recordings" in told


def rewrite(lake: Lake) -> None:
    key = lake.annotation_key("vad", "v", "batch-000001")
    lake.storage.put(key, lake.storage.read(key))


def measure_anew(lake: Lake) -> None:
    key = lake.annotation_key("vad", "v", "batch-000000")
    table = lake.read(key)
    share = table.schema.get_field_index("speech_share")
    lake.write(key, table.set_column(share, table.schema.field(share), pa.array([0.25, 0.75])))


def bring_an_older_file(lake: Lake) -> None:
    key = lake.recordings_key("batch-000001")
    lake.write(key, lake.read(key).slice(0, 1))
    os.utime(Path(lake.storage.root, key), (0, 0))


def take_away(lake: Lake) -> None:
    for folder in ("recordings", "annotations/vad-v", "annotations/signal-s", "annotations/diarize-d"):
        lake.storage.delete(f"{folder}/batch-000001.parquet")


def forget(lake: Lake) -> None:
    shutil.rmtree(Path(lake.storage.root, "selections"))


def die_while_selecting(lake: Lake) -> None:
    key = "selections/sel/selection.json"
    lake.storage.put(key, lake.storage.read(key))


@pytest.mark.parametrize(
    "change",
    [rewrite, measure_anew, bring_an_older_file, take_away, forget, die_while_selecting],
    ids=lambda change: change.__name__,
)
def test_a_lake_that_changed_is_read_whole(lake: Lake, read: Read, change: object) -> None:
    stats(lake)
    assert read == []
    change(lake)  # type: ignore[operator]
    told = stats(lake)
    assert read == [None]
    assert told == scanned(lake)


def test_another_question_is_read_from_the_files(lake: Lake, read: Read) -> None:
    lake.storage.put(
        "annotations/vad-w/batch-000000.parquet", lake.storage.read("annotations/vad-v/batch-000000.parquet")
    )
    assert '"fingerprint": "w"' in stats(lake, "--stage", "vad=w", "--json")
    assert read == [None]


def test_sums_hold_in_a_bucket_too(bucket: str, read: Read) -> None:
    lake = write_lake(f"s3://{bucket}/lake", BATCHES)
    time.sleep(1.1)  # an object store tells times in seconds: what is as old as the selection is read again
    select(lake, rules())
    told = stats(lake)
    assert read == []
    rewrite(lake)
    assert stats(lake) == told
    assert read == [None]


RECORDING = st.fixed_dictionaries(
    {"duration_s": st.floats(8, 60, allow_subnormal=False)},
    optional={"speech": st.just([(0.0, 5.25), (6.0, 7.5)]), "error": st.sampled_from(["A", "B"]),
              "ingest_error": st.just("OSError")},
)  # fmt: skip


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(RECORDING, min_size=1, max_size=4), min_size=1, max_size=4))
def test_sums_of_tables_and_of_files_are_one(
    batches: list[list[dict[str, object]]], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "AT_ONCE", 3)
    monkeypatch.setattr("manifests.select.AT_ONCE", 2)
    rows = [[row | {"id": f"{n}-{m}"} for m, row in enumerate(batch)] for n, batch in enumerate(batches)]
    lake = write_lake(tmp_path_factory.mktemp("lake"), rows)
    select(lake, rules())
    choice = choose(lake)
    read = Sums()
    read.add_views(open_views(lake, choice, ("signal", "language")), choice.stages)
    kept = summed(lake, choice)
    assert kept.parts.keys() == read.parts.keys()
    for part in read.parts:
        assert {name: vars(one) for name, one in kept.of(part).items()} == {
            name: pytest.approx(vars(one)) for name, one in read.of(part).items()
        }
