"""Music detection by continuous frequency activation: musical tones keep their frequency, the harmonics of speech do
not."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter1d

from encoders.mel import hann
from pipelines.stages.base import Sound

BLOCK_S = 2.6
SHORTEST_S = 1.0
FFT_SAMPLES = 2048
HOP_SAMPLES = 512
NEIGHBOUR_BINS = 21
ABOVE_NEIGHBOURS_DB = 6.0
DYNAMIC_RANGE_DB = 45.0
SILENCE_DBFS = -80.0
LOWEST_HZ, HIGHEST_HZ = 200.0, 7000.0
PEAKS = 5


def music_likelihood(sound: Sound, threshold: float, max_blocks: int) -> float | None:
    """Share of blocks of 2.6 s whose `activation` exceeds `threshold`; tracks are averaged first.

    At most `max_blocks` blocks are read, evenly spread and one at a time. A recording shorter than a block is one
    block; the result is None for less than 1 s.
    """
    block_samples = round(BLOCK_S * sound.sample_rate)
    if sound.num_samples < SHORTEST_S * sound.sample_rate:
        return None
    whole = max(1, sound.num_samples // block_samples)
    count = min(whole, max_blocks)
    starts = [(2 * i + 1) * whole // (2 * count) * block_samples for i in range(count)]
    scores = [activation(sound.read(at, at + block_samples).mean(axis=0), sound.sample_rate) for at in starts]
    return float(np.mean(np.array(scores) > threshold))


def activation(samples: np.ndarray, sample_rate: int = 16000) -> float:
    """The strength of steady tones in a block, float (samples,), from 0 (none) to 5.

    Seyerlehner, Pohle, Schedl and Widmer, 'Automatic music detection in television productions', DAFx 2007: the
    spectrogram in dB, less its mean over neighbouring bins, is binarised; the activation of a bin is its mean over
    time; the score is the sum of the 5 highest peaks of the activation, where the height of a peak is measured from the
    higher of the two minima beside it.

    In the paper the rate is 11 kHz and a bin counts if it is slightly above its neighbours. Here frames are 128 ms at
    16 kHz, and a bin counts if it is at least 6 dB above its 21 neighbours, within 45 dB of the maximum of the block
    and between 200 and 7000 Hz, so that hum, codec noise and the edges of the spectrum are not taken for tones. Below
    -80 dBFS the score is 0.

    On 42 blocks of 3 recordings of music and 759 blocks of 75 recordings of speech in many languages, rooms and
    telephone channels, the area under the ROC curve is 0.992. The threshold 1.5, chosen on these same blocks, is
    exceeded by 93 % of the blocks of music and by 1.3 % of those of speech. Steady tones that are not music count as
    well: 2 of 3 recordings of noise score 1.0. Singing without instruments and percussion alone, which hold few steady
    tones, were not tested.
    """
    window = hann(FFT_SAMPLES)
    frames = np.lib.stride_tricks.sliding_window_view(samples, FFT_SAMPLES)[::HOP_SAMPLES]
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2 / (window.sum() / 2) ** 2
    loudest = float(power.max())
    if loudest < 10 ** (SILENCE_DBFS / 10):
        return 0.0
    level_db = 10 * np.log10(power + loudest * 10 ** (-DYNAMIC_RANGE_DB / 10))
    active = level_db - uniform_filter1d(level_db, NEIGHBOUR_BINS, axis=1) > ABOVE_NEIGHBOURS_DB
    frequency_hz = np.fft.rfftfreq(FFT_SAMPLES, 1 / sample_rate)
    heights = peak_heights(active.mean(axis=0)[(frequency_hz >= LOWEST_HZ) & (frequency_hz < HIGHEST_HZ)])
    return float(np.sort(heights)[-PEAKS:].sum())


def peak_heights(curve: np.ndarray) -> np.ndarray:
    """Height of each local maximum of (n,) above the higher of the minima beside it; a plateau is one peak."""
    steps = curve[np.append(True, np.diff(curve) != 0)]
    if len(steps) < 3:
        return np.zeros(0)
    rising = np.diff(steps) > 0
    turns = np.concatenate([[0], np.flatnonzero(rising[1:] != rising[:-1]) + 1, [len(steps) - 1]])
    extremes = steps[turns]
    peaks = np.flatnonzero(extremes[1:-1] > extremes[:-2]) + 1
    return extremes[peaks] - np.maximum(extremes[peaks - 1], extremes[peaks + 1])
