"""Features as int8: the error is at most half a step, and floats are exact and add up exactly."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic_datasets import row

from manifests.report.quantised import READING, error_of
from manifests.shards import ShardFiles, ShardWriter
from manifests.statistics import Summing
from manifests.stored import Stored

FEATURES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 2), st.integers(1, 12), st.just(3)),
    elements=st.floats(-65504, 65504, width=32) | st.floats(-1, 1, width=32) | st.floats(-(2**-17), 2**-17, width=32),
)


def drawn(tracks: int, number: int = 0, frames: int = 640) -> np.ndarray:
    """Return features whose values differ a thousandfold in range, and one that is constant."""
    random = np.random.default_rng(number)
    features = random.normal(size=(tracks, frames, 80)) * np.geomspace(1e-2, 10, 80) + np.linspace(-20, 20, 80)
    features[:, :, 7] = 3.3
    return features.astype(np.float32)


@given(FEATURES)
def test_an_error_is_at_most_half_a_step_and_no_float_is_rounded(features: np.ndarray) -> None:
    stored = Stored.of(features, "int8")
    assert stored.int8 is not None
    scale, offset, rms, largest = stored.int8.astype(np.float64)
    exact = stored.array * scale + offset
    values = stored.values()
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, exact)
    np.testing.assert_array_equal(exact * 2**24, np.rint(exact * 2**24))
    errors = np.abs(features.reshape(exact.shape) - exact)
    assert (errors <= scale / 2).all()
    np.testing.assert_allclose(errors.max(axis=-2, keepdims=True), largest, rtol=1e-6, atol=1e-44)
    np.testing.assert_allclose(np.sqrt(np.square(errors).mean(axis=-2, keepdims=True)), rms, rtol=1e-6, atol=1e-44)
    assert stored.problem() is None
    again = Stored.parse(stored.to_bytes())
    np.testing.assert_array_equal(again.array, stored.array)
    np.testing.assert_array_equal(again.values(), values)


def test_most_of_the_steps_are_used_where_float16_could_tell_them_apart() -> None:
    stored = Stored.of(drawn(1), "int8")
    assert stored.int8 is not None
    extreme, bit = (
        np.abs(stored.array.astype(int)).max(axis=0),
        np.spacing(np.abs(drawn(1)[0]).max(axis=0).astype(np.float16)),
    )
    assert ((extreme >= 125) | (stored.int8[0, 0] <= bit / 2)).all()
    np.testing.assert_allclose(stored.values()[:, 7], 3.3, rtol=2**-12)  # the constant one


def test_the_sums_of_windows_are_the_errors_of_all_of_them() -> None:
    windows = [drawn(1 + number % 2, number, frames=100 + 300 * number) for number in range(4)]
    stored = [Stored.of(features, "int8") for features in windows]
    parts = []
    for some in (stored[:1], stored[1:]):
        summing = Summing()
        for one in some:
            summing.add(one)
        parts.append(summing.statistics())
    forth, back = parts[0], parts[1]
    back.merge(forth)
    errors = np.concatenate(
        [(features - one.values()).reshape(-1, 80) for features, one in zip(windows, stored, strict=True)]
    ).astype(np.float64)
    arrays = back.arrays()
    np.testing.assert_allclose(arrays["int8_rms"], np.sqrt(np.square(errors).mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(arrays["int8_max"], np.abs(errors).max(axis=0), rtol=1e-5)
    whole = np.concatenate([one.values().reshape(-1, 80) for one in stored]).astype(np.float64)
    np.testing.assert_allclose(arrays["mean"], whole.mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(arrays["variance"], whole.var(axis=0), rtol=1e-9, atol=1e-9)
    share = 100 * np.sqrt(
        np.mean(np.square(arrays["int8_rms"][arrays["variance"] > 0]) / arrays["variance"][arrays["variance"] > 0])
    )
    assert f"error is {share:.2g} % over all dimensions" in error_of(arrays)


@pytest.mark.parametrize(
    "damage",
    [
        lambda npy: npy[:-1],
        lambda npy: npy + b"x",
        lambda npy: npy[: len(npy) - 128 - 4 * 4 * 80],
        lambda npy: npy.replace(b"'|i1'", b"'|u1'"),
        lambda npy: npy[:-4] + np.float32(np.nan).tobytes(),
    ],
    ids=["cut", "longer", "without scales", "another dtype", "not finite"],
)
def test_bytes_that_are_no_int8_window_are_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match=r"axes|[Rr]ead|data"):
        Stored.parse(damage(Stored.of(drawn(1), "int8").to_bytes()))


def test_an_impossible_error_is_told() -> None:
    stored = Stored.of(drawn(2), "int8")
    assert stored.int8 is not None
    for place, factor in ((0, 0.5), (0, -1.0), (0, 1.0001), (3, 3.0), (2, 3.0)):
        wrong = stored.int8.copy()
        wrong[place] *= factor
        assert Stored(stored.array, wrong).problem() is not None


@pytest.mark.parametrize("tracks", [1, 2])
def test_four_readers_give_the_floats_by_the_lines_of_the_card(
    tmp_path: Path, tracks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets
    import lhotse
    import webdataset
    import wids

    expected = {}
    known = {"channels": tracks, "uris": ["a.wav"], "sample_rate": 16000, "num_samples": 960000}
    known |= {"channel_relation": "mono", "live_channel": 0}
    writer = ShardWriter(tmp_path, ShardFiles("train", 0), {"encoder": "logmel-x", "dtype": "int8"})
    for number in range(3):
        with writer.recording():
            writer.add(row(number, "train", tracks), known, drawn(tracks, number, frames=80 * (4 + number)), 0.0125)
        expected[row(number, "train", tracks)["window_id"]] = drawn(tracks, number, frames=80 * (4 + number))
    writer.finish()
    tar = str(tmp_path / "train/latents.000000.tar")
    lines = re.findall(r"```python\n(.*?)```", READING, re.DOTALL)[0].splitlines()
    of_tar, of_lhotse, *convert = lines

    def features(array: Any, text_line: str, **names: Any) -> np.ndarray:
        names |= {"np": np, "array": np.asarray(array, np.int8)}
        exec("\n".join([text_line, *convert]), names)
        result: np.ndarray = names["features"]
        return result

    cuts = list(lhotse.CutSet.from_shar(in_dir=str(tmp_path / "train")))
    for cut in cuts:
        lhotse.validate(cut)
        assert cut.load_latents().dtype == np.int8
    found = {"lhotse": {cut.id: features(cut.load_latents(), of_lhotse, cut=cut) for cut in cuts}}
    plain = webdataset.WebDataset([tar], shardshuffle=False).decode()
    found["webdataset"] = {one["__key__"]: features(one["npy"], of_tar, window=one) for one in plain}
    loaded = datasets.load_dataset("webdataset", data_files=[tar], split="train", cache_dir=str(tmp_path / "cache"))
    found["datasets"] = {one["__key__"]: features(one["npy"], of_tar, window=one) for one in loaded}
    indexed = wids.ShardListDataset([{"url": tar, "nsamples": 3}], cache_dir=str(tmp_path / "wids"))
    of_wids = of_tar.replace('"json"', '".json"')
    found["wids"] = {
        one["__key__"]: features(one[".npy"], of_wids, window=one) for one in (indexed[number] for number in range(3))
    }
    for name, by_key in found.items():
        assert list(by_key) == list(expected), name
        for key, given_features in by_key.items():
            stored = Stored.of(expected[key], "int8")
            np.testing.assert_array_equal(given_features, stored.values(), err_msg=name)
            assert np.abs(given_features - expected[key].reshape(given_features.shape)).max() < 0.5


def test_the_manifest_of_an_array_names_its_scales() -> None:
    stored = Stored.of(drawn(2), "int8")
    assert stored.int8 is not None
    two = np.frombuffer(bytes.fromhex(stored.text), "<f2").astype(np.float32).reshape(2, 2, 1, 80)
    np.testing.assert_array_equal(two, stored.int8[:2])
    assert json.loads(json.dumps(stored.text)) == stored.text
    assert Stored.of(drawn(2), "float16").text == ""
    assert np.load(io.BytesIO(stored.to_bytes())).dtype == np.int8


def test_the_document_has_the_lines_of_the_card() -> None:
    document = (Path(__file__).parents[2] / "docs/encoders.md").read_text()
    assert re.findall(r"```python\n.*?```", READING, re.DOTALL)[0] in document
