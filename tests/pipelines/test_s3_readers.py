"""The readers of shards stream a dataset straight from its bucket; each by the lines that docs/lake.md gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_s3_run import calls  # noqa: F401 (a fixture)

from manifests.storage import open_storage
from manifests.storage.local import LocalStorage


@pytest.fixture
def root(calls: tuple[Path, dict[str, str]], bucket: str) -> str:  # noqa: F811
    """URL of a dataset in a bucket."""
    folder, _ = calls
    lake, there = LocalStorage(folder / "lake"), open_storage(f"s3://{bucket}")
    for key in lake.list("datasets/calls"):
        there.put(key, lake.read(key))
    return f"s3://{bucket}/datasets/calls"


def test_lhotse_webdataset_and_datasets_stream_the_same_windows(root: str) -> None:
    fields = json.loads(open_storage(root).read("fields.json"))["train"]

    import lhotse

    cuts = lhotse.CutSet.from_shar(fields={name: [f"{root}/{path}" for path in fields[name]] for name in fields})
    expected = {cut.id: cut.load_latents() for cut in cuts}
    assert len(expected) == 18
    assert {array.shape for array in expected.values()} == {(640, 80)}

    import smart_open
    import webdataset
    from webdataset.gopen import gopen_schemes

    gopen_schemes["s3"] = lambda url, mode, bufsize: smart_open.open(url, mode)
    samples = webdataset.WebDataset([f"{root}/{path}" for path in fields["latents"]], shardshuffle=False).decode()
    found = {sample["__key__"]: sample["npy"] for sample in samples}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in found)

    import datasets

    from manifests.storage import filesystem

    filesystem.register()
    rows = datasets.load_dataset("webdataset", data_files=f"{root}/train/latents.*.tar", split="train", streaming=True)
    found = {row["__key__"]: np.array(row["npy"]) for row in rows}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in found)
