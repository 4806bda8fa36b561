"""Landmarks of sound: times at which its level rises or falls most steeply, each with 63 bits that describe the second
around it.

Most landmarks of a recording are found again, with few bits changed, in a copy that was coded, resampled, amplified,
equalised or cut, that has noise added, or that is played up to 2 % faster or slower.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import scipy.fft
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from encoders.mel import hann
from pipelines.stages.base import Sound

RATE = 16000
HOP_SAMPLES = 256
HOP_MS = 16
FFT_SAMPLES = 1024
LOWEST_HZ, HIGHEST_HZ = 250.0, 3400.0
"""The part of a telephone's band that all codecs keep: copies over the telephone have it, too."""
BANDS = 16
MEAN_FRAMES = 125
"""The power of each band is divided by its mean over 2 s, so that neither gain nor equalisation changes it."""
FLOOR = 0.3
"""Added to the power of a band after that division. What is much weaker than the mean is then nearly constant: the bits
depend on what is loud enough to stand out from noise at 15 dB."""
SILENCE = 1e-9
"""Added to the mean power, so that nothing is divided by zero in digital silence."""
SLOPE_FRAMES = 3.0
"""Standard deviation of the Gaussian whose derivative the level is filtered with to find its rises and falls."""
LEAST_SLOPE = 0.03
"""Least rise or fall of the level at a landmark, in natural logarithms a frame. White noise stays below it. Steady
noise therefore has hardly any landmarks, which is right, because copies with noise added have different noise."""
APART_FRAMES = 5
"""A landmark is the steepest rise, or the steepest fall, within this many frames on each side."""
REACH_FRAMES = 32
"""The bits of a landmark describe this many frames on each side of it, 0.5 s."""
SHAPES, RATES = 7, 9
BITS = SHAPES * RATES
"""Each bit is the sign of a coefficient of a two-dimensional cosine transform: 7 frequencies over the bands times 9
over time. The constants are left out: that over the bands is the level, whose slope every landmark has, and that over
time is what equalisation changes."""
HALO_FRAMES = 192
"""Frames that are read before and after a block: at least half of MEAN_FRAMES, REACH_FRAMES and the reach of the
slope's filter together, so that no landmark depends on where blocks begin."""
BLOCK_FRAMES = 4096
FFTS_AT_ONCE = 256
STEPS = 1024
"""Logarithms and cosines are rounded to multiples of 1 / 1024. Sums of their products are then exact, and the same bits
come out in whatever order a processor adds them."""


def landmarks(sound: Sound) -> tuple[np.ndarray, np.ndarray]:
    """Times in ms, int32 (n,), in order, and bits, int64 (n,) of 0 to 2^63 - 1, of a recording's landmarks.

    Tracks are averaged, so that a conversation with a channel for each speaker has the landmarks of its mix. Sound is
    read in blocks of a fixed length, so memory does not depend on the length of the recording. Speech has about 6
    landmarks a second, steady noise hardly any, digital silence none. Between different sounds half of the bits differ;
    between a recording and its copy with noise at 15 dB a seventh.
    """
    assert sound.sample_rate == RATE
    times = [np.zeros(0, np.int32)]
    bits = [np.zeros(0, np.int64)]
    count = sound.num_samples // HOP_SAMPLES + 1 if sound.num_samples else 0
    for start in range(0, count, BLOCK_FRAMES):
        stop = min(start + BLOCK_FRAMES, count)
        first, last = max(0, start - HALO_FRAMES), min(count, stop + HALO_FRAMES)
        levels = relative_levels(sound, first, last)
        at = slopes(levels)
        at = at[(at >= start - first) & (at < stop - first)]
        times.append(((at + first) * HOP_MS).astype(np.int32))
        bits.append(describe(levels, at))
    return np.concatenate(times), np.concatenate(bits)


def relative_levels(sound: Sound, first: int, last: int) -> np.ndarray:
    """Levels of the bands relative to their means over 2 s, for frames first to last - 1: float64 (frames, BANDS).

    They are natural logarithms times STEPS, rounded. The middle of frame n is sample 256 n. Before the start and after
    the end of the recording zeros are assumed.
    """
    power = np.concatenate([powers @ filters() for powers in _spectra(sound, first, last)])
    mean = uniform_filter1d(power, MEAN_FRAMES, axis=0, mode="constant")
    return np.rint(np.log(power / (np.maximum(mean, 0) + SILENCE) + FLOOR) * STEPS)


