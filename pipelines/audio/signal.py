"""Signal measures taken in the one decode: level, loudness, clipping, silence, bandwidth, and how channels relate."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import pyloudnorm
import scipy.signal

CLIP_LEVEL = 32767 / 32768 * 0.9999
SPECTRUM_SAMPLES = 2048
BANDWIDTH_DB = 50.0
LOWEST_HZ = 50.0
"""Below, an offset or hum would pass for the peak of the spectrum."""
FRAME_S = 0.02
ENERGY_FLOOR_DB = -80.0
LAG_S = 0.02
LIVE_DB = 40.0
"""A channel this far below the loudest is dead: no microphone was on it."""
MAX_CORRELATION = 0.3
"""Microphones of one room and stereo mixes share their waveform within 20 ms; separate speakers share leakage only."""
MAX_ENVELOPE_CORRELATION = 0.5
"""Speakers take turns, so their levels fall as the other's rise; one room rises and falls together.

Of levels, not of their logarithms, in which leakage 20 dB down would count as much as the speaker."""


class RunCounter:
    """Samples that stand in runs of at least `shortest` true values, over blocks of any size."""

    def __init__(self, shortest: int) -> None:
        self.shortest = shortest
        self.counted = 0
        self.open = 0

    def push(self, mask: np.ndarray) -> None:
        """Booleans (samples,)."""
        if not mask.size:
            return
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
        lengths = edges[1::2] - edges[::2]
        if self.open and mask[0]:
            lengths[0] += self.open
        elif self.open >= self.shortest:
            self.counted += self.open
        self.open = 0
        if mask[-1]:
            self.open = int(lengths[-1])
            lengths = lengths[:-1]
        self.counted += int(lengths[lengths >= self.shortest].sum())

    def total(self) -> int:
        """The count, with a run that is still open."""
        return self.counted + (self.open if self.open >= self.shortest else 0)


class Loudness:
    """Integrated loudness, ITU-R BS.1770-4 / EBU R128, streamed: pyloudnorm's filters, 400 ms blocks, two gates.

    Channels weigh as in pyloudnorm (1, 1, 1, 1.41, 1.41); those beyond the fifth weigh 1.41 too.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.hop = round(0.1 * sample_rate)
        filters = pyloudnorm.Meter(sample_rate)._filters.values()
        self.filters = [
            (f.b * f.passband_gain, f.a, np.zeros((channels, max(len(f.a), len(f.b)) - 1))) for f in filters
        ]
        self.weights = np.array([1.0] * min(3, channels) + [1.41] * max(0, channels - 3))
        self.rest = np.zeros((channels, 0))
        self.powers: list[np.ndarray] = []

    def push(self, block: np.ndarray) -> None:
        """float32 (channels, samples)."""
        weighted: np.ndarray = block.astype(np.float64)
        for index, (b, a, state) in enumerate(self.filters):
            weighted, state = scipy.signal.lfilter(b, a, weighted, axis=1, zi=state)
            self.filters[index] = (b, a, state)
        held = np.concatenate([self.rest, weighted], axis=1)
        hops = held.shape[1] // self.hop
        used = held[:, : hops * self.hop].reshape(held.shape[0], hops, self.hop)
        self.powers.append(self.weights @ np.square(used).mean(axis=2))
        self.rest = held[:, hops * self.hop :]

    def lufs(self) -> float | None:
        """LUFS, or None where no block passes the gates (silence, or less than 400 ms)."""
        hops = np.concatenate([np.zeros(0), *self.powers])
        if len(hops) < 4:
            return None
        blocks = np.lib.stride_tricks.sliding_window_view(hops, 4).mean(axis=1)
        blocks = blocks[_loudness(blocks) >= -70.0]
        if not blocks.size:
            return None
        blocks = blocks[_loudness(blocks) > _loudness(blocks.mean()) - 10.0]
        return float(_loudness(blocks.mean())) if blocks.size else None


def _loudness(power: Any) -> Any:
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-20))


