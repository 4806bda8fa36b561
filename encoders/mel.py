"""The mel scale, its filters, and the layout of log-mel features. All agree with librosa and torchaudio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime import typed


@dataclass(frozen=True)
class LogMelConfig:
    """Settings of `LogMel`. The defaults are those of arXiv 2604.24416: 80 bins, 80 frames a second."""

    sample_rate: int = 24_000
    """Sampling rate, Hz."""
    n_fft: int = 2048
    """Length of the Fourier transform, samples; even."""
    window_samples: int = 1200
    """Length of the periodic Hann window, which is centred in `n_fft`; 50 ms."""
    hop_samples: int = 300
    """Samples from one frame to the next; 12.5 ms."""
    num_mels: int = 80
    """Mel bins."""
    fmin_hz: float = 80.0
    """Lower edge of the first filter, Hz."""
    fmax_hz: float = 7600.0
    """Upper edge of the last filter, Hz."""
    floor: float = 1e-10
    """Smallest mel magnitude: the feature is ln(max(floor, magnitude))."""

    def __post_init__(self) -> None:
        counts = ("sample_rate", "n_fft", "window_samples", "hop_samples", "num_mels")
        typed.check_fields(self, at_least=dict.fromkeys(counts, 1))
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
    """Return the periodic Hann window, float64 (samples,), bit-identical to that of `scipy.signal.get_window`.

    scipy.signal is not used, because importing it takes longer than everything else that most commands import.
    """
    if samples == 1:
        return np.ones(1)
    window: np.ndarray = (0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, samples + 1)))[:-1]
    return window


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Convert Hz to Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz (200/3 Hz a mel), then log."""
    hz = np.asarray(hz, dtype=np.float64)
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, 15.0 + 27.0 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4))


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, dtype=np.float64)
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0))


def mel_filters(config: LogMelConfig) -> np.ndarray:
    """Return triangular filters of unit area ("slaney" norm), float64 (num_mels, n_fft / 2 + 1).

    They equal those of `librosa.filters.mel`.

    Raises:
        ValueError: A filter lies between two bins of the transform, so that its feature would always be the floor.
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
