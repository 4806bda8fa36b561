"""Verify finds and names whatever is wrong with a dataset, and nothing in a sound one."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from lakes import publish_by_hand

from manifests import schemas
from manifests.lake import Lake
from manifests.shards import ShardFiles, ShardWriter
from manifests.verify import verify

ENCODER = "logmel-x"
D = "datasets/d"


def write_shard(lake: Lake, where: str, shard: int, recording: str | None = None) -> None:
    """Four windows, and one that failed."""
    folder, files = lake.storage.scratch(), ShardFiles(where, shard)
    writer, split = ShardWriter(folder, files, {"encoder": ENCODER}), files.split
    recording = recording or f"{where.replace('.', '-')}{shard}"
    tracks = 2 if "." in where else 1
    for number in range(5):
        window = {
            "window_id": f"{recording}-{number * 8000:09d}", "recording_id": recording, "split": split,
            "start_s": number * 8.0, "duration_s": 8.0, "context_s": 2.0, "tracks": tracks, "source": "here",
            "licence": None, "language": ["en", None][number % 2], "num_speakers": tracks,
        }  # fmt: skip
        if number == 4:
            with writer.recording():
                writer.fail(window, "KeyError: gone")
            continue
        known = {"channels": tracks, "uris": ["/sound/a.wav"], "sample_rate": 16000, "num_samples": 16000 * 60}
        known |= {"channel_relation": "speakers" if tracks == 2 else "mono", "live_channel": 0}
        features = np.random.default_rng(number).normal(size=(tracks, 640, 4)).astype(np.float32)
        turns = [{"speaker": "A", "track": 0, "start_s": 0.5, "end_s": 3.0}]
        details = {"speech_share": 0.9, "overlap_share": 0.1, "turns": turns}
        with writer.recording():
            writer.add(window | details, known, features, 0.0125)
    commit = writer.finish()
    for name in commit.files:
        lake.storage.put_file(f"{D}/{name}", folder / name)
    lake.storage.put(f"{D}/{files.commit}", commit.to_json().encode())
    shutil.rmtree(folder)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.at(str(tmp_path / "lake"))
    for folder, shards in (("train", 2), ("train.2tracks", 1), ("test", 1)):
        for shard in range(shards):
            write_shard(lake, folder, shard)
    publish_by_hand(lake, "d", ENCODER)
    return lake


def change(lake: Lake, key: str, how: Callable[[bytes], bytes]) -> None:
    lake.storage.put(f"{D}/{key}", how(lake.storage.read(f"{D}/{key}")))


def named(lake: Lake) -> dict[str, str]:
    found: dict[str, str] = {}
    for problem in verify(lake, "d"):
        if problem.note:
            continue
        found[problem.key.removeprefix(f"{D}/")] = (
            found.get(problem.key.removeprefix(f"{D}/"), "") + problem.what + "; "
        )
    return found


def test_a_sound_dataset_has_no_problem_and_every_byte_of_it_is_read(lake: Lake) -> None:
    told: dict[str, int] = {}
    (note,) = verify(lake, "d", told.__setitem__)
    assert (note.note, note.what) == (True, "4 of 20 windows could not be made: KeyError")
    assert list(told) == ["test/000000", "train/000000", "train/000001", "train.2tracks/000000"]
    sizes = [lake.storage.size(k) for s in ("test", "train", "train.2tracks") for k in lake.storage.list(f"{D}/{s}")]
    assert sum(told.values()) == sum(sizes)


def test_a_window_in_the_folder_of_another_number_of_tracks_is_named(lake: Lake) -> None:
    table = lake.read(f"{D}/windows/train.2tracks-000000.parquet")
    place, tracks = table.schema.get_field_index("tracks"), pa.array([1] * len(table), pa.int32())
    lake.write(f"{D}/windows/train.2tracks-000000.parquet", table.set_column(place, table.schema.field(place), tracks))
    assert "of train with 1 tracks is in train.2tracks" in named(lake)["windows/train.2tracks-000000.parquet"]


def test_lists_of_shards_that_say_something_else_are_named(lake: Lake) -> None:
    table = lake.read(f"{D}/shards.parquet")
    lake.write(f"{D}/shards.parquet", table.slice(1))
    change(lake, "fields.json", lambda data: data.replace(b"train/latents.000001.tar", b"train/latents.000000.tar"))
    lake.storage.delete(f"{D}/versions/000001/shards.parquet")
    assert named(lake) == {
        "shards.parquet": "does not list what the shards of this version hold; ",
        "fields.json": "does not list the shards of this version in their order; ",
        "versions/000001/shards.parquet": "missing; ",
    }


@pytest.mark.parametrize("name", ["train/cuts.000001.jsonl.gz", "train/latents.000001.tar"])
def test_a_file_cut_short_by_one_byte_is_named(lake: Lake, name: str) -> None:
    change(lake, name, lambda data: data[:-1])
    found = named(lake)
    assert "bytes" in found.pop(name)
    assert set(found) <= {"ledger.parquet"}


@pytest.mark.parametrize("name", ["train/cuts.000001.jsonl.gz", "train/latents.000001.tar"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_flipped_bit_anywhere_is_named(lake: Lake, name: str, share: float) -> None:
    def flip(data: bytes) -> bytes:
        at = int(share * len(data))
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

    change(lake, name, flip)
    assert "sha256" in named(lake)[name]


def test_what_is_missing_and_what_is_too_much_is_named(lake: Lake) -> None:
    for name in ("train/latents.000000.tar", "commits/test/000000.json"):
        lake.storage.delete(f"{D}/{name}")
    for name in ("train/README.md", "test/cuts.000001.jsonl.gz"):
        lake.storage.put(f"{D}/{name}", b"x")
    found = named(lake)
    assert found["train/latents.000000.tar"] == found["commits/test/000000.json"] == "missing; "
    assert "does not belong" in found["train/README.md"]
    assert found["commits/test/000001.json"] == found["test/latents.000001.tar"] == "missing; "
    assert found["ledger.parquet"] == "not compared: 2 shards could not be counted; "


def test_a_shard_removed_with_all_its_records_is_named(lake: Lake) -> None:
    for name in ("latents.000000.tar", "cuts.000000.jsonl.gz"):
        lake.storage.delete(f"{D}/train/{name}")
    lake.storage.delete(f"{D}/commits/train/000000.json")
    lake.storage.delete(f"{D}/windows/train-000000.parquet")
    assert "train/latents.000000.tar" in named(lake)  # a gap in the numbers
    lake.storage.delete(f"{D}/train/latents.000001.tar")
    lake.storage.delete(f"{D}/train/cuts.000001.jsonl.gz")
    lake.storage.delete(f"{D}/commits/train/000001.json")
    lake.storage.delete(f"{D}/windows/train-000001.parquet")
    found = named(lake)  # no gap any more: the version still names them
    assert found["commits/train/000001.json"] == found["train/latents.000001.tar"] == "missing; "


@pytest.mark.parametrize("column", ["windows", "hours", "frames", "context_tokens", "continuation_tokens"])
def test_an_edited_number_of_the_ledger_is_named(lake: Lake, column: str) -> None:
    rows = lake.read(f"{D}/ledger.parquet").to_pylist()
    rows[3][column] += 1
    lake.write(f"{D}/ledger.parquet", schemas.table(rows, schemas.LEDGER))
    assert set(found := named(lake)) == {"ledger.parquet"}
    assert f"{column} {rows[3][column]}, but the recount says " in found["ledger.parquet"]
    lake.write(f"{D}/ledger.parquet", schemas.table(rows[:3] + rows[4:] + rows[:1], schemas.LEDGER))
    assert "missing" in (told := named(lake)["ledger.parquet"])
    assert "twice" in told


def test_an_edited_table_of_windows_is_named(lake: Lake) -> None:
    name = "windows/train-000001.parquet"
    table = lake.read(f"{D}/{name}")
    for column, value in (("context_frames", 161), ("tracks", 2), ("language", "de"), ("status", "failed")):
        rows = table.to_pylist()
        rows[0][column] = value
        lake.write(f"{D}/{name}", pa.Table.from_pylist(rows, schema=table.schema))
        assert "train1-000000000" in str(named(lake)), column


def test_a_window_that_stands_in_two_shards_is_named(lake: Lake) -> None:
    write_shard(lake, "train", 2, recording="train1")
    publish_by_hand(lake, "d", ENCODER)
    found = named(lake)
    assert set(found) == {"windows/train-000002.parquet"}
    assert "train1-000008000 is in windows/train-000001.parquet and" in found["windows/train-000002.parquet"]


def test_statistics_that_are_not_the_shards_are_named(lake: Lake) -> None:
    change(lake, "stats.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert set(named(lake)) == {"stats.safetensors"}
    change(lake, "stats.safetensors", lambda data: data[:-1])
    assert "cannot be read" in named(lake)["stats.safetensors"]


def test_sums_of_products_that_are_not_the_shards_are_named(lake: Lake) -> None:
    name = "products/train-000000.parquet"
    change(lake, name, lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:])
    assert "sha256" in named(lake)[name] or "cannot be read" in named(lake)[name]
    lake.storage.delete(f"{D}/{name}")
    assert named(lake)[name] == "missing; "


def test_a_wrong_sum_with_an_honest_hash_is_named(lake: Lake) -> None:
    from manifests.shards import ShardCommit, _describe

    name, record = "products/train-000000.parquet", f"{D}/commits/train/000000.json"
    table = lake.read(f"{D}/{name}")
    low = pa.array([value ^ 1 for value in table["low"].to_pylist()], pa.int64())
    lake.write(f"{D}/{name}", table.set_column(1, table.schema.field("low"), low))
    commit = ShardCommit.from_json(lake.storage.read(record))
    commit.files[name] = _describe(Path(lake.storage.root) / D / name)
    lake.storage.put(record, commit.to_json().encode())
    assert named(lake) == {name: "its sums of products are not those of its shard; "}


def test_records_that_cannot_be_read_are_named(lake: Lake) -> None:
    change(lake, "windows/train-000000.parquet", lambda data: data[:-1])
    change(lake, "commits/train/000001.json", lambda data: data[:-3])
    found = named(lake)
    for name in ("windows/train-000000.parquet", "commits/train/000001.json"):
        assert "cannot be read" in found.pop(name)
    assert set(found) == {"ledger.parquet", "plan.json"}  # neither can be compared


def test_a_shard_with_another_layout_and_an_honest_hash_is_named(lake: Lake) -> None:
    """Both hashes are right, the members are not: a pair the wrong way round, as sorting by name gives."""
    import tarfile

    from manifests.shards import ShardCommit, _describe

    name = "train/latents.000000.tar"
    path = Path(lake.storage.root) / D / name
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member)) for member in tar]
        contents = sorted((member.name, file.read()) for member, file in members if file)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member_name, data in contents:
            info = tarfile.TarInfo(member_name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    commit = ShardCommit.from_json(lake.storage.read(f"{D}/commits/train/000000.json"))
    commit.files[name] = _describe(path)
    lake.storage.put(f"{D}/commits/train/000000.json", commit.to_json().encode())
    assert ".json where <window id>.npy belongs" in named(lake)[name]


def test_a_dataset_that_is_not_there_is_a_problem(lake: Lake) -> None:
    (problem,) = verify(lake, "other")
    assert "no shard here" in problem.what
