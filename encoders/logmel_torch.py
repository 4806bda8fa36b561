"""The log-mel transform in torch, for a GPU. It computes in float64, since float32 loses the quiet bins of loud frames.

All calls have the same shape, so that the features of a window do not depend on the other windows of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime.batches import Batches, Inputs, reproducible

if TYPE_CHECKING:
    from encoders.mel import LogMelConfig

ROW_FRAMES = 1024
"""Frames of a row. A window is cut into rows, and the last row is padded with zeros."""


class TorchTransform:
    """Computes log-mel features on a device."""

    def __init__(
        self, config: LogMelConfig, window: np.ndarray, filters: np.ndarray, bins: slice, device: str, rows: int
    ) -> None:
        """Copy the constants to the device.

        Args:
            config: The layout of the features.
            window: Analysis window, float64 (window_samples,).
            filters: Mel filters, (num_mels, bins), over the `bins` of the transform.
            bins: The bins of the transform that any filter uses.
            device: 'cuda' or 'cpu'.
            rows: Rows of ROW_FRAMES frames in each call.
        """
        import torch

        self._config, self._bins, self._device = config, bins, device
        self._window = torch.from_numpy(window).to(device)
        self._filters = torch.from_numpy(filters.T.astype(np.float64)).to(device)
        self._batches = Batches("logmel", rows, self._call, torch.cuda.empty_cache, blank=_blank)

    def __call__(self, sounds: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        """Compute the features, float32 (tracks, frames, num_mels), of several sounds.

        Args:
            sounds: Pairs of a sound, float32 (tracks, samples), and its number of frames. Frame t begins at sample
                t * hop_samples and is window_samples long.
        """
        hop, length = (
            self._config.hop_samples,
            (ROW_FRAMES - 1) * self._config.hop_samples + self._config.window_samples,
        )
        results, outputs, rows = [], [], []
        for sound, frames in sounds:
            features = np.empty((len(sound), frames, self._config.num_mels), np.float32)
            results.append(features)
            for track, track_features in zip(sound, features, strict=True):
                for first in range(0, frames, ROW_FRAMES):
                    samples = track[first * hop : first * hop + length]
                    rows.append((np.pad(samples, (0, length - len(samples))),))
                    outputs.append(track_features[first : first + ROW_FRAMES])
        for output, computed in zip(outputs, self._batches(rows), strict=True):
            output[:] = computed[: len(output)]
        return results

    def _call(self, rows: Sequence[Inputs]) -> list[np.ndarray]:
        import torch

        on_gpu = self._device == "cuda"
        with torch.inference_mode(), reproducible(1, self._device):
            sounds = torch.from_numpy(np.stack([row[0] for row in rows]))
            if on_gpu:
                sounds = sounds.pin_memory().to(self._device, non_blocking=True)
            frames = sounds.double().unfold(-1, self._config.window_samples, self._config.hop_samples) * self._window
            spectra = torch.fft.rfft(frames, n=self._config.n_fft)[..., self._bins]
            mels = (spectra.abs() @ self._filters).clamp_min(self._config.floor).log().float()
            on_host = torch.empty(mels.shape, pin_memory=on_gpu)
            return list(on_host.copy_(mels).numpy())  # this copy waits for the GPU


def _blank(row: Inputs) -> Inputs:
    return tuple(np.zeros_like(part) for part in row)
