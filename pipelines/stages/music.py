"""Music by continuous frequency activation: tones hold their frequency for seconds, the harmonics of speech glide."""

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

    At most `max_blocks` blocks, evenly spread, are read, one at a time. A recording shorter than a block is one block;
    None below 1 s.
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
    """How strongly a block, float (samples,), holds steady tones: 0 (none) to 5.

    Seyerlehner, Pohle, Schedl and Widmer, 'Automatic music detection in television productions', DAFx 2007: the dB
    spectrogram less its mean over neighbouring bins is made binary; its mean over time is each bin's activation; the
    score is the sum of the 5 highest peaks of that, a peak's height taken above the higher of its two valleys.

    Unlike the paper (11 kHz, a slight excess over the neighbours counts) frames are 128 ms at 16 kHz, a bin counts from
    6 dB above its 21 neighbours and within 45 dB of the block's maximum, and only 200 to 7000 Hz, so that hum, codec
    noise and the spectrum's edges do not pass for tones. Below -80 dBFS the score is 0.

    Checked block by block on 3 recordings of music (42 blocks) and 75 of speech in many languages, rooms and telephone
    channels (759): area under the ROC curve 0.992; above 1.5, a threshold picked on these same blocks, lie 93 % of
    music and 1.3 % of speech. By recording, 0.5 to 1.0 of music and at most 0.18 of speech, save 0.43 in noise.
    Steady tones that are not music count too (2 of 3 recordings of noise score 1.0); singing without instruments and
    percussion alone were not tried and hold few steady tones.
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
    """Height of each local maximum of (n,) above the higher of the minima beside it; plateaus are one peak."""
    steps = curve[np.append(True, np.diff(curve) != 0)]
    if len(steps) < 3:
        return np.zeros(0)
    rising = np.diff(steps) > 0
    turns = np.concatenate([[0], np.flatnonzero(rising[1:] != rising[:-1]) + 1, [len(steps) - 1]])
    extremes = steps[turns]
    peaks = np.flatnonzero(extremes[1:-1] > extremes[:-2]) + 1
    return extremes[peaks] - np.maximum(extremes[peaks - 1], extremes[peaks + 1])
