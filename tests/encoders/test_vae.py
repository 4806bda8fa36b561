"""Our own VAE: trained on the shards of a lake, interrupted, and used as the encoder of further shards."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from forked import speechmill
from lhotse import CutSet
from small_runs import encode_dataset
from test_cli import ROOT

import encoders
from encoders.base import WindowSound
from encoders.logmel import LogMel
from encoders.vae import Vae, VaeConfig
from encoders.vae_network import WEIGHTS, VaeShape
from manifests.lake import Lake
from manifests.select import select
from manifests.selection import Selection
from pipelines.annotate import Annotator
from pipelines.commands.vae_training import Trainer, Training, Windows
from pipelines.ingest import ingest
from pipelines.recipes.recipe import EncodeConfig, IngestConfig
from pipelines.stages.vad import Vad, VadConfig
from runtime.errors import SpeechmillError

TINY = {"width": 16, "dim": 6}
SETTINGS = {"steps": 60, "batch": 4, "crop_frames": 80, "learning_rate": 0.01, "checkpoint_steps": 20}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, conversation: Path) -> Lake:
    """Log-mel features of three recordings, one with two tracks; its selection is "s"."""
    folder = tmp_path_factory.mktemp("in")
    speech, rate = soundfile.read(conversation, dtype="int16")
    for n in range(2):
        soundfile.write(folder / f"{n}.wav", np.roll(speech, n * rate), rate)
    soundfile.write(folder / "two.wav", np.stack([speech, np.roll(speech[::-1], 5 * rate)], 1), rate)
    lake = Lake.at(str(tmp_path_factory.mktemp("lake")))
    ingest(lake, [str(folder)], IngestConfig())
    annotator = Annotator(lake, [Vad(VadConfig())])
    for batch in lake.batches():
        annotator.annotate(batch)
    select(lake, Selection("s", annotator.fingerprints, context_s=2, continuation_s=6))
    encode_dataset(lake, "features", "s", annotator.fingerprints["signal"], EncodeConfig())
    return lake


@pytest.fixture(scope="module")
def trainer(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    windows = Windows(lake, "features")
    folder = tmp_path_factory.mktemp("models") / "vae"
    trainer = Trainer(windows, VaeShape(windows.logmel, **TINY), Training(**SETTINGS), folder, "cpu")
    trainer.run()
    return trainer


@pytest.fixture(scope="module")
def sound(conversation: Path) -> np.ndarray:
    """The conversation at 24 kHz, float32 (1, samples), from where both talk."""
    import soxr

    speech, rate = soundfile.read(conversation, start=7 * 16_000, frames=12 * 16_000, dtype="float32")
    return soxr.resample(speech, rate, 24_000)[None]


def test_the_loss_falls_and_is_kept_and_drawn(trainer: Trainer) -> None:
    rows = [json.loads(line) for line in (trainer.state / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 61))
    errors = [row["error_nepers"] for row in rows]
    assert np.mean(errors[-10:]) < 0.6 * np.mean(errors[:5])
    assert (trainer.state / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_killed_and_continued_it_is_as_if_undisturbed(lake: Lake, trainer: Trainer, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    words = [f"--set={key}={value}" for key, value in (TINY | SETTINGS).items()]
    command = [
        "encoder",
        "train",
        lake.storage.root,
        "-o",
        str(folder),
        "--dataset",
        "features",
        "--device",
        "cpu",
        *words,
    ]
    first = subprocess.Popen(
        [sys.executable, "-m", "pipelines.commands", *command], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    while first.poll() is None and not (folder / "training/checkpoint.safetensors").is_file():
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert len((folder / "training/losses.jsonl").read_text().splitlines()) < 60
    done = speechmill(*command)
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout
    for name in (WEIGHTS, "config.json", "training/losses.jsonl", "training/checkpoint.safetensors"):
        assert (folder / name).read_bytes() == (trainer.folder / name).read_bytes(), name
    known = trainer.windows, trainer.shape
    assert Trainer(*known, Training(**SETTINGS), folder, "cpu").done == 60  # and nothing is left to do
    with pytest.raises(SpeechmillError, match=r"trained with other settings: beta = 0\.001"):
        Trainer(*known, Training(**SETTINGS, beta=0.5), folder, "cpu")
    other = dataclasses.replace(trainer.shape, dilations=(1, 2))
    with pytest.raises(SpeechmillError, match=r"other settings: dilations = \[1, 2, 4\]"):
        Trainer(trainer.windows, other, Training(**SETTINGS), folder, "cpu")


def test_windows_give_the_frames_of_the_whole_recording(trainer: Trainer, sound: np.ndarray) -> None:
    vae = Vae(VaeConfig(str(trainer.folder)))
    assert (vae.causal, vae.sample_rate, vae.hop_samples, vae.dim, vae.frame_rate) == (True, 24_000, 1200, 6, 20.0)
    total = vae.frames(sound.shape[1])
    (whole,) = vae.encode([vae.cut(sound, 0, total)])
    assert (whole.shape, whole.dtype) == ((1, total, 6), np.float32)
    reach = vae.look_back_samples // vae.hop_samples
    for first, frames in [(0, 7), (1, 20), (reach, 30), (reach + 13, 50), (total - 5, 5), (total, 0)]:
        (part,) = vae.encode([vae.cut(sound, first, frames)])
        np.testing.assert_allclose(part, whole[:, first : first + frames], atol=vae.tolerance)
    (again,) = vae.encode([vae.cut(sound, 0, total)])
    np.testing.assert_array_equal(again, whole)
    # Less sound before a window than it asks for changes it: the reach is not too large by far.
    first = reach + 20
    short = vae.cut(sound, first, 10)
    less = short.before // 2 // vae.hop_samples * vae.hop_samples
    (off,) = vae.encode([WindowSound(short.sound[:, less:], short.before - less, 10)])
    assert np.abs(off - whole[:, first : first + 10]).max() > 10 * vae.tolerance


def test_no_frame_depends_on_what_comes_after_it(trainer: Trainer, sound: np.ndarray) -> None:
    vae = Vae(VaeConfig(str(trainer.folder)))
    changed = sound.copy()
    changed[:, 100 * vae.hop_samples :] = 0.3
    one, other = (vae.encode([vae.cut(given, 0, 150)])[0] for given in (sound, changed))
    np.testing.assert_allclose(one[:, :100], other[:, :100], atol=vae.tolerance)
    assert np.abs(one[:, 100] - other[:, 100]).max() > 0.01


def test_decoded_features_lie_where_the_sound_does(trainer: Trainer, sound: np.ndarray) -> None:
    vae = Vae(VaeConfig(str(trainer.folder)))
    (latents,) = vae.encode([vae.cut(sound, 0, 200)])
    logmel = LogMel()
    (features,) = logmel.encode([logmel.cut(sound, 0, 800)])
    decoded = vae.decode_logmel(latents)
    assert decoded.shape == features.shape
    off = {late: np.abs(np.roll(decoded, late, axis=1) - features).mean() for late in range(-4, 5)}
    assert abs(min(off, key=lambda late: off[late])) <= 1, off
    assert vae.decode(latents[:, :8]).shape == (1, 8 * 1200)


def test_its_shards_are_made_as_those_of_any_encoder(lake: Lake, trainer: Trainer) -> None:
    config = EncodeConfig(encoder="vae", settings={"model": str(trainer.folder)})
    mark = next(iter(Path(lake.storage.root).glob("annotations/signal-*"))).name.removeprefix("signal-")
    worker = encode_dataset(lake, "latents", "s", mark, config)
    folders = sorted((Path(lake.storage.root) / "datasets/latents").glob("train*"))
    cuts = [cut for folder in folders for cut in CutSet.from_shar(in_dir=str(folder))]
    assert {cut.load_latents().shape for cut in cuts} == {(160, 6), (2, 160, 6)}
    cut = next(cut for cut in cuts if cut.start > 0 and cut.load_latents().ndim == 2)
    import soxr

    recording, rate = soundfile.read(cut.recording.sources[0].source, dtype="float32")
    whole = soxr.resample(recording, rate, 24_000)[None]
    encoder = worker.targets["latents"].encoder
    (expected,) = encoder.encode([encoder.cut(whole, round(cut.start * 20), 160)])
    np.testing.assert_allclose(cut.load_latents(), expected[0], rtol=1e-3, atol=1e-3)  # stored as float16
    with pytest.raises(SpeechmillError, match="the dataset latents holds features of the encoder vae-"):
        Windows(lake, "latents")


def test_the_fingerprint_is_that_of_the_model_alone(trainer: Trainer, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trainer.folder, copy)
    shutil.rmtree(copy / "training")
    known = Vae(VaeConfig(str(trainer.folder)))
    assert Vae(VaeConfig(str(copy))).model_hashes() == known.model_hashes()
    assert known.fingerprint == Vae(VaeConfig(str(trainer.folder), device="auto")).fingerprint
    weights = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert Vae(VaeConfig(str(copy))).model_hashes() != known.model_hashes()


def test_what_is_no_model_or_no_log_mel_dataset_is_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set model to a folder"):
        encoders.load("vae", {})
    with pytest.raises(SpeechmillError, match="holds no VAE"):
        encoders.load("vae", {"model": str(tmp_path)})
    windows = Windows(lake, "features")
    long = Trainer(windows, VaeShape(windows.logmel, **TINY), Training(crop_frames=9999), tmp_path / "m", "cpu")
    with pytest.raises(SpeechmillError, match="has 640 frames, fewer than crop_frames") as caught:
        long.run()
    assert caught.value.remedy == "--set crop_frames=640"
    done = speechmill(
        "encoder", "train", lake.storage.root, "-o", str(tmp_path / "n"), "--dataset=features", "--set=widht=3"
    )
    assert (done.returncode, "no setting 'widht'" in done.stderr) == (1, True), done.stderr
