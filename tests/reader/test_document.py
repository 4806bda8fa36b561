"""docs/reader.md: its example is run on real speech that was milled by the path of production."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from small_runs import make_input, run_command

from manifests.lake import Lake
from speechmill.reader import Reader, Source

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with the dataset `demo`, of four recordings of 30 s."""
    folder = tmp_path_factory.mktemp("milled")
    make_input(folder, 4)
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('name = "cheap"', 'name = "demo"'))
    subprocess.run(run_command(folder, folder / "lake"), check=True, cwd=ROOT)
    return Lake.at(str(folder / "lake"))


def test_the_example_runs_and_the_resumed_epoch_has_the_tokens_of_the_ledger(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(lake.storage.root).parent)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reader.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    ledger = lake.read("datasets/demo/ledger.parquet")
    ledger = ledger.filter(pc.and_(pc.equal(ledger["patch"], 4), pc.equal(ledger["split"], "train")))
    told = {
        name: pc.sum(ledger[name]).as_py() for name in ("windows", "frames", "context_tokens", "continuation_tokens")
    }
    assert names["resumed"].counts() == {"demo": {"train": told | {"unpaired": 0}}}
    assert str(told["context_tokens"]) in capsys.readouterr().out
    assert names["batch"]["context"].shape == (2, 1, 40, 320)
    assert len(names["rest"]) * 2 + 6 >= told["windows"]


def test_features_are_those_that_lhotse_reads(lake: Lake) -> None:
    import lhotse

    stored = {cut.id: cut for cut in lhotse.CutSet.from_shar(in_dir=f"{lake.storage.root}/datasets/demo/train")}
    samples = list(Reader(Source(lake, "demo", dtype="float16")))
    assert {sample["id"] for sample in samples} == stored.keys()
    for sample in samples:
        joined = np.concatenate([sample["context"][0].numpy(), sample["continuation"][0].numpy()])
        np.testing.assert_array_equal(joined, stored[sample["id"]].load_latents())
        assert sample["context"].shape[1] == round(stored[sample["id"]].context_s / 0.0125)
