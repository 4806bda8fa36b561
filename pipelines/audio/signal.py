"""Measures the signal while it is decoded: level, loudness, clipping, silence, bandwidth and relation of channels."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import scipy.fft

CLIP_RUN = 3
CLIP_LEVEL = 0.97
"""An extreme above this may be full scale: 0.99997 for 16 bits, 0.992 for 8 bits, 0.984 for A-law, 0.980 for mu-law."""
SPECTRUM_SAMPLES = 2048
BANDWIDTH_DB = 50.0
LOWEST_HZ = 50.0
"""Below this frequency, an offset or hum would be taken for the peak of the spectrum."""
NAMED_CHANNELS = 5
"""FFmpeg's names of channels are used from this number of channels on. For fewer it guesses names such as "2.1"."""
FRAME_S = 0.02
ENERGY_FLOOR_DB = -80.0
LAG_S = 0.02
ACTIVE_DB = 20.0
"""A channel is active while its level is within this distance of its 95th percentile."""
OWN_VOICE_DB = 6.0
MIN_ALONE_S = 0.5
LIVE_DB = 40.0
"""A channel this far below the loudest channel is dead: it has no microphone."""
OPPOSITE_SHARE = 1 / 2
"""Two channels have opposite phase if their sum has less than this share of the power of their difference. For equally
loud channels, this is a correlation below -1/3. Averaging them would cancel their common part."""
MAX_CORRELATION = 0.3
"""Microphones in one room, and stereo mixes, have correlated waveforms within 20 ms. Separate speakers share leakage
only."""
MAX_ENVELOPE_CORRELATION = 0.5
"""Speakers take turns, so the level of one falls when the level of the other rises. In one room, levels rise together.

It is a correlation of levels. In a correlation of their logarithms, leakage at -20 dB would count like the speaker."""


class RunCounter:
    """Counts the samples in runs of at least `shortest` true values, over blocks of any size."""

    def __init__(self, shortest: int) -> None:
        self.shortest = shortest
        self.counted = 0
        self.open = 0

    def push(self, mask: np.ndarray) -> None:
        """Add booleans (samples,)."""
        edges = np.flatnonzero(mask[1:] != mask[:-1]) + 1
        if not edges.size:  # most blocks by far
            if mask.size and mask[0]:
                self.open += mask.size
            elif mask.size:
                self.close()
            return
        if mask[0]:
            self.open += int(edges[0])
        self.close()
        first = 1 if mask[0] else 0
        starts, ends = edges[first::2], edges[first + 1 :: 2]
        if mask[-1]:
            self.open = mask.size - int(starts[-1])
        lengths = ends - starts[: ends.size]
        self.counted += int(lengths[lengths >= self.shortest].sum())

    def close(self) -> None:
        """Add one false value."""
        self.counted, self.open = self.total(), 0

    def total(self) -> int:
        """Return the count, with a run that has not ended."""
        return self.counted + (self.open if self.open >= self.shortest else 0)


class ClipCounter:
    """Counts clipped samples of a channel: runs of 3 or more at its own positive or negative extreme near full scale.

    This is the flat factor of SoX and of FFmpeg's astats, as a count. It does not need the bit depth, which is unknown
    after a lossless copy or a conversion to float. Samples beyond full scale count as full scale, because they clip
    when they are played or stored as integers.
    """

    def __init__(self) -> None:
        self.sides = [(1.0, CLIP_LEVEL, RunCounter(CLIP_RUN)), (-1.0, CLIP_LEVEL, RunCounter(CLIP_RUN))]

    def push(self, samples: np.ndarray) -> None:
        """Add float32 (samples,)."""
        if not samples.size:
            return
        for index, (sign, extreme, runs) in enumerate(self.sides):
            highest = min(1.0, float(samples.max() if sign > 0 else -samples.min()))
            if highest > extreme:  # the samples counted so far were below the new extreme
                extreme, runs = highest, RunCounter(CLIP_RUN)
                self.sides[index] = (sign, extreme, runs)
            if highest == extreme:
                runs.push(samples * np.float32(sign) >= extreme)
            else:
                runs.close()

    def total(self) -> int:
        return sum(runs.total() for _, _, runs in self.sides)


