"""Log-mel features in the layout that ParallelWaveGAN's HiFi-GAN vocoder (libritts voc1 hifigan.v1) turns into sound.

Written with numpy and scipy alone; agrees with librosa and torchaudio (see the tests).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse

from encoders.base import Encoder, WindowSound

# Frames worked on at once: a block stays in the cache.
BLOCK_FRAMES = 48


@dataclass(frozen=True)
class LogMelConfig:
    """Settings of `LogMel`. The defaults are those of arXiv 2604.24416: 80 bins, 80 frames a second."""

    sample_rate: int = 24_000
    """Sampling rate, Hz."""
    n_fft: int = 2048
    """Length of the Fourier transform, samples; even."""
    window_samples: int = 1200
    """Length of the (periodic) Hann window, centred in `n_fft`; 50 ms."""
    hop_samples: int = 300
    """Samples from frame to frame; 12.5 ms."""
    num_mels: int = 80
    """Mel bins."""
    fmin_hz: float = 80.0
    """Lower edge of the first filter, Hz."""
    fmax_hz: float = 7600.0
    """Upper edge of the last filter, Hz."""
    floor: float = 1e-10
    """Least mel magnitude: the feature is ln(max(floor, magnitude))."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"logmel: {field.name} must be a number, not {value!r}")
            # 80 and 80.0 are one setting and must have one fingerprint.
            number = int(value) if field.type == "int" else float(value)
            if number != value:
                raise ValueError(f"logmel: {field.name} must be a whole number, not {value!r}")
            object.__setattr__(self, field.name, number)
        if min(self.sample_rate, self.n_fft, self.window_samples, self.hop_samples, self.num_mels) < 1:
            raise ValueError("logmel: sample_rate, n_fft, window_samples, hop_samples and num_mels must be at least 1")
        if self.n_fft > 1 << 16 or self.num_mels > 1024:
            raise ValueError("logmel: n_fft must be at most 65536 and num_mels at most 1024")
        if self.n_fft % 2 or self.window_samples > self.n_fft:
            raise ValueError(f"logmel: n_fft ({self.n_fft}) must be even and not below window_samples")
        if not 0 <= self.fmin_hz < self.fmax_hz <= self.sample_rate / 2:
            raise ValueError(
                f"logmel: needs 0 <= fmin_hz < fmax_hz <= sample_rate / 2, got {self.fmin_hz}, {self.fmax_hz} and "
                f"{self.sample_rate / 2}"
            )
        if not np.finfo(np.float32).tiny <= self.floor < np.inf:
            raise ValueError(f"logmel: floor must be positive and a normal float32, not {self.floor}")


