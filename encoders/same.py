"""SAME, the autoencoder of Stable Audio 3 (arXiv 2605.17991): 256 values at 10.8 Hz from stereo at 44.1 kHz."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from encoders.neural import NeuralConfig, NeuralEncoder
from encoders.receptive_field import Layer, ReceptiveField, attention, receptive_field

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SameConfig(NeuralConfig):
    """Settings of `Same`."""

    max_chunk_s: float = 15.0
    """Longer windows are cut into pieces of this many seconds. The attention mask grows with its square."""


class Same(NeuralEncoder):
    """Latents of `AutoencoderSAME`. The track is copied to both channels. Not causal; look-back and look-ahead are
    exact."""

    name: ClassVar[str] = "same"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("torch", "diffusers")
    config_class: ClassVar[type] = SameConfig
    model_type = "AutoencoderSAME"
    tolerance = 1e-4

    def _grid(self) -> tuple[int, int, ReceptiveField]:
        config = self.model_config
        self.channels = config["audio_channels"]
        layers = [Layer(config["patch_size"], 0, config["patch_size"] - 1)]
        for stride, depth in zip(config["encoder_strides"], config["encoder_transformer_depths"], strict=True):
            # A step attends to its own segment of `stride` steps and to `sliding_window` segments on each side.
            layers.append(Layer(stride, 0, stride - 1))
            layers += [attention(config["sliding_window"], config["sliding_window"])] * depth
        return config["sampling_rate"], config["latent_dim"], receptive_field(layers)

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