class Loudness:
    """Integrated loudness of a stream by ITU-R BS.1770-4 / EBU R128: pyloudnorm's filters, 400 ms blocks, two gates.

    An incomplete block at the end is left out, as BS.1770-4 requires. pyloudnorm counts it, divided by 400 ms, if more
    than half of its last 100 ms is there. Both agree for whole multiples of 100 ms.
    """

    def __init__(self, sample_rate: int, channels: int, layout: str = "") -> None:
        import scipy.signal

        self._filter = scipy.signal.sosfilt
        self.hop = round(0.1 * sample_rate)
        self.sections = k_weighting(sample_rate)
        self.state = np.zeros((len(self.sections), channels, 2))
        self.weights = channel_weights(channels, layout)
        self.rest = np.zeros((channels, 0))
        self.powers: list[np.ndarray] = []

    def push(self, block: np.ndarray) -> None:
        """Add float32 (channels, samples)."""
        weighted, self.state = self._filter(self.sections, block.astype(np.float64), axis=1, zi=self.state)
        held = np.concatenate([self.rest, weighted], axis=1)
        hops = held.shape[1] // self.hop
        used = held[:, : hops * self.hop].reshape(held.shape[0], hops, self.hop)
        self.powers.append((self.weights[:, None] * np.square(used).mean(axis=2)).sum(axis=0))
        self.rest = held[:, hops * self.hop :]

    def lufs(self) -> float | None:
        """Return the loudness in LUFS; None if no block passes the gates (silence, or less than 400 ms)."""
        hops = np.concatenate([np.zeros(0), *self.powers])
        if len(hops) < 4:
            return None
        blocks = np.lib.stride_tricks.sliding_window_view(hops, 4).mean(axis=1)
        blocks = blocks[_loudness(blocks) >= -70.0]
        if not blocks.size:
            return None
        blocks = blocks[_loudness(blocks) > _loudness(blocks.mean()) - 10.0]
        return float(_loudness(blocks.mean())) if blocks.size else None


def k_weighting(sample_rate: int) -> np.ndarray:
    """Return the K-weighting filter of BS.1770-4 as second-order sections."""
    import pyloudnorm  # takes seconds to import, and most commands measure nothing

    filters = pyloudnorm.Meter(sample_rate)._filters.values()
    return np.array([[*(f.b * f.passband_gain), *f.a] for f in filters])


def channel_weights(channels: int, layout: str) -> np.ndarray:
    """Return the weights of BS.1770-4 by FFmpeg's names of channels: low-frequency effects 0, surrounds 1.41, others 1.

    Surround channels are 60 to 120 degrees to the side: the side channels, or the back channels of a layout without
    side channels (5.1). Up to four channels have weight 1, because FFmpeg invents names for channels without names: a
    third microphone would be the effects channel of 2.1.

    >>> channel_weights(6, "5.1").tolist(), channel_weights(8, "7.1").tolist()
    ([1.0, 1.0, 1.0, 0.0, 1.41, 1.41], [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.41, 1.41])
    """
    if channels < NAMED_CHANNELS or not layout:
        return np.ones(channels)
    import av  # only for its table of names

    names = [channel.name for channel in av.AudioLayout(layout).channels]
    surrounds = {"SL", "SR"} if "SL" in names else {"BL", "BR"}
    return np.array([0.0 if name.startswith("LFE") else 1.41 if name in surrounds else 1.0 for name in names])


def _loudness(power: Any) -> Any:
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-20))


