"""Oobleck, the autoencoder of Stable Audio (arXiv 2407.14358): 64 values at 21.5 Hz from stereo at 44.1 kHz."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from encoders.neural import NeuralEncoder
from encoders.receptive_field import ReceptiveField, receptive_field, snake_stack

if TYPE_CHECKING:
    import torch


class Oobleck(NeuralEncoder):
    """The posterior mean of `AutoencoderOobleck`. The track is copied to both channels."""

    name: ClassVar[str] = "oobleck"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers")
    model_type = "AutoencoderOobleck"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, ReceptiveField]:
        self.channels = self.model_config["audio_channels"]
        dim = self.model_config["encoder_hidden_size"] // 2  # the other half is the standard deviation of the posterior
        return (
            self.model_config["sampling_rate"],
            dim,
            receptive_field(snake_stack(self.model_config["downsampling_ratios"])),
        )

    def _whole(self) -> torch.nn.Module:
        from diffusers import AutoencoderOobleck

        module: torch.nn.Module = AutoencoderOobleck.from_pretrained(self.folder, low_cpu_mem_usage=False)
        return module

    def _load(self) -> torch.nn.Module:
        module = self._whole()
        del module.decoder
        return module

    def _load_decoder(self) -> torch.nn.Module:
        module = self._whole()
        del module.encoder
        return module

    def _forward(self, sounds: torch.Tensor) -> torch.Tensor:
        mean: torch.Tensor = self.module.encode(sounds).latent_dist.mean
        return mean.transpose(1, 2)

    def _inverse(self, features: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self._decoder.decode(features.transpose(1, 2)).sample
        return sound