def hann(samples: int) -> np.ndarray:
    """The periodic Hann window, float64 (samples,): bit for bit that of `scipy.signal.get_window`.

    That module is not imported, because it takes longer to import than everything else that most commands need.
    """
    if samples == 1:
        return np.ones(1)
    window: np.ndarray = (0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, samples + 1)))[:-1]
    return window


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz (200/3 Hz a mel), logarithmic above."""
    hz = np.asarray(hz, dtype=np.float64)
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, 15.0 + 27.0 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4))


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, dtype=np.float64)
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0))


def mel_filters(config: LogMelConfig) -> np.ndarray:
    """Triangular filters of unit area ("slaney" norm), float64 (num_mels, n_fft / 2 + 1), as `librosa.filters.mel`.

    ValueError where a filter falls between two bins of the transform: its feature would be the floor for ever.
    """
    bins_hz = np.arange(config.n_fft // 2 + 1) * (config.sample_rate / config.n_fft)
    low, high = hz_to_mel(np.array([config.fmin_hz, config.fmax_hz]))
    edges_hz = mel_to_hz(np.linspace(low, high, config.num_mels + 2))
    widths = np.diff(edges_hz)[:, None]
    rising = (bins_hz - edges_hz[:-2, None]) / widths[:-1]
    falling = (edges_hz[2:, None] - bins_hz) / widths[1:]
    filters = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]
    empty = np.flatnonzero(~filters.any(axis=1))
    if empty.size:
        raise ValueError(
            f"logmel: {empty.size} of {config.num_mels} mel filters contain no bin of an n_fft of {config.n_fft}; "
            "raise n_fft or lower num_mels"
        )
    return filters


class LogMel(Encoder):
    """Natural logarithm of mel magnitudes (not powers), un-normalised.

    Frame t is centred on sample t * hop of the recording, as with `center=True` in librosa and torch. ParallelWaveGAN
    takes log10: divide by ln 10 (2.302585) before its vocoder, and normalise with the statistics of its checkpoint.
    Where the recording ends, what is missing counts as zero (ParallelWaveGAN mirrors the sound there).
    """

    name: ClassVar[str] = "logmel"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = LogMelConfig
    vocoder: str = "auto"

    def __init__(self, config: LogMelConfig | None = None) -> None:
        config = config or LogMelConfig()
        super().__init__(config)
        self.sample_rate = config.sample_rate
        self.hop_samples = config.hop_samples
        self.dim = config.num_mels
        self.look_back_samples = self.look_ahead_samples = config.n_fft // 2
        self._window = hann(config.window_samples)
        filters = mel_filters(config).astype(np.float32)
        used = np.flatnonzero(filters.any(axis=0))
        # The bins between fmin and fmax; the others are never looked at.
        self._bins = slice(int(used[0]), int(used[-1]) + 1)
        # Sparse: a bin lies in two filters at most. And not a product of BLAS, whose last bits depend on where in its
        # block a frame stands: here every frame sees the same additions in the same order.
        self._filters = scipy.sparse.csr_array(filters[:, self._bins])

    def decode(self, features: np.ndarray) -> np.ndarray:
        """As `Encoder.decode`, by a vocoder: the phase is estimated, so that it sounds alike but does not follow the
        waveform. MissingExtraError where no vocoder is installed."""
        from encoders.vocoders import synthesise

        return np.stack([synthesise(track, self.config, self.vocoder, self.device) for track in features])

    def _encode_one(self, window: WindowSound) -> np.ndarray:
        config: LogMelConfig = self.config
        num_frames, margin = window.frames, config.n_fft // 2
        missing = num_frames * config.hop_samples + 2 * margin - (margin - window.before) - window.sound.shape[1]
        padded = np.pad(window.sound, ((0, 0), (margin - window.before, missing)))
        features = np.empty((len(padded), num_frames, self.dim), np.float32)
        # Beyond `window_samples` a row of `block` stays zero. Where the sound lies in the transform is free: it turns
        # the phase alone.
        block = np.zeros((BLOCK_FRAMES, config.n_fft), np.float64)
        spectra = np.empty((BLOCK_FRAMES, config.n_fft // 2 + 1), np.complex128)
        used = np.empty((BLOCK_FRAMES, self._bins.stop - self._bins.start), np.complex64)
        magnitudes = np.empty(used.shape, np.float32)
        by_bin = np.empty(used.shape[::-1], np.float32)
        skip = (config.n_fft - config.window_samples) // 2
        for sound, out in zip(padded, features, strict=True):
            # float64, because in float32 the rounding of a loud bin drowns the quiet ones of its frame: above the band
            # of a telephone recording the feature was off by up to 0.8.
            samples = sound[skip:].astype(np.float64)
            frames = np.lib.stride_tricks.as_strided(
                samples,
                (num_frames, config.window_samples),
                (config.hop_samples * samples.itemsize, samples.itemsize),
                writeable=False,
            )
            for first in range(0, num_frames, BLOCK_FRAMES):
                count = min(BLOCK_FRAMES, num_frames - first)
                windowed = block[:count, : config.window_samples]
                np.multiply(frames[first : first + count], self._window, out=windowed)
                np.fft.rfft(block, axis=1, out=spectra)
                used[:] = spectra[:, self._bins]
                np.abs(used, out=magnitudes)
                by_bin[:] = magnitudes.T
                mels = self._filters @ by_bin
                np.maximum(mels, np.float32(config.floor), out=mels)
                np.log(mels.T[:count], out=out[first : first + count])
        return features
