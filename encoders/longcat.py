"""The autoencoder of LongCat AudioDiT: 64 values at 11.7 Hz from 24 kHz."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from encoders.neural import NeuralEncoder
from encoders.receptive_field import ReceptiveField, receptive_field, snake_stack

if TYPE_CHECKING:
    import torch


class LongCat(NeuralEncoder):
    """The posterior mean of `LongCatAudioDiTVae`, divided by the model's own scale.

    The model takes whole frames. If a recording ends within a frame, zeros are appended.
    """

    name: ClassVar[str] = "longcat"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers")
    model_type = "LongCatAudioDiTVae"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, ReceptiveField]:
        config = self.model_config
        multiples = [1] + (config["c_mults"] or [1, 2, 4, 8, 16])
        strides = list(config["strides"] or [2])
        strides = (strides + [strides[-1]] * len(multiples))[: len(multiples) - 1]
        self.channels = config["in_channels"]
        return config["sample_rate"], config["encoder_latent_dim"] // 2, receptive_field(snake_stack(strides))

    def _length(self, samples: int, frames: int) -> int:
        hop = self.hop_samples
        return max(-(-samples // hop), frames) * hop

    def _whole(self) -> torch.nn.Module:
        from diffusers import LongCatAudioDiTVae

        module: torch.nn.Module = LongCatAudioDiTVae.from_pretrained(self.folder, low_cpu_mem_usage=False)
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
        latents: torch.Tensor = self.module.encode(sounds, sample_posterior=False).latents
        return latents.transpose(1, 2)

    def _inverse(self, features: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self._decoder.decode(features.transpose(1, 2)).sample
        return sound