def _spectra(sound: Sound, first: int, last: int) -> Iterator[np.ndarray]:
    """Power spectra between LOWEST_HZ and HIGHEST_HZ, up to FFTS_AT_ONCE frames at a time, float64 (frames, bins)."""
    window, half = hann(FFT_SAMPLES).astype(np.float32), FFT_SAMPLES // 2
    low, high = _bins()
    for start in range(first, last, FFTS_AT_ONCE):
        stop = min(start + FFTS_AT_ONCE, last)
        begin, end = start * HOP_SAMPLES - half, (stop - 1) * HOP_SAMPLES + half
        block = sound.read(max(0, begin), min(end, sound.num_samples))
        samples = block[0] if len(block) == 1 else block.mean(axis=0)
        samples = np.pad(samples, (max(0, -begin), max(0, end - max(sound.num_samples, max(0, begin)))))
        frames = np.lib.stride_tricks.sliding_window_view(samples, FFT_SAMPLES)[::HOP_SAMPLES]
        spectrum = scipy.fft.rfft(frames * window, axis=1)[:, low:high]
        yield np.square(spectrum.real, dtype=np.float64) + np.square(spectrum.imag, dtype=np.float64)


def _bins() -> tuple[int, int]:
    frequency_hz = np.fft.rfftfreq(FFT_SAMPLES, 1 / RATE)
    return int(np.searchsorted(frequency_hz, LOWEST_HZ)), int(np.searchsorted(frequency_hz, HIGHEST_HZ, "right"))


@functools.cache
def filters() -> np.ndarray:
    """Triangular filters of the bands, each equally wide in octaves, float64 (bins, BANDS)."""
    edges_hz = np.geomspace(LOWEST_HZ, HIGHEST_HZ, BANDS + 2)
    bins_hz = np.fft.rfftfreq(FFT_SAMPLES, 1 / RATE)[slice(*_bins()), None]
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    return np.maximum(np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)), 0)


def slopes(levels: np.ndarray) -> np.ndarray:
    """Frames of landmarks, int64 (n,), in order: where the sum of the bands' levels rises or falls most steeply."""
    loudness = levels.sum(axis=1)
    reach = round(4 * SLOPE_FRAMES)
    offsets = np.arange(-reach, reach + 1)
    weights = np.rint(offsets * np.exp(-0.5 * (offsets / SLOPE_FRAMES) ** 2) * STEPS)
    per_frame = (weights * offsets).sum()  # what the filter makes of a level that rises by 1 a frame
    slope = np.correlate(np.pad(loudness, reach, mode="edge"), weights, "valid") if len(loudness) else loudness
    least = LEAST_SLOPE * STEPS * BANDS * per_frame
    steepest = [
        (signed == maximum_filter1d(signed, 2 * APART_FRAMES + 1, mode="nearest")) & (signed > least)
        for signed in (slope, -slope)
    ]
    return np.flatnonzero(steepest[0] | steepest[1])


def describe(levels: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The bits of landmarks at these frames, int64 (n,): bit 9 f + r is of frequency f over the bands, r over time."""
    over_bands, over_time = cosines()
    shaped = np.pad(levels @ over_bands, ((REACH_FRAMES, REACH_FRAMES), (0, 0)))
    around = np.lib.stride_tricks.sliding_window_view(shaped, 2 * REACH_FRAMES + 1, axis=0)[at]
    signs = (around @ over_time > 0).transpose(0, 2, 1).reshape(len(at), BITS)
    return np.asarray(signs @ (np.int64(1) << np.arange(BITS, dtype=np.int64)))


@functools.cache
def cosines() -> tuple[np.ndarray, np.ndarray]:
    """Cosines over the bands, (BANDS, SHAPES), and over time, (frames, RATES), tapered: whole numbers as float64."""
    band, shape = np.arange(BANDS)[:, None] + 0.5, np.arange(1, SHAPES + 1)
    frame, rate = np.arange(-REACH_FRAMES, REACH_FRAMES + 1)[:, None], np.arange(1, RATES + 1)
    taper = np.cos(np.pi * frame / (2 * REACH_FRAMES + 2))
    over_time = taper * np.cos(np.pi * rate * (frame + REACH_FRAMES + 0.5) / (2 * REACH_FRAMES + 1))
    return np.rint(np.cos(np.pi * shape * band / BANDS) * STEPS), np.rint(over_time * STEPS)
