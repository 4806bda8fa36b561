"""docs/reading.md joins what plain readers yield with what is known of each window; each of its lines is run."""

import re
import shutil
from pathlib import Path
from typing import Any

import lhotse
import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.lake import Lake
from manifests.shards import ShardFiles, committed

DOCUMENT = Path(__file__).parents[2] / "docs/reading.md"
DATASET = "lake/datasets/demo"


@pytest.fixture
def shards(milled: Lake, tmp_path: Path) -> list[ShardFiles]:
    """The shards of one track, which are all that Hugging Face datasets can read together, in a lake of their own."""
    root = Path(milled.storage.root, "datasets/set")
    found = []
    for shard in committed(milled.storage, "set"):
        if set(pq.read_table(root / shard.windows)["tracks"].to_pylist()) == {1}:
            found.append(shard)
            for name in (shard.windows, shard.cuts, shard.latents):
                (tmp_path / DATASET / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, tmp_path / DATASET / name)
    assert found
    return found


@pytest.fixture
def joined(shards: list[ShardFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the lines of the document define."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    numbers = [f"{shard.shard:06d}" for shard in shards]
    braces = numbers[0] if len(numbers) == 1 else "{" + ",".join(numbers) + "}"
    for block in blocks:
        exec(re.sub(r"\{0+\.\.\d+\}", braces, block), names)
    names["arrays"] = {cut.id: cut.load_latents() for cut in lhotse.CutSet.from_shar(in_dir=f"{DATASET}/train")}
    return names


def test_each_reader_yields_what_is_known_of_its_windows(joined: dict[str, Any]) -> None:
    arrays = joined["arrays"]
    for name in ("samples", "rows"):
        found = {one["__key__"]: one for one in joined[name]}
        assert found.keys() == arrays.keys()
        for key, one in found.items():
            assert np.array_equal(np.asarray(one["npy"], np.float16), arrays[key])
            assert one["context_frames"] + one["continuation_frames"] == len(arrays[key])
            assert (one["source"], one["licence"], one["num_speakers"]) == ("sample", "MIT", 1)
            assert one["recording_id"] == key.partition("-")[0]


def test_lhotse_yields_the_same_beside_what_its_cuts_hold(joined: dict[str, Any]) -> None:
    cuts = {cut.id: cut for cut in joined["cuts"]}
    assert cuts.keys() == joined["arrays"].keys()
    for cut in cuts.values():
        assert cut.about == joined["about"][cut.id]
        assert cut.about["context_frames"] == round(cut.context_s / 0.0125)
        assert (cut.custom["source"], cut.custom["licence"]) == ("sample", "MIT")
        assert {turn.speaker for turn in cut.supervisions} == {"SPEAKER_00"}


def test_the_table_of_a_shard_lists_its_windows_in_order(joined: dict[str, Any], shards: list[ShardFiles]) -> None:
    names = [row["window_id"] for shard in shards for row in pq.read_table(f"{DATASET}/{shard.windows}").to_pylist()]
    assert names == [one["__key__"] for one in joined["samples"]]
