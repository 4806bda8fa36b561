"""The log-mel encoder agrees with librosa and torchaudio, and a frame does not depend on what it was computed with."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

import encoders
from encoders.base import WindowSound
from encoders.logmel import BLOCK_FRAMES, LogMel, LogMelSettings
from encoders.logmel_torch import ROW_FRAMES
from encoders.mel import LogMelConfig, hann, mel_filters
from runtime.errors import MissingExtraError

HOP = LogMelConfig().hop_samples
SETTINGS = {
    "paper": LogMelConfig(),
    "16 kHz": LogMelConfig(
        sample_rate=16_000, n_fft=512, window_samples=400, hop_samples=160, num_mels=40, fmin_hz=20.0, fmax_hz=8000.0
    ),
    "odd window": LogMelConfig(n_fft=1024, window_samples=1001, hop_samples=256, num_mels=24, floor=1e-5),
}


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """30 s of a real conversation at 24 kHz, float32 (1, samples): the sample inside the pyannote.audio package."""
    # Found without an import: importing pyannote.audio.sample decodes it through torchcodec.
    package = importlib.util.find_spec("pyannote")
    for folder in (package.submodule_search_locations or []) if package else []:
        path = Path(folder) / "audio" / "sample" / "sample.wav"
        if path.exists():
            sound, rate = soundfile.read(path, dtype="float32")
            return soxr.resample(sound, rate, 24_000)[None, : 30 * 24_000]
    pytest.skip("pyannote.audio is not installed")


def sounds(speech: np.ndarray) -> dict[str, np.ndarray]:
    noise = (0.1 * np.random.default_rng(0).standard_normal(speech.shape)).astype(np.float32)
    narrow = soxr.resample(soxr.resample(speech[0], 24_000, 8_000), 8_000, 24_000)[None, : speech.shape[1]]
    gap = speech.copy()
    gap[:, 100_000:200_000] = 0.0
    return {"speech": speech, "noise": noise, "telephone": narrow, "faint": speech * np.float32(1e-4), "gap": gap}


def encode_all(encoder: LogMel, sound: np.ndarray) -> np.ndarray:
    """All whole frames of a recording, float32 (channels, frames, dim)."""
    frames = encoder.frames(sound.shape[1])
    return encoder.encode([encoder.cut(sound[:, : frames * encoder.hop_samples], 0, frames)])[0]


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_filters_are_those_of_librosa(config: LogMelConfig) -> None:
    librosa = pytest.importorskip("librosa")
    theirs = librosa.filters.mel(
        sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.num_mels, fmin=config.fmin_hz, fmax=config.fmax_hz
    )
    ours = mel_filters(config)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7 * theirs.max())


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_agrees_with_librosa_everywhere(config: LogMelConfig, speech: np.ndarray) -> None:
    librosa = pytest.importorskip("librosa")
    encoder = LogMel(config)
    for name, sound in sounds(speech).items():
        ours = encode_all(encoder, sound)[0]
        whole = sound[0, : len(ours) * config.hop_samples]
        magnitudes = librosa.feature.melspectrogram(
            y=whole,
            sr=config.sample_rate,
            n_fft=config.n_fft,
            win_length=config.window_samples,
            hop_length=config.hop_samples,
            n_mels=config.num_mels,
            fmin=config.fmin_hz,
            fmax=config.fmax_hz,
            power=1.0,
            center=True,
            pad_mode="constant",
        )
        theirs = np.log(np.maximum(magnitudes, config.floor)).T[: len(ours)]
        assert np.abs(ours - theirs).max() < 1e-4, name


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_agrees_with_torchaudio_everywhere(config: LogMelConfig, speech: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    torchaudio = pytest.importorskip("torchaudio")
    encoder = LogMel(config)
    # In double: torchaudio's own float32 is off by up to 4e-4 on speech and 1 on telephone speech, where a quiet
    # bin lies below the rounding of a loud one.
    melspectrogram = torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate,
        n_fft=config.n_fft,
        win_length=config.window_samples,
        hop_length=config.hop_samples,
        f_min=config.fmin_hz,
        f_max=config.fmax_hz,
        n_mels=config.num_mels,
        power=1.0,
        norm="slaney",
        mel_scale="slaney",
        center=True,
        pad_mode="constant",
        wkwargs={"dtype": torch.float64},
    ).double()
    for name, sound in sounds(speech).items():
        ours = encode_all(encoder, sound)[0]
        whole = torch.from_numpy(sound[0, : len(ours) * config.hop_samples]).double()
        theirs = melspectrogram(whole).clamp_min(config.floor).log().T.numpy()[: len(ours)]
        assert np.abs(ours - theirs).max() < 1e-4, name


def test_agrees_with_torchaudio_in_float32_on_noise(speech: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    torchaudio = pytest.importorskip("torchaudio")
    noise = sounds(speech)["noise"]
    ours = encode_all(LogMel(), noise)[0]
    melspectrogram = torchaudio.transforms.MelSpectrogram(
        24_000,
        2048,
        1200,
        300,
        80.0,
        7600.0,
        n_mels=80,
        power=1.0,
        norm="slaney",
        mel_scale="slaney",
        pad_mode="constant",
    )
    theirs = melspectrogram(torch.from_numpy(noise[0])).clamp_min(1e-10).log().T.numpy()[: len(ours)]
    assert np.abs(ours - theirs).max() < 1e-4


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 2),
    start=st.integers(0, 150),
    length=st.integers(1, 3 * BLOCK_FRAMES),
    others=st.lists(st.integers(1, 100), max_size=3),
)
def test_a_window_gives_the_same_bits_alone_in_company_and_cut_from_a_recording(
    seed: int, channels: int, start: int, length: int, others: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    encoder = LogMel()
    total = 150 + 3 * BLOCK_FRAMES
    sound = (0.1 * rng.standard_normal((channels, total * HOP))).astype(np.float32)
    window = encoder.cut(sound, start, length)
    alone = encoder.encode([window._replace(sound=window.sound.copy())])[0]
    assert alone.shape == (channels, length, 80)
    assert alone.dtype == np.float32

    company = [WindowSound(rng.standard_normal((1, n * HOP)).astype(np.float32), 0, n) for n in others]
    together = encoder.encode([*company, window, *company])
    np.testing.assert_array_equal(together[len(company)], alone)
    np.testing.assert_array_equal(LogMel().encode([window._replace(sound=window.sound[:1])])[0], alone[:1])

    # The frames of the recording itself: windows that meet leave no seam.
    np.testing.assert_array_equal(encode_all(encoder, sound)[:, start : start + length], alone)


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_the_number_of_threads_does_not_change_a_bit(config: LogMelConfig, speech: np.ndarray) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    encoder = LogMel(config)
    with threadpoolctl.threadpool_limits(1):
        one = encode_all(encoder, speech)
    with threadpoolctl.threadpool_limits(2):
        two = encode_all(encoder, speech)
    np.testing.assert_array_equal(one, two)


def test_frame_t_is_centred_on_sample_t_times_hop() -> None:
    sound = np.zeros((1, 100 * HOP), np.float32)
    sound[0, 40 * HOP] = 1.0
    loudness = encode_all(LogMel(), sound)[0].max(axis=1)
    assert int(loudness.argmax()) == 40
    # Hann is symmetric about its centre and 0 at 600 samples, two hops away.
    assert loudness[39] == pytest.approx(loudness[41], abs=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(loudness > math.log(2e-10)), [39, 40, 41])


def test_silence_is_the_floor() -> None:
    features = encode_all(LogMel(), np.zeros((2, 10 * HOP), np.float32))
    assert features.shape == (2, 10, 80)
    np.testing.assert_allclose(features, math.log(1e-10), rtol=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 321, 512, 1200, 1024])
def test_the_hann_window_is_that_of_scipy_to_the_bit(samples: int) -> None:
    np.testing.assert_array_equal(hann(samples), scipy.signal.get_window("hann", samples))


def test_commands_do_not_wait_for_scipy_signal() -> None:
    program = (
        "import sys, pipelines.run, pipelines.stages.quality, encoders.logmel; print('scipy.signal' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_a_window_of_no_frames_gives_none() -> None:
    assert LogMel().encode([WindowSound(np.zeros((1, 2048), np.float32), 1024, 0)])[0].shape == (1, 0, 80)
    assert LogMel().encode([]) == []


@pytest.mark.parametrize(
    "window",
    [
        WindowSound(np.zeros(300, np.float32), 0, 1),
        WindowSound(np.zeros((1, 300)), 0, 1),
        WindowSound(np.zeros((1, 299), np.float32), 0, 1),
        WindowSound(np.zeros((1, 300), np.float32), 1, 1),
        WindowSound(np.zeros((1, 2048), np.float32), 1025, 1),
        WindowSound(np.zeros((1, 2048), np.float32), -1, 1),
        WindowSound(np.zeros((1, 1325), np.float32), 0, 1),
        WindowSound(np.zeros((1, 1025), np.float32), 0, -1),
    ],
    ids=["axes", "float64", "part of a frame", "lacks one", "too much before", "negative", "too much after", "frames"],
)
def test_a_malformed_window_is_refused(window: WindowSound) -> None:
    with pytest.raises(ValueError, match="logmel: "):
        LogMel().encode([window])


def test_a_window_at_an_edge_of_a_recording_is_one_with_silence_beyond(speech: np.ndarray) -> None:
    encoder = LogMel()
    inside = encoder.cut(np.pad(speech[:, : 10 * HOP], ((0, 0), (4 * HOP, 4 * HOP))), 4, 10)
    np.testing.assert_array_equal(encode_all(encoder, speech[:, : 10 * HOP]), encoder.encode([inside])[0])


def test_contract_of_the_defaults() -> None:
    encoder = encoders.load("logmel", {})
    assert (encoder.name, encoder.sample_rate, encoder.frame_rate, encoder.dim) == ("logmel", 24_000, 80.0, 80)
    assert encoder.look_back_samples == encoder.look_ahead_samples == 1024
    assert not encoder.causal
    assert encoder.frames(24_000 * 40) == 3200
    assert encoder.frames(HOP - 1) == 0


def test_fingerprint_follows_the_settings_and_not_their_spelling() -> None:
    default = encoders.load("logmel", {}).fingerprint
    assert len(default) == 12
    assert encoders.load("logmel", {"fmin_hz": 80, "n_fft": 2048}).fingerprint == default
    assert encoders.load("logmel", {"fmin_hz": 0}).fingerprint != default


def test_unknown_names_and_settings_list_the_choices() -> None:
    with pytest.raises(ValueError, match=r"choose from: .*logmel"):
        encoders.load("melspec", {})
    with pytest.raises(ValueError, match=r"'hop'; choose from: .*hop_samples"):
        encoders.load("logmel", {"hop": 300})


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_fft": 1024},
        {"n_fft": 2049},
        {"fmax_hz": 12_001},
        {"fmin_hz": -1},
        {"fmin_hz": 7600},
        {"floor": 0},
        {"floor": math.nan},
        {"hop_samples": 0},
        {"hop_samples": 12.5},
        {"num_mels": "80"},
        {"num_mels": True},
        {"num_mels": 800},
        {"fmin_hz": math.inf},
        {"device": "tpu"},
        {"batch": -1},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        encoders.load("logmel", wrong)


def by_torch(config: LogMelConfig | None = None, rows: int = 2) -> LogMel:
    """The code that a GPU runs, here on the CPU."""
    encoder = LogMel(config)
    encoder.use_torch("cpu", rows)
    return encoder


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_torch_gives_the_features_of_numpy(config: LogMelConfig, speech: np.ndarray) -> None:
    for name, sound in sounds(speech).items():
        expected = encode_all(LogMel(config), sound)
        assert expected.shape[1] > ROW_FRAMES
        np.testing.assert_allclose(encode_all(by_torch(config), sound), expected, atol=1e-4, rtol=0, err_msg=name)


def test_by_torch_windows_are_equal_whatever_else_is_in_the_call(speech: np.ndarray) -> None:
    encoder = by_torch(rows=3)
    windows = [encoder.cut(speech, first, frames) for first, frames in ((0, 7), (5, 1500), (100, 0), (2100, 300))]
    together = encoder.encode(windows)
    assert [features.shape for features in together] == [(1, frames, 80) for frames in (7, 1500, 0, 300)]
    for window, features in zip(windows, together, strict=True):
        np.testing.assert_array_equal(encoder.encode([window])[0], features)
    whole = encode_all(encoder, speech)
    np.testing.assert_allclose(together[1], whole[:, 5:1505], atol=1e-9)


def test_the_device_is_no_part_of_the_fingerprint() -> None:
    """Nor of the layout by which vocoders know the features."""
    on_gpu = encoders.load("logmel", {"device": "cuda", "batch": 8})
    assert (on_gpu.device, on_gpu.gpus, on_gpu.fingerprint) == ("cuda", 1.0, LogMel().fingerprint)
    assert isinstance(on_gpu, LogMel)
    assert on_gpu.layout == LogMelConfig()
    assert encoders.load("logmel", {}).config == LogMelSettings()
    assert encoders.load("logmel", {"device": "cpu"}).gpus == 0


def test_a_gpu_without_torch_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="logmel' on a GPU needs torch"):
        encoders.load("logmel", {"device": "cuda"})
