"""Music is told from speech by its steady tones, whatever the length of the recording."""

from pathlib import Path

import numpy as np
import pytest
from sounds import ArraySound

from pipelines.stages.music import activation, music_likelihood, peak_heights

MUSIC = [
    "librosa/Hungarian_Dance_number_5_-_Allegro_in_F_sharp_minor_(string_orchestra).ogg",
    "librosa/Kevin_MacLeod_-_Vibe_Ace.ogg",
    "librosa/sorohanro_-_solo-trumpet-06.ogg",
]
NOT_MUSIC = [
    "fw/jfk.flac",
    "google/commercial_mono.wav",
    "ina/lamartine.flac",
    "ina/silence2sec.wav",
    "lca_calls/lca_40_mix16k.flac",
    "leopard/empty.wav",
    "librosa/198-209-0000.ogg",
    "pyannote_ami/trn00.flac",
    "watson/de-DE_NarrowbandModel_sample1.wav",
    "watson/it-IT_BroadbandModel_sample1.flac",
    "watson/zh-CN_sample1_for_16k.wav",
]


def tone(frequency_hz: np.ndarray | float, seconds: float = 2.6) -> np.ndarray:
    return 0.1 * np.sin(2 * np.pi * np.cumsum(np.broadcast_to(frequency_hz, round(seconds * 16000))) / 16000)


@pytest.mark.recordings
@pytest.mark.parametrize("name", MUSIC)
def test_music_is_likely_music(recordings: Path, name: str) -> None:
    assert music_likelihood(ArraySound.from_file(recordings / name), 1.5, 240) >= 0.5


@pytest.mark.recordings
@pytest.mark.parametrize("name", NOT_MUSIC)
def test_speech_and_silence_are_not(recordings: Path, name: str) -> None:
    assert music_likelihood(ArraySound.from_file(recordings / name), 1.5, 240) <= 0.15


def test_tones_that_hold_are_active_and_tones_that_glide_are_not() -> None:
    noise = 1e-3 * np.random.default_rng(0).standard_normal(41600)
    chord = sum(tone(frequency) for frequency in (440.0, 554.4, 659.3, 880.0, 1108.7))
    glide = sum(tone(k * np.linspace(120, 240, 41600)) for k in range(2, 8))
    assert activation(chord + noise) > 4.5
    assert activation(glide + noise) < 1.5
    assert activation(noise) < 1.0
    assert activation(0.01 * chord) == pytest.approx(activation(chord), abs=0.01)
    assert activation(1e-6 * chord) == 0


def test_long_recordings_are_sampled_evenly() -> None:
    noise = 1e-3 * np.random.default_rng(0).standard_normal(100 * 41600)
    chord = np.tile(sum(tone(frequency) for frequency in (440.0, 554.4, 659.3)), 50)
    sound = ArraySound(noise + np.concatenate([chord, np.zeros_like(chord)]))
    assert music_likelihood(sound, 1.5, 240) == pytest.approx(0.5)
    assert music_likelihood(sound, 1.5, 10) == pytest.approx(0.5)
    assert music_likelihood(sound, 1.5, 1) in (0, 1)
    assert music_likelihood(ArraySound(sound.samples[:, :20000]), 1.5, 240) == 1
    assert music_likelihood(ArraySound(sound.samples[:, :15999]), 1.5, 240) is None


def test_peaks_stand_above_the_higher_valley() -> None:
    curve = np.array([0, 0, 0.5, 0.5, 0.2, 0.9, 0.1, 0.3, 0.3])
    assert peak_heights(curve).tolist() == pytest.approx([0.3, 0.7])
    assert len(peak_heights(np.ones(5))) == 0
