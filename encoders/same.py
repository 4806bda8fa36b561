"""SAME, the autoencoder of Stable Audio 3 (arXiv 2605.17991): 256 values at 10.8 Hz from stereo at 44.1 kHz."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from encoders.neural import NeuralConfig, NeuralEncoder
from encoders.reach import Layer, Reach, attention, reach

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SameConfig(NeuralConfig):
    """Settings of `Same`."""

    max_chunk_s: float = 15.0
    """Longer windows are cut into pieces of this many seconds: the attention's mask grows with the square of it."""


class Same(NeuralEncoder):
    """Latents of `AutoencoderSAME`. A track is given to both channels. Not causal, reach exact."""

    name: ClassVar[str] = "same"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers")
    config_class: ClassVar[type] = SameConfig
    model_type = "AutoencoderSAME"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, Reach]:
        told = self.told
        self.channels = told["audio_channels"]
        layers = [Layer(told["patch_size"], 0, told["patch_size"] - 1)]
        for stride, depth in zip(told["encoder_strides"], told["encoder_transformer_depths"], strict=True):
            # Attention is among the steps of a segment of `stride` and those of `sliding_window` segments on each side.
            layers.append(Layer(stride, 0, stride - 1))
            layers += [attention(told["sliding_window"], told["sliding_window"])] * depth
        return told["sampling_rate"], told["latent_dim"], reach(layers)

    def _whole(self) -> torch.nn.Module:
        from diffusers import AutoencoderSAME

        module: torch.nn.Module = AutoencoderSAME.from_pretrained(self.folder, low_cpu_mem_usage=False)
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
        latents: torch.Tensor = self.module.encode(sounds).latents
        return latents.transpose(1, 2)

    def _inverse(self, features: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self._decoder.decode(features.transpose(1, 2)).sample
        return sound
