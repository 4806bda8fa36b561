"""Landmarks of sound: where its loudness rises or falls most steeply, each with 63 bits on the second around it.

They survive what happens to copies: other codecs, rates, levels, equalisation, noise, cuts, and slightly other speeds.
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
"""What a telephone passes."""
BANDS = 16
MEAN_FRAMES = 125
"""Each band is taken relative to its mean power over 2 s, which leaves out what gain and equalisation do."""
FLOOR = 0.3
"""Of that mean, added to the power of a band: the bits are to tell of what stands out from noise at 15 dB."""
SILENCE = 1e-9
"""Added to the mean power, so that digital silence stays silence."""
SLOPE_FRAMES = 3.0
"""Standard deviation of the Gaussian whose derivative finds rises and falls of loudness."""
LEAST_SLOPE = 0.03
"""Least rise or fall of a landmark, in natural logarithms a frame. White noise rises and falls by less, so that steady
noise, which is another one in each copy with noise, has hardly any."""
APART_FRAMES = 5
"""No steeper rise (or fall) lies within so many frames of a landmark that is a rise (or fall)."""
REACH_FRAMES = 32
"""The bits describe so many frames on each side, 0.5 s."""
SHAPES, RATES = 7, 9
BITS = SHAPES * RATES
"""Signs of the products with cosines: 7 over the bands times 9 over time; those without any change over the bands or
over time are left out, as the landmark's own slope and equalisation decide them."""
HALO_FRAMES = 192
"""What is heard on each side of a block: half of MEAN_FRAMES, REACH_FRAMES and the slope's filter."""
BLOCK_FRAMES = 4096
FFTS_AT_ONCE = 256
STEPS = 1024
"""Logarithms are rounded to 1 / 1024, and cosines too: their sums of products are then exact in any order."""


def landmarks(sound: Sound) -> tuple[np.ndarray, np.ndarray]:
    """Times in ms, int32 (n,), in order, and bits, int64 (n,) of 0 to 2^63 - 1, of a recording's landmarks.

    Tracks are averaged, so that the conversation of two channels has the landmarks of its mix. Blocks of fixed places
    are read one at a time: memory does not depend on the length. About 6 landmarks a second of speech are found, hardly
    any in steady noise and none in digital silence. Half of the bits of different sounds differ, and about a seventh of
    those of a copy at 15 dB of noise.
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
    """Levels of the bands over their means of 2 s, ln times 1024 as whole float64 (frames, BANDS), of [first, last).

    The middle of frame n is sample 256 n; before and after the recording there is silence.
    """
    power = np.concatenate([powers @ filters() for powers in _spectra(sound, first, last)])
    mean = uniform_filter1d(power, MEAN_FRAMES, axis=0, mode="constant")
    return np.rint(np.log(power / (np.maximum(mean, 0) + SILENCE) + FLOOR) * STEPS)


def _spectra(sound: Sound, first: int, last: int) -> Iterator[np.ndarray]:
    """Power spectra between LOWEST_HZ and HIGHEST_HZ, some frames at a time, float64 (frames, bins)."""
    window, half = hann(FFT_SAMPLES).astype(np.float32), FFT_SAMPLES // 2
    low, high = _bins()
    for start in range(first, last, FFTS_AT_ONCE):
        stop = min(start + FFTS_AT_ONCE, last)
        begin, end = start * HOP_SAMPLES - half, (stop - 1) * HOP_SAMPLES + half
        heard = sound.read(max(0, begin), min(end, sound.num_samples))
        samples = heard[0] if len(heard) == 1 else heard.mean(axis=0)
        samples = np.pad(samples, (max(0, -begin), max(0, end - max(sound.num_samples, max(0, begin)))))
        frames = np.lib.stride_tricks.sliding_window_view(samples, FFT_SAMPLES)[::HOP_SAMPLES]
        spectrum = scipy.fft.rfft(frames * window, axis=1)[:, low:high]
        yield np.square(spectrum.real, dtype=np.float64) + np.square(spectrum.imag, dtype=np.float64)


def _bins() -> tuple[int, int]:
    frequency_hz = np.fft.rfftfreq(FFT_SAMPLES, 1 / RATE)
    return int(np.searchsorted(frequency_hz, LOWEST_HZ)), int(np.searchsorted(frequency_hz, HIGHEST_HZ, "right"))


@functools.cache
def filters() -> np.ndarray:
    """Triangles of equal width in octaves, float64 (bins, BANDS)."""
    edges_hz = np.geomspace(LOWEST_HZ, HIGHEST_HZ, BANDS + 2)
    bins_hz = np.fft.rfftfreq(FFT_SAMPLES, 1 / RATE)[slice(*_bins()), None]
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    return np.maximum(np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)), 0)


def slopes(levels: np.ndarray) -> np.ndarray:
    """Frames where the level over all bands rises or falls most steeply within APART_FRAMES, int64 (n,), in order."""
    loudness = levels.sum(axis=1)
    reach = round(4 * SLOPE_FRAMES)
    offsets = np.arange(-reach, reach + 1)
    weights = np.rint(offsets * np.exp(-0.5 * (offsets / SLOPE_FRAMES) ** 2) * STEPS)
    per_frame = (weights * offsets).sum()  # what a rise of 1 a frame comes to
    slope = np.correlate(np.pad(loudness, reach, mode="edge"), weights, "valid") if len(loudness) else loudness
    least = LEAST_SLOPE * STEPS * BANDS * per_frame
    steepest = [
        (signed == maximum_filter1d(signed, 2 * APART_FRAMES + 1, mode="nearest")) & (signed > least)
        for signed in (slope, -slope)
    ]
    return np.flatnonzero(steepest[0] | steepest[1])


def describe(levels: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The bits of landmarks at these frames, int64 (n,)."""
    over_bands, over_time = cosines()
    shaped = np.pad(levels @ over_bands, ((REACH_FRAMES, REACH_FRAMES), (0, 0)))
    around = np.lib.stride_tricks.sliding_window_view(shaped, 2 * REACH_FRAMES + 1, axis=0)[at]
    signs = (around @ over_time > 0).transpose(0, 2, 1).reshape(len(at), BITS)
    return np.asarray(signs @ (np.int64(1) << np.arange(BITS, dtype=np.int64)))


@functools.cache
def cosines() -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers as float64: over the bands, (BANDS, SHAPES), and over time, (frames, RATES), the latter tapered."""
    band, shape = np.arange(BANDS)[:, None] + 0.5, np.arange(1, SHAPES + 1)
    frame, rate = np.arange(-REACH_FRAMES, REACH_FRAMES + 1)[:, None], np.arange(1, RATES + 1)
    taper = np.cos(np.pi * frame / (2 * REACH_FRAMES + 2))
    over_time = taper * np.cos(np.pi * rate * (frame + REACH_FRAMES + 0.5) / (2 * REACH_FRAMES + 1))
    return np.rint(np.cos(np.pi * shape * band / BANDS) * STEPS), np.rint(over_time * STEPS)
