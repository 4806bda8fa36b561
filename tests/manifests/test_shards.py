"""Shards are the same bytes each time, and the same arrays in every reader."""

import contextlib
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from manifests.shards import ShardCommit, ShardFiles, ShardWriter

RECORDING = {
    "channels": 1, "uris": ["/sound/a.wav"], "sample_rate": 16000, "num_samples": 16000 * 60,
    "channel_relation": "mono", "live_channel": 0,
}  # fmt: skip


def window(number: int) -> dict:
    return {
        "window_id": f"abc-{number * 8000:09d}", "recording_id": "abc", "split": "train", "start_s": number * 8.0,
        "duration_s": 8.0, "context_s": 2.0, "source": "here", "licence": None, "language": "en", "num_speakers": 2,
        "speech_share": 0.9, "overlap_share": 0.1, "tracks": 1,
        "turns": [{"speaker": "A", "track": 0, "start_s": 0.5, "end_s": 3.0}],
    }  # fmt: skip


def write(folder: Path, tracks: int = 1, shards: int = 2, each: int = 3) -> dict[str, np.ndarray]:
    arrays = {}
    for shard in range(shards):
        writer = ShardWriter(folder, ShardFiles("train", shard), {"encoder": "logmel-x"})
        for number in range(shard * each, (shard + 1) * each):
            features = np.random.default_rng(number).normal(size=(tracks, 640, 80)).astype(np.float32)
            with writer.recording():
                writer.add(window(number), RECORDING | {"channels": tracks}, features, 0.0125)
            stored = features.astype(np.float16)
            arrays[window(number)["window_id"]] = stored[0] if tracks == 1 else stored
        commit = writer.finish()
        commit.statistics.products = None  # in a file of their own
        assert ShardCommit.from_json(commit.to_json()) == commit
        assert (commit.windows, commit.frames) == (each, each * tracks * 640)
    return arrays


@pytest.mark.parametrize("tracks", [1, 2])
def test_lhotse_webdataset_and_datasets_read_equal_arrays(
    tmp_path: Path, tracks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets
    import lhotse
    import webdataset
    import wids

    expected = write(tmp_path, tracks)
    cuts = list(lhotse.CutSet.from_shar(in_dir=str(tmp_path / "train")))
    for cut in cuts:
        lhotse.validate(cut)
        assert type(cut).__name__ == ("MonoCut" if tracks == 1 else "MultiCut")
        assert (cut.supervisions[0].speaker, cut.context_s) == ("A", 2.0)
    tars = sorted(str(path) for path in (tmp_path / "train").glob("*.tar"))
    readers = {
        "lhotse": {cut.id: cut.load_latents() for cut in cuts},
        "webdataset": {s["__key__"]: s["npy"] for s in webdataset.WebDataset(tars, shardshuffle=False).decode()},
    }
    for streaming in (True, False):
        loaded = datasets.load_dataset(
            "webdataset", data_files=tars, split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
        )
        readers[f"datasets, streaming={streaming}"] = {
            sample["__key__"]: np.asarray(sample["npy"], np.float16) for sample in loaded
        }
    shards = [{"url": tar, "nsamples": len(expected) // len(tars)} for tar in tars]
    indexed = wids.ShardListDataset(shards, cache_dir=str(tmp_path / "wids"))
    samples = [indexed[number] for number in range(len(indexed))]
    readers["wids"] = {sample["__key__"]: np.asarray(sample[".npy"]) for sample in samples}
    for name, found in readers.items():
        assert list(found) == list(expected), name
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array, err_msg=name)


def test_a_recording_with_one_live_channel_makes_cuts_of_that_channel(tmp_path: Path) -> None:
    import lhotse

    writer = ShardWriter(tmp_path, ShardFiles("train", 0), {})
    known = RECORDING | {"channels": 2, "channel_relation": "one_sided", "live_channel": 1}
    with writer.recording():
        writer.add(window(0), known, np.zeros((1, 640, 80), np.float32), 0.0125)
    writer.finish()
    (cut,) = lhotse.CutSet.from_shar(in_dir=str(tmp_path / "train"))
    lhotse.validate(cut)
    assert (cut.channel, cut.supervisions[0].channel, cut.channel_relation) == (1, 1, "one_sided")


def test_equal_windows_give_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    files = sorted(str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*.*"))
    assert files == [
        "products/train-000000.parquet", "products/train-000001.parquet", "train/cuts.000000.jsonl.gz",
        "train/cuts.000001.jsonl.gz", "train/latents.000000.tar", "train/latents.000001.tar",
        "windows/train-000000.parquet", "windows/train-000001.parquet",
    ]  # fmt: skip
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    first = json.loads(gzip.decompress((tmp_path / "a" / files[2]).read_bytes()).splitlines()[0])
    assert first["recording"]["sources"][0]["source"] == "/sound/a.wav"


def test_what_float16_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, ShardFiles("train", 0), {})
    with pytest.raises(ValueError, match="abc-000000000"), writer.recording():
        writer.add(window(0), RECORDING, np.full((1, 4, 2), 1e6, np.float32), 0.0125)


def test_a_recording_that_is_taken_back_leaves_no_byte(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(1, 640, 80)).astype(np.float32)
    made = {}
    for name, taken_back in (("plain", []), ("back", [0, 2, 3])):
        writer = ShardWriter(tmp_path / name, ShardFiles("train", 0), {"encoder": "logmel-x"})
        for number in range(4):
            if number in taken_back:
                with contextlib.suppress(KeyError), writer.recording():
                    for other in (7, 8):
                        writer.add(window(other), RECORDING, 9 * features, 0.0125)
                    writer.fail(window(9), "ValueError: no")
                    raise KeyError
            with writer.recording():
                writer.add(window(number), RECORDING, features * number, 0.0125)
                writer.fail(window(number + 20), "ValueError: no")
        made[name] = writer.finish()
        files = {name: (writer.folder / name).read_bytes() for name in made[name].files}
    assert made["plain"] == made["back"]
    assert (made["back"].windows, made["back"].failed) == (4, 4)
    assert all((tmp_path / "plain" / name).read_bytes() == data for name, data in files.items())
