"""Mimi, the codec of Moshi (arXiv 2410.00037), before its quantiser: 512 values at 12.5 Hz."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from encoders.neural import NeuralConfig, NeuralEncoder
from encoders.receptive_field import Layer, ReceptiveField, attention, causal, receptive_field, seanet
from runtime import typed

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MimiConfig(NeuralConfig):
    """Settings of `Mimi`."""

    look_back_s: float = 20.0
    """Sound before a window on which its frames may depend, seconds. The exact receptive field is the sum of the
    attention windows of all layers, 80 s with the published configuration. With 20 s instead, features change by less
    than `Mimi.tolerance` for random weights with strong attention, and by about 1e-6 for freshly initialised ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        typed.check_fields(self, at_least={"look_back_s": 0})


class Mimi(NeuralEncoder):
    """The input of Mimi's quantiser. Causal; `MimiConfig.look_back_s` limits the look-back."""

    name: ClassVar[str] = "mimi"
    version: ClassVar[int] = 1
    config_class: ClassVar[type] = MimiConfig
    model_type = "mimi"
    tolerance = 1e-3

    def _grid(self) -> tuple[int, int, ReceptiveField]:
        from transformers import MimiConfig

        config: Any = MimiConfig.from_pretrained(self.folder)
        exact = receptive_field(mimi_layers(config))
        limit = round(self.config.look_back_s * config.sampling_rate)
        return config.sampling_rate, config.latent_dim, exact._replace(back=min(exact.back, limit))

    def _load(self) -> torch.nn.Module:
        from transformers import MimiModel

        model: Any = MimiModel.from_pretrained(self.folder)
        module: torch.nn.Module = model.encoder
        return module

    def _load_decoder(self) -> torch.nn.Module:
        from transformers import MimiModel

        model: Any = MimiModel.from_pretrained(self.folder)
        module: torch.nn.Module | None = model.decoder
        if module is None:
            raise NotImplementedError(f"{self.folder} holds no decoder")
        return module

    def _forward(self, sounds: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = self.module(sounds).latents
        return latents.transpose(1, 2)

    def _inverse(self, features: torch.Tensor) -> torch.Tensor:
        sound: torch.Tensor = self._decoder(features.transpose(1, 2)).audio_values
        return sound


def mimi_layers(config: Any) -> list[Layer]:
    """Return the layers of an encoder with Mimi's architecture. ValueError if its convolutions are not causal."""
    if not config.use_causal_conv:
        raise ValueError(f"{config.model_type}: only models with use_causal_conv = true are supported")
    dilations = [config.dilation_growth_rate**number for number in range(config.num_residual_layers)]
    ratios = list(reversed(config.upsampling_ratios))
    return [
        *seanet(ratios, config.kernel_size, config.residual_kernel_size, config.last_kernel_size, dilations),
        *[attention(config.sliding_window - 1)] * config.num_hidden_layers,
        causal(2 * config.latent_stride, config.latent_stride),
    ]
