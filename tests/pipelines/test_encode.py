"""Encoding: shards that equal the encoder on the decoded sound, made once, the same after any interruption."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from small_runs import encode_alone

import encoders
from encoders.base import Encoder
from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection
from pipelines.annotate import Annotator
from pipelines.audio.decode import Decoder
from pipelines.audio.resample import resampled
from pipelines.encode import ShardEncoder
from pipelines.encoding.plan import Plan
from pipelines.ingest import ingest
from pipelines.recipes.recipe import EncodeConfig, IngestConfig
from pipelines.stages.vad import Vad, VadConfig
from runtime.errors import RecipeError

CONFIG = EncodeConfig(shard_mb=0.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, conversation: Path) -> tuple[Lake, dict[str, str]]:
    folder = tmp_path_factory.mktemp("in")
    speech, rate = soundfile.read(conversation, dtype="int16")
    for n in range(3):
        soundfile.write(folder / f"{n}.wav", np.roll(speech, n * 16000), rate)
    soundfile.write(folder / "two.wav", np.stack([speech, np.roll(speech[::-1], 5 * rate)], 1), rate)
    lake = Lake.at(str(tmp_path_factory.mktemp("lake")))
    ingest(lake, [str(folder)], IngestConfig())
    annotator = Annotator(lake, [Vad(VadConfig())])
    for batch in lake.batches():
        annotator.annotate(batch)
    select(lake, Selection("s", annotator.fingerprints, context_s=2, continuation_s=6))
    return lake, annotator.fingerprints


def files(lake: Lake, dataset: str) -> dict[str, bytes]:
    prefix = f"datasets/{dataset}/"
    return {key.removeprefix(prefix): lake.storage.read(key) for key in lake.storage.list(prefix.rstrip("/"))}


def test_shards_hold_what_the_encoder_gives_on_the_whole_recording(made: tuple[Lake, dict[str, str]]) -> None:
    lake, marks = made
    worker = ShardEncoder(lake, {"whole": CONFIG}, "s", marks["signal"])
    shards = list(Plan(lake, "s", CONFIG))
    assert len(shards) > 1
    dones = [encode_alone(worker, shard) for shard in shards]
    assert not list((Path(lake.storage.root) / "runs/tmp").iterdir())  # each shard has removed its scratch folder
    assert [done.seconds for done in dones] == [shard.seconds for shard in shards]
    folders = sorted((Path(lake.storage.root) / "datasets/whole").glob("train*"))
    cuts = [cut for folder in folders for cut in CutSet.from_shar(in_dir=str(folder))]
    assert len(cuts) == 12 == sum(done.seconds for done in dones) / 8
    logmel = encoders.load("logmel", {})
    seen_tracks = set()
    for cut in cuts:
        decoder = Decoder(cut.recording.sources[0].source)
        sound = np.concatenate(list(resampled(decoder, decoder.sample_rate, 24000)), axis=1)
        latents = cut.load_latents()
        tracks = 1 if latents.ndim == 2 else latents.shape[0]
        seen_tracks.add(tracks)
        (expected,) = logmel.encode([logmel.cut(sound[:tracks], round(cut.start * 80), 640)])
        np.testing.assert_array_equal(latents.reshape(expected.shape), expected.astype(np.float16))
        assert expected.shape == (tracks, 640, 80)
    assert seen_tracks == {1, 2}


def test_an_interrupted_dataset_is_finished_to_the_same_bytes(made: tuple[Lake, dict[str, str]]) -> None:
    lake, marks = made
    shards = list(Plan(lake, "s", CONFIG))
    for name in ("one", "other"):
        worker = ShardEncoder(lake, {name: CONFIG}, "s", marks["signal"])
        for shard in shards[:1] if name == "other" else shards:
            assert encode_alone(worker, shard).recordings
    lake.storage.delete("datasets/other/commits/train/000000.json")  # killed after its files, before its commit
    again = ShardEncoder(lake, {"other": CONFIG}, "s", marks["signal"])
    assert all(encode_alone(again, shard).recordings for shard in reversed(shards))
    assert encode_alone(again, shards[0]).recordings == 0
    assert files(lake, "one") == files(lake, "other")


def test_a_shard_whose_recording_went_away_waits_for_it_and_the_others_are_made(
    made: tuple[Lake, dict[str, str]],
) -> None:
    lake, marks = made
    name = lake.read(lake.recordings_key("batch-000000"))["uris"][0].as_py()[0]
    shards = list(Plan(lake, "s", CONFIG))
    whole, worker = (ShardEncoder(lake, {dataset: CONFIG}, "s", marks["signal"]) for dataset in ("there", "gone"))
    for shard in shards:
        encode_alone(whole, shard)
    Path(name).rename(name + ".away")
    try:
        dones = [encode_alone(worker, shard) for shard in shards]
    finally:
        Path(name + ".away").rename(name)
    (lost,) = [done for done in dones if done.uncommitted]
    (failure,) = lost.unreachable
    assert (failure.reason, name in failure.error) == ("encode: UnreachableAudioError", True)
    assert (lost.recordings, lost.seconds, lost.failures) == (0, 0, [])
    assert [done.failures for done in dones] == [[]] * len(dones)
    assert {key.removeprefix("commits/") for key in files(lake, "gone") if key.startswith("commits")} == {
        f"{shard.folder}/{shard.number:06d}.json" for shard in shards if shard.name != lost.name
    }
    assert [encode_alone(worker, shard).recordings > 0 for shard in shards] == [
        shard.name == lost.name for shard in shards
    ]
    assert files(lake, "gone") == files(lake, "there")


def test_a_recording_that_went_away_is_counted_as_failed_where_the_recipe_says_so(
    made: tuple[Lake, dict[str, str]],
) -> None:
    lake, marks = made
    name = lake.read(lake.recordings_key("batch-000000"))["uris"][0].as_py()[0]
    Path(name).rename(name + ".away")
    try:
        worker = ShardEncoder(lake, {"accepted": CONFIG}, "s", marks["signal"], unreachable="fail")
        dones = [encode_alone(worker, shard) for shard in Plan(lake, "s", CONFIG)]
    finally:
        Path(name + ".away").rename(name)
    (failure,) = [failure for done in dones for failure in done.failures]
    assert (failure.reason, name in failure.error) == ("encode: UnreachableAudioError", True)
    rows = [row for key in lake.storage.list("datasets/accepted/windows") for row in lake.read(key).to_pylist()]
    failed = [row for row in rows if row["status"] == "failed"]
    assert (len(rows), len(failed)) == (12, 3)
    assert all(name in row["error"] and row["continuation_frames"] == 0 for row in failed)


@pytest.mark.parametrize("names", [1, 2])
def test_other_bytes_under_a_name_are_never_encoded(
    names: int, made: tuple[Lake, dict[str, str]], tmp_path: Path
) -> None:
    """Noise of the same size: only its bytes tell. A second name that holds the recording is read in its place."""
    lake = Lake.at(str(shutil.copytree(made[0].storage.root, tmp_path / "lake")))
    ((uris, *_), *_) = [[row["uris"]] for row in lake.read(lake.recordings_key("batch-000000")).to_pylist()]
    original = Path(uris[0])
    data = original.read_bytes()
    if names == 2:
        ingest(lake, [str(shutil.copy(original, tmp_path / "zzz.wav"))], IngestConfig())
    shards = list(Plan(lake, "s", CONFIG))
    worker = ShardEncoder(lake, {"replaced": CONFIG}, "s", made[1]["signal"])
    noise = np.random.default_rng(0).integers(-3000, 3000, (len(data) - 44) // 2, np.int16).tobytes()
    try:
        original.write_bytes(data[:44] + noise)
        dones = [encode_alone(worker, shard) for shard in shards]
    finally:
        original.write_bytes(data)
    lost = [failure.reason for done in dones for failure in done.unreachable]
    assert lost == (["encode: ChangedAudioError"] if names == 1 else [])
    for shard in shards:
        encode_alone(worker, shard)
    assert sum(len(rows) for rows in _ok_rows(lake, "replaced")) == 12
    whole = ShardEncoder(lake, {"original": CONFIG}, "s", made[1]["signal"])
    for shard in shards:
        encode_alone(whole, shard)
    assert files(lake, "replaced") == files(lake, "original")


def _ok_rows(lake: Lake, dataset: str) -> list[list[dict]]:
    tables = (lake.read(key).to_pylist() for key in lake.storage.list(f"datasets/{dataset}/windows"))
    return [[row for row in rows if row["status"] == "ok"] for rows in tables]


def encoder_of(worker: ShardEncoder) -> Encoder:
    (target,) = worker.targets.values()
    return target.encoder


def test_one_window_that_cannot_be_made_costs_no_other_window(
    made: tuple[Lake, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, marks = made
    worker = ShardEncoder(lake, {"window": CONFIG}, "s", marks["signal"])
    encode, calls = encoder_of(worker).encode, []

    def overflowing(windows):
        calls.append(1)
        (features,) = encode(windows)
        return [features * (1e9 if len(calls) == 1 else 1)]

    monkeypatch.setattr(encoder_of(worker), "encode", overflowing)
    dones = [encode_alone(worker, shard) for shard in Plan(lake, "s", CONFIG)]
    (failure,) = [failure for done in dones for failure in done.failures]
    assert (failure.reason, "float16" in failure.error) == ("encode: ValueError", True)
    assert sum(len(rows) for rows in _ok_rows(lake, "window")) == 11


@pytest.mark.parametrize(
    ("error", "stops"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RecipeError("wrong"), True),
        (RuntimeError("shapes do not match"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_what_the_machine_lacks_stops_encoding_and_commits_nothing(
    error: Exception, stops: bool, made: tuple[Lake, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lake, marks = made
    worker = ShardEncoder(lake, {f"error-{tmp_path.name}": CONFIG}, "s", marks["signal"])

    def failing(windows):
        raise error

    monkeypatch.setattr(encoder_of(worker), "encode", failing)
    shard = next(iter(Plan(lake, "s", CONFIG)))
    if stops:
        with pytest.raises(type(error)):
            encode_alone(worker, shard)
        assert files(lake, f"error-{tmp_path.name}") == {}
    else:
        assert encode_alone(worker, shard).failed == len(shard.recordings)


def test_a_recording_is_read_under_the_name_that_still_holds_it(made: tuple[Lake, dict[str, str]]) -> None:
    lake, marks = made
    (name,) = lake.read(lake.recordings_key("batch-000000"))["uris"][0].as_py()
    other = shutil.copy(name, Path(name).with_name("zzz.wav"))
    ingest(lake, [str(other)], IngestConfig())
    assert lake.read(lake.recordings_key("batch-000000"))["uris"][0].as_py() == [name, str(other)]
    Path(name).unlink()
    worker = ShardEncoder(lake, {"moved": CONFIG}, "s", marks["signal"])
    dones = [encode_alone(worker, shard) for shard in Plan(lake, "s", CONFIG)]
    assert [failure for done in dones for failure in done.failures] == []
    assert sum(done.seconds for done in dones) == 12 * 8
