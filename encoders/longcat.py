"""The autoencoder of LongCat AudioDiT: 64 values at 11.7 Hz from 24 kHz."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from encoders.neural import NeuralEncoder
from encoders.reach import Reach, reach, snake_stack

if TYPE_CHECKING:
    import torch


class LongCat(NeuralEncoder):
    """The mean of the posterior of `LongCatAudioDiTVae`, over the model's own scale; its `encode` samples unless told
    not to. The model takes whole frames: where a recording ends within one, zeros make it whole."""

    name: ClassVar[str] = "longcat"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers")
    model_type = "LongCatAudioDiTVae"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, Reach]:
        told = self.told
        multiples = [1] + (told["c_mults"] or [1, 2, 4, 8, 16])
        strides = list(told["strides"] or [2])
        strides = (strides + [strides[-1]] * len(multiples))[: len(multiples) - 1]
        self.channels = told["in_channels"]
        return told["sample_rate"], told["encoder_latent_dim"] // 2, reach(snake_stack(strides))

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