class ChannelMeter:
    """How channels relate, from blocks at 16 kHz: correlation within 20 ms, level envelopes, leakage."""

    BLOCK = 1 << 16

    def __init__(self, channels: int, sample_rate: int = 16000) -> None:
        self.channels = channels
        self.frame = round(FRAME_S * sample_rate)
        self.lag = round(LAG_S * sample_rate)
        self.rest = np.zeros((channels, 0), np.float32)
        # Neighbours only: pairs grow with the square of the channels, and the median over neighbours tells as much.
        self.cross = np.zeros((max(0, channels - 1), 2 * self.lag + 1))
        self.energy = np.zeros(channels)
        self.levels: list[np.ndarray] = []

    def push(self, block: np.ndarray) -> None:
        """float32 (channels, samples)."""
        if self.channels == 1:
            return
        held = np.concatenate([self.rest, block], axis=1)
        used = held.shape[1] // self.frame * self.frame
        self.rest = held[:, used:]
        if not used:
            return
        held = held[:, :used]
        powers = np.square(held).reshape(self.channels, -1, self.frame).mean(axis=2)
        self.levels.append((10 * np.log10(powers + 10 ** (ENERGY_FLOOR_DB / 10))).astype(np.float32))
        for start in range(0, used, self.BLOCK):
            part = held[:, start : start + self.BLOCK].astype(np.float64)
            spectra = np.fft.rfft(part, 2 * self.BLOCK, axis=1)
            cross = np.fft.irfft(spectra[:-1] * np.conj(spectra[1:]), axis=1)
            self.cross += np.concatenate([cross[:, -self.lag :], cross[:, : self.lag + 1]], axis=1)
            self.energy += np.square(part).sum(axis=1)

    def finish(self, layout: str) -> dict[str, Any]:
        """The columns channel_relation, live_channel, channel_correlation, envelope_correlation, leakage_db, tracks."""
        row: dict[str, Any] = dict.fromkeys(("channel_correlation", "envelope_correlation", "leakage_db"))
        row |= {"channel_relation": "mono", "live_channel": int(np.argmax(self.energy)), "tracks": 1}
        if self.channels == 1:
            return row
        scale = np.sqrt(self.energy[:-1] * self.energy[1:]) + 1e-20
        normalised = self.cross / scale[:, None]
        levels = np.concatenate([np.zeros((self.channels, 0), np.float32), *self.levels], axis=1)
        row["channel_correlation"] = float(np.median(np.abs(normalised).max(axis=1)))
        row["envelope_correlation"] = float(
            np.median([_correlation(*pair) for pair in _pairs(10 ** (levels.astype(np.float64) / 20))])
        )
        if not self.energy.any():  # silence tells nothing of its channels, and one of them is enough
            row["channel_relation"] = "dual_mono"
            return row
        live = 10 * np.log10((self.energy + 1e-20) / (self.energy.max() + 1e-20)) > -LIVE_DB
        if live.sum() == 1:
            row["channel_relation"] = "one_sided"
        elif np.abs(normalised[:, self.lag]).min() > 0.99:
            row["channel_relation"] = "dual_mono"
        elif self.channels >= 5 and "." in layout:  # 5.1, 7.1, ...: FFmpeg guesses such names for 3 and 4 channels too
            row["channel_relation"] = "surround"
        elif (
            live.all()
            and row["channel_correlation"] < MAX_CORRELATION
            and row["envelope_correlation"] < MAX_ENVELOPE_CORRELATION
        ):
            row |= {"channel_relation": "speakers", "tracks": self.channels, "leakage_db": _leakage(levels)}
        else:
            row["channel_relation"] = "room"
        return row


def _pairs(levels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(itertools.pairwise(levels))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if first.size < 2 or min(first.std(), second.std()) < 1e-9:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _leakage(levels: np.ndarray) -> float | None:
    """Of the worst pair: median level in one channel relative to the other's while the other alone is active, dB."""
    worst = -np.inf
    if not levels.size:
        return None
    for here, there in (pair for a, b in _pairs(levels) for pair in ((a, b), (b, a))):
        active = (here > np.percentile(here, 95) - 20) & (here > there)
        if active.any():
            worst = max(worst, float(np.median(there[active] - here[active])))
    return worst if np.isfinite(worst) else None


class SignalMeter:
    """Everything of `manifests.schemas.SIGNAL` that does not need models; memory does not grow but for 50 levels/s."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self.digest = hashlib.sha256(f"{sample_rate}:{channels}:".encode())
        self.num_samples = 0
        self.sum = np.zeros(channels)
        self.square = np.zeros(channels)
        self.peak = 0.0
        self.clipped = [RunCounter(3) for _ in range(channels)]
        self.zeros = RunCounter(max(1, round(0.01 * sample_rate)))
        self.loudness = Loudness(sample_rate, channels)
        self.spectrum = np.zeros(SPECTRUM_SAMPLES // 2 + 1)
        self.window = np.hanning(SPECTRUM_SAMPLES).astype(np.float32)

    def push(self, block: np.ndarray) -> None:
        """float32 (channels, samples) at the recording's own rate."""
        self.digest.update(np.ascontiguousarray(block.T, dtype="<f4").data)
        self.num_samples += block.shape[1]
        self.sum += block.sum(axis=1, dtype=np.float64)
        self.square += np.square(block, dtype=np.float64).sum(axis=1)
        level = np.abs(block)
        self.peak = max(self.peak, float(level.max(initial=0.0)))
        for counter, channel in zip(self.clipped, level >= CLIP_LEVEL, strict=True):
            counter.push(channel)
        self.zeros.push(~level.any(axis=0))
        self.loudness.push(block)
        whole = block.shape[1] // SPECTRUM_SAMPLES * SPECTRUM_SAMPLES
        frames = block[:, :whole].reshape(-1, SPECTRUM_SAMPLES) * self.window
        self.spectrum += np.square(np.abs(scipy.fft.rfft(frames, axis=1))).sum(axis=0, dtype=np.float64)

    def finish(self) -> dict[str, Any]:
        """The columns that need no other channel; levels in dBFS are null for pure silence."""
        count = max(1, self.num_samples)
        mean_square = float(self.square.sum() / count / self.channels)
        return {
            "sample_rate": self.sample_rate,
            "num_samples": self.num_samples,
            "duration_s": self.num_samples / self.sample_rate,
            "channels": self.channels,
            "pcm_sha256": self.digest.hexdigest(),
            "loudness_lufs": self.loudness.lufs(),
            "peak_dbfs": 20 * float(np.log10(self.peak)) if self.peak else None,
            "rms_dbfs": 10 * float(np.log10(mean_square)) if mean_square else None,
            "dc_offset": float(np.abs(self.sum).max() / count),
            "clipped_share": max(counter.total() for counter in self.clipped) / count,
            "digital_silence_share": self.zeros.total() / count,
            "bandwidth_hz": self._bandwidth(),
        }

    def _bandwidth(self) -> float | None:
        """Highest frequency within 50 dB of the long-term spectrum's peak; null for silence or under 2,048 samples."""
        first = int(np.ceil(LOWEST_HZ * SPECTRUM_SAMPLES / self.sample_rate)) + 1
        if not self.spectrum[first:].any():
            return None
        levels = 10 * np.log10(self.spectrum[first:] + 1e-20)
        highest = int(np.flatnonzero(levels >= levels.max() - BANDWIDTH_DB)[-1]) + first
        return highest * self.sample_rate / SPECTRUM_SAMPLES
