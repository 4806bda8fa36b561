"""Encoding: shards that equal the encoder on the decoded sound, made once, the same after any interruption."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

import encoders
from manifests.lake import Lake
from manifests.select import Selection, select
from pipelines.annotate import Annotator
from pipelines.audio.decode import Decoder
from pipelines.audio.resample import resampled
from pipelines.encode import Plan, ShardEncoder
from pipelines.errors import RecipeError
from pipelines.ingest import ingest
from pipelines.recipe import EncodeConfig, IngestConfig
from pipelines.stages.vad import Vad, VadConfig

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
    select(lake, Selection("s", annotator.marks, 2, 6))
    return lake, annotator.marks


def files(lake: Lake, dataset: str) -> dict[str, bytes]:
    prefix = f"datasets/{dataset}/"
    return {key.removeprefix(prefix): lake.storage.read(key) for key in lake.storage.list(prefix.rstrip("/"))}


def test_shards_hold_what_the_encoder_gives_on_the_whole_recording(made: tuple[Lake, dict[str, str]]) -> None:
    lake, marks = made
    worker = ShardEncoder(lake, "whole", "s", marks["signal"], CONFIG)
    shards = list(Plan(lake, "s", CONFIG))
    assert len(shards) > 1
    worker.check_dataset(shards)
    dones = [worker.encode(shard) for shard in shards]
    assert [done.seconds for done in dones] == [shard.seconds for shard in shards]
    cuts = list(CutSet.from_shar(in_dir=str(Path(lake.storage.root) / "datasets/whole/train")))
    assert len(cuts) == 12 == sum(done.seconds for done in dones) / 8
    logmel = encoders.load("logmel", {})
    seen_tracks = set()
    for cut in cuts:
        decoder = Decoder(cut.recording.sources[0].source)
        sound = np.concatenate(list(resampled(decoder, decoder.sample_rate, 24000)), axis=1)
        latents = cut.load_latents()
        tracks = 1 if latents.ndim == 2 else latents.shape[0]
        seen_tracks.add(tracks)
        margin = logmel.context_samples
        padded = np.pad(sound, ((0, 0), (margin, margin)))
        start = round(cut.start * 24000)
        (expected,) = logmel.encode([padded[:tracks, start : start + 8 * 24000 + 2 * margin]])
        np.testing.assert_array_equal(latents.reshape(expected.shape), expected.astype(np.float16))
        assert expected.shape == (tracks, 640, 80)
    assert seen_tracks == {1, 2}


def test_an_interrupted_dataset_is_finished_to_the_same_bytes(made: tuple[Lake, dict[str, str]]) -> None:
    lake, marks = made
    shards = list(Plan(lake, "s", CONFIG))
    for name in ("one", "other"):
        worker = ShardEncoder(lake, name, "s", marks["signal"], CONFIG)
        worker.check_dataset(shards)
        for shard in shards[:1] if name == "other" else shards:
            assert worker.encode(shard).recordings
    lake.storage.delete("datasets/other/commits/train/000000.json")  # killed after its files, before its commit
    again = ShardEncoder(lake, "other", "s", marks["signal"], CONFIG)
    again.check_dataset(shards)
    assert all(again.encode(shard).recordings for shard in reversed(shards))
    assert again.encode(shards[0]).recordings == 0
    assert files(lake, "one") == files(lake, "other")


def test_other_settings_never_mix_with_a_finished_dataset(made: tuple[Lake, dict[str, str]]) -> None:
    lake, marks = made
    shards = list(Plan(lake, "s", CONFIG))
    ShardEncoder(lake, "mine", "s", marks["signal"], CONFIG).check_dataset(shards)
    other = EncodeConfig(shard_mb=0.5, settings={"num_mels": 40})
    with pytest.raises(RecipeError, match="another selection or encoder"):
        ShardEncoder(lake, "mine", "s", marks["signal"], other).check_dataset(shards)


def test_a_recording_that_went_away_costs_its_windows_and_says_so(made: tuple[Lake, dict[str, str]]) -> None:
    lake, marks = made
    name = lake.read(lake.recordings_key("batch-000000"))["uris"][0].as_py()[0]
    Path(name).rename(name + ".away")
    try:
        worker = ShardEncoder(lake, "gone", "s", marks["signal"], CONFIG)
        dones = [worker.encode(shard) for shard in Plan(lake, "s", CONFIG)]
    finally:
        Path(name + ".away").rename(name)
    (failure,) = [failure for done in dones for failure in done.failures]
    assert (failure.reason, name in failure.error) == ("encode: UnreadableAudioError", True)
    assert sum(done.seconds for done in dones) == 9 * 8
    rows = [row for key in lake.storage.list("datasets/gone/windows") for row in lake.read(key).to_pylist()]
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(rows) == 12
    assert len(failed) == 3
    assert all(name in row["error"] and row["continuation_frames"] == 0 for row in failed)


def test_a_recording_is_read_under_the_name_that_still_holds_it(made: tuple[Lake, dict[str, str]]) -> None:
    lake, marks = made
    (name,) = lake.read(lake.recordings_key("batch-000000"))["uris"][0].as_py()
    other = shutil.copy(name, Path(name).with_name("zzz.wav"))
    ingest(lake, [str(other)], IngestConfig())
    assert lake.read(lake.recordings_key("batch-000000"))["uris"][0].as_py() == [name, str(other)]
    Path(name).unlink()
    worker = ShardEncoder(lake, "moved", "s", marks["signal"], CONFIG)
    dones = [worker.encode(shard) for shard in Plan(lake, "s", CONFIG)]
    assert [failure for done in dones for failure in done.failures] == []
    assert sum(done.seconds for done in dones) == 12 * 8
