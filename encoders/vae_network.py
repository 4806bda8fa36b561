"""The network of `encoders.vae`: causal convolutions from log-mel frames to normal distributions, and back."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoders.mel import LogMelConfig
from runtime.errors import SpeechmillError

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KERNEL = 3


@dataclass(frozen=True)
class VaeShape:
    """The shape of a network, stored as config.json beside its weights."""

    logmel: LogMelConfig = dataclasses.field(default_factory=LogMelConfig)
    """Layout of the log-mel features that are its input and its output."""
    stride: int = 4
    """Log-mel frames per latent."""
    dim: int = 16
    """Values of a latent."""
    width: int = 128
    """Channels of the convolutions."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Dilations of the residual blocks at the rate of the log-mel frames."""
    latent_dilations: tuple[int, ...] = (1, 2)
    """Dilations of the residual blocks at the rate of the latents."""

    def __post_init__(self) -> None:
        for name in ("stride", "dim", "width"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"vae: {name} must be a whole number of at least 1, not {getattr(self, name)!r}")

    @property
    def reach_frames(self) -> int:
        """Log-mel frames before those of a latent on which the latent depends."""
        at_frames = KERNEL - 1 + sum((KERNEL - 1) * (dilation + 1) for dilation in self.dilations)
        at_latents = sum((KERNEL - 1) * (dilation + 1) for dilation in self.latent_dilations)
        return at_frames + self.stride * (1 + at_latents)

    @property
    def shift_frames(self) -> int:
        """How many frames the log-mel input is delayed. A log-mel frame covers half a window after its centre, so
        without the delay a latent would depend on sound after its own hop."""
        return math.ceil(self.logmel.window_samples / 2 / self.logmel.hop_samples) - 1

    def to_json(self) -> str:
        """Return the content of config.json. Equal shapes give equal text."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, folder: Path) -> VaeShape:
        """Read the shape of the model in a folder. SpeechmillError if the folder holds no VAE."""
        try:
            values: dict[str, Any] = json.loads((folder / CONFIG).read_text())
            values["logmel"] = LogMelConfig(**values["logmel"])
            for name in ("dilations", "latent_dilations"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (OSError, TypeError, ValueError, KeyError) as error:
            raise SpeechmillError(
                f"{folder} holds no VAE: {CONFIG}: {error}", "name a folder that `speechmill encoder train` wrote"
            ) from error


def make(shape: VaeShape) -> torch.nn.Module:
    """Build the network, with weights drawn from torch's random generator.

    `encode(mel)` maps log-mel frames, (batch, num_mels, stride * n), to the means and log variances of their latents,
    each (batch, dim, n). `decode(latents)` maps latents back to log-mel frames. The buffers `mean` and `scale`,
    (num_mels, 1), normalise log-mel features to a mean of 0 and a variance of 1.
    """
    import torch
    from torch.nn import Conv1d, ConvTranspose1d, Module, Sequential
    from torch.nn.functional import gelu, pad

    class Causal(Module):
        """A convolution that sees no later input. It is padded on the left with zeros, the mean of its input."""

        def __init__(self, channels_in: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
            super().__init__()
            self.lead = (kernel - 1) * dilation - (stride - 1)
            self.conv = Conv1d(channels_in, channels, kernel, stride, dilation=dilation)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            convolved: torch.Tensor = self.conv(pad(x, (self.lead, 0)))
            return convolved

    class Residual(Module):
        def __init__(self, dilation: int) -> None:
            super().__init__()
            self.first = Causal(shape.width, shape.width, KERNEL, dilation=dilation)
            self.second = Causal(shape.width, shape.width, KERNEL)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.second(gelu(self.first(gelu(x))))

    class Vae(Module):
        mean: torch.Tensor
        scale: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            mels, width = shape.logmel.num_mels, shape.width
            self.register_buffer("mean", torch.zeros(mels, 1))
            self.register_buffer("scale", torch.ones(mels, 1))
            self.encoder = Sequential(
                Causal(mels, width, KERNEL),
                *map(Residual, shape.dilations),
                Causal(width, width, 2 * shape.stride, shape.stride),
                *map(Residual, shape.latent_dilations),
                Causal(width, 2 * shape.dim, 1),
            )
            self.decoder = Sequential(
                Causal(shape.dim, width, KERNEL),
                *map(Residual, shape.latent_dilations),
                ConvTranspose1d(width, width, shape.stride, shape.stride),
                *map(Residual, shape.dilations),
                Causal(width, mels, KERNEL),
            )

        def encode(self, mel: torch.Tensor, lead: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
            """Return means and log variances. `lead` frames equal to the mean are prepended to the input."""
            mean, log_variance = self.encoder(pad((mel - self.mean) / self.scale, (lead, 0))).chunk(2, dim=1)
            return mean, log_variance.clamp(-20, 10)

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            mel: torch.Tensor = self.decoder(latents) * self.scale + self.mean
            return mel

    return Vae()
