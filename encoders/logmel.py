"""Log-mel features in the layout of ParallelWaveGAN's HiFi-GAN vocoder (libritts voc1 hifigan.v1).

Computed with numpy and scipy, or on a GPU with torch (logmel_torch.py). They agree with librosa and torchaudio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy.sparse

from encoders.base import Encoder, WindowSound
from encoders.mel import LogMelConfig, hann, mel_filters
from runtime import typed
from runtime.batches import DEVICES, resolve_device
from runtime.extras import require

if TYPE_CHECKING:
    from encoders.logmel_torch import TorchTransform

# Frames that are transformed at a time, few enough to stay in the processor's cache.
BLOCK_FRAMES = 48
GPU_ROWS, GPU_WINDOWS = 64, 32
"""Rows of a call on a GPU if the settings give no `batch`, and the windows that are collected for it."""


@dataclass(frozen=True)
class LogMelSettings(LogMelConfig):
    """The layout of the features, and how they are computed."""

    device: str = "cpu"
    """'cpu'; 'cuda', whose features are within 1e-4 of those of a CPU; 'auto' for a GPU if there is one."""
    batch: int = 0
    """Rows of 1,024 frames in each call on a GPU; 0 means 64, which take 2 GB."""

    def __post_init__(self) -> None:
        super().__post_init__()
        typed.check_fields(self, at_least={"batch": 0}, one_of={"device": DEVICES})


class LogMel(Encoder):
    """Natural logarithm of mel magnitudes (not powers), not normalised.

    Frame t is centred on sample t * hop of the recording, as with `center=True` in librosa and torch. Samples beyond
    the ends of the recording count as zero (ParallelWaveGAN mirrors the sound there). To use ParallelWaveGAN's vocoder,
    divide by ln 10 (2.302585), because it takes log10, and normalise with the statistics of its checkpoint.
    """

    name: ClassVar[str] = "logmel"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = LogMelSettings
    tolerance: float = 1e-4
    vocoder: str = "auto"

    def __init__(self, config: LogMelConfig | None = None) -> None:
        config = config or LogMelConfig()
        super().__init__(config)
        self.layout = LogMelConfig(**{field.name: getattr(config, field.name) for field in fields(LogMelConfig)})
        """The layout of the features, without the settings that say how they are computed."""
        self._transform: TorchTransform | None = None
        """The implementation with torch; None if numpy computes the features."""
        if isinstance(config, LogMelSettings) and (device := resolve_device(config.device)) == "cuda":
            require("encoder 'logmel' on a GPU", ("torch",), "latents")
            self.device, self.gpus, self.batch = device, 1.0, GPU_WINDOWS
        self.sample_rate = config.sample_rate
        self.hop_samples = config.hop_samples
        self.dim = config.num_mels
        self.look_back_samples = self.look_ahead_samples = config.n_fft // 2
        self._window = hann(config.window_samples)
        filters = mel_filters(config).astype(np.float32)
        used = np.flatnonzero(filters.any(axis=0))
        # Only the bins between fmin and fmax are used.
        self._bins = slice(int(used[0]), int(used[-1]) + 1)
        # Sparse, because a bin lies in at most two filters. The product also adds in the same order for every frame,
        # whereas the last bits of a BLAS product depend on the position of the frame in its block.
        self._filters = scipy.sparse.csr_array(filters[:, self._bins])

    def decode(self, features: np.ndarray) -> np.ndarray:
        """See `Encoder.decode`. A vocoder estimates the phase, so the result sounds alike but has another waveform.

        Raises:
            MissingExtraError: No vocoder is installed.
        """
        from encoders.vocoders import synthesise

        return np.stack([synthesise(track, self.layout, self.vocoder, self.device) for track in features])

    def setup(self) -> None:
        """Move the transform to the GPU if the settings ask for one."""
        if self.device == "cuda":
            self.use_torch(self.device, self.config.batch or GPU_ROWS)

    def use_torch(self, device: str, rows: int) -> None:
        """Compute with torch from now on, on `device` ('cuda' or 'cpu'), with `rows` rows of 1,024 frames a call."""
        from encoders.logmel_torch import TorchTransform

        filters = self._filters.toarray()
        self._transform = TorchTransform(self.layout, self._window, filters, self._bins, device, rows)

    def encode(self, windows: Sequence[WindowSound]) -> list[np.ndarray]:
        """See `Encoder.encode`."""
        if self._transform is None:
            return super().encode(windows)
        return self._transform([(self._pad(self._check_window(window)), window.frames) for window in windows])

    def _pad(self, window: WindowSound) -> np.ndarray:
        """Return the samples that the frames of a window cover, float32 (tracks, samples).

        They start half an analysis window before the first frame, and are zero beyond the ends of the recording.
        """
        config, margin = self.layout, self.layout.n_fft // 2
        missing = window.frames * config.hop_samples + 2 * margin - (margin - window.before) - window.sound.shape[1]
        padded = np.pad(window.sound, ((0, 0), (margin - window.before, missing)))
        return padded[:, (config.n_fft - config.window_samples) // 2 :]

    def _encode_one(self, window: WindowSound) -> np.ndarray:
        config = self.layout
        features = np.empty((len(window.sound), window.frames, self.dim), np.float32)
        # The buffers are small enough to stay in the cache. They are float64, because in float32 the rounding error of
        # a loud bin hides the quiet bins of its frame: above the band of a telephone recording, features were off by
        # up to 0.8.
        samples = np.empty((BLOCK_FRAMES - 1) * config.hop_samples + config.window_samples, np.float64)
        frames = np.lib.stride_tricks.sliding_window_view(samples, config.window_samples)[:: config.hop_samples]
        # A row of `block` stays zero beyond `window_samples`. The position of the window in the transform only changes
        # the phase.
        block = np.zeros((BLOCK_FRAMES, config.n_fft), np.float64)
        spectra = np.empty((BLOCK_FRAMES, config.n_fft // 2 + 1), np.complex128)
        used = np.empty((BLOCK_FRAMES, self._bins.stop - self._bins.start), np.complex64)
        magnitudes = np.empty(used.shape, np.float32)
        by_bin = np.empty(used.shape[::-1], np.float32)
        first_sample = window.before - config.n_fft // 2 + (config.n_fft - config.window_samples) // 2
        for sound, out in zip(window.sound, features, strict=True):
            for first in range(0, window.frames, BLOCK_FRAMES):
                count = min(BLOCK_FRAMES, window.frames - first)
                _copy_from(sound, first_sample + first * config.hop_samples, samples)
                np.multiply(frames, self._window, out=block[:, : config.window_samples])
                np.fft.rfft(block, axis=1, out=spectra)
                used[:] = spectra[:, self._bins]
                np.abs(used, out=magnitudes)
                by_bin[:] = magnitudes.T
                mels = self._filters @ by_bin
                np.maximum(mels, np.float32(config.floor), out=mels)
                np.log(mels.T[:count], out=out[first : first + count])
        return features


def _copy_from(sound: np.ndarray, start: int, out: np.ndarray) -> None:
    """Fill `out` with the samples of `sound` from index `start` on, and with zeros beyond its ends."""
    first, last = max(start, 0), min(start + out.size, sound.size)
    if last - first < out.size:
        out[:] = 0.0
    if first < last:
        out[first - start : last - start] = sound[first:last]