class ChannelMeter:
    """Measures the relation of channels, from blocks at 16 kHz: correlation within 20 ms, level envelopes, leakage."""

    BLOCK = 1 << 16

    def __init__(self, channels: int, sample_rate: int = 16000) -> None:
        self.channels = channels
        self.frame = round(FRAME_S * sample_rate)
        self.lag = round(LAG_S * sample_rate)
        self.rest = np.zeros((channels, 0), np.float32)
        # Only neighbours are compared. The number of all pairs is quadratic, and their median is not more informative.
        self.cross = np.zeros((max(0, channels - 1), 2 * self.lag + 1))
        self.energy = np.zeros(channels)
        self.levels: list[np.ndarray] = []

    def push(self, block: np.ndarray) -> None:
        """Add float32 (channels, samples)."""
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
        """Return the columns of `manifests.schemas.SIGNAL` that describe the relation of the channels."""
        measures = ("channel_correlation", "phase_correlation", "envelope_correlation", "leakage_db")
        row: dict[str, Any] = dict.fromkeys(measures)
        row |= {"channel_relation": "mono", "live_channel": int(np.argmax(self.energy)), "tracks": 1}
        row["inverted_channels"] = []
        if self.channels == 1:
            return row
        scale = np.sqrt(self.energy[:-1] * self.energy[1:]) + 1e-20
        normalised = self.cross / scale[:, None]
        levels = np.concatenate([np.zeros((self.channels, 0), np.float32), *self.levels], axis=1)
        row["channel_correlation"] = float(np.median(np.abs(normalised).max(axis=1)))
        row["phase_correlation"] = float(normalised[:, self.lag].min())
        row["envelope_correlation"] = float(
            np.median([_correlation(*pair) for pair in itertools.pairwise(10 ** (levels.astype(np.float64) / 20))])
        )
        if not self.energy.any():  # the channels of silence cannot be compared, and one of them is enough
            row["channel_relation"] = "dual_mono"
            return row
        live = 10 * np.log10((self.energy + 1e-20) / (self.energy.max() + 1e-20)) > -LIVE_DB
        if live.sum() == 1:
            row["channel_relation"] = "one_sided"
        elif np.abs(normalised[:, self.lag]).min() > 0.99:
            row["channel_relation"] = "dual_mono"
        elif self.channels >= NAMED_CHANNELS and "." in layout:  # 5.1, 7.1, ...
            row["channel_relation"] = "surround"
        elif (
            live.all()
            and row["channel_correlation"] < MAX_CORRELATION
            and row["envelope_correlation"] < MAX_ENVELOPE_CORRELATION
        ):
            row |= {"channel_relation": "speakers", "tracks": self.channels, "leakage_db": _leakage(levels)}
        else:
            row |= {"channel_relation": "room", "inverted_channels": self._inverted()}
        return row

    def _inverted(self) -> list[int]:
        """Return the channels in opposite phase to the first one. Each is compared with the channel before it."""
        powers, products = self.energy[:-1] + self.energy[1:], 2 * self.cross[:, self.lag]
        opposite = powers + products < OPPOSITE_SHARE * (powers - products)
        return [int(channel) for channel in 1 + np.flatnonzero(np.cumsum(opposite) % 2)]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if first.size < 2 or min(first.std(), second.std()) < 1e-9:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _leakage(levels: np.ndarray) -> float | None:
    """Return the leakage of the worst pair of neighbours in dB; None if no channel is active alone for `MIN_ALONE_S`.

    The leakage is the level of an inactive channel relative to the active one: the median over the frames in which only
    one of them is active. Onsets and decays of a channel's own voice can only increase that level. So the median starts
    at a low quantile, and frames more than `OWN_VOICE_DB` above the leakage are left out.
    """
    worst = -np.inf
    active = [level > np.percentile(level, 95) - ACTIVE_DB for level in levels if level.size]
    for a, b in itertools.pairwise(range(len(active))):
        for here, there in ((a, b), (b, a)):
            relative = (levels[there] - levels[here])[active[here] & ~active[there]]
            if relative.size * FRAME_S < MIN_ALONE_S:
                continue
            leakage = np.percentile(relative, 25)
            for _ in range(10):  # it converges in a few iterations
                leakage = np.median(relative[relative < leakage + OWN_VOICE_DB])
            worst = max(worst, float(leakage))
    return worst if np.isfinite(worst) else None


class SignalMeter:
    """Measures the columns of `manifests.schemas.SIGNAL` of each channel.

    Memory grows only by a few levels a second.
    """

    def __init__(self, sample_rate: int, channels: int, layout: str = "") -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self.digest = hashlib.sha256(f"{sample_rate}:{channels}:".encode())
        self.num_samples = 0
        self.sum = np.zeros(channels)
        self.square = np.zeros(channels)
        self.peak = 0.0
        self.clipped = [ClipCounter() for _ in range(channels)]
        self.zeros = RunCounter(max(1, round(0.01 * sample_rate)))
        self.loudness = Loudness(sample_rate, channels, layout)
        self.spectrum = np.zeros(SPECTRUM_SAMPLES // 2 + 1)
        self.window = np.hanning(SPECTRUM_SAMPLES).astype(np.float32)

    def push(self, block: np.ndarray) -> None:
        """Add float32 (channels, samples) at the recording's own rate."""
        self.digest.update(np.ascontiguousarray(block.T, dtype="<f4").data)
        block = np.ascontiguousarray(block)  # if it is interleaved, everything below would be slow
        self.num_samples += block.shape[1]
        self.sum += block.sum(axis=1, dtype=np.float64)
        self.square += np.square(block, dtype=np.float64).sum(axis=1)
        self.peak = max(self.peak, float(block.max(initial=0.0)), -float(block.min(initial=0.0)))
        for counter, channel in zip(self.clipped, block, strict=True):
            counter.push(channel)
        self.zeros.push(np.logical_not(block.any(axis=0)))
        self.loudness.push(block)
        whole = block.shape[1] // SPECTRUM_SAMPLES * SPECTRUM_SAMPLES
        frames = block[:, :whole].reshape(-1, SPECTRUM_SAMPLES) * self.window
        self.spectrum += np.square(np.abs(scipy.fft.rfft(frames, axis=1))).sum(axis=0, dtype=np.float64)

    def finish(self) -> dict[str, Any]:
        """Return the columns that need no comparison of channels. Levels in dBFS are null for digital silence."""
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
        """Return the highest frequency within 50 dB of the peak of the long-term spectrum.

        It is None for silence and for less than 2,048 samples.
        """
        first = int(np.ceil(LOWEST_HZ * SPECTRUM_SAMPLES / self.sample_rate)) + 1
        if not self.spectrum[first:].any():
            return None
        levels = 10 * np.log10(self.spectrum[first:] + 1e-20)
        highest = int(np.flatnonzero(levels >= levels.max() - BANDWIDTH_DB)[-1]) + first
        return highest * self.sample_rate / SPECTRUM_SAMPLES
