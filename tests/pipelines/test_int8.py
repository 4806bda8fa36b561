"""A dataset as int8: half the bytes, floats from the reader, its error in statistics and card; changes keep it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from test_growth import RECIPE, Sound
from test_growth import mill_all as mill

from manifests.amend import drop_recordings
from manifests.lake import Lake
from manifests.shards import ShardFiles, committed
from manifests.verify import verify
from pipelines.recipes import recipe as recipes
from runtime.errors import RecipeError
from speechmill.reader import Reader, Source

TABLES = {"whole": {"encoder": "logmel"}, "small": {"encoder": "logmel", "dtype": "int8"}}


def recipe(**encode: object) -> dict:
    return RECIPE | {"encode": {"shard_mb": 0.3, **encode}}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    sound = Sound(tmp_path_factory.mktemp("sound") / "in")
    sound.add(3)
    root = tmp_path_factory.mktemp("lake")
    mill(root, sound.folder, recipe(**TABLES))
    return Lake.at(str(root))


def problems(lake: Lake, dataset: str) -> list[str]:
    return [str(problem) for problem in verify(lake, dataset) if not problem.note]


def statistics(lake: Lake, dataset: str) -> dict[str, np.ndarray]:
    return safetensors.numpy.load(lake.storage.read(f"datasets/{dataset}/stats.safetensors"))


def test_the_reader_gives_floats_that_differ_by_the_stated_error(lake: Lake) -> None:
    exact = {one["id"]: one for one in Reader(Source(lake, "cheap-whole"))}
    samples = {one["id"]: one for one in Reader(Source(lake, "cheap-small"))}
    assert exact.keys() == samples.keys()
    assert len(exact) > 5
    told, plain = statistics(lake, "cheap-small"), statistics(lake, "cheap-whole")
    parts = ("context", "continuation")
    errors = np.concatenate([(exact[key][part] - samples[key][part])[0].numpy() for key in exact for part in parts])
    rms = np.sqrt(np.square(errors.astype(np.float64)).mean(axis=0))
    # Beside it is the rounding to float16, in steps of 2^-6 for features between 16 and 32.
    assert (0.97 * told["int8_rms"] < rms).all()
    assert (rms < np.hypot(1.03 * told["int8_rms"], 2**-6 / np.sqrt(12))).all()
    assert (told["int8_rms"] < 0.02 * np.sqrt(plain["variance"])).all()
    np.testing.assert_allclose(told["mean"], plain["mean"], atol=2e-3)
    assert "int8_rms" not in plain
    normalised = next(iter(Reader(Source(lake, "cheap-small", normalise=True))))
    assert normalised["context"].abs().mean() < 3


def test_shards_have_half_the_bytes(lake: Lake) -> None:
    sizes = {
        name: lake.read(f"datasets/{name}/shards.parquet")["array_bytes"] for name in ("cheap-whole", "cheap-small")
    }
    whole, small = (sum(size.to_pylist()) for size in sizes.values())
    assert 0.5 < small / whole < 0.53


def test_the_card_tells_the_error_and_how_to_read(lake: Lake) -> None:
    card = lake.storage.read("datasets/cheap-small/README.md").decode()
    assert "stored as int8" in card
    assert "Relative to the standard deviation" in card
    assert "int8" not in lake.storage.read("datasets/cheap-whole/README.md").decode()


def test_verify_recounts_it_and_names_what_is_wrong(lake: Lake) -> None:
    assert problems(lake, "cheap-small") == []
    key = "datasets/cheap-small/" + next(committed(lake.storage, "cheap-small")).commit
    before = lake.storage.read(key)
    try:
        commit = json.loads(before)
        commit["statistics"]["error_square"][3] += 1
        lake.storage.put(key, json.dumps(commit).encode())
        assert any("its statistics are not those of its shard" in problem for problem in problems(lake, "cheap-small"))
        commit = json.loads(before)
        del commit["fingerprints"]["dtype"]
        lake.storage.put(key, json.dumps(commit).encode())
        assert any("dtype int8, but its commit says float16" in problem for problem in problems(lake, "cheap-small"))
    finally:
        lake.storage.put(key, before)


def test_a_dataset_of_other_windows_copies_the_bytes_and_withdrawal_keeps_them(lake: Lake) -> None:
    def arrays(dataset: str) -> dict[str, bytes]:
        found = {}
        for shard in committed(lake.storage, dataset):
            tar = lake.storage.read(f"datasets/{dataset}/{shard.latents}")
            for row in lake.read(f"datasets/{dataset}/{shard.windows}").to_pylist():
                found[row["window_id"]] = tar[row["array_offset"] : row["array_offset"] + row["array_bytes"]]
        return found

    (again,) = mill(Path(lake.storage.root), None, recipe(encoder="logmel", dtype="int8", seed=5))
    assert arrays(again.dataset) == arrays("cheap-small") != {}
    assert problems(lake, again.dataset) == []
    files: ShardFiles = next(committed(lake.storage, again.dataset))
    gone = lake.read(f"datasets/{again.dataset}/{files.windows}")["recording_id"][0].as_py()
    before = arrays(again.dataset)
    assert again.dataset in drop_recordings(lake, frozenset([gone]))
    assert arrays(again.dataset) == {key: npy for key, npy in before.items() if not key.startswith(gone)}
    (missing,) = problems(lake, again.dataset)
    assert "are in no committed shard" in missing  # the selection has not been made again
    assert (statistics(lake, again.dataset)["int8_rms"] > 0).all()


def test_another_dtype_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"float16, int8, not 'int4'"):
        recipes.parse(recipe(encoder="logmel", dtype="int4"))
