"""Every encoder through the production path: recordings to shards of latents, by tiny models in local folders.

Weights of real codecs lie on hubs, which the tests do not reach: the models have random ones (tiny_models.py).
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import av
import lhotse
import numpy as np
import pytest
import soundfile
import torch
from forked import speechmill
from small_runs import conversation
from test_growth import mill_all as mill
from test_several import shards
from tiny_models import TINY

from manifests import choice
from manifests.lake import Lake
from manifests.verify import verify
from pipelines import encode
from pipelines.audio.resample import resampled
from pipelines.commands.report import _encoder_of
from pipelines.commands.snippets import RoundTrips
from pipelines.recipes import recipe as recipes
from runtime.batches import reproducible

FEW = ["mimi", "oobleck", "wavlm"]
"""A causal one, one that looks ahead at a rate without a common grid, and one that depends on its window."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, tiny in TINY.items():
        torch.manual_seed(0)
        tiny.save(folder / name)
    return {name: folder / name for name in TINY}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversation of one track, and one with a speaker on each of two."""
    folder = tmp_path_factory.mktemp("latents") / "in"
    folder.mkdir()
    speech, rate = conversation()
    speech = speech[: 17 * rate]  # two windows
    soundfile.write(folder / "room.wav", speech, rate)
    soundfile.write(folder / "call.wav", np.stack([speech, np.roll(speech[::-1], 5 * rate)], 1), rate)
    return folder


def recipe_of(models: dict[str, Path], names: list[str]) -> dict[str, Any]:
    tables = {
        name: {"encoder": TINY[name].encoder, "model": str(models[name]), "on_grid": False, **TINY[name].settings}
        for name in names
    }
    return {
        "name": "tiny",
        "annotate": {"vad": {}},
        "select": {"context_s": 2.0, "continuation_s": 6.0},
        "encode": {"shard_mb": 5.0, "logmel": {}, **tables},
    }


@pytest.mark.slow
def test_each_encoder_fills_its_dataset_with_the_frames_of_its_model(
    models: dict[str, Path], sound: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(models, list(TINY))
    made = mill(tmp_path / "lake", sound, recipe)
    assert [one.dataset for one in made] == ["tiny-logmel", *(f"tiny-{name}" for name in TINY)]
    configs = recipes.parse(recipe).encoders
    samples, rate = soundfile.read(sound / "room.wav", dtype="float32")
    for name, tiny in TINY.items():
        root = tmp_path / "lake/datasets" / f"tiny-{name}"
        encoder = configs[name].load()
        rate_out, hop, dim = tiny.grid
        assert (encoder.sample_rate, encoder.hop_samples, encoder.dim) == tiny.grid
        assert not [problem for problem in verify(Lake.at(str(tmp_path / "lake")), root.name) if not problem.note]
        cuts = list(lhotse.CutSet.from_shar(in_dir=str(root / "train")))
        calls = list(lhotse.CutSet.from_shar(in_dir=str(root / "train.2tracks")))
        frames = int(8 * rate_out / hop + 1e-9)
        assert {cut.load_latents().shape for cut in cuts} == {(frames, dim)}, name
        assert {cut.load_latents().shape for cut in calls} == {(2, frames, dim)}, name
        if not encoder.local:
            continue
        whole = np.concatenate(list(resampled([samples[None]], rate, rate_out)), axis=1)
        with torch.inference_mode(), reproducible(1):
            expected = tiny.call(models[name], torch.from_numpy(whole))[0].numpy()
        off = encoder.tolerance * expected.std() + 1e-3 * np.abs(expected).max()  # float16 keeps three digits
        for cut in cuts:
            first = round(cut.start * rate_out / hop)
            assert np.abs(cut.load_latents() - expected[first : first + frames]).max() < off, name


def test_the_report_plays_what_a_codec_keeps(models: dict[str, Path], sound: Path, tmp_path: Path) -> None:
    """A dataset of its latents names the encoder, whose own decoder makes the sound."""
    mill(tmp_path / "lake", sound, recipe_of(models, ["mimi"]))
    lake = Lake.at(str(tmp_path / "lake"))
    encoder = _encoder_of(lake, "tiny-mimi")
    assert encoder is not None
    (batch,) = lake.batches()
    (folder,) = [name for name in choice.folders(lake, "annotations") if name.startswith("signal-")]
    signal = lake.read(f"annotations/{folder}/{batch}.parquet").to_pylist()
    for row in lake.read(lake.recordings_key(batch)).to_pylist():
        (measured,) = [one for one in signal if one["recording_id"] == row["recording_id"]]
        told = RoundTrips(encoder, 1)(row | measured, 8.0)
        assert told["decoded_label"] == "The first 5.0 s, decoded from mimi features"
        decoded, rate = av_read(base64.b64decode(told["decoded"]))
        assert decoded.shape[0] == measured["tracks"]
        assert decoded.shape[1] / rate == pytest.approx(62 / 12.5, abs=0.05)
        assert np.abs(decoded).max() > 0


@pytest.mark.slow
def test_latents_do_not_depend_on_workers_or_kills(
    models: dict[str, Path], sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(models, FEW)
    mill(tmp_path / "whole", sound, recipe)
    text = "\n".join(
        f"[encode.{name}]\n" + "\n".join(f"{key} = {_toml(value)}" for key, value in recipe["encode"][name].items())
        for name in FEW
    )
    (tmp_path / "recipe.toml").write_text(
        'name = "tiny"\n[annotate.vad]\n[select]\ncontext_s = 2.0\ncontinuation_s = 6.0\n[encode]\nshard_mb = 5.0\n'
        f"[encode.logmel]\n{text}\n"
    )
    words = [
        "run",
        str(tmp_path / "recipe.toml"),
        "--in",
        str(sound),
        "--lake",
        str(tmp_path / "two"),
        "--workers",
        "2",
    ]
    done = speechmill(*words, "--workers", "2")
    assert done.returncode == 0, done.stderr
    commit = encode.ShardEncoder._commit

    def killed(self: Any, dataset: str, *given: Any) -> None:
        if dataset == "tiny-oobleck":
            raise KeyboardInterrupt
        commit(self, dataset, *given)

    with monkeypatch.context() as patch:
        patch.setattr(encode.ShardEncoder, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            mill(tmp_path / "killed", sound, recipe)
    mill(tmp_path / "killed", None, recipe)
    for name in ("logmel", *FEW):
        expected = shards(tmp_path / "whole", f"tiny-{name}")
        assert shards(tmp_path / "two", f"tiny-{name}") == expected
        assert shards(tmp_path / "killed", f"tiny-{name}") == expected


def av_read(data: bytes) -> tuple[np.ndarray, int]:
    """The channels of a file of sound, float32 (channels, samples), and its rate."""
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        return np.concatenate(frames, axis=1), container.streams.audio[0].rate


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
