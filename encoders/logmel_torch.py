"""The log-mel transform by torch, for a GPU: in float64, since float32 loses the quiet bins of loud frames.

Calls have one shape, so that the features of a window do not depend on what else is in a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime.batches import Batches, Inputs, reproducible

if TYPE_CHECKING:
    from encoders.mel import LogMelConfig

ROW_FRAMES = 1024
"""Frames of a row: a window is cut into rows, of which the last one is filled up with zeros."""


class TorchTransform:
    """Makes log-mel features on a device."""

    def __init__(
        self, config: LogMelConfig, window: np.ndarray, filters: np.ndarray, bins: slice, device: str, rows: int
    ) -> None:
        """`window` is float64 (window_samples,); `filters` are (num_mels, bins), of these `bins` of the transform."""
        import torch

        self._config, self._bins, self._device = config, bins, device
        self._window = torch.from_numpy(window).to(device)
        self._filters = torch.from_numpy(filters.T.astype(np.float64)).to(device)
        self._batches = Batches("logmel", rows, self._call, torch.cuda.empty_cache, blank=_blank)

    def __call__(self, sounds: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        """Features, float32 (tracks, frames, num_mels), of sounds, float32 (tracks, samples), each with its number of
        frames: frame t begins at sample t * hop_samples and is window_samples long."""
        hop, length = (
            self._config.hop_samples,
            (ROW_FRAMES - 1) * self._config.hop_samples + self._config.window_samples,
        )
        found, places, rows = [], [], []
        for sound, frames in sounds:
            features = np.empty((len(sound), frames, self._config.num_mels), np.float32)
            found.append(features)
            for track, out in zip(sound, features, strict=True):
                for first in range(0, frames, ROW_FRAMES):
                    given = track[first * hop : first * hop + length]
                    rows.append((np.pad(given, (0, length - len(given))),))
                    places.append(out[first : first + ROW_FRAMES])
        for place, made in zip(places, self._batches(rows), strict=True):
            place[:] = made[: len(place)]
        return found

    def _call(self, rows: Sequence[Inputs]) -> list[np.ndarray]:
        import torch

        on_gpu = self._device == "cuda"
        with torch.inference_mode(), reproducible(1, self._device):
            given = torch.from_numpy(np.stack([row[0] for row in rows]))
            if on_gpu:
                given = given.pin_memory().to(self._device, non_blocking=True)
            frames = given.double().unfold(-1, self._config.window_samples, self._config.hop_samples) * self._window
            spectra = torch.fft.rfft(frames, n=self._config.n_fft)[..., self._bins]
            mels = (spectra.abs() @ self._filters).clamp_min(self._config.floor).log().float()
            copied = torch.empty(mels.shape, pin_memory=on_gpu)
            return list(copied.copy_(mels).numpy())  # which waits for the GPU


def _blank(row: Inputs) -> Inputs:
    return tuple(np.zeros_like(part) for part in row)
